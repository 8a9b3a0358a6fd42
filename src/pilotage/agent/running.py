"""The life of one agent, from its log to its end, whatever it runs in: a process of its own, or a thread of its head's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pilotage.agent.agent import Agent
from pilotage.agent.client_link import ClientLink
from pilotage.agent.crew import Crew
from pilotage.agent.job_watch import JobWatch, watch_of
from pilotage.agent.recovery import recover_state, tasks_of_last_record
from pilotage.agent.result_blobs import ResultBlobs
from pilotage.agent.settings import CONNECTION_FILE, LOG_FOLDER, PilotSettings
from pilotage.agent.simulated_crew import SimulatedCrew
from pilotage.agent.startup import EndCall, cluster_ground, listen, open_log, quarantine, times_of, was_begun
from pilotage.core.agent.core import AgentCore
from pilotage.core.scheduling import make_policy
from pilotage.executors.base import Executor
from pilotage.executors.local import LocalExecutor
from pilotage.executors.simulated import SimulatedExecutor
from pilotage.log.crashes import note_progress
from pilotage.model.sandboxes import TASKS_FOLDER
from pilotage.wire.keys import write_connection
from pilotage.wire.runner_settings import NOTIFY_SOCKET, RunnerSettings, write_settings

if TYPE_CHECKING:
    from pilotage.agent.on_cluster import ClusterGround

STOP_GRACE_S = 5.0


def run_agent(settings: PilotSettings, folder: Path, incarnation: int, ready: Callable[[], None], call: EndCall) -> str:
    """Run the pilot, or its partition, to its end. Return why that was not waited for, if so; see ``Agent.abandoned``.

    ``folder`` is the agent's private one. ``ready`` is called when the agent listens; ``call`` can end it. What is raised ends
    the agent, and nothing that runs: all descriptors and threads are let go, and another agent may come.
    """
    ground = None
    if settings.executor == "cluster":
        ground = cluster_ground(settings, call)
        if ground is None:
            return ""
        settings = ground.settings
    agent_folder = settings.agent_folder
    log_folder = agent_folder / LOG_FOLDER
    with ExitStack() as held:
        if ground is not None:
            held.callback(ground.leave)
        state = recover_state(log_folder)[0] if was_begun(log_folder) else None
        facts_of_before = ground.facts_of_before(state) if ground is not None and state is not None else []
        began, deadline = times_of(settings, ground.found.end_s if ground is not None else None)
        core = AgentCore(
            make_policy(settings.scheduler, settings.nodes, present=settings.present, end=deadline),
            spawners=settings.spawners,
            deadline=deadline,
            state=state,
            nodes=settings.present or (),
            idle_timeout_s=settings.idle_timeout_s,
            barrier=settings.startup_barrier,
            hosts=ground.hosts if ground is not None else (),
            launches=ground.launches if ground is not None else 0,
            partitions=settings.launch_share,
            drain_s=settings.drain_s,
            checkpoint_signal=settings.checkpoint_signal,
            in_job=settings.batch != "local",
            successor_s=deadline - began if settings.followed and deadline is not None else 0.0,
        )
        if state is not None:
            core.recover(time.time())
            quarantine(core, log_folder, tasks_of_last_record)
        blobs = ResultBlobs(Path(settings.blob_folder))
        held.callback(blobs.close)
        log = open_log(settings, log_folder, incarnation, [blobs.sync])
        held.callback(log.close)
        if facts_of_before:
            log.append(msgspec.msgpack.encode(facts_of_before))
        if ground is not None:
            log.sync()
            ground.note()
        channels, connection = listen(settings, folder, incarnation)
        for channel in reversed(channels):
            held.callback(channel.close)
        watch = watch_of(settings, ground.found) if ground is not None else None
        executor = _executor(settings, folder, agent_folder, incarnation, ground, deadline, watch)
        held.push(lambda kind, *_: executor.close(STOP_GRACE_S) if kind is None else executor.leave())
        crew = (SimulatedCrew if settings.executor == "simulated" else Crew)(settings, folder, incarnation, executor)
        held.callback(crew.close)
        link = ClientLink(settings, core.state, incarnation, began, log.sync)
        loop = Agent(settings, core, log, executor, channels, link, call.reader, blobs, crew, watch)
        held.callback(loop.close)
        for note in ground.found.notes if ground is not None else ():
            loop.notice(note)
        call.hand_to(loop)
        crew.start()
        executor.start(loop, dict(core.state.runners))
        write_connection(agent_folder / CONNECTION_FILE, connection)
        ready()
        loop.run()
    if loop.abandoned and not settings.partition:
        call.stay_until = loop.job_end_s
    note_progress(log_folder)
    return loop.abandoned


def _executor(
    settings: PilotSettings,
    folder: Path,
    agent_folder: Path,
    incarnation: int,
    ground: ClusterGround | None,
    deadline: float | None,
    watch: JobWatch | None,
) -> Executor:
    if settings.executor == "simulated":
        return SimulatedExecutor(settings.simulated_duration_s)
    Path(settings.pilot_folder, TASKS_FOLDER).mkdir(mode=0o700, exist_ok=True)
    if ground is not None:
        return ground.executor(folder, incarnation, deadline or 0.0, watch)
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
            end_time=deadline or 0.0,
        ),
    )
    return LocalExecutor(folder, settings.session, settings.pilot, agent_folder, incarnation, partition=settings.partition)
