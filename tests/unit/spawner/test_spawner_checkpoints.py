"""Programs are told by a signal that their pilot's time is nearly over; those that fail from then on were cut short."""

from __future__ import annotations

import signal

import pytest
from spawner_driver import SpawnerDriver, StartDriver

from pilotage.model.execution import Execution
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.workload import ALL_RANKS, Hooks
from pilotage.wire.runner_messages import EndTasks, RecallTasks, SignalTasks

USR1 = int(signal.SIGUSR1)
WAIT = "echo ready > ready; while :; do sleep 0.05; done"


def execution(uid: str) -> Execution:
    return TaskUid(uid), Attempt(1)


def run(driver: SpawnerDriver, uid: str, script: str, **fields: object) -> None:
    """Start a script, and wait until it says that it is ready."""
    driver.shell(uid, script, **fields)
    driver.wait_for_text(driver.sandbox(uid) / "ready")


def test_a_program_that_saves_and_fails_was_cut_short_and_keeps_its_exit_code(driver: SpawnerDriver) -> None:
    run(driver, "a", f"trap 'echo saved > state; exit 7' USR1; {WAIT}")
    driver.send(SignalTasks([execution("a")], USR1))
    end = driver.wait_for_end("a")
    assert (end.ending, end.exit_code) == (Ending.OUT_OF_WALLTIME, 7)
    assert end.message == "exited with code 7 after SIGUSR1, which told it that the pilot's time is nearly over"
    assert (driver.sandbox("a") / "state").read_text() == "saved\n"


def test_a_program_that_says_it_is_done_is_done(driver: SpawnerDriver) -> None:
    run(driver, "a", f"trap 'exit 0' USR1; {WAIT}")
    driver.send(SignalTasks([execution("a")], USR1))
    assert driver.wait_for_end("a").ending is Ending.DONE


def test_a_program_that_does_not_catch_the_signal_was_cut_short(driver: SpawnerDriver) -> None:
    run(driver, "a", WAIT)
    driver.send(SignalTasks([execution("a")], USR1))
    end = driver.wait_for_end("a")
    assert (end.ending, end.exit_code) == (Ending.OUT_OF_WALLTIME, -USR1)


def test_a_program_is_told_once_however_often_it_is_asked_for(driver: SpawnerDriver) -> None:
    run(driver, "a", "trap 'echo told >> told' USR1; trap 'cat told; exit 3' USR2; " + WAIT)
    for _ in range(3):
        driver.send(SignalTasks([execution("a")], USR1))
    driver.wait_for_text(driver.sandbox("a") / "told")
    driver.send(SignalTasks([execution("a")], int(signal.SIGUSR2)))
    driver.send(EndTasks([execution("a")], Ending.OUT_OF_WALLTIME, "over"))
    driver.wait_for_end("a")
    assert (driver.sandbox("a") / "told").read_text() == "told\n"


def test_what_is_ended_later_is_told_as_asked(driver: SpawnerDriver) -> None:
    run(driver, "a", f"trap '' USR1; {WAIT}", grace_s=0.5)
    driver.send(SignalTasks([execution("a")], USR1))
    driver.send(EndTasks([execution("a")], Ending.CANCELLED, "nobody wants it"))
    end = driver.wait_for_end("a")
    assert (end.ending, end.message) == (Ending.CANCELLED, "nobody wants it")


def test_what_has_not_begun_and_what_is_over_is_passed_over(driver: SpawnerDriver) -> None:
    lane = driver.launch("over", template=driver.template(executable="/bin/true"))
    driver.wait_for_end("over")
    waits = driver.template(executable="/bin/sh")
    driver.launch("a", template=waits, arguments=("-c", f"trap '' USR1; {WAIT}"), lane=lane)
    driver.launch("b", template=waits, arguments=("-c", WAIT), lane=lane, placement=None)
    driver.wait_for_text(driver.sandbox("a") / "ready")
    driver.send(SignalTasks([execution("over"), execution("b"), execution("unknown")], USR1))
    driver.send(RecallTasks([execution("b")]))
    driver.send(EndTasks([execution("a")], Ending.OUT_OF_WALLTIME, "over"))
    assert driver.wait_for_end("a").ending is Ending.OUT_OF_WALLTIME
    assert "b" not in driver.ends()


@pytest.mark.parametrize(
    "hooks",
    [
        Hooks(pre_exec=((ALL_RANKS, "export A=1"),), post_exec=((ALL_RANKS, "echo after > after"),)),
        Hooks(pre_launch=("true",), post_launch=("echo after > after",)),
    ],
    ids=["in each rank", "once"],
)
def test_the_shell_of_hooks_leaves_the_signal_to_its_program(driver: SpawnerDriver, hooks: Hooks) -> None:
    run(driver, "a", f"trap 'echo saved > state; exit 7' USR1; {WAIT}", hooks=hooks)
    driver.send(SignalTasks([execution("a")], USR1))
    end = driver.wait_for_end("a")
    assert (end.ending, end.exit_code) == (Ending.OUT_OF_WALLTIME, 7)
    assert (driver.sandbox("a") / "state").read_text() == "saved\n"
    assert (driver.sandbox("a") / "after").read_text() == "after\n"


def test_tasks_know_when_the_pilots_time_is_over(start_driver: StartDriver) -> None:
    for end_time, told in ((1795304221.7, "1795304221"), (0.0, "unset")):
        driver = start_driver(end_time=end_time)
        driver.shell("a", "echo ${PILOTAGE_END_TIME-unset}")
        driver.wait_for_end("a")
        assert driver.output("a") == f"{told}\n"
