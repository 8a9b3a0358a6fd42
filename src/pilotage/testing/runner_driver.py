"""A fake agent that drives one or more real runners (spawners, function workers) over their Unix socket.

It listens at ``agent.sock`` of a private folder as the agent does, welcomes each runner that connects, keeps every message
that arrives, and ends by process id all that was started. Waiting is for a condition with a deadline, never for a time::

    with RunnerDriver(folder) as driver:
        driver.start_runner("pilotage.spawner.main", "spawner.0")
        driver.send(DefineTemplates({1: Template(executable="/bin/true")}))
        driver.send(Launch([LaneTasks(1, placement, [(1, Row("task.0", 1))])]))
        end = driver.wait_for_end("task.0")

``pause`` stops listening and closes all connections as the death of an agent would; ``resume`` listens again.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from pilotage.model.execution import AttemptEnd
from pilotage.model.ids import PilotUid, RunnerId, SessionUid, TaskUid
from pilotage.model.resources import Node, NodeShape
from pilotage.system.processes import started_ticks
from pilotage.system.python import python_command
from pilotage.wire.framing import Disconnected, FrameReader, FrameWriter
from pilotage.wire.runner_messages import (
    FromRunner,
    Release,
    RunnerHello,
    StorageFull,
    TasksEnded,
    TasksReturned,
    TasksStarted,
    ToRunner,
    Welcome,
    WorkerExited,
)
from pilotage.wire.runner_settings import AGENT_SOCKET, RunnerSettings, write_settings

Found = TypeVar("Found")


class RunnerConnection:
    """One connection of a runner, from its hello on."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.reader = FrameReader(connection)
        self.writer = FrameWriter(connection)
        self.runner: RunnerId | None = None


class RunnerDriver:
    """A fake agent in the calling process.

    ``messages`` keeps all that arrived, in order, as pairs of runner and message. With ``auto_welcome`` (default) a hello is
    answered at once by ``Welcome(incarnation, released)``; with ``auto_release`` each ``TasksEnded`` is released at once.
    """

    def __init__(
        self,
        folder: Path,
        settings: RunnerSettings | None = None,
        *,
        auto_welcome: bool = True,
        auto_release: bool = True,
    ) -> None:
        self.folder = folder
        self.settings = settings or default_settings(folder)
        self.auto_welcome = auto_welcome
        self.auto_release = auto_release
        self.incarnation = 1
        self.messages: list[tuple[RunnerId, FromRunner]] = []
        self.processes: dict[RunnerId, subprocess.Popen[bytes]] = {}
        self.released: dict[RunnerId, int] = {}
        self._listener: socket.socket | None = None
        self._connections: dict[int, RunnerConnection] = {}
        self._by_runner: dict[RunnerId, RunnerConnection] = {}
        self._poll = select.epoll()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[FromRunner] = msgspec.msgpack.Decoder(FromRunner)
        self._named: dict[int, int] = {}

    def __enter__(self) -> RunnerDriver:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Write the settings file and listen."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        Path(self.settings.pilot_folder).mkdir(parents=True, exist_ok=True)
        Path(self.settings.blob_folder).mkdir(parents=True, exist_ok=True)
        write_settings(self.folder, self.settings)
        self.resume()

    def resume(self) -> None:
        """Listen, as a restarted agent does."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        # A Unix address holds 108 bytes at most, so a deep folder is reached through an open descriptor.
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            (self.folder / AGENT_SOCKET).unlink(missing_ok=True)
            listener.bind(f"/proc/self/fd/{descriptor}/{AGENT_SOCKET}")
        finally:
            os.close(descriptor)
        listener.listen(16)
        self._listener = listener
        self._poll.register(listener, select.EPOLLIN)

    def pause(self) -> None:
        """Stop listening and drop all connections, as an agent that dies does."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            (self.folder / AGENT_SOCKET).unlink(missing_ok=True)
        for connection in self._connections.values():
            connection.socket.close()
        self._connections.clear()
        self._by_runner.clear()
        self.incarnation += 1

    def close(self) -> None:
        """Kill, by process id, all runners and every process that a message named, and stop listening."""
        self.pause()
        for process in self.processes.values():
            with process:
                if process.poll() is None:
                    # Stopped, it cannot start anything while its descendants are listed.
                    process.send_signal(signal.SIGSTOP)
                    self._named.update({pid: ticks for pid in descendants(process.pid) if (ticks := started_ticks(pid))})
                    process.kill()
        for pid, ticks in self._named.items():
            if started_ticks(pid) == ticks:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self._poll.close()

    def start_runner(self, module: str, runner: str) -> subprocess.Popen[bytes]:
        """Start ``main()`` of ``module`` as the runner of this name and wait for its hello."""
        runner_id = RunnerId(runner)
        command = python_command(module, str(self.folder), runner_id)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        self.processes[runner_id] = process
        self.wait_for(lambda: runner_id in self._by_runner, what=f"a hello of {runner}")
        return process

    # -- talk ---------------------------------------------------------------------------------------------------------

    def send(self, message: ToRunner, runner: str | None = None) -> None:
        """Send a message to the runner of this name (default: the only one that is connected)."""
        if runner is None:
            if len(self._by_runner) != 1:
                raise LookupError(f"name the runner: {len(self._by_runner)} are connected")
            (connection,) = self._by_runner.values()
        else:
            connection = self._by_runner[RunnerId(runner)]
        connection.writer.write(self._encoder.encode(message))
        self._flush(connection)

    def pump(self, timeout_s: float = 0.0) -> int:
        """Take in what arrives within ``timeout_s`` and return how many messages that were."""
        before = len(self.messages)
        for descriptor, event in self._poll.poll(timeout_s):
            if self._listener is not None and descriptor == self._listener.fileno():
                self._accept(self._listener)
                continue
            connection = self._connections.get(descriptor)
            if connection is None:
                continue
            if event & select.EPOLLOUT:
                self._flush(connection)
            if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._read(connection)
        return len(self.messages) - before

    def wait_for(self, predicate: Callable[[], Found], deadline_s: float = 20.0, what: str = "the condition") -> Found:
        """Take in messages until ``predicate()`` is true and return what it returned.

        Raises:
            AssertionError: it was not true within ``deadline_s``; tells the last messages and what the runners printed.
        """
        end = time.monotonic() + deadline_s
        while not (found := predicate()):
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError(f"no {what} within {deadline_s} s; last messages: {self.messages[-5:]}{self._printed()}")
            # Conditions may look at files and processes too, so they are tried again at times even if nothing arrives.
            self.pump(min(left, 0.02))
        return found

    # -- what arrived -------------------------------------------------------------------------------------------------

    def hellos(self) -> list[RunnerHello]:
        """Return all hellos, in order."""
        return [message for _, message in self.messages if isinstance(message, RunnerHello)]

    def ends(self) -> dict[str, AttemptEnd]:
        """Return the last end of each task that ended."""
        return {end.task: end for _, message in self.messages if isinstance(message, TasksEnded) for end in message.ends}

    def started(self) -> dict[str, int]:
        """Return the process id of each task that was told as started."""
        return {
            task: pid
            for _, message in self.messages
            if isinstance(message, TasksStarted)
            for task, _attempt, pid, _at in message.started
        }

    def returned(self) -> list[str]:
        """Return the tasks that came back as never begun, in order."""
        return [task for _, message in self.messages if isinstance(message, TasksReturned) for task, _ in message.executions]

    def reasons(self) -> list[str]:
        """Return why storage was told to be full, in order."""
        return [message.reason for _, message in self.messages if isinstance(message, StorageFull)]

    def workers_exited(self) -> dict[str, WorkerExited]:
        """Return the exits of function workers, by their name."""
        return {message.worker: message for _, message in self.messages if isinstance(message, WorkerExited)}

    def wait_for_end(self, task: str, deadline_s: float = 20.0) -> AttemptEnd:
        """Wait until this task has ended and return how."""
        return self.wait_for(lambda: self.ends().get(TaskUid(task)), deadline_s, f"end of {task}")  # type: ignore[return-value]

    def wait_for_ends(self, tasks: Iterable[str], deadline_s: float = 30.0) -> dict[str, AttemptEnd]:
        """Wait until all of these have ended and return how."""
        names = set(tasks)
        self.wait_for(lambda: names <= self.ends().keys(), deadline_s, f"ends of {len(names)} tasks")
        return {task: end for task, end in self.ends().items() if task in names}

    def wait_for_start(self, task: str, deadline_s: float = 20.0) -> int:
        """Wait until this task was told as started and return its process id."""
        return self.wait_for(lambda: self.started().get(task, 0), deadline_s, f"start of {task}")

    # -- inside -------------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.setblocking(False)
        self._connections[connection.fileno()] = RunnerConnection(connection)
        self._poll.register(connection, select.EPOLLIN)

    def _read(self, connection: RunnerConnection) -> None:
        try:
            frames = connection.reader.read()
        except Disconnected:
            self._connections.pop(connection.socket.fileno(), None)
            if connection.runner is not None and self._by_runner.get(connection.runner) is connection:
                del self._by_runner[connection.runner]
            connection.socket.close()
            return
        last_number = 0
        for frame in frames:
            message = self._decoder.decode(frame)
            if isinstance(message, RunnerHello):
                connection.runner = message.runner
                self._by_runner[message.runner] = connection
                if self.auto_welcome:
                    self.send(Welcome(self.incarnation, self.released.get(message.runner, 0)), message.runner)
            if connection.runner is None:
                raise AssertionError(f"a runner spoke before its hello: {message!r}")
            self.messages.append((connection.runner, message))
            if isinstance(message, TasksStarted):
                self._named.update({pid: ticks for _, _, pid, _ in message.started if (ticks := started_ticks(pid))})
            elif isinstance(message, TasksEnded):
                last_number = message.number
        if last_number and self.auto_release and connection.runner is not None:
            self.released[connection.runner] = last_number
            self.send(Release(last_number), connection.runner)

    def _flush(self, connection: RunnerConnection) -> None:
        try:
            done = connection.writer.flush()
        except Disconnected:
            return
        self._poll.modify(connection.socket, select.EPOLLIN if done else select.EPOLLIN | select.EPOLLOUT)

    def _printed(self) -> str:
        said = ""
        for path in sorted(Path(self.settings.pilot_folder).glob("*.err")):
            if text := path.read_text(errors="replace").strip():
                said += f"\n--- {path.name}\n{text[-2000:]}"
        return said


def default_settings(folder: Path, **changes: object) -> RunnerSettings:
    """Return settings of a one-node pilot whose pilot folder and blob folder lie in ``folder``."""
    settings = RunnerSettings(
        # Its own on this machine: what carries it in its environment may be ended as an orphan.
        session=SessionUid(f"session.{os.getpid()}"),
        pilot=PilotUid("pilot.0000"),
        pilot_folder=str(folder / "pilot"),
        blob_folder=str(folder / "blobs"),
        nodes=[Node(0, "node0", NodeShape(cores=16, gpus=4))],
        bind=False,
        environment={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder)},
        python_path=[],
        working_folder=str(folder),
    )
    return msgspec.structs.replace(settings, **changes)


def descendants(pid: int) -> list[int]:
    """Return the processes below ``pid``, parents first."""
    found: list[int] = []
    queue = [pid]
    while queue:
        for path in Path(f"/proc/{queue.pop()}/task").glob("*/children"):
            try:
                children = [int(child) for child in path.read_bytes().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
            found += children
            queue += children
    return found
