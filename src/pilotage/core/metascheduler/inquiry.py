"""What can be asked of the core: what a task waits for or does, and how the pilot and its partitions are."""

from __future__ import annotations

from collections.abc import Mapping

from pilotage.core.metascheduler.backlogs import Backlog
from pilotage.core.metascheduler.queue import Queue
from pilotage.core.metascheduler.state import MetaschedulerState, PartitionRecord, TaskRecord
from pilotage.core.metascheduler.tasks import Tasks
from pilotage.model.ids import TaskUid
from pilotage.model.partitions import Load, PartitionStatus


class Inquiry:
    """Answers from the state, and from what is derived from it; changes nothing."""

    def __init__(
        self, state: MetaschedulerState, queue: Queue, backlogs: Mapping[str, Backlog], tasks: Tasks, barrier: int
    ) -> None:
        self._barrier = barrier
        self._state = state
        self._queue = queue
        self._backlogs = backlogs
        self._tasks = tasks

    @property
    def arrived(self) -> int:
        """How many tasks have arrived, whatever became of them."""
        return self._state.outcomes + len(self._state.tasks)

    def load(self) -> Load:
        """Return the sum of what the partitions told last, and of what waits here."""
        groups = self._queue.groups()
        waiting = sum(len(group.waiting) for group in groups)
        cores = sum(len(group.waiting) * group.need.ranks * group.need.cores for group in groups)
        shares = sum(len(group.waiting) * group.need.ranks * group.need.request.gpu_shares for group in groups)
        told = [each.told for each in self._backlogs.values() if each.told is not None and each.record.hires]
        return Load(
            waiting + sum(load.waiting for load in told),
            cores + sum(load.waiting_cores for load in told),
            sum(load.idle_nodes for load in told),
            sum(load.free_cores for load in told),
            bool(told) and all(load.paused for load in told),
            sum(load.nodes for load in told),
            sum(load.free_gpu_shares for load in told),
            sum(load.free_memory for load in told),
            shares + sum(load.waiting_gpu_shares for load in told),
            sum(load.running for load in told),
        )

    def summary(self) -> dict[str, str | int | float | list[str]]:
        """Return counts: tasks by what becomes of them, and for each partition its life, nodes and tasks."""
        state = self._state
        held = sum(len(group.waiting) for groups in self._queue.held.values() for group in groups.values())
        answer: dict[str, str | int | float | list[str]] = {
            "waiting": len(self._queue) - held + len(self._tasks.unserved),
            "awaiting environment": held,
            "leased": sum(partition.leased for partition in state.partitions.values()),
            "running": len(self._tasks.running),
            "services": list(state.services),
            "final": state.outcomes,
            "undelivered": len(state.unsent) + sum(len(outcomes) for outcomes in state.undelivered.values()),
            "ending": state.ending.reason if state.ending is not None else "",
            "partitions": [name for name, partition in state.partitions.items() if partition.living],
            "free nodes": len(state.free_nodes),
            "lost nodes": len(state.lost_nodes),
            "idle node seconds": state.idle_node_s,
            "free node seconds": state.free_node_s,
        }
        for name, partition in state.partitions.items():
            words: str = partition.life
            if partition.living:
                words += f", {len(partition.nodes)} nodes, {partition.leased} tasks"
            answer[f"partition {name}"] = f"{words}: {partition.reason}" if partition.reason else words
        return answer

    def partitions(self) -> list[PartitionStatus]:
        """Return how each partition is."""
        return [self._status(name, record) for name, record in self._state.partitions.items()]

    def _status(self, name: str, record: PartitionRecord) -> PartitionStatus:
        if record.life == "awaited":
            free = len(self._state.free_nodes)
            return PartitionStatus(name, "waiting", reason=f"waits for {record.size} nodes; {free} belong to nobody")
        if record.may_come:
            return PartitionStatus(name, "dormant", reason=f"{record.reason}; it comes again when tasks need it")
        told = self._backlogs[name].told if record.living else None
        running = min(record.leased, told.running) if told is not None else 0
        return PartitionStatus(name, record.life, len(record.nodes), running, record.leased - running, record.reason)

    def doing(self, uid: TaskUid) -> str:
        """Return in a word or two what the task does."""
        task = self._state.tasks.get(uid)
        if task is None:
            return "unknown"
        if task.partition:
            if uid in self._tasks.unloading:
                return "staging output"
            return "running" if uid in self._tasks.running else "leased"
        template = self._state.templates[task.row.template]
        return "awaiting environment" if template.named_env in self._queue.held and self._is_held(uid, task) else "waiting"

    def why(self, uid: TaskUid) -> str:
        """Return in a sentence what the task waits for, or does. What a partition knows more has to be asked there."""
        task = self._state.tasks.get(uid)
        if task is None:
            return "is not known to this pilot: it ended and was delivered, or it was never submitted here"
        if task.partition:
            return self._why_leased(uid, task)
        service = self._tasks.unserved.get(uid)
        if service is not None:
            return f"waits for the service {service!r} to be ready"
        if self._is_held(uid, task):
            name = self._state.templates[task.row.template].named_env
            return f"waits for the environment {name!r}, which nobody has asked for yet: Pilot.prepare_env prepares one"
        group = self._queue.group(task.row.template)
        if self.arrived < self._barrier and not group.is_service and self._state.ending is None:
            return f"waits until {self._barrier:,} tasks have arrived, as startup_barrier says; {self.arrived:,} have so far"
        request = group.wish.request
        if request.gang and (missing := request.gang_size - self._state.gangs[request.gang]) > 0:
            return (
                f"starts together with the other tasks of gang {request.gang!r}: {request.gang_size - missing:,} of "
                f"{request.gang_size:,} have come, {missing:,} {'is' if missing == 1 else 'are'} missing"
            )
        if group.route is None:
            wishes = next((wishes for each, wishes in self._queue.growing() if each is group), [])
            wanted = min((count for _, count in wishes), default=0)
            more = f": {wanted} nodes more would do" if wanted else ""
            return f"waits for a partition that it fits to come, or to grow{more}"
        return f"waits for its turn in {self._how_busy(group.route.fits)}"

    def _is_held(self, uid: TaskUid, task: TaskRecord) -> bool:
        groups = self._queue.held.get(self._state.templates[task.row.template].named_env, {})
        return task.row.template in groups and uid in groups[task.row.template].waiting

    def _why_leased(self, uid: TaskUid, task: TaskRecord) -> str:
        where = f"partition {task.partition!r}"
        if task.ending is not None:
            return f"is being ended in {where}: {task.ending_message}"
        if uid in self._tasks.running:
            attempt, _ = self._tasks.running[uid]
            return f"runs in {where}, attempt {attempt}"
        life = self._state.partitions[task.partition].life
        return f"was given to {where}, which is {life} and has {self._backlogs[task.partition].count} tasks"

    def _how_busy(self, names: tuple[str, ...]) -> str:
        shown = ", ".join(f"{name!r} ({self._state_of(name)})" for name in names[:3])
        if len(names) > 3:
            shown += f" or one of {len(names) - 3} more"
        return f"partition {shown}"

    def _state_of(self, name: str) -> str:
        backlog = self._backlogs[name]
        if backlog.record.life == "starting":
            return "starting"
        if backlog.told is not None and backlog.told.paused:
            return "paused"
        if backlog.held_back:
            return "held back so that nodes of it become idle"
        return f"{backlog.count} tasks"
