"""Function calls: null, with 10 kB arguments, beside a busy user thread, and one after another."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import pilotage as rp
from pilotage.bench.measure import Row, cpu_s, medians, quantile, row
from pilotage.bench.runs import MEMORY_FOLDER, Bench, bench_pilot


def null(_argument: object = None) -> None:
    """Do nothing."""


def _describe(count: int, argument: object = None) -> list[rp.TaskDescription]:
    return [rp.TaskDescription(mode=rp.TASK_FUNCTION, function=null, args=(argument,)) for _ in range(count)]


def _rate(bench: Bench, descriptions: list[rp.TaskDescription], cpu: list[float] | None = None) -> float:
    before = cpu_s(os.getpid())
    start = time.perf_counter()
    bench.run(descriptions)
    spent = time.perf_counter() - start
    if cpu is not None:
        cpu.append((cpu_s(os.getpid()) - before) / len(descriptions) * 1e6)
    return len(descriptions) / spent


def _pool_rate(pool: ProcessPoolExecutor, count: int) -> float:
    start = time.perf_counter()
    for future in [pool.submit(null, None) for _ in range(count)]:
        future.result()
    return count / (time.perf_counter() - start)


def functions(quick: bool = False) -> list[Row]:
    """Null functions with results, one ``submit_tasks`` for all, log and tracing on."""
    count, rounds = (20_000, 2) if quick else (100_000, 5)
    cpu: list[float] = []
    with bench_pilot() as bench, ProcessPoolExecutor(2) as pool:
        _rate(bench, _describe(2000))
        _pool_rate(pool, 200)
        ours, theirs = medians(rounds, lambda: _rate(bench, _describe(count), cpu), lambda: _pool_rate(pool, count // 20))
    against = "ProcessPoolExecutor(2)"
    return [
        row("null functions", ours, "calls/s", baseline=theirs, against=against, target=">= 100,000/s"),
        row("null functions: CPU", sorted(cpu)[len(cpu) // 2], "us/call", target="<= 20 us"),
    ]


def busy_client(quick: bool = False) -> list[Row]:
    """Null functions while another thread of the user's program computes all the time."""
    count, rounds = (20_000, 2) if quick else (100_000, 3)
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(range(1000))

    with bench_pilot() as bench:
        _rate(bench, _describe(2000))
        thread = threading.Thread(target=compute)
        thread.start()
        try:
            (ours,) = medians(rounds, lambda: _rate(bench, _describe(count)))
        finally:
            stop.set()
            thread.join()
    return [row("null functions, user's thread busy", ours, "calls/s", target=">= 50,000/s")]


def arguments(quick: bool = False) -> list[Row]:
    """Null functions with arguments of 10 kB each."""
    count, rounds = (5_000, 2) if quick else (40_000, 3)
    descriptions = [description for _ in range(count) for description in _describe(1, os.urandom(10_000))]
    rows = []
    for place, folder in (("on this disk", None), ("in memory", MEMORY_FOLDER)):
        with bench_pilot(folder=folder) as bench:
            _rate(bench, _describe(2000))
            (ours,) = medians(rounds, lambda: _rate(bench, descriptions))
        rows.append(row(f"functions with 10 kB arguments, blobs {place}", ours, "calls/s", target=">= 40,000/s"))
    return rows


def round_trip(quick: bool = False) -> list[Row]:
    """One call after another on an idle pilot: submit, result."""
    count = 200 if quick else 1000
    with bench_pilot() as bench, ProcessPoolExecutor(2) as pool:
        for _ in range(50):
            bench.tasks.submit_tasks(_describe(1)[0]).result()
        ours, theirs = [], []
        for _ in range(count):
            start = time.perf_counter()
            bench.tasks.submit_tasks(_describe(1)[0]).result()
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            pool.submit(null, None).result()
            theirs.append(time.perf_counter() - start)
    against = "ProcessPoolExecutor(2)"
    median, base = quantile(ours, 0.5) * 1e3, quantile(theirs, 0.5) * 1e3
    return [
        row("idle round trip, median", median, "ms", baseline=base, against=against, target="< 1 ms"),
        row("idle round trip, 99 %", quantile(ours, 0.99) * 1e3, "ms", baseline=quantile(theirs, 0.99) * 1e3, against=against),
    ]
