"""E22: what tasks wait for between their events, on Titan."""

from __future__ import annotations

from pilotage.experiments.definition import Experiment, Findings, Measure, Panel, Point, Say, Value
from pilotage.experiments.simulations import SYSTEMS, WORDS_2021_TITAN, line, own, own_over, shares
from pilotage.experiments.titan import TASK_CORES, generations

TASKS = (512, 1024, 2048, 4096)
_RUNNING = "tasks that run"


def _events(quick: bool, say: Say) -> Findings:
    findings = Findings()
    for system in SYSTEMS:
        for tasks in TASKS[:2] if quick else TASKS:
            say(f"{system}: {tasks:,} tasks")
            cores = tasks * TASK_CORES
            result = generations(cores, tasks, system)
            spent = result.core_s
            # A task's time in a stage is the core-time spent there by its cores.
            for measure, core_s in (
                ("schedule", spent.scheduling + spent.waiting),
                ("prepare", spent.preparing),
                ("acknowledge", spent.acknowledging),
            ):
                findings.values.append(Value(measure, tasks, system, core_s / TASK_CORES / result.starts))
            findings.shares.append(shares(result, f"{tasks:,}/{cores:,}", system, WORDS_2021_TITAN))
            findings.lines.append(line(result, _RUNNING, f"{tasks:,} tasks", system, "running_tasks"))
            if system == "ideal":
                findings.values.append(own(result, tasks))
    return findings


def _measure(name: str, title: str, *points: Point) -> Measure:
    return Measure(name=name, title=title, unit="s", x="tasks", published=points, source="section IV-C" if points else "")


E22 = Experiment(
    uid="E22",
    title="What tasks wait for, event by event",
    paper="P21",
    place="section IV-C, figure 8",
    kind="simulated",
    takes="10 s",
    measures=(
        _measure(
            "prepare",
            "mean time from the launcher to the start of the program",
            *map(Point, TASKS, (37.0, 37.0, 35.0, 41.0), (9.0, 6.0, 8.0, 30.0)),
        ),
        _measure(
            "acknowledge",
            "mean time from the end of the program to its acknowledgement",
            *map(Point, TASKS, (29.0, 34.0, 59.0, 135.0), (16.0, 28.0, 46.0, 107.0)),
        ),
        _measure("schedule", "mean time from the first placement to the launcher"),
        own_over("tasks"),
    ),
    panels=(
        Panel(title="delays", measures=("schedule", "prepare", "acknowledge"), y_label="mean (s)"),
        Panel(title=_RUNNING, kind="time", y_label="tasks"),
    ),
    run=_events,
)
