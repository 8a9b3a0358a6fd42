"""What a benchmark reads off the machine: CPU time and memory of whole process trees, and medians of rounds."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable

Row = dict[str, object]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def descendants(root: int) -> list[int]:
    """Return ``root`` and all processes that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, ())
    return found


def cpu_s(root: int) -> float:
    """Return the CPU seconds that ``root`` and its descendants have used, those that ended and were reaped included."""
    total = 0
    for pid in descendants(root):
        fields = _stat(pid)
        if fields:
            total += sum(int(field) for field in fields[11:15])
    return total / _TICKS_PER_S


def resident_mib(root: int) -> tuple[float, int]:
    """Return the resident memory of ``root`` and its descendants, each process counted in full, and how many they are."""
    total, count = 0, 0
    for pid in descendants(root):
        try:
            with open(f"/proc/{pid}/statm") as file:
                total += int(file.read().split()[1]) * _PAGE_BYTES
            count += 1
        except OSError:
            continue
    return total / (1 << 20), count


def medians(rounds: int, *measures: Callable[[], float]) -> list[float]:
    """Return the median of each measure over rounds in which all of them take turns."""
    figures: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for measure, found in zip(measures, figures, strict=True):
            found.append(measure())
    return [statistics.median(found) for found in figures]


def row(
    case: str,
    value: float,
    unit: str,
    *,
    baseline: float | None = None,
    against: str = "",
    target: str = "",
) -> Row:
    """Return one row of a report; ``against`` says what the baseline is."""
    made: Row = {"case": case, "value": _rounded(value), "unit": unit}
    if baseline is not None:
        made["baseline"] = f"{_rounded(baseline)} ({against})"
        made["ratio"] = _rounded(value / baseline) if baseline else None
    if target:
        made["target"] = target
    return made


def _rounded(value: float) -> float:
    # Counts are exact; measurements have no more than four figures that mean anything.
    return float(value) if isinstance(value, int) else float(f"{value:.4g}")


def _stat(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/stat") as file:
            stat = file.read()
    except OSError:
        return []
    return stat[stat.rindex(")") + 2 :].split()


def quantile(values: Iterable[float], share: float) -> float:
    """Return the value below which ``share`` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
