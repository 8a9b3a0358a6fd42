"""Folds the logs of a pilot with partitions into a run: that of its head, and those of the partitions' agents.

The head has the tasks, and says when it took them and how the pilot ended. What became of a task in a partition, that agent's
log tells; where several had it the one with the last lease counts.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from pilotage.core.agent import facts as agent
from pilotage.core.metascheduler import facts
from pilotage.core.metascheduler.state import MetaschedulerState
from pilotage.model.ids import Binding, RunnerId
from pilotage.model.workload import Row
from pilotage.trace.agent_fold import AgentFold
from pilotage.trace.records import PILOT_LOG, partition_folders, read_log
from pilotage.trace.run import Run

head_facts = msgspec.msgpack.Decoder(list[facts.Fact])


def fold_pilot(run: Run, folder: Path) -> None:
    """Fold the logs of a pilot, which has its folder here, into a run."""
    partitions = partition_folders(folder)
    if not partitions:
        AgentFold(run, folder).read()
        return
    _HeadFold(run, folder).read()
    leases: dict[int, Binding] = {}
    for each in partitions:
        _PartitionFold(run, folder, each, leases).read()


class _HeadFold(AgentFold):
    """What the head knows: when tasks came, those that it ended itself, and the pilot's end."""

    def read(self) -> None:
        pilot = self._pilot
        if not pilot.nodes:
            pilot.nodes = self._nodes()
        state, records = read_log(self._folder / PILOT_LOG, MetaschedulerState, head_facts, self._run.remarks)
        if state is not None:
            self._templates.learn(state.templates)
            for task in state.tasks.values():
                self._accept_here([task.row], task.binding, task.accepted)
            if state.ending is not None:
                self._note_ending(state.ending.since, state.ending.state, state.ending.reason)
        for record in records:
            for fact in record:
                if isinstance(fact, facts.TasksAccepted):
                    self._templates.learn(fact.batch.templates)
                    self._accept_here(fact.batch.rows, fact.binding, fact.time)
                elif isinstance(fact, (facts.Ended, facts.PilotEnding, facts.PilotEnded)):
                    self._apply(fact)
                if not isinstance(fact, facts.UNTIMED):
                    pilot.first = pilot.first or fact.time
                    pilot.last = max(pilot.last, fact.time)

    def _accept_here(self, rows: list[Row], binding: Binding, time: float) -> None:
        for row, i in zip(rows, self._templates.indices(rows), strict=True):
            self._rows[row.uid] = i
            if not self._is_elsewhere(i, binding):
                self._take(i, binding, time)


class _PartitionFold(AgentFold):
    """What a partition's agent knows. ``leases``: the last one of each task that any partition had."""

    def __init__(self, run: Run, pilot_folder: Path, folder: Path, leases: dict[int, Binding]) -> None:
        super().__init__(run, pilot_folder)
        self._folder = folder
        self._leases = leases

    def _apply(self, fact: agent.Fact) -> None:
        if not isinstance(fact, (agent.PilotEnding, agent.PilotEnded)):
            super()._apply(fact)

    def _runner(self, runner: RunnerId) -> RunnerId:
        return RunnerId(f"{self._folder.name}/{runner}")

    def _is_elsewhere(self, i: int, binding: Binding) -> bool:
        return self._tasks.pilot[i] not in ("", self._pilot.uid) or self._leases.get(i, 0) > binding

    def _take(self, i: int, binding: Binding, time: float) -> None:
        self._leases[i] = binding
        if self._tasks.pilot[i] != self._pilot.uid:
            self._tasks.pilot[i] = self._pilot.uid
        self._tasks.accepted[i] = self._tasks.accepted[i] or time
