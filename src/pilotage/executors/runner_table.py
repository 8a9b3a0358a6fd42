"""The runners of a local executor: by name, with what is outstanding with each, and the way to send them something.

The parts of the executor share it: ``conversation`` takes in what runners say, ``function_calls`` follows the calls of function
workers, ``lost_runners`` looks after those that may be gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pilotage.errors import InvariantViolated
from pilotage.executors.base import RunnerListener
from pilotage.executors.connections import Connections
from pilotage.executors.runner import Runner
from pilotage.model.execution import Execution
from pilotage.model.ids import RunnerId
from pilotage.wire import runner_messages as wire


class RunnerTable:
    """The runners that are neither forgotten nor told as lost. ``folder`` is the agent's private folder.

    ``listener`` is set when the executor is started.
    """

    def __init__(self, folder: Path) -> None:
        self.listener: RunnerListener | None = None
        self.connections = Connections(folder)
        self.by_name: dict[RunnerId, Runner] = {}
        self.to_flush: set[RunnerId] = set()
        self.expected: dict[RunnerId, None] = {}
        """Runners that are to say hello, or whose connection broke: their processes are looked after."""
        self.look_at = 0.0
        """When their processes are looked at next."""
        self.dying: dict[RunnerId, None] = {}
        """Runners that are gone, and are told as lost in the next turn."""
        self.calling: dict[RunnerId, None] = {}
        """Workers that hold calls."""
        self.taken_back: dict[RunnerId, list[Execution]] = {}
        """What was never sent and is to be told as returned."""
        self.unread: dict[RunnerId, list[bytes]] = {}
        """What runners had said when it turned out that they do not listen any more."""

    @property
    def told(self) -> RunnerListener:
        """Whom the executor tells."""
        if self.listener is None:
            raise InvariantViolated("the executor was used before it was started")
        return self.listener

    def send(self, runner: RunnerId, message: wire.ToRunner) -> None:
        """Queue a message for the next flush; none for a runner that is not there."""
        record = self.by_name.get(runner)
        if record is not None:
            record.send(message)
            self.to_flush.add(runner)

    def flush(self, names: Iterable[RunnerId]) -> None:
        """Send what is queued for these, as much as the sockets take."""
        names = set(names)
        self.to_flush -= names
        for runner in self.connections.flush([self.by_name[name] for name in names if name in self.by_name]):
            self.unread.setdefault(runner.name, []).extend(runner.read_all())
            self.disconnect(runner)

    def disconnect(self, runner: Runner) -> None:
        """The runner's connection is of no use any more; its process is looked after from now on."""
        self.connections.detach(runner)
        runner.doubtful = True
        self.expected[runner.name] = None
        self.look_at = 0.0

    def take_back(self, runner: Runner, executions: Sequence[Execution]) -> None:
        """Have those of the executions that were not sent told as returned in the next turn."""
        back = runner.take_back(executions) if runner.unsent else []
        if back:
            self.taken_back.setdefault(runner.name, []).extend(back)

    def is_looked_after(self, runner: Runner) -> bool:
        """Tell whether a living spawner ends what the runner leaves behind."""
        beside = self.by_name.get(runner.beside) if runner.beside is not None else None
        return beside is not None and beside.connection is not None

    def forget(self, runner: Runner) -> None:
        """Nothing more is to be known of a runner."""
        self.close(runner)
        del self.by_name[runner.name]
        for names in (self.dying, self.expected, self.calling, self.taken_back, self.unread):
            names.pop(runner.name, None)

    def close(self, runner: Runner) -> None:
        """Let go of a runner's connection and shared memory."""
        self.connections.detach(runner)
        if runner.calls is not None:
            runner.calls.close()
            runner.calls = None
