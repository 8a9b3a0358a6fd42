"""What the doctor looks at, and what it says when something is wrong."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotage.agent.settings import CONNECTION_FILE
from pilotage.cli import checks, leftovers
from pilotage.cli.findings import Finding, Status, judged, run_check
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.system.processes import boot_id, started_ticks
from pilotage.wire.keys import Connection, write_connection
from pilotage.wire.runner_settings import RunnerSettings, write_settings


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_a_check_that_breaks_is_a_finding() -> None:
    def check_the_weather() -> list[Finding]:
        raise OSError("no sky")

    finding = only(run_check("the weather", check_the_weather))
    assert (finding.check, finding.status, finding.found) == ("the weather", Status.BROKEN, "OSError: no sky")
    assert finding.remedy


@pytest.mark.parametrize(
    ("broken", "warning", "status"),
    [(False, False, "ok"), (False, True, "warning"), (True, False, "broken"), (True, True, "broken")],
)
def test_a_remedy_is_given_only_with_a_problem(broken: bool, warning: bool, status: str) -> None:
    finding = judged("thing", "found", broken, warning, "mend it")
    assert (finding.status.value, finding.remedy) == (status, "" if status == "ok" else "mend it")


@pytest.mark.parametrize(("version", "numbers"), [("25.1", (25, 1)), ("0.18.6", (0, 18, 6)), ("3.0.dev1", (3, 0)), ("x", ())])
def test_versions_are_compared_by_their_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert checks._numbers(version) == numbers


def test_old_and_missing_dependencies_are_named_with_the_command_that_mends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LEAST_VERSIONS", {"msgspec": (999,), "no-such-package-here": (1, 0)})
    finding = only(checks.check_dependencies())
    assert finding.status is Status.BROKEN
    assert finding.remedy == "run: pip install -U 'no-such-package-here>=1.0' 'msgspec>=999'"


def test_room_for_sandboxes_is_told_by_file_system(tmp_path: Path) -> None:
    here, later = checks.check_sandboxes([tmp_path, tmp_path / "not" / "yet"])

    assert here.found.startswith(f"{tmp_path}: ")
    assert later.found.startswith(f"{tmp_path}/not/yet: ")
    assert "free" in here.found


def test_sandboxes_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_room", lambda folder: (10 << 30, 600))
    finding = only(checks.check_sandboxes([tmp_path]))

    assert finding.status is Status.WARNING
    assert (
        finding.found == f"{tmp_path}: 10.0 GiB and 600 inodes free, for 200 tasks that have a sandbox of their own and print"
    )
    assert "output='aggregate'" in finding.remedy


def test_a_session_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    finding = only(checks.check_session_folder(tmp_path / "sessions"))
    assert finding.status is not Status.BROKEN
    assert list((tmp_path / "sessions").iterdir()) == []


def test_few_open_files_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_NPROC: (500, 500), resource.RLIMIT_NOFILE: (512, 4096)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    processes, files = checks.check_process_limits()
    assert (processes.status, files.status) == (Status.WARNING, Status.WARNING)
    assert "no more than 500 tasks" in processes.remedy
    assert "ulimit -n 4096" in files.remedy


def test_a_private_folder_in_a_long_path_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    finding = only(checks.check_temporary_folder())
    assert finding.status is Status.BROKEN
    assert "set TMPDIR to a shorter path" in finding.remedy


@pytest.fixture
def stray() -> Iterator[subprocess.Popen[bytes]]:
    """A process that carries a task's mark and descends from no pilot."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        env={**os.environ, "PILOTAGE_TASK_ID": "task.stray"},
    )
    yield process
    process.communicate()


def test_a_task_without_a_pilot_is_found(stray: subprocess.Popen[bytes]) -> None:
    # Between fork and exec a child still has its parent's environment.
    while b"task.stray" not in Path(f"/proc/{stray.pid}/environ").read_bytes():
        assert stray.poll() is None
    assert leftovers.orphaned_processes()[stray.pid] == "task.stray"
    finding = only(leftovers.check_processes())
    assert finding.status is Status.WARNING
    assert str(stray.pid) in finding.remedy


def private_folder(base: Path, pilot: Path) -> Path:
    folder = base / pilot.name
    folder.mkdir(mode=0o700)
    pilot.mkdir(mode=0o700)
    write_settings(folder, RunnerSettings(SessionUid("s"), PilotUid("p"), str(pilot), "", [], False, {}, [], "/"))
    return folder


def connection(pid: int, ticks: int) -> Connection:
    return Connection(PilotUid("p"), 1, "host", boot_id(), pid, ticks)


def test_private_folders_of_dead_agents_are_stale_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    base = tmp_path / "private"
    base.mkdir()
    ticks = started_ticks(os.getpid())
    assert ticks is not None
    private_folder(base, tmp_path / "living")
    write_connection(tmp_path / "living" / CONNECTION_FILE, connection(os.getpid(), ticks))
    dead = private_folder(base, tmp_path / "dead")
    write_connection(tmp_path / "dead" / CONNECTION_FILE, connection(os.getpid(), ticks - 1))
    (base / "just-made").mkdir(mode=0o700)
    assert leftovers.stale_private_folders(base) == [dead]
    assert leftovers.stale_private_folders(tmp_path / "none") == []
