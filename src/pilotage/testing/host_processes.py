"""Hosts of nodes as processes of this machine: a ``HostStarter`` for tests, without a batch system.

Each "node" has a name and a ``TMPDIR`` of its own. A step is the hosts that were started together; it is over when all of them
are; with ``all_gone`` what they had started is ended then, as a batch system does. Starters of one pilot's agents, one after
the other, are given the same ``steps``.
"""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pilotage.executors.hosts import HOST_MODULE, NODE_NAME, HostsEnded
from pilotage.executors.orphans import end_orphans, end_runners, marks_of
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.system.python import python_command

_END_S = 20.0


class HostProcess(NamedTuple):
    """A host that was started. ``folder`` is its ``TMPDIR``."""

    name: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def private_folder(self) -> Path | None:
        """Where it listens for its runners; None as long as it has not begun."""
        return next(self.folder.glob("pilotage-*/*"), None)


class HostProcesses:
    """The hosts of one pilot. ``temporary`` is where their ``TMPDIR`` are made."""

    def __init__(
        self,
        agent_folder: Path,
        temporary: Path,
        session: SessionUid,
        pilot: PilotUid,
        steps: list[list[HostProcess]] | None = None,
        *,
        all_gone: bool = False,
    ) -> None:
        self.steps = [] if steps is None else steps
        self.started: list[tuple[str, ...]] = []
        """The names that each call of ``start`` was given."""
        self._session = session
        self._pilot = pilot
        self._agent_folder = agent_folder
        self._temporary = temporary
        self._all_gone = all_gone
        self._poll: select.epoll | None = None
        self._pidfds: list[int] = []

    def start(self, nodes: Sequence[str]) -> None:
        """Start a process for each."""
        self.started.append(tuple(nodes))
        step = []
        for name in nodes:
            folder = self._temporary / name
            folder.mkdir(exist_ok=True)
            environment = {**os.environ, NODE_NAME: name, "TMPDIR": str(folder)}
            process = subprocess.Popen(python_command(HOST_MODULE, str(self._agent_folder)), env=environment)
            step.append(HostProcess(name, folder, process))
        self.steps.append(step)
        self._watch(step)

    def fileno(self) -> int:
        """Return what is readable when a process has ended."""
        return -1 if self._poll is None else self._poll.fileno()

    def ended(self) -> HostsEnded | None:
        """Return a step whose processes have all ended."""
        for step in self.steps:
            if all(host.process.poll() is not None for host in step):
                self.steps.remove(step)
                self._watch_all()
                codes = [host.process.returncode for host in step]
                names = tuple(host.name for host in step)
                if self._all_gone:
                    for host in step:
                        self._end_all_of(host)
                return HostsEnded(names, max(codes, key=abs), f"hosts ended with {codes}", self._all_gone)
        return None

    def end(self) -> None:
        """End all hosts."""
        self.leave()
        hosts = [host for step in self.steps for host in step]
        for host in hosts:
            host.process.terminate()
        for host in hosts:
            try:
                host.process.wait(_END_S)
            except subprocess.TimeoutExpired:
                host.process.kill()
                host.process.wait()
        self.steps.clear()

    def leave(self) -> None:
        """Let go of the descriptors."""
        for descriptor in self._pidfds:
            os.close(descriptor)
        self._pidfds.clear()
        if self._poll is not None:
            self._poll.close()
            self._poll = None

    def host(self, name: str) -> HostProcess:
        """Return the host of this name that was started last."""
        return [host for step in self.steps for host in step if host.name == name][-1]

    def kill(self, name: str) -> HostProcess:
        """Kill the host of this name, without a word to what it has started, and return it."""
        host = self.host(name)
        host.process.kill()
        host.process.wait()
        return host

    def _watch_all(self) -> None:
        self.leave()
        for step in self.steps:
            self._watch(step)

    def _watch(self, step: Sequence[HostProcess]) -> None:
        if self._poll is None:
            self._poll = select.epoll()
        for host in step:
            if host.process.poll() is None:
                self._pidfds.append(os.pidfd_open(host.process.pid))
                self._poll.register(self._pidfds[-1], select.EPOLLIN)

    def _end_all_of(self, host: HostProcess) -> None:
        folder = host.private_folder
        if folder is not None:
            end_runners(folder, 0.0, _END_S)
        end_orphans(self._session, self._pilot, (), _END_S, marked=marks_of("", host.name))
