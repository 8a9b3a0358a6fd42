"""Null executables, against two bare loops of ``posix_spawn`` and ``waitpid``."""

from __future__ import annotations

import os
import resource
import time
from typing import Any

import pilotage as rp
from pilotage.bench.measure import Row, cpu_s, medians, row
from pilotage.bench.runs import MEMORY_FOLDER, Bench, bench_pilot

_TRUE = "/bin/true"
_SLOTS = 32
"""Cores of the emulated pilot: as many tasks may be under way as keep two real cores busy."""


def bare_loops(count: int, command: list[str] | None = None) -> tuple[float, float]:
    """Run ``count`` null executables, or these commands, in two processes that do nothing else; return tasks per second, and
    CPU seconds.
    """
    command = command or [_TRUE]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    pids = []
    for _ in range(2):
        pid = os.fork()
        if not pid:
            for _ in range(count // 2):
                os.waitpid(os.posix_spawn(command[0], command, os.environ), 0)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    spent = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return count / spent, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_null(bench: Bench, count: int, **task: Any) -> tuple[float, float]:
    """Run ``count`` null executables on a pilot; return tasks per second, and CPU seconds of all processes.

    ``task`` are attributes that they have besides.
    """
    descriptions = [rp.TaskDescription(executable=_TRUE, **task) for _ in range(count)]
    cpu = cpu_s(os.getpid())
    start = time.perf_counter()
    bench.run(descriptions)
    spent = time.perf_counter() - start
    return count / spent, cpu_s(os.getpid()) - cpu


def executables(quick: bool = False) -> list[Row]:
    """Submission to the last final state at the client, stdout and stderr captured, log and tracing on."""
    count, rounds = (1000, 2) if quick else (4000, 5)
    rows: list[Row] = []
    for name, cores, folder, reached in (
        ("emulated, 32 cores", _SLOTS, None, True),
        ("emulated, 32 cores, sandboxes in memory", _SLOTS, MEMORY_FOLDER, True),
        ("2 cores, pinned", 2, None, False),
    ):
        cpu: dict[str, list[float]] = {"ours": [], "bare": []}
        with bench_pilot(folder=folder, resource="local.emulated" if cores > 2 else "local.localhost", cores=cores) as bench:
            run_null(bench, 200)

            def ours() -> float:
                rate, spent = run_null(bench, count)
                cpu["ours"].append(spent / count * 1e3)  # noqa: B023
                return rate

            def bare() -> float:
                rate, spent = bare_loops(count)
                cpu["bare"].append(spent / count * 1e3)  # noqa: B023
                return rate

            ours_rate, bare_rate = medians(rounds, ours, bare)
        against = "two bare posix_spawn loops"
        rows.append(
            row(
                f"null executables, {name}",
                ours_rate,
                "tasks/s",
                baseline=bare_rate,
                against=against,
                target="ratio >= 0.75" if reached else "",
            )
        )
        middle = {kind: sorted(values)[len(values) // 2] for kind, values in cpu.items()}
        rows.append(
            row(
                f"null executables, {name}: CPU",
                middle["ours"],
                "ms/task",
                baseline=middle["bare"],
                against="a bare spawn",
                target="<= 0.85 ms" if reached else "",
            )
        )
    return rows
