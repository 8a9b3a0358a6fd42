"""What the user wants changed of a plan while the pilot runs: a partition more, or one less.

A partition that is added begins at once if enough nodes belong to nobody. Else it is *awaited*: nodes are asked of partitions
that can spare some (see ``balance``), and tasks that only it could run wait for it. What can never be had is refused, and the
refusal is kept, so that the user finds it however it was told. A partition is not retired while tasks wait that could go
nowhere else.

The client asks first, by ``against_addition`` and ``against_retirement``, so that its user hears a refusal at once; what it
asks for then is judged again, as others may have been faster.
"""

from __future__ import annotations

from collections.abc import Sequence

from pilotage.core.metascheduler import actions, events, facts
from pilotage.core.metascheduler.journal import Journal
from pilotage.core.metascheduler.partitions import Partitions
from pilotage.core.metascheduler.plan import check_addition, nodes_wanted
from pilotage.core.metascheduler.queue import Queue
from pilotage.core.metascheduler.state import PartitionRecord
from pilotage.core.metascheduler.tasks import Tasks
from pilotage.errors import InvalidPilot, nearest
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.partitions import PartitionSpec
from pilotage.model.resources import Node

RETIRED = "retired by the user"


class Changes:
    """Judges what the user wants, and has it done."""

    def __init__(
        self,
        journal: Journal,
        nodes: Sequence[Node],
        queue: Queue,
        partitions: Partitions,
        tasks: Tasks,
    ) -> None:
        self._journal = journal
        self._state = journal.state
        self._nodes = nodes
        self._queue = queue
        self._partitions = partitions
        self._tasks = tasks
        self._awaited: dict[str, PartitionRecord] = {}

    def recover(self) -> None:
        """Take over what the state says."""
        self._awaited = {name: record for name, record in self._state.partitions.items() if record.life == "awaited"}

    @property
    def awaited(self) -> dict[str, PartitionRecord]:
        """The partitions that have no nodes yet, the first one first."""
        if self._awaited:
            known = self._state.partitions
            self._awaited = {name: record for name, record in self._awaited.items() if known.get(name) is record}
        return self._awaited

    # ---------------------------------------------------------------------------------------------------------- additions

    def against_addition(self, spec: PartitionSpec) -> str:
        """Return why a partition cannot be added to this pilot; empty: it can."""
        ending = self._state.ending
        if ending is not None:
            return f"the pilot is ending ({ending.reason}); submit another pilot"
        there = [(name, record) for name, record in self._state.partitions.items() if record.life != "refused"]
        taken = dict.fromkeys(each for name, record in there for each in (name, record.spec.name))
        tags = {tag for _, record in there if record.living or record.may_come for tag in record.spec.tags}
        available = self._available() - sum(record.size for record in self.awaited.values())
        try:
            check_addition(spec, taken, tags, max(0, available), self._nodes)
        except InvalidPilot as error:
            return str(error)
        return ""

    def _available(self) -> int:
        """Return how many nodes can be had for partitions that are not there yet, taken together."""
        nodes = len(self._state.free_nodes)
        for record in self._state.partitions.values():
            if record.life == "retiring":
                nodes += len(record.nodes)
            elif record.hires and record.spec.most_nodes:
                nodes += max(0, len(record.nodes) - max(1, record.spec.least_nodes))
        return nodes

    def partition_asked(self, event: events.PartitionAsked) -> None:
        """Add a partition, now or when it has nodes; or refuse it."""
        now, spec, free = event.time, event.spec, sorted(self._state.free_nodes)
        reason = self.against_addition(spec)
        if reason:
            self._refuse(now, event.number, spec, reason)
        elif len(free) >= nodes_wanted(spec) and not self.awaited:
            self._partitions.add(now, event.number, spec.name, spec, free[: spec.nodes or spec.most_nodes or len(free)])
        else:
            self._journal.emit(facts.PartitionAwaited(now, event.number, spec, nodes_wanted(spec)))
            self._awaited[spec.name] = self._state.partitions[spec.name]
            self._queue.is_stale = True

    def look(self, now: float) -> None:
        """Refuse awaited partitions that cannot come any more, as nodes are lost or others have grown."""
        if not self.awaited:
            return
        left = self._available()
        for record in list(self.awaited.values()):
            if record.size <= left:
                left -= record.size
                continue
            reason = f"it waited for {record.size} nodes, and no more than {left} can be had any more"
            self._refuse(now, 0, record.spec, reason)
            self._queue.is_stale = True

    def _refuse(self, now: float, number: int, spec: PartitionSpec, reason: str) -> None:
        self._journal.stale += 1
        self._journal.emit(facts.PartitionRefused(now, number, spec, reason))
        self._journal.act(actions.TellUser(f"partition {spec.name!r} was not added: {reason}"))

    # -------------------------------------------------------------------------------------------------------- retirements

    def against_retirement(self, name: str, drain: bool) -> str:
        """Return why a partition cannot be retired; empty: it can, or is already."""
        found = self._found(name)
        if found is None:
            known = dict.fromkeys(each.spec.name for each in self._state.partitions.values() if each.life != "refused")
            return f"this pilot has no partition {name!r}{nearest(name, known) or '.'} It has {', '.join(known)}"
        key, record = found
        if not record.hires and not record.may_come and not (record.life == "retiring" and not drain):
            return ""
        count, example = self._bound_to(key, drain)
        if not count:
            return ""
        those = f"{example!r}" if count == 1 else f"{count} tasks, such as {example!r},"
        return (
            f"partition {name!r} cannot be retired: {those} {'has' if count == 1 else 'have'} not ended, and no other "
            "partition of this pilot can run what it leaves; wait for its tasks, or cancel them, or add a partition that "
            "takes them first"
        )

    def _found(self, name: str) -> tuple[str, PartitionRecord] | None:
        """Return the partition of this name, or the present one of those that have followed it."""
        alike = [(key, each) for key, each in self._state.partitions.items() if name in (key, each.spec.name)]
        alike = [(key, each) for key, each in alike if each.life != "refused"]
        present = [(key, each) for key, each in alike if each.living or each.may_come]
        return next(iter(reversed(present or alike)), None)

    def _bound_to(self, key: str, drain: bool) -> tuple[int, TaskUid]:
        """Return how many tasks no other partition could run, and one of them: of those that wait here, and of its own.

        What it has it still does when it drains.
        """
        state, queue = self._state, self._queue
        waiting: dict[TemplateId, list[TaskUid]] = {group.template: list(group.waiting) for group in queue.groups()}
        for uid in self._tasks.unserved:
            waiting.setdefault(state.tasks[uid].row.template, []).append(uid)
        leased: dict[TemplateId, list[TaskUid]] = {}
        if not drain:
            for uid in self._tasks.leased_to(key):
                leased.setdefault(state.tasks[uid].row.template, []).append(uid)
        bound: list[TaskUid] = []
        for template in {**waiting, **leased}:
            group = queue.group(template)
            if queue.may_run(group, without=key):
                continue
            if queue.may_run(group):
                bound += waiting.get(template, [])
            bound += leased.get(template, [])
        return len(bound), bound[0] if bound else TaskUid("")

    def retirement_asked(self, event: events.RetirementAsked) -> None:
        """End a partition of which the user wants no more."""
        now, number, drain = event.time, event.number, event.drain
        found, reason = self._found(event.partition), self.against_retirement(event.partition, drain)
        if found is None or reason:
            self._journal.act(actions.TellUser(reason))
            self._pass_over(now, number)
            return
        key, record = found
        if record.may_come or (record.released and record.life == "retiring" and drain):
            self._journal.emit(facts.PartitionDismissed(now, number, key))
            self._queue.is_stale = True
        elif not self._partitions.retire(now, number, key, drain, RETIRED):
            self._pass_over(now, number)

    def _pass_over(self, now: float, number: int) -> None:
        self._journal.stale += 1
        if number:
            # Nothing changes, but the client is told that its message is in the log, so it must be.
            self._tasks.note_number(now, number)
