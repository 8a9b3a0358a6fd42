"""The agent's process: recovers what the log holds, opens its sockets, runs the loop, and leaves nothing behind.

Arguments: the agent's folder, which incarnation of the agent this is, and the descriptor on which to say that it is ready.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotage.agent.agent import Agent
from pilotage.agent.claim import TAKEN, claim
from pilotage.agent.client_link import ClientLink
from pilotage.agent.crew import Crew
from pilotage.agent.loop import PilotLoop
from pilotage.agent.private_folder import private_folder, remove_private_folder
from pilotage.agent.recovery import recover_state, tasks_of_last_record
from pilotage.agent.result_blobs import ResultBlobs
from pilotage.agent.settings import CONNECTION_FILE, LOG_FOLDER, SETTINGS_FILE, PilotSettings, read_settings
from pilotage.agent.simulated_crew import SimulatedCrew
from pilotage.core.agent.core import AgentCore
from pilotage.core.agent.state import AgentState
from pilotage.core.scheduling import Policy, make_policy
from pilotage.errors import PilotageError
from pilotage.executors.base import Executor
from pilotage.executors.local import LocalExecutor
from pilotage.executors.simulated import SimulatedExecutor
from pilotage.log.crashes import crashes_at, note_crash, note_progress, note_start
from pilotage.log.reader import recover
from pilotage.log.writer import LogWriter
from pilotage.model.ids import TaskUid
from pilotage.model.sandboxes import TASKS_FOLDER
from pilotage.system.processes import boot_id, started_ticks
from pilotage.wire.channel import AgentChannel, Role
from pilotage.wire.keys import Connection, generate_key_pair, write_connection
from pilotage.wire.runner_settings import NOTIFY_SOCKET, RunnerSettings, write_settings
from pilotage.wire.unix import CLIENT_SOCKET, UnixAgentChannel

if TYPE_CHECKING:
    from pilotage.core.metascheduler.core import MetaschedulerCore

STOP_GRACE_S = 5.0
ABANDONED = 1
"""The exit status of a partition's agent that has ended without its head."""
QUARANTINE_CRASHES = 2
"""After so many crashes of agents at one record of the log the tasks that it names are ended."""
_YOUNG_OBJECTS = 50_000


def main() -> None:
    """Run the agent described by the command line; exits with 0 when the pilot, or its partition, has ended."""
    agent_folder, incarnation, ready = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    # What lives long here are plain values without cycles; looking for garbage among millions of them is time lost.
    gc.set_threshold(_YOUNG_OBJECTS, 50, 100)
    settings = read_settings(agent_folder)
    if settings.partition and not claim(agent_folder):
        os._exit(TAKEN)
    folder = private_folder(agent_folder)
    status = 0
    try:
        if settings.partitions:
            from pilotage.agent.head_main import run_head

            run_head(settings, folder, incarnation, ready)
        elif abandoned := run_agent(settings, folder, incarnation, ready):
            sys.stderr.write(f"this agent of partition {settings.partition} ends: {abandoned}\n")
            status = ABANDONED
    except BaseException:  # root of the process
        note_own_crash(agent_folder / LOG_FOLDER)
        raise
    remove_private_folder(folder)
    sys.stderr.flush()
    # Nothing is left to be cleaned up; the interpreter's own way out would take longer than the pilot's end.
    os._exit(status)


def run_agent(settings: PilotSettings, folder: Path, incarnation: int, ready: int) -> str:
    """Run the pilot, or its partition, to its end. Return why that was not waited for, if so; see ``Agent.abandoned``."""
    agent_folder = settings.agent_folder
    log_folder = agent_folder / LOG_FOLDER
    state = _recover(log_folder)
    began, deadline = times_of(settings)
    core = AgentCore(
        _policy(settings, deadline),
        spawners=settings.spawners,
        deadline=deadline,
        state=state,
        nodes=settings.present or (),
        idle_timeout_s=settings.idle_timeout_s,
        barrier=settings.startup_barrier,
    )
    if state is not None:
        core.recover(time.time())
        _quarantine(core, log_folder)
    blobs = ResultBlobs(Path(settings.blob_folder))
    log = open_log(settings, log_folder, incarnation, [blobs.sync])
    executor = _executor(settings, folder, agent_folder, incarnation)
    channels, connection = listen(settings, folder, incarnation)
    link = ClientLink(settings, core.state, incarnation, began, log.sync)
    wakeup, loops = signals()
    crew = (SimulatedCrew if settings.executor == "simulated" else Crew)(settings, folder, incarnation, executor)
    loop = Agent(settings, core, log, executor, channels, link, wakeup, blobs, crew)
    loops.append(loop)
    crew.start()
    executor.start(loop, dict(core.state.runners))
    write_connection(agent_folder / CONNECTION_FILE, connection)
    tell_ready(ready)
    loop.run()
    crew.close()
    executor.close(STOP_GRACE_S)
    for channel in channels:
        channel.close()
    log.close()
    blobs.close()
    note_progress(log_folder)
    return loop.abandoned


def times_of(settings: PilotSettings) -> tuple[float, float | None]:
    """Return when the pilot began, and when it ends at the latest (None: no limit), in seconds since the epoch."""
    began = (Path(settings.pilot_folder) / SETTINGS_FILE).stat().st_mtime
    return began, began + settings.runtime_s if settings.runtime_s else None


def tell_ready(ready: int) -> None:
    """Say on this descriptor that the agent listens; -1: nobody wants to know."""
    if ready >= 0:
        try:
            os.write(ready, b"1")
            os.close(ready)
        except OSError:
            # The client is gone, or this is not the first agent; both are found out in other ways.
            pass


def _policy(settings: PilotSettings, deadline: float | None) -> Policy:
    return make_policy(settings.scheduler, settings.nodes, present=settings.present, end=deadline)


def _recover(log_folder: Path) -> AgentState | None:
    return recover_state(log_folder)[0] if was_begun(log_folder) else None


def was_begun(log_folder: Path) -> bool:
    """Tell whether there is a log of an agent before this one, and note that we begin with it."""
    if not log_folder.exists():
        return False
    note_start(log_folder, recover(log_folder).last)
    return True


def _quarantine(core: AgentCore, log_folder: Path) -> None:
    quarantine(core, log_folder, tasks_of_last_record)


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
    """Count that this process ends by an error of its own."""
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


def _executor(settings: PilotSettings, folder: Path, agent_folder: Path, incarnation: int) -> Executor:
    if settings.executor == "simulated":
        return SimulatedExecutor(settings.simulated_duration_s)
    Path(settings.pilot_folder, TASKS_FOLDER).mkdir(mode=0o700, exist_ok=True)
    write_settings(
        folder,
        RunnerSettings(
            settings.session,
            settings.pilot,
            settings.pilot_folder,
            settings.blob_folder,
            settings.nodes,
            settings.bind,
            settings.environment,
            settings.python_path,
            settings.working_folder,
            sorted(os.sched_getaffinity(0)) if settings.bind else [],
            str(folder / NOTIFY_SOCKET),
            settings.partition,
            str(agent_folder),
        ),
    )
    return LocalExecutor(folder, settings.session, settings.pilot, agent_folder, incarnation, partition=settings.partition)


def listen(settings: PilotSettings, folder: Path, incarnation: int) -> tuple[list[AgentChannel], Connection]:
    """Open the channels on which the client and observers are heard; return them, and how they are found."""
    channels: list[AgentChannel] = [UnixAgentChannel.bind(folder / CLIENT_SOCKET)]
    tcp: tuple[str, ...] = ()
    server_key = ""
    if settings.transport == "tcp":
        from pilotage.wire.zeromq import TcpAgentChannel

        keys = generate_key_pair()
        allowed = dict.fromkeys(settings.observer_keys, Role.OBSERVER) | dict.fromkeys(settings.client_keys, Role.CLIENT)
        channel = TcpAgentChannel.bind(keys, allowed)
        channels.append(channel)
        tcp, server_key = (channel.endpoint,), keys.public
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


def signals() -> tuple[int, list[PilotLoop[Any]]]:
    """Let signals wake the loop, and TERM end the pilot. Returns the descriptor to poll and where to put the loop."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    loops: list[PilotLoop[Any]] = []

    def terminate(number: int, _frame: object) -> None:
        for loop in loops:
            loop.terminate(f"the agent was told to end by {signal.Signals(number).name}")

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    return reader, loops
