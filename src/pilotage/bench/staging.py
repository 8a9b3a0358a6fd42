"""Ten thousand small files, staged by one directive and by ten thousand tasks, against ``cp -r`` of the same."""

from __future__ import annotations

import os
import select
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from pilotage.agent.stagers import Stagers
from pilotage.bench.measure import Row, row
from pilotage.bench.runs import MEMORY_FOLDER
from pilotage.core.agent.events import StorageFilled
from pilotage.model.ids import Attempt, TaskUid, TemplateId
from pilotage.model.sandboxes import SHARD_ENTRIES
from pilotage.model.staging import Directive
from pilotage.model.workload import Extra, Template
from pilotage.model.workload import Row as TaskRow

_FILE_BYTES = 1000


def staging(quick: bool = False) -> list[Row]:
    """Modes and times are kept, and each file, or folder, gets its name when it is whole; ``cp -r`` does neither."""
    files, rounds = (2_000, 3) if quick else (10_000, 3)
    rows = []
    for place, folder in (("on this disk", None), ("in memory", MEMORY_FOLDER)):
        base = Path(tempfile.mkdtemp(prefix="pilotage-bench-", dir=folder))
        try:
            rows += _measure(base, files, rounds, place)
        finally:
            shutil.rmtree(base, ignore_errors=True)
    return rows


def _measure(base: Path, files: int, rounds: int, place: str) -> list[Row]:
    source = base / "source"
    source.mkdir()
    for number in range(files):
        (source / f"{number:05d}.dat").write_bytes(os.urandom(_FILE_BYTES))
    numbers = count()

    def one_directive() -> tuple[float, float]:
        pilot, copy = base / f"{next(numbers)}", base / f"{next(numbers)}"
        work = [_task(0, source, "task:///in")]
        ours = _stage(pilot, work)
        return files / ours, files / _seconds(lambda: _copy(source, copy))

    def many_tasks() -> tuple[float, float]:
        pilot, copy = base / f"{next(numbers)}", base / f"{next(numbers)}"
        work = [_task(number, source / f"{number:05d}.dat", "task:///in.dat") for number in range(files)]
        ours = _stage(pilot, work)
        return files / ours, files / _seconds(lambda: _copy(pilot / "tasks", copy))

    rows = []
    for case, measure in (("as one folder", one_directive), ("one for each of as many tasks", many_tasks)):
        pairs = [measure() for _ in range(rounds)]
        ours, theirs = (statistics.median(rates) for rates in zip(*pairs, strict=True))
        made = row(
            f"{files:,} small files {place}, {case}", ours, "files/s", baseline=theirs, against="cp -r", target="ratio >= 0.5"
        )
        # What a disk does changes from minute to minute, so the two of a round are compared with each other.
        made["ratio"] = float(f"{statistics.median(one / other for one, other in pairs):.4g}")
        rows.append(made)
    return rows


def _task(number: int, source: Path, target: str) -> TaskRow:
    extra = Extra(input_staging=(Directive(f"file://{source}", target),))
    return TaskRow(TaskUid(f"task.{number:06d}"), TemplateId(1), shard=number // SHARD_ENTRIES, extra=extra)


def _stage(pilot: Path, work: list[TaskRow]) -> float:
    """Have the agent's stagers do this work for a new pilot; return the seconds from asking to the last end."""
    (pilot / "tasks").mkdir(parents=True)
    stagers = Stagers(str(pilot), str(pilot), 1)
    try:
        start = time.perf_counter()
        stagers.submit("input", [(Attempt(0), task) for task in work], {TemplateId(1): Template()})
        left = len(work)
        while left:
            select.select([stagers], [], [])
            for event in stagers.take():
                if isinstance(event, StorageFilled):
                    raise RuntimeError(event.reason)
                if event.failed:
                    raise RuntimeError(event.failed[0][1])
                left -= len(event.done)
        return time.perf_counter() - start
    finally:
        stagers.close()


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
