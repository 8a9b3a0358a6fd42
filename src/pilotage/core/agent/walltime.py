"""The end of the pilot's time: nothing begins any more, what runs is told, then what is left is ended and given back.

``drain_s`` before the deadline the *drain* begins: no task begins any more, and the processes of executables get the
``checkpoint_signal``, if there is one, so that they can save what they have and exit. Services go on, and so does the staging
of files. As soon as nothing else is left to run or to stage the pilot ends. What still runs is ended so long before the
deadline that its grace is over by then (TERM, grace, KILL, and what it takes until that is known), but for no less than half of
the drain it is left alone. Output that is still being staged has until the deadline. Without a drain all of that is at the
deadline.

No task fails for it: what waits, and what was cut short and may begin again by its ``restart``, ``restartable`` or
``retries``, gets no outcome here but is the client's again (``TasksLeft``). Of the others the outcome says so.

When the drain began is in the log; all else follows from that and from the clock. The signal is sent again to a runner that
is heard again: whoever runs the tasks sends it on once. An agent that comes back in a later run of its job has a later
deadline: what the log says of a drain was of the run before.
"""

from __future__ import annotations

from collections.abc import Iterable

from pilotage.core.agent import actions, facts
from pilotage.core.agent.dispatch import Dispatch
from pilotage.core.agent.endings import Endings
from pilotage.core.agent.job_end import JobEnd
from pilotage.core.agent.journal import Journal
from pilotage.core.agent.services import Services
from pilotage.core.agent.waiting import Waiting
from pilotage.model.execution import Execution
from pilotage.model.ids import RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.states import DONE

OVER = "the pilot's runtime is over"

CLOCK_S = 5.0
"""By so much a deadline may differ between agents of one run, whose clock was set meanwhile."""

_KILL_S = 1.0
"""So long, or a tenth of the drain, it may take from the KILL of the last tasks until the pilot has ended."""


class Walltime:
    """Sees to the end of the pilot's time.

    ``deadline``: when it is over, in seconds since the epoch; None: never. ``checkpoint_signal``: its number; 0: none is sent.
    """

    def __init__(
        self,
        journal: Journal,
        waiting: Waiting,
        dispatch: Dispatch,
        endings: Endings,
        services: Services,
        job_end: JobEnd,
        deadline: float | None,
        drain_s: float,
        checkpoint_signal: int,
    ) -> None:
        self._journal = journal
        self._state = journal.state
        self._waiting = waiting
        self._dispatch = dispatch
        self._endings = endings
        self._services = services
        self._job_end = job_end
        self._patience_s = drain_s
        self._deadline = deadline
        self._drain_s = drain_s if deadline is not None else 0.0
        self._signal_number = checkpoint_signal
        self._ends_at = deadline
        """When what still runs is ended."""

    def recover(self) -> None:
        """Take over what the state says."""
        if self._drains:
            self._close()

    @property
    def _drains(self) -> bool:
        began = self._state.draining
        return began > 0 and self._deadline is not None and began >= self._deadline - self._drain_s - CLOCK_S

    # --------------------------------------------------------------------------------------------------------------- time

    @property
    def due(self) -> float | None:
        """When the clock alone brings the next of these about (seconds since the epoch)."""
        state, deadline = self._state, self._deadline
        if (
            self._job_end.came
            or deadline is None
            or (state.ending is not None and not self._is_over and not self._may_end_sooner)
        ):
            return None
        if self._is_over:
            return deadline if any(self._staged()) else None
        return self._ends_at if self._drains or not self._drain_s else deadline - self._drain_s

    def time_passed(self, now: float) -> None:
        """Do what is due."""
        if not self._is_over and self._drain_s and not self._drains and self._is_due(now):
            self._begin_drain(now)
        if not self._is_over and self._is_due(now):
            self.end(now)
        if self._is_over and self._is_due(now):
            self._endings.ask(now, 0, list(self._staged()), Ending.OUT_OF_WALLTIME, OVER)

    def _is_due(self, now: float) -> bool:
        due = self.due
        return due is not None and now >= due

    @property
    def _is_over(self) -> bool:
        ending = self._state.ending
        return ending is not None and ending.out_of_time

    @property
    def _may_end_sooner(self) -> bool:
        ending = self._state.ending
        return ending is None or (ending.drain and bool(self._state.tasks))

    def _staged(self) -> Iterable[TaskUid]:
        """Return the tasks whose files are being staged, and which nobody has asked to end."""
        state = self._state
        return (uid for uid in (*state.inputs, *state.outputs) if state.tasks[uid].ending is None)

    # -------------------------------------------------------------------------------------------------------------- drain

    def _begin_drain(self, now: float) -> None:
        state = self._state
        self._journal.emit(facts.DrainBegun(now))
        self._close()
        self._dispatch.recall([uid for lane in state.lanes.values() for uid in lane.tasks if not state.tasks[uid].started])
        self._signal(self._state.runners)

    def job_ends(self, now: float, reason: str, until: float | None = None) -> None:
        """The batch system ends the job, and may begin it again: the log is not told of an end of the pilot.

        ``until``: what runs has no more time than that; it may be told later than the rest.
        """
        state = self._state
        if self._job_end.came:
            self._job_end.hurry(until)
            return
        self._job_end.begin(now, self._patience_s)
        self._job_end.hurry(until)
        self._dispatch.closed = reason
        self._dispatch.recall([uid for lane in state.lanes.values() for uid in lane.tasks if not state.tasks[uid].started])
        self._signal(state.runners)

    def _close(self) -> None:
        """Place nothing any more; what runs now tells how long its end takes."""
        self._dispatch.closed = f"the pilot's runtime is over in less than {self._drain_s:g} s, its drain_s"
        state = self._state
        graces = (state.templates[lane.template].grace_s for lane in state.lanes.values())
        if self._deadline is not None:
            takes_s = max(graces, default=0.0) + min(_KILL_S, 0.1 * self._drain_s)
            self._ends_at = self._deadline - min(takes_s, 0.5 * self._drain_s)

    def reconciled(self, runner: RunnerId) -> None:
        """The runner is heard again: it may not have got the signal."""
        if self._job_end.came or (self._drains and not self._is_over):
            self._signal([runner])

    def _signal(self, runners: Iterable[RunnerId]) -> None:
        """Have the executables that these runners have signalled; what has not begun there was recalled before."""
        if not self._signal_number:
            return
        state, chosen = self._state, frozenset(runners)
        by_runner: dict[RunnerId, list[Execution]] = {}
        for lane in state.lanes.values():
            template = state.templates[lane.template]
            if lane.runner in chosen and not template.in_worker and template.service is None:
                for uid in lane.tasks:
                    by_runner.setdefault(lane.runner, []).append((uid, state.tasks[uid].attempt))
        for runner, executions in by_runner.items():
            self._journal.act(actions.SignalExecutions(runner, executions, self._signal_number))

    # ---------------------------------------------------------------------------------------------------------------- end

    def look(self, now: float) -> None:
        """After an event: end the pilot that drains when nothing is left to wait for."""
        if self._job_end.came:
            return
        if self._drains and not self._is_over and self._may_end_sooner and not self._has_work:
            self.end(now)

    @property
    def _has_work(self) -> bool:
        """Whether something but services runs, or files are staged."""
        state = self._state
        if state.outputs:
            return True
        return any(lane.tasks and state.templates[lane.template].service is None for lane in state.lanes.values())

    def end(self, now: float) -> None:
        """The pilot's time is over: end what runs, and let the client have the rest."""
        state = self._state
        self._journal.emit(facts.PilotEnding(now, 0, False, DONE, OVER, idle=True, out_of_time=True))
        self._dispatch.closed = OVER
        self._services.stop(now)
        running = [uid for uid, task in state.tasks.items() if task.lane or uid in state.inputs]
        self._endings.ask(now, 0, running, Ending.OUT_OF_WALLTIME, OVER)
        waiting = [uid for uid, task in state.tasks.items() if self._merely_waits(uid)]
        for uid in waiting:
            self._waiting.withdraw(uid)
        self._endings.leave(now, waiting)

    def _merely_waits(self, uid: TaskUid) -> bool:
        state = self._state
        return not state.tasks[uid].lane and uid not in state.inputs and uid not in state.outputs
