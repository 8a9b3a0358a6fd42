"""Folds the client's log into a run: which tasks and pilots there are, and the last word on outcomes."""

from __future__ import annotations

from pathlib import Path

from pilotage.core.client import facts as client
from pilotage.core.client.state import ClientState
from pilotage.model.ids import Binding, PilotUid, TaskUid
from pilotage.model.states import PMGR_ACTIVE, PMGR_ACTIVE_PENDING, PMGR_LAUNCHING_PENDING
from pilotage.trace.records import client_facts, decode_batch, decode_outcomes, decode_wanted, read_log
from pilotage.trace.run import HELD, Run
from pilotage.trace.templates import Templates, take_outcome


class ClientFold:
    """Folds the client's log into a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._tasks = run.tasks
        self._templates = Templates(run.tasks)

    def read(self, folder: Path) -> None:
        state, records = read_log(folder, ClientState, client_facts, self._run.remarks)
        if state is not None:
            self._take_state(state)
        for record in records:
            for fact in record:
                self._apply(fact)

    def _take_state(self, state: ClientState) -> None:
        self._run.opened = state.opened
        for uid, known in state.pilots.items():
            pilot = self._run.pilot(uid)
            pilot.resource = decode_wanted(known.description).resource
            pilot.nodes, pilot.state, pilot.reason = known.nodes, known.state, known.reason
            pilot.submitted, pilot.active, pilot.final = known.submitted, known.active_since, known.ended
            pilot.is_job = known.job is not None
        self._templates.learn(state.templates)
        records = list(state.tasks.values())
        for i, task in zip(self._templates.indices([task.row for task in records]), records, strict=True):
            self._tasks.pilot[i], self._tasks.binding[i] = task.pilot, task.binding
            if task.outcome is not None:
                take_outcome(self._tasks, i, task.outcome)
            if task.row.uid in state.held:
                self._tasks.aside[i] = HELD

    def _apply(self, fact: client.Fact) -> None:
        run, tasks = self._run, self._tasks
        match fact:
            case client.OutcomesReceived():
                index, binding, ending = tasks.index, tasks.binding, tasks.ending
                for outcome in decode_outcomes(fact.outcomes):
                    i = index.get(outcome.task)
                    if i is not None and ending[i] is None and binding[i] == outcome.binding:
                        take_outcome(tasks, i, outcome)
                        tasks.final[i] = fact.time
            case client.TasksAccepted():
                batch = decode_batch(fact.batch)
                self._templates.learn(batch.templates)
                for i in self._templates.indices(batch.rows):
                    tasks.submitted[i] = fact.time
                    if fact.pilot:
                        tasks.pilot[i], tasks.binding[i], tasks.bound[i] = fact.pilot, Binding(1), fact.time
            case client.TasksBound():
                for i in self._known(fact.tasks):
                    tasks.pilot[i], tasks.binding[i], tasks.bound[i] = fact.pilot, fact.binding, fact.time
            case client.TasksUnbound():
                for i in self._known(fact.tasks):
                    tasks.pilot[i], tasks.bound[i] = PilotUid(""), 0.0
            case client.TasksSettled():
                for i in self._known(fact.tasks):
                    tasks.ending[i], tasks.ended[i], tasks.final[i] = fact.ending, fact.time, fact.time
                    tasks.message[i] = fact.message
                    tasks.aside.pop(i, None)
            case client.TasksHeld():
                for i in self._known(list(fact.tasks)):
                    tasks.aside[i] = HELD
            case client.TasksFreed():
                for i in self._known(fact.tasks):
                    tasks.freed[i] = fact.time
                    tasks.aside.pop(i, None)
            case client.PilotAccepted():
                pilot = run.pilot(fact.pilot)
                pilot.submitted, pilot.nodes, pilot.state = fact.time, fact.nodes, PMGR_LAUNCHING_PENDING
                pilot.resource = decode_wanted(fact.description).resource
            case client.PilotLaunched():
                pilot = run.pilot(fact.pilot)
                pilot.launched, pilot.state = fact.time, PMGR_ACTIVE_PENDING
            case client.JobSubmitted():
                pilot = run.pilot(fact.pilot)
                pilot.is_job = True
                pilot.launched, pilot.state = fact.time, PMGR_ACTIVE_PENDING
            case client.PilotActivated():
                pilot = run.pilot(fact.pilot)
                pilot.active, pilot.nodes, pilot.state = pilot.active or fact.time, fact.nodes, PMGR_ACTIVE
            case client.PilotEnded():
                pilot = run.pilot(fact.pilot)
                pilot.final, pilot.state, pilot.reason = fact.time, fact.state, fact.reason
            case client.EpochBegun():
                run.opened, run.closed = run.opened or fact.time, 0.0
            case client.SessionEnding():
                run.closed = fact.time
            case _:
                pass  # nothing that a run shows; see catalogue.SILENT_FACTS

    def _known(self, uids: list[TaskUid]) -> list[int]:
        index = self._tasks.index
        return [index[uid] for uid in uids if uid in index]
