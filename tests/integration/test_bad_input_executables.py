"""Executables that cannot be run, or are no guests to wish for: the outcome says why, and the pilot goes on."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from integration_support import PATIENCE_S, Campaign, eventually, outcome_of, shell

import pilotage as rp
from pilotage import Ending


@pytest.fixture(autouse=True)
def _goes_on(campaign: Campaign) -> None:
    yield
    assert campaign.shell("echo fine").stdout == "fine\n"


def script(folder: Path, text: str, mode: int = 0o755) -> Path:
    path = folder / "script"
    path.write_text(text)
    path.chmod(mode)
    return path


def refused(campaign: Campaign, description: rp.TaskDescription) -> str:
    """Run what cannot be started, and return why."""
    task = campaign.run(description)
    assert (task.state, task.exit_code, outcome_of(task).ending) == (rp.FAILED, None, Ending.LAUNCH_FAILED)
    with pytest.raises(rp.TaskFailed, match=task.uid):
        task.result(0)
    return task.exception


def test_a_missing_executable(campaign: Campaign) -> None:
    why = refused(campaign, rp.TaskDescription(executable="/no/such/program"))
    assert "'/no/such/program' cannot be found" in why
    assert "give its full path" in why


def test_an_executable_that_is_in_no_folder_of_the_path(campaign: Campaign) -> None:
    why = refused(campaign, rp.TaskDescription(executable="gromacks", environment={"PATH": "/bin:/usr/bin"}))
    assert "'gromacks' is in no folder of the task's PATH (/bin:/usr/bin)" in why


def test_a_file_that_is_not_executable(campaign: Campaign, tmp_path: Path) -> None:
    why = refused(campaign, rp.TaskDescription(executable=script(tmp_path, "#!/bin/sh\n", 0o644)))
    assert f"chmod +x {tmp_path}/script" in why


def test_a_directory(campaign: Campaign, tmp_path: Path) -> None:
    assert f"'{tmp_path}' is a directory" in refused(campaign, rp.TaskDescription(executable=tmp_path))


def test_a_bad_interpreter(campaign: Campaign, tmp_path: Path) -> None:
    why = refused(campaign, rp.TaskDescription(executable=script(tmp_path, "#!/no/such/python3\n")))
    assert "needs the interpreter '/no/such/python3'" in why


def test_a_script_without_a_first_line(campaign: Campaign, tmp_path: Path) -> None:
    assert "'#!' line" in refused(campaign, rp.TaskDescription(executable=script(tmp_path, "echo hello\n")))


def test_arguments_longer_than_the_system_takes(campaign: Campaign) -> None:
    why = refused(campaign, rp.TaskDescription(executable="/bin/echo", arguments=["x" * 3_000_000]))
    assert "pass them in a file" in why


@pytest.mark.parametrize("what", ["stdout", "stderr"])
def test_an_output_file_that_cannot_be_opened(campaign: Campaign, what: str) -> None:
    why = refused(campaign, rp.TaskDescription(executable="/bin/true", **{what: "/no/such/folder/file"}))
    assert f"{what} '/no/such/folder/file' cannot be opened" in why
    assert f"choose another {what}" in why


def test_a_sandbox_that_cannot_be_made(campaign: Campaign) -> None:
    why = refused(campaign, rp.TaskDescription(executable="/bin/true", sandbox="/proc/no/such"))
    assert "sandbox '/proc/no/such' cannot be used" in why
    assert "choose another sandbox" in why


def test_one_bad_task_does_not_touch_its_neighbours(campaign: Campaign) -> None:
    mixed = [rp.TaskDescription(executable="/no/such/program" if number % 10 == 3 else "/bin/true") for number in range(100)]
    states = [task.state for task in campaign.run(mixed)]
    assert states == [rp.FAILED if number % 10 == 3 else rp.DONE for number in range(100)]


# output


def test_output_that_is_not_utf8(campaign: Campaign) -> None:
    task = campaign.shell(r"printf 'abc\377\376'; printf 'bad \200' >&2; exit 1")
    assert task.stdout_path.read_bytes() == b"abc\xff\xfe"
    assert task.stdout == "abc��"
    assert task.exception_detail == "bad �"


def test_a_gigabyte_on_stdout(campaign: Campaign) -> None:
    # Straight from the task to its file: neither the agent's memory nor the client's sees it.
    task = campaign.run(shell("dd if=/dev/zero bs=1M count=1000 status=none; echo the end", stdout="large.out"))
    try:
        assert task.exit_code == 0
        assert task.stdout_path.stat().st_size == 1000 * 1024**2 + len("the end\n")
        assert len(task.stdout) <= 1024
        assert task.stdout.endswith("the end\n")
    finally:
        task.stdout_path.unlink()


def test_a_lot_on_stderr_of_a_failing_task(campaign: Campaign) -> None:
    task = campaign.shell("dd if=/dev/zero bs=1M count=20 status=none | tr '\\0' x >&2; echo why >&2; exit 1")
    assert task.exception_detail.endswith("why\n")
    assert len(task.exception_detail) < 20_000


# processes that do not want to go


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def pid_in(path: Path) -> int:
    return int(eventually(lambda: path.exists() and path.read_text().strip(), f"a pid in {path}"))


def test_a_task_that_ignores_term_is_killed_after_its_grace(campaign: Campaign, tmp_path: Path) -> None:
    stubborn = shell(f'trap "" TERM; echo $$ > {tmp_path}/pid; while :; do sleep 600; done', grace=0.2)
    task = campaign.tasks.submit_tasks(stubborn)
    pid = pid_in(tmp_path / "pid")
    task.cancel()
    assert task.wait(timeout=PATIENCE_S) == rp.CANCELED
    assert not alive(pid)


ESCAPE = """
import os, sys, time, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        for name in list(os.environ):
            del os.environ[name]
        with open(sys.argv[1], "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
os.wait()
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
if sys.argv[2] == "stay":
    time.sleep(600)
"""


@pytest.mark.parametrize("parent", ["stay", "leave"])
def test_a_task_that_forks_twice_into_a_session_of_its_own(campaign: Campaign, tmp_path: Path, parent: str) -> None:
    description = rp.TaskDescription(executable="python3", arguments=["-c", ESCAPE, tmp_path / "pid", parent], grace=0.2)
    task = campaign.tasks.submit_tasks(description)
    pid = pid_in(tmp_path / "pid")
    if parent == "stay":
        task.cancel()
    assert task.wait(timeout=PATIENCE_S) == (rp.CANCELED if parent == "stay" else rp.DONE)
    # The outcome is told when the whole tree is gone.
    assert not alive(pid)


def test_children_that_a_task_leaves_are_ended_with_it(campaign: Campaign, tmp_path: Path) -> None:
    task = campaign.shell(f"sleep 600 & echo $! > {tmp_path}/pid; exit 0")
    assert (task.state, task.exit_code) == (rp.DONE, 0)
    assert not alive(pid_in(tmp_path / "pid"))


def test_a_task_that_stops_itself_can_be_cancelled(campaign: Campaign, tmp_path: Path) -> None:
    task = campaign.tasks.submit_tasks(shell(f"echo $$ > {tmp_path}/pid; kill -STOP $$", grace=0.2))
    pid = pid_in(tmp_path / "pid")
    task.cancel()
    assert task.wait(timeout=PATIENCE_S) == rp.CANCELED
    assert not alive(pid)


def test_a_sandbox_that_the_task_removes(campaign: Campaign) -> None:
    task = campaign.shell('cd /; rm -r "$PILOTAGE_TASK_SANDBOX"; exit 4')
    assert (task.exit_code, task.stdout, task.stderr) == (4, "", "")


def test_a_sandbox_without_permissions(campaign: Campaign, tmp_path: Path) -> None:
    folder = tmp_path / "sealed"
    folder.mkdir()
    folder.chmod(0)
    task = campaign.shell("pwd", sandbox=folder)
    folder.chmod(stat.S_IRWXU)
    if os.geteuid() == 0:
        assert task.state == rp.DONE  # nothing is sealed for root
    else:
        assert f"sandbox '{folder}' cannot be used" in task.exception
