"""One large input for many tasks: staged to the pilot once, linked by each task."""

from pathlib import Path

import pilotage as rp

if __name__ == "__main__":
    Path("shared.dat").write_text("the same for all\n")

    with rp.Session() as session:
        tasks = rp.TaskManager(session=session)
        pilot = rp.PilotManager(session=session).submit_pilots(
            rp.PilotDescription(resource="local.localhost", cores=2, runtime=10)
        )
        tasks.add_pilots(pilot)

        pilot.stage_in({"source": "client:///shared.dat", "target": "pilot:///shared.dat", "action": rp.TRANSFER})

        submitted = tasks.submit_tasks(
            [
                rp.TaskDescription(
                    executable="/bin/sh",
                    arguments=["-c", f"echo {i}: $(cat shared.dat)"],
                    input_staging={"source": "pilot:///shared.dat", "target": "task:///shared.dat", "action": rp.LINK},
                )
                for i in range(8)
            ]
        )
        tasks.wait_tasks()
        print("".join(task.stdout for task in submitted), end="")
