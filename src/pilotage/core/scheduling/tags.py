"""Where tags lead: names of nodes and of groups of nodes, and the nodes on which earlier tasks ran."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from pilotage.core.scheduling.index import NodeIndex
from pilotage.core.scheduling.pool import Pool
from pilotage.core.scheduling.queue import Group
from pilotage.errors import nearest
from pilotage.model.ids import TaskUid
from pilotage.model.resources import Node, Request

PLACES_KEPT = 1 << 14
"""Placements of tasks that are remembered at least."""

_VIEWS_KEPT = 1024
"""Indices of pinned nodes, above which those that nobody waits for are dropped."""


def refusal(request: Request, nodes: Sequence[Node], groups: Mapping[str, Sequence[str]]) -> str | None:
    """Return why the tags of ``request`` can never be followed (value, limit, remedy), or None if they can."""
    if request.colocate and request.beside:
        return (
            f"colocate={request.colocate!r} and task={request.beside!r} may name different nodes; leave one of the two tags out"
        )
    if request.slots and (request.pinned or request.beside):
        return "slots say where the ranks run; leave the tags node, group and task out, or the slots"
    if request.pinned:
        known = dict.fromkeys(node.name for node in nodes)
        for name in request.pinned:
            if name not in known and name not in groups:
                names = (*groups, *known)
                return (
                    f"the tag names {name!r}, which is neither one of the {len(nodes)} nodes of this pilot nor one of its "
                    f"{len(groups)} groups of nodes{nearest(name, names)}; such as {names[0]!r}"
                )
    return None


class Territories:
    """The nodes that names stand for. ``groups``: names for sets of nodes, by the names of these."""

    def __init__(self, pool: Pool, groups: Mapping[str, Sequence[str]]) -> None:
        self._pool = pool
        self.groups = groups
        self._nodes_of: dict[str, list[int]] = {}
        self._views: dict[tuple[str, ...], NodeIndex] = {}

    def nodes(self, names: Iterable[str]) -> set[int]:
        """Return the indices of the nodes of these names; those that are unknown stand for none."""
        if not self._nodes_of:
            for node in self._pool.nodes:
                self._nodes_of.setdefault(node.name, []).append(node.index)
            for name, members in self.groups.items():
                found = [index for member in members for index in self._nodes_of.get(member, ())]
                self._nodes_of.setdefault(name, []).extend(found)
        return {index for name in names for index in self._nodes_of.get(name, ())}

    def view(self, names: tuple[str, ...], groups: Iterable[Group]) -> NodeIndex:
        """Return an index of the nodes of these names. ``groups``: all there are, some of which may use other views."""
        view = self._views.get(names)
        if view is None:
            if len(self._views) >= _VIEWS_KEPT:
                self._forget(groups)
            view = self._views[names] = self._pool.view(self.nodes(names))
        return view

    def _forget(self, groups: Iterable[Group]) -> None:
        used = {group.need.pinned for group in groups}
        for names in [names for names in self._views if names not in used]:
            self._pool.drop_view(self._views.pop(names))


class Places:
    """On which node tasks began, of the last ones that were placed; it costs little until it is asked.

    ``recent`` has the names of tasks, each run of them followed by the index of their first node.
    """

    def __init__(self) -> None:
        self.recent: deque[TaskUid | int] = deque(maxlen=2 * PLACES_KEPT)
        self._node_of: dict[TaskUid, int] = {}

    def note(self, tasks: Iterable[TaskUid], node: int) -> None:
        """These tasks run on a lane that begins on this node."""
        self.recent.extend(tasks)
        self.recent.append(node)

    def node_of(self, task: TaskUid) -> int | None:
        """Return the first node of the task's last placement, if that is remembered."""
        node_of = self._node_of
        run: list[TaskUid] = []
        for entry in self.recent:
            if isinstance(entry, str):
                run.append(entry)
                continue
            for uid in run:
                # The latest last, so that the oldest are forgotten first.
                node_of.pop(uid, None)
                node_of[uid] = entry
            run.clear()
        self.recent.clear()
        if len(node_of) > 2 * PLACES_KEPT:
            for uid in list(node_of)[: len(node_of) - PLACES_KEPT]:
                del node_of[uid]
        return node_of.get(task)
