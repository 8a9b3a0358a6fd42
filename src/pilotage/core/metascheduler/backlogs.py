"""What each partition has to do, as far as the metascheduler knows, and how much more it should get.

Work is counted in *shares* of a partition: a task of which it can run twenty at once is a twentieth. A partition that is just
full has work of 1. It is given more ahead of time, about ``HORIZON_S`` of work: as much again of short tasks, an eighth of long
ones, and of tasks so short that they end by thousands as many as ended lately in that time. So it does not idle for want of a
message, and has little to give back if it is lost. Services are apart: they keep what they have, so what they leave is the
partition. When little is left it is given nothing ahead of time; see ``routing``.
"""

from __future__ import annotations

import msgspec

from pilotage.core.metascheduler.fitting import Fitting, Shapes, slots_on
from pilotage.core.metascheduler.groups import HORIZON_S, Group
from pilotage.core.metascheduler.state import PartitionRecord
from pilotage.model.ids import TemplateId
from pilotage.model.partitions import Load

LEAST_AHEAD, MOST_AHEAD = 0.125, 1.0
"""What waits in a partition, as a share of what runs there."""

UNKNOWN_S = 1.0
"""Tasks of which nothing is known are taken to last this long."""

RATE_INTERVAL_S = 1.0
BLOCKED = -1
"""A room that only the end of a service can make."""

_SLOTS_KEPT = 65_536
_ROUNDING = 1e-9


class Tally:
    """The tasks of one group that a partition has: their number, the share of one, and the seconds of all."""

    __slots__ = ("count", "group", "seconds", "share")

    def __init__(self, group: Group, share: float) -> None:
        self.group = group
        self.count = 0
        self.share = share
        self.seconds = 0.0


class Backlog:
    """What one partition has to do. ``index`` counts partitions in the order in which they came."""

    __slots__ = (
        "_fitting", "_interval_ended", "_interval_start", "_rate", "_slots", "_tallies", "cores", "count", "held_back",
        "idle_since", "index", "is_full", "likes", "name", "record", "seconds", "serving", "shapes", "told", "told_idle_since",
        "work",
    )  # fmt: skip

    def __init__(self, name: str, index: int, record: PartitionRecord, fitting: Fitting, now: float) -> None:
        self.name = name
        self.index = index
        self.record = record
        self.count = 0
        """Tasks that it has."""
        self.work = 0.0
        """Shares of the partition that they take, services left out."""
        self.serving = 0.0
        """Shares that services take."""
        self.seconds = 0.0
        """How long it will be busy with what it has."""
        self.told: Load | None = None
        """Its load, as it told last."""
        self.told_idle_since = now
        """Since when it tells of idle nodes, if it does."""
        self.idle_since = now
        """Since when it has no tasks, if it has none."""
        self.is_full = False
        """Whether it has no room for tasks of any length, services left out."""
        self.held_back = False
        """Whether it gets nothing for now, so that nodes of it become idle."""
        self._fitting = fitting
        self._tallies: dict[TemplateId, Tally] = {}
        self._rate = 0.0
        self._interval_start = now
        self._interval_ended = 0
        self.refresh()

    def refresh(self) -> None:
        """Take over which nodes the partition has now."""
        self.shapes: Shapes = self._fitting.shapes(self.record.nodes)
        self.likes = self._fitting.likes_of(self.record, self.shapes)
        self.cores = self._fitting.cores(self.record.nodes)
        self._slots = self._fitting.known_slots(self.likes)
        self.work = self.serving = self.seconds = 0.0
        self.count = 0
        self.is_full = False
        for tally in self._tallies.values():
            share = 1.0 / self.slots(tally.group)
            count, seconds = tally.count, tally.seconds * share / tally.share
            tally.count, tally.seconds, tally.share = 0, 0.0, share
            self._count(tally, count, seconds)

    @property
    def takes(self) -> bool:
        """Whether it can be given tasks now."""
        return self.record.life == "active" and self.is_willing

    @property
    def is_willing(self) -> bool:
        """Whether it takes tasks as soon as it is active."""
        return not self.held_back and not (self.told is not None and self.told.paused)

    @property
    def soon(self) -> float:
        """How much more work could start there by the time that all is done which runs there now."""
        return max(0.0, 2.0 * (1.0 - self.serving) - self.work)

    def slots(self, group: Group) -> int:
        """Return how many such tasks can run there at once; at least 1."""
        slots = self._slots.get(group.template)
        if slots is None:
            if len(self._slots) >= _SLOTS_KEPT:
                self._slots.clear()
            slots = self._slots[group.template] = slots_on(group.need, self.shapes)
        return slots

    def room(self, group: Group, *, ahead: bool = True) -> int:
        """Return how many more tasks of a group it should get now; ``ahead``: also those that have to wait there."""
        share, free = 1.0 / self.slots(group), 1.0 - self.serving
        if group.is_service:
            return int(free / share + _ROUNDING) or BLOCKED
        if self.serving and share > free + _ROUNDING:
            return BLOCKED
        seconds = group.seconds
        more = MOST_AHEAD if seconds is None else min(MOST_AHEAD, max(LEAST_AHEAD, HORIZON_S / max(seconds, _ROUNDING)))
        # Long tasks that end together are no rate.
        counts = not group.is_long and (ahead or group.seconds is not None)
        by_rate = self._by_rate if counts else 0
        room = 0
        if not ahead:
            room = max(1, int((free - self.work) / share + _ROUNDING)) if self.work < free - _ROUNDING else 0
        # Not before half of what is ahead is used up: then there is a message worth of tasks to send.
        elif self.work <= free * (1.0 + 0.5 * more) + _ROUNDING:
            room = max(1, int((free * (1.0 + more) - self.work) / share + _ROUNDING))
        if 2 * self.count <= by_rate:
            room = max(room, by_rate - self.count)
        return room

    def groups(self) -> list[Group]:
        """Return the groups of which it has tasks."""
        return [tally.group for tally in self._tallies.values()]

    def add(self, group: Group, count: int) -> None:
        """It got so many tasks more."""
        tally = self._tallies.get(group.template)
        if tally is None:
            tally = self._tallies[group.template] = Tally(group, 1.0 / self.slots(group))
        each = 0.0 if group.is_service else tally.share * (UNKNOWN_S if group.seconds is None else group.seconds)
        self._count(tally, count, count * each)

    def _count(self, tally: Tally, count: int, seconds: float) -> None:
        tally.count += count
        tally.seconds += seconds
        self.count += count
        self.seconds += seconds
        if tally.group.is_service:
            self.serving += count * tally.share
        else:
            self.work += count * tally.share
        self._note_room()

    @property
    def _by_rate(self) -> int:
        """How many tasks it has of those that end by thousands."""
        return int(max(self._rate, self._interval_ended) * HORIZON_S)

    def _note_room(self) -> None:
        most = (1.0 - self.serving) * (1.0 + 0.5 * MOST_AHEAD) + _ROUNDING
        self.is_full = self.work > most and 2 * self.count > self._by_rate

    def remove(self, template: TemplateId, count: int, now: float) -> None:
        """So many of its tasks are over, or are not its own any more."""
        tally = self._tallies[template]
        self._count(tally, -count, -tally.seconds * count / tally.count)
        if not tally.count:
            del self._tallies[template]
        if not self.count:
            # What is left is what rounding left.
            self.work = self.serving = self.seconds = 0.0
            self.idle_since = now
            self.is_full = False

    def note_ended(self, count: int, now: float) -> None:
        """So many of its tasks ended."""
        elapsed = now - self._interval_start
        if elapsed >= RATE_INTERVAL_S:
            self._rate = self._interval_ended / elapsed if elapsed < 2 * RATE_INTERVAL_S else 0.0
            self._interval_start, self._interval_ended = now, 0
        self._interval_ended += count
        self._note_room()

    def idle_nodes(self) -> tuple[int, float]:
        """Return how many of its nodes are idle, as far as is known, and since when."""
        if not self.count:
            return len(self.record.nodes), self.idle_since
        return (self.told.idle_nodes if self.told is not None else 0), self.told_idle_since

    def note_asked(self, count: int) -> None:
        """It was asked for so many idle nodes, which are hardly idle by the time that it is asked for more."""
        if self.told is not None:
            left = max(0, self.told.idle_nodes - count)
            self.told = msgspec.structs.replace(self.told, idle_nodes=left)

    def note_told(self, load: Load, now: float) -> None:
        """It told its load."""
        if not load.idle_nodes or self.told is None or not self.told.idle_nodes:
            self.told_idle_since = now
        self.told = load
