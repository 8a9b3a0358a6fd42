"""What reporting on a session costs: the whole command, from the logs on disk to the text and the page."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import pilotage as rp
from pilotage.bench.measure import Row, medians, row
from pilotage.bench.runs import bench_pilot

_GROUPS = ("prepare", "simulate", "analyse")


def report(quick: bool = False) -> list[Row]:
    """``pilotage report SESSION --html FILE`` of a session with 100,000 tasks of several names and sizes on 512 cores."""
    count = 10_000 if quick else 100_000
    with bench_pilot(
        executor="simulated",
        simulated_duration_s=0.05,
        resource="local.emulated",
        nodes=16,
        cores_per_node=32,
        cores=None,
    ) as bench:
        names = [f"{_GROUPS[number % 3]} {number}" for number in range(count)]
        bench.run(
            [
                rp.TaskDescription(executable="/bin/true", name=name, cores_per_rank=1 + number % 2)
                for number, name in enumerate(names)
            ]
        )
        folder = Path(bench.session.path)
        page = folder / "report.html"

        def whole_command() -> float:
            begun = time.perf_counter()
            command = [sys.executable, "-m", "pilotage.cli", "report", str(folder), "--html", str(page)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode or f"{count:,} of {count:,} tasks done" not in done.stdout:
                raise RuntimeError(f"pilotage report ended with {done.returncode}: {done.stderr or done.stdout[:200]}")
            return time.perf_counter() - begun

        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        rounds = 1 if quick else 3
        (wall_s,) = medians(rounds, whole_command)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / rounds
        megabytes = page.stat().st_size / 1e6
    name = f"report of {count:,} tasks"
    return [
        row(f"{name}: text and page", wall_s, "s", target="< 10 s at 100,000"),
        row(f"{name}: CPU", cpu_s, "s"),
        row(f"{name}: size of the page", megabytes, "MB", target="< 5 MB"),
    ]
