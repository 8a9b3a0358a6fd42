"""MPI: an executable on several ranks, and a Python function that gets a communicator. Needs an mpiexec and mpi4py."""

import sys

import pilotage as rp

PROGRAM = """
from mpi4py import MPI
world = MPI.COMM_WORLD
total = world.allreduce(world.rank)
if world.rank == 0:
    print(f"{world.size} ranks, and the sum of their numbers is {total}")
"""


def mean(comm, values):
    mine = values[comm.rank :: comm.size]
    return comm.allreduce(sum(mine)) / len(values)


if __name__ == "__main__":
    with rp.Session() as session:
        tasks = rp.TaskManager(session=session)
        tasks.add_pilots(
            rp.PilotManager(session=session).submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=10))
        )

        executable = tasks.submit_tasks(rp.TaskDescription(executable=sys.executable, arguments=["-c", PROGRAM], ranks=2))
        function = tasks.submit_tasks(rp.TaskDescription(function=mean, args=[[1, 2, 3, 4]], ranks=2))
        tasks.wait_tasks()
        print(executable.stdout.strip())
        print(f"the mean, by two ranks of a function: {function.result()}")
