"""How a plan divides a pilot's nodes at the beginning, and why a plan cannot be.

A job may come up with fewer nodes than it has, and the plan was made for. Then it is *shrunk*: who has the most gives first, so
that each partition keeps a node as long as there are enough; of more partitions than nodes the last ones have none, those first
that take no executables of all kinds.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from pilotage.core.scheduling.policies import fault_of, misfit_of
from pilotage.errors import InvalidPilot
from pilotage.model.partitions import PartitionSpec
from pilotage.model.resources import Node

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_plan(plan: Sequence[PartitionSpec], nodes: Sequence[Node], missing: int = 0) -> None:
    """See that the plan can be had on a pilot of these nodes, and as many more as are ``missing``.

    Raises:
        InvalidPilot: it cannot; the message names the partition, the value, the limit and the remedy.
    """
    if not plan:
        raise InvalidPilot("a plan without partitions runs nothing; name at least one partition, or leave the plan out")
    for name, count in Counter(spec.name for spec in plan).items():
        if count > 1:
            raise InvalidPilot(f"{count} partitions are named {name!r}; give each a name of its own")
    for spec in plan:
        _check_spec(spec, nodes, missing)
        _check_tags(spec, {other.name for other in plan if other is not spec})
    _check_sizes(plan, len(nodes) + missing)
    if not any(_takes_executables(spec) for spec in plan):
        raise InvalidPilot(
            "no partition takes executables that name no partition, so most tasks could never run; "
            "let at least one have no tags, and 'executable' among its kinds (or no kinds, which means all)"
        )


def check_addition(
    spec: PartitionSpec, taken: Collection[str], tags: Collection[str], available: int, nodes: Sequence[Node]
) -> None:
    """See that a partition can be added to a pilot that has partitions of the names ``taken``, which have these ``tags``.

    ``available``: nodes that can be had for it, now or when those that have them can spare them.

    Raises:
        InvalidPilot: it cannot; the message says why, and what to do.
    """
    _check_spec(spec, nodes)
    _check_tags(spec, set(taken))
    if spec.name in taken:
        raise InvalidPilot(f"there is, or was, a partition {spec.name!r} in this pilot; give the new one a name of its own")
    if spec.name in tags:
        raise InvalidPilot(f"partition {spec.name!r}: a partition of this pilot has that name for a tag; choose another name")
    wanted = nodes_wanted(spec)
    if wanted > available:
        raise InvalidPilot(
            f"partition {spec.name!r} wants {_nodes(wanted)}, and {available} {_are(available)} free or can be spared by "
            f"partitions that may shrink; {f'ask for at most {available}, or ' if available else ''}retire a partition first"
        )


def nodes_wanted(spec: PartitionSpec) -> int:
    """Return with how many nodes a partition that is added can begin."""
    return spec.nodes or max(1, spec.least_nodes)


def divide(plan: Sequence[PartitionSpec], nodes: Sequence[Node]) -> list[list[int]]:
    """Return the nodes, by index, with which each partition of a plan begins: neighbours, in the order of the plan.

    If they are too few for the plan it is shrunk.
    """
    shares = _sizes(plan, len(nodes))
    order = sorted(node.index for node in nodes)
    divided: list[list[int]] = []
    begin = 0
    for share in shares:
        divided.append(order[begin : begin + share])
        begin += share
    return divided


def shares(plan: Sequence[PartitionSpec], count: int) -> list[int]:
    """Return how many of so many nodes each partition is to have by the plan, which may be more than there are."""
    left = count - sum(spec.nodes for spec in plan)
    open_specs = [spec for spec in plan if not spec.nodes]
    each, more = divmod(max(0, left), len(open_specs)) if open_specs else (0, 0)
    sizes = []
    for spec in plan:
        if spec.nodes:
            sizes.append(spec.nodes)
            continue
        share, more = each + (more > 0), more - 1
        sizes.append(min(share, spec.most_nodes) if spec.most_nodes else share)
    return sizes


def _sizes(plan: Sequence[PartitionSpec], count: int) -> list[int]:
    sizes = shares(plan, count)
    if all(sizes) and sum(sizes) <= count:
        return sizes
    sizes = [max(1, size) for size in sizes]
    excess = sum(sizes) - count
    while excess > 0 and (largest := max(sizes)) > 1:
        sizes[max(index for index, size in enumerate(sizes) if size == largest)] -= 1
        excess -= 1
    for index in sorted(range(len(plan)), key=lambda index: (_takes_executables(plan[index]), -index)):
        if excess > 0:
            sizes[index] = 0
            excess -= 1
    return sizes


def _check_spec(spec: PartitionSpec, nodes: Sequence[Node], missing: int = 0) -> None:
    who, count = f"partition {spec.name!r}", len(nodes) + missing
    if not _NAME.fullmatch(spec.name):
        raise InvalidPilot(
            f"partition {spec.name!r:.80}: a name is up to 64 letters, digits, '-' and '_', and begins with a letter or digit; "
            "choose another"
        )
    # Policies of partitions know all nodes of the pilot.
    misfit = fault_of(spec.scheduler) or misfit_of(spec.scheduler, nodes)
    if misfit is not None:
        raise InvalidPilot(f"{who}: {misfit}")
    amounts: Mapping[str, float] = {
        "nodes": spec.nodes,
        "least_nodes": spec.least_nodes,
        "most_nodes": spec.most_nodes,
        "most_task_nodes": spec.most_task_nodes,
        "longest_s": spec.longest_s,
        "idle_timeout_s": spec.idle_timeout_s,
    }
    for field, value in amounts.items():
        if value < 0:
            raise InvalidPilot(f"{who}: {field}={value} is less than 0; use 0 for the default")
        if not value < math.inf:
            raise InvalidPilot(f"{who}: {field}={value} is no number that can be reached; use 0 for no limit")
    if spec.nodes > count:
        raise InvalidPilot(f"{who}: nodes={spec.nodes} exceeds the {count} nodes of the pilot; ask for at most {count}")
    if spec.most_nodes:
        if spec.least_nodes > spec.most_nodes:
            raise InvalidPilot(
                f"{who}: least_nodes={spec.least_nodes} exceeds most_nodes={spec.most_nodes}; raise the one or lower the other"
            )
        if spec.nodes > spec.most_nodes or (spec.nodes and spec.nodes < spec.least_nodes):
            raise InvalidPilot(
                f"{who}: nodes={spec.nodes} is not between least_nodes={spec.least_nodes} and most_nodes={spec.most_nodes}"
            )
    elif spec.least_nodes:
        raise InvalidPilot(f"{who}: least_nodes={spec.least_nodes} needs most_nodes, without which it keeps its size")


def _check_tags(spec: PartitionSpec, names: set[str]) -> None:
    for tag in spec.tags:
        if not tag:
            raise InvalidPilot(f"partition {spec.name!r}: a tag is empty; tasks could not name it")
        if tag in names:
            raise InvalidPilot(f"partition {spec.name!r}: the tag {tag!r} is the name of another partition; choose another tag")


def _check_sizes(plan: Sequence[PartitionSpec], count: int) -> None:
    asked = sum(spec.nodes for spec in plan)
    if asked > count:
        parts = ", ".join(f"{spec.name} {spec.nodes}" for spec in plan if spec.nodes)
        raise InvalidPilot(
            f"the partitions ask for {asked} nodes ({parts}), and the pilot has {count}; ask for fewer, or for a larger pilot"
        )
    for spec, size in zip(plan, shares(plan, count), strict=True):
        if not size or size < spec.least_nodes:
            wanted = max(1, spec.least_nodes)
            raise InvalidPilot(
                f"partition {spec.name!r} would begin with {size} nodes of the {count - asked} that others leave, and needs "
                f"{wanted}; ask for fewer nodes elsewhere, fewer partitions, or a larger pilot"
            )


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _takes_executables(spec: PartitionSpec) -> bool:
    return not spec.tags and (not spec.kinds or "executable" in spec.kinds)
