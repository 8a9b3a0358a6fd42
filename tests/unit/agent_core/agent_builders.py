"""Short ways to say what the agent's core is told, and a core to tell it to."""

from __future__ import annotations

from typing import Any

import msgspec

from pilotage.core.agent import actions, events
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.agent.state import AgentState
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.ids import Attempt, Binding, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.resources import Node, NodeShape
from pilotage.model.services import Probe, Restart, Service
from pilotage.model.staging import Directive
from pilotage.model.workload import Batch, Extra, Row, Template

EXECUTABLE = Template(executable="/bin/true")
FUNCTION = Template(mode="function", function=b"f")
CLEANED_TASK = Template(executable="/bin/true", cleanup=True)
INPUT = (Directive("pilot:///data", "task:///data"),)
OUTPUT = (Directive("task:///result", "pilot:///result"),)
WITH_INPUT = Extra(INPUT, ())
WITH_OUTPUT = Extra((), OUTPUT)
SPEC = msgspec.Raw(msgspec.msgpack.encode({"kind": "venv"}))


def nodes(count: int = 1, cores: int = 2, gpus: int = 0) -> list[Node]:
    return [Node(index, f"node{index}", NodeShape(cores, gpus, 64, 64)) for index in range(count)]


class PromptCore(AgentCore):
    """A core whose actions are performed at once."""

    def handle(self, event: events.Event) -> Step:
        step = super().handle(event)
        self.performed()
        return step


def fresh_core(
    count: int = 1,
    cores: int = 2,
    spawners: int = 1,
    state: AgentState | None = None,
    deadline: float | None = None,
    **more: Any,
) -> AgentCore:
    return PromptCore(Scheduler(nodes(count, cores)), spawners=spawners, state=state, deadline=deadline, **more)


def ready_core(count: int = 1, cores: int = 2, spawners: int = 1, deadline: float | None = None, **more: Any) -> AgentCore:
    """A core whose spawners are connected."""
    core = fresh_core(count, cores, spawners, deadline=deadline, **more)
    core.start(0.0)
    for number in range(spawners):
        core.handle(connected(f"spawner.{number}"))
        core.handle(events.RunnerReconciled(0.0, RunnerId(f"spawner.{number}"), []))
    return core


def connected(runner: str, pid: int = 100, at: float = 0.0) -> events.RunnerConnected:
    return events.RunnerConnected(at, RunnerId(runner), pid, 7, "boot")


def with_(template: Template, **changes: object) -> Template:
    return msgspec.structs.replace(template, **changes)


def service(restart: Restart = "never", **changes: object) -> Template:
    return with_(EXECUTABLE, service=Service(ready=Probe("notify"), restart=restart), **changes)


def submitted(
    number: int, uids: list[str], template: Template = EXECUTABLE, at: float = 1.0, extra: Extra | None = None
) -> events.TasksSubmitted:
    """Tasks of one template; a template has the number of the message that brings it."""
    rows = [Row(TaskUid(uid), TemplateId(number), extra=extra) for uid in uids]
    return events.TasksSubmitted(at, number, Binding(1), Batch({TemplateId(number): template}, rows))


def end(uid: str, attempt: int = 1, ending: Ending = Ending.DONE, seconds: float = 1.0) -> AttemptEnd:
    return AttemptEnd(
        TaskUid(uid), Attempt(attempt), ending, 0 if ending is Ending.DONE else 1, started=1.0, ended=1.0 + seconds
    )


def ended(runner: str, number: int, *ends: AttemptEnd, at: float = 2.0) -> events.TasksEnded:
    return events.TasksEnded(at, RunnerId(runner), number, list(ends))


def started(runner: str, uid: str, attempt: int = 1, at: float = 1.5) -> events.TasksStarted:
    return events.TasksStarted(at, RunnerId(runner), [(TaskUid(uid), Attempt(attempt), at)])


def staged(phase: events.StagingPhase, *uids: str, attempt: int = 0, at: float = 3.0) -> events.StagingEnded:
    return events.StagingEnded(at, phase, executions(*((uid, attempt) for uid in uids)))


def not_staged(phase: events.StagingPhase, uid: str, why: str, attempt: int = 0, at: float = 3.0) -> events.StagingEnded:
    return events.StagingEnded(at, phase, [], [(executions((uid, attempt))[0], why)])


def put_off(phase: events.StagingPhase, *uids: str, attempt: int = 0, at: float = 3.0) -> events.StagingEnded:
    return events.StagingEnded(at, phase, [], put_off=executions(*((uid, attempt) for uid in uids)))


def cancelled(number: int, *uids: str, at: float = 1.5, binding: int = 1) -> events.CancelRequested:
    return events.CancelRequested(at, number, [(TaskUid(uid), Binding(binding)) for uid in uids])


def executions(*names: tuple[str, int]) -> list[Execution]:
    return [(TaskUid(uid), Attempt(attempt)) for uid, attempt in names]


def outcomes_of(step: Step) -> list[tuple[str, Ending]]:
    """The outcomes that a step decided, as (uid, ending)."""
    return [
        (outcome.task, outcome.ending)
        for fact in step.facts
        if type(fact).__name__ == "Ended"
        for outcome in fact.outcomes  # type: ignore[union-attr]
    ]


def staged_by(step: Step) -> list[tuple[str, str, int, bool]]:
    """What a step has staged, as (phase, uid, attempt, whether there are directives)."""
    return [
        (action.phase, row.uid, attempt, row.extra is not None)
        for action in step.actions
        if isinstance(action, actions.StageTasks)
        for attempt, row in action.tasks
    ]


def told_by(step: Step, *kinds: type) -> list[actions.Action]:
    """The actions of these kinds."""
    return [action for action in step.actions if isinstance(action, kinds)]


def again(core: AgentCore, count: int = 1, cores: int = 2, at: float = 9.0, **more: Any) -> tuple[AgentCore, Step]:
    """Another agent, from what the log of this one says; its spawner has what it had."""
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(core.state), type=AgentState)
    another = fresh_core(count, cores, state=state, **more)
    another.recover(at)
    step = another.start(at)
    held = [(uid, task.attempt) for uid, task in state.tasks.items() if task.lane]
    another.handle(connected("spawner.0", at=at))
    another.handle(events.RunnerReconciled(at, RunnerId("spawner.0"), held))
    return another, step


def launched_by(step: Step) -> list[tuple[str, int]]:
    """The attempts that a step hands to runners, as (uid, attempt)."""
    return [
        (row.uid, attempt)
        for action in step.actions
        if type(action).__name__ == "LaunchTasks"
        for lane in action.lanes  # type: ignore[union-attr]
        for attempt, row in lane.tasks
    ]
