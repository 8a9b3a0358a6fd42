"""A campaign that follows its results: simulate, look, decide where to simulate next."""

import random

import pilotage as rp


def simulate(x, seed):
    """Stand in for an expensive simulation: a noisy function whose minimum is sought."""
    return (x - 0.7) ** 2 + random.Random(seed).gauss(0, 0.001)


if __name__ == "__main__":
    with rp.Session() as session:
        tasks = rp.TaskManager(session=session)
        tasks.add_pilots(
            rp.PilotManager(session=session).submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=10))
        )

        low, high, seed = 0.0, 1.0, 0
        while high - low > 0.01:
            points = [low + (high - low) * i / 8 for i in range(9)]
            simulations = tasks.submit_tasks(
                [rp.TaskDescription(function=simulate, args=[x, seed + i]) for i, x in enumerate(points)]
            )
            values = [task.result() for task in simulations]
            seed += len(points)
            best = values.index(min(values))
            low, high = points[max(best - 2, 0)], points[min(best + 2, 8)]
            print(f"between {low:.3f} and {high:.3f}, best so far {min(values):.4f}")
        print(f"found: {0.5 * (low + high):.2f}")
