"""Brings the clocks of a run together: what client, agents and nodes wrote is told in the client's time.

Nothing is asked of the clocks themselves; cause and effect are enough. What the client sent cannot have arrived before it was
sent, and what it received cannot have left after it was received. Each pair of times is a bound for how far an agent's clock is
behind the client's; of all pairs together the tightest two remain. The same holds between an agent and the nodes, whose
runners time starts and ends.

While no difference at all lies between the bounds nothing is moved: most runs are on one clock, or on clocks that the machine
keeps together, and their times stay as they are in the logs.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from pilotage.model.ids import PilotUid
from pilotage.trace.run import PilotTrace, Run

TOLERANCE_S = 0.005
"""A contradiction that is smaller is taken for the grain of the records, not for a difference of clocks."""

_Pairs = Iterable[tuple[float, float]]
_INFINITE = float("inf")
_BY_AGENT = ("accepted", "staged_in", "launched", "collected", "staged_out")
_BY_NODE = ("started", "ended")


class ClockOffset(msgspec.Struct, frozen=True):
    """By how many seconds a clock is behind the client's (``node`` None), or a node's behind its agent's.

    It lies between ``low`` and ``high`` (infinite where nothing bounds it); ``seconds`` is what was added to its times.
    """

    pilot: str
    node: int | None
    low: float
    high: float
    seconds: float


def synchronise(run: Run) -> list[ClockOffset]:
    """Move the times of clocks that contradict the client's, and return the offsets of all clocks of the run."""
    found = []
    rows_of: dict[PilotUid, list[int]] = {uid: [] for uid in run.pilots}
    for row, uid in enumerate(run.tasks.pilot):
        if uid in rows_of:
            rows_of[uid].append(row)
    for pilot in run.pilots.values():
        rows = rows_of[pilot.uid]
        found.append(_of_agent(run, pilot, rows))
        if found[-1].seconds:
            _move_agent(run, pilot, rows, found[-1].seconds)
        by_node: defaultdict[int, list[int]] = defaultdict(list)
        for row in rows:
            if run.tasks.started[row] and run.tasks.node[row] >= 0:
                by_node[run.tasks.node[row]].append(row)
        for node, here in sorted(by_node.items()):
            offset = _of_node(run, pilot, here, node)
            found.append(offset)
            if offset.seconds:
                _move_node(run, pilot, here, node, offset.seconds)
    for offset in found:
        if offset.seconds:
            whose = f"node {offset.node}'s clock" if offset.node is not None else "the agent's clock"
            run.remarks.append(f"{offset.pilot}: {whose} was {offset.seconds:+.3f} s off; its times were moved by that much")
    return found


def _offset(
    pilot: str, node: int | None, before: Iterable[tuple[float, float]], after: Iterable[tuple[float, float]]
) -> ClockOffset:
    """Return an offset from (sent here, arrived there) and (left there, received here); 0.0 is no time."""
    low = max((sent - arrived for sent, arrived in before if sent and arrived), default=-_INFINITE)
    high = min((received - left for left, received in after if left and received), default=_INFINITE)
    if low <= TOLERANCE_S and high >= -TOLERANCE_S:
        seconds = 0.0
    elif low == -_INFINITE or high == _INFINITE:
        seconds = low if high == _INFINITE else high
    else:
        seconds = (low + high) / 2
    return ClockOffset(pilot, node, low, high, seconds)


def _of_agent(run: Run, pilot: PilotTrace, rows: list[int]) -> ClockOffset:
    tasks = run.tasks
    before = [(tasks.bound[row], tasks.accepted[row]) for row in rows]
    after = [(tasks.staged_out[row] or tasks.collected[row], tasks.final[row]) for row in rows]
    return _offset(pilot.uid, None, [(pilot.launched, pilot.first), *before], [(pilot.first, pilot.active), *after])


def _of_node(run: Run, pilot: PilotTrace, rows: list[int], node: int) -> ClockOffset:
    tasks = run.tasks
    before = [(tasks.launched[row], tasks.started[row]) for row in rows]
    after = [(tasks.ended[row], tasks.collected[row]) for row in rows]
    return _offset(pilot.uid, node, before, after)


def _move_agent(run: Run, pilot: PilotTrace, rows: list[int], seconds: float) -> None:
    tasks = run.tasks
    for station in _BY_AGENT:
        _move(getattr(tasks, station), rows, seconds)
    # An end that no agent logged was written by the client, on its own clock.
    for station in _BY_NODE:
        _move(getattr(tasks, station), [row for row in rows if tasks.collected[row] or not tasks.final[row]], seconds)
    for table in (pilot.lanes.opened, pilot.lanes.closed, pilot.waits.since, pilot.waits.until):
        _move(table, range(len(table)), seconds)
    for table in (pilot.attempts.launched, pilot.attempts.started, pilot.attempts.ended):
        _move(table, range(len(table)), seconds)
    for moment in ("first", "ready", "ending", "ended", "last"):
        if getattr(pilot, moment):
            setattr(pilot, moment, getattr(pilot, moment) + seconds)
    for runner in pilot.runners.values():
        for moment in ("added", "identified", "removed"):
            if getattr(runner, moment):
                setattr(runner, moment, getattr(runner, moment) + seconds)


def _move_node(run: Run, pilot: PilotTrace, rows: list[int], node: int, seconds: float) -> None:
    tasks, attempts = run.tasks, pilot.attempts
    # An end that no agent logged was written by the client.
    here = [row for row in rows if tasks.collected[row] or not tasks.final[row]]
    made = [place for place, lane in enumerate(attempts.lane) if pilot.lanes.node[lane] == node]
    for station in _BY_NODE:
        _move(getattr(tasks, station), here, seconds)
        _move(getattr(attempts, station), made, seconds)


def _move(times: array[float], places: Iterable[int], seconds: float) -> None:
    for place in places:
        if times[place]:
            times[place] += seconds
