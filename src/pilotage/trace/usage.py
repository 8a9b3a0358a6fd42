"""Where each core-second of a pilot went.

At every instant each core of a pilot is in one state::

    startup      the pilot holds its nodes and is not ready yet
    launching    in a lane: a task was handed over and has not begun
    running      in a lane: a task runs
    collecting   in a lane: the last task is over, and its end is not yet dealt with
    scheduling   free, while tasks wait at the agent for resources
    idle         free, and no task waits
    teardown     free, no task waits, and the pilot is ending

A lane is a placement that several short tasks may use one after another: while one of them runs its cores run, whatever waits
behind it. Running time can be divided further by a label of the tasks. Scheduling counts no more cores than the waiting
tasks ask for. The agent's own work is not anybody's core-time here and is never counted as use.

Times become whole microseconds, so sums are exact: the states add up to cores times lifetime, to the microsecond. The same
books can be kept for GPUs, in 64ths.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import msgspec

from pilotage.model.resources import GPU_SHARES
from pilotage.trace.run import PilotTrace, Run

STARTUP = "startup"
LAUNCHING = "launching"
RUNNING = "running"
COLLECTING = "collecting"
SCHEDULING = "scheduling"
IDLE = "idle"
TEARDOWN = "teardown"
STATES = (RUNNING, STARTUP, SCHEDULING, LAUNCHING, COLLECTING, TEARDOWN, IDLE)
OVERHEADS = (STARTUP, SCHEDULING, LAUNCHING, COLLECTING, TEARDOWN)
"""States in which resources are held and not used because of the pilot system; idle is because there is no task."""

FREE = "free"
"""In no lane; divided into the states of free cores when it is posted."""

TICKS_PER_S = 1_000_000
Resource = Literal["cores", "gpus"]


class CoreTime(msgspec.Struct):
    """Core-time by state, in total and over time. Running is divided by label: ``running`` or ``running: <label>``.

    ``begin`` and ``end``: seconds since the epoch. ``ticks``: core-microseconds (of GPUs: microseconds of a 64th) in each
    state; ``binned`` the same in each of the intervals of ``bin_ticks`` microseconds that follow ``begin``.
    """

    begin: float
    end: float
    capacity: int
    """Cores, or 64ths of GPUs, of all pilots counted."""
    held_ticks: int
    """Capacity times lifetime, summed over pilots: what the states add up to."""
    bin_ticks: int
    ticks: dict[str, int]
    binned: dict[str, list[int]]

    @property
    def bins(self) -> int:
        """The number of intervals."""
        return len(next(iter(self.binned.values())))

    @property
    def running(self) -> list[str]:
        """The states in which tasks run."""
        return [state for state in self.ticks if state.startswith(RUNNING)]

    @property
    def utilisation(self) -> float:
        """The share of all core-time in which tasks ran."""
        return sum(self.ticks[state] for state in self.running) / self.held_ticks if self.held_ticks else 0.0

    def share(self, state: str) -> float:
        """Return the share of all core-time that was spent in a state."""
        return self.ticks.get(state, 0) / self.held_ticks if self.held_ticks else 0.0

    @property
    def overhead(self) -> float:
        """The share of all core-time that the pilot system took: all but running and idle."""
        return sum(self.share(state) for state in OVERHEADS)

    @property
    def overhead_s(self) -> float:
        """``overhead`` in seconds of all cores together."""
        return sum(self.ticks.get(state, 0) for state in OVERHEADS) / self.capacity / TICKS_PER_S if self.capacity else 0.0

    def busy(self, state: str) -> list[float]:
        """Return how many cores (64ths of GPUs) were in a state, as the mean of each interval."""
        return [ticks / self.bin_ticks for ticks in self.binned[state]]

    def utilisation_over_time(self) -> list[float]:
        """Return the share of the capacity that ran tasks in each interval."""
        rows = [self.binned[state] for state in self.running]
        return [sum(values) / (self.bin_ticks * self.capacity) for values in zip(*rows, strict=True)] if self.capacity else []


def core_time(
    run: Run,
    pilots: Sequence[str] | None = None,
    *,
    of: Resource = "cores",
    labels: Sequence[str] | None = None,
    bins: int = 400,
) -> CoreTime:
    """Return where the core-time of ``pilots`` (all of the run's by default) went.

    ``labels``: one for each task of the run, to divide running time by (``run.tasks.kind``, for example). ``bins``: the
    number of equal intervals for what is told over time.
    """
    chosen = [run.pilots[uid] for uid in pilots] if pilots is not None else list(run.pilots.values())  # type: ignore[index]
    chosen = [pilot for pilot in chosen if pilot.begin and pilot.nodes]
    begin = min((pilot.begin for pilot in chosen), default=0.0)
    end = max((pilot.end for pilot in chosen), default=0.0)
    bin_ticks = max(1, -(-_ticks(end - begin) // bins))
    books = _Books(bins, bin_ticks)
    held = capacity = 0
    for pilot in chosen:
        size = pilot.cores if of == "cores" else pilot.gpu_shares
        ledger = _Ledger(run, pilot, begin, size, of, labels, books)
        held += size * (ledger.last - ledger.first)
        capacity += size
        ledger.post()
    order = [*sorted(state for state in books.ticks if state.startswith(RUNNING)), *STATES[1:]]
    if order[0] == STARTUP:
        order.insert(0, RUNNING)
    ticks = {state: books.ticks[state] for state in order}
    return CoreTime(begin, end, capacity, held, bin_ticks, ticks, {state: books.binned[state] for state in order})


def _ticks(seconds: float) -> int:
    return round(seconds * TICKS_PER_S)


class _Books:
    """Core-time by state, in total and in intervals."""

    def __init__(self, bins: int, bin_ticks: int) -> None:
        self.ticks: defaultdict[str, int] = defaultdict(int)
        self.binned: defaultdict[str, list[int]] = defaultdict(lambda: [0] * bins)
        self._bin_ticks = bin_ticks

    def post(self, state: str, count: int, start: int, stop: int) -> None:
        """Note that ``count`` cores were in a state from ``start`` to ``stop``."""
        if start == stop:
            return
        self.ticks[state] += count * (stop - start)
        row, width = self.binned[state], self._bin_ticks
        place = start // width
        while (edge := (place + 1) * width) < stop:
            row[place] += count * (edge - start)
            start, place = edge, place + 1
        row[place] += count * (stop - start)


class _Ledger:
    """Walks through the life of one pilot and posts how many cores were in which state between changes.

    Only the states whose counts change are posted at a change, so a change costs the same on any machine.
    """

    def __init__(
        self, run: Run, pilot: PilotTrace, origin: float, size: int, of: Resource, labels: Sequence[str] | None, books: _Books
    ) -> None:
        self._run = run
        self._pilot = pilot
        self._origin = origin
        self._size = size
        self._of = of
        self._labels = labels
        self._books = books
        self._counts: dict[str, int] = {}
        self._since: dict[str, int] = {}
        self.first = _ticks(pilot.begin - origin)
        self.last = max(self.first, _ticks(pilot.end - origin))

    def _within(self, time: float) -> int:
        """Return a time in ticks, within the pilot's life."""
        return min(max(_ticks(time - self._origin), self.first), self.last)

    def post(self) -> None:
        """Walk, and post to the books."""
        waits = self._waiting()
        changes = self._lane_changes()
        free, wanted = self._size, 0
        phase = STARTUP
        stages = self._stages(changes)
        for now in sorted({*waits, *changes, *stages}):
            wanted += waits.get(now, 0)
            phase = stages.get(now, phase)
            moved: dict[str, int] = {}
            for before, after, cores in changes.get(now, ()):
                moved[before] = moved.get(before, 0) - cores
                moved[after] = moved.get(after, 0) + cores
            free += moved.pop(FREE, 0)
            for state, difference in moved.items():
                self._set(state, self._counts.get(state, 0) + difference, now)
            scheduling = min(free, wanted) if phase != STARTUP else 0
            self._set(SCHEDULING, scheduling, now)
            for state in (STARTUP, TEARDOWN, IDLE):
                self._set(state, free - scheduling if state == phase else 0, now)
        for state in list(self._counts):
            self._set(state, 0, self.last)

    def _set(self, state: str, count: int, now: int) -> None:
        before = self._counts.get(state, 0)
        if before != count:
            if before:
                self._books.post(state, before, self._since[state], now)
            self._counts[state], self._since[state] = count, now

    def _stages(self, changes: dict[int, list[tuple[str, str, int]]]) -> dict[int, str]:
        """Return from when on a free core is what: the pilot starts, then it is idle or tasks wait, then it ends."""
        pilot = self._pilot
        ready = self._within(pilot.active or pilot.ready or pilot.end)
        # A lane proves that the pilot was ready, whatever another clock says.
        ready = min(ready, min(changes, default=ready))
        ending = pilot.ending or pilot.ended
        stages = {self.first: STARTUP}
        stages[ready] = IDLE
        if ending:
            stages[max(self._within(ending), ready)] = TEARDOWN
        return stages

    def _waiting(self) -> dict[int, int]:
        """Return by how much the cores that waiting tasks ask for change, by time."""
        tasks, waits = self._run.tasks, self._pilot.waits
        asked = tasks.cores if self._of == "cores" else [round(gpus * GPU_SHARES) for gpus in tasks.gpus]
        changes: defaultdict[int, int] = defaultdict(int)
        within = self._within
        for task, since, until in zip(waits.task, waits.since, waits.until, strict=True):
            begun, over = within(since), within(until) if until else self.last
            if begun < over:
                changes[begun] += asked[task]
                changes[over] -= asked[task]
        return changes

    def _lane_changes(self) -> dict[int, list[tuple[str, str, int]]]:
        """Return what happens to lanes, by time: (state before, state after, cores)."""
        lanes, attempts, within = self._pilot.lanes, self._pilot.attempts, self._within
        labels = self._labels
        sizes = lanes.cores if self._of == "cores" else lanes.gpu_shares
        by_lane: list[list[int]] = [[] for _ in range(len(lanes))]
        for row, lane in enumerate(attempts.lane):
            by_lane[lane].append(row)
        changes: defaultdict[int, list[tuple[str, str, int]]] = defaultdict(list)
        for lane, rows in enumerate(by_lane):
            cores = sizes[lane]
            opened = within(lanes.opened[lane])
            closed = within(lanes.closed[lane]) if lanes.closed[lane] else self.last
            if opened >= closed or not cores:
                continue
            # What each attempt does to the lane: +1 or -1 handed over, +1 or -1 running, and whose time it is.
            steps: list[tuple[int, int, int, str]] = []
            for row in rows:
                launched = within(attempts.launched[row])
                over = within(attempts.ended[row]) if attempts.ended[row] else closed
                over = max(launched, min(over, closed))
                started = max(launched, min(within(attempts.started[row]), over)) if attempts.started[row] else over
                label = RUNNING if labels is None else f"{RUNNING}: {labels[attempts.task[row]]}"
                steps.append((launched, 1, 0, label))
                steps.append((started, -1, 1, label))
                steps.append((over, 0, -1, label))
            # At equal times what ends comes first; of one attempt the order of its steps is kept.
            steps.sort(key=_when)
            state, pending, running, label = FREE, 0, 0, ""
            place = 0
            at = opened
            while True:
                while place < len(steps) and steps[place][0] <= at:
                    _, handed, begun, whose = steps[place]
                    pending += handed
                    running += begun
                    if begun > 0:
                        label = whose
                    place += 1
                after = label if running else LAUNCHING if pending else COLLECTING
                if after != state:
                    changes[at].append((state, after, cores))
                    state = after
                if place == len(steps) or steps[place][0] >= closed:
                    break
                at = steps[place][0]
            changes[closed].append((state, FREE, cores))
        return changes


def _when(step: tuple[int, int, int, str]) -> int:
    return step[0]
