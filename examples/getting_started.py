"""Ten tasks on a pilot of this machine, from the session to the results."""

import pilotage as rp

if __name__ == "__main__":
    with rp.Session() as session:
        pilots = rp.PilotManager(session=session)
        tasks = rp.TaskManager(session=session)

        # A pilot takes two cores of this machine, for ten minutes at the most.
        pilot = pilots.submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=10))
        tasks.add_pilots(pilot)

        # What is alike is described once; only the arguments differ.
        submitted = tasks.submit_tasks([rp.TaskDescription(executable="/bin/date", arguments=["-u"]) for _ in range(10)])
        tasks.wait_tasks()

        for task in submitted:
            print(f"{task.uid}: {task.state}, exit code {task.exit_code}, {task.stdout.strip()}")
