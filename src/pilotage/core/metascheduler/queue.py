"""Tasks that wait at the metascheduler: by template, and templates by which partitions can run them.

Tasks of a template go the same way, so decisions are made for a ``Group`` of them. Groups that fit the same partitions form a
``Route``: there the one of the highest priority goes first, among equals the one that came first, and none overtakes. Groups
that fit no partition as it is now wait beside (``unplaced``) as long as one may grow or come that they fit; those whose named
environment nobody has asked for wait for that (``held``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pilotage.core.agent.waiting import ALWAYS_THERE
from pilotage.core.metascheduler.backlogs import Backlog
from pilotage.core.metascheduler.fitting import Fitting
from pilotage.core.metascheduler.groups import Group, Route
from pilotage.core.metascheduler.state import NOWHERE, MetaschedulerState, PartitionRecord
from pilotage.model.ids import TaskUid, TemplateId


class Queue:
    """Who waits, and for what. Derived from the state; ``backlogs`` are those of all living partitions."""

    def __init__(self, state: MetaschedulerState, fitting: Fitting, backlogs: Mapping[str, Backlog]) -> None:
        self._state = state
        self._fitting = fitting
        self._backlogs = backlogs
        self._groups: dict[TemplateId, Group] = {}
        self._routes: dict[tuple[str, ...], Route] = {}
        self._arrivals = 0
        self.unplaced: dict[TemplateId, Group] = {}
        self.held: dict[str, dict[TemplateId, Group]] = {}
        self.is_stale = False
        """Whether partitions have changed so that groups may fit others."""
        self._known_to_hire: list[Backlog] = []
        self._alike: dict[int, list[Backlog]] = {}
        """The partitions that take tasks, those together that are alike."""
        self._fits: dict[tuple[int, ...], tuple[str, ...]] = {}
        """The names of partitions of so many kinds that are alike."""
        self._counts: dict[tuple[str, ...], list[tuple[Backlog, int]]] = {}
        """Of partitions one of each kind, with the number of those that are like it."""

    def group(self, template_id: TemplateId) -> Group:
        """Return the group of a template's tasks."""
        group = self._groups.get(template_id)
        if group is None:
            template = self._state.templates[template_id]
            group = self._groups[template_id] = Group(template_id, template, self._fitting.need(template.request))
        return group

    def __len__(self) -> int:
        return sum(len(group.waiting) for group in self.groups())

    def groups(self) -> list[Group]:
        """Return the groups of which tasks wait."""
        return [group for group in self._groups.values() if group.home is not None]

    def routes_in_turn(self) -> list[Route]:
        """Return the routes on which tasks wait, the first one first."""
        if len(self._routes) < 2:
            return list(self._routes.values())
        return sorted(self._routes.values(), key=Route.turn)

    # -------------------------------------------------------------------------------------------------------- in and out

    def enqueue(self, template: TemplateId, uids: Iterable[TaskUid], *, first: bool = False) -> str:
        """Let tasks of one template wait, before the others of it (``first``) or behind.

        Returns why they never can run, or "". If they cannot, all that wait of the template cannot, and none do any more.
        """
        group = self.group(template)
        waiting, before = group.waiting, len(group.waiting)
        if first:
            for uid in reversed(list(uids)):
                waiting[uid] = None
                waiting.move_to_end(uid, last=False)
        else:
            for uid in uids:
                waiting[uid] = None
        if group.route is not None:
            group.route.work += (len(waiting) - before) * group.share
        return "" if group.home is not None or not group.waiting else self._file(group)

    def withdraw(self, uid: TaskUid, template: TemplateId) -> bool:
        """Take a task out; return False if it does not wait here."""
        group = self._groups.get(template)
        if group is None or uid not in group.waiting:
            return False
        del group.waiting[uid]
        if group.route is not None:
            group.route.work -= group.share
        if not group.waiting:
            self._unfile(group)
        return True

    def take(self, group: Group, count: int) -> list[TaskUid]:
        """Take out the first tasks of a group."""
        if count >= len(group.waiting):
            taken = list(group.waiting)
            if group.route is not None:
                group.route.work -= len(taken) * group.share
            group.waiting.clear()
            self._unfile(group)
            return taken
        if group.route is not None:
            group.route.work -= count * group.share
        first = group.waiting.popitem
        return [first(last=False)[0] for _ in range(count)]

    def note_placed(self, uids: Iterable[TaskUid]) -> None:
        """These were given to a partition, or ended: others may wait for that."""
        places = self._state.places
        if places:
            self.is_stale |= any(uid in places for uid in uids)

    def drop(self, group: Group) -> list[TaskUid]:
        """Take out all tasks of a group."""
        return self.take(group, len(group.waiting))

    # ------------------------------------------------------------------------------------------------------------ filing

    def refile(self) -> list[tuple[Group, str]]:
        """Look anew where all groups can run; return those that nowhere can any more, and why."""
        self._known_to_hire = []
        self.is_stale = False
        hopeless = []
        # Also of those that a log left waiting though they fit nowhere: nobody was to conclude that in a job that ended.
        groups = sorted((group for group in self._groups.values() if group.waiting), key=lambda group: group.arrival)
        # Routes whose partitions have changed begin anew: none of them is left before the first group is filed.
        for group in groups:
            self._unfile(group)
        for group in groups:
            reason = self._file(group)
            if reason:
                hopeless.append((group, reason))
        return hopeless

    def _file(self, group: Group) -> str:
        state = self._state
        self._arrivals += not group.arrival
        group.arrival = group.arrival or self._arrivals
        name = state.templates[group.template].named_env
        if name not in ALWAYS_THERE and name not in state.environments:
            group.home = self.held.setdefault(name, {})
        else:
            fits = self.fits(group)
            if fits:
                route = group.route = self._routes.get(fits)
                if route is None:
                    route = group.route = self._routes[fits] = Route(fits, [self._backlogs[name] for name in fits])
                ordered = any(self._backlogs[name].record.spec.scheduler.order == "priority" for name in fits)
                group.level = group.priority if ordered else 0
                group.home = route.levels.setdefault(group.level, {})
                group.share = 1.0 / sum(backlog.slots(group) * count for backlog, count in self.counts(fits))
                route.work += len(group.waiting) * group.share
                route.services += group.is_service
            else:
                reason = self._hopeless(group)
                if reason:
                    return reason
                group.home = self.unplaced
        group.home[group.template] = group
        return ""

    def _unfile(self, group: Group) -> None:
        if group.home is None:
            return
        del group.home[group.template]
        if not group.waiting:
            group.arrival = 0
        route, group.home, group.route = group.route, None, None
        if route is not None:
            route.work -= len(group.waiting) * group.share
            route.services -= group.is_service
            if not route.levels[group.level]:
                del route.levels[group.level]
            if not route.levels:
                del self._routes[route.fits]
        else:
            self.held = {name: groups for name, groups in self.held.items() if groups}

    def fits(self, group: Group) -> tuple[str, ...]:
        """Return the partitions that can run such tasks, as they are now, and may be asked to."""
        wish, request, against = group.wish, group.wish.request, self._fitting.against
        if wish.partition or wish.names_nodes or request.beside or request.party or group.refused_by:
            return tuple(each.name for each in self._open_to(group) if not against(wish, each.record, each.shapes, each.likes))
        hiring = self._hiring()
        kinds = tuple(
            kind for kind, (first, *_) in self._alike.items() if not against(wish, first.record, first.shapes, first.likes)
        )
        fits = self._fits.get(kinds)
        if fits is None:
            chosen = {each.name for kind in kinds for each in self._alike[kind]}
            fits = self._fits[kinds] = tuple(each.name for each in hiring if each.name in chosen)
        return fits

    def is_hopeless(self, group: Group) -> bool:
        """Tell whether no partition can run such tasks, and none will."""
        return not self.fits(group) and bool(self._hopeless(group))

    def counts(self, fits: tuple[str, ...]) -> list[tuple[Backlog, int]]:
        """Return of these partitions one of each kind that are alike, and how many are."""
        counts = self._counts.get(fits)
        if counts is None:
            found: dict[int, tuple[Backlog, int]] = {}
            for name in fits:
                backlog = self._backlogs[name]
                first, count = found.get(backlog.likes, (backlog, 0))
                found[backlog.likes] = first, count + 1
            counts = self._counts[fits] = list(found.values())
        return counts

    def note_refused(self, group: Group, partition: str) -> None:
        """A partition could not place such a task, as it is now."""
        group.refused_by.add(partition)
        self.is_stale = True

    def forget_refusals(self, partition: str) -> None:
        """The partition has more nodes than before."""
        for group in self._groups.values():
            group.refused_by.discard(partition)

    def _open_to(self, group: Group, *, grown: bool = False) -> list[Backlog]:
        """Return the partitions that may be asked to run such tasks: where their companions are, or else any that hires.

        ``grown``: those, too, that could not as they are now, and might if they had more nodes.
        """
        state, request = self._state, group.wish.request
        hiring = self._hiring()
        if group.refused_by and not grown:
            hiring = [each for each in hiring if each.name not in group.refused_by]
        if request.beside:
            where = NOWHERE if self._awaits_another(group) else state.places.get(TaskUid(request.beside), NOWHERE)
            return [each for each in hiring if each.name == where]
        if request.party:
            where = state.anchors.get(request.party, NOWHERE)
            return [each for each in hiring if each.name == where] or hiring
        return hiring

    def _hiring(self) -> list[Backlog]:
        """Return the partitions that take tasks, now or when they become active."""
        if self.is_stale or not self._known_to_hire:
            self._known_to_hire = [each for each in self._backlogs.values() if each.record.hires]
            self._alike, self._fits, self._counts = {}, {}, {}
            for each in self._known_to_hire:
                # Those that are asked for nodes may be left with any.
                kind = -each.index if each.record.reclaims else each.likes
                self._alike.setdefault(kind, []).append(each)
        return self._known_to_hire

    def _awaits_another(self, group: Group) -> bool:
        """Tell whether its tasks are to run beside one that has no place yet, and does not itself wait for these."""
        state, request = self._state, group.wish.request
        passed = {group.template}
        while request.beside and state.places.get(TaskUid(request.beside)) == NOWHERE:
            template = state.tasks[TaskUid(request.beside)].row.template
            if template in passed:
                return False
            passed.add(template)
            request = state.templates[template].request
        return len(passed) > 1

    def _hopeless(self, group: Group) -> str:
        """Return why such tasks, which fit no partition now, never will; "" if they may."""
        wish = group.wish
        # Nobody is left to run anything: another pilot may be.
        if self._awaits_another(group) or self._state.is_bereft:
            return ""
        open_to = self._open_to(group, grown=True)
        if wish.request.beside and not open_to:
            return (
                f"it is to run beside task {wish.request.beside!r}, and no partition is known to have run that one: it never "
                "began, ended long ago, or its partition is over; name a task that runs or ran lately in this pilot, or none"
            )
        if next(self._growing(group, open_to), None) is not None:
            return ""
        # What is asked back may stay; what names nodes may fit when it is known which do.
        for backlog in open_to:
            record = backlog.record
            if record.reclaims and (wish.names_nodes or not self._fitting.against_own(wish, record, backlog.shapes)):
                return ""
        return self._fitting.refusal(wish)

    def may_run(self, group: Group, *, without: str = "") -> bool:
        """Tell whether such tasks fit a partition, now or when it has grown or come; ``without``: another than this one."""
        wish, dormant = group.wish, self._state.dormant()
        for backlog in self._open_to(group):
            if backlog.name == without:
                continue
            record, shapes = backlog.record, backlog.shapes
            fits_own = not wish.names_nodes and not self._fitting.against_own(wish, record, shapes)
            if fits_own or not self._fitting.against(wish, record, shapes, backlog.likes):
                return True
            if self._fitting.growth(wish, backlog.record, backlog.shapes, without=without):
                return True
        left = [record for record in dormant.values() if record is not self._state.partitions.get(without)]
        return any(self._fitting.growth(wish, record, {}, without=without) for record in left)

    def growing(self) -> Iterator[tuple[Group, list[tuple[PartitionRecord, int]]]]:
        """Yield the groups that fit no partition, in turn, with those that they fit when these have so many nodes more."""
        for group in sorted(self.unplaced.values(), key=lambda group: (-group.priority, group.arrival)):
            wishes = list(self._growing(group, self._open_to(group, grown=True)))
            if wishes:
                yield group, wishes

    def _growing(self, group: Group, open_to: Iterable[Backlog]) -> Iterator[tuple[PartitionRecord, int]]:
        wish, fitting = group.wish, self._fitting
        for backlog in open_to:
            wanted = fitting.growth(wish, backlog.record, backlog.shapes)
            if wanted:
                yield backlog.record, wanted - len(backlog.record.nodes)
        if not wish.request.beside:
            for record in self._state.dormant().values():
                wanted = fitting.growth(wish, record, {})
                if wanted:
                    yield record, wanted
