"""What agents and heads do before their loops begin: recover, open the log, listen; and how loops are told to end."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotage.agent.bootstrap import CLAIM_FILE
from pilotage.agent.loop import PilotLoop
from pilotage.agent.settings import SETTINGS_FILE, PilotSettings
from pilotage.errors import BackendError, InvalidRequest, PilotageError
from pilotage.log.crashes import crashes_at, note_crash, note_start
from pilotage.log.reader import recover
from pilotage.log.writer import LogWriter
from pilotage.model.ids import TaskUid
from pilotage.system.processes import boot_id, started_ticks
from pilotage.wire.addresses import EVERYWHERE, HERE, addresses_here
from pilotage.wire.channel import AgentChannel, Role
from pilotage.wire.keys import Connection, generate_key_pair
from pilotage.wire.unix import CLIENT_SOCKET, UnixAgentChannel

if TYPE_CHECKING:
    from pilotage.agent.on_cluster import ClusterGround
    from pilotage.core.agent.core import AgentCore
    from pilotage.core.metascheduler.core import MetaschedulerCore

_PR_SET_PDEATHSIG = 1
ABANDONED = 3
"""The exit status of an agent that has ended, and not its pilot: of a partition without a head, or of a job that was ended."""
LATE_S = 300.0
"""So much later than it says a batch system may end a job; then it is not going to, and another agent goes on."""
QUARANTINE_CRASHES = 2
"""After so many crashes of agents at one record of the log the tasks that it names are ended."""


class CannotBegin(PilotageError):
    """The pilot can never begin as it is, so that another agent would come to nothing either."""


class EndCall:
    """How an agent's loop is told to end by others than its client: from a signal handler, or from another thread."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        """What the loop polls, and what wakes it."""
        self._loop: PilotLoop[Any] | None = None
        self._reason = ""
        self.stay_until: float | None = None
        """The job's end (seconds since the epoch), of which nobody has told this process: see ``stay``."""

    def hand_to(self, loop: PilotLoop[Any]) -> None:
        """This loop is told, also of what was said before there was one."""
        self._loop = loop
        if self._reason:
            loop.terminate(self._reason)

    def end(self, reason: str) -> None:
        """Have the loop end, now or as soon as there is one."""
        self._reason = reason
        if self._loop is not None:
            self._loop.terminate(reason)
        try:
            os.write(self.writer, b"\0")
        except BlockingIOError:
            return  # it is woken already

    @property
    def came(self) -> bool:
        """Whether the loop was told to end, or is to be as soon as there is one."""
        return bool(self._reason)

    def stay(self) -> None:
        """When the loop is over, and the job is to be ended by the batch system later: wait for that.

        What becomes of a job whose script ends before it is preempted, the batch system would not say.
        """
        while self.stay_until is not None and not self.came and (left_s := self.stay_until + LATE_S - time.time()) > 0:
            ready, _, _ = select.select([self.reader], [], [], left_s)
            if ready:
                os.read(self.reader, 4096)

    def close(self) -> None:
        """Let go of the descriptors, when the loop is over."""
        os.close(self.reader)
        os.close(self.writer)


def heed_signals(call: EndCall) -> None:
    """Let signals wake this process's loop, and TERM end the pilot. Only the main thread can."""
    signal.set_wakeup_fd(call.writer, warn_on_full_buffer=False)

    def terminate(number: int, _frame: object) -> None:
        call.end(f"the agent was told to end by {signal.Signals(number).name}")

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)


def end_with_job() -> None:
    """Have TERM come when the bootstrap, this process's parent, is gone: the job is over with it.

    A batch system that does not find what has lost its parent would leave this process to itself.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def times_of(settings: PilotSettings, job_end: float | None = None) -> tuple[float, float | None]:
    """Return when the pilot began, and when it ends at the latest (None: no limit), in seconds since the epoch.

    Both are by the clock of this machine, whatever those of the client, or of a file server, show. ``job_end``: when the time
    of the batch job is over, if that is known; the pilot ends ``end_margin_s`` before, so that it can tell how all ended.
    """
    began = _began(Path(settings.pilot_folder))
    ends = [began + settings.runtime_s] if settings.runtime_s else []
    if job_end is not None:
        ends.append(job_end - settings.end_margin_s)
    return began, min(ends, default=None)


def _began(pilot_folder: Path) -> float:
    try:
        _, ticks, boot = (pilot_folder / CLAIM_FILE).read_text().split()[:3]
    except (FileNotFoundError, ValueError):
        boot = ""
    if boot != boot_id():
        # There is no bootstrap, or it runs on another machine, whose time since boot says nothing here.
        return (pilot_folder / SETTINGS_FILE).stat().st_mtime
    since_boot_s = int(ticks) / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot_s)


def cluster_ground(settings: PilotSettings, call: EndCall) -> ClusterGround | None:
    """Return what an agent on a cluster stands on; None: it was told to end before it had that.

    Raises:
        CannotBegin: there is none.
    """
    from pilotage.agent.on_cluster import ClusterGround

    try:
        return ClusterGround.take(settings, lambda: call.came)
    except (BackendError, InvalidRequest) as error:
        raise CannotBegin(str(error)) from error


def was_begun(log_folder: Path) -> bool:
    """Tell whether there is a log of an agent before this one, and note that we begin with it."""
    if not log_folder.exists():
        return False
    note_start(log_folder, recover(log_folder).last)
    return True


def quarantine(core: AgentCore | MetaschedulerCore, log_folder: Path, named: Callable[[Path], list[TaskUid]]) -> None:
    """End the tasks that the log's last record names, as ``named`` returns them, if agents died of it."""
    last = recover(log_folder).last
    crashes = crashes_at(log_folder, last)
    if crashes < QUARANTINE_CRASHES:
        return
    message = (
        f"quarantined: the agent crashed {crashes} times at record {last} of its log, which names this task; "
        "agent.err in the pilot's folder says how. Submit the task again only if it is not the cause"
    )
    core.quarantine(time.time(), named(log_folder), message)


def note_own_crash(log_folder: Path) -> None:
    """Count that this agent ends by an error of its own."""
    try:
        note_crash(log_folder, recover(log_folder).last)
    except (PilotageError, OSError) as error:
        sys.stderr.write(f"the crash could not be counted: {error}\n")


def open_log(settings: PilotSettings, folder: Path, incarnation: int, sync_before: Sequence[Callable[[], None]]) -> LogWriter:
    """Open the log for writing; what ``sync_before`` does comes before each sync."""
    kind = LogWriter
    sync_before = list(sync_before)
    if not settings.log:
        from pilotage.log.unwritten import UnwrittenLog

        kind = UnwrittenLog
    if settings.sync_delay_s:
        sync_before.append(lambda: time.sleep(settings.sync_delay_s))
    return kind.open(
        folder, writer=f"{settings.pilot}.{incarnation}", keep_history=settings.keep_history, sync_before=sync_before
    )


def listen(settings: PilotSettings, folder: Path, incarnation: int) -> tuple[list[AgentChannel], Connection]:
    """Open the channels on which the client and observers are heard; return them, and how they are found."""
    channels: list[AgentChannel] = [UnixAgentChannel.bind(folder / CLIENT_SOCKET)]
    tcp: tuple[str, ...] = ()
    server_key = ""
    if settings.transport == "tcp":
        from pilotage.wire.tcp import TcpAgentChannel

        keys = generate_key_pair()
        allowed = dict.fromkeys(settings.observer_keys, Role.OBSERVER) | dict.fromkeys(settings.client_keys, Role.CLIENT)
        channel = TcpAgentChannel.bind(keys, allowed, EVERYWHERE if settings.across_machines else HERE)
        channels.append(channel)
        tcp, server_key = _endpoints(channel.endpoint), keys.public
    pid = os.getpid()
    connection = Connection(
        settings.pilot,
        incarnation,
        socket.gethostname(),
        boot_id(),
        pid,
        started_ticks(pid) or 0,
        str(folder / CLIENT_SOCKET),
        tcp,
        server_key,
    )
    return channels, connection


def _endpoints(bound: str) -> tuple[str, ...]:
    """Return under which endpoints one is reached that listens at ``bound``."""
    address, _, port = bound.rpartition(":")
    if address != f"tcp://{EVERYWHERE}":
        return (bound,)
    return tuple(f"tcp://{name}:{port}" for name in addresses_here())
