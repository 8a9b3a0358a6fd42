"""Jobs that the batch system ends around a pilot: what is concluded from that and what is not; walks, with planted faults."""

from __future__ import annotations

import random
import signal

import msgspec
import pytest
from agent_builders import (
    EXECUTABLE,
    again,
    cancelled,
    end,
    ended,
    executions,
    launched_by,
    outcomes_of,
    ready_core,
    service,
    started,
    submitted,
    told_by,
    with_,
)
from agent_world import World
from agent_world_runners import Process

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.agent.dispatch import Dispatch
from pilotage.core.agent.job_end import DOUBT_S, JobEnd
from pilotage.core.agent.walltime import Walltime
from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.ids import RunnerId
from pilotage.model.outcome import Ending
from planted_faults import Patch, require_noticed

SPAWNER = RunnerId("spawner.0")
USR1 = int(signal.SIGUSR1)
TERMED = -int(signal.SIGTERM)


def core_in_job(cores: int = 2, **more: object) -> AgentCore:
    return ready_core(cores=cores, in_job=True, drain_s=20.0, checkpoint_signal=USR1, **more)


def job_ends(core: AgentCore, at: float = 10.0) -> Step:
    return core.handle(events.JobEnding(at, "the agent was told to end by SIGTERM"))


def by_term(uid: str, attempt: int = 1, code: int = TERMED) -> AttemptEnd:
    ending = Ending.SIGNALLED if code < 0 else Ending.EXITED
    return msgspec.structs.replace(end(uid, attempt, ending), exit_code=code)


def test_what_runs_is_told_and_nothing_begins_and_the_log_says_nothing_of_an_end() -> None:
    core = core_in_job(cores=1)
    core.handle(submitted(1, ["a", "b"]))
    core.handle(started("spawner.0", "a"))
    step = job_ends(core)
    assert step.facts == []
    assert told_by(step, actions.SignalExecutions) == [actions.SignalExecutions(SPAWNER, executions(("a", 1)), USR1)]
    assert not core.is_left(10.0) and core.next_deadline() == 30.0
    step = core.handle(ended("spawner.0", 1, end("a"), at=11.0))
    assert (outcomes_of(step), launched_by(step)) == ([("a", Ending.DONE)], [])
    assert core.is_left(11.0) and core.state.ending is None


def test_an_attempt_that_is_cut_short_has_no_outcome_and_is_lost_in_a_later_run() -> None:
    core = core_in_job()
    core.handle(submitted(1, ["a", "b"], with_(EXECUTABLE, retries=3)))
    for uid in ("a", "b"):
        core.handle(started("spawner.0", uid))
    job_ends(core)
    step = core.handle(ended("spawner.0", 1, by_term("a"), end("b", ending=Ending.EXITED), at=11.0))
    assert step.facts == [] and core.is_left(11.0)
    later, _ = again(core, in_job=True)
    step = later.handle(events.RunnerLost(40.0, SPAWNER, "it is gone"))
    step = later.handle(events.TimePassed(40.0 + DOUBT_S))
    assert sorted(uid for fact in step.facts if isinstance(fact, facts.Repeated) for uid in fact.tasks) == ["a", "b"]


def test_nothing_is_waited_for_when_nothing_runs_or_the_pilot_ends_anyway() -> None:
    core = core_in_job()
    job_ends(core)
    assert core.is_left(10.0)
    core = core_in_job()
    core.handle(submitted(1, ["a"]))
    core.handle(started("spawner.0", "a"))
    core.handle(events.EndRequested(5.0, 2, False, "ended by the user"))
    job_ends(core)
    assert core.is_left(10.0)


@pytest.mark.parametrize("how", ["time", "loss"])
def test_it_is_over_when_its_time_is_or_its_runners_are_lost(how: str) -> None:
    core = core_in_job()
    core.handle(submitted(1, ["a"]))
    core.handle(started("spawner.0", "a"))
    job_ends(core)
    assert not core.is_left(29.0)
    if how == "loss":
        assert core.handle(events.RunnerLost(20.0, SPAWNER, "it is gone")).facts == []
        assert core.is_left(20.0)
    assert core.is_left(30.0)


def test_a_task_that_the_user_cancels_meanwhile_is_cancelled() -> None:
    core = core_in_job()
    core.handle(submitted(1, ["a"]))
    core.handle(started("spawner.0", "a"))
    job_ends(core)
    core.handle(cancelled(2, "a", at=11.0))
    step = core.handle(ended("spawner.0", 1, end("a", ending=Ending.CANCELLED), at=12.0))
    assert outcomes_of(step) == [("a", Ending.CANCELLED)]


def test_services_end_with_their_job_and_keep_nobody() -> None:
    core = core_in_job()
    core.handle(submitted(1, ["s"], service("always")))
    core.handle(started("spawner.0", "s"))
    job_ends(core)
    assert core.is_left(10.0)
    assert core.handle(ended("spawner.0", 1, end("s"), at=11.0)).facts == []


@pytest.mark.parametrize("code", [TERMED, 143])
def test_an_end_by_the_signal_is_in_doubt_until_the_agents_own_comes(code: int) -> None:
    core = core_in_job()
    core.handle(submitted(1, ["a", "b"]))
    for uid in ("a", "b"):
        core.handle(started("spawner.0", uid))
    step = core.handle(ended("spawner.0", 1, by_term("a", code=code), end("b"), at=9.0))
    assert (step.facts, step.actions, core.next_deadline()) == ([], [], 9.0 + DOUBT_S)
    step = job_ends(core)
    assert outcomes_of(step) == [("b", Ending.DONE)] and "a" in core.state.tasks


def test_an_end_by_a_signal_of_somebody_else_counts_a_moment_later_in_its_order() -> None:
    core = core_in_job()
    core.handle(submitted(1, ["a", "b"]))
    for uid in ("a", "b"):
        core.handle(started("spawner.0", uid))
    core.handle(ended("spawner.0", 1, by_term("a"), at=9.0))
    assert core.handle(ended("spawner.0", 2, end("b"), at=9.5)).facts == [], "what was said after it is taken in after it"
    assert outcomes_of(core.handle(events.TimePassed(9.0 + DOUBT_S))) == [("a", Ending.SIGNALLED)]
    assert outcomes_of(core.handle(events.TimePassed(9.5 + DOUBT_S))) == [("b", Ending.DONE)]


def test_a_pilot_that_is_no_job_has_no_doubts() -> None:
    core = ready_core()
    core.handle(submitted(1, ["a"]))
    core.handle(started("spawner.0", "a"))
    assert outcomes_of(core.handle(ended("spawner.0", 1, by_term("a")))) == [("a", Ending.SIGNALLED)]


def test_what_a_runner_ended_as_it_was_told_to_by_others_is_lost_not_cancelled() -> None:
    core = core_in_job()
    core.handle(submitted(1, ["a"]))
    core.handle(started("spawner.0", "a"))
    core.handle(ended("spawner.0", 1, end("a", ending=Ending.CANCELLED), at=9.0))
    core.handle(events.RunnerLost(9.1, SPAWNER, "it is gone"))
    assert outcomes_of(core.handle(events.TimePassed(9.0 + DOUBT_S))) == [("a", Ending.LOST)]
    step = core.handle(events.TimePassed(9.1 + DOUBT_S))
    assert any(isinstance(fact, facts.RunnerRemoved) for fact in step.facts)


def test_nothing_is_handed_to_a_runner_whose_loss_is_in_doubt() -> None:
    core = core_in_job()
    core.handle(submitted(1, ["a"]))
    core.handle(started("spawner.0", "a"))
    core.handle(events.RunnerLost(9.0, SPAWNER, "it is gone"))
    step = core.handle(submitted(2, ["b"], at=9.5))
    assert [launch for launch in told_by(step, actions.LaunchTasks) if launch.runner == SPAWNER] == []
    assert [uid for uid, _ in outcomes_of(core.handle(events.TimePassed(9.0 + DOUBT_S)))] == ["a"]


@pytest.mark.parametrize(("ends", "ending"), [(True, None), (False, Ending.SIGNALLED)], ids=["ends", "goes on"])
def test_while_the_batch_system_is_asked_no_doubt_is_over(ends: bool, ending: Ending | None) -> None:
    core = core_in_job()
    core.handle(submitted(1, ["a", "b"]))
    for uid in ("a", "b"):
        core.handle(started("spawner.0", uid))
    core.handle(ended("spawner.0", 1, by_term("a"), at=9.0))
    core.handle(events.JobQuestioned(9.1))
    assert core.next_deadline() is None
    assert core.handle(events.TimePassed(20.0)).facts == []
    step = job_ends(core, 21.0) if ends else core.handle(events.JobGoesOn(21.0))
    assert outcomes_of(step) == ([] if ending is None else [("a", ending)])
    assert (core.state.tasks.keys() == {"a", "b"}) is ends
    if not ends:
        core.handle(ended("spawner.0", 2, by_term("b"), at=22.0))
        assert core.next_deadline() == 22.0 + DOUBT_S, "doubts are over in time again"


def test_what_runs_has_no_more_time_than_the_batch_system_leaves() -> None:
    core = core_in_job()
    core.handle(submitted(1, ["a"]))
    core.handle(started("spawner.0", "a"))
    core.handle(events.JobEnding(10.0, "the end is nearer", until=25.0))
    assert core.next_deadline() == 25.0 and not core.is_left(24.0) and core.is_left(25.0)
    step = core.handle(events.JobEnding(11.0, "the end is nearer", until=20.0))
    assert (step.facts, step.actions, core.next_deadline()) == ([], [], 20.0), "nobody is told twice"
    core.handle(events.JobEnding(12.0, "the end is nearer", until=40.0))
    assert core.next_deadline() == 20.0


# ----------------------------------------------------------------------------------------------------------------- walks

WALKS = 100
BITES_WITHIN = 300


class InJob(World):
    """A world in which a batch system ends the job once, and begins it again; and in which TERM comes from others, too."""

    in_job = True

    def __init__(self, seed: int, length: int = 150) -> None:
        self.cut: set[Execution] = set()
        """What the batch system ended."""
        self.job_ends = self.agent_knows = False
        self.runs = 1
        self.batch = random.Random(f"batch system of {seed}")
        super().__init__(seed, length)
        self.end_at = self.batch.randrange(self.length)

    def walk(self) -> None:
        for number in range(self.length):
            self.step()
            runs = any(process.running for process in self.processes.values())
            if number >= self.end_at and self.runs == 1 and runs and not self.core.finished:
                self.end_job()
            elif self.batch.random() < 0.02:
                self.term(self.batch.choice(list(self.processes.values()) or [None]))
        self.settle()
        self.check_end()

    def exit_code(self, execution: Execution, ending: Ending) -> int:
        code = super().exit_code(execution, ending)
        if ending is Ending.SIGNALLED:
            code = self.exit_codes[execution] = TERMED
        return code

    def term(self, process: Process | None) -> None:
        """A runner gets the signal, and all that it runs; a spawner may be faster than its tasks or not."""
        if process is None or not process.alive:
            return
        process.give_back(process.waiting())
        over = []
        for execution, (lane, asked, message) in list(process.running.items()):
            if process.is_worker or self.batch.random() < 0.1:
                continue
            ending = asked or self.batch.choice((Ending.DONE, Ending.CANCELLED, Ending.SIGNALLED))
            if self.job_ends and asked is None and ending is not Ending.DONE:
                self.cut.add(execution)
            process.running[execution] = (lane, ending, message)
            over.append(execution)
        if over:
            process.end(over)
        if not process.running or process.is_worker:
            if self.job_ends:
                self.cut.update(process.running)
            process.die()

    def end_job(self) -> None:
        """All get the signal, each at its time; then the job is killed, and another run begins."""
        mishaps, self.agent_mishaps = self.agent_mishaps, 0.0
        self.job_ends, began = True, self.now
        waiting: list[Process | None] = [*self.processes.values(), None]
        self.batch.shuffle(waiting)
        for process in waiting:
            if process is not None:
                self.term(process)
            else:
                self.handle(events.JobEnding(self.now, "the agent was told to end by SIGTERM"))
                self.agent_knows = True
                self.commit()
            if self.batch.random() < 0.5:
                self.turn()
            self.now = min(self.now + self.batch.choice((0.0, 0.1)), began + 0.9 * DOUBT_S)
        for _ in range(self.batch.choice((0, 3, 10))):
            if self.core.is_left(self.now):
                break
            self.now += self.batch.choice((0.0, 1.0, 5.0))
            self.run_processes()
            self.turn()
        for process in self.processes.values():
            self.cut.update(process.running)
            process.stopping = True
            process.die()
        self.job_ends = self.agent_knows = False
        self.agent_mishaps = mishaps
        self.deaths += 1
        self.runs += 1
        self.start_agent()

    def read_fact(self, fact: facts.Fact) -> None:
        if self.agent_knows:
            assert not isinstance(fact, facts.LaunchRequested), "tasks are launched though the job ends"
            assert not (isinstance(fact, facts.PilotEnding) and fact.out_of_time), "the pilot ends with its job"
            assert not isinstance(fact, facts.RunnerAdded), "runners are started though the job ends"
        if isinstance(fact, facts.Repeated) and self.job_ends:
            again = {(uid, self.shadow.tasks[uid].attempt) for uid in fact.tasks}
            assert not again & self.cut, f"{again & self.cut} are followed by other attempts in a job that ends"
        if isinstance(fact, facts.Ended | facts.OutputsBegun):
            for outcome in fact.outcomes:
                task = self.shadow.tasks[outcome.task]
                # Later it may be decided that it does not go on.
                ran = task.lane and not task.ending and not self.is_service(outcome.task)
                if ran and (outcome.task, outcome.attempt) in self.cut:
                    told = f"{outcome.task} was ended by the batch system, and is {outcome.ending.name}"
                    assert not self.job_ends and outcome.ending in (Ending.LOST, Ending.NODE_FAILED), told
        super().read_fact(fact)


def walk(seed: int) -> InJob:
    """Walk through one world; the error of a walk that fails names its seed."""
    try:
        world = InJob(seed)
        world.walk()
    except Exception as error:
        raise AssertionError(f"the walk of seed {seed} failed: walk({seed}) replays it: {error!r}") from error
    return world


def test_whatever_the_batch_system_ends_is_no_end_of_a_task() -> None:
    worlds = [walk(seed) for seed in range(WALKS)]
    assert sum(world.runs for world in worlds) > 1.5 * WALKS, "jobs that were begun again"
    assert sum(len(world.cut) for world in worlds) > 50, "what was cut short"


def no_end_is_doubted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(JobEnd, "holds", lambda self, event: False)


def what_is_cut_short_counts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(JobEnd, "_counts", lambda self, end: True)


def losses_count_at_the_end(patch: pytest.MonkeyPatch) -> None:
    def reported(self, event):  # type: ignore[no-untyped-def]
        if isinstance(event, events.RunnerLost):
            self._reports.lost(event)
        elif isinstance(event, events.TasksEnded) and (found := self._job_end.well_ended(event)) is not None:
            self._reports.ended(found)

    patch.setattr(AgentCore, "_reported_at_the_end", reported)


def launches_go_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dispatch, "closed", property(lambda self: "", lambda self, why: None), raising=False)


def the_log_is_told_of_an_end(patch: pytest.MonkeyPatch) -> None:
    original = Walltime.job_ends

    def job_ends(self, now, reason):  # type: ignore[no-untyped-def]
        original(self, now, reason)
        self.end(now)

    patch.setattr(Walltime, "job_ends", job_ends)


def what_is_held_back_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(JobEnd, "ripe", lambda self, now: [])


FAULTS: list[Patch] = [
    no_end_is_doubted,
    what_is_cut_short_counts,
    losses_count_at_the_end,
    launches_go_on,
    the_log_is_told_of_an_end,
    what_is_held_back_is_forgotten,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_walk_catches_a_planted_fault(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    require_noticed(fault, monkeypatch, walk, BITES_WITHIN)
