"""A partition's agent in a process of its own: a child of its head, or one that was found and goes on from an earlier head."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from pilotage.agent.claim import TAKEN, claimant
from pilotage.agent.startup import ABANDONED
from pilotage.agent.sub_agent import OUTPUT_FILE, AgentEnd
from pilotage.system.python import python_command

_READY_FD = 3


class AgentProcess:
    """An agent's process; made by ``spawn`` or ``find``. See ``RunningAgent``."""

    outlives_head = True

    def __init__(self, pid: int, ended_fd: int, ready_fd: int = -1) -> None:
        self._pid = pid
        self.ended_fd = ended_fd
        self.ready_fd = ready_fd

    @classmethod
    def spawn(cls, folder: Path, incarnation: int) -> AgentProcess:
        """Start an agent.

        Raises:
            OSError: no process started.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            command = python_command("pilotage.agent.main", str(folder), str(incarnation), str(_READY_FD))
            output = os.fspath(folder / OUTPUT_FILE)
            pid = os.posix_spawn(
                command[0],
                command,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, writer, _READY_FD),
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        return cls(pid, os.pidfd_open(pid), reader)

    @classmethod
    def find(cls, folder: Path) -> AgentProcess | None:
        """Look for an agent that runs already."""
        pid = claimant(folder)
        if pid is None:
            return None
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        if claimant(folder) != pid:
            os.close(descriptor)
            return None
        return cls(pid, descriptor)

    def terminate(self) -> None:
        """Tell it to end."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.ended_fd, signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        signal.pidfd_send_signal(self.ended_fd, signal.SIGKILL)

    def reap(self) -> AgentEnd:
        """Return how it ended, as far as it is known of one that need not be our child."""
        try:
            pid, raw = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:
            pid = 0
        if not pid:
            return AgentEnd("its agent is gone")
        status = os.waitstatus_to_exitcode(raw)
        how = f"its agent was killed by signal {-status}" if status < 0 else f"its agent exited with {status}"
        return AgentEnd(how, is_taken=status == TAKEN, was_told=status in (ABANDONED, -signal.SIGTERM))
