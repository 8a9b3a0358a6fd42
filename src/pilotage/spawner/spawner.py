"""The spawner's loop.

One turn: wait for a signal, a message or a time; reap what is dead; follow messages; start what may start; tell. While the
agent is away all goes on and endings are held; when it stays away for too long the spawner ends its tasks and itself.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import NoReturn

from pilotage.model.environments import EnvironmentDifference
from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.outputs.aggregate import Aggregate
from pilotage.outputs.spares import Spares
from pilotage.spawner.conversation import Conversation
from pilotage.spawner.environment import Environment
from pilotage.spawner.forest import Forest, Tree
from pilotage.spawner.function_workers import FunctionWorkers
from pilotage.spawner.lanes import TaskTree, WorkerTree
from pilotage.spawner.launching import Launcher
from pilotage.spawner.memory import MemoryKills, own_events_file
from pilotage.spawner.notes import Notes
from pilotage.spawner.outbox import Outbox
from pilotage.spawner.outputs import Outputs
from pilotage.spawner.places import Place
from pilotage.spawner.steps import CommandTree, Steps, step_notes
from pilotage.spawner.tasks import Tasks
from pilotage.spawner.termination import Termination
from pilotage.spawner.timers import Timers
from pilotage.wire.runner_messages import (
    DefineEnvironment,
    DefineTemplates,
    EndTasks,
    EndWorker,
    Launch,
    RecallTasks,
    Release,
    SignalTasks,
    StartWorker,
    StopRunner,
    StorageFull,
    ToRunner,
    Welcome,
)
from pilotage.wire.runner_settings import RunnerSettings, launch_folder, pilot_is_over

_STAY_S = 0.005
"""How long a spawner that has nothing to do stays on the cores of the task that it started last."""

_STOP_GRACE_S = 5.0


class Spawner:
    """One spawner process. ``run`` returns when it was stopped, or left alone by the agent for too long."""

    def __init__(self, folder: Path, runner: RunnerId, settings: RunnerSettings) -> None:
        self._settings = settings
        self._poll = select.epoll()
        self._wakeup = -1
        self._outbox = Outbox()
        self._timers = Timers()
        self._place = Place(settings)
        name = settings.printing_name(runner)
        aggregate = Aggregate(settings.pilot_folder, name)
        spares = Spares(settings.pilot_folder, name, folder, runner)
        self._outputs = Outputs(aggregate, spares, self._timers, self._storage_full)
        self._forest = Forest(self._recognise)
        self._steps = Steps(self._forest, self._timers, settings.allocation_environment, step_notes(settings, runner))
        self._launcher = Launcher(settings, self._place, self._outputs, self._steps, launch_folder(settings, runner))
        self._memory_kills = MemoryKills()
        termination = Termination(self._forest, self._timers, self._steps)
        trees = (self._launcher, self._forest, termination, self._outbox, self._memory_kills)
        self._tasks = Tasks(settings, self._timers, Notes(folder), self._outputs, self._steps, *trees)
        self._workers = FunctionWorkers(folder, settings, self._timers, *trees)
        self._agent = Conversation(
            folder,
            runner,
            settings.orphan_timeout_s,
            self._outbox,
            self._timers,
            self._poll,
            self._tasks.held,
            self._abandoned,
            # Its host would have told it, but that may have been lost before.
            partial(pilot_is_over, Path(settings.agent_folder)) if settings.host else lambda: False,
        )
        self._stop_requested = False
        self._alarmed = False
        """Whether the shell of a rank has called us (see ``hooks.render``)."""
        self._stopping = False

    def run(self) -> None:
        """Serve the agent until stopped."""
        self._open()
        while not (self._stopping and not self._tasks.running and not self._workers.running):
            self._turn()
        self._forest.kill_unknown()
        self._outputs.close()
        self._launcher.close()
        self._agent.say_goodbye()

    def _open(self) -> None:
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = read_end
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, lambda _number, _frame: self._request_stop())
        signal.signal(signal.SIGUSR1, lambda _number, _frame: self._hear_alarm())
        self._poll.register(read_end, select.EPOLLIN)
        self._place.open()
        self._launcher.open()
        self._forest.open()
        self._memory_kills.open(own_events_file())
        self._agent.open(time.monotonic())

    def _request_stop(self) -> None:
        self._stop_requested = True

    def _hear_alarm(self) -> None:
        self._alarmed = True

    # -- the loop -----------------------------------------------------------------------------------------------------

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
            self._reap(now)
            if self._alarmed:
                self._alarmed = False
                self._tasks.look_at_ranks()
            if self._stop_requested:
                self._stop(_STOP_GRACE_S, now, by_others=True)
        self._timers.run(now)
        if incoming:
            for message in self._agent.read(now):
                self._follow(message, now)
        self._collect_gone(now)
        self._tasks.start(now)
        self._agent.tell(self._tasks.busy, now)

    def _wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """Wait for something to happen: short waits on the cores of the task started last, long ones on any core.

        Where short tasks follow one another on a core, moving to it and away for each of them costs more than the rest.
        """
        if self._place.has_cores and timeout_s != 0:
            patience_s = _STAY_S if timeout_s is None else min(timeout_s, _STAY_S)
            found = self._poll.poll(patience_s)
            if found or timeout_s == patience_s:
                return found
            self._place.release_cores()
            timeout_s = None if timeout_s is None else timeout_s - patience_s
        return self._poll.poll(timeout_s)

    def _idle_s(self, now: float) -> float | None:
        if self._tasks.ready:
            return 0
        times = (self._timers.next(), self._forest.next_look(), self._agent.due(self._tasks.busy))
        known = [when for when in times if when is not None]
        return max(0.0, min(known) - now) if known else None

    def _reap(self, now: float) -> None:
        for exit_ in self._forest.reap():
            if isinstance(exit_.tree, TaskTree):
                self._tasks.note_exit(exit_.tree, exit_, now)
            elif isinstance(exit_.tree, (WorkerTree, CommandTree)):
                exit_.tree.status = exit_.exit_code

    def _collect_gone(self, now: float) -> None:
        gone, left = self._forest.take_gone(now)
        for tree in gone:
            if isinstance(tree, TaskTree):
                self._tasks.gone(tree, now)
            elif isinstance(tree, WorkerTree):
                self._workers.gone(tree, now)
            elif isinstance(tree, CommandTree):
                self._steps.gone(tree)
        for tree in left:
            if isinstance(tree, TaskTree):
                self._tasks.leftovers(tree, now)
            else:
                self._forest.send(tree, signal.SIGKILL)

    # -- what the agent says ------------------------------------------------------------------------------------------

    def _follow(self, message: ToRunner, now: float) -> None:
        match message:
            case Launch(lanes):
                for lane_tasks in lanes:
                    self._tasks.take_in(lane_tasks, now)
            case Release(through):
                self._tasks.release(through)
            case DefineTemplates(templates):
                self._tasks.define(templates)
            case DefineEnvironment(name, variables, unset):
                self._tasks.define_environment(name, EnvironmentDifference(variables, tuple(unset)))
            case EndTasks(executions, ending, text):
                self._tasks.end(executions, ending, text, now)
            case RecallTasks(executions):
                self._tasks.give_back(executions, now)
            case SignalTasks(executions, number):
                self._tasks.tell(executions, number)
            case StartWorker(worker, environment):
                self._workers.start(worker, environment, now)
            case EndWorker(worker):
                self._workers.end(worker)
            case StopRunner(grace_s):
                self._stop(grace_s, now, again=True)
            case Welcome():
                self._agent.welcome()
                self._tasks.release(message.released)
                self._tasks.tell_starts(now)
                self._workers.tell_exits(now)
                self._agent.repeat(now)
            case _:
                _unreachable(message)

    def _storage_full(self, error: OSError) -> None:
        self._outbox.add_warning(StorageFull(f"no room for the output of tasks: {error}"), time.monotonic())

    def _abandoned(self, reason: str) -> None:
        if not self._stopping:
            sys.stderr.write(f"{reason}: ending all tasks\n")
            self._stop(_STOP_GRACE_S, time.monotonic())

    def _stop(self, grace_s: float, now: float, *, again: bool = False, by_others: bool = False) -> None:
        """Begin the end: nothing more is started, all that runs is ended; ``again``: another grace counts from now."""
        if self._stopping and not again:
            return
        self._stopping = True
        self._tasks.stop(grace_s, now, by_others=by_others)
        self._workers.stop(grace_s, now, by_others=by_others)

    def _recognise(self, environment: Environment) -> Tree | None:
        """Find the tree to which a process with this environment belongs."""
        session, pilot = environment.get(b"PILOTAGE_SESSION_ID"), environment.get(b"PILOTAGE_PILOT_ID")
        if session != self._settings.session.encode() or pilot != self._settings.pilot.encode():
            return None
        if (worker := environment.get(b"PILOTAGE_WORKER_ID")) is not None:
            return self._workers.tree(RunnerId(worker.decode(errors="replace")))
        task, attempt = environment.get(b"PILOTAGE_TASK_ID", b""), environment.get(b"PILOTAGE_ATTEMPT", b"")
        if not attempt.isdigit():
            return None
        return self._tasks.begun((TaskUid(task.decode(errors="replace")), Attempt(int(attempt))))


def _unreachable(message: NoReturn) -> NoReturn:
    """Have the type checker see that no message is forgotten (``assert_never`` is of Python 3.11)."""
    raise AssertionError(f"a message that nothing follows: {message!r}")
