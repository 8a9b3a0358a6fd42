"""Who stands outside and sees what the cores cannot deny: tasks handed in, programs that begin, outcomes that users hear.

It objects (``InvariantViolated``) to what must never be, whatever goes wrong: a second outcome, an outcome of a task that
nobody handed in, an attempt that begins twice, a task that begins again after its user was told its outcome, or while it
runs elsewhere. It knows tasks only as long as they have no outcome, so its size is that of what is open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

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
        self.refusal = ""
        """The first task that could run nowhere, and why."""
        self._begun: dict[TaskUid, tuple[str, Attempt]] = {}
        """The last attempts that began at tasks without an outcome, and where."""
        self._running: set[TaskUid] = set()

    def handed_in(self, rows: Sequence[Row], time_s: float) -> None:
        """The user submitted these."""
        known, before = self.open, len(self.open)
        known.update(dict.fromkeys([row.uid for row in rows], time_s))
        if len(known) != before + len(rows):
            raise InvariantViolated(f"a workload has two tasks of one name, among {rows[0].uid} ... {rows[-1].uid}")
        self.submitted += len(rows)

    def begin(self, jobs: Sequence[Job], where: str) -> dict[float, int]:
        """The programs of these attempts begin to run; return, of the first attempts, how many arrived at which time."""
        uids, running, begun = [job.uid for job in jobs], self._running, self._begun
        # Nearly all begin for the first time, which is seen of all at once.
        if len(uids) == 1 or not begun.keys().isdisjoint(uids):
            return self._begin_each(jobs, where)
        try:
            arrivals = Counter(map(self.open.__getitem__, uids))
        except KeyError as error:
            raise InvariantViolated(f"{error.args[0]} begins in {where}, but its outcome was told") from None
        running_before = len(running)
        running.update(uids)
        if len(running) != running_before + len(uids):
            raise InvariantViolated(f"of {len(uids)} tasks from {uids[0]} on, some begin twice in {where}")
        begun.update(zip(uids, [(where, job.attempt) for job in jobs], strict=True))
        return arrivals

    def _begin_each(self, jobs: Sequence[Job], where: str) -> dict[float, int]:
        arrivals: dict[float, int] = {}
        for job in jobs:
            uid, attempt = job.uid, job.attempt
            arrived, before = self.open.get(uid), self._begun.get(uid)
            if arrived is None:
                raise InvariantViolated(f"attempt {attempt} of {uid} begins in {where}, but its outcome was told")
            if before is None:
                arrivals[arrived] = arrivals.get(arrived, 0) + 1
            elif uid in self._running:
                raise InvariantViolated(f"attempt {attempt} of {uid} begins in {where}, while it runs in {before[0]}")
            elif before[0] == where and before[1] >= attempt:
                raise InvariantViolated(f"attempt {attempt} of {uid} begins in {where}, after attempt {before[1]}")
            self._begun[uid] = (where, attempt)
            self._running.add(uid)
        return arrivals

    def end(self, jobs: Sequence[Job]) -> None:
        """The programs that ran are gone."""
        uids, running = [job.uid for job in jobs], self._running
        running_before = len(running)
        running.difference_update(uids)
        if len(running) != running_before - len(uids):
            raise InvariantViolated(f"of {len(uids)} tasks from {uids[0]} on, some end, and do not run")

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """The user hears of these outcomes."""
        open_tasks, begun = self.open, self._begun
        uids = [outcome.task for outcome in outcomes]
        if not self._running.isdisjoint(uids):
            wrong = next(outcome for outcome in outcomes if outcome.task in self._running)
            where = begun[wrong.task][0]
            raise InvariantViolated(f"{wrong.task} has an outcome ({wrong.ending.name}) while it runs in {where}")
        for uid in uids:
            if open_tasks.pop(uid, None) is None:
                raise InvariantViolated(f"{uid} has another outcome, or was never submitted")
            begun.pop(uid, None)
        endings = [outcome.ending for outcome in outcomes]
        # Members of an enumeration are slow keys.
        for ending in Ending if endings.count(Ending.DONE) < len(endings) else (Ending.DONE,):
            if count := endings.count(ending):
                self.outcomes[ending] = self.outcomes.get(ending, 0) + count
                if ending is Ending.INFEASIBLE and not self.refusal:
                    first = outcomes[endings.index(ending)]
                    self.refusal = f"{first.task}: {first.message}"

    def close(self) -> None:
        """The simulation is over: everything that was submitted has one outcome, and nothing runs."""
        counted = sum(self.outcomes.values())
        if self.open or self._running or counted != self.submitted:
            some = ", ".join([*self.open, *self._running][:5])
            raise InvariantViolated(
                f"of {self.submitted} tasks {counted} have an outcome, {len(self.open)} have none, {len(self._running)} run: "
                f"{some}"
            )
