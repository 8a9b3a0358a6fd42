"""Which partition can run which tasks: by kind, tag, declared duration, size, and what its nodes hold.

What counts of a template for that is its ``Wish``. Answers are kept by wish and by what a partition is (its rules, and how many
nodes of which shapes), so that sixty equal partitions cost one look.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from pilotage.core.metascheduler.plan import divide
from pilotage.core.metascheduler.state import MetaschedulerState, PartitionRecord
from pilotage.core.scheduling.need import Need, refusal
from pilotage.errors import nearest
from pilotage.model.ids import TemplateId
from pilotage.model.partitions import Kind, PartitionSpec
from pilotage.model.resources import Node, NodeShape, Request
from pilotage.model.workload import Template

_ANSWERS_KEPT = 65_536

Shapes = Mapping[NodeShape, int]


class Wish(msgspec.Struct, frozen=True, gc=False):
    """What counts of a template when a partition is chosen."""

    kind: Kind
    partition: str
    duration_s: float
    request: Request

    @property
    def names_nodes(self) -> bool:
        """Whether it wants particular nodes."""
        return bool(self.request.slots or self.request.pinned)


def wish_of(template: Template) -> Wish:
    """Return what counts of a template."""
    kind: Kind = "executable"
    if template.service is not None:
        kind = "service"
    elif template.mode == "function":
        kind = "function"
    return Wish(kind, template.partition, template.duration_s, template.request)


def rule_against(wish: Wish, spec: PartitionSpec) -> str:
    """Return which rule of a partition keeps such tasks out; empty: none does."""
    named = wish.partition
    if named and named != spec.name and named not in spec.tags:
        return f"the task names the partition {named!r}"
    if spec.tags and not named:
        return f"it takes only tasks that name it, or one of its tags: {', '.join(spec.tags)}"
    if spec.kinds and wish.kind not in spec.kinds:
        return f"it takes no task of kind {wish.kind!r}, only {', '.join(map(repr, spec.kinds))}"
    if spec.longest_s and not wish.duration_s:
        return f"it takes tasks that declare a duration of at most {spec.longest_s:g} s, and the task declares none"
    if wish.duration_s > spec.longest_s > 0.0:
        return f"the declared duration of {wish.duration_s:g} s exceeds its limit of {spec.longest_s:g} s"
    return ""


def nodes_needed(need: Need, shapes: Iterable[NodeShape]) -> int:
    """Return on how few idle nodes of the best of these shapes a task can be placed."""
    request = need.request
    if request.slots:
        return len({slot.node for slot in request.slots})
    if need.per_node:
        return -(-need.ranks // need.per_node)
    best = max((need.capacity(shape) for shape in shapes), default=0)
    return -(-need.ranks // best) if best else 1


def slots_on(need: Need, shapes: Shapes) -> int:
    """Return how many such tasks can run at once on nodes of these shapes, as if they were idle; at least 1."""
    if need.exclusive or need.chosen or need.colocate:
        slots = sum(shapes.values()) // nodes_needed(need, shapes)
    else:
        slots = sum(number * need.capacity(shape) for shape, number in shapes.items()) // need.ranks
    return max(1, slots)


class Fitting:
    """Answers from the state. ``nodes``: all nodes of the pilot."""

    def __init__(self, state: MetaschedulerState, nodes: Sequence[Node]) -> None:
        self._state = state
        self._nodes = {node.index: node for node in nodes}
        self._needs: dict[Request, Need] = {}
        self._answers: dict[tuple[Wish, str, int, int], str] = {}
        self._likes: dict[object, int] = {}
        """Partitions that are alike have the same number."""
        self._slots: dict[int, dict[TemplateId, int]] = {}

    def need(self, request: Request) -> Need:
        """Return what a request asks for, made ready for matching."""
        need = self._needs.get(request)
        if need is None:
            if len(self._needs) >= _ANSWERS_KEPT:
                self._needs.clear()
            need = self._needs[request] = Need(request)
        return need

    def shape(self, node: int) -> NodeShape:
        """Return the shape of a node."""
        return self._nodes[node].shape

    def shapes(self, nodes: Iterable[int]) -> dict[NodeShape, int]:
        """Return the shapes of these nodes, with their numbers."""
        shapes: dict[NodeShape, int] = {}
        for node in nodes:
            shape = self._nodes[node].shape
            shapes[shape] = shapes.get(shape, 0) + 1
        return shapes

    def cores(self, nodes: Iterable[int]) -> int:
        """Return how many cores these nodes have."""
        return sum(self._nodes[node].shape.cores for node in nodes)

    def likes_of(self, partition: PartitionRecord, shapes: Shapes) -> int:
        """Return a number that partitions have in common which have the same rules, and as many nodes of the same shapes."""
        spec = partition.spec
        likes = (spec.kinds, spec.tags, spec.most_task_nodes, spec.longest_s, tuple(sorted(shapes.items(), key=repr)))
        return self._likes.setdefault(likes, len(self._likes))

    def known_slots(self, likes: int) -> dict[TemplateId, int]:
        """Return what is kept for partitions that are alike: how many tasks of which templates they can run at once."""
        return self._slots.setdefault(likes, {})

    def against(self, wish: Wish, partition: PartitionRecord, shapes: Shapes, likes: int) -> str:
        """Return why a partition with nodes of these ``shapes``, its own, cannot run such tasks; empty: it can.

        ``likes``: see ``likes_of``. Nodes that it is asked to give back do not count: it may be any.
        """
        leaving = sum(partition.reclaims.values())
        if wish.names_nodes:
            return rule_against(wish, partition.spec) or self._against_named(wish, partition, leaving)
        key = (wish, partition.spec.name if wish.partition else "", likes, leaving)
        answer = self._answers.get(key)
        if answer is None:
            if len(self._answers) >= _ANSWERS_KEPT:
                self._answers.clear()
            need = self.need(wish.request)
            answer = rule_against(wish, partition.spec) or _against(need, partition.spec, _less(shapes, need, leaving))
            self._answers[key] = answer
        return answer

    def against_own(self, wish: Wish, partition: PartitionRecord, shapes: Shapes) -> str:
        """Return the same for a partition that keeps the nodes that it is asked to give back."""
        return rule_against(wish, partition.spec) or _against(self.need(wish.request), partition.spec, shapes)

    def _against_named(self, wish: Wish, partition: PartitionRecord, leaving: int) -> str:
        request, spec = wish.request, partition.spec
        if leaving:
            return "it is giving back nodes, perhaps those that the task names"
        if request.slots:
            missing = sorted({slot.node for slot in request.slots} - partition.nodes.keys())
            return f"the slots name node {missing[0]}, which it does not have" if missing else ""
        names = {name for each in request.pinned for name in spec.scheduler.groups.get(each, (each,))}
        there = [node for node in partition.nodes if self._nodes[node].name in names]
        if not there:
            return f"it has none of the nodes that the task names: {', '.join(request.pinned)}"
        return _against(self.need(request), spec, self.shapes(there))

    def growth(self, wish: Wish, partition: PartitionRecord, shapes: Shapes, *, without: str = "") -> int:
        """Return to how many nodes a partition that hires, or is dormant, has to grow to run such tasks; 0: it cannot.

        ``without``: a partition that gives up all its nodes.
        """
        spec, owned = partition.spec, len(partition.nodes)
        limit = spec.most_nodes if partition.hires else spec.most_nodes or partition.size
        if limit <= owned or wish.names_nodes or rule_against(wish, spec):
            return 0
        need = self.need(wish.request)
        others = sorted(self._movable(partition, without), key=lambda node: (-need.capacity(self._nodes[node].shape), node))
        most = min(limit - owned, len(others))

        def fits_with(more: int) -> bool:
            there = dict(shapes)
            for node in others[:more]:
                shape = self._nodes[node].shape
                there[shape] = there.get(shape, 0) + 1
            return not _against(need, spec, there)

        if most < 1 or not fits_with(most):
            return 0
        return owned + 1 + bisect_left(range(1, most), True, key=fits_with)

    def _movable(self, partition: PartitionRecord, without: str) -> list[int]:
        movable = list(self._state.free_nodes)
        for name, other in self._state.partitions.items():
            if other is not partition and other.living:
                movable += list(other.nodes)[self.least_nodes(name, other) if other.hires and name != without else 0 :]
        return movable

    def least_nodes(self, name: str, partition: PartitionRecord) -> int:
        """Return how many nodes a partition keeps, however idle it is."""
        state = self._state
        # Tasks that share a node, or are to be where another was, look for it there.
        is_bound = name in state.anchors.values() or name in state.places.values()
        return max(1, partition.spec.least_nodes) if partition.spec.most_nodes and not is_bound else len(partition.nodes)

    def refusal(self, wish: Wish) -> str:
        """Return why no partition can run such tasks, now or later."""
        hiring = {name: each for name, each in self._state.partitions.items() if each.hires}
        if not hiring:
            return "no partition is left in this pilot; add one with Pilot.add_partition, or submit to another pilot"
        known = dict.fromkeys(name for key, each in hiring.items() for name in (key, each.spec.name, *each.spec.tags))
        over = self._named_and_over(wish) if wish.partition and wish.partition not in known else None
        if over is not None:
            is_lost = over.life == "lost" or not over.nodes
            return (
                f"partition {wish.partition!r}, which the task names, {'was lost' if is_lost else 'takes no tasks any more'}: "
                f"{over.reason}; name one of {', '.join(known)}, or none"
            )
        reasons = {}
        for name, each in hiring.items():
            shapes = self.shapes(each.nodes)
            against = self.against(wish, each, shapes, self.likes_of(each, shapes))
            reasons[name] = against or "it found no place for it on its nodes"
        return _worded(wish, known, reasons)

    def _named_and_over(self, wish: Wish) -> PartitionRecord | None:
        """Return the last partition that the task names, if there was one; it takes no tasks any more."""
        named = [
            each
            for key, each in self._state.partitions.items()
            if wish.partition in (key, each.spec.name, *each.spec.tags) and each.life in ("retiring", "ended", "lost")
        ]
        return named[-1] if named else None


def refusal_by_plan(
    template: Template, plan: Sequence[PartitionSpec], added: Sequence[PartitionSpec], nodes: Sequence[Node]
) -> str:
    """Return why no partition of a pilot can ever run tasks of a template, as far as its plan tells; empty: one may.

    ``added``: partitions that were, or are to be, added while it runs.
    """
    wish, need = wish_of(template), Need(template.request)
    best = sorted((node.shape for node in nodes), key=need.capacity, reverse=True)
    shape_of = {node.index: node.shape for node in nodes}
    reasons: dict[str, str] = {}
    for spec, own in [*zip(plan, divide(plan, nodes), strict=True), *((spec, list[int]()) for spec in added)]:
        reason = rule_against(wish, spec)
        if not reason and not wish.names_nodes:
            fixed = bool(own) and not spec.most_nodes
            there = [shape_of[node] for node in own] if fixed else best[: spec.most_nodes or spec.nodes or len(best)]
            reason = _against(need, spec, Counter(there))
        if not reason:
            return ""
        reasons[spec.name] = reason
    return _worded(wish, dict.fromkeys(name for spec in (*plan, *added) for name in (spec.name, *spec.tags)), reasons)


def _worded(wish: Wish, known: Collection[str], reasons: Mapping[str, str]) -> str:
    if wish.partition and wish.partition not in known:
        hint = nearest(wish.partition, known)
        return f"no partition is named {wish.partition!r}, or has that tag{hint}; name one of {', '.join(known)}, or none"
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    parts = [f"{_partitions(names)}: {reason}" for reason, names in by_reason.items()]
    return f"no partition can run it. {'; '.join(parts)}"


def _against(need: Need, spec: PartitionSpec, shapes: Shapes) -> str:
    if spec.most_task_nodes:
        wanted = nodes_needed(need, shapes)
        if wanted > spec.most_task_nodes:
            return f"the task needs {wanted} nodes, more than the {spec.most_task_nodes} that it grants to one task"
    return refusal(need, shapes) or ""


def _less(shapes: Shapes, need: Need, count: int) -> Shapes:
    """Return these shapes without the ``count`` nodes that are best for this need."""
    if not count:
        return shapes
    left = dict(shapes)
    for shape in sorted(left, key=need.capacity, reverse=True):
        taken = min(count, left[shape])
        left[shape] -= taken
        count -= taken
    return left


def _partitions(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:3]))
    if len(names) > 3:
        shown += f" and {len(names) - 3} more"
    return f"partition {shown}" if len(names) == 1 else f"partitions {shown}"
