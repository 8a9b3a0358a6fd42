"""What tracing and the log cost, and what a slow disk does to them.

The runs compared take turns. Without tracing the log drops the records that recovery no longer needs. Without the log
nothing is written at all, on both sides; only this benchmark can ask for that. The slow disk adds 10 ms to every sync.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import msgspec

import pilotage as rp
from pilotage.agent.settings import PilotSettings, write_settings
from pilotage.bench.functions import null
from pilotage.bench.measure import Row, row
from pilotage.bench.runs import Bench, bench_pilot
from pilotage.client import launcher
from pilotage.log.unwritten import UnwrittenLog
from pilotage.log.writer import LogWriter

SYNC_DELAY_S = 0.01


def _functions(bench: Bench, count: int) -> float:
    descriptions = [rp.TaskDescription(mode=rp.TASK_FUNCTION, function=null, args=(1,)) for _ in range(count)]
    start = time.perf_counter()
    bench.run(descriptions)
    return count / (time.perf_counter() - start)


def _executables(bench: Bench, count: int) -> float:
    descriptions = [rp.TaskDescription(executable="/bin/true") for _ in range(count)]
    start = time.perf_counter()
    bench.run(descriptions)
    return count / (time.perf_counter() - start)


Kind = Callable[[], AbstractContextManager[object]]
"""What a session, and a pilot in it, have to be opened in, to be of a kind."""


def in_turn(
    rounds: int, measure: Callable[[Bench], float], first: Kind, second: Kind, **pilot: Any
) -> list[tuple[float, float]]:
    """Measure two kinds of sessions that take turns, after a first time of each, and return what was found in each round."""
    with ExitStack() as stack:
        benches = []
        for kind in (first, second):
            with kind():
                benches.append(stack.enter_context(bench_pilot(**pilot)))
        for bench in benches:
            measure(bench)
        return [(measure(benches[0]), measure(benches[1])) for _ in range(rounds)]


def _compare(rounds: int, measure: Callable[[Bench], float], first: Kind, second: Kind, **pilot: Any) -> tuple[float, ...]:
    """Return the median rates of two kinds of sessions that take turns, and the median of the ratios of their rounds."""
    pairs = in_turn(rounds, measure, first, second, **pilot)
    ones, others = zip(*pairs, strict=True)
    return statistics.median(ones), statistics.median(others), statistics.median(one / other for one, other in pairs)


def durability(quick: bool = False) -> list[Row]:
    """Tracing on against off on executables; the log on against off on functions, with a fast and a slow disk."""
    rounds = 3 if quick else 9
    count = 500 if quick else 3000
    emulated = {"resource": "local.emulated", "cores": 32}
    traced, untraced, ratio = _compare(rounds, lambda bench: _executables(bench, count), ordinary, without_history, **emulated)
    rows = [_cost("executables, tracing on", traced, untraced, ratio, "tasks/s", "tracing off", "ratio > 0.975")]
    calls = 20_000 if quick else 100_000
    for name, kind in (("", ordinary), (", 10 ms in every sync", _slow_syncs)):
        logged, unlogged, ratio = _compare(rounds, lambda bench: _functions(bench, calls), kind, without_log)
        rows.append(_cost(f"functions, log on{name}", logged, unlogged, ratio, "calls/s", "no log at all", "ratio >= 0.9"))
    return rows


def _cost(case: str, on: float, off: float, ratio: float, unit: str, against: str, target: str) -> Row:
    made = row(case, on, unit, baseline=off, against=against, target=target)
    made["ratio"] = float(f"{ratio:.4g}")
    return made


@contextmanager
def ordinary() -> Iterator[None]:
    """Change nothing."""
    yield


def without_history() -> AbstractContextManager[object]:
    """Let agents drop the records of their log that recovery no longer needs."""
    return _settings(keep_history=False)


@contextmanager
def without_log() -> Iterator[None]:
    """Open logs that write nothing, in the client and in the agents that it starts."""
    with _client_log(UnwrittenLog.open), _settings(log=False):
        yield


@contextmanager
def _slow_syncs() -> Iterator[None]:
    """Make each sync take longer, in the client and in the agents that it starts."""
    open_log = LogWriter.open

    def slow(*arguments: Any, sync_before: Any = (), **options: Any) -> LogWriter:
        return open_log(*arguments, sync_before=[*sync_before, lambda: time.sleep(SYNC_DELAY_S)], **options)

    with _client_log(slow), _settings(sync_delay_s=SYNC_DELAY_S):
        yield


def _client_log(open_log: Callable[..., LogWriter]) -> AbstractContextManager[object]:
    return patch.object(LogWriter, "open", open_log)


def _settings(**changes: Any) -> AbstractContextManager[object]:
    """Start pilots with these settings of the agent changed."""

    def write(settings: PilotSettings) -> None:
        write_settings(msgspec.structs.replace(settings, **changes))

    return patch.object(launcher, "write_settings", write)
