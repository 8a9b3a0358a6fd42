"""Cancelling: one task, all tasks, and what a task may do before it goes."""

import pilotage as rp

if __name__ == "__main__":
    with rp.Session() as session:
        tasks = rp.TaskManager(session=session)
        tasks.add_pilots(
            rp.PilotManager(session=session).submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=10))
        )

        # TERM comes first; after `grace` seconds KILL.
        polite = tasks.submit_tasks(
            rp.TaskDescription(
                executable="/bin/bash", arguments=["-c", "trap 'echo saved; exit 0' TERM; sleep 600 & wait"], grace=5
            )
        )
        many = tasks.submit_tasks([rp.TaskDescription(executable="/bin/sleep", arguments=[600]) for _ in range(20)])
        polite.wait(rp.AGENT_EXECUTING)

        polite.cancel()
        print(f"{polite.wait()}: it said {polite.stdout.strip()!r}")
        tasks.cancel_tasks([task.uid for task in many[:5]])
        tasks.wait_tasks([task.uid for task in many[:5]])
        print(f"five of the others: {[task.state for task in many[:5]]}")
        tasks.cancel_tasks()
        print(f"and all: {set(tasks.wait_tasks())}")
