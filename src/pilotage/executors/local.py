"""Runs tasks on this node: executables by spawners, functions by workers that a spawner starts.

The agent listens at a Unix socket in its private folder; each runner connects to it, and connects again when a new agent
stands in for a dead one. What is sent to a runner that is not connected waits for it; until then it has not begun, and can be
taken back at once.

Its parts share a ``RunnerTable``: ``conversation`` takes in what runners say, ``function_calls`` follows the calls of function
workers, ``lost_runners`` looks after those that may be gone. This module keeps the contract: it has runners started and
stopped, hands them tasks, and gives the parts their turns.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pilotage.executors.base import RunnerListener, RunnerProcess
from pilotage.executors.conversation import Conversation
from pilotage.executors.function_calls import FunctionCalls
from pilotage.executors.lost_runners import LostRunners
from pilotage.executors.orphans import marks_of
from pilotage.executors.runner import Runner
from pilotage.executors.runner_table import RunnerTable
from pilotage.executors.spawner_process import start_spawner
from pilotage.model.environments import EnvironmentDifference
from pilotage.model.execution import Execution, LaneTasks
from pilotage.model.ids import PilotUid, RunnerId, SessionUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.workload import Template
from pilotage.wire import runner_messages as wire

_ADOPT_S = 10.0
"""A runner of the last agent whose process lives has this long to say hello."""
_START_S = 30.0
"""A runner that was started has this long to say hello."""


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
        self._log_folder = log_folder
        self._is_far = bool(host)
        self._runners = RunnerTable(folder)
        self._calls = FunctionCalls(folder, self._runners)
        self._conversation = Conversation(self._runners, self._calls, incarnation)
        marks = marks_of(partition, host)
        self._lost = LostRunners(folder, session, pilot, marks, log_folder, self._runners, self._conversation)

    def start(self, listener: RunnerListener, known: Mapping[RunnerId, RunnerProcess]) -> None:
        """Listen, and expect the runners of an earlier agent."""
        runners = self._runners
        runners.listener = listener
        runners.connections.open()
        now = time.time()
        unheard: list[RunnerId] = []
        for name, process in known.items():
            runner = runners.by_name[name] = Runner(name, process.beside, now + _ADOPT_S)
            runner.pid, runner.started_ticks, runner.boot_id = process.pid, process.started_ticks, process.boot_id
            runner.released = process.released
            if process.pid:
                runner.doubtful = True
                runners.expected[name] = None
            else:
                # The last agent never heard its hello, so it handed nothing to it; should it come yet, it is sent away.
                runner.hello_by = None
                runner.gone = f"{name} had not come up when its agent was lost"
                runners.dying[name] = None
                if process.beside is None:
                    unheard.append(name)
        self._lost.end_unheard(unheard)

    # turns

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._runners.connections.fileno()

    def next_deadline(self) -> float | None:
        """Return when ``turn`` is due without anything arriving."""
        runners = self._runners
        if runners.dying or runners.taken_back or runners.to_flush or runners.unread:
            return 0.0
        due = self._calls.next_deadline()
        if runners.expected and (due is None or runners.look_at < due):
            due = runners.look_at
        return due

    def turn(self, now: float) -> None:
        """Take in what has arrived, look after doubtful runners, and send what is queued."""
        runners, welcomed = self._runners, self._conversation.welcomed
        welcomed.clear()
        self._lost.tell()
        taken_back, runners.taken_back = runners.taken_back, {}
        for name, executions in taken_back.items():
            runners.told.tasks_returned(name, executions)
        self._conversation.turn()
        self._calls.turn(now)
        self._lost.look_after(now)
        runners.flush(runners.to_flush - welcomed)

    def flush(self) -> None:
        """Send what is queued, as much as the sockets take. What was told in the last turn must be in the log."""
        self._lost.remove_bequests()
        self._runners.flush(self._runners.to_flush)

    # runners

    def start_runner(self, runner: RunnerId, beside: RunnerId | None, environment: Mapping[str, str], host: int = 0) -> None:
        """Start a spawner as our child, or have a spawner start a worker."""
        runners = self._runners
        record = runners.by_name[runner] = Runner(runner, beside, time.time() + _START_S)
        runners.expected[runner] = None
        if beside is not None:
            if beside in runners.by_name and beside not in runners.dying:
                runners.send(beside, wire.StartWorker(runner, dict(environment)))
            else:
                record.gone = f"the function worker {runner} was not started: its spawner {beside} was lost"
                self._conversation.doom(record)
            return
        try:
            record.pid = start_spawner(self._folder, runner, self._log_folder)
        except OSError as error:
            record.gone = f"the spawner {runner} could not be started: {error.strerror}"
            self._conversation.doom(record)

    def stop_runner(self, runner: RunnerId) -> None:
        """Let an idle runner exit, and forget it."""
        self._runners.send(runner, wire.StopRunner(0.0))
        # At once, as it is forgotten; what others are to have waits for the next ``flush``.
        self._runners.flush({runner})
        record = self._runners.by_name.get(runner)
        if record is not None:
            self._lost.bequeath(record)
            self._runners.forget(record)

    def release(self, runner: RunnerId, through: int) -> None:
        """Let the runner forget, and see whether it has now told everything it had kept."""
        record = self._runners.by_name.get(runner)
        if record is None:
            return
        record.released = max(record.released, through)
        self._runners.send(runner, wire.Release(through))
        self._conversation.reconcile(record)

    def define_environment(self, name: str, difference: EnvironmentDifference) -> None:
        """Tell all spawners, and those that connect later."""
        self._conversation.define_environment(name, difference)

    # tasks

    def launch(self, runner: RunnerId, lanes: Sequence[LaneTasks], templates: Mapping[TemplateId, Template]) -> None:
        """Send tasks to their runner, and the templates that it has not seen."""
        record = self._runners.by_name.get(runner)
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
            self._runners.calling[runner] = None
        record.send(wire.Launch(list(lanes)))
        self._runners.to_flush.add(runner)

    def recall(self, runner: RunnerId, executions: Sequence[Execution]) -> None:
        """Ask back what has not begun: by message from a spawner, through shared memory from a worker."""
        record = self._runners.by_name.get(runner)
        if record is None:
            return
        self._runners.take_back(record, executions)
        if record.is_worker:
            self._calls.ask_back(record, executions, end=False)
        elif record.connection is not None:
            self._runners.send(runner, wire.RecallTasks(list(executions)))

    def end(self, runner: RunnerId, executions: Sequence[Execution], ending: Ending, message: str) -> None:
        """End executables through their spawner; end a running call by replacing its worker."""
        record = self._runners.by_name.get(runner)
        if record is None:
            return
        self._runners.take_back(record, executions)
        if record.is_worker:
            self._calls.ask_back(record, executions, end=True)
        else:
            self._runners.send(runner, wire.EndTasks(list(executions), ending, message))

    def signal(self, runner: RunnerId, executions: Sequence[Execution], number: int) -> None:
        """Have a spawner signal executables. One that is not connected is asked again by the agent when it is."""
        record = self._runners.by_name.get(runner)
        if record is not None and not record.is_worker and record.connection is not None:
            self._runners.send(runner, wire.SignalTasks(list(executions), number))

    # the end

    def close(self, grace_s: float) -> None:
        """Stop all runners and wait for their processes, within the grace and a little more.

        On another host than the agent's it is told meanwhile what ends well. Here it may be the agent's log that is at an end.
        """
        runners = self._runners
        for runner in runners.by_name.values():
            runner.send(wire.StopRunner(grace_s))
            runners.to_flush.add(runner.name)
        # Not ``flush``: what was told last may not be in the log if the agent ends because of that.
        runners.flush(runners.to_flush)
        until = time.monotonic() + grace_s + 2.0
        mine = [runner for runner in runners.by_name.values() if runner.pid]
        while mine and time.monotonic() < until:
            mine = [runner for runner in mine if not runner.is_gone()]
            if mine:
                self._conversation.hear_last_words(tell=self._is_far)
        for runner in mine:
            runner.kill()
        if self._is_far:
            self._lost.tell_last_words()
        self._lost.end_all()
        for runner in runners.by_name.values():
            runners.close(runner)
        runners.connections.close()

    def leave(self) -> None:
        """Close all connections. Runners go on, and connect to the next executor in this folder."""
        runners = self._runners
        for runner in runners.by_name.values():
            if runner.pid and not runner.is_worker and not runner.started_ticks and runner.name not in runners.dying:
                # It never said hello, so the log does not name it: the next agent would send it away, and not reap it.
                runner.kill()
                with suppress(ChildProcessError):
                    os.waitpid(runner.pid, 0)
            runners.close(runner)
        runners.connections.close()
