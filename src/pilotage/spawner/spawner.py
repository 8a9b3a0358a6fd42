"""The spawner's loop, and what it does on each message of the agent.

One turn: wait for a signal, a message or a time; reap what is dead; follow messages; start what may start; tell. A lane's next
task starts in the same turn in which the one before it is found to be completely over. While the agent is away all goes on
and endings are held; when it stays away for longer than ``orphan_timeout_s`` the spawner ends its tasks and itself.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NoReturn

from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import Attempt, LaneId, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.ranks import rank_slots
from pilotage.model.workload import Template
from pilotage.spawner.environment import Environment
from pilotage.spawner.failures import LaunchFailed
from pilotage.spawner.forest import Exit, Forest, Tree
from pilotage.spawner.lanes import Lane, TaskTree, WorkerTree, signal_name
from pilotage.spawner.launching import Launcher, Recipe, tail
from pilotage.spawner.link import AgentLink
from pilotage.spawner.memory import MemoryKills, own_events_file
from pilotage.spawner.outbox import Outbox
from pilotage.spawner.timers import Timers
from pilotage.system.processes import boot_id, started_ticks
from pilotage.system.python import installation_path
from pilotage.wire.framing import Disconnected
from pilotage.wire.runner_messages import (
    DefineTemplates,
    EndTasks,
    EndWorker,
    Launch,
    RecallTasks,
    Release,
    RunnerHello,
    StartWorker,
    StopRunner,
    ToRunner,
    Welcome,
    WorkerExited,
)
from pilotage.wire.runner_settings import RunnerSettings

_STARTS_PER_TURN = 16
_LAUNCH_TRIES = 6
_FIRST_PAUSE_S = 0.02
_RECONNECT_FIRST_S = 0.05
_RECONNECT_LAST_S = 1.0
_STAY_S = 0.005
"""How long a spawner that has nothing to do stays on the cores of the task that it started last."""

_STOP_GRACE_S = 5.0
_GOODBYE_S = 5.0
_REMIND_FIRST_S = 0.02
_DETAIL_BYTES = 2048
_DRAINED_LANES = 8192
"""Lanes without a task whose placement is still known: the agent may have sent more before it learned that one is empty."""


class Spawner:
    """One spawner process. ``run`` returns when it was stopped, or left alone by the agent for too long."""

    def __init__(self, folder: Path, runner: RunnerId, settings: RunnerSettings) -> None:
        self._folder = folder
        self._runner = runner
        self._settings = settings
        self._launcher = Launcher(settings)
        self._forest = Forest(self._recognise)
        self._outbox = Outbox()
        self._link = AgentLink(folder)
        self._timers = Timers()
        self._memory_kills = MemoryKills(None)
        self._poll = select.epoll()
        self._wakeup = -1
        self._link_descriptor: int | None = None
        self._all_sent = True
        self._welcomed = False
        self._away_since: float | None = None
        self._reconnect_pause_s = _RECONNECT_FIRST_S
        self._recipes: dict[TemplateId, Recipe] = {}
        self._lanes: dict[LaneId, Lane] = {}
        self._drained: dict[LaneId, Lane] = {}
        self._ready: deque[Lane] = deque()
        self._executions: dict[Execution, Lane | TaskTree | None] = {}
        """All that is held: waiting (its lane), begun (its tree), or over but not released (None)."""
        self._waiting = 0
        self._begun: dict[Execution, TaskTree] = {}
        self._workers: dict[RunnerId, WorkerTree] = {}
        self._exited_workers: dict[RunnerId, WorkerExited] = {}
        self._stop_requested = False
        self._stopping = False

    def run(self) -> None:
        """Serve the agent until stopped."""
        self._open()
        while not (self._stopping and not self._begun and not self._workers):
            self._turn()
        self._forest.kill_unknown()
        self._say_goodbye()

    # -- the loop -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = read_end
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, lambda _number, _frame: self._request_stop())
        self._poll.register(read_end, select.EPOLLIN)
        self._launcher.open()
        self._forest.open()
        self._memory_kills = MemoryKills(own_events_file())
        self._agent_lost(time.monotonic())

    def _request_stop(self) -> None:
        self._stop_requested = True

    def _turn(self) -> None:
        now = time.monotonic()
        timeout_s = self._idle_s(now)
        signalled = incoming = False
        for descriptor, event in self._wait(timeout_s):
            if descriptor == self._wakeup:
                os.read(self._wakeup, 65536)
                signalled = True
            elif event & ~select.EPOLLOUT:
                incoming = True
        now = time.monotonic()
        if signalled:
            for exit_ in self._forest.reap():
                self._note_exit(exit_, now)
            if self._stop_requested and not self._stopping:
                self._stop(_STOP_GRACE_S, now)
        self._timers.run(now)
        if incoming:
            self._follow_messages(now)
        self._collect_gone(now)
        self._start_ready(now)
        self._tell(now)

    def _wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """Wait for something to happen: short waits on the cores of the task started last, long ones on any core.

        Where short tasks follow one another on a core, moving to it and away for each of them costs more than the rest.
        """
        if self._launcher.has_cores and timeout_s != 0:
            patience_s = _STAY_S if timeout_s is None else min(timeout_s, _STAY_S)
            found = self._poll.poll(patience_s)
            if found or timeout_s == patience_s:
                return found
            self._launcher.release_cores()
            timeout_s = None if timeout_s is None else timeout_s - patience_s
        return self._poll.poll(timeout_s)

    def _idle_s(self, now: float) -> float | None:
        if self._ready:
            return 0
        times = [self._timers.next(), self._forest.next_look()]
        if self._welcomed:
            times.append(self._outbox.due(self._waiting > 0))
        known = [when for when in times if when is not None]
        return max(0.0, min(known) - now) if known else None

    def _tell(self, now: float) -> None:
        if not self._welcomed:
            return
        due = self._outbox.due(self._waiting > 0)
        frames = self._outbox.take() if due is not None and due <= now else []
        self._send(frames, now)

    def _send(self, frames: list[bytes], now: float) -> None:
        try:
            done = self._link.write(frames)
        except Disconnected:
            self._agent_lost(now)
            return
        if self._link_descriptor is not None and done != self._all_sent:
            self._all_sent = done
            self._poll.modify(self._link_descriptor, select.EPOLLIN if done else select.EPOLLIN | select.EPOLLOUT)

    # -- the agent ----------------------------------------------------------------------------------------------------

    def _agent_lost(self, now: float) -> None:
        if self._link_descriptor is not None:
            self._poll.unregister(self._link_descriptor)
            self._link.close()
            self._link_descriptor = None
        self._welcomed = False
        if self._away_since is None:
            self._away_since = now
            self._reconnect_pause_s = _RECONNECT_FIRST_S
            self._timers.at(now + self._settings.orphan_timeout_s, partial(self._give_up, now))
            self._timers.at(now, self._connect)
        else:
            self._timers.at(now + self._reconnect_pause_s, self._connect)

    def _connect(self) -> None:
        if self._link_descriptor is not None:
            return
        now = time.monotonic()
        descriptor = self._link.connect()
        if descriptor is None:
            self._timers.at(now + self._reconnect_pause_s, self._connect)
            self._reconnect_pause_s = min(2 * self._reconnect_pause_s, _RECONNECT_LAST_S)
            return
        self._link_descriptor = descriptor
        self._all_sent = True
        self._poll.register(descriptor, select.EPOLLIN)
        # What ended while no agent was there is told after the welcome; without a number it would seem not to have begun.
        self._outbox.number_ends()
        holds = [execution for execution, state in self._executions.items() if state is not None]
        hello = RunnerHello(self._runner, os.getpid(), started_ticks(os.getpid()) or 0, boot_id(), holds, self._outbox.sent)
        self._send([self._outbox.encode(hello)], now)

    def _give_up(self, since: float) -> None:
        if self._away_since == since and not self._stopping:
            sys.stderr.write(f"no agent for {self._settings.orphan_timeout_s:g} s: ending all tasks\n")
            self._stop(_STOP_GRACE_S, time.monotonic())

    def _welcome(self, message: Welcome, now: float) -> None:
        self._welcomed = True
        self._away_since = None
        self._release(message.released)
        # What was told to an agent that died may never have been read; endings are numbered, the others can be repeated.
        for execution, tree in self._begun.items():
            if tree.roots:
                self._outbox.add_start(execution, tree.sessions[0], tree.started, now)
        for exited in self._exited_workers.values():
            self._outbox.add(exited, now)
        self._send(self._outbox.unreleased(), now)

    def _release(self, through: int) -> None:
        for execution in self._outbox.release(through):
            self._executions.pop(execution, None)

    def _follow_messages(self, now: float) -> None:
        try:
            messages = self._link.read()
        except Disconnected:
            self._agent_lost(now)
            return
        for message in messages:
            self._follow(message, now)

    def _follow(self, message: ToRunner, now: float) -> None:
        match message:
            case Launch(lanes):
                for lane_tasks in lanes:
                    self._take_in(lane_tasks, now)
            case Release(through):
                self._release(through)
            case DefineTemplates(templates):
                self._define(templates)
            case EndTasks(executions, ending, text):
                self._end_tasks(executions, ending, text, now)
            case RecallTasks(executions):
                self._return_waiting(executions, now)
            case StartWorker(worker, environment):
                self._start_worker(worker, environment, now)
            case EndWorker(worker):
                if (tree := self._workers.get(worker)) is not None:
                    self._forest.send(tree, signal.SIGKILL)
            case StopRunner(grace_s):
                self._stop(grace_s, now)
            case Welcome():
                self._welcome(message, now)
            case _:
                _unreachable(message)

    # -- tasks begin --------------------------------------------------------------------------------------------------

    def _define(self, templates: dict[TemplateId, Template]) -> None:
        for number, template in templates.items():
            if number not in self._recipes:
                self._recipes[number] = Recipe(template, self._settings)

    def _take_in(self, lane_tasks: LaneTasks, now: float) -> None:
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

    def _drain(self, lane: Lane) -> None:
        if self._lanes.get(lane.number) is lane:
            del self._lanes[lane.number]
            self._drained[lane.number] = lane
            if len(self._drained) > _DRAINED_LANES:
                del self._drained[next(iter(self._drained))]

    def _start_ready(self, now: float) -> None:
        ready = self._ready
        for _ in range(min(_STARTS_PER_TURN, len(ready))):
            lane = ready.popleft()
            if lane.running is None and lane.queue:
                self._begin(lane, now)

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
            self._end_tree(tree, tree.recipe.template.grace_s, now)
        self._forest.settle(tree)

    # -- tasks end ----------------------------------------------------------------------------------------------------

    def _note_exit(self, exit_: Exit, now: float) -> None:
        tree = exit_.tree
        if isinstance(tree, TaskTree):
            tree.note_exit(exit_.pid, exit_.exit_code)
            if exit_.exit_code and (tree.roots or tree.growing) and not tree.terminated:
                self._end_tree(tree, tree.recipe.template.grace_s, now)
                self._forest.settle(tree)
        elif isinstance(tree, WorkerTree):
            tree.status = exit_.exit_code

    def _collect_gone(self, now: float) -> None:
        gone, left = self._forest.take_gone(now)
        for tree in gone:
            if isinstance(tree, TaskTree):
                self._task_gone(tree, now)
            elif isinstance(tree, WorkerTree):
                self._worker_gone(tree, now)
        for tree in left:
            if isinstance(tree, TaskTree):
                tree.left = True
                if not tree.terminated:
                    self._end_tree(tree, tree.recipe.template.grace_s, now)
            else:
                self._forest.send(tree, signal.SIGKILL)

    def _task_gone(self, tree: TaskTree, now: float) -> None:
        code = tree.exit_code
        detail, out_of_memory = "", False
        if code:
            if code == -signal.SIGKILL and not tree.killed:
                out_of_memory = self._memory_kills.credit()
            detail = tail(self._launcher.output_paths(tree.row, tree.recipe)[1], _DETAIL_BYTES)
        self._memory_kills.refresh(now)
        del self._begun[tree.row.uid, tree.attempt]
        self._over(tree.lane, tree.end(time.time(), out_of_memory=out_of_memory, detail=detail), now)

    def _over(self, lane: Lane, end: AttemptEnd, now: float) -> None:
        self._executions[end.task, end.attempt] = None
        self._outbox.add_end(end, now)
        lane.running = None
        if lane.queue:
            self._ready.append(lane)
        else:
            self._drain(lane)

    def _end_tasks(self, executions: Iterable[Execution], ending: Ending, message: str, now: float) -> None:
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
                    self._end_tree(tree, tree.recipe.template.grace_s, now)
                self._forest.settle(tree)
        self._return_waiting(waiting, now)

    def _end_tree(self, tree: Tree, grace_s: float, now: float) -> None:
        self._forest.send(tree, signal.SIGTERM)
        self._timers.at(now + grace_s, partial(self._forest.send, tree, signal.SIGKILL))
        self._timers.at(now + _REMIND_FIRST_S, partial(self._remind, tree, _REMIND_FIRST_S))

    def _remind(self, tree: Tree, pause_s: float) -> None:
        """Repeat TERM for what a tree left behind: one that comes between fork and exec is lost. A root gets it only once."""
        if tree.killed or not (tree.roots or tree.strays):
            return
        if not tree.roots:
            self._forest.send(tree, signal.SIGTERM)
        self._timers.at(time.monotonic() + 2 * pause_s, partial(self._remind, tree, 2 * pause_s))

    def _return_waiting(self, executions: Iterable[Execution], now: float) -> None:
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

    # -- workers, and the end -----------------------------------------------------------------------------------------

    def _start_worker(self, worker: RunnerId, environment: dict[str, str], now: float) -> None:
        if worker in self._workers or self._stopping:
            return
        path = list(dict.fromkeys([*self._settings.python_path, *installation_path()]))
        program = f"import sys; sys.path[:] = {path!r}; from pilotage.workers.main import main; main()"
        variables = {
            **environment,
            "PILOTAGE_SESSION_ID": self._settings.session,
            "PILOTAGE_PILOT_ID": self._settings.pilot,
            "PILOTAGE_WORKER_ID": worker,
        }
        self._exited_workers.pop(worker, None)
        try:
            pid = self._launcher.spawn_program(
                [sys.executable, "-c", program, str(self._folder), worker],
                variables,
                os.path.join(self._settings.pilot_folder, worker),
            )
        except LaunchFailed as failure:
            self._tell_exited(WorkerExited(worker, 0, 127, str(failure)), now)
            return
        tree = WorkerTree(worker, pid)
        self._workers[worker] = tree
        self._forest.add(tree, pid)

    def _worker_gone(self, tree: WorkerTree, now: float) -> None:
        del self._workers[tree.worker]
        if tree.status >= 0:
            message = f"exited with code {tree.status}"
        elif tree.status == -signal.SIGKILL and not tree.killed and self._memory_kills.credit():
            message = "killed by the kernel for memory"
        else:
            message = f"ended by signal {signal_name(-tree.status)}"
        self._tell_exited(WorkerExited(tree.worker, tree.pid, tree.status, message), now)

    def _tell_exited(self, exited: WorkerExited, now: float) -> None:
        self._exited_workers[exited.worker] = exited
        self._outbox.add(exited, now)

    def _stop(self, grace_s: float, now: float) -> None:
        """Begin the end: nothing more is started, all that runs is ended."""
        self._stopping = True
        self._return_waiting([execution for execution, held in self._executions.items() if held is not None], now)
        for tree in self._begun.values():
            if tree.ending is None and (tree.roots or tree.growing):
                tree.ending, tree.message = Ending.CANCELLED, "ended with its pilot"
            self._end_tree(tree, grace_s, now)
            self._forest.settle(tree)
        for worker in self._workers.values():
            self._end_tree(worker, grace_s, now)

    def _say_goodbye(self) -> None:
        """Send what is left, if the agent is there and reads it."""
        deadline = time.monotonic() + _GOODBYE_S
        if self._welcomed:
            self._send(self._outbox.take(), time.monotonic())
        while self._welcomed and not self._all_sent and time.monotonic() < deadline:
            self._poll.poll(deadline - time.monotonic())
            self._send([], time.monotonic())

    def _recognise(self, environment: Environment) -> Tree | None:
        """Find the tree to which a process with this environment belongs."""
        session, pilot = environment.get(b"PILOTAGE_SESSION_ID"), environment.get(b"PILOTAGE_PILOT_ID")
        if session != self._settings.session.encode() or pilot != self._settings.pilot.encode():
            return None
        if (worker := environment.get(b"PILOTAGE_WORKER_ID")) is not None:
            return self._workers.get(RunnerId(worker.decode(errors="replace")))
        task, attempt = environment.get(b"PILOTAGE_TASK_ID", b""), environment.get(b"PILOTAGE_ATTEMPT", b"")
        if not attempt.isdigit():
            return None
        return self._begun.get((TaskUid(task.decode(errors="replace")), Attempt(int(attempt))))


def _unreachable(message: NoReturn) -> NoReturn:
    """Have the type checker see that no message is forgotten (``assert_never`` is of Python 3.11)."""
    raise AssertionError(f"a message that nothing follows: {message!r}")
