"""What came of a simulation, as text for people and as a document for programs."""

from __future__ import annotations

import math
import sys
from textwrap import fill
from typing import Any

import msgspec

from pilotage.cli.renderers import Column, Format, plural, print_rows, span
from pilotage.model.outcome import Ending
from pilotage.sim.advice import Advice
from pilotage.sim.plans import Trialled
from pilotage.sim.result import ResourceTime

_WIDTH = 100
_BAR_CHARACTERS = 30
_HOUR_S = 3600.0

PARTS = {
    "running": "tasks run",
    "startup": "the launcher comes up",
    "scheduling": "tasks are scheduled",
    "waiting": "tasks wait for the launcher",
    "preparing": "tasks come up",
    "acknowledging": "the end of tasks is noticed",
    "idle": "idle",
    "lost": "lost with nodes",
}
"""The parts of core-time, in the order in which they are told, with what they are."""

COMPARED = (
    Column("plan", "PLAN"),
    Column("machine", "MACHINE"),
    Column("nodes", "NODES", right=True),
    Column("launcher", "LAUNCHER"),
    Column("makespan_s", "MAKESPAN", right=True, kind="span"),
    Column("cores_used", "CORES USED", right=True),
    Column("gpus_used", "GPUS USED", right=True),
    Column("core_hours", "CORE-HOURS", right=True),
    Column("starts_per_s", "STARTS/S", right=True),
    Column("median_wait_s", "MEDIAN WAIT", right=True, kind="span"),
    Column("not_done", "NOT DONE", right=True),
    Column("limit", "LIMITED BY"),
)


def print_run(run: Trialled, advice: Advice) -> None:
    """Print how long a run took, where the core-time went, and what limits it."""
    trial, result, demand = run.trial, run.result, run.demand
    least = demand.least_makespan_s(trial.nodes, trial.machine.shape)
    busiest = max(result.series.starts_per_s, default=0.0)
    parts = max(trial.pilots, len(trial.partitions))
    divided = f" in {plural(parts, 'partition' if trial.partitions else 'pilot')}" if parts > 1 else ""
    print(
        f"{trial.workload.name} on {plural(trial.nodes, 'node')} of {trial.machine.name}{divided}, "
        f"started by {trial.started_by}: {plural(demand.tasks, 'task')}, {_ends(run)}"
    )
    lines = {
        "makespan": f"{span(result.makespan_s)}{_least(least)}",
        "cores used": f"{result.utilization:.1%} of {_hours(result.core_s.offered)} core-hours",
        "running": f"{result.most_at_once:,} at a time at the most",
        "started": f"{_rate(result.starts_per_s)} per second, {_rate(busiest)} in the busiest {span(result.series.width_s)}",
        "waited": (
            f"{span(result.waits.median_s)} in the median, {span(result.waits.mean_s)} on average, "
            f"95 % up to {span(result.waits.most_but_5_percent_s)}, {span(result.waits.most_s)} at the most"
        ),
    }
    if demand.gpu_s:
        lines["GPUs used"] = f"{result.gpu_utilization:.1%} of {_hours(result.gpu_s.offered)} GPU-hours"
    if result.nodes_lost or result.agent_deaths or result.links_broken:
        lost = (("node", result.nodes_lost), ("agent", result.agent_deaths), ("link", result.links_broken))
        lines["lost"] = ", ".join(plural(count, what) for what, count in lost if count)
    print()
    width = max(map(len, lines))
    for title, line in lines.items():
        print(f"{title:<{width}}  {line}")
    _print_time("cores", result.core_s)
    if demand.gpu_s:
        _print_time("GPUs", result.gpu_s)
    if len(result.partitions) > 1:
        _print_partitions(run)
    print()
    begin = "Limited by little" if advice.limit == "nothing" else f"Limited by {_limit(advice)}"
    print(fill(f"{begin}: {advice.text}.", _WIDTH))


def as_document(run: Trialled, advice: Advice) -> dict[str, Any]:
    """Return all numbers of a run, and what was run."""
    trial, result = run.trial, run.result
    return {
        "plan": trial.name,
        "workload": trial.workload.name,
        "machine": msgspec.to_builtins(trial.machine),
        "nodes": trial.nodes,
        "launchers": msgspec.to_builtins(trial.launchers, str_keys=True),
        "scheduler": msgspec.to_builtins(trial.scheduler),
        "pilots": trial.pilots,
        "partitions": msgspec.to_builtins(trial.partitions),
        "faults": msgspec.to_builtins(trial.faults),
        "walltime_s": trial.walltime_s,
        "demand": msgspec.to_builtins(run.demand),
        "least_makespan_s": run.demand.least_makespan_s(trial.nodes, trial.machine.shape),
        "utilization": result.utilization,
        "gpu_utilization": result.gpu_utilization,
        "starts_per_s": result.starts_per_s,
        "advice": msgspec.to_builtins(advice),
        "result": {
            **{field: msgspec.to_builtins(getattr(result, field)) for field in result.__struct_fields__ if field != "outcomes"},
            "outcomes": {ending.name: count for ending, count in result.outcomes.items()},
        },
    }


def compared(run: Trialled, advice: Advice) -> dict[str, Any]:
    """Return a run as a line of a table."""
    trial, result = run.trial, run.result
    return {
        "plan": trial.name,
        "machine": trial.machine.name,
        "nodes": f"{trial.nodes:,}",
        "launcher": trial.started_by,
        "makespan_s": result.makespan_s,
        "cores_used": f"{result.utilization:.1%}",
        "gpus_used": f"{result.gpu_utilization:.1%}" if run.demand.gpu_s else "",
        "core_hours": _hours(result.core_s.offered),
        "starts_per_s": _rate(result.starts_per_s),
        "median_wait_s": result.waits.median_s,
        "not_done": f"{run.demand.tasks - result.outcomes.get(Ending.DONE, 0):,}",
        "limit": _limit(advice),
    }


def _ends(run: Trialled) -> str:
    result, left = run.result, run.demand.tasks - sum(run.result.outcomes.values())
    parts = [f"{count:,} {ending.name.lower().replace('_', ' ')}" for ending, count in result.outcomes.items() if count]
    if left > 0:
        parts.append(f"{left:,} not submitted")
    return ", ".join(parts) or "none ended"


def _print_time(what: str, time: ResourceTime) -> None:
    if not time.offered:
        return
    full = "█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
    rows = []
    for part, text in PARTS.items():
        amount = max(0.0, getattr(time, part))  # what is left in the books after rounding is nothing
        share = amount / time.offered
        if share >= 0.0005 or part in ("running", "idle"):
            bar = full * round(share * _BAR_CHARACTERS)
            rows.append({"what": text, "hours": _hours(amount), "share": f"{share:.1%}", "bar": bar})
    columns = (
        Column("what", f"TIME OF {what.upper()}"),
        Column("hours", "HOURS", right=True),
        Column("share", "SHARE", right=True),
        Column("bar", ""),
    )
    print()
    print_rows("parts", rows, columns, Format.TABLE)


def _print_partitions(run: Trialled) -> None:
    rows = [
        {
            "name": each.name,
            "launcher": run.trial.launcher_of(each.name).name,
            "nodes": f"{each.nodes:,}",
            "starts": f"{each.starts:,}",
            "cores": f"{each.core_s.utilization:.1%}",
        }
        for each in run.result.partitions
    ]
    columns = (
        Column("name", "NAME"),
        Column("launcher", "LAUNCHER"),
        Column("nodes", "NODES", right=True),
        Column("starts", "STARTED", right=True),
        Column("cores", "CORES USED", right=True),
    )
    print()
    print_rows("partitions", rows, columns, Format.TABLE)


def _limit(advice: Advice) -> str:
    return advice.limit if advice.limit == "nothing" else f"{advice.limit} ({advice.share:.0%})"


def _least(seconds: float) -> str:
    """Return how short it could be; nothing if that says nothing: tasks take no time, or some can never run."""
    return f", {span(seconds)} at best on these nodes" if 0.0 < seconds < math.inf else ""


def _hours(seconds: float) -> str:
    return f"{seconds / _HOUR_S:,.0f}" if seconds >= 100 * _HOUR_S else f"{seconds / _HOUR_S:.3g}"


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"
