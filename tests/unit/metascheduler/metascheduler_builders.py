"""Short ways to say what the metascheduler's core is told, and a core to tell it to."""

from __future__ import annotations

import msgspec

from pilotage.core.metascheduler import actions, events, facts
from pilotage.core.metascheduler.core import MetaschedulerCore, Step
from pilotage.core.metascheduler.state import MetaschedulerState, Queued
from pilotage.model.ids import Attempt, Binding, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome, Times
from pilotage.model.partitions import Load, PartitionSpec
from pilotage.model.resources import Node, NodeShape
from pilotage.model.workload import Batch, Row, Template

EXECUTABLE = Template(executable="/bin/true")
FUNCTION = Template(mode="function", function=b"f")
SPEC = msgspec.Raw(msgspec.msgpack.encode({"kind": "venv"}))

_encode = msgspec.msgpack.Encoder().encode


def nodes(count: int, cores: int = 2) -> list[Node]:
    return [Node(index, f"node{index}", NodeShape(cores, 0, 64, 64)) for index in range(count)]


def part(name: str, count: int = 1, **rules: object) -> PartitionSpec:
    return PartitionSpec(name=name, nodes=count, **rules)  # type: ignore[arg-type]


def fresh_head(
    *plan: PartitionSpec, count: int = 0, state: MetaschedulerState | None = None, **options: object
) -> MetaschedulerCore:
    """A head over as many nodes of two cores as its partitions ask for, or more."""
    there = nodes(count or sum(spec.nodes for spec in plan))
    return MetaschedulerCore(plan, there, state=state, **options)  # type: ignore[arg-type]


def ready_head(*plan: PartitionSpec, count: int = 0, at: float = 0.0, **options: object) -> MetaschedulerCore:
    """A head whose partitions are active."""
    head = fresh_head(*plan, count=count, **options)
    head.start(at)
    for spec in plan:
        head.handle(greeted(spec.name, at=at))
    return head


def again(
    head: MetaschedulerCore, *plan: PartitionSpec, count: int = 0, at: float = 9.0, **options: object
) -> MetaschedulerCore:
    """Another head, from what the log of this one says."""
    state = msgspec.msgpack.decode(_encode(head.state), type=MetaschedulerState)
    another = fresh_head(*plan, count=count, state=state, **options)
    another.recover(at)
    another.start(at)
    return another


def greeted(partition: str, incarnation: int = 1, durable: int = 0, at: float = 0.0) -> events.PartitionGreeted:
    return events.PartitionGreeted(at, partition, incarnation, durable)


def submitted(
    number: int, uids: list[str], template: Template = EXECUTABLE, at: float = 1.0, binding: int = 1
) -> events.TasksSubmitted:
    """Tasks of one template; a template has the number of the message that brings it."""
    rows = [Row(TaskUid(uid), TemplateId(number)) for uid in uids]
    return events.TasksSubmitted(at, number, Binding(binding), Batch({TemplateId(number): template}, rows))


def outcome(uid: str, ending: Ending = Ending.DONE, attempt: int = 1, lease: int = 1, seconds: float = 1.0) -> Outcome:
    times = Times(1.0, 1.0, 1.0, 1.0 + seconds) if attempt else Times(1.0)
    return Outcome(TaskUid(uid), Binding(lease), Attempt(attempt), ending, times=times)


def arrived(partition: str, number: int, *outcomes: Outcome, at: float = 2.0) -> events.OutcomesArrived:
    return events.OutcomesArrived(at, partition, number, list(outcomes), msgspec.Raw(_encode(list(outcomes))))


def cancelled(number: int, *uids: str, at: float = 1.5) -> events.CancelRequested:
    return events.CancelRequested(at, number, [(TaskUid(uid), Binding(1)) for uid in uids])


def told(partition: str, load: Load, at: float = 2.0) -> events.ProgressTold:
    return events.ProgressTold(at, partition, load=load)


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def leased_by(step: Step) -> dict[str, list[str]]:
    """The tasks that a step leases, by partition."""
    leased: dict[str, list[str]] = {}
    for fact in step.facts:
        if isinstance(fact, facts.TasksLeased):
            leased.setdefault(fact.partition, []).extend(fact.tasks)
    return leased


def ended_by(step: Step) -> dict[str, tuple[Ending, str]]:
    """The outcomes that the head itself decided in a step."""
    return {
        each.task: (each.ending, each.message) for fact in step.facts if isinstance(fact, facts.Ended) for each in fact.outcomes
    }


def sent_to(head: MetaschedulerCore, partition: str, at: float = 1.0) -> list[Queued]:
    """Let the partition's link take all messages, and return them."""
    record = head.state.partitions[partition]
    sent = []
    while record.outbox:
        step = head.handle(events.PartitionLinkOpened(at, partition, record.numbered + 1))
        (send,) = [action for action in step.actions if isinstance(action, actions.SendMessage)]
        sent.append(record.unacknowledged[send.number])
    return sent
