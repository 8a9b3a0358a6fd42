"""A campaign that sizes its next tasks by what is free, and is filled up to 102 on 128 nodes whenever fewer are left.

The floor and the machine are those of a published drug-discovery campaign: simulations of four GPUs, two to a node, with
inference on one GPU each wherever something is left. Nothing is really run here: each task takes half a second of nothing.
"""

import pilotage as rp

FLOOR = 102
ENOUGH = 1500


class Campaign:
    """Decides what to run next; a real one would look at results, or ask a model."""

    def __init__(self):
        self.given = 0
        self.seen = []

    def more(self, resources):
        """Return the next tasks: large ones on idle nodes, small ones on single GPUs; None when there are enough."""
        if self.given >= ENOUGH:
            return None
        large = min(2 * resources.idle_nodes, resources.missing)
        small = max(int(resources.free_gpus) - 4 * large, resources.missing - large, 0)
        self.given += large + small
        self.seen.append((resources.idle_nodes, resources.free_gpus, resources.waiting, resources.missing))
        return [
            *(
                rp.TaskDescription(name="simulation", executable="md", ranks=4, cores_per_rank=7, gpus_per_rank=1)
                for _ in range(large)
            ),
            *(
                rp.TaskDescription(name="inference", executable="infer", cores_per_rank=7, gpus_per_rank=1)
                for _ in range(small)
            ),
        ]


if __name__ == "__main__":
    with rp.Session() as session:
        pilot = rp.PilotManager(session).submit_pilots(
            rp.PilotDescription(
                resource="local.emulated",
                nodes=128,
                cores_per_node=56,
                gpus_per_node=8,
                runtime=30,
                executor="simulated",
                simulated_duration_s=0.5,
            )
        )
        tasks = rp.TaskManager(session)
        tasks.add_pilots(pilot)
        pilot.wait(rp.PMGR_ACTIVE)
        print(f"to begin with: {tasks.resources().idle_nodes} idle nodes, {tasks.resources().free_gpus:g} free GPUs")

        campaign = Campaign()
        adaptation = tasks.adapt(campaign.more, floor=FLOOR, every_s=0.1)
        adaptation.wait()
        done = sum(task.state == rp.DONE for task in adaptation.tasks)
        print(
            f"{done == campaign.given >= ENOUGH}: all that was asked for is done, {done:,} tasks in {len(campaign.seen)} rounds"
        )
        print(f"at first {campaign.seen[0][3]} tasks were missing to the floor")
