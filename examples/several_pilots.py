"""Several pilots for one manager: tasks go to whichever has room, and may ask for one by name."""

from collections import Counter

import pilotage as rp

if __name__ == "__main__":
    with rp.Session() as session:
        tasks = rp.TaskManager(session=session)
        pilots = rp.PilotManager(session=session).submit_pilots(
            [
                rp.PilotDescription(uid="small", resource="local.emulated", cores=1, runtime=10),
                rp.PilotDescription(uid="large", resource="local.emulated", cores=4, runtime=10),
            ]
        )
        tasks.add_pilots(pilots)

        anywhere = tasks.submit_tasks([rp.TaskDescription(executable="/bin/sleep", arguments=[0.05]) for _ in range(50)])
        # Four cores at once are to be had in one of them only.
        wide = tasks.submit_tasks(rp.TaskDescription(executable="/bin/true", cores_per_rank=4))
        by_name = tasks.submit_tasks(rp.TaskDescription(executable="/bin/true", pilot="small"))
        tasks.wait_tasks()

        print(f"tasks per pilot: {dict(Counter(task.pilot for task in anywhere))}")
        print(f"the wide one ran on {wide.pilot}, the one that asked for it on {by_name.pilot}")
