"""What runners say to a local executor: their hellos, what has begun and ended, and the exits of those beside them.

A hello is answered, and what waits is sent, only by the first ``flush`` after the turn that read it (``welcomed``): when the
agent has logged who the runner is. So a runner that the log does not name was handed nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from pilotage.errors import InvariantViolated, unreachable
from pilotage.executors.connections import Hello, send_away
from pilotage.executors.cut_short import judged, note
from pilotage.executors.function_calls import FunctionCalls
from pilotage.executors.runner import Runner
from pilotage.executors.runner_table import RunnerTable
from pilotage.model.environments import EnvironmentDifference
from pilotage.model.ids import RunnerId
from pilotage.model.outcome import Ending
from pilotage.wire import runner_messages as wire
from pilotage.wire.framing import Disconnected

_LAST_WORDS_S = 0.005

_decode = msgspec.msgpack.Decoder(wire.FromRunner).decode


class Conversation:
    """Hears the runners of one executor, in the agent's life number ``incarnation``."""

    def __init__(self, runners: RunnerTable, calls: FunctionCalls, incarnation: int) -> None:
        self._runners = runners
        self._calls = calls
        self._incarnation = incarnation
        self._environments: dict[str, EnvironmentDifference] = {}
        self.welcomed: set[RunnerId] = set()
        """Runners whose hello is not logged yet."""

    def define_environment(self, name: str, difference: EnvironmentDifference) -> None:
        """Tell all spawners, and those that connect later."""
        self._environments[name] = difference
        for runner in self._runners.by_name.values():
            if runner.connection is not None and not runner.is_worker:
                self._runners.send(runner.name, _definition(name, difference))

    # hearing

    def turn(self) -> None:
        """Take in what has arrived."""
        unread, self._runners.unread = self._runners.unread, {}
        for name, frames in unread.items():
            self._take_all(self._runners.by_name[name], frames)
        for who, takes_more in self._runners.connections.poll():
            if isinstance(who, Hello):
                self.hear_hello(who)
            else:
                if takes_more:
                    self._runners.to_flush.add(who.name)
                self._read(who)

    def hear_hello(self, hello: Hello) -> None:
        """A runner has introduced itself."""
        message = hello.message
        runner = self._runners.by_name.get(message.runner)
        if runner is None or (runner.pid and runner.pid != message.pid):
            # Nobody we wait for: a runner that was given up, or one of another pilot's life.
            send_away(hello.connection)
            return
        if runner.name in self._runners.dying:
            # Its last hello, which numbers its calls anew: that is what its progress counts.
            if runner.is_worker:
                self._calls.number(runner, message)
            hello.connection.close()
            return
        self._runners.connections.attach(runner, hello.connection, hello.reader)
        self._welcome(runner, message)
        self._take_all(runner, hello.frames)

    def _welcome(self, runner: Runner, hello: wire.RunnerHello) -> None:
        runner.pid, runner.started_ticks, runner.boot_id = hello.pid, hello.started_ticks, hello.boot_id
        runner.hello_by, runner.doubtful, runner.greeted = None, False, True
        self._runners.expected.pop(runner.name, None)
        runner.holds = dict.fromkeys(hello.holds)
        if runner.is_worker:
            self._calls.number(runner, hello)
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
            self._calls.note(runner)
        runner.unsent.clear()
        self._runners.to_flush.add(runner.name)
        self.welcomed.add(runner.name)
        self._runners.told.runner_connected(runner.name, runner.pid, runner.started_ticks, runner.boot_id)
        self.reconcile(runner)

    def reconcile(self, runner: Runner) -> None:
        """See whether a runner has now told everything that it had kept."""
        if runner.reconcile_at is not None and runner.released >= runner.reconcile_at:
            runner.reconcile_at = None
            self._runners.told.runner_reconciled(runner.name, list(runner.holds))

    def _read(self, runner: Runner) -> None:
        assert runner.reader is not None
        try:
            frames = runner.reader.read()
        except Disconnected:
            self._runners.disconnect(runner)
            return
        self._take_all(runner, frames)

    def _take_all(self, runner: Runner, frames: list[bytes]) -> None:
        for frame in frames:
            try:
                message = _decode(frame)
            except msgspec.DecodeError:
                # A function wrote to a descriptor that is not its own. The next hello sets both sides straight.
                self._runners.disconnect(runner)
                return
            self._take(runner, message)

    def _take(self, runner: Runner, message: wire.FromRunner) -> None:
        match message:
            case wire.TasksEnded():
                self._calls.over(runner, [(end.task, end.attempt) for end in message.ends])
                runner.received = max(runner.received, message.number)
                self._runners.told.tasks_ended(runner.name, message.number, judged(runner, message.ends))
            case wire.TasksStarted():
                self._runners.told.tasks_started(runner.name, wire.by_own_clock(message, time.time()))
            case wire.TasksReturned():
                self._calls.over(runner, message.executions)
                self._runners.told.tasks_returned(runner.name, message.executions)
            case wire.WorkerExited():
                worker = self._runners.by_name.get(message.worker)
                if worker is not None and (not worker.pid or worker.pid == message.pid):
                    worker.exit_code = message.status
                    worker.gone = message.message
                    worker.cut_short = message.cut_short
                    self.doom(worker)
            case wire.EndedByOthers():
                note(runner, message, self._runners.by_name.values())
            case wire.StorageFull():
                self._runners.told.storage_full(runner.name, message.reason)
            case wire.RunnerHello():
                raise InvariantViolated(f"{runner.name} said hello twice on one connection")
            case _:
                unreachable(message)

    # the end of it

    def doom(self, runner: Runner) -> None:
        """The runner is gone. It is told in the next turn, so that what is launched on it until then is known not to begin."""
        self._drain(runner)
        self._runners.connections.detach(runner)
        runner.hello_by, runner.doubtful = None, False
        self._runners.expected.pop(runner.name, None)
        self._runners.dying[runner.name] = None

    def _drain(self, runner: Runner) -> None:
        """Take in what a dead runner still had sent."""
        self._take_all(runner, [*self._runners.unread.pop(runner.name, []), *runner.read_all()])

    def take_legacy(self, runner: Runner, messages: Iterable[wire.FromRunner]) -> None:
        """Take what a dead worker had not sent, from where it kept it."""
        for message in messages:
            self._take(runner, message)

    def hear_last_words(self, *, tell: bool) -> None:
        """Let nobody who is about to exit wait for us to read, and have who comes only now go; ``tell`` of what ended well."""
        for who, takes_more in self._runners.connections.poll(_LAST_WORDS_S):
            if isinstance(who, Hello):
                send_away(who.connection)
                continue
            if takes_more:
                self._runners.flush({who.name})
            try:
                frames = who.reader.read() if who.reader is not None else []
            except Disconnected:
                self._runners.connections.detach(who)
                continue
            if tell:
                self._tell_results(who, frames)

    def tell_last_words(self, runner: Runner, kept: Iterable[wire.TasksEnded]) -> None:
        """Tell of what ended well in a runner that is gone: that it has said so, and that it had ``kept`` to say."""
        self._tell_results(runner, [*self._runners.unread.pop(runner.name, []), *runner.read_all()])
        for message in kept:
            if message.number > runner.received:
                self._tell_well_ended(runner, message)

    def _tell_results(self, runner: Runner, frames: list[bytes]) -> None:
        for frame in frames:
            with suppress(msgspec.DecodeError):
                message = _decode(frame)
                if isinstance(message, wire.TasksEnded):
                    self._tell_well_ended(runner, message)

    def _tell_well_ended(self, runner: Runner, message: wire.TasksEnded) -> None:
        # The rest may have been cut short; it is lost with the executor.
        runner.received = max(runner.received, message.number)
        well = [end for end in message.ends if end.ending is Ending.DONE]
        if well:
            self._runners.told.tasks_ended(runner.name, message.number, well)


def _definition(name: str, difference: EnvironmentDifference) -> wire.DefineEnvironment:
    return wire.DefineEnvironment(name, difference.variables, list(difference.unset))
