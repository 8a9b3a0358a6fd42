"""What the local executor knows of one runner: its process, its connection if it has one, and what it holds."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence

import msgspec

from pilotage.executors.worker_calls import WorkerCalls
from pilotage.model.execution import Execution, LaneTasks
from pilotage.model.ids import RunnerId, TemplateId
from pilotage.system.processes import is_alive
from pilotage.wire.framing import Disconnected, FrameReader, FrameWriter
from pilotage.wire.runner_messages import Launch, ToRunner

_encode = msgspec.msgpack.Encoder().encode


class Runner:
    """One runner: its process, its connection if it has one, and what it holds."""

    def __init__(self, name: RunnerId, beside: RunnerId | None, deadline: float) -> None:
        self.name = name
        self.beside = beside
        self.hello_by: float | None = deadline
        self.greeted = False
        self.pid = 0
        self.started_ticks = 0
        self.boot_id = ""
        self.released = 0
        self.received = 0
        """Number of the last ``TasksEnded`` that was told."""
        self.reconcile_at: int | None = None
        self.connection: socket.socket | None = None
        self.reader: FrameReader | None = None
        self.writer: FrameWriter | None = None
        self.waiting: list[ToRunner] = []
        self.unsent: dict[Execution, None] = {}
        """What waits in ``waiting``: nobody has begun it."""
        self.templates: set[TemplateId] = set()
        self.holds: dict[Execution, None] = {}
        self.calls: WorkerCalls | None = None
        self.exit_code: int | None = None
        self.gone = ""
        """Why it is taken to be lost; empty while it is not."""
        self.doubtful = False
        self.cut_short = False
        """Whether it is gone as a batch system ends what is beside it."""
        self.ended_by_others_at: float | None = None
        """Since when a batch system ends what is beside it (seconds since the epoch); None: it does not."""

    @property
    def is_worker(self) -> bool:
        """Whether it is a function worker, not a spawner."""
        return self.beside is not None

    def send(self, message: ToRunner) -> None:
        """Queue a message for the next flush, or for the next connection if there is none."""
        if self.writer is None:
            self.waiting.append(message)
        else:
            self.writer.write(_encode(message))

    def read_all(self) -> list[bytes]:
        """Return all that has arrived, to the end of the connection if it is there."""
        frames: list[bytes] = []
        while self.reader is not None:
            try:
                more = self.reader.read()
            except Disconnected:
                break
            if not more:
                break
            frames += more
        return frames

    def take_back(self, executions: Sequence[Execution]) -> list[Execution]:
        """Return those of the executions that wait to be sent, and send them no more."""
        back = [execution for execution in executions if execution in self.unsent]
        for execution in back:
            del self.unsent[execution]
            self.holds.pop(execution, None)
        if back:
            self.waiting = [self._without(message, frozenset(back)) for message in self.waiting]
        return back

    def is_gone(self) -> bool:
        """Tell whether the process is no more; reaps it, and notes how it ended, if it was our child."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            if self.started_ticks:
                return not is_alive(self.pid, self.started_ticks, self.boot_id)
            return not os.path.exists(f"/proc/{self.pid}")
        if pid:
            self.exit_code = os.waitstatus_to_exitcode(status)
        return bool(pid)

    def kill(self) -> None:
        """Kill the process, if it is still the one that we know."""
        if not self.pid or (self.started_ticks and not is_alive(self.pid, self.started_ticks, self.boot_id)):
            return
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    @staticmethod
    def _without(message: ToRunner, executions: frozenset[Execution]) -> ToRunner:
        if not isinstance(message, Launch):
            return message
        lanes = []
        for lane in message.lanes:
            tasks = [(attempt, row) for attempt, row in lane.tasks if (row.uid, attempt) not in executions]
            if tasks:
                lanes.append(LaneTasks(lane.lane, lane.placement, tasks))
        return Launch(lanes)
