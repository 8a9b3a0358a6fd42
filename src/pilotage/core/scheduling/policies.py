"""A policy from its ``PolicySpec``: the one place that knows all of them by name.

=============== =====================================================================================================
`continuous`    nodes are a line; large tasks get neighbours, small ones fill a node before the next is begun
`torus`         nodes are an n-dimensional torus; large tasks get compact blocks of it
`tagged`        as `continuous`, and nodes that are named in groups are left to the tasks that name them while that can be
`homogeneous`   the first task's request cuts the pilot into equal slots; constant time, no search
`packed`        cores, GPUs and memory are filled together, longest tasks first, so that a bag of mixed tasks ends soon
`spread`        each task goes to the node that is least loaded
=============== =====================================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any, get_args

from pilotage.core.scheduling.homogeneous import Homogeneous
from pilotage.core.scheduling.packed import Packed
from pilotage.core.scheduling.policy import Policy
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.core.scheduling.spread import SpreadSearch
from pilotage.core.scheduling.tagged import TaggedSearch
from pilotage.core.scheduling.torus import Torus, TorusSearch
from pilotage.errors import InvalidRequest, nearest
from pilotage.model.partitions import Order, PolicyName, PolicySpec
from pilotage.model.resources import Node

POLICIES: tuple[str, ...] = get_args(PolicyName)
ORDERS: tuple[str, ...] = get_args(Order)


def make_policy(
    spec: PolicySpec, nodes: Sequence[Node], *, present: Iterable[int] | None = None, end: float | None = None
) -> Policy:
    """Return the policy that ``spec`` describes, with all ``nodes`` of the pilot, whose indices count from 0.

    ``present``: the indices of the nodes that it may use now (None: all). ``end``: when the pilot ends, in seconds since the
    epoch (None: never).

    Raises:
        InvalidRequest: the spec does not fit these nodes; says what and how to mend it.
    """
    reason = fault_of(spec) or misfit_of(spec, nodes)
    if reason is not None:
        raise InvalidRequest(reason)
    latest = math.inf if end is None else end - spec.margin_s
    return build(spec, nodes, order=spec.order, present=present, groups=spec.groups, latest=latest)


def build(spec: PolicySpec, nodes: Sequence[Node], **options: Any) -> Scheduler:
    """Return the policy of this name, with ``options`` of a ``Scheduler``, which may be other bounds than the usual ones."""
    match spec.policy:
        case "homogeneous":
            return Homogeneous(nodes, **options)
        case "packed":
            return Packed(nodes, **options)
        case "torus":
            return Scheduler(nodes, search=partial(TorusSearch, torus=Torus(spec.torus)), **options)
        case "tagged":
            named = {name for names in spec.groups.values() for name in names}
            grouped = {node.index for node in nodes if node.name in named}
            return Scheduler(nodes, search=partial(TaggedSearch, grouped=grouped), **options)
        case "spread":
            return Scheduler(nodes, search=SpreadSearch, **options)
        case _:
            return Scheduler(nodes, **options)


def fault_of(spec: PolicySpec) -> str | None:
    """Return what is wrong with a spec on any nodes (value, limit, remedy), or None."""
    for name, value, known in (("policy", spec.policy, POLICIES), ("order", spec.order, ORDERS)):
        if value not in known:
            return f"{name}={value!r} is not one of {', '.join(known)}{nearest(value, known)}"
    if any(size < 1 for size in spec.torus):
        return f"torus={spec.torus}: a dimension has at least 1 node"
    if spec.policy == "torus" and not spec.torus:
        return "policy='torus' needs the nodes along each dimension; say torus=(4, 4, 8) for 128 nodes"
    if spec.torus and spec.policy != "torus":
        return f"torus={spec.torus} is for policy='torus', not for policy={spec.policy!r}; leave it out"
    if not 0.0 <= spec.margin_s < math.inf:
        return f"margin_s={spec.margin_s}: it must be 0 or more (seconds)"
    for group, names in spec.groups.items():
        if not names:
            return f"groups: {group!r} names no node; name some, or leave it out"
    return None


def misfit_of(spec: PolicySpec, nodes: Collection[Node]) -> str | None:
    """Return why a spec does not fit these nodes (value, limit, remedy), or None if it does."""
    size = math.prod(spec.torus)
    if spec.policy == "torus" and size != len(nodes):
        shape = " x ".join(map(str, spec.torus))
        return (
            f"torus={spec.torus}: {shape} are {size} nodes, and the pilot has {len(nodes)}; give dimensions that multiply to it"
        )
    known = dict.fromkeys(node.name for node in nodes)
    for group, names in spec.groups.items():
        if group in known:
            return f"groups: {group!r} is the name of a node; give the group another name"
        for name in names:
            if name not in known:
                such = next(iter(known), "")
                return f"groups: {group!r} names {name!r}, and no node is called that{nearest(name, known)}; such as {such!r}"
    return None
