"""Executables that print nothing share files; whatever they do print is in files of their own."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from spawner_driver import SpawnerDriver, StartDriver

from pilotage.model.ids import RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.services import Service
from pilotage.model.workload import Hooks
from pilotage.outputs.spares import recover
from pilotage.wire.runner_messages import StopRunner


class Gate:
    """A named pipe at which a task waits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def open(self) -> None:
        self.path.write_text("go\n")

    @property
    def wait(self) -> str:
        return f"read line < {self.path}"


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


def spare_files(driver: SpawnerDriver) -> list[str]:
    folder = Path(driver.settings.pilot_folder) / "output"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def own_files(driver: SpawnerDriver, uid: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in driver.sandbox(uid).iterdir()}


def run(driver: SpawnerDriver, template: TemplateId, uid: str, script: str, attempt: int = 1) -> None:
    driver.launch(uid, template=template, arguments=("-c", script), attempt=attempt)


def silent_template(driver: SpawnerDriver, **fields: object) -> TemplateId:
    """Return a template of shells of which one has been silent."""
    template = driver.template(executable="/bin/sh", **fields)
    run(driver, template, "first", ":")
    driver.wait_for_end("first")
    return template


def target(driver: SpawnerDriver, uid: str) -> str:
    """Return the name of the file that a running task writes to."""
    return Path(os.readlink(f"/proc/{driver.started()[uid]}/fd/1")).name


def test_a_silent_task_makes_no_file(driver: SpawnerDriver, gate: Gate) -> None:
    template = silent_template(driver)
    run(driver, template, "a", gate.wait)
    driver.wait_for_start("a")
    assert target(driver, "a").startswith("spawner.0.spare.1.") or "a.out" in own_files(driver, "a")
    gate.open()
    assert driver.wait_for_end("a").ending is Ending.DONE
    run(driver, template, "b", ":")
    driver.wait_for_end("b")
    assert own_files(driver, "a") == own_files(driver, "b") == {}
    driver.send(StopRunner(1.0))
    (process,) = driver.processes.values()
    driver.wait_for(lambda: process.poll() is not None, what="the end of the spawner")
    assert not (Path(driver.settings.pilot_folder) / "output").exists()
    assert not list(driver.folder.glob("*.spares"))


def test_what_a_task_prints_after_silent_ones_is_in_its_own_files_alone(driver: SpawnerDriver) -> None:
    template = silent_template(driver)
    scripts = {
        "out": "echo $PILOTAGE_TASK_ID",
        "quiet": ":",
        "both": "echo out; echo err >&2",
        "quiet2": ":",
        "fail": "echo e >&2; exit 3",
    }
    for uid, script in scripts.items():
        run(driver, template, uid, script)
        driver.wait_for_end(uid)
    assert own_files(driver, "out") == {"out.out": "out\n"}
    assert own_files(driver, "both") == {"both.out": "out\n", "both.err": "err\n"}
    assert own_files(driver, "fail") == {"fail.err": "e\n"}
    assert driver.ends()[TaskUid("fail")].detail == "e\n"
    assert own_files(driver, "quiet") == own_files(driver, "quiet2") == {}


def test_own_files_have_the_mode_that_others_have(driver: SpawnerDriver) -> None:
    template = silent_template(driver)
    for uid in ("a", "b"):
        run(driver, template, uid, "echo x")
        driver.wait_for_end(uid)
    modes = [stat.S_IMODE((driver.sandbox(uid) / f"{uid}.out").stat().st_mode) for uid in ("a", "b")]
    assert modes[0] == modes[1]


def test_many_side_by_side_print_into_no_others_files(driver: SpawnerDriver) -> None:
    template = silent_template(driver)
    uids = [f"task-{number}" for number in range(60)]
    for number, uid in enumerate(uids):
        run(driver, template, uid, f"echo {uid}" if number % 3 == 0 else ":")
    driver.wait_for_ends(uids)
    for number, uid in enumerate(uids):
        assert own_files(driver, uid) == ({f"{uid}.out": f"{uid}\n"} if number % 3 == 0 else {})


def test_a_running_task_can_be_followed(driver: SpawnerDriver, gate: Gate) -> None:
    template = silent_template(driver)
    run(driver, template, "a", f"echo so far; {gate.wait}; echo the rest; echo err >&2")
    assert driver.wait_for_text(driver.sandbox("a") / "a.out") == "so far\n"
    gate.open()
    driver.wait_for_end("a")
    assert own_files(driver, "a") == {"a.out": "so far\nthe rest\n", "a.err": "err\n"}
    assert "a.out" not in spare_files(driver)


def test_a_long_silent_task_has_files_that_are_removed_at_its_end(driver: SpawnerDriver, gate: Gate) -> None:
    template = silent_template(driver)
    run(driver, template, "a", gate.wait)
    driver.wait_for(lambda: driver.sandbox("a").exists() and len(own_files(driver, "a")) == 2, what="files of a running task")
    gate.open()
    driver.wait_for_end("a")
    assert own_files(driver, "a") == {}


def test_what_a_task_writes_to_the_file_of_that_name_itself_is_kept(driver: SpawnerDriver) -> None:
    template = silent_template(driver)
    run(driver, template, "a", "echo mine > $PILOTAGE_TASK_ID.out")
    driver.wait_for_end("a")
    assert own_files(driver, "a") == {"a.out": "mine\n"}
    run(driver, template, "b", ":")
    driver.wait_for_end("b")
    run(driver, template, "c", "echo mine > $PILOTAGE_TASK_ID.out; echo printed")
    driver.wait_for_end("c")
    assert own_files(driver, "c") == {"c.out": "mine\nprinted\n"}


def test_who_was_left_behind_writes_into_no_others_files(driver: SpawnerDriver) -> None:
    template = silent_template(driver, grace_s=0.05)
    left = "(trap '' TERM; while :; do echo late; done) &"
    run(driver, template, "a", f"{left} while ! [ -s /proc/$$/fd/1 ]; do :; done")
    driver.wait_for_end("a")
    assert own_files(driver, "a")["a.out"].startswith("late\n")
    for uid in ("b", "c"):
        run(driver, template, uid, ":")
        driver.wait_for_end(uid)
        assert own_files(driver, uid) == {}


def test_a_second_attempt_does_not_show_what_the_first_printed(driver: SpawnerDriver) -> None:
    template = driver.template(executable="/bin/sh")
    run(driver, template, "a", "echo first")
    driver.wait_for_end("a")
    run(driver, template, "between", ":")
    driver.wait_for_end("between")
    run(driver, template, "a", ":", attempt=2)
    driver.wait_for(lambda: driver.ends()[TaskUid("a")].attempt == 2)
    assert own_files(driver, "a") == {}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"stdout": "named"}, "named"),
        ({"stderr": "named"}, "a.out"),
        ({"hooks": Hooks(pre_launch=("true",))}, "a.out"),
        ({"service": Service()}, "a.out"),
        ({"output_limit_bytes": 1000}, "a.out"),
        ({"sandbox": "shared"}, "a.out"),
    ],
    ids=["stdout", "stderr", "hooks", "service", "limited", "shared"],
)
def test_whose_files_may_be_looked_for_has_them_at_once(
    driver: SpawnerDriver, gate: Gate, fields: dict[str, object], name: str
) -> None:
    template = silent_template(driver, **fields)
    run(driver, template, "a", gate.wait)
    driver.wait_for_start("a")
    driver.wait_for(lambda: target(driver, "a") == name, what="the output of its shell")
    assert spare_files(driver) == []
    gate.open()
    driver.wait_for_end("a")


def test_a_task_that_was_never_begun_gives_its_files_back(driver: SpawnerDriver) -> None:
    template = silent_template(driver)
    driver.launch("a", template=template, arguments=("-c", ":", "x" * (1 << 18)))
    assert driver.wait_for_end("a").ending is Ending.LAUNCH_FAILED
    run(driver, template, "b", "echo b")
    driver.wait_for_end("b")
    assert own_files(driver, "b") == {"b.out": "b\n"}
    assert all(name.startswith("spawner.0.spare.1.") for name in spare_files(driver))


def test_a_killed_spawner_leaves_what_its_tasks_had_printed(driver: SpawnerDriver) -> None:
    template = silent_template(driver)
    run(driver, template, "a", "echo so far; exec sleep 1000")
    driver.wait_for_start("a")
    folder = Path(driver.settings.pilot_folder)
    driver.wait_for(
        lambda: any(path.stat().st_size for path in [*folder.glob("output/*.out"), *folder.glob("tasks/a/a.out")]),
        what="output of a running task",
    )
    with driver.processes.pop(RunnerId("spawner.0")) as killed:
        killed.kill()
    recover(driver.folder, "spawner.0")
    assert own_files(driver, "a")["a.out"] == "so far\n"
    assert spare_files(driver) == []
    driver.start_spawner("spawner.1")
    run(driver, silent_template(driver), "b", "echo b")
    driver.wait_for_end("b")
    assert own_files(driver, "b") == {"b.out": "b\n"}


def test_without_room_for_a_note_a_task_has_files_of_its_own(start_driver: StartDriver, tmp_path: Path) -> None:
    driver = start_driver()
    (driver.folder / "spawner.0.spares").mkdir()
    template = silent_template(driver)
    run(driver, template, "a", "echo a")
    assert driver.wait_for_end("a").ending is Ending.DONE
    assert own_files(driver, "a") == {"a.out": "a\n"}
