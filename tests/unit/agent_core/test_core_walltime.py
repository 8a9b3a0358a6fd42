"""The end of a pilot's time: what begins no more, what is told, ended and given back; walks through it, with planted faults."""

from __future__ import annotations

import random
import signal

import msgspec
import pytest
from agent_builders import (
    EXECUTABLE,
    FUNCTION,
    WITH_INPUT,
    WITH_OUTPUT,
    again,
    cancelled,
    connected,
    end,
    ended,
    executions,
    launched_by,
    not_staged,
    outcomes_of,
    ready_core,
    service,
    staged,
    started,
    submitted,
    told_by,
    with_,
)
from agent_world import World

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.aftermath import aftermath
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.agent.dispatch import Dispatch
from pilotage.core.agent.endings import Endings
from pilotage.core.agent.walltime import Walltime
from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.workload import Template
from planted_faults import Patch, require_noticed

CONTINUES = with_(EXECUTABLE, restart="continue")
SPAWNER = RunnerId("spawner.0")
USR1 = int(signal.SIGUSR1)


def draining_core(cores: int = 2, **more: object) -> AgentCore:
    """A core that drains from 40 s on, whose time is over at 60 s."""
    return ready_core(cores=cores, deadline=60.0, drain_s=20.0, checkpoint_signal=USR1, **more)


def time_passes(core: AgentCore, at: float) -> Step:
    return core.handle(events.TimePassed(at))


def left_by(step: Step) -> tuple[list[str], list[tuple[str, int]]]:
    """The tasks that a step gives back: those that wait, and those that were cut short with their failures."""
    given = [fact for fact in step.facts if isinstance(fact, facts.TasksLeft)]
    return [str(uid) for fact in given for uid in fact.waiting], [(str(uid), n) for fact in given for uid, n in fact.begun]


def is_over(step: Step) -> bool:
    return any(isinstance(fact, facts.PilotEnding) and fact.out_of_time for fact in step.facts)


def test_when_the_drain_begins_nothing_is_launched_and_what_runs_is_told_once() -> None:
    core = draining_core(cores=1)
    core.handle(submitted(1, ["a", "b"]))
    core.handle(started("spawner.0", "a"))
    assert core.next_deadline() == 40.0
    step = time_passes(core, 40.0)
    assert [fact for fact in step.facts if isinstance(fact, facts.DrainBegun)] == [facts.DrainBegun(40.0)]
    assert told_by(step, actions.SignalExecutions) == [actions.SignalExecutions(SPAWNER, executions(("a", 1)), USR1)]
    assert told_by(time_passes(core, 41.0), actions.SignalExecutions) == []
    assert "will not begin here" in core.why(TaskUid("b"))
    step = core.handle(ended("spawner.0", 1, end("a"), at=42.0))
    assert launched_by(step) == [] and outcomes_of(step) == [("a", Ending.DONE)]
    assert is_over(step) and left_by(step) == (["b"], []), "nothing runs any more: there is nothing to wait for"


def test_without_a_checkpoint_signal_none_is_sent() -> None:
    core = ready_core(deadline=60.0, drain_s=20.0)
    core.handle(submitted(1, ["a"]))
    core.handle(started("spawner.0", "a"))
    step = time_passes(core, 40.0)
    assert core.state.draining == 40.0 and told_by(step, actions.SignalExecutions) == []


def test_functions_and_services_are_not_signalled_and_services_do_not_keep_the_pilot() -> None:
    core = draining_core(cores=3)
    core.handle(submitted(1, ["s"], service()))
    core.handle(submitted(2, ["f"], FUNCTION))
    core.handle(connected("worker.1", 200))
    core.handle(started("spawner.0", "s"))
    core.handle(started("worker.1", "f"))
    step = time_passes(core, 40.0)
    assert told_by(step, actions.SignalExecutions) == [] and not is_over(step)
    step = core.handle(ended("worker.1", 1, end("f"), at=41.0))
    assert is_over(step)
    assert [action.ending for action in told_by(step, actions.EndExecutions)] == [Ending.CANCELLED], "it was never ready"


def test_what_has_not_begun_in_its_lane_is_taken_back_before_the_others_are_told() -> None:
    core = draining_core(cores=1)
    core.handle(submitted(1, ["a"]))
    step = time_passes(core, 40.0)
    assert [type(action).__name__ for action in told_by(step, actions.RecallTasks, actions.SignalExecutions)] == [
        "RecallTasks",
        "SignalExecutions",
    ]
    step = core.handle(events.TasksReturned(40.1, SPAWNER, executions(("a", 1))))
    assert is_over(step) and left_by(step) == (["a"], [])
    assert core.state.tries == {"a": (1, 0)} and not core.state.begun_tasks


def test_what_runs_is_ended_so_early_that_its_grace_is_over_in_time() -> None:
    core = draining_core()
    core.handle(submitted(1, ["a", "b"], with_(CONTINUES, grace_s=7.0)))
    core.handle(started("spawner.0", "a"))
    core.handle(started("spawner.0", "b"))
    time_passes(core, 40.0)
    assert core.next_deadline() == 52.0, "a second less, as it is to be known in time, too"
    step = time_passes(core, 52.0)
    assert is_over(step)
    (action,) = told_by(step, actions.EndExecutions)
    assert (action.executions, action.ending) == (executions(("a", 1), ("b", 1)), Ending.OUT_OF_WALLTIME)
    step = core.handle(
        ended("spawner.0", 1, end("a", ending=Ending.OUT_OF_WALLTIME), end("b", ending=Ending.OUT_OF_WALLTIME), at=54.0)
    )
    assert left_by(step) == ([], [("a", 0), ("b", 0)]) and outcomes_of(step) == []
    assert core.finished
    (goodbye,) = told_by(core.handle(events.LinkOpened(54.0)), actions.SendPilotEnded)
    assert (goodbye.state, goodbye.begun, goodbye.out_of_time) == ("DONE", ["a", "b"], True)
    assert goodbye.tries == {"a": (1, 0), "b": (1, 0)}


def test_of_a_short_drain_a_tenth_is_kept_for_what_is_killed() -> None:
    core = ready_core(deadline=60.0, drain_s=2.0)
    core.handle(submitted(1, ["a"], with_(CONTINUES, grace_s=0.5)))
    core.handle(started("spawner.0", "a"))
    time_passes(core, 58.0)
    assert core.next_deadline() == 60.0 - 0.5 - 0.2


def test_a_long_grace_leaves_tasks_half_of_the_drain() -> None:
    core = draining_core()
    core.handle(submitted(1, ["a"], with_(CONTINUES, grace_s=300.0)))
    core.handle(started("spawner.0", "a"))
    time_passes(core, 40.0)
    assert core.next_deadline() == 50.0


def test_without_a_drain_all_is_at_the_deadline() -> None:
    core = ready_core(cores=1, deadline=60.0)
    core.handle(submitted(1, ["a", "b"], CONTINUES))
    core.handle(submitted(2, ["c"], extra=WITH_INPUT))
    core.handle(started("spawner.0", "a"))
    assert core.next_deadline() == 60.0
    step = time_passes(core, 60.0)
    assert is_over(step) and left_by(step) == (["b"], [])
    assert told_by(step, actions.EndStaging) == [actions.EndStaging([TaskUid("c")])]
    assert left_by(core.handle(staged("input", "c", at=60.5))) == (["c"], [])
    assert left_by(core.handle(ended("spawner.0", 1, end("a", ending=Ending.OUT_OF_WALLTIME), at=61.0))) == ([], [("a", 0)])
    assert core.state.late == {"b": 1, "c": 1} and core.finished


@pytest.mark.parametrize(
    ("template", "failures"),
    [
        (CONTINUES, 0),
        (with_(EXECUTABLE, restart="fresh"), 0),
        (with_(EXECUTABLE, restartable=True), 0),
        (with_(EXECUTABLE, retries=1), 1),
    ],
    ids=["continue", "fresh", "restartable", "retries"],
)
def test_what_may_begin_again_goes_back_and_only_a_retry_is_used_up(template: Template, failures: int) -> None:
    core = draining_core()
    core.handle(submitted(1, ["a"], template))
    core.handle(started("spawner.0", "a"))
    time_passes(core, 40.0)
    step = core.handle(ended("spawner.0", 1, end("a", ending=Ending.OUT_OF_WALLTIME), at=41.0))
    assert left_by(step) == ([], [("a", failures)]) and outcomes_of(step) == []


def test_what_may_not_begin_again_has_an_outcome_that_says_why_and_its_output_is_staged() -> None:
    core = draining_core()
    core.handle(submitted(1, ["a"], with_(EXECUTABLE, stage_on_error=True), extra=WITH_OUTPUT))
    core.handle(started("spawner.0", "a"))
    time_passes(core, 40.0)
    step = core.handle(ended("spawner.0", 1, end("a", ending=Ending.OUT_OF_WALLTIME), at=41.0))
    assert not is_over(step) and told_by(step, actions.StageTasks)
    step = core.handle(staged("output", "a", attempt=1, at=42.0))
    assert outcomes_of(step) == [("a", Ending.OUT_OF_WALLTIME)]


def test_a_task_that_fails_by_itself_while_the_pilot_drains_waits_for_another_pilot() -> None:
    core = draining_core()
    core.handle(submitted(1, ["a", "b"], with_(EXECUTABLE, retries=3)))
    core.handle(started("spawner.0", "a"))
    core.handle(started("spawner.0", "b"))
    time_passes(core, 40.0)
    step = core.handle(ended("spawner.0", 1, end("a", ending=Ending.EXITED), at=41.0))
    assert launched_by(step) == [] and left_by(step) == ([], [])
    assert left_by(time_passes(core, 55.0)) == (["a"], [])
    assert core.state.tries == {"a": (1, 1)}
    step = core.handle(ended("spawner.0", 2, end("b", ending=Ending.EXITED), at=56.0))
    assert left_by(step) == ([], [("b", 1)]), "it failed while it was being ended, and has retries left"


def test_output_is_staged_until_the_deadline_and_what_was_not_is_no_crash() -> None:
    core = draining_core()
    core.handle(submitted(1, ["again", "once"], CONTINUES, extra=WITH_OUTPUT))
    core.handle(submitted(2, ["final"], extra=WITH_OUTPUT))
    core.handle(ended("spawner.0", 1, end("again"), end("once"), at=30.0))
    core.handle(ended("spawner.0", 2, end("final"), at=31.0))
    time_passes(core, 40.0)
    assert not told_by(time_passes(core, 59.0), actions.EndStaging)
    step = time_passes(core, 60.0)
    assert told_by(step, actions.EndStaging)
    assert outcomes_of(core.handle(staged("output", "once", attempt=1, at=60.1))) == [("once", Ending.DONE)]
    assert left_by(core.handle(not_staged("output", "again", "stopped", attempt=1, at=60.1))) == ([], [("again", 0)])
    step = core.handle(not_staged("output", "final", "stopped", attempt=1, at=60.2))
    assert outcomes_of(step) == [("final", Ending.OUT_OF_WALLTIME)]


def test_a_task_that_the_user_cancels_is_not_given_back() -> None:
    core = draining_core()
    core.handle(submitted(1, ["a"], CONTINUES))
    core.handle(started("spawner.0", "a"))
    time_passes(core, 40.0)
    core.handle(cancelled(2, "a", at=41.0))
    step = core.handle(ended("spawner.0", 1, end("a", ending=Ending.CANCELLED), at=42.0))
    assert outcomes_of(step) == [("a", Ending.CANCELLED)] and left_by(step) == ([], [])


def test_tasks_that_come_when_the_time_is_over_are_nobodys_here() -> None:
    core = ready_core(deadline=60.0)
    time_passes(core, 60.0)
    step = core.handle(submitted(1, ["a"], at=61.0))
    assert outcomes_of(step) == [] and core.state.late == {"a": 1}


def test_another_agent_goes_on_with_the_drain_and_tells_a_runner_again() -> None:
    limits = {"deadline": 60.0, "drain_s": 20.0, "checkpoint_signal": USR1}
    core = draining_core()
    core.handle(submitted(1, ["a"], CONTINUES))
    core.handle(submitted(2, ["b"], with_(EXECUTABLE, request=msgspec.structs.replace(EXECUTABLE.request, cores=2))))
    core.handle(started("spawner.0", "a"))
    time_passes(core, 40.0)
    another, step = again(core, at=42.0, **limits)
    assert launched_by(step) == [] and another.state.draining == 40.0
    step = another.handle(events.RunnerReconciled(43.0, SPAWNER, executions(("a", 1))))
    assert told_by(step, actions.SignalExecutions) == [actions.SignalExecutions(SPAWNER, executions(("a", 1)), USR1)]
    assert another.next_deadline() == 54.0


def test_in_a_later_run_of_the_job_the_drain_of_the_run_before_does_not_count() -> None:
    core = draining_core()
    core.handle(submitted(1, ["a"]))
    core.handle(started("spawner.0", "a"))
    time_passes(core, 40.0)
    another, _ = again(core, at=50.0, deadline=150.0, drain_s=20.0)
    step = another.handle(submitted(2, ["b"], at=51.0))
    assert launched_by(step) == [("b", 1)]
    assert another.next_deadline() == 130.0


def test_who_finds_the_log_of_a_pilot_that_ended_so_learns_what_was_given_back() -> None:
    core = ready_core(cores=1, deadline=60.0)
    core.handle(submitted(1, ["a", "b"], CONTINUES))
    core.handle(started("spawner.0", "a"))
    time_passes(core, 60.0)
    assert aftermath(core.state, 0).ending is None, "a task still runs"
    core.handle(ended("spawner.0", 1, end("a", ending=Ending.OUT_OF_WALLTIME), at=61.0))
    left = aftermath(core.state, 0)
    assert left.ending is not None and left.ending.out_of_time
    assert (left.not_begun, left.cut_short) == ([("b", 1)], ["a"])
    assert left.tries == {"a": (Attempt(1), 0)}


def test_a_task_from_elsewhere_goes_on_counting_and_its_input_is_there() -> None:
    core = ready_core(deadline=60.0)
    extra = msgspec.structs.replace(WITH_INPUT, attempts=3, failures=1, sandbox="/scratch/first/tasks/a")
    step = core.handle(submitted(1, ["a"], with_(CONTINUES, retries=1), extra=extra))
    assert launched_by(step) == [("a", 4)] and not told_by(step, actions.StageTasks)
    step = core.handle(ended("spawner.0", 1, end("a", attempt=4, ending=Ending.EXITED)))
    assert outcomes_of(step) == [("a", Ending.EXITED)], "its retry was used up elsewhere"


# ----------------------------------------------------------------------------------------------------------------- walks

WALKS = 120
BITES_WITHIN = 400


class ShortLived(World):
    """A world in which the pilot's time is soon over."""

    def __init__(self, seed: int, length: int = 150) -> None:
        self.time_left_s = random.Random(f"time of {seed}").choice((16.0, 20.0, 40.0, 80.0))
        super().__init__(seed, length)

    def start_agent(self) -> None:
        if self.deadline is None:
            self.deadline = self.now + self.time_left_s
        super().start_agent()

    def commit(self) -> None:
        super().commit()
        state = self.core.state
        if state.ending is not None and state.ending.out_of_time and self.now >= self.deadline:
            staged = [uid for uid in (*state.inputs, *state.outputs) if state.tasks[uid].ending is None]
            assert not staged, f"the files of {staged} are staged though the time is over"


def walk(seed: int) -> ShortLived:
    """Walk through one world; the error of a walk that fails names its seed."""
    try:
        world = ShortLived(seed)
        world.walk()
    except Exception as error:
        raise AssertionError(f"the walk of seed {seed} failed: walk({seed}) replays it: {error!r}") from error
    return world


def test_whatever_dies_each_task_has_an_outcome_or_is_the_clients_again() -> None:
    worlds = [walk(seed) for seed in range(WALKS)]
    assert sum(world.walltime_ends for world in worlds) > 40, "pilots whose time was over"
    assert sum(world.early_ends for world in worlds) > 3, "pilots that drained, and had nothing left to run"
    assert sum(len(world.late) for world in worlds) > 1000, "tasks that waited"
    assert sum(len(world.left) for world in worlds) > 10, "tasks that were cut short"
    assert sum(len(world.signalled) for world in worlds) > 4, "programs that were told"


def launches_go_on_while_the_pilot_drains(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dispatch, "closed", property(lambda self: "", lambda self, why: None), raising=False)


def recovery_forgets_the_drain(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Walltime, "recover", lambda self: None)


def what_is_cut_short_is_given_back_though_it_may_not_begin_again(patch: pytest.MonkeyPatch) -> None:
    original = Endings.leaves

    def leaves(self, task, ending, exit_code):  # type: ignore[no-untyped-def]
        failures = original(self, task, ending, exit_code)
        cut = self._state.draining and ending is Ending.OUT_OF_WALLTIME
        return task.failures + 1 if failures is None and cut else failures

    patch.setattr(Endings, "leaves", leaves)


def what_was_cancelled_is_given_back(patch: pytest.MonkeyPatch) -> None:
    original = Endings.leaves

    def leaves(self, task, ending, exit_code):  # type: ignore[no-untyped-def]
        return original(self, msgspec.structs.replace(task, ending=None), ending, exit_code)

    patch.setattr(Endings, "leaves", leaves)


def what_waits_is_kept_when_the_time_is_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Endings, "leave", lambda self, now, uids: None)


def files_are_staged_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Walltime, "_staged", lambda self: iter(()))


def the_pilot_ends_while_something_runs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Walltime, "_has_work", property(lambda self: False))


def workers_are_signalled(patch: pytest.MonkeyPatch) -> None:
    original = Walltime._signal

    def signal_all(self, runners):  # type: ignore[no-untyped-def]
        original(self, runners)
        for name, record in self._state.runners.items():
            if record.beside is not None and self._signal_number:
                self._journal.act(actions.SignalExecutions(name, [], self._signal_number))

    patch.setattr(Walltime, "_signal", signal_all)


FAULTS: list[Patch] = [
    launches_go_on_while_the_pilot_drains,
    recovery_forgets_the_drain,
    what_is_cut_short_is_given_back_though_it_may_not_begin_again,
    what_was_cancelled_is_given_back,
    what_waits_is_kept_when_the_time_is_over,
    files_are_staged_for_ever,
    the_pilot_ends_while_something_runs,
    workers_are_signalled,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_walk_catches_a_planted_fault(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    require_noticed(fault, monkeypatch, walk, BITES_WITHIN)
