"""A local executor with fake runners at real sockets: each runner is a sleeping process, for which the test speaks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pilotage.executors import spawner_process
from pilotage.executors.local import LocalExecutor
from pilotage.executors.orphans import end_orphans
from pilotage.model.execution import Execution, LaneTasks
from pilotage.model.ids import Attempt, LaneId, PilotUid, RunnerId, SessionUid, TaskUid, TemplateId
from pilotage.model.resources import NodeShare
from pilotage.model.workload import Row, Template
from pilotage.system.processes import boot_id, started_ticks
from pilotage.wire import runner_messages as wire
from pilotage.wire.framing import Disconnected, FrameReader, FrameWriter
from pilotage.wire.runner_settings import AGENT_SOCKET
from pilotage.workers.progress import create_progress

PILOT = PilotUid("pilot.0000")
SPAWNER = RunnerId("spawner.0")
WORKER = RunnerId("worker.1")
PLACEMENT = (NodeShare(0, 1, b"\x01"),)
TEMPLATES = {TemplateId(1): Template(executable="/bin/true"), TemplateId(2): Template(mode="function", function=b"f")}
PATIENCE_S = 60.0

_decode = msgspec.msgpack.Decoder(wire.ToRunner).decode


def execution(uid: str, attempt: int = 1) -> Execution:
    return TaskUid(uid), Attempt(attempt)


def lane(number: int, *uids: str, template: int = 1) -> LaneTasks:
    return LaneTasks(LaneId(number), PLACEMENT, [(Attempt(1), Row(TaskUid(uid), TemplateId(template))) for uid in uids])


class FakeRunner:
    """Speaks for the process ``pid`` over the agent's socket."""

    def __init__(self, folder: Path, name: RunnerId, pid: int) -> None:
        self.folder = folder
        self.name = name
        self.pid = pid
        self.heard: list[Any] = []
        self.socket: socket.socket | None = None
        self.words = create_progress(folder, name) if name.startswith("worker") else None

    def hello(self, holds: list[Execution] | None = None, sent: int = 0) -> None:
        self.close()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            connection.connect(f"/proc/self/fd/{descriptor}/{AGENT_SOCKET}")
        finally:
            os.close(descriptor)
        connection.setblocking(False)
        self.socket, self.reader, self.writer = connection, FrameReader(connection), FrameWriter(connection)
        if self.words is not None:
            self.words[3] += 1
        self.say(wire.RunnerHello(self.name, self.pid, started_ticks(self.pid) or 0, boot_id(), holds or [], sent))

    def say(self, message: wire.FromRunner) -> None:
        self.say_bytes(msgspec.msgpack.encode(message))

    def say_bytes(self, frame: bytes) -> None:
        self.writer.write(frame)
        assert self.writer.flush()

    def listen(self) -> list[Any]:
        """Return all that this runner has heard so far."""
        if self.socket is not None:
            try:
                self.heard += [_decode(frame) for frame in self.reader.read()]
            except Disconnected:
                self.close()
        return self.heard

    def launched(self) -> list[str]:
        return [
            row.uid
            for message in self.listen()
            if isinstance(message, wire.Launch)
            for tasks in message.lanes
            for _, row in tasks.tasks
        ]

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class Stage:
    """An executor, what it told, and the processes of this test."""

    def __init__(self, folder: Path, monkeypatch: Any) -> None:
        self.folder = folder
        self.session = SessionUid(f"session.{folder.parent.name}.{os.getpid()}")
        self.told: list[tuple[Any, ...]] = []
        self.sleepers: list[subprocess.Popen[bytes]] = []
        self.runners: list[FakeRunner] = []
        monkeypatch.setattr(spawner_process, "python_command", lambda *arguments: ["/bin/sleep", "1000"])
        self.executor = LocalExecutor(folder, self.session, PILOT, folder, 1)

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Be the listener: note every call."""
        if name.startswith(("runner_", "tasks_", "storage_")):
            return lambda *arguments: self.told.append((name, *arguments))
        raise AttributeError(name)

    def start(self, known: dict[RunnerId, Any] | None = None) -> None:
        self.executor.start(self, known or {})

    def sleeper(self) -> int:
        """Start a process for a runner that the executor does not start itself."""
        self.sleepers.append(subprocess.Popen(["/bin/sleep", "1000"]))
        return self.sleepers[-1].pid

    def runner(self, name: RunnerId, pid: int) -> FakeRunner:
        self.runners.append(FakeRunner(self.folder, name, pid))
        return self.runners[-1]

    def spawner(self) -> FakeRunner:
        """A spawner that the executor started, connected and welcomed."""
        self.executor.start_runner(SPAWNER, None, {})
        runner = self.runner(SPAWNER, self.pid_of(SPAWNER))
        runner.hello()
        self.until(lambda: self.was_told("runner_connected", SPAWNER))
        self.executor.flush()
        return runner

    def worker(self) -> FakeRunner:
        """A worker that the spawner started, connected and welcomed."""
        self.executor.start_runner(WORKER, SPAWNER, {})
        runner = self.runner(WORKER, self.sleeper())
        runner.hello()
        self.until(lambda: self.was_told("runner_connected", WORKER))
        self.executor.flush()
        return runner

    def pid_of(self, runner: RunnerId) -> int:
        return self.executor._runners.by_name[runner].pid

    def was_told(self, *beginning: Any) -> list[tuple[Any, ...]]:
        return [call for call in self.told if call[: len(beginning)] == beginning]

    def turn(self) -> None:
        self.executor.turn(time.time())

    def until(self, condition: Callable[[], Any]) -> Any:
        """Turn, with a commit after each turn, until the condition holds."""
        end = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            assert time.monotonic() < end, f"waited in vain; told: {self.told[-8:]}"
            self.turn()
            if not condition():
                self.executor.flush()
        return found

    def kill(self, runner: FakeRunner) -> None:
        os.kill(runner.pid, signal.SIGKILL)
        for process in self.sleepers:
            if process.pid == runner.pid:
                process.wait()
        runner.close()

    def close(self) -> None:
        for runner in self.runners:
            runner.close()
        for process in self.sleepers:
            process.kill()
            process.wait()
        for record in self.executor._runners.by_name.values():
            record.kill()
        self.executor.close(0.0)
        end_orphans(self.session, PILOT, (), 5.0)


def orphaned_sleeper(session: SessionUid, **marks: str) -> int:
    """Have a process sleep that belongs to nobody, in a session of its own, its parent and grandparent gone; return its pid."""
    environment = {**os.environ, "PILOTAGE_SESSION_ID": session, "PILOTAGE_PILOT_ID": PILOT, **marks}
    reader, writer = os.pipe()
    # It is there, and has its environment, when it has said who it is.
    program = "(setsid sh -c 'echo $$; exec sleep 1000 >/dev/null' &)"
    subprocess.run(["setsid", "sh", "-c", program], env=environment, stdout=writer, check=True)
    os.close(writer)
    with open(reader) as said:
        return int(said.readline())
