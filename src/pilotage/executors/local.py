"""Runs tasks on this node: executables by spawners, functions by workers that a spawner starts.

The agent listens at a Unix socket in its private folder; each runner connects to it, and connects again when a new agent
stands in for a dead one. What is sent to a runner that is not connected waits for it; until then it has not begun, and can be
taken back at once. A hello is answered, and what waits is sent, only by the first ``flush`` after the turn that read it: when
the agent has logged who the runner is. So a runner that the log does not name was handed nothing.

A runner is lost when its process is gone, never because it is silent: its spawner tells (a worker), or the process table does
(a spawner, or a worker whose spawner is lost as well). What a dead worker had not sent is read from its outbox and told before
its loss is (see ``workers.outbox``); the next ``flush``, when all that is in the log, removes its files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from pilotage.errors import InvariantViolated, unreachable
from pilotage.executors.base import RunnerListener, RunnerProcess
from pilotage.executors.connections import Connections, Hello, send_away
from pilotage.executors.orphans import TASK_MARK, WORKER_MARK, end_orphans, end_spawners, marks_of
from pilotage.executors.runner import Runner
from pilotage.executors.worker_calls import WorkerCalls
from pilotage.model.environments import EnvironmentDifference
from pilotage.model.execution import Execution, LaneTasks
from pilotage.model.ids import PilotUid, RunnerId, SessionUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.workload import Template
from pilotage.outputs.spares import recover
from pilotage.system.python import python_command
from pilotage.wire import runner_messages as wire
from pilotage.wire.framing import Disconnected
from pilotage.wire.runner_settings import read_settings
from pilotage.workers.outbox import outbox_path, read_outbox
from pilotage.workers.progress import progress_path

_ADOPT_S = 10.0
"""A runner of the last agent whose process lives has this long to say hello."""
_START_S = 30.0
"""A runner that was started has this long to say hello."""
_LOOK_S = 0.05
_LONG_CALL_LOOK_S = 0.25
_RECALL_S = 0.001
_ORPHANS_S = 5.0
_STEPS_S = 60.0
"""A batch system that does not answer may hold up for so long what is told of a lost spawner."""
_LAST_WORDS_S = 0.005

_decode = msgspec.msgpack.Decoder(wire.FromRunner).decode


class LocalExecutor:
    """The ``Executor`` of this node. ``folder`` is the agent's private folder; ``session`` and ``pilot`` name the tasks' owner.

    ``log_folder`` takes what runners print before they open files of their own. ``partition``: of the pilot, if it has some.
    ``host``: the name of this node, if each node of the pilot has an executor of its own.
    """

    def __init__(
        self,
        folder: Path,
        session: SessionUid,
        pilot: PilotUid,
        log_folder: Path,
        incarnation: int,
        *,
        partition: str = "",
        host: str = "",
    ) -> None:
        self._folder = folder
        self._session = session
        self._pilot = pilot
        self._marks = marks_of(partition, host)
        self._log_folder = log_folder
        self._incarnation = incarnation
        self._listener: RunnerListener | None = None
        self._runners: dict[RunnerId, Runner] = {}
        self._environments: dict[str, EnvironmentDifference] = {}
        self._connections = Connections(folder)
        self._to_flush: set[RunnerId] = set()
        self._welcomed: set[RunnerId] = set()
        """Runners whose hello is not logged yet."""
        self._expected: dict[RunnerId, None] = {}
        """Runners that are to say hello, or whose connection broke: their processes are looked after."""
        self._calling: dict[RunnerId, None] = {}
        """Workers that hold calls."""
        self._taken_back: dict[RunnerId, list[Execution]] = {}
        """What was never sent and is to be told as returned."""
        self._dying: dict[RunnerId, None] = {}
        self._unheard: list[RunnerId] = []
        """Spawners that an earlier agent started and never heard: if they live they look for an agent in vain."""
        self._bequests: list[Path] = []
        """Files of dead workers that were read, to be removed when what they held is in the log."""
        self._recalls: list[tuple[float, RunnerId, tuple[Execution, ...], bool]] = []
        self._look_at = 0.0
        self._long_look_at = 0.0

    # -------------------------------------------------------------------------------------------------------- the contract

    def start(self, listener: RunnerListener, known: Mapping[RunnerId, RunnerProcess]) -> None:
        """Listen, and expect the runners of an earlier agent."""
        self._listener = listener
        self._connections.open()
        now = time.time()
        for name, process in known.items():
            runner = self._runners[name] = Runner(name, process.beside, now + _ADOPT_S)
            runner.pid, runner.started_ticks, runner.boot_id = process.pid, process.started_ticks, process.boot_id
            runner.released = process.released
            if process.pid:
                runner.doubtful = True
                self._expected[name] = None
            else:
                # The last agent never heard its hello, so it handed nothing to it; should it come yet, it is sent away.
                runner.hello_by = None
                runner.gone = f"{name} had not come up when its agent was lost"
                self._dying[name] = None
                if process.beside is None:
                    self._unheard.append(name)
        if self._unheard:
            end_spawners(self._folder, self._unheard)

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._connections.fileno()

    def next_deadline(self) -> float | None:
        """Return when ``turn`` is due without anything arriving."""
        if self._dying or self._taken_back or self._to_flush:
            return 0.0
        due = self._recalls[0][0] if self._recalls else None
        if self._expected and (due is None or self._look_at < due):
            due = self._look_at
        if self._calling and (due is None or self._long_look_at < due):
            due = self._long_look_at
        return due

    def turn(self, now: float) -> None:
        """Take in what has arrived, look after doubtful runners, and send what is queued."""
        self._welcomed.clear()
        for name in list(self._dying):
            self._lose(self._runners[name])
        taken_back, self._taken_back = self._taken_back, {}
        for name, executions in taken_back.items():
            self._told.tasks_returned(name, executions)
        for who, takes_more in self._connections.poll():
            if isinstance(who, Hello):
                self._hear_hello(who)
            else:
                if takes_more:
                    self._to_flush.add(who.name)
                self._read(who)
        self._finish_recalls(now)
        if self._expected and now >= self._look_at:
            self._look_at = now + _LOOK_S
            self._look_after(now)
        if self._calling and now >= self._long_look_at:
            self._long_look_at = now + _LONG_CALL_LOOK_S
            self._look_at_calls(now)
        self._flush(self._to_flush - self._welcomed)

    def flush(self) -> None:
        """Send what is queued, as much as the sockets take. What was told in the last turn must be in the log."""
        bequests, self._bequests = self._bequests, []
        for path in bequests:
            path.unlink(missing_ok=True)
        self._flush(self._to_flush)

    def _flush(self, names: set[RunnerId]) -> None:
        self._to_flush = self._to_flush - names
        for runner in self._connections.flush([self._runners[name] for name in names if name in self._runners]):
            self._disconnect(runner)

    def start_runner(self, runner: RunnerId, beside: RunnerId | None, environment: Mapping[str, str], host: int = 0) -> None:
        """Start a spawner as our child, or have a spawner start a worker."""
        record = self._runners[runner] = Runner(runner, beside, time.time() + _START_S)
        self._expected[runner] = None
        if beside is not None:
            if beside in self._runners and beside not in self._dying:
                self._send(beside, wire.StartWorker(runner, dict(environment)))
            else:
                record.gone = f"the function worker {runner} was not started: its spawner {beside} was lost"
                self._doom(record)
            return
        output = str(self._log_folder / f"{runner}.err")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        command = python_command("pilotage.spawner.main", str(self._folder), runner)
        try:
            record.pid = os.posix_spawn(
                command[0],
                command,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, output, flags, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
            )
        except OSError as error:
            record.gone = f"the spawner {runner} could not be started: {error.strerror}"
            self._doom(record)

    def stop_runner(self, runner: RunnerId) -> None:
        """Let an idle runner exit, and forget it."""
        self._send(runner, wire.StopRunner(0.0))
        # At once, as it is forgotten; what others are to have waits for the next ``flush``.
        self._flush({runner})
        record = self._runners.get(runner)
        if record is not None:
            self._bequeath(record)
            self._forget(record)

    def launch(self, runner: RunnerId, lanes: Sequence[LaneTasks], templates: Mapping[TemplateId, Template]) -> None:
        """Send tasks to their runner, and the templates that it has not seen."""
        record = self._runners.get(runner)
        if record is None:
            # It was told as lost in the turn in which these were launched: the agent knows that they did not get there.
            return
        executions = [(row.uid, attempt) for lane in lanes for attempt, row in lane.tasks]
        new = {row.template for lane in lanes for _, row in lane.tasks} - record.templates
        if new:
            record.templates |= new
            record.send(wire.DefineTemplates({template: templates[template] for template in new}))
        record.holds.update(dict.fromkeys(executions))
        if record.writer is None:
            record.unsent.update(dict.fromkeys(executions))
        elif record.calls is not None:
            record.calls.launched(executions)
            self._calling[runner] = None
        record.send(wire.Launch(list(lanes)))
        self._to_flush.add(runner)

    def recall(self, runner: RunnerId, executions: Sequence[Execution]) -> None:
        """Ask back what has not begun: by message from a spawner, through shared memory from a worker."""
        record = self._runners.get(runner)
        if record is None:
            return
        self._take_back(record, executions)
        if not record.is_worker:
            if record.connection is not None:
                self._send(runner, wire.RecallTasks(list(executions)))
        elif record.calls is not None and record.calls.ask_back(executions):
            self._recalls.append((time.time() + _RECALL_S, runner, tuple(executions), False))

    def end(self, runner: RunnerId, executions: Sequence[Execution], ending: Ending, message: str) -> None:
        """End executables through their spawner; end a running call by replacing its worker."""
        record = self._runners.get(runner)
        if record is None:
            return
        self._take_back(record, executions)
        if not record.is_worker:
            self._send(runner, wire.EndTasks(list(executions), ending, message))
        elif record.calls is not None and record.calls.ask_back(executions):
            self._recalls.append((time.time() + _RECALL_S, runner, tuple(executions), True))

    def signal(self, runner: RunnerId, executions: Sequence[Execution], number: int) -> None:
        """Have a spawner signal executables. One that is not connected is asked again by the agent when it is."""
        record = self._runners.get(runner)
        if record is not None and not record.is_worker and record.connection is not None:
            self._send(runner, wire.SignalTasks(list(executions), number))

    def _take_back(self, record: Runner, executions: Sequence[Execution]) -> None:
        back = record.take_back(executions) if record.unsent else []
        if back:
            self._taken_back.setdefault(record.name, []).extend(back)

    def release(self, runner: RunnerId, through: int) -> None:
        """Let the runner forget, and see whether it has now told everything it had kept."""
        record = self._runners.get(runner)
        if record is None:
            return
        record.released = max(record.released, through)
        self._send(runner, wire.Release(through))
        self._reconcile(record)

    def define_environment(self, name: str, difference: EnvironmentDifference) -> None:
        """Tell all spawners, and those that connect later."""
        self._environments[name] = difference
        for runner in self._runners.values():
            if runner.connection is not None and not runner.is_worker:
                self._send(runner.name, _definition(name, difference))

    def close(self, grace_s: float) -> None:
        """Stop all runners and wait for their processes, within the grace and a little more."""
        for runner in self._runners.values():
            runner.send(wire.StopRunner(grace_s))
            self._to_flush.add(runner.name)
        # Not ``flush``: what was told last may not be in the log if the agent ends because of that.
        self._flush(self._to_flush)
        until = time.monotonic() + grace_s + 2.0
        mine = [runner for runner in self._runners.values() if runner.pid]
        while mine and time.monotonic() < until:
            mine = [runner for runner in mine if not runner.is_gone()]
            if mine:
                self._read_last_words()
        for runner in mine:
            runner.kill()
        if self._unheard:
            # One that was only just being started was not to be seen before.
            end_spawners(self._folder, self._unheard)
        # Spawners leave nothing behind; those that were killed may have, and workers of theirs.
        end_orphans(self._session, self._pilot, (), _ORPHANS_S, marked=self._marks)
        for runner in self._runners.values():
            self._end_steps(runner, _ORPHANS_S)
            self._close(runner)
        self._connections.close()

    def leave(self) -> None:
        """Close all connections. Runners go on, and connect to the next executor in this folder."""
        for runner in self._runners.values():
            if runner.pid and not runner.is_worker and not runner.started_ticks and runner.name not in self._dying:
                # It never said hello, so the log does not name it: the next agent would send it away, and not reap it.
                runner.kill()
                with suppress(ChildProcessError):
                    os.waitpid(runner.pid, 0)
            self._close(runner)
        self._connections.close()

    def _read_last_words(self) -> None:
        """Let nobody who is about to exit wait for us to read, and tell who comes only now to go."""
        for who, takes_more in self._connections.poll(_LAST_WORDS_S):
            if isinstance(who, Hello):
                send_away(who.connection)
                continue
            if takes_more:
                self._flush({who.name})
            try:
                if who.reader is not None:
                    who.reader.read()
            except Disconnected:
                self._connections.detach(who)

    # --------------------------------------------------------------------------------------------------------- connections

    @property
    def _told(self) -> RunnerListener:
        if self._listener is None:
            raise InvariantViolated("the executor was used before it was started")
        return self._listener

    def _send(self, runner: RunnerId, message: wire.ToRunner) -> None:
        record = self._runners.get(runner)
        if record is not None:
            record.send(message)
            self._to_flush.add(runner)

    def _hear_hello(self, hello: Hello) -> None:
        message = hello.message
        runner = self._runners.get(message.runner)
        if runner is None or (runner.pid and runner.pid != message.pid):
            # Nobody we wait for: a runner that was given up, or one of another pilot's life.
            send_away(hello.connection)
            return
        if runner.name in self._dying:
            # Its last hello, which numbers its calls anew: that is what its progress counts.
            if runner.is_worker:
                self._number_calls(runner, message)
            hello.connection.close()
            return
        self._connections.attach(runner, hello.connection, hello.reader)
        self._welcome(runner, message)
        self._take_all(runner, hello.frames)

    def _number_calls(self, runner: Runner, hello: wire.RunnerHello) -> None:
        if runner.calls is not None:
            runner.calls.close()
        runner.calls = WorkerCalls(self._folder, runner.name, hello.holds)
        self._note_calls(runner)

    def _note_calls(self, runner: Runner) -> None:
        if runner.calls:
            self._calling[runner.name] = None
        else:
            self._calling.pop(runner.name, None)

    def _welcome(self, runner: Runner, hello: wire.RunnerHello) -> None:
        runner.pid, runner.started_ticks, runner.boot_id = hello.pid, hello.started_ticks, hello.boot_id
        runner.hello_by, runner.doubtful, runner.greeted = None, False, True
        self._expected.pop(runner.name, None)
        runner.holds = dict.fromkeys(hello.holds)
        if runner.is_worker:
            self._number_calls(runner, hello)
        runner.reconcile_at = hello.sent
        waiting, runner.waiting = runner.waiting, []
        runner.send(wire.Welcome(self._incarnation, runner.released))
        if not runner.is_worker:
            for name, difference in self._environments.items():
                runner.send(_definition(name, difference))
        for message in waiting:
            runner.send(message)
        runner.holds.update(runner.unsent)
        if runner.calls is not None:
            runner.calls.launched(runner.unsent)
            self._note_calls(runner)
        runner.unsent.clear()
        self._to_flush.add(runner.name)
        self._welcomed.add(runner.name)
        self._told.runner_connected(runner.name, runner.pid, runner.started_ticks, runner.boot_id)
        self._reconcile(runner)

    def _reconcile(self, runner: Runner) -> None:
        if runner.reconcile_at is not None and runner.released >= runner.reconcile_at:
            runner.reconcile_at = None
            self._told.runner_reconciled(runner.name, list(runner.holds))

    def _read(self, runner: Runner) -> None:
        assert runner.reader is not None
        try:
            frames = runner.reader.read()
        except Disconnected:
            self._disconnect(runner)
            return
        self._take_all(runner, frames)

    def _take_all(self, runner: Runner, frames: list[bytes]) -> None:
        for frame in frames:
            try:
                message = _decode(frame)
            except msgspec.DecodeError:
                # A function wrote to a descriptor that is not its own. The next hello sets both sides straight.
                self._disconnect(runner)
                return
            self._take(runner, message)

    def _take(self, runner: Runner, message: wire.FromRunner) -> None:
        match message:
            case wire.TasksEnded():
                executions = [(end.task, end.attempt) for end in message.ends]
                self._over(runner, executions)
                runner.received = max(runner.received, message.number)
                self._told.tasks_ended(runner.name, message.number, message.ends)
            case wire.TasksStarted():
                self._told.tasks_started(runner.name, wire.by_own_clock(message, time.time()))
            case wire.TasksReturned():
                self._over(runner, message.executions)
                self._told.tasks_returned(runner.name, message.executions)
            case wire.WorkerExited():
                worker = self._runners.get(message.worker)
                if worker is not None and (not worker.pid or worker.pid == message.pid):
                    worker.exit_code = message.status
                    worker.gone = message.message
                    self._doom(worker)
            case wire.StorageFull():
                self._told.storage_full(runner.name, message.reason)
            case wire.RunnerHello():
                raise InvariantViolated(f"{runner.name} said hello twice on one connection")
            case _:
                unreachable(message)

    def _over(self, runner: Runner, executions: Sequence[Execution]) -> None:
        for execution in executions:
            runner.holds.pop(execution, None)
        if runner.calls is not None:
            runner.calls.over(executions)
            self._note_calls(runner)

    def _disconnect(self, runner: Runner) -> None:
        self._connections.detach(runner)
        runner.doubtful = True
        self._expected[runner.name] = None
        self._look_at = 0.0

    def _drain(self, runner: Runner) -> None:
        """Take in what a dead runner still had sent."""
        while runner.reader is not None:
            try:
                frames = runner.reader.read()
            except Disconnected:
                self._connections.detach(runner)
                return
            if not frames:
                return
            self._take_all(runner, frames)

    def _forget(self, runner: Runner) -> None:
        self._close(runner)
        del self._runners[runner.name]
        for names in (self._dying, self._expected, self._calling, self._taken_back):
            names.pop(runner.name, None)

    def _close(self, runner: Runner) -> None:
        self._connections.detach(runner)
        if runner.calls is not None:
            runner.calls.close()
            runner.calls = None

    # --------------------------------------------------------------------------------------------------------- lost runners

    def _look_after(self, now: float) -> None:
        for runner in [self._runners[name] for name in self._expected]:
            if runner.hello_by is not None and now >= runner.hello_by:
                if not runner.greeted and not runner.gone:
                    runner.gone = f"{runner.name} did not come up; see {runner.name}.err in {self._log_folder}"
                runner.kill()
                self._doom(runner)
            elif (runner.doubtful or runner.hello_by is not None) and runner.pid and runner.is_gone():
                beside = self._runners.get(runner.beside) if runner.beside is not None else None
                if beside is not None and beside.connection is not None and runner.started_ticks:
                    # Its spawner will tell with what status it ended, unless it does not know it (adopted, or long ago).
                    runner.hello_by = runner.hello_by or now + 1.0
                    runner.doubtful = False
                    continue
                self._doom(runner)

    def _doom(self, runner: Runner) -> None:
        """The runner is gone. It is told in the next turn, so that what is launched on it until then is known not to begin."""
        self._drain(runner)
        self._connections.detach(runner)
        runner.hello_by, runner.doubtful = None, False
        self._expected.pop(runner.name, None)
        self._dying[runner.name] = None

    def _lose(self, runner: Runner) -> None:
        """End what a lost runner left running, and tell."""
        name = runner.name
        if runner.is_worker:
            for message in read_outbox(self._folder, name, max(runner.received, runner.released)):
                self._take(runner, message)
        running, not_begun = None, list(runner.unsent)
        if runner.calls is not None:
            running = runner.calls.running()
            not_begun += runner.calls.not_begun()
        what = "function worker" if runner.is_worker else "spawner"
        if not runner.gone:
            how = "was lost"
            if runner.exit_code is not None:
                how = f"was killed by signal {-runner.exit_code}" if runner.exit_code < 0 else f"exited with {runner.exit_code}"
            runner.gone = f"the {what} {name} {how}"
        not_begun += self._taken_back.pop(name, [])
        self._bequeath(runner)
        self._forget(runner)
        if not self._is_looked_after(runner):
            # Also when nothing is known of what it held: it may have died together with the last agent.
            living = {other.pid for other in self._runners.values() if other.pid}
            owners = (TASK_MARK, WORKER_MARK)
            end_orphans(self._session, self._pilot, living, _ORPHANS_S, owners, marked=self._marks)
        runner.gone += self._end_steps(runner, _STEPS_S)
        # Before it is told, and others begin with the same files.
        recover(self._folder, name)
        for other in list(self._runners.values()):
            if other.beside == name and not other.greeted and not other.pid:
                other.gone = f"the function worker {other.name} was not started: its spawner {name} was lost"
                self._doom(other)
        self._told.runner_lost(name, runner.gone, runner.exit_code, running, not_begun)

    def _end_steps(self, runner: Runner, patience_s: float) -> str:
        """End what the launchers of a lost spawner have left on any node; return what is to be said of it."""
        if runner.is_worker:
            return ""
        # With it come all launch methods; there is a host on each node, and all begin at a time.
        from pilotage.executors.left_steps import end_steps_of

        try:
            return end_steps_of(read_settings(self._folder), runner.name, patience_s)
        except FileNotFoundError:
            # Without settings there was never a spawner.
            return ""

    def _bequeath(self, runner: Runner) -> None:
        if runner.is_worker:
            self._bequests += [outbox_path(self._folder, runner.name), progress_path(self._folder, runner.name)]

    def _is_looked_after(self, runner: Runner) -> bool:
        """Tell whether a living spawner ends what the runner leaves behind."""
        beside = self._runners.get(runner.beside) if runner.beside is not None else None
        return beside is not None and beside.connection is not None

    # ------------------------------------------------------------------------------------------------------------- calls

    def _finish_recalls(self, now: float) -> None:
        while self._recalls and self._recalls[0][0] <= now:
            _, name, executions, end = self._recalls.pop(0)
            runner = self._runners.get(name)
            if runner is None or runner.calls is None:
                continue
            back = runner.calls.taken_back()
            self._over(runner, back)
            if back:
                self._told.tasks_returned(name, back)
            if end and runner.calls.running() in executions:
                self._end_worker(runner)

    def _end_worker(self, runner: Runner) -> None:
        if runner.beside is not None and self._is_looked_after(runner):
            self._send(runner.beside, wire.EndWorker(runner.name))
        else:
            runner.kill()

    def _look_at_calls(self, now: float) -> None:
        for runner in [self._runners[name] for name in self._calling]:
            execution = runner.calls.long_running() if runner.calls is not None else None
            if execution is not None:
                self._told.tasks_started(runner.name, [(*execution, now)])


def _definition(name: str, difference: EnvironmentDifference) -> wire.DefineEnvironment:
    return wire.DefineEnvironment(name, difference.variables, list(difference.unset))
