"""Sandboxes of each kind, and what happens where there is no room for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from spawner_driver import SpawnerDriver, StartDriver

from pilotage.model.outcome import Ending
from pilotage.model.workload import Hooks
from pilotage.wire.runner_messages import StorageFull, TasksReturned


def where(driver: SpawnerDriver, sandbox: str, shard: int = 0) -> list[str]:
    """Return where a task with this sandbox runs, and where it is told that it does."""
    template = driver.template(executable="/bin/sh", sandbox=sandbox, stdout=f"{driver.folder}/out")
    driver.launch("task.1", template=template, arguments=("-c", "pwd; echo $PILOTAGE_TASK_SANDBOX"), shard=shard)
    assert driver.wait_for_end("task.1").ending is Ending.DONE
    return (driver.folder / "out").read_text().splitlines()


def fill(folder: Path) -> list[Path]:
    """Take all inodes, and return the files that have them."""
    fillers: list[Path] = []
    while True:
        filler = folder / f"filler.{len(fillers)}"
        try:
            filler.touch()
        except OSError:
            return fillers
        fillers.append(filler)


@pytest.mark.parametrize(
    ("sandbox", "shard", "place"),
    [
        ("", 0, "tasks/task.1"),
        ("", 12, "tasks/shard.0012/task.1"),
        ("shared", 3, "tasks/shared"),
        ("own/place", 0, "own/place"),
        ("./shared", 0, "shared"),
    ],
)
def test_a_sandbox_lies_in_the_pilots_folder(driver: SpawnerDriver, sandbox: str, shard: int, place: str) -> None:
    folder = Path(driver.settings.pilot_folder)
    ran, told = where(driver, sandbox, shard)
    assert (ran, Path(told)) == (str(folder / place), folder / place)


def test_a_task_without_a_sandbox_runs_where_the_users_program_does(start_driver: StartDriver, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    driver = start_driver(working_folder=str(tmp_path / "home"))
    assert where(driver, "none") == [str(tmp_path / "home")] * 2


def test_the_folder_of_the_users_program_is_not_made(start_driver: StartDriver, tmp_path: Path) -> None:
    driver = start_driver(working_folder=str(tmp_path / "gone"))

    driver.launch("task.1", template=driver.template(executable="/bin/true", sandbox="none"))

    end = driver.wait_for_end("task.1")
    assert end.ending is Ending.LAUNCH_FAILED
    assert f"sandbox '{tmp_path}/gone' cannot be used: No such file or directory" in end.message
    assert not (tmp_path / "gone").exists()


def test_tasks_for_which_there_is_no_room_come_back_and_run_when_there_is(start_driver: StartDriver, small_disk: Path) -> None:
    driver = start_driver(pilot_folder=str(small_disk))
    template = driver.template(executable="/bin/true")
    gate = driver.folder / "gate"
    driver.shell("task.gate", f"while ! [ -e {gate} ]; do sleep 0.01; done")
    driver.wait_for_start("task.gate")
    fillers = fill(small_disk)

    driver.launch("task.1", "task.2", template=template)

    driver.wait_for(lambda: driver.returned() == ["task.1", "task.2"])
    told, returned = (message for _, message in driver.messages[-2:])
    assert isinstance(returned, TasksReturned)
    assert told == StorageFull(
        f"sandbox '{small_disk}/tasks/task.1' cannot be used: No space left on device; "
        "free space (or inodes) on its file system, or choose another sandbox"
    )
    for filler in fillers:
        filler.unlink()
    driver.launch("task.1", "task.2", template=template)
    gate.touch()
    ends = driver.wait_for_ends(["task.1", "task.2", "task.gate"])
    assert {end.ending for end in ends.values()} == {Ending.DONE}


@pytest.mark.parametrize("hooks", [None, Hooks(pre_launch=("true",))], ids=["direct", "hooks"])
def test_a_task_without_room_for_its_output_comes_back(
    start_driver: StartDriver, small_disk: Path, hooks: Hooks | None
) -> None:
    driver = start_driver(pilot_folder=str(small_disk))
    driver.sandbox("task.1").mkdir()
    fill(small_disk)

    driver.launch("task.1", template=driver.template(executable="/bin/true", hooks=hooks))

    driver.wait_for(lambda: driver.returned() == ["task.1"])
    assert "stdout 'task.1.out' cannot be opened: No space left on device" in driver.reasons()[0]


def test_a_folder_of_the_users_own_that_is_full_fails_the_task_that_wants_it(driver: SpawnerDriver, small_disk: Path) -> None:
    fill(small_disk)

    driver.launch("task.1", template=driver.template(executable="/bin/true", sandbox=f"{small_disk}/run"))

    end = driver.wait_for_end("task.1")
    assert end.ending is Ending.LAUNCH_FAILED
    assert f"sandbox '{small_disk}/run' cannot be used: No space left on device" in end.message
    assert driver.reasons() == []
