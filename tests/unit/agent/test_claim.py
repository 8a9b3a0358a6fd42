"""Who runs a partition: one process at a time, found by who comes after it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from pilotage.agent.claim import claimant, count_start, forbid, starts
from pilotage.system.python import installation_path

CLAIMER = """
import sys
sys.path[:] = {path!r}
from pathlib import Path
from pilotage.agent.claim import claim
print(claim(Path({folder!r})) is not None, flush=True)
sys.stdin.read()
"""


def claimer(folder: Path) -> tuple[subprocess.Popen[str], bool]:
    """Start a process that claims the folder, and return it with what it was told."""
    program = CLAIMER.format(path=installation_path(), folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline() == "True\n"


def test_the_second_is_told_that_the_first_has_it_until_that_one_is_dead(tmp_path: Path) -> None:
    assert claimant(tmp_path) is None
    with claimer(tmp_path)[0] as first:
        assert claimant(tmp_path) == first.pid
        second, has_it = claimer(tmp_path)
        with second:
            assert not has_it
            second.kill()
        assert claimant(tmp_path) == first.pid
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert claimant(tmp_path) is None
    third, has_it = claimer(tmp_path)
    with third:
        assert has_it and claimant(tmp_path) == third.pid
        third.kill()


def test_a_process_that_was_started_meanwhile_under_the_same_pid_is_no_claimant(tmp_path: Path) -> None:
    with claimer(tmp_path)[0] as process:
        pid, ticks, boot = (tmp_path / "agent.claim").read_text().split()
        assert int(pid) == claimant(tmp_path) == process.pid
        (tmp_path / "agent.claim").write_text(f"{pid} {int(ticks) - 1} {boot}\n")
        assert claimant(tmp_path) is None
        process.kill()


def test_nobody_begins_in_a_partition_that_is_given_up(tmp_path: Path) -> None:
    forbid(tmp_path)
    process, has_it = claimer(tmp_path)
    with process:
        assert not has_it
        process.kill()


def test_starts_are_counted_over_the_life_of_the_partition(tmp_path: Path) -> None:
    assert starts(tmp_path) == 0
    assert [count_start(tmp_path) for _ in range(3)] == [1, 2, 3]
    assert starts(tmp_path) == 3
