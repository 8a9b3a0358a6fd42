"""``pilotage task logs``: what a task has printed, wherever it is kept, once or as it comes."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_commands import PATIENCE_S, PILOTAGE, eventually, pilotage, start

__all__ = ["start"]

Start = Callable[..., subprocess.Popen[str]]

STEPS = """
for step in 1 2 3; do
    echo "step $step"
    echo "error $step" >&2
    touch "$0.at.$step"
    while [ ! -e "$0.go.$step" ]; do sleep 0.02; done
done
echo "the end"
"""
PRINTED, ERRORS = "step 1\nstep 2\nstep 3\nthe end\n", "error 1\nerror 2\nerror 3\n"


class Steps:
    """What the task waits for, and tells."""

    def __init__(self, path: Path) -> None:
        self.command = ("--", "/bin/sh", "-c", STEPS, str(path))
        self._path = path

    def wait_for(self, step: int) -> None:
        eventually(Path(f"{self._path}.at.{step}").exists)

    def go(self, *steps: int) -> None:
        for step in steps:
            Path(f"{self._path}.go.{step}").touch()


@pytest.fixture
def steps(tmp_path: Path) -> Iterator[Steps]:
    made = Steps(tmp_path / "step")
    yield made
    made.go(1, 2, 3)


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("output", ["files", "aggregate"])
def test_a_running_task_is_followed_to_its_end(start: Start, steps: Steps, output: str) -> None:
    session = f"followed-{output}"
    program = start("run", "--session", session, "--output", output, *steps.command)
    steps.wait_for(1)
    follower = start("task", "logs", "0", "-s", session, "-f", "--all")
    for step in (1, 2, 3):
        assert read_line(follower) == f"step {step}\n"
        steps.go(step)
    assert read_line(follower) == "the end\n"
    _, errors = follower.communicate(timeout=PATIENCE_S)
    assert (follower.returncode, errors) == (0, ERRORS)
    program.communicate(timeout=PATIENCE_S)
    both = pilotage("task", "logs", "0", "-s", session, "--all")
    assert (both.stdout, both.stderr) == (PRINTED, ERRORS)
    assert pilotage("task", "logs", "0", "-s", session, "-f", "-n", "2").stdout == "step 3\nthe end\n"


def test_following_goes_on_when_the_program_is_gone(start: Start, steps: Steps) -> None:
    program = start("run", "--session", "orphaned", "--output", "aggregate", *steps.command)
    steps.wait_for(1)
    follower = start("task", "logs", "0", "-s", "orphaned", "-f")
    assert read_line(follower) == "step 1\n"
    program.kill()
    program.wait(PATIENCE_S)
    steps.go(1, 2, 3)
    printed, errors = follower.communicate(timeout=PATIENCE_S)
    assert (follower.returncode, "step 1\n" + printed, errors) == (0, PRINTED, "")
    resumed = pilotage("session", "resume", "orphaned")
    assert resumed.returncode == 0, resumed.stderr


def test_following_can_be_interrupted_and_the_task_runs_on(start: Start, steps: Steps) -> None:
    program = start("run", "--session", "left", *steps.command)
    steps.wait_for(1)
    follower = start("task", "logs", "0", "-s", "left", "-f")
    assert read_line(follower) == "step 1\n"
    follower.send_signal(signal.SIGINT)
    follower.communicate(timeout=PATIENCE_S)
    assert follower.returncode == 130
    steps.go(1, 2, 3)
    program.communicate(timeout=PATIENCE_S)
    assert program.returncode == 0


def test_what_is_shown_at_the_end_does_not_depend_on_where_it_is_kept() -> None:
    command = ("--", "/bin/sh", "-c", "echo out {i}; echo err {i} >&2; exit $(({i} == 1))")
    done = pilotage("run", "-n", "2", "--session", "shown", "--output", "aggregate", "--show-output", *command)
    assert (done.returncode, done.stdout) == (1, "out 0\nout 1\n")
    assert "    err 1\n    all of it: pilotage task logs task.000001 --stderr -s shown\n" in done.stderr
    assert pilotage("task", "logs", "1", "-s", "shown", "--stderr").stdout == "err 1\n"


def test_what_is_not_there_is_said() -> None:
    pilotage("run", "--session", "silent", "--", "/bin/true")
    silent = pilotage("task", "logs", "0", "-s", "silent")
    assert (silent.returncode, silent.stdout) == (0, "")
    assert silent.stderr == "pilotage: task task.000000 is DONE and has nothing written to stdout\n"
    pilotage("run", "--session", "discarded", "--output", "discard", "--", "/bin/echo", "gone")
    discarded = pilotage("task", "logs", "0", "-s", "discarded")
    assert discarded.returncode == 2 and "output='discard'" in discarded.stderr


def test_bytes_are_printed_as_they_are() -> None:
    script = r"printf 'a\n\377\376\nlast\n'"
    pilotage("run", "--session", "aggregated-bytes", "--output", "aggregate", "--", "/bin/sh", "-c", script)
    command = [*PILOTAGE, "task", "logs", "0", "-s", "aggregated-bytes", "-n", "2"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"\xff\xfe\nlast\n"
