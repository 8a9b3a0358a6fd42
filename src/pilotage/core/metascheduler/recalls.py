"""Tasks that wait in one partition are had back for another that has nothing to do.

A partition is given some tasks ahead of time, and may be longer at those before them than was thought; another may come, get
nodes, or run dry when nothing is left here for it. Where one has had room for ``SETTLE_S``, and nothing that waits here fits
it, another is asked for what it has had for ``WAIT_S`` and does not run, the last ones first, and for no more than can start
at once. It gives back what has not been handed to a runner: that was never begun, and is dealt again; the rest stays.

So that tasks do not go to and fro, one that was given back ``MOST_RECALLS`` times stays where it goes then. A partition has one
request at a time. One that could give back less than half of what it was asked for is not asked again for a while, each time
for longer: what is known here of what runs there is late.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pilotage.core.metascheduler import actions, events, facts
from pilotage.core.metascheduler.backlogs import Backlog
from pilotage.core.metascheduler.groups import Group
from pilotage.core.metascheduler.journal import Journal
from pilotage.core.metascheduler.partitions import Partitions
from pilotage.core.metascheduler.queue import Queue
from pilotage.core.metascheduler.tasks import Tasks
from pilotage.model.ids import TaskUid, TemplateId

LOOK_S = 1.0
"""Partitions are looked at this often at the most."""

SETTLE_S = 2.0
WAIT_S = 5.0
MOST_RECALLS = 3
PAUSE_S = 4.0
LONGEST_PAUSE_S = 120.0

_ROUNDING = 1e-9


class Recalls:
    """Asks for tasks, and takes them back."""

    def __init__(
        self, journal: Journal, queue: Queue, backlogs: Mapping[str, Backlog], partitions: Partitions, tasks: Tasks
    ) -> None:
        self._journal = journal
        self._state = journal.state
        self._queue = queue
        self._backlogs = backlogs
        self._partitions = partitions
        self._tasks = tasks
        self._looked = float("-inf")
        self._look_again = False
        """Whether a partition has told of its load since the last look, or something could be asked for soon."""
        self._roomy: dict[str, float] = {}
        """Partitions that have room, and since when."""
        self._pauses: dict[str, tuple[float, float]] = {}
        """Partitions that gave back little: until when they are not asked, and how long that is."""
        self._expecting: dict[int, frozenset[str]] = {}
        """By request that was not answered yet, the partitions for which it was made."""

    def note_load(self) -> None:
        """A partition has told of its load."""
        self._look_again = len(self._backlogs) > 1

    def next_look(self) -> float | None:
        """Return when ``look`` is due, as far as time alone makes it."""
        return self._looked + LOOK_S if self._look_again else None

    def look(self, now: float) -> None:
        """Ask for tasks, if it is time and there is somebody to run them."""
        if len(self._backlogs) < 2:
            self._look_again = False
            return
        if now < self._looked + LOOK_S:
            return
        self._looked = now
        givers = [each for each in self._backlogs.values() if self._may_give(each)]
        takers = self._takers(now) if givers else []
        self._look_again = bool(givers and self._roomy)
        if not takers or self._state.ending is not None:
            return
        spare = {each.name: 1.0 - each.serving - each.work for each in takers}
        for giver in sorted(givers, key=lambda each: (-each.seconds, each.index)):
            if now >= self._pauses.get(giver.name, (now, 0.0))[0]:
                self._ask(now, giver, takers, spare)

    @staticmethod
    def _may_give(backlog: Backlog) -> bool:
        record, told = backlog.record, backlog.told
        return record.life == "active" and told is not None and told.waiting > 0 and not record.recalls

    def _takers(self, now: float) -> list[Backlog]:
        """Return the partitions that have had room for a while, and expect nothing."""
        pending = {recall for each in self._backlogs.values() for recall in each.record.recalls}
        self._expecting = {recall: names for recall, names in self._expecting.items() if recall in pending}
        expecting = {name for names in self._expecting.values() for name in names}
        roomy = [each for each in self._backlogs.values() if _has_room(each)]
        self._roomy = {each.name: self._roomy.get(each.name, now) for each in roomy}
        return [each for each in roomy if now - self._roomy[each.name] >= SETTLE_S and each.name not in expecting]

    def _ask(self, now: float, giver: Backlog, takers: Iterable[Backlog], spare: dict[str, float]) -> None:
        """Ask a partition for tasks that others can start; take what they will need for that off their ``spare`` room."""
        others = {each.name: each for each in takers if each is not giver}
        goes_to: dict[TemplateId, list[tuple[str, float]]] = {}
        for group in giver.groups():
            if _may_move(group):
                fitting = [others[name] for name in self._queue.fits(group) if name in others]
                places = [(each.name, 1.0 / each.slots(group)) for each in fitting]
                places = [(name, share) for name, share in places if share <= spare[name] + _ROUNDING]
                if places:
                    goes_to[group.template] = places
        if not goes_to or giver.told is None:
            return
        waiting = self._waiting_in(giver, goes_to)
        if not waiting:
            self._pause(now, giver.name)
            return
        chosen: list[TaskUid] = []
        wanting: set[str] = set()
        for since, uid, template in reversed(waiting):
            if now - since < WAIT_S:
                continue
            for name, share in goes_to[template]:
                if share <= spare[name] + _ROUNDING:
                    spare[name] -= share
                    wanting.add(name)
                    chosen.append(uid)
                    break
            if len(chosen) == giver.told.waiting:
                break
        if not chosen:
            self._pauses[giver.name] = max(waiting[0][0] + WAIT_S, now + 0.5 * PAUSE_S), 0.5 * PAUSE_S
            return
        recall = self._state.recalls + 1
        self._journal.emit(facts.TasksRecalled(now, giver.name, recall, chosen))
        self._expecting[recall] = frozenset(wanting)
        self._journal.act(actions.OfferMessages(giver.name))

    def _waiting_in(self, giver: Backlog, templates: Mapping[TemplateId, object]) -> list[tuple[float, TaskUid, TemplateId]]:
        """Return the tasks of these templates that a partition has and is not known to run, as they came, and since when."""
        running, places = self._tasks.running, self._state.places
        found: list[tuple[float, TaskUid, TemplateId]] = []
        left = giver.count
        for uid, task in self._state.tasks.items():
            if task.partition != giver.name:
                continue
            template = task.row.template
            may_move = template in templates and task.ending is None and task.recalls < MOST_RECALLS
            # Where others look for it, it has to stay.
            if may_move and uid not in running and uid not in places:
                found.append((task.leased, uid, template))
            left -= 1
            if not left:
                break
        found.sort(key=lambda each: each[0])
        return found

    def given_back(self, event: events.TasksGivenBack) -> None:
        """Take an answer."""
        record = self._state.partitions.get(event.partition)
        asked = record.recalls.get(event.recall, 0) if record is not None else 0
        if not self._partitions.tasks_given_back(event):
            return
        if 2 * len(event.tasks) < asked:
            self._pause(event.time, event.partition)
        else:
            self._pauses.pop(event.partition, None)

    def _pause(self, now: float, name: str) -> None:
        _, pause = self._pauses.get(name, (now, 0.5 * PAUSE_S))
        pause = min(2.0 * pause, LONGEST_PAUSE_S)
        self._pauses[name] = now + pause, pause


def _has_room(backlog: Backlog) -> bool:
    told = backlog.told
    is_waiting = told is None or told.waiting
    return backlog.takes and not is_waiting and backlog.work < 1.0 - backlog.serving - _ROUNDING


def _may_move(group: Group) -> bool:
    request = group.wish.request
    return not (group.is_service or request.party or request.beside)
