"""What hooks cost: null executables with one ``pre_exec`` against those without, beside loops of a bare shell.

A hook that every shell understands is run by ``/bin/sh``, one that is bash by bash; each is compared with as many bare
``<shell> -c :`` in two processes that do nothing else. The figure is the time that the hook adds to a task, in CPU and in
wall-clock time when two cores are busy, over the time that the bare shell takes.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable

import pilotage as rp
from pilotage.bench.executables import bare_loops
from pilotage.bench.measure import Row, cpu_s, row
from pilotage.bench.runs import Bench, bench_pilot

_TRUE = "/bin/true"
_SLOTS = 32
_PLAIN = "export OMP_NUM_THREADS=4"
_BASH = "export OMP_NUM_THREADS=$((2 * 2))"


def hooks(quick: bool = False) -> list[Row]:
    """Submission to the last final state at the client, as in ``executables``."""
    count, rounds = (600, 3) if quick else (3000, 7)
    bash = shutil.which("bash")
    rows: list[Row] = []
    with bench_pilot(resource="local.emulated", cores=_SLOTS) as bench:
        _run(bench, 200)
        for name, hook, shell in (("sh", _PLAIN, "/bin/sh"), ("bash", _BASH, bash)):
            if shell is not None:
                rows += _compared(bench, count, rounds, name, hook, shell)
    return rows


def _compared(bench: Bench, count: int, rounds: int, name: str, hook: str, shell: str) -> list[Row]:
    measures: tuple[Callable[[], tuple[float, float]], ...] = (
        lambda: _run(bench, count),
        lambda: _run(bench, count, hook),
        lambda: bare_loops(count, [shell, "-c", ":"]),
    )
    taken = [[measure() for measure in measures] for _ in range(rounds)]
    rows = []
    for what, unit, at, of_s in (("CPU", "ms of CPU", 1, _cpu_ms), ("wall", "ms at two cores", 0, _wall_ms)):
        times = [[of_s(figures[at], count) for figures in one_round] for one_round in taken]
        # The difference of each round, in which load from outside is about the same for all three.
        added = statistics.median(hooked - without for without, hooked, _ in times)
        bare = statistics.median(shell_s for _, _, shell_s in times)
        rows.append(
            row(
                f"one hook, run by {name}: {what} added to a null executable",
                added,
                unit,
                baseline=bare,
                against=f"a bare {name} -c",
                target="ratio <= 1" if name == "sh" else "",
            )
        )
    return rows


def _cpu_ms(seconds: float, count: int) -> float:
    return seconds / count * 1e3


def _wall_ms(rate: float, _count: int) -> float:
    return 1e3 / rate


def _run(bench: Bench, count: int, hook: str = "") -> tuple[float, float]:
    """Run null executables on a pilot; return tasks per second, and CPU seconds of all processes."""
    described = {"executable": _TRUE, "pre_exec": [hook] if hook else []}
    descriptions = [rp.TaskDescription(described) for _ in range(count)]
    cpu, start = cpu_s(os.getpid()), time.perf_counter()
    bench.run(descriptions)
    return count / (time.perf_counter() - start), cpu_s(os.getpid()) - cpu
