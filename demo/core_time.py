"""Where the core-time of the pilot went, from its launch to its end, read from the logs of the session.

Pilotage's trace says what each core did at each moment; here running tasks are told apart by the stage of the campaign.
"""

from __future__ import annotations

from pilotage.trace import Run
from pilotage.trace.usage import RUNNING, TICKS_PER_S, CoreTime, core_time


def stage_of(name: str) -> str:
    """Return the stage of a task from its name, which the campaign writes as 'stage: what it does'."""
    return name.partition(":")[0]


def core_time_by_stage(run: Run) -> CoreTime:
    """Return how many of the pilot's cores were in which state, with running tasks by stage."""
    return core_time(run, labels=[stage_of(name) for name in run.tasks.name])


def core_seconds(spent: CoreTime) -> dict[str, float]:
    """Return the core-seconds spent in each state and stage; they add up to all cores over the life of the pilot."""
    return {state.removeprefix(f"{RUNNING}: "): ticks / TICKS_PER_S for state, ticks in spent.ticks.items()}


def render_table(spent: CoreTime) -> str:
    """Return a table of core-seconds and their share, one line for each state."""
    seconds = core_seconds(spent)
    total = spent.held_ticks / TICKS_PER_S
    lines = [f"{'where the time went':<24}{'core-seconds':>14}{'percent':>10}"]
    lines += [f"{state:<24}{value:14.2f}{100.0 * value / total:10.1f}" for state, value in seconds.items()]
    lines.append(f"{'total':<24}{total:14.2f}{100.0:10.1f}")
    return "\n".join(lines)
