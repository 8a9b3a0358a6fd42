"""Files that a task reads: copied or linked into its sandbox before it starts."""

from pathlib import Path

import pilotage as rp

if __name__ == "__main__":
    Path("input.dat").write_text("2 3 5 7 11\n")

    with rp.Session() as session:
        tasks = rp.TaskManager(session=session)
        tasks.add_pilots(
            rp.PilotManager(session=session).submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=10))
        )

        submitted = tasks.submit_tasks(
            [
                # The short form: the file of this folder, under the same name in the task's sandbox.
                rp.TaskDescription(executable="/bin/cat", arguments=["input.dat"], input_staging=["input.dat"]),
                # Under another name.
                rp.TaskDescription(executable="/bin/cat", arguments=["numbers"], input_staging="input.dat > numbers"),
                # In full, as a link: large files need not be copied.
                rp.TaskDescription(
                    executable="/bin/cat",
                    arguments=["data/numbers"],
                    input_staging={"source": "client:///input.dat", "target": "task:///data/numbers", "action": rp.LINK},
                ),
            ]
        )
        tasks.wait_tasks()
        for task in submitted:
            print(f"{task.uid}: {task.state}, read {task.stdout.strip()!r}")
