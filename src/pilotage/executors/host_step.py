"""Starts the hosts of a pilot's nodes by a launcher: one step for all of them. See ``hosts.HostStarter``.

A step is a process here, the launcher's, with which it ends. What it prints goes to ``hosts.<n>.err`` in the agent's folder,
what it needs of files lies in ``hosts/`` there. The process is marked in its environment, and belongs to the agent or, when
that is dead, to the agent's parent: so an agent finds the steps of those before it.

A launcher that was killed leaves what it had started. Where the batch system knows of steps, such a step is cancelled before it
is told as ended; where none does, it is not told, as its hosts may go on.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from pilotage.errors import BackendError
from pilotage.executors.hosts import HOST_MODULE, NODE_NAME, HostsEnded
from pilotage.launchers.method import StepControl
from pilotage.launchers.node_hosts import PBSDSH, host_line
from pilotage.launchers.outer import without_outer_launch
from pilotage.launchers.registry import launch_method
from pilotage.model.installed import Installed
from pilotage.platforms.allocations.host_lists import compress_hosts
from pilotage.system.processes import started_ticks
from pilotage.system.python import python_command

STEP_MARK = "PILOTAGE_HOSTS_OF"
"""In the environment of a step's process: the agent's folder."""

FILES_FOLDER = "hosts"
END_S = 5.0
"""For how long ``end`` waits for steps that were told to end, before it kills them."""

_CONFIRM_S = 60.0
_COMMAND_S = 20.0
_LOOK_S = 0.02
_LOOK_AT_STEPS_S = 0.5
_TOLD_BYTES = 2000


class HostStep:
    """Starts hosts by ``method``, a name of ``node_hosts.HOST_METHODS``, which is ``installed`` here.

    ``agent_folder`` is seen by all nodes. ``job``: id of the batch system's job; empty: none. ``gpus_per_node``: see
    ``host_line``. ``environment``: of the launcher; this process's, unless given.
    """

    def __init__(
        self,
        agent_folder: Path,
        method: str,
        installed: Installed,
        *,
        job: str = "",
        gpus_per_node: int | None = None,
        environment: Mapping[bytes, bytes] | None = None,
    ) -> None:
        self._folder = agent_folder
        self._method = method
        self._installed = installed
        self._job = job
        self._gpus_per_node = gpus_per_node
        self._environment = without_outer_launch(os.environb if environment is None else environment)
        self._running: dict[int, _Step] = {}
        self._over: deque[HostsEnded] = deque()
        self._poll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wakeup, select.EPOLLIN)
        self._closed = False

    def start(self, nodes: Sequence[str]) -> None:
        """Start a host on each of these nodes; see ``HostStarter``."""
        number, name = self._new_name()
        folder = self._folder / FILES_FOLDER
        line = host_line(
            self._method,
            self._installed,
            nodes,
            python_command(HOST_MODULE, str(self._folder)),
            name=name,
            folder=str(folder),
            node_variable=NODE_NAME,
            node_list=compress_hosts(nodes),
            environment=self._environment,
            gpus_per_node=self._gpus_per_node,
        )
        environment = {key: value for key, value in self._environment.items() if key not in line.unset}
        environment |= {**line.environment, STEP_MARK.encode(): os.fsencode(self._folder)}
        output = self._folder / f"hosts.{number}.err"
        try:
            for file, content in line.files.items():
                descriptor = os.open(folder / file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as written:
                    written.write(content)
            with open(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as printed:
                process = subprocess.Popen(
                    line.arguments,
                    env=environment,
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=printed,
                    start_new_session=True,
                )
        except OSError as error:
            raise BackendError(
                f"hosts on {len(nodes)} nodes could not be started by {self._method} ({line.arguments[0]}): {error.strerror}"
            ) from error
        step = _Step(process, tuple(nodes), name, output)
        self._running[step.descriptor] = step
        self._poll.register(step.descriptor, select.EPOLLIN)

    def fileno(self) -> int:
        """Return the descriptor that is readable while ``ended`` has something to tell."""
        return self._poll.fileno()

    def ended(self) -> HostsEnded | None:
        """Return the next step that is over and was not told yet."""
        for descriptor, _ in self._poll.poll(0):
            if descriptor in self._running:
                self._has_ended(self._forget(descriptor))
        try:
            os.eventfd_read(self._wakeup)
        except BlockingIOError:
            pass
        if not self._over:
            return None
        told = self._over.popleft()
        if self._over:
            os.eventfd_write(self._wakeup, 1)
        return told

    def end(self) -> None:
        """End all steps and hosts, those of earlier agents too; see ``HostStarter``."""
        names = [step.name for step in self._running.values()]
        ours = [step.process for step in self._running.values()]
        earlier = [pid for pid in earlier_steps(self._folder) if pid not in {process.pid for process in ours}]
        for pid in (*(process.pid for process in ours), *earlier):
            _signal(pid, signal.SIGTERM)
        until = time.monotonic() + END_S
        while time.monotonic() < until:
            ours = [process for process in ours if process.poll() is None]
            earlier = [pid for pid in earlier if started_ticks(pid) is not None]
            if not ours and not earlier:
                break
            time.sleep(_LOOK_S)
        for pid in (*(process.pid for process in ours), *earlier):
            _signal(pid, signal.SIGKILL)
        for process in ours:
            process.wait()
        if (ours or earlier) and (control := self._control()) is not None:
            self._cancel(control, None if earlier else names)
        self.leave()

    def leave(self) -> None:
        """Let go of all descriptors; hosts go on."""
        if self._closed:
            return
        self._closed = True
        for step in self._running.values():
            # It is a child of somebody else, or of nobody, when this process is gone.
            step.process.returncode = step.process.returncode or 0
            os.close(step.descriptor)
        self._running.clear()
        self._poll.close()
        os.close(self._wakeup)

    # ---------------------------------------------------------------------------------------------------- how steps end

    def _new_name(self) -> tuple[int, str]:
        """Return a number, and a name for a step, that none in this folder had before."""
        folder = self._folder / FILES_FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        number = 0
        while True:
            try:
                (folder / f"step.{number}").touch(mode=0o600, exist_ok=False)
            except FileExistsError:
                number += 1
                continue
            return number, f"{self._name}.{number}"

    @property
    def _name(self) -> str:
        return f"pilotage-hosts:{self._folder.name}"

    def _is_ours(self, name: str) -> bool:
        """Tell whether a step of this name is of an agent of this folder; other partitions' names may begin with its own."""
        return name.rpartition(".")[0] == self._name

    def _forget(self, descriptor: int) -> _Step:
        step = self._running.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        return step

    def _has_ended(self, step: _Step) -> None:
        exit_code = step.process.wait()
        if exit_code >= 0:
            self._over.append(step.told(exit_code))
        elif (control := self._control()) is not None:
            threading.Thread(target=self._confirm, args=(control, step, exit_code), name="hosts", daemon=True).start()
        else:
            sys.stderr.write(f"{self._method}, which had started hosts on {len(step.nodes)} nodes, was killed\n")

    def _confirm(self, control: StepControl, step: _Step, exit_code: int) -> None:
        """Cancel a step whose launcher was killed, and tell its end when it is over."""
        if self._cancel(control, [step.name], _CONFIRM_S) and not self._closed:
            self._over.append(step.told(exit_code))
            os.eventfd_write(self._wakeup, 1)

    def _control(self) -> StepControl | None:
        return None if self._method == PBSDSH or not self._job else launch_method(self._method).facts.steps

    def _cancel(self, control: StepControl, names: Sequence[str] | None, patience_s: float = 0.0) -> bool:
        """Cancel the steps of these names (None: all that keep hosts of this pilot); tell whether none is listed any more."""
        until = time.monotonic() + patience_s
        while True:
            try:
                listed = control.parse_steps(self._run(control.list_arguments(self._job)))
                left = [step for step in listed if (self._is_ours(step.name) if names is None else step.name in names)]
                for step in left:
                    self._run(control.cancel_arguments(self._job, step.id))
                if not left:
                    return True
            except (OSError, subprocess.SubprocessError) as error:
                sys.stderr.write(f"steps of {self._method} could not be looked after: {error}\n")
            if time.monotonic() >= until:
                return False
            time.sleep(_LOOK_AT_STEPS_S)

    def _run(self, command: list[str]) -> str:
        return subprocess.run(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=True,
        ).stdout


class _Step:
    """A launcher's process that was started for these nodes. ``descriptor`` is readable when it has ended."""

    def __init__(self, process: subprocess.Popen[bytes], nodes: tuple[str, ...], name: str, output: Path) -> None:
        self.process = process
        self.nodes = nodes
        self.name = name
        self._output = output
        self.descriptor = os.pidfd_open(process.pid)

    def told(self, exit_code: int) -> HostsEnded:
        """Return what is told of its end."""
        try:
            with open(self._output, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TOLD_BYTES))
                output = file.read().decode(errors="replace").strip()
        except OSError as error:
            output = f"{self._output} cannot be read: {error.strerror}"
        return HostsEnded(self.nodes, exit_code, output)


def earlier_steps(agent_folder: Path) -> list[int]:
    """Return the pids of the steps' processes that agents of this folder have left.

    They are children of the bootstrap: of this process's parent, or of that one's if this is the agent of a partition. Those of
    an agent on a thread are children of its head's process, which may be this one.
    """
    mark = f"{STEP_MARK}={agent_folder}".encode(errors="surrogateescape")
    parent = os.getppid()
    found = []
    for pid in dict.fromkeys(each for ancestor in (os.getpid(), parent, _parent_of(parent)) for each in _children(ancestor)):
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark in variables:
            found.append(pid)
    return [pid for pid in found if started_ticks(pid) is not None]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            continue
    return found


def _parent_of(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return pid
    return int(stat[stat.rindex(")") + 2 :].split()[1])


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
