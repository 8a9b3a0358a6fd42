"""What limits a run, and what to do about it, in one sentence."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from pilotage.model.outcome import Ending
from pilotage.sim.model import Launcher
from pilotage.sim.plans import Trialled
from pilotage.sim.result import PartitionResult, ResourceTime

Limit = Literal[
    "nothing",
    "requests",
    "startup",
    "scheduling",
    "launcher ceiling",
    "launcher rate",
    "preparation",
    "acknowledgement",
    "losses",
    "division",
    "arrival",
    "size",
    "tail",
    "largest task",
    "packing",
]

GOOD = 0.95
"""From this share of running on there is little to gain."""

_LARGE = 0.25
_UNLIKE = 0.4
_BUSY = 0.9
_CEILING = 0.98


class Advice(msgspec.Struct, frozen=True):
    """What limits a run; ``share`` is that of the core-time (or GPU-time) that it costs, or of the tasks that are refused."""

    limit: Limit
    share: float
    text: str


def advise(run: Trialled) -> Advice:
    """Return what costs a run most, in words that say what would help."""
    refused = run.result.outcomes.get(Ending.INFEASIBLE, 0)
    if refused:
        text = (
            f"{refused:,} of the tasks ask for more than there is, and what comes after them never comes: "
            f"use more nodes, or those of a machine that has it ({run.result.refusal})"
        )
        return Advice("requests", refused / run.demand.tasks, text)
    scarce = scarce_time(run)
    if scarce.utilization >= GOOD or not scarce.offered:
        text = "tasks ran nearly all of the time" if scarce.offered else "there is nothing to run"
        return Advice("nothing", 1.0 - scarce.utilization, text)
    costs = {field: getattr(scarce, field) for field in scarce.__struct_fields__ if field not in ("offered", "running")}
    most = max(costs, key=lambda field: costs[field])
    share = costs[most] / scarce.offered if scarce.offered else 0.0
    worst = max(run.result.partitions, key=lambda each: getattr(each.core_s, most))
    launcher = run.trial.launcher_of(worst.name).name
    match most:
        case "waiting":
            return _of_the_launcher(run, worst, share)
        case "startup":
            text = (
                f"{launcher} takes {_seconds(costs['startup'], scarce)} until it starts the first task: "
                "give it more work in one run"
            )
            return Advice("startup", share, text)
        case "scheduling":
            text = f"the scheduler before {launcher} is slower than tasks end: use several pilots, or larger tasks"
            return Advice("scheduling", share, text)
        case "preparing":
            text = f"{launcher} takes long to bring tasks up: start fewer at a time, or let one task do more"
            return Advice("preparation", share, text)
        case "acknowledging":
            text = f"{launcher} takes long to notice that tasks have ended: let one task do more, or use several pilots"
            return Advice("acknowledgement", share, text)
        case "lost":
            text = "nodes were lost and stayed away: give tasks retries, and use several pilots or partitions"
            return Advice("losses", share, text)
        case _:
            return _of_idle_time(run, scarce, share)


def scarce_time(run: Trialled) -> ResourceTime:
    """Return the time of cores or of GPUs: of that of which the workload asks for the larger part."""
    result, demand = run.result, run.demand
    nodes, shape = run.trial.nodes, run.trial.machine.shape
    if not shape.gpus or demand.gpu_s / (nodes * shape.gpus) <= demand.core_s / (nodes * shape.cores):
        return result.core_s
    return result.gpu_s


def _of_the_launcher(run: Trialled, worst: PartitionResult, share: float) -> Advice:
    launcher = run.trial.launcher_of(worst.name)
    ceilings = [_ceiling(run.trial.launcher_of(part.name), part.nodes) for part in run.result.partitions]
    if run.result.most_at_once >= _CEILING * sum(ceilings):
        text = (
            f"{run.trial.started_by} runs no more than {sum(ceilings):,.0f} tasks at a time, and more would fit: "
            "use a launcher without such a ceiling, or larger tasks"
        )
        return Advice("launcher ceiling", share, text)
    rates = _rates(launcher, worst.nodes)
    if not rates:
        text = f"{launcher.name} keeps tasks waiting: use a launcher without a ceiling, or larger tasks"
        return Advice("launcher ceiling", share, text)
    each_has = f" in each of {len(ceilings)} parts" if len(ceilings) > 1 else ""
    some = f"{rates[0]:,.3g}" if rates[0] == rates[-1] else f"{rates[0]:,.3g} to {rates[-1]:,.3g}"
    text = (
        f"{launcher.name} starts {some} tasks in a second{each_has}, and tasks of "
        f"{run.demand.mean_s:,.3g} s end faster: use longer tasks, a faster launcher, or several pilots or partitions"
    )
    return Advice("launcher rate", share, text)


def _ceiling(launcher: Launcher, nodes: int) -> float:
    """Return how many tasks run at once at the most, if each is on one node."""
    at_once = launcher.most_at_once.of(nodes) if launcher.most_at_once is not None else math.inf
    on_nodes = nodes * launcher.most_per_node.of(nodes) if launcher.most_per_node is not None else math.inf
    return min(at_once, on_nodes)


def _rates(launcher: Launcher, nodes: int) -> list[float]:
    """Return the rates at which tasks of all kinds are started, the least first."""
    given = [launcher.starts_per_s, *(costs.starts_per_s for costs in launcher.kinds.values())]
    return sorted(rate.of(nodes) for rate in given if rate is not None)


def _of_idle_time(run: Trialled, scarce: ResourceTime, share: float) -> Advice:
    trial, result, demand = run.trial, run.result, run.demand
    used = {each.name: (each.core_s if scarce is result.core_s else each.gpu_s).utilization for each in result.partitions}
    least, most = min(used, key=lambda name: used[name]), max(used, key=lambda name: used[name])
    if used[most] - used[least] > _UNLIKE:
        text = (
            f"{least} is used to {used[least]:.0%}, and {most} to {used[most]:.0%}: divide the nodes otherwise, or let them "
            "move (least_nodes, most_nodes)"
        )
        return Advice("division", share, text)
    series = result.series
    busy = series.running_gpus if scarce is result.gpu_s else series.running_cores
    per_node = trial.machine.shape.gpus if scarce is result.gpu_s else trial.machine.shape.cores
    offered = trial.nodes * per_node
    peak = max(busy, default=0.0)
    if peak < _BUSY * offered and result.waits.median_s < series.width_s and not demand.largest_nodes > _LARGE * trial.nodes:
        wanted = max(1, -int(-peak // per_node))
        text = f"the workload fills no more than {peak / offered:.0%} of the nodes at any time: {wanted:,} nodes would do"
        return Advice("size", share, text)
    last = max((place for place, level in enumerate(busy) if level >= _BUSY * peak), default=0)
    tail = sum(offered - level for level in busy[last + 1 :])
    # What is idle before the last time when all were busy is not the tail's.
    before = sum(offered - level for level in busy[: last + 1])
    if tail > before:
        duration = (len(busy) - last - 1) * series.width_s
        text = (
            f"in the last {_duration(duration)} the work runs out, and the longest task takes {_duration(demand.longest_s)}: "
            "submit the longest first, split them, or use fewer nodes"
        )
        return Advice("tail", share, text)
    if demand.largest_nodes > _LARGE * trial.nodes:
        text = (
            f"the largest task takes {demand.largest_nodes:,.0f} of the {trial.nodes:,} nodes, and nodes are idle until so "
            "many are free: use more nodes, or declare durations, so that small tasks fill the gaps"
        )
        return Advice("largest task", share, text)
    if result.waits.median_s < series.width_s:
        return Advice("arrival", share, "nodes wait for tasks to come: submit more at a time, or use fewer nodes")
    text = "tasks do not fit together on the nodes: ask for what divides a node, and try --scheduler packed"
    return Advice("packing", share, text)


def _seconds(held: float, scarce: ResourceTime) -> str:
    return f"{held / scarce.offered:.0%} of the time"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:,.0f} min" if seconds >= 120.0 else f"{seconds:,.3g} s"
