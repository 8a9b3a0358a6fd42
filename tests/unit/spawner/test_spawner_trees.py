"""A task is over only when nothing of it is left, whatever its processes do to get away."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from spawner_driver import SpawnerDriver

from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.outcome import Ending
from pilotage.system.processes import started_ticks
from pilotage.wire.runner_messages import EndTasks, RecallTasks

DEAF = "trap '' TERM HUP; "
FOREVER = "while :; do sleep 1000; done"


def end(driver: SpawnerDriver, *uids: str, ending: Ending = Ending.CANCELLED, message: str = "cancelled by the user") -> None:
    driver.send(EndTasks([(TaskUid(uid), Attempt(1)) for uid in uids], ending, message))


def pids_in(driver: SpawnerDriver, path: Path, count: int) -> dict[int, int | None]:
    """Wait until ``count`` process ids stand in a file; return them with their start times."""
    driver.wait_for(lambda: path.exists() and len(path.read_text().split()) == count, what=f"{count} pids in {path}")
    return {int(pid): started_ticks(int(pid)) for pid in path.read_text().split()}


def assert_gone(pids: dict[int, int | None]) -> None:
    assert {pid: started_ticks(pid) for pid, ticks in pids.items() if ticks is not None and started_ticks(pid) == ticks} == {}


def test_a_task_is_ended_by_term(driver: SpawnerDriver) -> None:
    driver.shell("task.1", "exec sleep 1000", grace_s=1000.0)
    driver.wait_for_start("task.1")

    end(driver, "task.1", ending=Ending.TIMED_OUT, message="ran longer than 5 s")

    over = driver.wait_for_end("task.1")
    assert (over.ending, over.exit_code, over.message) == (Ending.TIMED_OUT, -signal.SIGTERM, "ran longer than 5 s")


def test_a_task_that_tidies_up_on_term_is_still_reported_as_ended(driver: SpawnerDriver) -> None:
    driver.shell("task.1", "trap 'echo tidy; exit 0' TERM; echo ready > ready; sleep 1000 & wait", grace_s=1000.0)
    driver.wait_for_text(driver.sandbox("task.1") / "ready")

    end(driver, "task.1")

    over = driver.wait_for_end("task.1")
    assert (over.ending, over.exit_code) == (Ending.CANCELLED, 0)
    assert driver.output("task.1") == "tidy\n"


def test_a_task_that_ignores_term_is_killed_after_its_grace(driver: SpawnerDriver) -> None:
    driver.shell("task.1", f"{DEAF}echo ready > ready; {FOREVER}", grace_s=0.1)
    driver.wait_for_text(driver.sandbox("task.1") / "ready")

    end(driver, "task.1")

    over = driver.wait_for_end("task.1")
    assert (over.ending, over.exit_code) == (Ending.CANCELLED, -signal.SIGKILL)


def test_a_stopped_task_is_ended_too(driver: SpawnerDriver) -> None:
    driver.shell("task.1", "kill -STOP $$; sleep 1000", grace_s=1000.0)
    pid = driver.wait_for_start("task.1")
    driver.wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "T")

    end(driver, "task.1")

    assert driver.wait_for_end("task.1").exit_code == -signal.SIGTERM


def test_ending_a_waiting_task_returns_it_and_those_behind_it_go_on(driver: SpawnerDriver) -> None:
    template = driver.template(executable="/bin/sh", grace_s=1000.0)
    driver.launch("task.1", "task.2", "task.3", template=template, arguments=("-c", "exec sleep 1000"))
    driver.wait_for_start("task.1")

    end(driver, "task.2", "task.1", "task.unknown")

    driver.wait_for_start("task.3")
    assert driver.wait_for_end("task.1").ending is Ending.CANCELLED
    assert driver.returned() == ["task.2"]
    assert "task.2" not in driver.ends()


def test_a_recall_returns_only_what_has_not_begun(driver: SpawnerDriver) -> None:
    template = driver.template(executable="/bin/sh")
    driver.launch("task.1", "task.2", "task.3", template=template, arguments=("-c", "exec sleep 1000"))
    driver.wait_for_start("task.1")

    driver.send(RecallTasks([(TaskUid(f"task.{number}"), Attempt(1)) for number in (1, 2, 3)]))

    driver.wait_for(lambda: driver.returned() == ["task.2", "task.3"])
    assert not driver.ends()


def test_ending_a_task_that_has_ended_does_nothing(driver: SpawnerDriver) -> None:
    driver.shell("task.1", "exit 4")
    driver.wait_for_end("task.1")

    end(driver, "task.1")
    driver.shell("task.2", ":")

    driver.wait_for_end("task.2")
    assert driver.ends()["task.1"].ending is Ending.EXITED
    assert driver.returned() == []


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(f"sh -c 'echo $$ >> pids; {FOREVER}' &", id="left in the background"),
        pytest.param(f"setsid sh -c 'echo $$ >> pids; {FOREVER}' &", id="in a session of its own"),
        pytest.param(
            f"(setsid sh -c 'echo $$ >> pids; {FOREVER}' >/dev/null 2>&1 </dev/null &)", id="forked twice, output closed"
        ),
    ],
)
def test_what_a_task_leaves_behind_is_ended_before_its_end_is_told(driver: SpawnerDriver, way: str) -> None:
    driver.shell("task.1", f"{way}\nwhile ! [ -s pids ]; do :; done; exit 0", grace_s=1000.0)

    over = driver.wait_for_end("task.1")

    assert (over.ending, over.exit_code, over.message) == (Ending.DONE, 0, "processes that it left behind were ended")
    assert_gone(pids_in(driver, driver.sandbox("task.1") / "pids", 1))


def test_a_deaf_daemon_of_a_task_is_killed_after_the_grace(driver: SpawnerDriver) -> None:
    daemon = f'setsid sh -c "{DEAF}echo \\$\\$ >> pids; {FOREVER}"'
    driver.shell("task.1", f"({daemon} &); while ! [ -s pids ]; do :; done", grace_s=0.1)

    assert driver.wait_for_end("task.1").ending is Ending.DONE

    assert_gone(pids_in(driver, driver.sandbox("task.1") / "pids", 1))


DEEP = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for level in range(3):
    if os.fork() == 0:
        os.setsid()
    else:
        break
with open("pids", "a") as file:
    file.write(f"{os.getpid()}\\n")
while True:
    signal.pause()
"""


def test_a_deaf_tree_of_sessions_is_ended_whole(driver: SpawnerDriver) -> None:
    template = driver.template(executable=sys.executable, grace_s=0.1)
    driver.launch("task.1", template=template, arguments=("-c", DEEP))
    pids = pids_in(driver, driver.sandbox("task.1") / "pids", 4)

    end(driver, "task.1")

    assert driver.wait_for_end("task.1").ending is Ending.CANCELLED
    assert_gone(pids)


def test_a_daemon_lives_as_long_as_its_task_and_other_tasks_are_not_held_up(driver: SpawnerDriver) -> None:
    gate = driver.settings.pilot_folder + "/gate"
    os.mkfifo(gate)
    driver.shell("task.1", f"(setsid sh -c 'echo $$ >> pids; {FOREVER}' &); read line < {gate}", grace_s=1000.0)
    pids = pids_in(driver, driver.sandbox("task.1") / "pids", 1)
    driver.shell("task.2", ":")
    assert driver.wait_for_end("task.2").message == ""
    assert {pid: started_ticks(pid) for pid in pids} == pids

    Path(gate).write_text("go\n")

    assert driver.wait_for_end("task.1").ending is Ending.DONE
    assert_gone(pids)


def test_a_task_that_closes_its_output_and_goes_on_is_not_over(driver: SpawnerDriver) -> None:
    gate = driver.settings.pilot_folder + "/gate"
    os.mkfifo(gate)
    driver.shell("task.1", f"exec >&- 2>&-; echo ready > ready; read line < {gate}; exit 5")
    driver.wait_for_text(driver.sandbox("task.1") / "ready")
    driver.shell("task.2", ":")
    driver.wait_for_end("task.2")
    assert "task.1" not in driver.ends()

    Path(gate).write_text("go\n")

    assert driver.wait_for_end("task.1").exit_code == 5


def test_much_output_goes_straight_to_the_file(driver: SpawnerDriver) -> None:
    driver.shell("task.1", "head -c 100000000 /dev/zero")

    assert driver.wait_for_end("task.1").ending is Ending.DONE
    output = driver.sandbox("task.1") / "task.1.out"
    assert output.stat().st_size == 100_000_000
    output.unlink()
