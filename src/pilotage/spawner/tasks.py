"""Running tasks: what is held, in lanes; each task's tree of processes from its first root to its end.

A lane's next task starts in the same turn in which the one before it is found to be completely over.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable
from functools import partial

import msgspec

from pilotage.model.environments import EnvironmentDifference
from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import LaneId, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.ranks import RankSlot, rank_slots
from pilotage.model.workload import Template
from pilotage.outputs.files import tail
from pilotage.spawner.calls import CallEnd, collect
from pilotage.spawner.choosing import choose
from pilotage.spawner.doubts import Doubts
from pilotage.spawner.environment import Environment
from pilotage.spawner.examination import Examiner
from pilotage.spawner.failures import LaunchFailed, StorageExhausted, undefined_environment
from pilotage.spawner.forest import Exit, Forest
from pilotage.spawner.lanes import Lane, Stage, TaskTree
from pilotage.spawner.launching import Launcher
from pilotage.spawner.memory import MemoryKills
from pilotage.spawner.notes import Notes
from pilotage.spawner.outbox import Outbox
from pilotage.spawner.outputs import Outputs
from pilotage.spawner.rank_watch import RankWatch
from pilotage.spawner.recipes import Recipe, find_shells
from pilotage.spawner.relaunches import Relaunches
from pilotage.spawner.steps import Steps
from pilotage.spawner.termination import Termination
from pilotage.spawner.timers import Timers
from pilotage.spawner.verdicts import Verdict
from pilotage.wire.runner_messages import ENDED_WITH_PILOT, StorageFull
from pilotage.wire.runner_settings import RunnerSettings

_STARTS_PER_TURN = 16
_LAUNCH_TRIES = 6
_FIRST_PAUSE_S = 0.02
_DETAIL_BYTES = 2048
_CODE_LIMIT = 128
"""Above it an exit code is of a signal, which a launcher may have got itself."""

_DRAINED_LANES = 8192
"""Lanes without a task whose placement is still known: the agent may have sent more before it learned that one is empty."""


class Tasks:
    """All tasks of a spawner. Times are of ``time.monotonic``."""

    def __init__(
        self,
        settings: RunnerSettings,
        timers: Timers,
        notes: Notes,
        outputs: Outputs,
        steps: Steps,
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
        self._doubts = Doubts(timers, self._tell, in_job=bool(settings.allocation_environment))
        self._memory_kills = memory_kills
        self._ground = f"{settings.pilot_folder}/"
        self._shells = find_shells(settings.environment.get("PATH", os.defpath))
        self._notes = notes
        self._examiner = Examiner(notes)
        self._rank_watch = RankWatch(forest, timers, self._examiner, self._refuse, self._fail)
        self._outputs = outputs
        self._steps = steps
        self._relaunches = Relaunches(forest, timers, steps, outputs, self._clear_launch, self._grow_again)
        self._templates: dict[TemplateId, Template] = {}
        self._environments: dict[str, EnvironmentDifference] = {}
        self._recipes: dict[TemplateId, Recipe] = {}
        self._far_recipes: dict[TemplateId, Recipe] = {}
        """The same for ranks on other nodes."""
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
        self._templates.update(templates)

    def define_environment(self, name: str, difference: EnvironmentDifference) -> None:
        """Learn a named environment that later tasks run in."""
        if self._environments.get(name) == difference:
            return
        self._environments[name] = difference
        for number, template in self._templates.items():
            if template.named_env == name:
                self._recipes.pop(number, None)
                self._far_recipes.pop(number, None)

    def take_in(self, lane_tasks: LaneTasks, now: float) -> None:
        """Take tasks in, or return them at once if they cannot be begun here."""
        number, placement = lane_tasks.lane, lane_tasks.placement
        lane = self._lanes.get(number) or self._drained.pop(number, None)
        if placement is not None and (lane is None or lane.placement != placement):
            far = not all(self._settings.is_here(share.node) for share in placement)
            lane = Lane(number, placement, far=far)
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
        try:
            recipes = self._far_recipes if lane.far else self._recipes
            recipe = recipes.get(row.template) or self._recipe(row.template, lane)
        except LaunchFailed as failure:
            end = AttemptEnd(row.uid, attempt, Ending.LAUNCH_FAILED, message=str(failure), ended=time.time())
            self._tell(end, now)
            self._free(lane)
            return
        tree = TaskTree(lane, attempt, row, recipe)
        lane.running = tree
        execution = (row.uid, attempt)
        self._executions[execution] = self._begun[execution] = tree
        tree.growing = True
        self._grow(tree, now)

    def _recipe(self, number: TemplateId, lane: Lane) -> Recipe:
        template = self._templates.get(number)
        if template is None:
            raise LaunchFailed(f"template {number} was not defined for this spawner")
        named = None
        if template.named_env:
            named = self._environments.get(template.named_env)
            if named is None:
                raise undefined_environment(template.named_env)
        chosen = choose(template, self._settings, [share.node for share in lane.placement])
        recipe = Recipe(template, self._settings, self._shells, named, chosen, far=lane.far)
        (self._far_recipes if lane.far else self._recipes)[number] = recipe
        return recipe

    def _grow(self, tree: TaskTree, now: float) -> None:
        """Spawn what is missing of the present stage."""
        lane, recipe = tree.lane, tree.recipe
        prepared = lane.prepared.get(recipe)
        if prepared is None:
            slots = rank_slots(lane.placement, recipe.template.request)
            prepared = lane.prepared[recipe] = (slots, self._launcher.rank_environment(recipe, slots[0], 0))
        try:
            if recipe.has_hooks and not tree.note:
                far = self._launcher.folder_of(tree) if recipe.far else ""
                tree.note = self._notes.name(tree.execution, recipe.barrier, far)
            self._spawn(tree, *prepared, now)
        except LaunchFailed as failure:
            self._launch_failed(tree, failure, now)

    def _spawn(self, tree: TaskTree, slots: list[RankSlot], first_environment: Environment, now: float) -> None:
        recipe, launcher = tree.recipe, self._launcher
        if tree.stage is not Stage.RANKS:
            before = tree.stage is Stage.BEFORE
            script = recipe.before_script if before else recipe.after_script
            assert script is not None
            begin = time.time()
            self._add(tree, launcher.spawn_script(tree, script, slots), begin, now)
            tree.growing = before
        elif recipe.chosen is not None:
            begin = time.time()
            self._add(tree, launcher.spawn_launcher(tree, slots), begin, now, rank=True)
            tree.growing = False
            self._rank_watch.begin(tree, now)
        else:
            for rank in range(len(tree.ranks), len(slots)):
                slot = slots[rank]
                environment = first_environment if rank == 0 else launcher.rank_environment(recipe, slot, rank)
                begin = time.time()
                self._add(tree, launcher.spawn_rank(tree, slot, environment), begin, now, rank=True)
            tree.growing = recipe.after_script is not None

    def _add(self, tree: TaskTree, pid: int, begin: float, now: float, *, rank: bool = False) -> None:
        self._forest.add(tree, pid)
        if rank:
            tree.ranks.append(pid)
        if not tree.started:
            tree.started = begin
            self._outbox.add_start(tree.execution, pid, begin, now)

    def _grow_again(self, tree: TaskTree) -> None:
        if tree.growing:
            self._grow(tree, time.monotonic())

    def _launch_failed(self, tree: TaskTree, failure: LaunchFailed, now: float) -> None:
        if isinstance(failure, StorageExhausted) and not tree.started and failure.path.startswith(self._ground):
            # It could not begin, and neither can what waits behind it. (Where a user's own folder is full, others may.)
            self._outbox.add_warning(StorageFull(str(failure)), now)
            waiting = [execution for execution, held in self._executions.items() if isinstance(held, Lane)]
            self.give_back([tree.execution, *waiting], now)
            return
        tree.tries += 1
        if failure.transient and tree.tries < _LAUNCH_TRIES:
            self._timers.at(now + _FIRST_PAUSE_S * 2**tree.tries, partial(self._grow_again, tree))
            return
        if tree.ending is None and not tree.exit_code:
            tree.ending, tree.message = Ending.LAUNCH_FAILED, str(failure)
        if tree.sessions:
            self._end_tree(tree, now)
        self._forest.settle(tree)

    # -- tasks end ----------------------------------------------------------------------------------------------------

    def note_exit(self, tree: TaskTree, exit_: Exit, now: float) -> None:
        """A process of a task that was begun here was reaped: one that failed takes the others with it."""
        if tree.recipe.simple:
            verdict = Verdict(exit_.exit_code, rank=tree.rank_of(exit_.pid))
        else:
            verdict = self._examiner.verdict(tree, exit_.pid, exit_.exit_code)
        if self._relaunches.note(tree, verdict):
            return
        tree.note_exit(verdict)
        if tree.step is not None and (tree.killed or not 0 <= exit_.exit_code <= _CODE_LIMIT):
            tree.unproven = True
        if verdict.exit_code or verdict.ending is not None:
            if (tree.roots or tree.growing) and not tree.terminated:
                self._end_tree(tree, now)
                self._forest.settle(tree)
        elif tree.growing and not tree.roots and self._stage_is_over(tree):
            tree.stage = Stage(tree.stage + 1)
            self._grow(tree, now)

    def _stage_is_over(self, tree: TaskTree) -> bool:
        return tree.stage is Stage.BEFORE or len(tree.ranks) == tree.recipe.template.request.ranks

    def look_at_ranks(self) -> None:
        """A rank that is another's child has said that it will not begin its program."""
        for tree in list(self._begun.values()):
            if tree.note and tree.roots and not tree.terminated and tree.recipe.chosen is not None:
                verdict = self._examiner.stuck(tree)
                if verdict is not None:
                    self._fail(tree, verdict)

    def leftovers(self, tree: TaskTree, now: float) -> None:
        """All roots of a task are gone, and it has left processes behind."""
        # What is ended already needs no word: its processes go one after another.
        if not tree.terminated:
            tree.left = True
            self._end_tree(tree, now)

    def gone(self, tree: TaskTree, now: float) -> None:
        """Nothing of a task is left, or nothing but hooks that are to run after it."""
        if self._relaunches.begin(tree):
            return
        if tree.wants_after:
            after = self._begun[tree.execution] = self._executions[tree.execution] = tree.lane.running = tree.follower()
            self._grow(after, now)
            return
        if tree.unproven and tree.step is not None:
            tree.unproven = False
            self._steps.end(tree.step, partial(self._step_is_over, tree))
            return
        code = tree.exit_code
        out_of_memory = code == -signal.SIGKILL and not tree.killed and self._memory_kills.credit()
        called = self._collect(tree)
        detail = self._end_output(tree)
        self._clear_notes(tree)
        self._launcher.clear(tree)
        if tree.step is not None:
            self._steps.forget(tree.step)
        self._memory_kills.refresh(now)
        del self._begun[tree.row.uid, tree.attempt]
        end = tree.end(time.time(), out_of_memory=out_of_memory, detail=detail)
        if called is not None and tree.ending is None:
            end = msgspec.structs.replace(
                end,
                ending=called.ending,
                exit_code=None,
                result=called.result,
                message=called.message or end.message,
                detail=called.detail,
            )
        self._doubts.over(end, now, is_wanted=tree.wanted)
        self._free(tree.lane)

    def _step_is_over(self, tree: TaskTree, known: bool) -> None:
        """The step of a task whose launcher is gone is over, or nobody could tell."""
        if not known:
            tree.message = f"{tree.message}; " if tree.message else ""
            tree.message += "its ranks may still run: the batch system did not tell of its steps"
        self.gone(tree, time.monotonic())

    def end(self, executions: Iterable[Execution], ending: Ending, message: str, now: float) -> None:
        """End these, to be reported so; return what has not begun."""
        waiting = []
        for name in executions:
            execution = (name[0], name[1])
            tree = self._executions.get(execution)
            if isinstance(tree, Lane) or (isinstance(tree, TaskTree) and not tree.started and tree.growing):
                waiting.append(execution)
            elif isinstance(tree, TaskTree):
                tree.wanted = False
                if (tree.roots or tree.growing) and tree.ending is None:
                    # A task whose processes are being ended for another reason keeps its exit code, not its ending.
                    tree.ending, tree.message = ending, message
                    if not tree.terminated:
                        self._end_tree(tree, now)
                    self._forest.settle(tree)
        self.give_back(waiting, now)

    def tell(self, executions: Iterable[Execution], number: int) -> None:
        """Send a signal, once, to those of these that have begun."""
        for name in executions:
            tree = self._begun.get((name[0], name[1]))
            if tree is not None and tree.told is None and tree.wanted and not tree.terminated and tree.roots:
                tree.told = signal.Signals(number)
                if tree.step is not None and self._steps.reaches(tree.step):
                    # A launcher without a step has no ranks yet, and would itself not survive every signal.
                    self._steps.signal(tree.step, tree.told, lambda: None)
                else:
                    self._forest.tell(tree, tree.told)

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
            elif isinstance(held, TaskTree) and held.growing and not held.started:
                # Its start failed for the time being and was to be tried again.
                held.growing = False
                held.lane.running = None
                self._clear_notes(held)
                self._launcher.clear(held)
                self._collect(held)
                if held.output is not None:
                    self._outputs.drop(held.output)
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

    def stop(self, grace_s: float, now: float, *, by_others: bool = False) -> None:
        """Return what has not begun, end all that runs, and take in nothing more; ``by_others``: than the agent want it."""
        self._stopping = True
        self.give_back(self.held(), now)
        running = [execution for execution, tree in self._begun.items() if tree.wanted]
        self._doubts.stop(running, now, by_others=by_others)
        for tree in self._begun.values():
            tree.wanted = False
            if tree.ending is None and (tree.roots or tree.growing):
                tree.ending, tree.message = Ending.CANCELLED, ENDED_WITH_PILOT
            self._termination.end(tree, grace_s, now, tree.step)
            self._forest.settle(tree)

    def _collect(self, tree: TaskTree) -> CallEnd | None:
        """Return how the call of a function ended by its own account, and remove its files."""
        if tree.call is None:
            return None
        return collect(tree.row, tree.recipe.template, tree.recipe.chosen, tree.attempt, self._settings, tree.exit_code or 0)

    def _end_output(self, tree: TaskTree) -> str:
        """Put what a task has printed in its place, and return what of it tells why it failed."""
        output = tree.output
        if output is None:
            return ""
        # What hooks print need not be an error to them.
        shown = output.paths()[0] if tree.hook_failed and len(set(output.names)) > 1 else ""
        detail = tail(shown, _DETAIL_BYTES).decode(errors="replace") if shown else ""
        return detail + self._outputs.end(output, _DETAIL_BYTES if tree.exit_code or tree.hook_failed else 0)

    def _clear_launch(self, tree: TaskTree) -> None:
        """Remove what a launch has left that has started nothing."""
        self._clear_notes(tree)
        self._launcher.clear(tree)
        tree.note = ""

    def _clear_notes(self, tree: TaskTree) -> None:
        if tree.note and not tree.recipe.far and not (tree.recipe.quiet and tree.exit_code == 0):
            self._notes.clear(tree.note, tree.recipe.template.request.ranks, tree.recipe.barrier)

    def _refuse(self, tree: TaskTree, message: str) -> None:
        """End a task whose launch has turned out to have failed."""
        if tree.ending is None:
            tree.ending, tree.message = Ending.LAUNCH_FAILED, message
        self._end_tree(tree, time.monotonic())

    def _fail(self, tree: TaskTree, verdict: Verdict) -> None:
        """End a task of which a rank has failed, while its launcher goes on."""
        tree.note_exit(verdict)
        self._end_tree(tree, time.monotonic())

    def _end_tree(self, tree: TaskTree, now: float) -> None:
        self._termination.end(tree, tree.recipe.template.grace_s, now, tree.step)

    def _tell(self, end: AttemptEnd, now: float) -> None:
        self._executions[end.task, end.attempt] = None
        self._outbox.add_end(end, now)

    def _free(self, lane: Lane) -> None:
        lane.running = None
        if lane.queue:
            self._ready.append(lane)
        else:
            self._drain(lane)
