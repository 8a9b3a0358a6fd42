"""Short ways to say what the agent's core is told, and a core to tell it to."""

from __future__ import annotations

from pilotage.core.agent import events
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.agent.state import AgentState
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.ids import Attempt, Binding, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.resources import Node, NodeShape, Request
from pilotage.model.workload import Batch, Row, Template

EXECUTABLE = Template(executable="/bin/true")
FUNCTION = Template(mode="function", function=b"f")


def nodes(count: int = 1, cores: int = 2, gpus: int = 0) -> list[Node]:
    return [Node(index, f"node{index}", NodeShape(cores, gpus, 64, 64)) for index in range(count)]


class PromptCore(AgentCore):
    """A core whose actions are performed at once."""

    def handle(self, event: events.Event) -> Step:
        step = super().handle(event)
        self.performed()
        return step


def fresh_core(
    count: int = 1, cores: int = 2, spawners: int = 1, state: AgentState | None = None, deadline: float | None = None
) -> AgentCore:
    return PromptCore(Scheduler(nodes(count, cores)), spawners=spawners, state=state, deadline=deadline)


def ready_core(count: int = 1, cores: int = 2, spawners: int = 1, deadline: float | None = None) -> AgentCore:
    """A core whose spawners are connected."""
    core = fresh_core(count, cores, spawners, deadline=deadline)
    core.start(0.0)
    for number in range(spawners):
        core.handle(connected(f"spawner.{number}"))
        core.handle(events.RunnerReconciled(0.0, RunnerId(f"spawner.{number}"), []))
    return core


def connected(runner: str, pid: int = 100, at: float = 0.0) -> events.RunnerConnected:
    return events.RunnerConnected(at, RunnerId(runner), pid, 7, "boot")


def submitted(number: int, uids: list[str], template: Template = EXECUTABLE, at: float = 1.0) -> events.TasksSubmitted:
    """Tasks of one template; a template has the number of the message that brings it."""
    rows = [Row(TaskUid(uid), TemplateId(number)) for uid in uids]
    return events.TasksSubmitted(at, number, Binding(1), Batch({TemplateId(number): template}, rows))


def end(uid: str, attempt: int = 1, ending: Ending = Ending.DONE, seconds: float = 1.0) -> AttemptEnd:
    return AttemptEnd(
        TaskUid(uid), Attempt(attempt), ending, 0 if ending is Ending.DONE else 1, started=1.0, ended=1.0 + seconds
    )


def ended(runner: str, number: int, *ends: AttemptEnd, at: float = 2.0) -> events.TasksEnded:
    return events.TasksEnded(at, RunnerId(runner), number, list(ends))


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


def launched_by(step: Step) -> list[tuple[str, int]]:
    """The attempts that a step hands to runners, as (uid, attempt)."""
    return [
        (row.uid, attempt)
        for action in step.actions
        if type(action).__name__ == "LaunchTasks"
        for lane in action.lanes  # type: ignore[union-attr]
        for attempt, row in lane.tasks
    ]


__all__ = [
    "EXECUTABLE",
    "FUNCTION",
    "Request",
    "cancelled",
    "connected",
    "end",
    "ended",
    "executions",
    "fresh_core",
    "launched_by",
    "nodes",
    "outcomes_of",
    "ready_core",
    "submitted",
]
