"""How tasks are spread over pilots and placed on nodes: late binding, priorities, groups on one node, whole nodes."""

import pilotage as rp

if __name__ == "__main__":
    with rp.Session() as session:
        # Late: tasks wait until the pilot is active and has room. SCHEDULER_ROUND_ROBIN binds them in turn, and at once.
        tasks = rp.TaskManager(session=session, scheduler=rp.SCHEDULER_BACKFILLING)
        pilot = rp.PilotManager(session=session).submit_pilots(
            rp.PilotDescription(resource="local.emulated", nodes=3, cores_per_node=4, runtime=10)
        )
        tasks.add_pilots(pilot)

        where = ["-c", "echo $PILOTAGE_NODE"]
        group = [rp.TaskDescription(executable="/bin/sh", arguments=where, tags={"colocate": "pair"}) for _ in range(2)]
        alone = rp.TaskDescription(executable="/bin/sh", arguments=where, tags={"exclusive": True})
        urgent = rp.TaskDescription(executable="/bin/sh", arguments=where, priority=10)
        spread = rp.TaskDescription(executable="/bin/sh", arguments=where, ranks=3, ranks_per_node=1, use_mpi=False)

        submitted = tasks.submit_tasks([*group, alone, urgent, spread])
        tasks.wait_tasks()
        print(f"the two of a group: {submitted[0].stdout.strip()}, {submitted[1].stdout.strip()}")
        print(f"one with a node of its own: {submitted[2].stdout.strip()}; the urgent one: {submitted[3].stdout.strip()}")
        print(f"three ranks on three nodes: {sorted(submitted[4].stdout.split())}")
