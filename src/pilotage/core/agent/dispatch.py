"""Lanes: opened for tasks that wait as far as resources reach, refilled while tasks are short, closed when they stay empty.

The policy chooses what is placed next and where, the pool chooses the runner, a ``Pace`` says how many tasks are handed over
ahead of time. What all three know is derived from the state. Whatever a step does to lanes and queues is noted here; at its
end ``place`` makes the best of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterable, Iterator
from typing import cast

from pilotage.core.agent import actions, facts
from pilotage.core.agent.hosts import lies_on
from pilotage.core.agent.journal import Journal
from pilotage.core.agent.lanes import HORIZON_S, SPAWNED, Pace
from pilotage.core.agent.needs import told
from pilotage.core.agent.runners import RunnerPool
from pilotage.core.agent.state import LaneRecord
from pilotage.core.agent.waiting import Waiting
from pilotage.core.scheduling.policy import SERVICE, GroupKey, Policy
from pilotage.model.execution import Execution, LaneTasks
from pilotage.model.ids import Attempt, LaneId, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.resources import Placement
from pilotage.model.workload import Row

OPENED_AT_ONCE = 1024
"""Lanes opened in one step, but for the rest of a gang; more are opened in the next, so that messages are read in between."""

PACES_KEPT = 4096
"""Groups without lanes whose pace is remembered."""

_FIRST = Attempt(1)


class Dispatch:
    """Hands waiting tasks to runners."""

    def __init__(self, journal: Journal, policy: Policy, waiting: Waiting, pool: RunnerPool) -> None:
        self._journal = journal
        self._state = journal.state
        self._policy = policy
        self._group = waiting.group
        self._pool = pool
        self._paces: dict[GroupKey, Pace] = {}
        self._pace_of: dict[TemplateId, Pace] = {}
        """The same by template, as far as they were asked for."""
        self._recalled: set[LaneId] = set()
        """Lanes of which tasks were asked back."""
        self._hungry: dict[LaneId, object] = {}
        """Lanes that lost tasks since they were last looked at."""
        self._in_hand: list[actions.LaunchTasks] = []
        self.more_to_place = False
        """Whether the last look at the queue ended for its own limit."""
        self.paused = ""
        """Why nothing is placed for now."""
        self.closed = ""
        """Why nothing is placed any more."""

    def recover(self, now: float) -> None:
        """Take over what the state says of lanes, and of tasks that were in some."""
        self._policy.remember(self._state.places)
        for lane_id, lane in self._state.lanes.items():
            group = self._group(lane.template)
            self._policy.occupy(lane.placement, group.request, lane.tasks, service=group.lane_kind == SERVICE)
            self._pace(group).lanes += 1
            if not lane.tasks:
                self._hungry[lane_id] = None
        self._pool.rebuild(self._state, now)

    # ---------------------------------------------------------------------------------------------------------------- lanes

    def _pace(self, group: GroupKey) -> Pace:
        pace = self._paces.get(group)
        if pace is None:
            pace = self._paces[group] = Pace(group)
        return pace

    def _pace_for(self, template: TemplateId) -> Pace:
        pace = self._pace_of[template] = self._pace(self._group(template))
        return pace

    def note_spent(self, spent: dict[LaneId, tuple[float, int]]) -> None:
        """These lanes lost tasks: how many seconds they lasted together, and how many they were."""
        lanes, pace_of = self._state.lanes, self._pace_of
        for lane_id, (total_s, count) in spent.items():
            template = lanes[lane_id].template
            (pace_of.get(template) or self._pace_for(template)).note(total_s, count)
        self._hungry.update(spent)

    def note_hungry(self, lanes: Iterable[LaneId]) -> None:
        """These lanes lost tasks that did not run, or their runner."""
        self._hungry.update(dict.fromkeys(lanes))

    def recall_behind(self, uids: Iterable[TaskUid]) -> None:
        """Take back the tasks that wait in a lane behind one of these, which are long; others may run them sooner."""
        tasks = self._state.tasks
        for uid in uids:
            lane_id = tasks[uid].lane
            lane = self._state.lanes[lane_id]
            behind = [(other, tasks[other].attempt) for other in lane.tasks if other != uid]
            if behind:
                self._pace(self._group(lane.template)).note(HORIZON_S, 1)
                self._recalled.add(lane_id)
                self._journal.act(actions.RecallTasks(lane.runner, behind))

    def recall(self, uids: Iterable[TaskUid]) -> None:
        """Take these back from their lanes unless they have begun."""
        tasks = self._state.tasks
        by_runner: dict[RunnerId, list[Execution]] = {}
        for uid in uids:
            lane_id = tasks[uid].lane
            self._recalled.add(lane_id)
            by_runner.setdefault(self._state.lanes[lane_id].runner, []).append((uid, tasks[uid].attempt))
        for runner, executions in by_runner.items():
            self._journal.act(actions.RecallTasks(runner, executions))

    def end_on(self, nodes: Container[int], message: str) -> None:
        """End what was handed over of lanes on these nodes, which are lost; what has not begun comes back."""
        tasks, lanes = self._state.tasks, self._state.lanes
        by_runner: dict[RunnerId, list[Execution]] = {}
        # Most are on one node, and there may be very many.
        near = [lane_id for lane_id, lane in lanes.items() if len(on := lane.placement) > 1 or on[0].node in nodes]
        for lane_id in near:
            lane = lanes[lane_id]
            if lane.tasks and lies_on(lane.placement, nodes):
                self._recalled.add(lane_id)
                by_runner.setdefault(lane.runner, []).extend([(uid, tasks[uid].attempt) for uid in lane.tasks])
        for runner, executions in by_runner.items():
            self._journal.act(actions.EndExecutions(runner, executions, Ending.NODE_FAILED, message))

    def note_recalled(self, lane: LaneId) -> None:
        """Tasks of this lane are asked back."""
        self._recalled.add(lane)

    def was_recalled(self, lane: LaneId) -> bool:
        """Tell whether tasks of the lane were asked back."""
        return lane in self._recalled

    def not_handed_over(self, runner: RunnerId) -> dict[Execution, None]:
        """Return, in order, what is about to be handed to the runner: what was heard of it just now is older."""
        return {
            (row.uid, attempt): None
            for launch in self._in_hand
            if launch.runner == runner
            for lane in launch.lanes
            for attempt, row in lane.tasks
        }

    def performed(self) -> None:
        """All that was launched has been handed over."""
        self._in_hand.clear()

    # ------------------------------------------------------------------------------------------------------------ placement

    def place(self, now: float) -> bool:
        """Refill lanes that run low, close those that stay empty, open new ones; return whether anything was launched."""
        launches: list[facts.LaneLaunch] = []
        if self._pool.changed:
            down, up = self._pool.take_changes()
            self._policy.suspend_nodes(down)
            self._policy.resume_nodes(up)
        if self._hungry:
            launches += self._refill(now)
        self.more_to_place = False
        ending = self._state.ending
        halted = self.paused or self.closed or (ending and not ending.drain)
        if self._policy.waiting() and self._pool.ready and not halted:
            launches += self._open(now)
        if launches:
            self._launch(now, launches)
        return bool(launches)

    def stranded(self) -> list[tuple[list[TaskUid], str]]:
        """Return what can never be placed, as the node of its tag is too small, or lost; only when at most services run.

        Who is to run beside a task that is here may be placed in the end, as that one may come to wait for resources yet.
        """
        if not self._policy.waiting() or not self._pool.ready or self.closed:
            return []
        if any(self._group(lane.template).lane_kind != SERVICE for lane in self._state.lanes.values()):
            return []
        return [(uids, reason) for uids, reason in self._policy.stranded() if not self._awaits(uids[0])]

    def _awaits(self, uid: TaskUid) -> bool:
        """Tell whether the task is to run beside another that is here, unless in the end that leads back to itself."""
        tasks, passed = self._state.tasks, {uid}
        beside = first = TaskUid(self._group(tasks[uid].row.template).request.beside)
        while beside in tasks and beside not in passed:
            passed.add(beside)
            beside = TaskUid(self._group(tasks[beside].row.template).request.beside)
        return first in tasks and beside not in passed

    def unplaceable(self) -> list[tuple[list[TaskUid], str]]:
        """Return what can never be placed, as nodes were lost just now."""
        return [(uids, reason) for uids, reason in self._policy.stranded() if not self._awaits(uids[0])]

    def too_late(self, now: float) -> list[tuple[list[TaskUid], str]]:
        """Return, once, what waits for resources and would not end any more before the pilot does."""
        return self._policy.too_late(now) if not self.closed and now >= self._policy.too_late_from() else []

    @property
    def too_late_from(self) -> float | None:
        """From when on that may be so for something that waits."""
        due = self._policy.too_late_from()
        return due if due < math.inf and not self.closed else None

    @property
    def starved(self) -> bool:
        """Whether tasks wait for resources and nothing runs but services, so that nothing will be free by itself."""
        lanes, templates = self._state.lanes, self._state.templates
        if not lanes or not self._policy.waiting() or not self._pool.ready or self.paused or self.closed or self.more_to_place:
            return False
        if any(templates[lane.template].service is None for lane in lanes.values()):
            return False
        return not self._pool.awaits_hosts

    def _refill(self, now: float) -> list[facts.LaneLaunch]:
        lanes, runners, pace_of = self._state.lanes, self._state.runners, self._pace_of
        lost = self._state.lost_nodes
        launches = []
        empty: dict[LaneId, tuple[LaneRecord, Pace]] = {}
        for lane_id in self._hungry:
            lane = lanes.get(lane_id)
            if lane is None:
                continue
            held = len(lane.tasks)
            pace = pace_of.get(lane.template) or self._pace_for(lane.template)
            refills = pace.depth > 1 and lane.runner in runners and not (lost and lies_on(lane.placement, lost))
            drawn = self._draw(pace, held, lane.placement) if refills else None
            if drawn:
                launches.append(facts.LaneLaunch(lane_id, lane.runner, None, drawn))
            elif not held:
                empty[lane_id] = (lane, pace)
        self._hungry.clear()
        if empty:
            self._close(now, empty)
        return launches

    def _close(self, now: float, empty: dict[LaneId, tuple[LaneRecord, Pace]]) -> None:
        release, detach = self._policy.release, self._pool.detach
        for lane_id, (lane, pace) in empty.items():
            release(lane.placement, pace.group.request)
            pace.lanes -= 1
            if not pace.lanes and len(self._paces) > PACES_KEPT:
                del self._paces[pace.group]
                self._pace_of.clear()
            detach(lane.runner, lane_id, now)
        if self._recalled:
            self._recalled.difference_update(empty)
        self._journal.emit(facts.LanesClosed(now, list(empty)))

    def _draw(self, pace: Pace, held: int, placement: Placement) -> list[tuple[TaskUid, Attempt]]:
        """Take waiting tasks of the group for a lane that holds ``held``, leaving the other lanes of the group their share."""
        depth = pace.depth
        if depth < 2 or held > depth // 2 or self.paused or self.closed:
            return []
        waiting = self._policy.waiting_in(pace.group)
        wanted = min(depth - held, -(-waiting // (2 * pace.lanes or 1)))
        tasks = self._state.tasks
        drawn = self._policy.draw(pace.group, wanted, placement[0].node if placement else -1) if wanted else []
        return [(uid, Attempt(before + 1) if (before := tasks[uid].attempt) else _FIRST) for uid in drawn]

    def _open(self, now: float) -> list[facts.LaneLaunch]:
        assignments = self._policy.schedule(now, OPENED_AT_ONCE)
        self.more_to_place = len(assignments) >= OPENED_AT_ONCE
        launches = []
        deep: list[tuple[Pace, facts.LaneLaunch]] = []
        tasks, pool = self._state.tasks, self._pool
        pace: Pace | None = None
        spawned = False
        lane_ids = cast("Iterator[LaneId]", itertools.count(self._state.last_lane + 1))
        for lane_id, assignment in zip(lane_ids, assignments, strict=False):
            placement = assignment.placement
            if pace is None or pace.group is not assignment.group:
                pace = self._pace(assignment.group)
                spawned = pace.group.lane_kind in SPAWNED
            if spawned:
                runner = pool.give_to_spawner(lane_id, placement)
            else:
                runner, added = pool.worker(self._state, placement, now)
                if added is not None:
                    fact, action = added
                    self._journal.emit(fact)
                    self._journal.act(action)
                pool.attach(runner, lane_id)
            pace.lanes += 1
            first: list[tuple[TaskUid, Attempt]] = []
            for uid in assignment.tasks:
                before = tasks[uid].attempt
                first.append((uid, Attempt(before + 1) if before else _FIRST))
            launch = facts.LaneLaunch(lane_id, runner, placement, first)
            launches.append(launch)
            if pace.depth > 1:
                deep.append((pace, launch))
        for pace, launch in deep:
            launch.tasks.extend(self._draw(pace, len(launch.tasks), launch.placement or ()))
        return launches

    def _launch(self, now: float, launches: list[facts.LaneLaunch]) -> None:
        self._journal.emit(facts.LaunchRequested(now, launches))
        state = self._state
        tasks, lanes = state.tasks, state.lanes
        by_runner: dict[RunnerId, list[LaneTasks]] = {}
        runner: RunnerId | None = None
        handed: list[LaneTasks] = []
        for launch in launches:
            # With its placement each time: the runner may be another life of the process that had the lane's first tasks.
            placement = lanes[launch.lane].placement if launch.placement is None else launch.placement
            rows: list[tuple[Attempt, Row]] = []
            for uid, attempt in launch.tasks:
                row = tasks[uid].row
                rows.append((attempt, row if row.extra is None else told(state, row)))
            if launch.runner != runner:
                runner = launch.runner
                handed = by_runner.setdefault(runner, [])
            handed.append(LaneTasks(launch.lane, placement, rows))
        for runner, handed in by_runner.items():
            self._pool.burden(runner, sum([len(lane.tasks) for lane in handed]))
            action = actions.LaunchTasks(runner, handed)
            self._journal.act(action)
            self._in_hand.append(action)
