"""Nodes move to where tasks wait for them.

Two things make a partition want nodes. Tasks wait that none can run as it is, but this one could if it had more (within its
``most_nodes``), or if it were started again after it was let go: these come first. Or it has more to do than it can do soon.
Nodes that no partition owns are granted at once. Else partitions that have idle nodes, beyond their ``least_nodes``, are asked
for some; only idle nodes move, so nothing is ended or delayed by it. So that nodes do not swing to and fro, they have to be
idle for ``SETTLE_S``, and who got some keeps them for ``KEEP_S``. If tasks that nobody can run find no idle node for
``PATIENCE_S``, partitions that could spare nodes get no more tasks until they do.

A partition that the user has added gets nodes in the same way, before all others.

A partition that had nothing to do for its ``idle_timeout_s`` (or else ``release_idle_s``) is let go. What it could have given
back sooner is accounted, as is how long nodes belong to nobody: see ``idle_node_s`` and ``free_node_s`` in the state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pilotage.core.metascheduler import actions, facts
from pilotage.core.metascheduler.backlogs import UNKNOWN_S, Backlog
from pilotage.core.metascheduler.changes import Changes
from pilotage.core.metascheduler.fitting import Fitting
from pilotage.core.metascheduler.groups import Group
from pilotage.core.metascheduler.journal import Journal
from pilotage.core.metascheduler.partitions import Partitions
from pilotage.core.metascheduler.queue import Queue
from pilotage.core.metascheduler.state import PartitionRecord

LOOK_S = 1.0
"""Nodes are looked at this often at the most."""

SETTLE_S = 2.0
KEEP_S = 10.0
PATIENCE_S = 5.0
WORTH_S = 5.0
"""A partition that will have done its work within this time wants no more nodes."""


class Balance:
    """Moves nodes, and lets partitions go. ``release_idle_s``: None keeps them."""

    def __init__(
        self,
        journal: Journal,
        fitting: Fitting,
        queue: Queue,
        backlogs: Mapping[str, Backlog],
        partitions: Partitions,
        changes: Changes,
        release_idle_s: float | None,
    ) -> None:
        self._journal = journal
        self._state = journal.state
        self._fitting = fitting
        self._queue = queue
        self._backlogs = backlogs
        self._partitions = partitions
        self._changes = changes
        self._release_idle_s = release_idle_s
        self._looked = float("-inf")
        self._unserved_since: float | None = None
        """Since when tasks wait that no partition can run as it is."""

    # ----------------------------------------------------------------------------------------------------------------- when

    def next_look(self) -> float | None:
        """Return when ``look`` is due, as far as time alone makes it."""
        dues = [self._looked + LOOK_S] if self._may_move() else []
        dues += [max(each.idle_since + limit, self._looked + LOOK_S) for each, limit in self._idle()]
        return min(dues, default=None)

    def _may_move(self) -> bool:
        """Whether nodes may have to move soon."""
        if self._queue.unplaced or self._changes.awaited:
            return True
        return any(
            each.record.spec.most_nodes > len(each.record.nodes) and (each.work > 1.0 or each.held_back)
            for each in self._backlogs.values()
            if each.record.hires
        )

    def _idle(self) -> list[tuple[Backlog, float]]:
        """Return the partitions that nobody needs, and may be idle only for so long: for how long."""
        if self._state.ending is not None:
            return []
        limited = [
            (each, limit)
            for each in self._backlogs.values()
            if not each.count and (limit := each.record.spec.idle_timeout_s or self._release_idle_s) is not None
        ]
        if not limited:
            return []
        wanted = {name for route in self._queue.routes_in_turn() for name in route.fits}
        return [(each, limit) for each, limit in limited if each.record.life == "active" and each.name not in wanted]

    def look(self, now: float) -> None:
        """Move nodes if it is time, and let idle partitions go."""
        is_urgent = self._state.free_nodes and (self._queue.unplaced or self._changes.awaited)
        if now < self._looked + LOOK_S and not is_urgent:
            return
        self._looked = now
        if not self._may_move() or self._is_ending_now():
            self._end_patience()
        elif not self._serve_awaited(now) and not self._serve_unplaced(now):
            self._serve_busy(now)
        for backlog, limit in self._idle():
            idle_s = now - backlog.idle_since
            if idle_s >= limit and not backlog.record.reclaims:
                self._partitions.retire(now, 0, backlog.name, True, f"it was idle for {idle_s:.0f} s", released=True)

    def _is_ending_now(self) -> bool:
        ending = self._state.ending
        return ending is not None and not ending.drain

    # ------------------------------------------------------------------------------------------- partitions that are to come

    def _serve_awaited(self, now: float) -> bool:
        """Start partitions that the user asked for, in turn; return whether one waits for nodes."""
        if self._state.ending is not None:
            return False
        for name, record in list(self._changes.awaited.items()):
            free, spec = sorted(self._state.free_nodes), record.spec
            if len(free) < record.size:
                self._get_nodes(now, None, record.size - len(free))
                return True
            self._partitions.add(now, 0, name, spec, free[: spec.nodes or spec.most_nodes or len(free)])
        return False

    # -------------------------------------------------------------------------------------------- tasks that nobody can run

    def _serve_unplaced(self, now: float) -> bool:
        """Get nodes for the first tasks that none can run as it is; return whether there are such."""
        first = next(self._queue.growing(), None)
        if first is None:
            self._end_patience()
            return False
        group, wishes = first
        record, count = min(wishes, key=lambda wish: wish[1])
        if record.life == "awaited":
            # The user said how many it is to have.
            count = max(count, record.size)
        free = self._best_free(group)
        if len(free) >= count:
            self._end_patience()
            self._give(now, record, free, count)
            return True
        self._get_nodes(now, record, count - len(free))
        return True

    def _get_nodes(self, now: float, wanting: PartitionRecord | None, missing: int) -> None:
        """See to it that so many nodes more become free; ``wanting`` is to have them, if it is there."""
        if self._unserved_since is None:
            self._unserved_since = now
        missing -= sum(sum(each.record.reclaims.values()) for each in self._backlogs.values())
        for backlog, idle, _ in self._donors(wanting):
            if missing > 0:
                missing -= self._reclaim(now, backlog, min(missing, idle))
        if missing > 0 and now - self._unserved_since >= PATIENCE_S:
            self._hold_back(wanting, missing)

    def _best_free(self, group: Group) -> list[int]:
        capacity = {node: group.need.capacity(self._fitting.shape(node)) for node in self._state.free_nodes}
        return sorted(capacity, key=lambda node: (-capacity[node], node))

    def _give(self, now: float, record: PartitionRecord, free: list[int], count: int) -> None:
        if record.hires:
            self._grant(now, self._name_of(record), free[:count])
        else:
            name = f"{record.spec.name}.{record.number + 1}" if record.number else record.spec.name
            self._partitions.add(now, 0, name, record.spec, free[: max(count, record.size)])

    def _name_of(self, record: PartitionRecord) -> str:
        return next(name for name, each in self._state.partitions.items() if each is record)

    def _hold_back(self, wanting: PartitionRecord | None, missing: int) -> None:
        """Let partitions that could spare nodes run dry, those with the least to do first."""
        able: list[tuple[Backlog, int]] = []
        for backlog in self._backlogs.values():
            # Services keep what they have, however long one waits for it.
            spare = self._spare(backlog, wanting) - math.ceil(backlog.serving * len(backlog.record.nodes))
            if spare > 0:
                able.append((backlog, spare))
        for backlog, spare in sorted(able, key=lambda each: (not each[0].held_back, each[0].seconds, each[0].index)):
            if missing <= 0:
                break
            backlog.held_back = True
            missing -= spare

    def _end_patience(self) -> None:
        self._unserved_since = None
        for backlog in self._backlogs.values():
            self._queue.is_stale |= backlog.held_back
            backlog.held_back = False

    # ------------------------------------------------------------------------------------------- partitions with much to do

    def _serve_busy(self, now: float) -> None:
        waiting = self._waiting_shares()
        for backlog in sorted(self._backlogs.values(), key=lambda each: (-each.seconds, each.index)):
            record = backlog.record
            room = record.spec.most_nodes - len(record.nodes)
            work, seconds = waiting.get(backlog.name, (0.0, 0.0))
            work += backlog.work
            if record.life != "active" or room <= 0 or work <= 1.0 or backlog.seconds + seconds < WORTH_S:
                continue
            wanted = min(room, max(1, round((work - 1.0) * len(record.nodes))))
            free = sorted(self._state.free_nodes)[:wanted]
            if free:
                self._grant(now, backlog.name, free)
            wanted -= len(free) + sum(sum(each.record.reclaims.values()) for each in self._backlogs.values())
            for donor, idle, since in self._donors(record):
                settled = now - since >= SETTLE_S and now - donor.record.gained >= KEEP_S
                if wanted > 0 and settled and donor.name not in waiting:
                    wanted -= self._reclaim(now, donor, min(wanted, idle))

    def _waiting_shares(self) -> dict[str, tuple[float, float]]:
        """Return for the partitions how much work waits here that may become theirs, and how many seconds it takes."""
        shares: dict[str, tuple[float, float]] = {}
        for route in self._queue.routes_in_turn():
            lasting = sum(
                len(group.waiting) * group.share * (UNKNOWN_S if group.seconds is None else group.seconds)
                for group in route.in_turn()
            )
            for name in route.fits:
                work, seconds = shares.get(name, (0.0, 0.0))
                shares[name] = (work + route.work, seconds + lasting)
        return shares

    # ----------------------------------------------------------------------------------------------------------- moving nodes

    def _spare(self, backlog: Backlog, wanting: PartitionRecord | None) -> int:
        """Return how many nodes a partition can spare."""
        record = backlog.record
        if record is wanting or record.life != "active" or record.reclaims:
            return 0
        return len(record.nodes) - self._fitting.least_nodes(backlog.name, record)

    def _donors(self, wanting: PartitionRecord | None) -> list[tuple[Backlog, int, float]]:
        """Return the partitions that have idle nodes to spare: how many, and since when; those with the most first."""
        donors = []
        for backlog in self._backlogs.values():
            idle, since = backlog.idle_nodes()
            spare = min(idle, self._spare(backlog, wanting))
            if spare > 0:
                donors.append((backlog, spare, since))
        return sorted(donors, key=lambda donor: (-donor[1], donor[0].index))

    def _grant(self, now: float, name: str, nodes: list[int]) -> None:
        self._journal.emit(facts.NodesGranted(now, name, nodes))
        self._queue.forget_refusals(name)
        self._partitions.nodes_changed(name)
        self._journal.act(actions.OfferMessages(name))

    def _reclaim(self, now: float, backlog: Backlog, count: int) -> int:
        self._journal.emit(facts.NodesReclaimed(now, backlog.name, self._state.reclaims + 1, count))
        self._partitions.nodes_changed(backlog.name)
        backlog.note_asked(count)
        self._journal.act(actions.OfferMessages(backlog.name))
        return count
