"""Where tasks ran, as the logs of their pilots tell: read when somebody asks, and kept.

The client itself is never told: a placement is larger than all else that is said of a short task.
"""

from __future__ import annotations

from pathlib import Path

from pilotage.core.agent import facts as agent
from pilotage.core.agent.state import AgentState
from pilotage.model.ids import Attempt, LaneId, TaskUid
from pilotage.model.resources import Placement
from pilotage.trace.records import agent_facts, agent_logs, read_log


class Placements:
    """The placements in one pilot's log, or in those of its partitions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[TaskUid, tuple[Attempt, Placement]] = {}

    def of(self, uid: TaskUid, attempt: Attempt) -> Placement | None:
        """Return where this attempt (0: the last one) is or was; None if the log does not tell, or not any more."""
        found = self._known.get(uid)
        if found is None or (attempt and found[0] != attempt):
            self._read()
            found = self._known.get(uid)
        return None if found is None or (attempt and found[0] != attempt) else found[1]

    def _read(self) -> None:
        for log in agent_logs(self._folder):
            self._read_log(log)

    def _note(self, uid: TaskUid, attempt: Attempt, placement: Placement) -> None:
        # Of several partitions that had the task the last one made the last attempt.
        if uid not in self._known or attempt >= self._known[uid][0]:
            self._known[uid] = attempt, placement

    def _read_log(self, folder: Path) -> None:
        lanes: dict[LaneId, Placement] = {}
        state, records = read_log(folder, AgentState, agent_facts, [])
        if state is not None:
            for number, lane in state.lanes.items():
                lanes[number] = lane.placement
                for uid in lane.tasks:
                    self._note(uid, Attempt(state.tasks[uid].attempt), lane.placement)
        for record in records:
            for fact in record:
                if not isinstance(fact, agent.LaunchRequested):
                    continue
                for launch in fact.lanes:
                    if launch.placement is not None:
                        lanes[launch.lane] = launch.placement
                    placement = lanes.get(launch.lane)
                    if placement is not None:
                        for uid, attempt in launch.tasks:
                            self._note(uid, attempt, placement)
