"""The calls that function workers hold: noted, asked back, ended, and looked at while they are long.

A worker that is deep in a call hears no message. So calls are asked back through shared memory (``worker_calls``), and what
came of it is taken a millisecond later. A call that runs is ended by the end of its worker. Which calls have begun long ones
tell nobody: they are looked at now and then.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from pilotage.executors.runner import Runner
from pilotage.executors.runner_table import RunnerTable
from pilotage.executors.worker_calls import WorkerCalls
from pilotage.model.execution import Execution
from pilotage.model.ids import RunnerId
from pilotage.wire import runner_messages as wire

_LONG_CALL_LOOK_S = 0.25
_RECALL_S = 0.001


class FunctionCalls:
    """The calls of all function workers of ``runners``. ``folder`` is the agent's private folder."""

    def __init__(self, folder: Path, runners: RunnerTable) -> None:
        self._folder = folder
        self._runners = runners
        self.recalls: list[tuple[float, RunnerId, tuple[Execution, ...], bool]] = []
        """What was asked back: when to look what came of it, of which worker, and whether what runs of it is to end."""
        self._look_at = 0.0

    def next_deadline(self) -> float | None:
        """Return when ``turn`` is due."""
        due = self.recalls[0][0] if self.recalls else None
        if self._runners.calling and (due is None or self._look_at < due):
            due = self._look_at
        return due

    def turn(self, now: float) -> None:
        """Take what was asked back, and look at long calls."""
        self._finish_recalls(now)
        if self._runners.calling and now >= self._look_at:
            self._look_at = now + _LONG_CALL_LOOK_S
            self._look(now)

    # what a worker holds

    def number(self, worker: Runner, hello: wire.RunnerHello) -> None:
        """Count a worker's calls from its hello on."""
        if worker.calls is not None:
            worker.calls.close()
        worker.calls = WorkerCalls(self._folder, worker.name, hello.holds)
        self.note(worker)

    def note(self, worker: Runner) -> None:
        """A worker's calls have changed."""
        if worker.calls:
            self._runners.calling[worker.name] = None
        else:
            self._runners.calling.pop(worker.name, None)

    def over(self, runner: Runner, executions: Sequence[Execution]) -> None:
        """A runner, of either kind, holds these no longer."""
        for execution in executions:
            runner.holds.pop(execution, None)
        if runner.calls is not None:
            runner.calls.over(executions)
            self.note(runner)

    # asking back

    def ask_back(self, worker: Runner, executions: Sequence[Execution], *, end: bool) -> None:
        """Ask a worker for those of the executions that have not begun; ``end`` what has."""
        if worker.calls is not None and worker.calls.ask_back(executions):
            self.recalls.append((time.time() + _RECALL_S, worker.name, tuple(executions), end))

    def _finish_recalls(self, now: float) -> None:
        while self.recalls and self.recalls[0][0] <= now:
            _, name, executions, end = self.recalls.pop(0)
            worker = self._runners.by_name.get(name)
            if worker is None or worker.calls is None:
                continue
            back = worker.calls.taken_back()
            self.over(worker, back)
            if back:
                self._runners.told.tasks_returned(name, back)
            if end and worker.calls.running() in executions:
                self._end_worker(worker)

    def _end_worker(self, worker: Runner) -> None:
        if worker.beside is not None and self._runners.is_looked_after(worker):
            self._runners.send(worker.beside, wire.EndWorker(worker.name))
        else:
            worker.kill()

    # long calls

    def _look(self, now: float) -> None:
        for worker in [self._runners.by_name[name] for name in self._runners.calling]:
            execution = worker.calls.long_running() if worker.calls is not None else None
            if execution is not None:
                self._runners.told.tasks_started(worker.name, [(*execution, now)])
