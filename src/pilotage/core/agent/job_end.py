"""The batch system ends the job: what that does to tasks is no end of theirs, and the pilot may go on in a later run.

A batch system tells all processes of a job to end, tasks and what runs them like the agent, on each node in its own time. Why
it does so (preemption, a time limit, somebody's command), and whether it begins the job again, no process can tell; the client
learns it from the batch system. So here:

From the signal on no task begins any more. What runs may end by itself, for as long as the pilot's drain is and the batch
system lets it; executables get the checkpoint signal. An attempt that ends well has its outcome. One that does not was cut
short: the log goes on to say that it runs, so that a later run of the job finds it lost, or the client does in the log.

Before the signal comes ends that look like it are *doubtful*: such a message is held back for ``DOUBT_S``, with all that its
runner says after it, and so is the loss of runners and nodes. They are in no log, nor is the runner told that they have
arrived; another agent hears them again. A program may also fail in its own way, as its child got the signal: its spawner, which
gets it, too, knows what came just before it, and reports that as what it ends itself (see ``spawner.doubts``).

The signal may come to hosts and tasks alone. While the batch system is asked what that means nothing is out of doubt.
"""

from __future__ import annotations

import signal
from collections.abc import Container, Iterable, Iterator

import msgspec

from pilotage.core.agent import events
from pilotage.core.agent.dispatch import Dispatch
from pilotage.core.agent.runners import RunnerPool
from pilotage.core.agent.state import AgentState
from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.ids import RunnerId, TaskUid
from pilotage.model.outcome import Ending

DOUBT_S = 2.0
"""How long the signal to the agent may be behind those to tasks."""

_OF_A_SIGNAL = (-int(signal.SIGTERM), 128 + int(signal.SIGTERM))
"""Exit codes of programs that were ended by TERM, and of shells whose program was."""

Doubtful = events.TasksEnded | events.RunnerLost | events.NodesLost


class JobEnd:
    """What is to be made of what runners report. ``in_job``: whether the pilot is a batch job; else nothing is held back."""

    def __init__(self, state: AgentState, pool: RunnerPool, dispatch: Dispatch, in_job: bool) -> None:
        self._state = state
        self._pool = pool
        self._dispatch = dispatch
        self._in_job = in_job
        self._held: list[Doubtful] = []
        self._runners: dict[RunnerId, set[Execution]] = {}
        """By runner of which something is held back: what it may have begun; more came too late, if it is gone."""
        self.came = False
        """Whether the batch system is ending the job."""
        self._until = 0.0
        self._is_questioned = False
        """Whether the batch system is asked."""
        self._cut_off: set[TaskUid] = set()
        self._gone: set[RunnerId] = set()

    # ------------------------------------------------------------------------------------------------------------- doubts

    def holds(self, event: Doubtful) -> bool:
        """Tell whether this is taken in later: it may be the batch system's doing, or is said after what may be."""
        if self.came or not self._in_job:
            return False
        match event:
            case events.TasksEnded():
                if event.runner not in self._runners and not any(map(self._is_doubtful, event.ends)):
                    return False
                if any(map(self._was_stopped, event.ends)):
                    self._pool.shun(event.runner)
                self._runners.setdefault(event.runner, set())
            case events.RunnerLost():
                record = self._state.runners.get(event.runner)
                if record is None or not record.pid:
                    return False
                self._pool.shun(event.runner)
                self._runners[event.runner] = self._handed_over(event.runner)
            case events.NodesLost():
                if not self._held:
                    return False
        self._held.append(event)
        return True

    def _handed_over(self, runner: RunnerId) -> set[Execution]:
        in_lanes = {
            (uid, self._state.tasks[uid].attempt)
            for lane in self._pool.lanes_of(runner)
            for uid in self._state.lanes[lane].tasks
        }
        return in_lanes - set(self._dispatch.not_handed_over(runner))

    @property
    def due(self) -> float | None:
        """When doubts are over, or the time that what runs has (seconds since the epoch)."""
        if self.came:
            return self._until
        if self._is_questioned:
            return None
        return self._held[0].time + DOUBT_S if self._held else None

    def ripe(self, now: float) -> list[Doubtful]:
        """Return, once, what is in doubt no longer: no signal came."""
        return (
            []
            if self.came or self._is_questioned
            else self._take([event for event in self._held if now >= event.time + DOUBT_S])
        )

    def released(self, runner: RunnerId | None = None) -> list[Doubtful]:
        """Return, once, what is held back, of this runner or of all."""
        if runner is None:
            return self._take(self._held)
        return self._take([event for event in self._held if not isinstance(event, events.NodesLost) and event.runner == runner])

    def _take(self, taken: list[Doubtful]) -> list[Doubtful]:
        if not taken:
            return []
        chosen = set(map(id, taken))
        ended = frozenset(self._ended_runners(self._held))
        self._held = [event for event in self._held if id(event) not in chosen]
        if not self.came:
            taken = [self._explained(event, ended) for event in taken]
        left = {event.runner for event in self._held if not isinstance(event, events.NodesLost)}
        self._runners = {runner: known for runner, known in self._runners.items() if runner in left}
        return taken

    def _is_doubtful(self, end: AttemptEnd) -> bool:
        task = self._state.tasks.get(end.task)
        if task is None or task.ending is not None or task.attempt != end.attempt or self._state.ending is not None:
            return False
        return end.ending is Ending.CANCELLED or end.exit_code in _OF_A_SIGNAL

    def _was_stopped(self, end: AttemptEnd) -> bool:
        """Tell whether nobody but the runner can have ended this attempt, as it was told to end itself."""
        return end.ending is Ending.CANCELLED and self._is_doubtful(end)

    def _ended_runners(self, held: Iterable[Doubtful]) -> Iterator[RunnerId]:
        """Return the runners that are gone by these messages, or were told to go."""
        for event in held:
            match event:
                case events.TasksEnded() if any(map(self._was_stopped, event.ends)):
                    yield event.runner
                case events.RunnerLost():
                    yield event.runner

    def _explained(self, event: Doubtful, ended: Container[RunnerId]) -> Doubtful:
        """Say what was learned since it was heard: whose runners have ``ended``, too."""
        match event:
            case events.TasksEnded():
                # That the agent did not ask for. The same signal may have come to the task before its runner.
                lost = {"ending": Ending.LOST, "message": "what ran it was told to end by others"}
                is_lost = self._is_doubtful if event.runner in ended else self._was_stopped
                ends = [msgspec.structs.replace(end, **lost) if is_lost(end) else end for end in event.ends]
                return msgspec.structs.replace(event, ends=ends)
            case events.RunnerLost():
                later = self._handed_over(event.runner) - self._runners[event.runner]
                return msgspec.structs.replace(event, not_begun=[*event.not_begun, *sorted(later)])
            case _:
                return event

    def question(self) -> None:
        """The batch system is asked whether it ends the job: until ``begin`` or ``go_on`` no doubt is over."""
        self._is_questioned = True

    def go_on(self) -> None:
        """It does not, as far as it can be learned."""
        self._is_questioned = False

    # ---------------------------------------------------------------------------------------------------------------- end

    def begin(self, now: float, patience_s: float) -> None:
        """The batch system ends the job. ``patience_s``: for how long what runs may go on, if it is let."""
        self.came, self._until = True, now + patience_s

    def hurry(self, until: float | None) -> None:
        """What runs may go on no longer than that, if it is known (seconds since the epoch)."""
        if until is not None:
            self._until = min(self._until, until)

    def is_left(self, now: float) -> bool:
        """Tell whether there is nothing more to wait for."""
        state = self._state
        if not self.came:
            return False
        if state.ending is not None or now >= self._until:
            return True
        return not state.outputs and not any(
            lane.runner not in self._gone
            and state.templates[lane.template].service is None
            and not self._cut_off.issuperset(lane.tasks)
            for lane in state.lanes.values()
        )

    def lost(self, runner: RunnerId) -> None:
        """What this runner ran is cut short."""
        self._gone.add(runner)

    def well_ended(self, event: events.TasksEnded) -> events.TasksEnded | None:
        """Return the message without the attempts that were cut short; None if nothing is left of it."""
        kept = [end for end in event.ends if self._counts(end)]
        self._cut_off.update(end.task for end in event.ends if not self._counts(end))
        return msgspec.structs.replace(event, ends=kept) if kept else None

    def _counts(self, end: AttemptEnd) -> bool:
        task = self._state.tasks.get(end.task)
        if task is None or task.attempt != end.attempt:
            return True
        if self._state.templates[task.row.template].service is not None:
            return False
        return end.ending is Ending.DONE or task.ending is Ending.CANCELLED
