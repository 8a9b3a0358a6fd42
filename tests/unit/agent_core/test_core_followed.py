"""Tasks of declared duration that would end too late here, and not in the pilot that follows; walks, with planted faults."""

from __future__ import annotations

import random

import agent_world_client
import msgspec
import pytest
from agent_builders import EXECUTABLE, PromptCore, cancelled, connected, launched_by, nodes, outcomes_of, submitted, with_
from agent_world import World

from pilotage.core.agent import events, facts
from pilotage.core.agent.core import AgentCore
from pilotage.core.agent.state import AgentState
from pilotage.core.scheduling import Scheduler, make_policy
from pilotage.model.ids import RunnerId, TaskUid
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.partitions import PolicyName, PolicySpec
from pilotage.model.workload import Template
from planted_faults import Patch, require_noticed

A = TaskUid("a")


def core_until_60_s(
    state: AgentState | None = None, successor_s: float = 60.0, policy: PolicyName = "continuous", at: float = 0.0
) -> AgentCore:
    """A core whose time is over at 60 s."""
    chosen = make_policy(PolicySpec(policy=policy), nodes(1, 2), end=60.0)
    core = PromptCore(chosen, spawners=1, deadline=60.0, successor_s=successor_s, state=state)
    if state is not None:
        core.recover(at)
    core.start(at)
    core.handle(connected("spawner.0", at=at))
    core.handle(events.RunnerReconciled(at, RunnerId("spawner.0"), []))
    return core


def lasting(duration_s: float, **more: object) -> Template:
    return with_(EXECUTABLE, duration_s=duration_s, **more)


def left_by(core: AgentCore) -> list[str]:
    """The tasks that are given back when the pilot's time is over."""
    step = core.handle(events.TimePassed(60.0))
    return [str(uid) for fact in step.facts if isinstance(fact, facts.TasksLeft) for uid in fact.waiting]


@pytest.mark.parametrize("policy", ["continuous", "packed", "homogeneous"])
def test_a_task_that_would_end_too_late_waits_for_the_pilot_that_follows(policy: PolicyName) -> None:
    core = core_until_60_s(policy=policy)
    step = core.handle(submitted(1, ["a"], lasting(50.0), at=20.0))
    assert (launched_by(step), outcomes_of(step)) == ([], [])
    assert core.why(A).startswith("waits for the pilot that follows this one: it is declared to take ")
    assert launched_by(core.handle(submitted(2, ["b"], lasting(10.0), at=21.0))) == [("b", 1)], "others go on"
    assert left_by(core) == ["a"]


def test_one_that_no_successor_has_time_for_can_never_run() -> None:
    core = core_until_60_s()
    step = core.handle(submitted(1, ["a"], lasting(200.0), at=20.0))
    assert outcomes_of(step) == [("a", Ending.INFEASIBLE)]


def test_without_a_successor_it_is_too_late() -> None:
    core = core_until_60_s(successor_s=0.0)
    step = core.handle(submitted(1, ["a"], lasting(50.0), at=20.0))
    assert outcomes_of(step) == [("a", Ending.INFEASIBLE)]


@pytest.mark.parametrize("drain", [True, False])
def test_none_follows_a_pilot_that_is_ended_before(drain: bool) -> None:
    core = core_until_60_s()
    core.handle(submitted(1, ["a"], lasting(50.0), at=20.0))
    step = core.handle(events.EndRequested(21.0, 2, drain, "ended by the user"))
    assert outcomes_of(step) == [("a", Ending.INFEASIBLE if drain else Ending.CANCELLED)]
    assert core.finished


def test_one_that_waits_for_the_successor_can_be_cancelled() -> None:
    core = core_until_60_s()
    core.handle(submitted(1, ["a", "b"], lasting(50.0), at=20.0))
    assert outcomes_of(core.handle(cancelled(2, "a", at=21.0))) == [("a", Ending.CANCELLED)]
    assert left_by(core) == ["b"]


def test_another_agent_lets_it_wait_too() -> None:
    core = core_until_60_s()
    core.handle(submitted(1, ["a"], lasting(50.0), at=20.0))
    later = core_until_60_s(msgspec.msgpack.decode(msgspec.msgpack.encode(core.state), type=AgentState), at=22.0)
    assert later.why(A).startswith("waits for the pilot that follows this one")
    assert left_by(later) == ["a"]


# ----------------------------------------------------------------------------------------------------------------- walks

WALKS = 80
BITES_WITHIN = 300
DURATIONS = (0.0, 0.0, 3.0, 20.0, 500.0)
SUCCESSOR_S = 100.0


class Followed(World):
    """A world in which some tasks say how long they take, the pilot's time is soon over, and another follows."""

    successor_s = SUCCESSOR_S

    def __init__(self, seed: int, length: int = 150) -> None:
        self.time_left_s = random.Random(f"time of {seed}").choice((20.0, 40.0, 80.0))
        super().__init__(seed, length)

    def make_policy(self) -> Scheduler:
        if self.deadline is None or not self.processes:
            self.deadline = self.now + self.time_left_s
        return Scheduler(self.nodes, latest=self.deadline)

    def check_outcome(self, uid: TaskUid, outcome: Outcome) -> None:
        template, ending = self.client.tasks[uid], self.core.state.ending
        if outcome.ending is Ending.INFEASIBLE and template.duration_s:
            ended_before = ending is not None and not ending.out_of_time
            # A pilot that was ended before its time was over is followed by none.
            may = template.duration_s > SUCCESSOR_S or template.service is not None or ended_before or self.client.ended_pilot
            impossible = template.request.cores == 64 or template.request.slots
            assert may or impossible, f"{uid} waits for the pilot that follows, and is {outcome.message}"
            return
        super().check_outcome(uid, outcome)


@pytest.fixture
def durations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the tasks of worlds say how long they take."""
    chance = random.Random("durations")
    menu = [msgspec.structs.replace(each, duration_s=chance.choice(DURATIONS)) for each in agent_world_client.MENU]
    monkeypatch.setattr(agent_world_client, "MENU", tuple(menu))


def walk(seed: int) -> Followed:
    """Walk through one world; the error of a walk that fails names its seed."""
    try:
        world = Followed(seed)
        world.walk()
    except Exception as error:
        raise AssertionError(f"the walk of seed {seed} failed: walk({seed}) replays it: {error!r}") from error
    return world


@pytest.mark.usefixtures("durations")
def test_whatever_dies_what_comes_too_late_here_is_the_clients_again() -> None:
    worlds = [walk(seed) for seed in range(WALKS)]
    late = [world.client.tasks[uid].duration_s for world in worlds for uid in world.late]
    assert sum(0 < duration_s <= SUCCESSOR_S for duration_s in late) > 50, "tasks that waited for the pilot that follows"
    infeasible = sum(outcome.ending is Ending.INFEASIBLE for world in worlds for outcome in world.final.values())
    assert infeasible > 50, "tasks that no pilot has time for"


def late_tasks_are_ended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AgentCore, "_not_left_to_successor", lambda self, uids, reason: uids)


def they_wait_in_a_pilot_that_nobody_follows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AgentCore, "_is_followed", property(lambda self: True))


FAULTS: list[Patch] = [
    late_tasks_are_ended,
    they_wait_in_a_pilot_that_nobody_follows,
]


@pytest.mark.usefixtures("durations")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_walk_catches_a_planted_fault(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    require_noticed(fault, monkeypatch, walk, BITES_WITHIN)
