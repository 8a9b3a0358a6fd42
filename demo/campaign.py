#!/usr/bin/env python3
"""An adaptive campaign on one pilot: the density of water against temperature, and the packing of lipids.

Round 1 samples water at a few temperatures. Its analysis says where the density curve is least certain, and round 2
samples there. Molecular dynamics runs as executables, the analysis as Python functions, both on the same pilot. The
lipids have a lower priority: they fill the cores that the rounds leave free.

    python demo/campaign.py --cores 2 --output demo-output
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import analysis
import core_time
import plots
from lipid_patch import LIPIDS

import pilotage as rp
from pilotage.analytics.plots import plot_utilisation
from pilotage.trace import read_session

HERE = Path(__file__).resolve().parent

ROUND_1_KELVIN = (280.0, 325.0, 370.0)
ROUND_1_REPLICAS = 2
ROUND_2_REPLICAS = 8
CANDIDATES_KELVIN = tuple(float(kelvin) for kelvin in range(275, 371, 5))
ROOM_KELVIN = 298.15


class Campaign:
    """The tasks of one run: describes and submits them, waits for them, tells of each that ended."""

    def __init__(self, tasks: rp.TaskManager, output: Path, steps: int, molecules: int) -> None:
        self.output = output
        self._tasks = tasks
        self._steps = steps
        self._molecules = molecules
        self._ended = 0
        self._began = time.monotonic()
        tasks.register_callback(self._tell)

    def submit_lipids(self) -> list[rp.Task]:
        """Submit one executable for each kind of lipid, to run where nothing else wants to."""
        return self._submit(
            rp.TaskDescription(
                name=f"lipids: {lipid}",
                executable=sys.executable,
                arguments=[str(HERE / "lipid_patch.py"), "--lipid", lipid, "--output", str(self._lipid_file(lipid))],
                priority=-1,
            )
            for lipid in LIPIDS
        )

    def sample_water(self, round_number: int, temperatures_kelvin: Sequence[float]) -> list[analysis.ReplicaSummary]:
        """Run one replica at each of the temperatures, then summarise them; return the summaries."""
        files = []
        descriptions = []
        for number, kelvin in enumerate(temperatures_kelvin, start=1):
            # The seed tells replicas apart; the rounds must not repeat each other's.
            seed = 100 * round_number + number
            files.append(self.output / "samples" / f"water_{kelvin:g}K_{seed}.npz")
            descriptions.append(
                rp.TaskDescription(
                    name=f"round {round_number}: water at {kelvin:g} K, seed {seed}",
                    executable=sys.executable,
                    arguments=[
                        str(HERE / "water_replica.py"),
                        "--temperature-kelvin", str(kelvin),
                        "--seed", str(seed),
                        "--steps", str(self._steps),
                        "--equilibration-steps", str(self._steps // 4),
                        "--molecules", str(self._molecules),
                        "--output", str(files[-1]),
                    ],
                )
            )  # fmt: skip
        self.wait(self._submit(descriptions))
        calls = [self._describe(analysis.summarise_replica, f"summary of {path.name}", str(path)) for path in files]
        return [task.result() for task in self.wait(self._submit(calls))]

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run one function on the pilot; return its result."""
        (task,) = self.wait(self._submit([self._describe(function, function.__name__, *args)]))
        return task.result()

    def compare_lipids(self) -> list[analysis.LipidPacking]:
        """Return what the lipid tasks found."""
        packings: list[analysis.LipidPacking] = self.call(
            analysis.compare_lipids, [str(self._lipid_file(lipid)) for lipid in LIPIDS]
        )
        return packings

    def wait(self, tasks: Sequence[rp.Task]) -> Sequence[rp.Task]:
        """Wait for `tasks` and return them. A figure made of half the samples helps nobody: any failure ends the run."""
        self._tasks.wait_tasks([task.uid for task in tasks])
        for task in tasks:
            if task.state != rp.DONE:
                raise SystemExit(f"{task.name}: {task.state}: {task.exception}\n{task.stderr or ''}")
        return tasks

    def _describe(self, function: Callable[..., Any], what: str, *args: Any) -> rp.TaskDescription:
        return rp.TaskDescription(name=f"analysis: {what}", mode=rp.TASK_FUNCTION, function=function, args=args)

    def _lipid_file(self, lipid: str) -> Path:
        return self.output / "samples" / f"lipid_{lipid}.json"

    def _submit(self, descriptions: Any) -> list[rp.Task]:
        tasks: list[rp.Task] = self._tasks.submit_tasks(list(descriptions))
        return tasks

    def _tell(self, task: rp.Task, state: str) -> None:
        if state in rp.FINAL:
            self._ended += 1
            since = time.monotonic() - self._began
            took = task.times.ended - task.times.started
            print(f"{since:6.1f} s  {self._ended:3d} ended  {state:<8} in {took:5.1f} s  {task.name}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=2, help="of the pilot")
    parser.add_argument("--steps", type=int, default=5000, help="that each replica of water is sampled for")
    parser.add_argument("--molecules", type=int, default=216, help="of water in each replica")
    parser.add_argument("--output", type=Path, default=Path("demo-output"))
    options = parser.parse_args()
    output = options.output.resolve()
    (output / "samples").mkdir(parents=True, exist_ok=True)

    with rp.Session() as session:
        pilots = rp.PilotManager(session=session)
        tasks = rp.TaskManager(session=session)
        pilot = pilots.submit_pilots(rp.PilotDescription(resource="local.localhost", cores=options.cores, runtime=30))
        tasks.add_pilots(pilot)
        pilot.wait(state=rp.PMGR_ACTIVE)

        campaign = Campaign(tasks, output, options.steps, options.molecules)
        lipids = campaign.submit_lipids()
        first = campaign.sample_water(1, sorted(ROUND_1_KELVIN * ROUND_1_REPLICAS))
        chosen = campaign.call(analysis.choose_temperatures, first, CANDIDATES_KELVIN, ROUND_2_REPLICAS)
        print(f"round 1 leaves most to learn at {', '.join(f'{kelvin:g}' for kelvin in chosen)} K", flush=True)
        second = campaign.sample_water(2, chosen)
        points = campaign.call(analysis.combine, [*first, *second])
        expansion = campaign.call(analysis.thermal_expansion, points, ROOM_KELVIN)
        campaign.wait(lipids)
        packings = campaign.compare_lipids()

    # The session is over; its logs tell what every core did.
    spent = core_time.core_time_by_stage(read_session(session.path))
    report(output, (first, second), points, expansion, packings, spent)


def report(
    output: Path,
    rounds: Sequence[Sequence[analysis.ReplicaSummary]],
    points: Sequence[analysis.Point],
    expansion: analysis.Expansion,
    packings: Sequence[analysis.LipidPacking],
    spent: core_time.CoreTime,
) -> None:
    """Draw the figures, write the numbers, print the tables."""
    plots.plot_water(output / "water.png", rounds, points)
    plots.plot_lipids(output / "lipids.png", packings)
    plot_utilisation(spent, output / "utilisation.png")
    results = {
        "rounds": [[asdict(replica) for replica in replicas] for replicas in rounds],
        "points": [asdict(point) for point in points],
        "expansion": asdict(expansion),
        "lipids": [asdict(packing) for packing in packings],
        "pilot_cores": spent.capacity,
        "pilot_seconds": spent.end - spent.begin,
        "core_seconds": core_time.core_seconds(spent),
    }
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")

    print(f"\n{'T (K)':>7}{'replicas':>10}{'density (g/cm3)':>22}{'energy (kJ/mol)':>22}")
    for point in points:
        density = f"{point.density_g_per_cm3:.4f} +- {point.density_error:.4f}"
        potential = f"{point.potential_kj_per_mol:.2f} +- {point.potential_error:.2f}"
        print(f"{point.temperature_kelvin:7g}{point.replicas:10d}{density:>22}{potential:>22}")
    print(
        f"\nthermal expansion at {expansion.temperature_kelvin:g} K: "
        f"({1e4 * expansion.per_kelvin:.1f} +- {1e4 * expansion.error:.1f}) x 1e-4 per K"
    )
    print(f"\n{core_time.render_table(spent)}")
    print(f"\nwater.png, lipids.png, utilisation.png, results.json and the samples are in {output}")


if __name__ == "__main__":
    main()
