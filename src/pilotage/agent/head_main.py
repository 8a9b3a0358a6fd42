"""The life of a head: as ``agent.running``, for a pilot with partitions. It has a process of its own, or one for all."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pilotage.agent.client_link import ClientLink
from pilotage.agent.head import Head
from pilotage.agent.head_recovery import recover_head, tasks_of_last_head_record
from pilotage.agent.job_watch import watch_of
from pilotage.agent.settings import CONNECTION_FILE, LOG_FOLDER, PilotSettings
from pilotage.agent.startup import CannotBegin, EndCall, cluster_ground, listen, open_log, quarantine, times_of, was_begun
from pilotage.core.metascheduler.core import MetaschedulerCore
from pilotage.errors import InvalidPilot
from pilotage.log.crashes import note_progress
from pilotage.wire.keys import write_connection


def run_head(settings: PilotSettings, folder: Path, incarnation: int, ready: Callable[[], None], call: EndCall) -> str:
    """Run the pilot to its end. Return why that was not waited for, if so; see ``Head.abandoned``.

    ``folder`` is the head's private one; ``ready`` is called when it listens.
    """
    ground = None
    if settings.executor == "cluster":
        ground = cluster_ground(settings, call)
        if ground is None:
            return ""
        settings = ground.settings
    pilot_folder = settings.agent_folder
    log_folder = pilot_folder / LOG_FOLDER
    state = recover_head(log_folder) if was_begun(log_folder) else None
    began, deadline = times_of(settings, ground.found.end_s if ground is not None else None)
    try:
        core = MetaschedulerCore(
            settings.partitions,
            settings.nodes,
            deadline=deadline,
            idle_timeout_s=settings.idle_timeout_s,
            barrier=settings.startup_barrier,
            drain_s=settings.drain_s,
            missing=ground.found.missing if ground is not None else 0,
            state=state,
        )
    except InvalidPilot as error:
        # What nodes there are is known only here.
        raise CannotBegin(str(error)) from error
    if state is not None:
        core.recover(time.time())
        quarantine(core, log_folder, tasks_of_last_head_record)
    log = open_log(settings, log_folder, incarnation, [])
    if ground is not None:
        # Before any partition begins, whose agents read it.
        ground.note()
    channels, connection = listen(settings, folder, incarnation)
    link = ClientLink(settings, core.state, incarnation, began, log.sync)
    watch = watch_of(settings, ground.found) if ground is not None else None
    loop = Head(settings, core, log, channels, link, call.reader, incarnation, watch)
    for note in ground.found.notes if ground is not None else ():
        loop.notice(note)
    call.hand_to(loop)
    write_connection(pilot_folder / CONNECTION_FILE, connection)
    ready()
    loop.run()
    loop.close()
    for channel in channels:
        channel.close()
    log.close()
    if loop.abandoned:
        call.stay_until = loop.job_end_s
    note_progress(log_folder)
    return loop.abandoned
