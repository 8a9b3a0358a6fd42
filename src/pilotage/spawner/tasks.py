"""Running tasks: what is held, in lanes; each task's tree of processes from its first root to its end.

A lane's next task starts in the same turn in which the one before it is found to be completely over.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import deque
from collections.abc import Iterable
from functools import partial

from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import LaneId, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.ranks import rank_slots
from pilotage.model.workload import Template
from pilotage.spawner.failures import LaunchFailed
from pilotage.spawner.forest import Exit, Forest
from pilotage.spawner.lanes import Lane, TaskTree
from pilotage.spawner.launching import Launcher, Recipe, tail
from pilotage.spawner.memory import MemoryKills
from pilotage.spawner.outbox import Outbox
from pilotage.spawner.termination import Termination
from pilotage.spawner.timers import Timers
from pilotage.wire.runner_settings import RunnerSettings

_STARTS_PER_TURN = 16
_LAUNCH_TRIES = 6
_FIRST_PAUSE_S = 0.02
_DETAIL_BYTES = 2048
_DRAINED_LANES = 8192
"""Lanes without a task whose placement is still known: the agent may have sent more before it learned that one is empty."""


class Tasks:
    """All tasks of a spawner. Times are of ``time.monotonic``."""

    def __init__(
        self,
        settings: RunnerSettings,
        timers: Timers,
        launcher: Launcher,
        forest: Forest,
        termination: Termination,
        outbox: Outbox,
        memory_kills: MemoryKills,
    ) -> None:
        self._settings = settings
        self._launcher = launcher
        self._forest = forest
        self._termination = termination
        self._outbox = outbox
        self._timers = timers
        self._memory_kills = memory_kills
        self._recipes: dict[TemplateId, Recipe] = {}
        self._lanes: dict[LaneId, Lane] = {}
        self._drained: dict[LaneId, Lane] = {}
        self._ready: deque[Lane] = deque()
        self._executions: dict[Execution, Lane | TaskTree | None] = {}
        """All that is held: waiting (its lane), begun (its tree), or over but not released (None)."""
        self._waiting = 0
        self._begun: dict[Execution, TaskTree] = {}
        self._stopping = False

    @property
    def busy(self) -> bool:
        """Whether tasks wait for their turn."""
        return self._waiting > 0

    @property
    def ready(self) -> bool:
        """Whether ``start`` has something to do."""
        return bool(self._ready)

    @property
    def running(self) -> bool:
        """Whether a task was begun that is not over."""
        return bool(self._begun)

    def held(self) -> list[Execution]:
        """Return what is held and not over."""
        return [execution for execution, state in self._executions.items() if state is not None]

    def begun(self, execution: Execution) -> TaskTree | None:
        """Return the tree of this execution if it was begun and is not over."""
        return self._begun.get(execution)

    def release(self, through: int) -> None:
        """Forget the endings up to this number."""
        for execution in self._outbox.release(through):
            self._executions.pop(execution, None)

    def tell_starts(self, now: float) -> None:
        """Tell all starts again: what was told to an agent that died may never have been read."""
        for execution, tree in self._begun.items():
            if tree.roots:
                self._outbox.add_start(execution, tree.sessions[0], tree.started, now)

    # -- tasks begin --------------------------------------------------------------------------------------------------

    def define(self, templates: dict[TemplateId, Template]) -> None:
        """Learn templates that later tasks follow."""
        for number, template in templates.items():
            if number not in self._recipes:
                self._recipes[number] = Recipe(template, self._settings)

    def take_in(self, lane_tasks: LaneTasks, now: float) -> None:
        """Take tasks in, or return them at once if they cannot be begun here."""
        number, placement = lane_tasks.lane, lane_tasks.placement
        lane = self._lanes.get(number) or self._drained.pop(number, None)
        if placement is not None and (lane is None or lane.placement != placement):
            lane = Lane(number, placement)
        if self._stopping or lane is None:
            if lane is None:
                sys.stderr.write(f"lane {number} came without its placement: its tasks are returned\n")
            self._outbox.add_returned([(row.uid, attempt) for attempt, row in lane_tasks.tasks], now)
            return
        self._lanes[number] = lane
        for attempt, row in lane_tasks.tasks:
            execution = (row.uid, attempt)
            if execution not in self._executions:
                self._executions[execution] = lane
                lane.queue.append((attempt, row))
                self._waiting += 1
        if lane.running is None:
            if lane.queue:
                self._ready.append(lane)
            else:
                self._drain(lane)

    def start(self, now: float) -> None:
        """Begin the next tasks of lanes that are free, some at a time."""
        ready = self._ready
        for _ in range(min(_STARTS_PER_TURN, len(ready))):
            lane = ready.popleft()
            if lane.running is None and lane.queue:
                self._begin(lane, now)

    def _drain(self, lane: Lane) -> None:
        if self._lanes.get(lane.number) is lane:
            del self._lanes[lane.number]
            self._drained[lane.number] = lane
            if len(self._drained) > _DRAINED_LANES:
                del self._drained[next(iter(self._drained))]

    def _begin(self, lane: Lane, now: float) -> None:
        attempt, row = lane.queue.popleft()
        self._waiting -= 1
        recipe = self._recipes.get(row.template)
        if recipe is None:
            message = f"template {row.template} was not defined for this spawner"
            self._over(lane, AttemptEnd(row.uid, attempt, Ending.LAUNCH_FAILED, message=message, ended=time.time()), now)
            return
        tree = TaskTree(lane, attempt, row, recipe)
        lane.running = tree
        execution = (row.uid, attempt)
        self._executions[execution] = self._begun[execution] = tree
        tree.growing = True
        self._grow(tree, now)

    def _grow(self, tree: TaskTree, now: float) -> None:
        """Spawn the ranks that are missing."""
        lane, recipe, row = tree.lane, tree.recipe, tree.row
        prepared = lane.prepared.get(row.template)
        if prepared is None:
            slots = rank_slots(lane.placement, recipe.template.request)
            prepared = (slots, self._launcher.rank_environment(recipe, slots[0], 0))
            lane.prepared[row.template] = prepared
        slots, first_environment = prepared
        for rank in range(len(tree.sessions), len(slots)):
            slot = slots[rank]
            environment = first_environment if rank == 0 else self._launcher.rank_environment(recipe, slot, rank)
            begin = time.time()
            try:
                pid = self._launcher.spawn(row, tree.attempt, recipe, slot, rank, environment)
            except LaunchFailed as failure:
                self._launch_failed(tree, failure, now)
                return
            self._forest.add(tree, pid)
            if rank == 0:
                tree.started = begin
                self._outbox.add_start((row.uid, tree.attempt), pid, begin, now)
        tree.growing = False

    def _grow_again(self, tree: TaskTree) -> None:
        if tree.growing:
            self._grow(tree, time.monotonic())

    def _launch_failed(self, tree: TaskTree, failure: LaunchFailed, now: float) -> None:
        tree.tries += 1
        if failure.transient and tree.tries < _LAUNCH_TRIES:
            self._timers.at(now + _FIRST_PAUSE_S * 2**tree.tries, partial(self._grow_again, tree))
            return
        tree.ending, tree.message = Ending.LAUNCH_FAILED, str(failure)
        if tree.sessions:
            self._end_tree(tree, now)
        self._forest.settle(tree)

    # -- tasks end ----------------------------------------------------------------------------------------------------

    def note_exit(self, tree: TaskTree, exit_: Exit, now: float) -> None:
        """A root of a task was reaped: a rank that failed takes the others with it."""
        tree.note_exit(exit_.pid, exit_.exit_code)
        if exit_.exit_code and (tree.roots or tree.growing) and not tree.terminated:
            self._end_tree(tree, now)
            self._forest.settle(tree)

    def leftovers(self, tree: TaskTree, now: float) -> None:
        """All roots of a task are gone, and it has left processes behind."""
        tree.left = True
        if not tree.terminated:
            self._end_tree(tree, now)

    def gone(self, tree: TaskTree, now: float) -> None:
        """Nothing of a task is left."""
        code = tree.exit_code
        detail, out_of_memory = "", False
        if code:
            if code == -signal.SIGKILL and not tree.killed:
                out_of_memory = self._memory_kills.credit()
            detail = tail(self._launcher.output_paths(tree.row, tree.recipe)[1], _DETAIL_BYTES)
        self._memory_kills.refresh(now)
        del self._begun[tree.row.uid, tree.attempt]
        self._over(tree.lane, tree.end(time.time(), out_of_memory=out_of_memory, detail=detail), now)

    def end(self, executions: Iterable[Execution], ending: Ending, message: str, now: float) -> None:
        """End these, to be reported so; return what has not begun."""
        waiting = []
        for name in executions:
            execution = (name[0], name[1])
            tree = self._executions.get(execution)
            if isinstance(tree, Lane) or (isinstance(tree, TaskTree) and not tree.sessions and tree.growing):
                waiting.append(execution)
            elif isinstance(tree, TaskTree) and (tree.roots or tree.growing) and tree.ending is None:
                # A task whose processes are being ended for another reason keeps its exit code, not its ending.
                tree.ending, tree.message = ending, message
                if not tree.terminated:
                    self._end_tree(tree, now)
                self._forest.settle(tree)
        self.give_back(waiting, now)

    def give_back(self, executions: Iterable[Execution], now: float) -> None:
        """Return what of these has not begun."""
        returned: set[Execution] = set()
        lanes: dict[LaneId, Lane] = {}
        for name in executions:
            execution = (name[0], name[1])
            held = self._executions.get(execution)
            if isinstance(held, Lane):
                lanes[held.number] = held
                returned.add(execution)
            elif isinstance(held, TaskTree) and held.growing and not held.sessions:
                # Its start failed for the time being and was to be tried again.
                held.growing = False
                held.lane.running = None
                del self._begun[execution]
                lanes[held.lane.number] = held.lane
                self._ready.append(held.lane)
                returned.add(execution)
        for lane in lanes.values():
            kept = [entry for entry in lane.queue if (entry[1].uid, entry[0]) not in returned]
            self._waiting -= len(lane.queue) - len(kept)
            lane.queue = deque(kept)
            if lane.running is None and not lane.queue:
                self._drain(lane)
        for execution in returned:
            del self._executions[execution]
        self._outbox.add_returned(sorted(returned), now)

    def stop(self, grace_s: float, now: float) -> None:
        """Return what has not begun, end all that runs, and take in nothing more."""
        self._stopping = True
        self.give_back(self.held(), now)
        for tree in self._begun.values():
            if tree.ending is None and (tree.roots or tree.growing):
                tree.ending, tree.message = Ending.CANCELLED, "ended with its pilot"
            self._termination.end(tree, grace_s, now)
            self._forest.settle(tree)

    def _end_tree(self, tree: TaskTree, now: float) -> None:
        self._termination.end(tree, tree.recipe.template.grace_s, now)

    def _over(self, lane: Lane, end: AttemptEnd, now: float) -> None:
        self._executions[end.task, end.attempt] = None
        self._outbox.add_end(end, now)
        lane.running = None
        if lane.queue:
            self._ready.append(lane)
        else:
            self._drain(lane)
