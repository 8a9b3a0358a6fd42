"""The synthetic task: its threads, memory and lines are real, its failures repeatable."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpi_installations import MpiInstallation

PROGRAM = [sys.executable, "-m", "pilotage.testing.synthetic"]
PATIENCE_S = 60.0


def synthetic(
    *options: str, before: tuple[str, ...] = (), cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", **variables}
    return subprocess.run(
        [*before, *PROGRAM, *options],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_it_runs_as_long_as_asked_and_prints_its_lines() -> None:
    done = synthetic("--seconds", "0.05", "--threads", "0", "--lines", "3")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "line 0 of 3",
        "line 1 of 3",
        "line 2 of 3",
        "synthetic: 0.05 s, ranks: 1, threads of each: 0, MB of each: 0, exit code 0",
    ]


def test_its_threads_work_and_its_memory_is_there() -> None:
    process = subprocess.Popen([*PROGRAM, "--seconds", "600", "--threads", "2", "--memory", "200"])
    try:
        status = Path(f"/proc/{process.pid}/status")
        threads = Path(f"/proc/{process.pid}/task")
        until = time.monotonic() + PATIENCE_S
        # A Python that does nothing takes a tenth of the time, and of the memory.
        while not (ticks(process.pid) > 30 and len(list(threads.iterdir())) == 3 and resident_mib(status) > 200):
            assert time.monotonic() < until, (ticks(process.pid), status.read_text())
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()


def ticks(pid: int) -> int:
    """Return the CPU time of a process, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def resident_mib(status: Path) -> int:
    return next((int(line.split()[1]) >> 10 for line in status.read_text().splitlines() if line.startswith("VmRSS:")), 0)


def test_it_writes_and_removes_a_file(tmp_path: Path) -> None:
    done = synthetic("--seconds", "0", "--threads", "0", "--write", "2", cwd=tmp_path)

    assert (done.returncode, list(tmp_path.iterdir())) == (0, [])


def test_failures_follow_from_the_seed() -> None:
    def outcomes() -> list[int]:
        options = ("--seconds", "0.01", "--threads", "0", "--fail", "0.5")
        return [synthetic(*options, "--seed", str(seed)).returncode for seed in range(8)]

    first = outcomes()
    assert sorted(set(first)) == [0, 1]
    assert outcomes() == first


def test_each_attempt_of_a_task_has_a_seed_of_its_own() -> None:
    options = ("--seconds", "0", "--threads", "0", "--fail", "0.5")
    codes = [synthetic(*options, PILOTAGE_TASK_ID="task.7", PILOTAGE_ATTEMPT=str(number)).returncode for number in range(8)]

    assert sorted(set(codes)) == [0, 1]


@pytest.mark.parametrize(("visible", "code"), [("0,3", 0), ("0", 3), ("", 3)])
def test_it_looks_whether_its_gpus_are_visible(visible: str, code: int) -> None:
    done = synthetic("--seconds", "0", "--threads", "0", "--gpus", "2", CUDA_VISIBLE_DEVICES=visible)

    assert done.returncode == code
    assert ("2 GPUs were promised" in done.stderr) == bool(code)


@pytest.mark.parametrize("options", [("--seconds", "-1"), ("--fail", "2"), ("--threads", "-3"), ("--memory", "much")])
def test_what_cannot_be_is_refused(options: tuple[str, ...]) -> None:
    done = synthetic(*options)

    assert done.returncode == 2
    assert options[0] in done.stderr


def test_over_ranks(mpich: MpiInstallation) -> None:
    options = ("--mpi", "--seconds", "0.1", "--threads", "0")
    ranks = (mpich.mpiexec, "-n", "3")

    done = synthetic(*options, before=ranks)
    failed = synthetic(*options, "--fail", "1", before=ranks)

    assert (done.returncode, done.stdout.split(", threads")[0]) == (0, "synthetic: 0.1 s, ranks: 3")
    assert failed.returncode != 0
    assert "synthetic: fails after" in failed.stderr
