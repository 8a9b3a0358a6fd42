"""Tasks that the client submits: known again, refused, or on their way to the queue; those with input by way of the stagers."""

from __future__ import annotations

from pilotage.core.agent import events, facts
from pilotage.core.agent.delivery import Delivery
from pilotage.core.agent.endings import Endings
from pilotage.core.agent.journal import Journal
from pilotage.core.agent.services import Services
from pilotage.core.agent.staging import Staging
from pilotage.core.agent.waiting import Waiting
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.workload import Batch, Row


class Acceptance:
    """Takes tasks in."""

    def __init__(
        self,
        journal: Journal,
        waiting: Waiting,
        endings: Endings,
        delivery: Delivery,
        staging: Staging,
        services: Services,
    ) -> None:
        self._journal = journal
        self._state = journal.state
        self._waiting = waiting
        self._endings = endings
        self._delivery = delivery
        self._staging = staging
        self._services = services

    def submitted(self, event: events.TasksSubmitted) -> None:
        """Take in the tasks of a message that is new."""
        rows, batch = event.batch.rows, event.batch
        known = self._known(rows)
        if known:
            rows = [row for row in rows if row.uid not in known]
            batch = Batch(batch.templates, rows)
        self._journal.emit(facts.TasksAccepted(event.time, event.number, event.binding, batch))
        if known:
            self._journal.stale += len(known)
            self._bind_again(event, known)
        self._endings.learn(batch.templates)
        if self._state.ending is not None and self._state.ending.idle:
            # With the goodbye the client learns that none of these began.
            return
        if self._state.ending is not None:
            uids = [row.uid for row in rows]
            message = f"the pilot was ending when the task arrived: {self._state.ending.reason}"
            self._endings.turn_away(event.time, uids, Ending.CANCELLED, message)
            return
        # Rows of different templates may come in turns: each template is judged once.
        refusals = {template: self._waiting.refusal(template) for template in dict.fromkeys([row.template for row in rows])}
        if not self._state.inputs and self._waiting.are_plain(refusals) and not any(refusals.values()):
            self._waiting.enqueue_plain(rows, event.time)
            return
        run: list[TaskUid] = []
        current: TemplateId | None = None
        for row in rows:
            if row.template != current:
                if current is not None:
                    self._admit(run, current, event.time, refusals[current])
                run, current = [], row.template
            run.append(row.uid)
        if current is not None:
            self._admit(run, current, event.time, refusals[current])

    def _known(self, rows: list[Row]) -> dict[TaskUid, None]:
        """Return the tasks that are here, or whose outcome is under way: the client lost its node, and forgot them."""
        tasks, under_way, uids = self._state.tasks, self._delivery.under_way, [row.uid for row in rows]
        if tasks.keys().isdisjoint(uids) and under_way.keys().isdisjoint(uids):
            return {}
        return {uid: None for uid in uids if uid in tasks or uid in under_way}

    def _bind_again(self, event: events.TasksSubmitted, known: dict[TaskUid, None]) -> None:
        """Let tasks that are here go by the binding that the client gives them now: it does not know the older one."""
        tasks, under_way, binding = self._state.tasks, self._delivery.under_way, event.binding
        older = [uid for uid in known if (tasks[uid].binding if uid in tasks else under_way[uid]) < binding]
        if older:
            self._journal.emit(facts.Rebound(event.time, binding, older))
            under_way.update((uid, binding) for uid in older if uid not in tasks)

    def _admit(self, uids: list[TaskUid], template: TemplateId, now: float, refusal: str | None) -> None:
        """Let tasks of one template go on, unless there is a ``refusal``."""
        if self._state.templates[template].service is not None:
            self._services.add(uids)
        if refusal is not None:
            self._endings.turn_away(now, uids, Ending.INFEASIBLE, refusal)
            return
        over = self._state.gangs_over.get(self._state.templates[template].request.gang)
        if over is not None:
            self._endings.turn_away(now, uids, Ending.CANCELLED, over)
            return
        inputs = self._state.inputs
        if inputs:
            self._staging.stage_inputs([uid for uid in uids if uid in inputs])
            uids = [uid for uid in uids if uid not in inputs]
        self._waiting.enqueue(uids, template, now)
