"""What the metascheduler costs: microseconds of CPU for each task, of its core alone, with 64 partitions.

Tasks come from the client in messages of 1,000, are routed and leased, end in their partitions at once, and are delivered.
Counted is all that the core does in between, the encoding of its log's records too, and nothing of the partitions. The cases:

* one template: all tasks are alike.
* mixed: executables, functions and wide tasks, of 64 templates, with kinds of partitions for each.
* many templates: every tenth task brings a template of its own.
* many templates that wait: the same, and all are there before the first one ends.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import msgspec

from pilotage.bench.measure import Row, row
from pilotage.core.client.state import QueuedTasks
from pilotage.core.metascheduler import actions, events
from pilotage.core.metascheduler.core import MetaschedulerCore, Step
from pilotage.model.ids import Attempt, Binding, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome, Times
from pilotage.model.partitions import PartitionSpec
from pilotage.model.resources import Node, NodeShape, Request
from pilotage.model.workload import Batch, Template
from pilotage.model.workload import Row as TaskRow

PARTITIONS = 64
NODES_EACH = 16
PER_MESSAGE = 1000
TASK_S = 1.0
TARGET_US = 10.0

_SHAPE = NodeShape(cores=56, gpus=8, memory=8192)
_encode = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(Batch).decode


class _Head:
    """The core, its client, and partitions in which every task ends as soon as it is there.

    ``spent_s``: CPU time that the core has used.
    """

    def __init__(self, plan: list[PartitionSpec]) -> None:
        nodes = [Node(index, f"node{index}", _SHAPE) for index in range(PARTITIONS * NODES_EACH)]
        self.core = MetaschedulerCore(plan, nodes)
        self.spent_s = 0.0
        self.now = 0.0
        self.delivered = 0
        self._messages = 0
        self._upward: dict[str, int] = {}
        self._todo: deque[events.Event] = deque()
        self.holds = False
        """Whether tasks that are leased do not end yet."""
        self._held: deque[tuple[str, int]] = deque()
        self._perform(self._timed(lambda: self.core.start(0.0)))
        for spec in plan:
            self._handle(events.PartitionGreeted(0.0, spec.name, 1, 0))
        self.spent_s = 0.0

    def submit(self, batch: Batch) -> None:
        self._messages += 1
        self._handle(events.TasksSubmitted(self.now, self._messages, Binding(1), batch))

    def finish(self) -> None:
        """Let all tasks end that have begun, or will, one message after another."""
        while self._held:
            self._end(*self._held.popleft())
            self._work_off()

    def _handle(self, event: events.Event) -> None:
        self._todo.append(event)
        self._work_off()

    def _work_off(self) -> None:
        while self._todo or self.core.has_news:
            following = self._todo.popleft() if self._todo else events.LinkOpened(self.now)
            self._perform(self._timed(lambda following=following: self.core.handle(following)))  # type: ignore[misc]

    def _timed(self, call: Callable[[], Step]) -> Step:
        begin = time.process_time()
        step = call()
        if step.facts:
            _encode(step.facts)
        self.spent_s += time.process_time() - begin
        return step

    def _perform(self, step: Step) -> None:
        for action in step.actions:
            if isinstance(action, actions.OfferMessages):
                for _ in range(len(self.core.state.partitions[action.partition].outbox)):
                    number = self.core.state.partitions[action.partition].numbered + 1
                    opened = events.PartitionLinkOpened(self.now, action.partition, number)
                    self._perform(self._timed(lambda opened=opened: self.core.handle(opened)))  # type: ignore[misc]
            elif isinstance(action, actions.SendMessage):
                if self.holds:
                    self._held.append((action.partition, action.number))
                else:
                    self._end(action.partition, action.number)
            elif isinstance(action, actions.SendOutcomes):
                self.delivered += len(action.outcomes)
                self._todo.append(events.OutcomesReceived(self.now, action.number))

    def _end(self, partition: str, number: int) -> None:
        """All tasks of a message that a partition got are over."""
        queued = self.core.state.partitions[partition].unacknowledged[number]
        assert isinstance(queued, QueuedTasks)
        self.now += 0.001
        times = Times(self.now, self.now, self.now, self.now + TASK_S)
        outcomes = [
            Outcome(each.uid, queued.binding, Attempt(1), Ending.DONE, 0, times=times)
            for each in _decode_batch(queued.batch).rows
        ]
        upward = self._upward[partition] = self._upward.get(partition, 0) + 1
        self._todo.append(events.PartitionAcknowledged(self.now, partition, number))
        self._todo.append(events.OutcomesArrived(self.now, partition, upward, outcomes, msgspec.Raw(_encode(outcomes))))


def _alike(number: int) -> tuple[int, Template]:
    return 0, Template(executable="/bin/true")


def _mixed(number: int) -> tuple[int, Template]:
    kind = number % 64
    if kind < 32:
        return kind, Template(mode="function", function=b"f", request=Request(cores=1 + kind % 8))
    if kind < 60:
        return kind, Template(executable="/bin/true", request=Request(cores=1 + kind % 28, memory=kind))
    return kind, Template(executable="/bin/mpi", request=Request(ranks=56 * (kind - 58)))


def _many(number: int) -> tuple[int, Template]:
    return number // 10, Template(executable="/bin/true", request=Request(memory=1 + number // 10 % 8000))


def _measure(
    plan: list[PartitionSpec], count: int, template_of: Callable[[int], tuple[int, Template]], *, waits: bool = False
) -> float:
    head = _Head(plan)
    head.holds = waits
    known: set[int] = set()
    for first in range(0, count, PER_MESSAGE):
        rows, templates = [], {}
        for number in range(first, min(first + PER_MESSAGE, count)):
            template_id, template = template_of(number)
            if template_id not in known:
                known.add(template_id)
                templates[TemplateId(template_id)] = template
            rows.append(TaskRow(TaskUid(f"task.{number:08d}"), TemplateId(template_id), ("--input", f"{number}.dat")))
        head.submit(Batch(templates, rows))
    head.finish()
    assert head.delivered == count, f"{head.delivered} of {count} tasks were delivered"
    return head.spent_s / count * 1e6


def run(quick: bool = False) -> list[Row]:
    """Microseconds of CPU for each task."""
    count = 20_000 if quick else 200_000
    alike = [PartitionSpec(name=f"p{number}", nodes=NODES_EACH) for number in range(PARTITIONS)]
    kinds = [
        PartitionSpec(name=f"p{number}", nodes=NODES_EACH, kinds=("function",) if number % 2 else ("executable",))
        for number in range(PARTITIONS)
    ]
    cases = (
        ("one template", alike, _alike, False),
        ("mixed", kinds, _mixed, False),
        ("many templates", alike, _many, False),
        ("many templates that wait", alike, _many, True),
    )
    return [
        row(
            f"metascheduler: {name}, {PARTITIONS} partitions",
            _measure(plan, count, template_of, waits=waits),
            "us of CPU per task",
            target=f"< {TARGET_US:g}",
        )
        for name, plan, template_of, waits in cases
    ]
