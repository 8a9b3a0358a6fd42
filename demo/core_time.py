"""Where the core-time of a pilot went, from the moment it was submitted to the moment it was gone.

At every instant each core of the pilot is in one state: the pilot starts or ends, the core runs a task of some stage, a
task is being launched on it, or it is free; and a free core either has a task that waits for it (an overhead of the
pilot) or has not (the campaign has nothing to run).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

PILOT_START = "pilot start"
LAUNCHING = "launching"
WAITING = "free, tasks waiting"
IDLE = "free, nothing to run"
PILOT_END = "pilot end"


@dataclass(frozen=True)
class TaskSpan:
    """When a task passed its stations, in seconds since the epoch."""

    stage: str
    cores: int
    accepted: float
    launched: float
    started: float
    ended: float


@dataclass(frozen=True)
class PilotSpan:
    """When a pilot was submitted, became active, had its last task done and was gone, in seconds since the epoch."""

    cores: int
    submitted: float
    active: float
    finished: float
    gone: float


@dataclass(frozen=True)
class CoreTime:
    """Cores in each state (`cores[state]`, one value per interval) between the moments `edges`, in seconds."""

    edges: Array
    cores: dict[str, Array]

    def core_seconds(self) -> dict[str, float]:
        """Return the core-seconds spent in each state."""
        lengths = np.diff(self.edges)
        return {state: float(cores @ lengths) for state, cores in self.cores.items()}


def stage_of(name: str) -> str:
    """Return the stage of a task from its name, which the campaign writes as 'stage: what it does'."""
    return name.partition(":")[0]


def task_spans(tasks: Iterable[Any]) -> list[TaskSpan]:
    """Return the spans of the tasks that ran, from the task handles of Pilotage; each of them held one core."""
    return [
        TaskSpan(stage_of(task.name), 1, times.accepted, times.launched, times.started, times.ended)
        for task in tasks
        if (times := task.times).started and times.ended
    ]


def core_time(pilot: PilotSpan, tasks: Sequence[TaskSpan]) -> CoreTime:
    """Return how many of the pilot's cores were in which state, over its whole life; seconds count from its submission.

    Each interval's states add up to all cores.
    """
    moments = {pilot.submitted, pilot.active, pilot.finished, pilot.gone}
    for task in tasks:
        moments |= {task.accepted, task.launched, task.started, task.ended}
    edges = np.array(sorted(moment for moment in moments if pilot.submitted <= moment <= pilot.gone))
    middles = (edges[:-1] + edges[1:]) / 2.0

    def cores_between(spans: Iterable[tuple[float, float, int]]) -> Array:
        total = np.zeros(len(middles))
        for start, end, cores in spans:
            total += cores * ((middles >= start) & (middles < end))
        return total

    states: dict[str, Array] = {PILOT_START: cores_between([(pilot.submitted, pilot.active, pilot.cores)])}
    for stage in dict.fromkeys(task.stage for task in tasks):
        states[stage] = cores_between((task.started, task.ended, task.cores) for task in tasks if task.stage == stage)
    states[LAUNCHING] = cores_between((task.launched, task.started, task.cores) for task in tasks)
    states[PILOT_END] = cores_between([(pilot.finished, pilot.gone, pilot.cores)])
    free = np.maximum(pilot.cores - sum(states.values()), 0.0)
    wanted = cores_between((task.accepted, task.launched, task.cores) for task in tasks)
    states[WAITING] = np.minimum(free, wanted)
    states[IDLE] = free - states[WAITING]
    return CoreTime(edges - pilot.submitted, states)


def render_table(spent: CoreTime) -> str:
    """Return a table of core-seconds and their share, one line for each state."""
    seconds = spent.core_seconds()
    total = sum(seconds.values())
    lines = [f"{'where the time went':<24}{'core-seconds':>14}{'percent':>10}"]
    lines += [f"{state:<24}{value:14.2f}{100.0 * value / total:10.1f}" for state, value in seconds.items()]
    lines.append(f"{'total':<24}{total:14.2f}{100.0:10.1f}")
    return "\n".join(lines)
