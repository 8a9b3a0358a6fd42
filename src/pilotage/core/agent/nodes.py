"""Nodes that come and go while the pilot runs: some are lost, and a metascheduler moves them between partitions.

A partition's policy knows all nodes of the pilot, and uses those that are its own. What it gives back is idle at that moment,
and no task that is here needs it: moving nodes ends and delays nothing. Nodes that are lost are told like nodes that are given
back, under the number of no request (``LOST_NODES``): so nobody is given them again.

What starts tasks on a node are the spawners of its host (see ``hosts``). A node is lost when whoever looks after hosts says
so, or when none of these spawners is left, and as many as ``SPAWNER_FAILURES`` in a row did not come up. What runs on a node
that is lost, and on others beside, is ended, and placed anew if it may run again. A pilot, or a partition whose own spawners do
not come up, ends with its last node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pilotage.core.agent import events, facts
from pilotage.core.agent.journal import Journal
from pilotage.core.agent.waiting import Waiting
from pilotage.core.scheduling.policy import Policy
from pilotage.errors import InvariantViolated
from pilotage.model.partitions import Load

_NAMED = 4
"""So many nodes are named in a reason."""

_NEEDED_IN_A_ROW = 4
"""After so many idle nodes that are needed the rest will be, too."""


class Nodes:
    """Takes nodes in, and gives them back. ``first``: the nodes that the partition began with; none if it is a pilot.

    ``count``: how many the pilot has (0: not known).
    """

    def __init__(self, journal: Journal, policy: Policy, waiting: Waiting, first: Iterable[int], count: int = 0) -> None:
        self._journal = journal
        self._state = journal.state
        self._policy = policy
        self._waiting = waiting
        self._first = tuple(first)
        self._all = range(count)

    def recover(self) -> None:
        """Take over what the state says, before anything is placed."""
        for node in self._state.parted:
            self._policy.close_node(node)
        if self._state.granted:
            self._policy.add_nodes(list(self._state.granted))
        for node in self._state.lost_nodes:
            self._policy.remove_node(node)

    def own(self) -> list[int]:
        """Return the nodes of this partition, or of a pilot of which they are known."""
        state = self._state
        owned = [*(node for node in self._first or self._all if node not in state.parted), *state.granted]
        return [node for node in owned if node not in state.lost_nodes] if state.lost_nodes else owned

    def names(self, nodes: Sequence[int]) -> str:
        """Return the names of some nodes, or of the first of many."""
        named = ", ".join(self._policy.name_of(node) for node in nodes[:_NAMED])
        return f"{named} and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else named

    def granted(self, event: events.NodesGranted) -> None:
        """These belong here from now on."""
        self._journal.emit(facts.NodesGranted(event.time, event.number, event.nodes))
        self._policy.add_nodes(event.nodes)

    @property
    def are_for_good(self) -> bool:
        """Whether no node will ever come in place of one that is lost."""
        return not self._first

    def lost(self, event: events.NodesLost) -> list[int]:
        """Place nothing more on these, and tell the metascheduler, if there is one; return those that belong here."""
        own = self.own() if self._first else None
        before = self._state.lost_nodes
        lost = [node for node in dict.fromkeys(event.nodes) if node not in before and (own is None or node in own)]
        if lost and not self._state.ended:
            self._journal.emit(facts.NodesLost(event.time, lost, event.reason, own is not None))
        for node in lost:
            self._policy.remove_node(node)
        return lost

    def reclaimed(self, event: events.NodesReclaimed) -> None:
        """Give back what is idle, and is not needed."""
        held = {share.node for lane in self._state.lanes.values() for share in lane.placement}
        given: list[int] = []
        needed = 0
        # The last ones first, so that what remains lies together.
        for node in sorted(self.own(), reverse=True):
            if len(given) == event.count or needed == _NEEDED_IN_A_ROW:
                break
            if node in held:
                continue
            if not self._policy.close_node(node):
                raise InvariantViolated(f"the policy holds something on node {node}, where no lane is open")
            if self._is_needed():
                self._policy.add_nodes([node])
                needed += 1
                continue
            needed = 0
            given.append(node)
        self._journal.emit(facts.NodesReturned(event.time, event.number, event.reclaim, given))

    def _is_needed(self) -> bool:
        """Tell whether a task that is here could never be placed without the node that was closed."""
        templates = dict.fromkeys(task.row.template for task in self._state.tasks.values())
        return any(self._waiting.refusal(template) is not None for template in templates)

    def load(self, paused: bool) -> Load:
        """Return how busy the partition, or a pilot without partitions, is."""
        state, free, demand = self._state, self._policy.free(), self._policy.demand()
        return Load(
            demand.tasks,
            demand.cores,
            free.idle_nodes,
            free.cores,
            paused,
            free.nodes,
            free.gpu_shares,
            free.memory,
            demand.gpu_shares,
            len(state.outputs) + sum(len(lane.tasks) for lane in state.lanes.values()),
        )
