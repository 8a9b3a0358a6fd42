"""Who stands outside and sees what the cores cannot deny: tasks handed in, programs that begin, outcomes that users hear.

It objects (``InvariantViolated``) to what must never be, whatever goes wrong: a second outcome, an outcome of a task that
nobody handed in, an attempt that begins twice, a task that begins again after its user was told its outcome, or while it
runs elsewhere. It knows tasks only as long as they have no outcome, so its size is that of what is open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pilotage.errors import InvariantViolated
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.workload import Row
from pilotage.sim.jobs import Job


class Witness:
    """The books of a simulation."""

    def __init__(self) -> None:
        self.open: dict[TaskUid, float] = {}
        """Tasks without an outcome, and when they arrived, by the true time."""
        self.submitted = 0
        self.outcomes: dict[Ending, int] = {}
        self._begun: dict[TaskUid, tuple[str, Attempt]] = {}
        self._running: dict[TaskUid, str] = {}

    def handed_in(self, rows: Iterable[Row], time_s: float) -> None:
        """The user submitted these."""
        known, before = self.open, len(self.open)
        rows = list(rows)
        known.update([(row.uid, time_s) for row in rows])
        if len(known) != before + len(rows):
            raise InvariantViolated(f"a workload has two tasks of one name, among {rows[0].uid} ... {rows[-1].uid}")
        self.submitted += len(rows)

    def begin(self, jobs: Iterable[Job], where: str) -> dict[float, int]:
        """The programs of these attempts begin to run; return, of the first attempts, how many arrived at which time."""
        open_tasks, begun, running = self.open, self._begun, self._running
        arrivals: dict[float, int] = {}
        for job in jobs:
            uid, attempt = job.uid, job.attempt
            arrived = open_tasks.get(uid)
            if arrived is None:
                raise InvariantViolated(f"attempt {attempt} of {uid} begins in {where}, but its outcome was told")
            before = begun.get(uid)
            if before is None:
                arrivals[arrived] = arrivals.get(arrived, 0) + 1
            elif before[0] == where and before[1] >= attempt:
                raise InvariantViolated(f"attempt {attempt} of {uid} begins in {where}, after attempt {before[1]}")
            if uid in running:
                raise InvariantViolated(f"attempt {attempt} of {uid} begins in {where}, while it runs in {running[uid]}")
            begun[uid] = (where, attempt)
            running[uid] = where
        return arrivals

    def end(self, jobs: Iterable[Job]) -> None:
        """The programs that ran are gone."""
        running = self._running
        for job in jobs:
            if running.pop(job.uid, None) is None:
                raise InvariantViolated(f"{job.uid} ends, and does not run")

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """The user hears of these outcomes."""
        open_tasks, begun, running = self.open, self._begun, self._running
        for outcome in outcomes:
            uid = outcome.task
            if open_tasks.pop(uid, None) is None:
                raise InvariantViolated(f"{uid} has another outcome ({outcome.ending.name}), or was never submitted")
            if uid in running:
                raise InvariantViolated(f"{uid} has an outcome ({outcome.ending.name}) while it runs in {running[uid]}")
            begun.pop(uid, None)
        for ending, count in Counter([outcome.ending for outcome in outcomes]).items():
            self.outcomes[ending] = self.outcomes.get(ending, 0) + count

    def close(self) -> None:
        """The simulation is over: everything that was submitted has one outcome, and nothing runs."""
        counted = sum(self.outcomes.values())
        if self.open or self._running or counted != self.submitted:
            some = ", ".join([*self.open, *self._running][:5])
            raise InvariantViolated(
                f"of {self.submitted} tasks {counted} have an outcome, {len(self.open)} have none, {len(self._running)} run: "
                f"{some}"
            )
