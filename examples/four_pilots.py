"""Four pilots of 1,024 nodes in place of one of 4,096: dealt to in turn, and each ends when it has no more to do.

A large job waits long in the queue, and holds all of its nodes until its last task ends. Four smaller ones start one by one,
work at once, and end one by one. Nothing is really run here: each task takes a second of nothing.
"""

from collections import Counter

import pilotage as rp

NODES = 1024

if __name__ == "__main__":
    with rp.Session() as session:
        pilots = rp.PilotManager(session).submit_pilots(
            [
                rp.PilotDescription(
                    resource="local.emulated",
                    nodes=NODES,
                    cores_per_node=16,
                    gpus_per_node=1,
                    runtime=30,
                    executor="simulated",
                    simulated_duration_s=1.0,
                    idle_timeout_s=5.0,
                )
                for _ in range(4)
            ]
        )
        # Bound at once, whether a pilot has left the queue yet or not; rp.SCHEDULER_BACKFILLING waits for those that have.
        tasks = rp.TaskManager(session, scheduler=rp.SCHEDULER_ROUND_ROBIN)
        tasks.add_pilots(pilots)

        submitted = tasks.submit_tasks(
            [rp.TaskDescription(executable="simulate", ranks=4, cores_per_rank=4, gpus_per_rank=0.25) for _ in range(8 * NODES)]
        )
        tasks.wait_tasks()
        print(f"{Counter(task.state for task in submitted)['DONE']:,} tasks are done")
        print(f"tasks of each pilot: {sorted(Counter(task.pilot for task in submitted).values())}")
        for pilot in pilots:
            pilot.wait(timeout=60)
            print(f"{pilot.uid}: {pilot.state}, {pilot.reason}")
