"""The command line at work: each test is a person at a shell, with real sessions, pilots and tasks."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 60.0
PILOTAGE = [sys.executable, "-m", "pilotage.cli"]
WAIT_FOR_FILE = 'while [ ! -e "$0" ]; do sleep 0.02; done; echo "$1"'


def pilotage(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, its output in pipes."""
    return subprocess.run(
        [*PILOTAGE, *arguments], capture_output=True, text=True, errors="replace", timeout=PATIENCE_S, **options
    )


def asked(*arguments: str) -> Any:
    """Return what a command says as JSON."""
    done = pilotage(*arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def eventually(condition: Callable[[], Any]) -> Any:
    """Wait until a condition holds and return what it returned."""
    until = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < until, "it did not come to pass in time"
        select.select([], [], [], 0.02)
    return found


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command; what still runs at the end of the test is ended."""
    started: list[subprocess.Popen[str]] = []

    def start_one(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        started.append(subprocess.Popen([*PILOTAGE, *arguments], **options))
        return started[-1]

    yield start_one
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=PATIENCE_S)


def running(session: str, count: int) -> Callable[[], bool]:
    """Tell whether so many tasks of a session run."""

    def look() -> bool:
        done = pilotage("task", "list", "-s", session, "--state", "running", "-f", "quiet")
        return done.returncode == 0 and len(done.stdout.split()) == count

    return look


@pytest.fixture(scope="module")
def finished(_nothing_left: None) -> str:
    """A session of 4 tasks that is over: task 2 has failed."""
    done = pilotage(
        "run", "-n", "4", "--session", "finished", "--", "/bin/sh", "-c", "echo out {i}; echo err {i} >&2; exit $(({i} == 2))"
    )
    assert done.returncode == 1
    return "finished"


# run


def test_run_prints_one_line_and_leaves_outputs_in_files(tmp_path: Path) -> None:
    done = pilotage("run", "-n", "3", "--session", "echo", "--", "/bin/echo", "hello", "{i}")
    assert (done.returncode, done.stdout) == (0, "")
    summary = re.fullmatch(r"pilotage: 3 tasks: 3 done in .*; output in (\S+); session echo\n", done.stderr)
    assert summary, done.stderr
    outputs = sorted(Path(summary[1]).glob("*/*.out"))
    assert [output.read_text() for output in outputs] == ["hello 0\n", "hello 1\n", "hello 2\n"]


def test_run_shows_outputs_in_order_whoever_ends_first(tmp_path: Path) -> None:
    last = tmp_path / "last"
    waits = f"while [ ! -e {last} ]; do sleep 0.02; done"
    first_waits_for_last = f"if [ {{i}} = 0 ]; then {waits}; fi; echo {{i}}; [ {{i}} = 0 ] || touch {last}"
    done = pilotage("run", "-n", "2", "--pilot-cores", "2", "--show-output", "--", "/bin/sh", "-c", first_waits_for_last)
    assert (done.returncode, done.stdout) == (0, "0\n1\n")


def test_run_names_failures_with_their_reason_and_the_end_of_stderr(finished: str) -> None:
    done = pilotage("run", "-n", "8", "--", "/bin/sh", "-c", "echo broken {i} >&2; exit 3")
    assert done.returncode == 1
    assert done.stderr.count("failed: exited with code 3") == 5
    assert "    broken 0\n" in done.stderr
    assert re.search(r"all of it: /\S+\.err\n", done.stderr)
    assert re.search(r"3 more failed; see: pilotage task list -s \S+ --state FAILED\n", done.stderr)
    assert "8 tasks: 8 failed" in done.stderr


def test_run_hands_on_environment_sandbox_and_outputs(tmp_path: Path) -> None:
    done = pilotage(
        *("run", "-n", "2", "--env", "SEED={i}", "--sandbox", ".", "--stdout", "{i}.txt", "--stderr", "/dev/null"),
        *("--", "/bin/sh", "-c", "echo $SEED; pwd"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"{index}.txt").read_text() for index in range(2)] == [f"{index}\n{tmp_path}\n" for index in range(2)]
    assert f"output in {tmp_path}/" in done.stderr


def test_run_ends_tasks_that_take_too_long() -> None:
    done = pilotage("run", "--timeout", "0.2", "--", "/bin/sleep", "1000")
    assert done.returncode == 1
    assert "1 task: 1 failed" in done.stderr


def test_run_tries_failed_tasks_again(tmp_path: Path) -> None:
    second_time = f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; exit 1; }}"
    assert pilotage("run", "--retries", "1", "--", "/bin/sh", "-c", second_time).returncode == 0


def test_run_on_emulated_nodes_gives_each_rank_its_cores() -> None:
    done = pilotage(
        *("run", "--platform", "local.emulated", "--nodes", "3", "--cores-per-node", "4", "--ranks", "3", "--cores", "4"),
        *("--show-output", "--", "/bin/echo", "rank"),
    )
    assert (done.returncode, done.stdout) == (0, "rank\n" * 3), done.stderr


def test_run_says_what_no_pilot_can_ever_give() -> None:
    done = pilotage("run", "--session", "refused", "--pilot-cores", "1", "--cores", "2", "--", "/bin/true")
    assert done.returncode == 2
    assert "2 cores per rank exceed the 1 cores of a node" in done.stderr
    mended = pilotage("run", "--session", "refused", "--pilot-cores", "1", "--", "/bin/true")
    assert mended.returncode == 0, mended.stderr


def test_a_second_session_of_one_name_is_refused(finished: str) -> None:
    done = pilotage("run", "--session", finished, "--", "/bin/true")
    assert done.returncode == 2
    assert "there is a session 'finished'" in done.stderr


def test_the_first_interrupt_cancels_cleanly(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("run", "-n", "3", "--session", "interrupted", "--pilot-cores", "1", "--", "/bin/sleep", "1000")
    eventually(running("interrupted", 1))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "cancelling 3 tasks; once more stops at once" in errors
    assert "3 tasks: 3 canceled" in errors
    assert {task["state"] for task in asked("task", "list", "-s", "interrupted")["tasks"]} == {"CANCELED"}


def test_a_terminal_gets_a_progress_bar_and_a_pipe_does_not(tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    go = tmp_path / "go"
    command = [
        "run",
        "-n",
        "2",
        "--session",
        "terminal",
        "--pilot-cores",
        "1",
        "--",
        "/bin/sh",
        "-c",
        WAIT_FOR_FILE,
        str(go),
        "{i}",
    ]
    environment = {**os.environ, "TERM": "xterm-256color"} | {"NO_COLOR": "1"}
    process = subprocess.Popen([*PILOTAGE, *command], stdout=subprocess.DEVNULL, stderr=terminal, env=environment)
    os.close(terminal)
    seen = b""
    try:
        while True:
            ready, _, _ = select.select([screen], [], [], PATIENCE_S)
            assert ready, seen
            try:
                seen += os.read(screen, 4096)
            except OSError:  # the terminal's other end is closed: the command has ended
                break
            if b"0 of 2 tasks done" in seen and b"1 running" in seen:
                go.touch()
    finally:
        go.touch()
        os.close(screen)
        process.wait(PATIENCE_S)
    assert b"2 of 2 tasks done" in seen
    assert b"\x1b[31m" not in seen
    assert b"2 tasks: 2 done in" in seen


# session and task


def test_sessions_are_listed_the_newest_first(finished: str) -> None:
    pilotage("run", "--session", "newest", "--", "/bin/true")
    rows = asked("session", "list")["sessions"]
    assert rows[0]["uid"] == "newest"
    row = next(row for row in rows if row["uid"] == finished)
    assert {key: row[key] for key in ("state", "tasks", "done", "failed", "canceled", "unfinished", "living_pilots")} == {
        "state": "closed",
        "tasks": 4,
        "done": 3,
        "failed": 1,
        "canceled": 0,
        "unfinished": 0,
        "living_pilots": 0,
    }
    assert pilotage("session", "list", "--limit", "1", "-f", "quiet").stdout == "newest\n"
    assert pilotage("session", "path", "newest").stdout.strip() == rows[0]["path"]


def test_a_session_shows_its_pilots(finished: str) -> None:
    session = asked("session", "show", "finish")["session"]
    assert [(pilot["uid"], pilot["alive"], pilot["tasks"]) for pilot in session["pilots"]] == [("pilot.0000", False, 4)]


def test_tasks_are_listed_by_state_and_name(finished: str) -> None:
    assert [task["name"] for task in asked("task", "list", "-s", finished)["tasks"]] == ["sh.0", "sh.1", "sh.2", "sh.3"]
    failed = asked("task", "list", "-s", finished, "--state", "failed")["tasks"]
    assert [(task["uid"], task["exit_code"], task["reason"]) for task in failed] == [("task.000002", 1, "exited with code 1")]
    assert pilotage("task", "list", "-s", finished, "--name", "sh.[01]", "-f", "quiet").stdout == "task.000000\ntask.000001\n"
    assert pilotage("task", "list", "-s", finished, "--limit", "1", "-f", "quiet").stdout == "task.000000\n"


def test_a_task_shows_what_it_ran_and_where_its_files_are(finished: str) -> None:
    task = asked("task", "show", "2", "-s", finished)["task"]
    assert task["command"][:2] == ["/bin/sh", "-c"]
    assert (task["ending"], task["exit_code"], task["detail"]) == ("EXITED", 1, "err 2\n")
    assert Path(task["stdout"]).read_text() == "out 2\n"


def test_logs_print_what_a_task_wrote(finished: str) -> None:
    assert pilotage("task", "logs", "2", "-s", finished).stdout == "out 2\n"
    assert pilotage("task", "logs", "2", "-s", finished, "--stderr").stdout == "err 2\n"


def test_logs_print_the_last_lines_of_anything() -> None:
    pilotage("run", "--session", "bytes", "--", "/bin/sh", "-c", r"printf 'a\n\377\376\nlast\n'")
    done = subprocess.run([*PILOTAGE, "task", "logs", "0", "-s", "bytes", "-n", "2"], capture_output=True, check=True)
    assert done.stdout == b"\xff\xfe\nlast\n"


def test_why_tells_how_a_task_ended(finished: str) -> None:
    assert pilotage("task", "why", "2", "-s", finished).stdout == "task.000002 has ended: exited with code 1\n"


def test_why_and_cancel_ask_the_agent_while_the_program_runs(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("run", "-n", "3", "--session", "asked", "--pilot-cores", "1", "--", "/bin/sleep", "1000")
    eventually(running("asked", 1))
    why = asked("task", "why", "2", "-s", "asked")["task"]
    assert (why["source"], why["agent_state"]) == ("agent", "waiting")
    assert "core" in why["why"]
    some = pilotage("task", "cancel", "1", "2", "-s", "asked")
    assert (some.returncode, some.stderr) == (0, "pilotage: asked to cancel 2 tasks\n")
    rest = pilotage("task", "cancel", "--all", "-s", "asked")
    assert rest.returncode == 0
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "3 tasks: 3 canceled" in errors


def test_a_session_whose_program_was_killed_is_resumed(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    go = tmp_path / "go"
    process = start(
        "run", "-n", "3", "--session", "killed", "--pilot-cores", "1", "--", "/bin/sh", "-c", WAIT_FOR_FILE, str(go), "{i}"
    )
    try:
        eventually(running("killed", 1))
        process.kill()
        process.wait(PATIENCE_S)
        session = asked("session", "show", "killed")["session"]
        assert (session["state"], session["unfinished"]) == ("crashed", 3)
        assert [pilot["alive"] for pilot in session["pilots"]] == [True]
        refused = pilotage("session", "rm", "killed")
        assert refused.returncode == 1
        assert "1 pilot still runs; end that first, or use --force" in refused.stderr
    finally:
        go.touch()
    # Without a program the agent's own log tells.
    eventually(lambda: asked("session", "show", "killed")["session"]["done"] == 3)
    assert pilotage("task", "why", "2", "-s", "killed").stdout == "task.000002 has ended: done\n"
    done = pilotage("session", "resume", "killed")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "pilotage: 3 tasks: 3 done")
    assert asked("session", "show", "killed")["session"]["state"] == "closed"


def test_an_interrupted_resume_leaves_the_tasks_to_the_pilot(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("run", "--session", "detached", "--", "/bin/sleep", "1000")
    eventually(running("detached", 1))
    process.kill()
    process.wait(PATIENCE_S)
    resumed = start("session", "resume", "detached")
    eventually(lambda: asked("session", "show", "detached")["session"]["state"] == "open")
    resumed.send_signal(signal.SIGINT)
    _, errors = resumed.communicate(timeout=PATIENCE_S)
    assert resumed.returncode == 130
    assert "left 1 task to the pilots; come back with: pilotage session resume detached" in errors
    session = asked("session", "show", "detached")["session"]
    assert (session["state"], session["living_pilots"], session["unfinished"]) == ("closed", 1, 1)
    assert pilotage("session", "rm", "--force", "detached").returncode == 0


def test_rm_ends_the_pilots_of_a_dead_program_and_removes_all(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("run", "--session", "left-behind", "--", "/bin/sleep", "1000")
    eventually(running("left-behind", 1))
    process.kill()
    process.wait(PATIENCE_S)
    folder = Path(pilotage("session", "path", "left-behind").stdout.strip())
    pid = json.loads((folder / "pilot.0000" / "connection.json").read_text())["pid"]
    done = pilotage("session", "rm", "--force", "left-behind")
    assert (done.returncode, done.stderr) == (0, "")
    assert not folder.exists()
    assert not Path(f"/proc/{pid}").exists()


def test_rm_removes_several_or_none() -> None:
    for name in ("one", "two"):
        pilotage("run", "--session", name, "--", "/bin/true")
    assert pilotage("session", "rm", "one", "three").returncode == 2
    assert Path(pilotage("session", "path", "one").stdout.strip()).exists()
    assert pilotage("session", "rm", "one", "two").returncode == 0
    assert not {"one", "two"} & {session["uid"] for session in asked("session", "list")["sessions"]}


# doctor


def test_the_doctor_finds_this_machine_fit() -> None:
    done = pilotage("doctor", "-f", "json")
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0, done.stdout
    assert {"pilot", "executable", "function", "end"} <= findings.keys()
    assert "broken" not in {finding["status"] for finding in findings.values()}


def test_the_doctor_names_what_is_broken_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = pilotage("doctor", "--no-pilot", env={**os.environ, "PILOTAGE_HOME": str(tmp_path / "file")})
    assert done.returncode == 1
    assert re.search(r"session folder +broken +\S+/file/sessions cannot be written: Not a directory\n", done.stdout)
    assert "set PILOTAGE_HOME to a folder that you can write" in done.stdout
