"""Shell commands before and after a program, in the same shell; for all ranks, or for some of them."""

import pilotage as rp

if __name__ == "__main__":
    with rp.Session() as session:
        tasks = rp.TaskManager(session=session)
        tasks.add_pilots(
            rp.PilotManager(session=session).submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=10))
        )

        task = tasks.submit_tasks(
            rp.TaskDescription(
                executable="/bin/sh",
                arguments=["-c", "echo rank $PILOTAGE_RANK has $WHAT"],
                ranks=2,
                use_mpi=False,
                pre_launch=["echo before all ranks"],
                pre_exec=["export WHAT=nothing", {0: "export WHAT=data", 1: ["export WHAT=more", "export WHAT=$WHAT-data"]}],
                post_exec=["echo rank $PILOTAGE_RANK is done"],
                post_launch="echo after all ranks",
            )
        )
        # A hook that fails fails the task, and says which one it was.
        wrong = tasks.submit_tasks(rp.TaskDescription(executable="/bin/true", pre_exec=["cd /no/such/folder"]))
        tasks.wait_tasks()
        print(task.stdout, end="")
        print(f"{wrong.state}: {wrong.exception}")
