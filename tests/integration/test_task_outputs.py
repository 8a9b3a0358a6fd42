"""What tasks print, as their program sees it: the same wherever it is kept; and how many files that takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from integration_support import Campaign, eventually, shell

import pilotage as rp
from pilotage.client.task_output import TAIL_CHARACTERS
from pilotage.outputs.aggregate import LARGE_BYTES
from pilotage.outputs.limits import marker

MODES: dict[str, dict[str, Any]] = {
    "files": {},
    "files without a sandbox": {"sandbox": "none", "output": "files"},
    "aggregate": {"output": "aggregate"},
    "aggregate without a sandbox": {"sandbox": "none"},
    "tail": {"output": "tail", "sandbox": "shared"},
}


@pytest.fixture(params=list(MODES))
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODES[request.param]


@pytest.fixture(scope="module", autouse=True)
def _elsewhere(place: Path, _nothing_left: None) -> Any:
    """Run in a folder of the module's own: tasks without a sandbox leave files in the folder of their program."""
    folder = place / "program"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def speak(out: str, err: str) -> None:
    print(out, end="")
    print(err, end="", file=sys.stderr)


def entries(pilot: str) -> int:
    """Count what the tasks of a pilot have left: each is an inode."""
    return sum(1 for name in ("tasks", "output") for _ in Path(pilot, name).rglob("*"))


def test_programs_print_and_their_output_is_read(campaign: Campaign, mode: dict[str, Any]) -> None:
    task = campaign.shell("echo grüße; echo problem >&2", **mode)
    assert (task.stdout, task.stderr) == ("grüße\n", "problem\n")
    with task.open_stdout() as stdout, task.open_stderr() as stderr:
        assert (stdout.read(), stderr.read()) == ("grüße\n".encode(), b"problem\n")
    if mode.get("output", "") == "files" or not mode:
        assert task.stdout_path is not None and task.stdout_path.read_text() == "grüße\n"
        assert task.stderr_path is not None and task.stderr_path.read_text() == "problem\n"
    else:
        assert (task.stdout_path, task.stderr_path) == (None, None)


def test_functions_print_and_their_output_is_read(campaign: Campaign, mode: dict[str, Any]) -> None:
    task = campaign.run(rp.TaskDescription(function=speak, args=["grüße\n", "problem\n"], **mode))
    assert (task.stdout, task.stderr) == ("grüße\n", "problem\n")
    with task.open_stdout() as stdout:
        assert list(stdout) == ["grüße\n".encode()]


def test_who_prints_nothing_has_empty_output_and_no_files(campaign: Campaign, mode: dict[str, Any]) -> None:
    for task in campaign.run([shell(":", **mode), rp.TaskDescription(function=speak, args=["", ""], **mode)]):
        assert (task.stdout, task.stderr, task.stdout_path, task.stderr_path) == ("", "", None, None)
        assert task.open_stdout().read() == b""


def test_only_the_end_is_text_and_all_of_it_a_stream(campaign: Campaign, mode: dict[str, Any]) -> None:
    task = campaign.shell("i=0; while [ $i -lt 300 ]; do echo zeile-ü-$i; i=$((i+1)); done", **mode)
    printed = "".join(f"zeile-ü-{number}\n" for number in range(300))
    assert task.stdout == printed[-TAIL_CHARACTERS:]
    if mode.get("output") != "tail":
        assert task.open_stdout().read().decode() == printed


def test_bytes_are_read_as_they_were_written(campaign: Campaign, mode: dict[str, Any]) -> None:
    task = campaign.shell(r"printf '\377\000\n'", **mode)
    assert task.open_stdout().read() == b"\xff\x00\n"
    assert task.stdout == "\ufffd\x00\n"


def test_the_last_attempt_is_what_is_read(campaign: Campaign, mode: dict[str, Any]) -> None:
    first = "[ $PILOTAGE_ATTEMPT = 1 ] && { echo first; echo failed >&2; exit 1; };"
    task, silent = campaign.run([shell(f"{first} echo second", retries=1, **mode), shell(f"{first} :", retries=1, **mode)])
    assert (task.attempt, task.stdout, task.stderr) == (2, "second\n", "")
    assert (silent.attempt, silent.stdout, silent.stderr) == (2, "", "")


def test_a_failed_task_tells_the_end_of_its_stderr(campaign: Campaign, mode: dict[str, Any]) -> None:
    task = campaign.shell("echo what went wrong >&2; exit 3", **mode)
    assert task.exception_detail == "what went wrong\n"


def test_a_running_task_can_be_read(campaign: Campaign, mode: dict[str, Any], tmp_path: Path) -> None:
    go = tmp_path / "go"
    (task,) = campaign.tasks.submit_tasks([shell(f"echo so far; while [ ! -e {go} ]; do sleep 0.02; done; echo done", **mode)])
    try:
        eventually(lambda: task.stdout == "so far\n", "output of a running task")
        assert task.state not in rp.FINAL
    finally:
        go.touch()
    task.wait()
    assert task.stdout == "so far\ndone\n"


@pytest.mark.parametrize("output", ["files", "aggregate"])
def test_a_limit_keeps_both_ends(campaign: Campaign, output: str) -> None:
    task = campaign.shell("seq 100000", output=output, output_limit_mb=0.01)
    printed = "".join(f"{number}\n" for number in range(1, 100_001)).encode()
    kept = int(0.01 * (1 << 20))
    left_out = marker(len(printed) - kept)
    assert task.open_stdout().read() == printed[: kept // 2] + left_out + printed[-(kept - kept // 2) :]


def test_large_output_has_a_file_of_its_own(campaign: Campaign) -> None:
    task = campaign.shell(f"head -c {LARGE_BYTES + 1} /dev/zero; echo end", output="aggregate")
    assert task.stdout_path is not None and task.stdout_path.stat().st_size == LARGE_BYTES + 5
    assert task.stdout is not None and task.stdout.endswith("\0end\n")
    with task.open_stdout() as stdout:
        assert sum(map(len, iter(lambda: stdout.read(1 << 20), b""))) == LARGE_BYTES + 5


def test_discarded_output_is_nowhere(campaign: Campaign) -> None:
    task = campaign.shell("echo out; echo err >&2; exit 1", output="discard")
    assert (task.state, task.stdout, task.stderr, task.exception_detail) == (rp.FAILED, "", "", None)


def test_a_task_without_a_pilot_has_no_output(fresh: Campaign) -> None:
    (task,) = fresh.tasks.submit_tasks([shell("echo hello")])
    assert (task.stdout, task.stdout_path, task.open_stdout().read()) == (None, None, b"")


def test_a_later_program_reads_it_as_well(open_campaign: Callable[..., Campaign], base: Path) -> None:
    first = open_campaign()
    first.start()
    uids = [task.uid for task in first.run([shell("echo $PILOTAGE_TASK_ID", **mode) for mode in MODES.values()])]
    first.session.close()
    with rp.Session.resume(first.session.uid, base=base) as again:
        (manager,) = again.list_task_managers()
        tasks = again.get_task_managers(manager).get_tasks(uids)
        assert [task.stdout for task in tasks] == [f"{uid}\n" for uid in uids]


def test_a_million_tasks_would_not_need_a_million_files(campaign: Campaign) -> None:
    """The count of files and folders per task does not depend on how many tasks there are."""
    (pilot,) = campaign.tasks.get_pilots()
    count = 100
    quiet, loud = shell(":"), shell("echo out; echo err >&2")

    def added(description: rp.TaskDescription, **mode: Any) -> float:
        before = entries(pilot.sandbox)
        campaign.run([rp.TaskDescription({**description.as_dict(), **mode}) for _ in range(count)])
        return (entries(pilot.sandbox) - before) / count

    # What tasks that run at one time share is there once, and goes to one that prints: allow for two lanes, and their folder.
    shared = 5 / count
    for mode in ({"sandbox": "none"}, {"sandbox": "shared", "output": "aggregate"}, {"sandbox": "shared", "output": "tail"}):
        assert added(quiet, **mode) <= shared
        assert added(loud, **mode) <= shared
    assert abs(added(quiet) - 1) <= shared
    assert abs(added(loud) - 3) <= shared
    assert added(quiet, output="aggregate") <= 1 + shared
    assert added(loud, output="aggregate") <= 1 + shared
