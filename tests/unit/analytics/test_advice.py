"""Each rule says something when its numbers are bad, with those numbers in it, and nothing when they are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from invented_runs import PILOT, InventedRun

from pilotage.analytics.advice import Advice, advise
from pilotage.model.ids import PilotUid
from pilotage.model.outcome import Ending


def healthy(**pilot: float) -> InventedRun:
    """Four cores, each with twenty tasks of five seconds, one after another: nothing to be said."""
    made = InventedRun(nodes=2, cores=2, **pilot)  # type: ignore[arg-type]
    for number in range(80):
        place, turn = number % 4, number // 4
        made.add(100.0 + 5 * turn, 105.0 + 5 * turn, node=place // 2, core=place % 2)
    return made


def test_a_healthy_run_needs_no_advice() -> None:
    (only,) = advise(healthy().session())
    assert (only.level, only.headline) == ("fine", "Nothing stands out")
    assert "Tasks ran on 100 % of the core-time" in only.reason


def test_a_session_without_tasks_needs_none_either() -> None:
    assert [advice.level for advice in advise(InventedRun().session())] == ["fine"]


def one_cause() -> InventedRun:
    made = healthy()
    for number in range(6):
        said = "no such file" if number else "disk full"
        made.add(195.0, 199.0, name=f"md {number}", lane=0, ending=Ending.EXITED, message="exited with code 1", error_line=said)
    return made


def bad_node() -> InventedRun:
    made = healthy()
    for row in range(80):
        if made.run.tasks.node[row] == 1 and row % 2:
            made.run.tasks.ending[row] = Ending.EXITED
            # Different words, so that it is not the cause that they share.
            made.run.tasks.message[row] = "abcdefghijklmnopqrstuvwxyz"[row % 26] * 5
    return made


def out_of_memory() -> InventedRun:
    made = healthy()
    made.add(190.0, 195.0, lane=0, ending=Ending.OUT_OF_MEMORY, memory_mib=2048)
    return made


def timed_out() -> InventedRun:
    made = healthy()
    made.add(190.0, 196.0, lane=0, ending=Ending.TIMED_OUT)
    return made


def unfinished() -> InventedRun:
    made = healthy()
    made.add(submitted=100.0, accepted=101.0, ending=None)
    made.add(submitted=100.0, accepted=101.0, ending=None)
    return made


def repeated() -> InventedRun:
    made = InventedRun(cores=1)
    made.add(150.0, 200.0)
    attempts = made.run.pilots[PilotUid(PILOT)].attempts
    lost = attempts.add(0, 0, 100.0)
    attempts.started[lost], attempts.ended[lost] = 100.0, 150.0
    made.run.pilots[PilotUid(PILOT)].lanes.opened[0] = 100.0
    return made


def slow_start() -> InventedRun:
    made = InventedRun(cores=1, ready=150.0)
    made.add(150.0, 200.0)
    return made


def short_tasks() -> InventedRun:
    made = InventedRun(cores=1)
    for number in range(100):
        begin = 100.0 + number
        made.add(begin + 0.6, begin + 1.0, accepted=begin, launched=begin)
    return made


def large_tasks_wait() -> InventedRun:
    made = InventedRun(cores=4)
    for turn in range(10):
        made.add(100.0 + 10 * turn, 110.0 + 10 * turn, cores=3, accepted=100.0)
    return made


def memory_is_short() -> InventedRun:
    made = InventedRun(cores=4, memory=64)  # 1 GiB for each core
    for turn in range(10):
        made.add(100.0 + 10 * turn, 110.0 + 10 * turn, memory_mib=4096, accepted=100.0)
    return made


def gpus_are_short() -> InventedRun:
    made = InventedRun(cores=4, gpus=1)
    for turn in range(10):
        made.add(100.0 + 10 * turn, 110.0 + 10 * turn, gpus=1, accepted=100.0)
    return made


def long_tail() -> InventedRun:
    made = InventedRun(cores=4)
    for core in range(4):
        made.add(100.0, 200.0 if core == 0 else 120.0, core=core)
    return made


def stragglers() -> InventedRun:
    """Of four nodes three are done after a fifth of the time."""
    made = InventedRun(nodes=4, cores=2)
    for node in range(4):
        for core in range(2):
            made.add(100.0, 200.0 if node == 0 else 120.0, node=node, core=core)
    return made


def ended_late() -> InventedRun:
    made = InventedRun(cores=4)
    for core in range(4):
        made.add(100.0, 150.0, core=core)
    return made


def too_large() -> InventedRun:
    made = InventedRun(cores=4)
    for turn in range(10):
        made.add(100.0 + 10 * turn, 110.0 + 10 * turn, core=turn % 2)
    return made


def unused_gpus() -> InventedRun:
    made = InventedRun(cores=1, gpus=2)
    made.add(100.0, 200.0)
    return made


CASES = [
    (one_cause, "problem", "One cause is behind 5 of 6 failures", "exited with code 1: no such file", "task.0081"),
    (
        bad_node,
        "problem",
        "Tasks fail on node1 more than elsewhere",
        "20 of the 40 tasks there failed (50 %)",
        "out of the next",
    ),
    (out_of_memory, "problem", "1 task ended for memory", "they asked for 2,048 MiB at the most", "mem_per_rank"),
    (timed_out, "problem", "1 task ran out of time", "after 6 s (median); of those that were done 95 % needed", "timeout"),
    (unfinished, "problem", "2 tasks did not come to an end", "2 AGENT_SCHEDULING", "pilotage session resume session.invented"),
    (repeated, "hint", "50 % of the core-time went into attempts that had to be", "1 attempt came to nothing", "retry_on"),
    (slow_start, "hint", "Starting the pilot took 50 % of its core-time", "It was 50 s until", "more tasks"),
    (short_tasks, "hint", "Tasks are short for what it costs", "less than 400 ms, and it took 600 core-ms", "TASK_FUNCTION"),
    (
        large_tasks_wait,
        "hint",
        "22.5 % of the core-time was free while tasks waited",
        "asked for 3 cores on average",
        "fill the gaps",
    ),
    (
        memory_is_short,
        "hint",
        "free while tasks waited",
        "4,096 MiB of memory per core, and a node has 1,024 MiB",
        "less memory",
    ),
    (gpus_are_short, "hint", "free while tasks waited", "100 % of the waiting was for GPUs", "gpus_per_rank"),
    (
        long_tail,
        "hint",
        "60 % of the core-time was lost to the tail",
        "3 of 4 cores were idle on average",
        "longest tasks first",
    ),
    (
        stragglers,
        "hint",
        "60 % of the core-time was lost to the tail",
        "3 nodes had nothing left to do: 480 core-s of core-time",
        "Several smaller pilots with idle_timeout_s",
    ),
    (ended_late, "hint", "The pilot was held for 50 s after its last task", "50 % of its core-time", "Close the session"),
    (
        ended_late,
        "hint",
        "The pilot was held for 50 s after its last task",
        "nothing was left to run: 200 core-s",
        "idle_timeout_s",
    ),
    (too_large, "hint", "The pilot was larger than what was asked of it", "Never more than 1 of 4 cores", "Ask for 1 cores"),
    (unused_gpus, "hint", "The pilot held 2 GPUs and no task asked for one", "billed", "gpus_per_rank"),
]


@pytest.mark.parametrize(("make", "level", "headline", "reason", "remedy"), CASES, ids=[case[0].__name__ for case in CASES])
def test_each_rule_has_numbers(make: Callable[[], InventedRun], level: str, headline: str, reason: str, remedy: str) -> None:
    told = advise(make().session())
    (found,) = [advice for advice in told if headline in advice.headline]
    assert found.level == level
    assert reason in found.reason
    assert remedy in found.remedy


@pytest.mark.parametrize("make", [case[0] for case in CASES], ids=[case[0].__name__ for case in CASES])
def test_a_rule_that_speaks_is_not_drowned_by_others(make: Callable[[], InventedRun]) -> None:
    told = advise(make().session())
    assert len(told) <= 2
    assert [advice.level for advice in told] == sorted((advice.level for advice in told), key=["problem", "hint", "fine"].index)


def test_of_a_running_session_nothing_is_said_that_may_still_change() -> None:
    for make in (unfinished, long_tail, ended_late, too_large):
        assert [advice.level for advice in advise(make().session(), live=True)] == ["fine"]


def test_on_a_machine_of_ones_own_gpus_cost_nothing() -> None:
    made = unused_gpus()
    made.run.pilots[PilotUid(PILOT)].resource = "local.localhost"
    assert [advice.level for advice in advise(made.session())] == ["fine"]


def test_a_pilot_that_waits_in_a_queue_holds_no_gpus() -> None:
    made = InventedRun(cores=1, gpus=2)
    pilot = made.run.pilots[PilotUid(PILOT)]
    pilot.active = pilot.ready = 0.0
    assert not [advice for advice in advise(made.session(), live=True) if "GPU" in advice.headline]


def test_the_time_in_a_queue_is_not_held() -> None:
    made = unused_gpus()
    pilot = made.run.pilots[PilotUid(PILOT)]
    held_s = pilot.end - pilot.begin
    pilot.is_job, pilot.first = True, pilot.begin
    pilot.submitted, pilot.launched = pilot.begin - 9000.0, pilot.begin - 8999.0
    assert pilot.end - pilot.begin == held_s
    never = type(pilot)(PilotUid("pilot.0009"))
    never.is_job, never.submitted, never.launched, never.final = True, 1.0, 2.0, 500.0
    assert (never.begin, never.end) == (500.0, 500.0)


def test_what_costs_most_comes_first() -> None:
    made = InventedRun(cores=2, ready=130.0)
    made.add(130.0, 150.0)
    told: list[Advice] = advise(made.session())
    assert [advice.stake_s for advice in told] == sorted((advice.stake_s for advice in told), reverse=True)
    assert len(told) > 1
