"""What the agent of a partition tells its metascheduler beside outcomes: nodes and tasks that it gives back.

A task is given back if it waits for resources, an environment or a service, and no file of it has been staged: nothing was done
for it that would have to be done again. Services stay, as others may know where they are.
"""

from __future__ import annotations

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.delivery import Delivery
from pilotage.core.agent.facts import GivenBack
from pilotage.core.agent.journal import Journal
from pilotage.core.agent.state import TaskRecord
from pilotage.core.agent.waiting import Waiting
from pilotage.model.ids import TaskUid


class Recalls:
    """Gives back tasks that wait."""

    def __init__(self, journal: Journal, waiting: Waiting) -> None:
        self._journal = journal
        self._state = journal.state
        self._waiting = waiting

    def recalled(self, event: events.TasksRecalled) -> None:
        """Give back what waits of these tasks."""
        tasks = self._state.tasks
        given: list[GivenBack] = []
        for uid, lease in event.tasks:
            task = tasks.get(uid)
            if task is not None and task.binding == lease and self._merely_waits(uid, task):
                self._waiting.withdraw(uid)
                given.append((uid, lease, task.attempt, task.failures))
        self._journal.emit(facts.TasksGivenBack(event.time, event.number, event.recall, given))

    def _merely_waits(self, uid: TaskUid, task: TaskRecord) -> bool:
        state, extra = self._state, task.row.extra
        if task.lane or task.ending is not None or uid in state.inputs or uid in state.outputs:
            return False
        if extra is not None and extra.input_staging:
            return False
        return state.templates[task.row.template].service is None


class PartitionDelivery(Delivery):
    """Delivery of outcomes, and of nodes and tasks that are given back."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        self._of_partition = journal

    @property
    def has_news(self) -> bool:
        """Whether there is something to make a message of."""
        state = self._of_partition.state
        return bool(state.unsent_nodes or state.unsent_tasks) or super().has_news

    def number(self, now: float) -> None:
        """Make the next message."""
        journal, state = self._of_partition, self._of_partition.state
        number = state.numbered + 1
        # Who hears that a task cannot run there any more should know before that the nodes for it are lost.
        if state.unsent_nodes:
            journal.emit(facts.NodesNumbered(number))
            journal.act(actions.SendNodes(number, *state.undelivered_nodes[number]))
        elif state.unsent_tasks:
            journal.emit(facts.TasksNumbered(number))
            journal.act(actions.SendTasks(number, *state.undelivered_tasks[number]))
        else:
            super().number(now)
