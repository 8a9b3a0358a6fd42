"""Soft limits in jobs are raised to what the node grants, those that users set for their programs are not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

KINDS = "r.RLIMIT_AS, r.RLIMIT_DATA, r.RLIMIT_CPU, r.RLIMIT_STACK"
SAY = f"import resource as r; print(*[r.getrlimit(kind)[0] for kind in ({KINDS})])"
PROGRAM = f"from pilotage.system.limits import lift_limits_of_submission as lift; lift(); {SAY}"
GRANTED = "ulimit -H -v 9000000; ulimit -H -d 8000000; ulimit -H -t 7000; ulimit -H -s 16384"
LOGIN = "ulimit -S -v 1048576; ulimit -S -d 1048576; ulimit -S -t 600; ulimit -S -s 4096"


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ({"SLURM_JOB_ID": "7"}, [9000000 << 10, 8000000 << 10, 7000, 4096 << 10]),
        ({}, [1048576 << 10, 1048576 << 10, 600, 4096 << 10]),
    ],
    ids=["in a job", "elsewhere"],
)
def test_what_a_job_may_use(job: dict[str, str], expected: list[int]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")} | job
    script = f'{LOGIN}; {GRANTED}; exec "$@"'

    done = subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert [int(word) for word in done.stdout.split()] == expected
