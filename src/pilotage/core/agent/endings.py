"""How tasks come to their end: on request, or as there is nothing more to be done for them."""

from __future__ import annotations

from collections.abc import Iterable

from pilotage.core.agent import actions, facts
from pilotage.core.agent.delivery import Delivery
from pilotage.core.agent.dispatch import Dispatch
from pilotage.core.agent.journal import Journal
from pilotage.model.execution import Execution
from pilotage.model.ids import RunnerId, TaskUid
from pilotage.model.outcome import Ending, Outcome, Times

NOBODY = RunnerId("")


class Endings:
    """Gives tasks their outcomes."""

    def __init__(self, journal: Journal, dispatch: Dispatch, delivery: Delivery) -> None:
        self._journal = journal
        self._state = journal.state
        self._dispatch = dispatch
        self._delivery = delivery

    def ask(self, now: float, number: int, uids: Iterable[TaskUid], ending: Ending, message: str) -> None:
        """End these tasks, whatever they do; ``number`` is that of the client's message that wants it, or 0."""
        tasks = self._state.tasks
        # A task that is out of time may have another attempt; one that was cancelled meanwhile has not.
        final = ending is not Ending.TIMED_OUT
        chosen = [uid for uid in uids if tasks[uid].ending is None or (final and tasks[uid].ending is Ending.TIMED_OUT)]
        if not chosen and not number:
            return
        self._journal.emit(facts.EndAsked(now, number, chosen, ending, message))
        waiting = []
        running: dict[RunnerId, list[Execution]] = {}
        for uid in chosen:
            task = tasks[uid]
            if not task.lane:
                self._dispatch.withdraw(uid)
                waiting.append(uid)
            else:
                running.setdefault(self._state.lanes[task.lane].runner, []).append((uid, task.attempt))
        self.finish(now, waiting, ending, message)
        for runner, executions in running.items():
            self._journal.act(actions.EndExecutions(runner, executions, ending, message))

    def finish(self, now: float, uids: Iterable[TaskUid], ending: Ending, message: str) -> None:
        """Give final outcomes to tasks that no runner holds."""
        outcomes = []
        for uid in uids:
            task = self._state.tasks[uid]
            times = Times(accepted=task.accepted, launched=task.launched, ended=now)
            outcomes.append(Outcome(uid, task.binding, task.attempt, ending, message=message, times=times))
        if outcomes:
            self.conclude(now, NOBODY, 0, outcomes)

    def conclude(self, now: float, runner: RunnerId, number: int, outcomes: list[Outcome]) -> None:
        """These attempts were the last; ``runner`` told of them in its message ``number``."""
        self._delivery.note(outcomes)
        self._journal.emit(facts.Ended(now, runner, number, outcomes))
