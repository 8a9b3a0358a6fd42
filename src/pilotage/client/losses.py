"""What became of a pilot that is gone without a goodbye: its log has the last word, once nothing of it runs any more."""

from __future__ import annotations

import logging
import os
import time

import msgspec

from pilotage.batch.job import JobState
from pilotage.client.job_words import end_of
from pilotage.client.launcher import tail_of_output
from pilotage.client.pilot_link import PilotLink
from pilotage.core.agent.aftermath import Aftermath
from pilotage.core.client import events
from pilotage.core.client.state import PilotRecord
from pilotage.errors import LogCorrupted, PilotageError

log = logging.getLogger("pilotage")

_COMPLETE = tuple(state.value for state in JobState if state.is_final and state is not JobState.NODE_FAILED)
"""Ends of jobs after which all is there that their processes wrote: no node was lost with it. Of others see ``JobTold``."""
_UNEXPLAINED = (JobState.DONE.value, JobState.FAILED.value, JobState.UNKNOWN.value)
"""Ends of jobs that do not say why: what the agent printed may."""


def lost_processes(link: PilotLink) -> events.PilotLost | None:
    """Return what became of a pilot on this machine, of which what is left is ended; None while something cannot be ended."""
    from pilotage.agent.fencing import fence

    pilot = link.pilot
    tail = tail_of_output(link.folder)
    said = f"; it printed: {tail}" if tail else ""
    reason = f"its processes are gone {'while it ran' if pilot.incarnation else 'before it was active'}{said}"
    try:
        found = fence(link.folder, pilot.received)
    except LogCorrupted as error:
        return events.PilotLost(time.time(), pilot.uid, f"{reason}; {error}")
    except FileNotFoundError:
        return events.PilotLost(time.time(), pilot.uid, reason, received=None if pilot.incarnation else 0)
    except PilotageError as error:
        log.warning("pilot %s is not given up yet: %s", pilot.uid, error)
        return None
    link.remove_private_folder()
    return _lost(link, reason, found, with_node=found.received is None)


def reason_of_loss(pilot: PilotRecord) -> str:
    """Return why a pilot is gone whose job is over."""
    end = end_of(pilot.job) if pilot.job is not None else "it is gone"
    return end if pilot.incarnation else f"{end} before the pilot was active"


def lost_job(link: PilotLink) -> events.PilotLost:
    """Return what became of a pilot whose job is over."""
    from pilotage.agent.fencing import fence_job

    pilot = link.pilot
    state = pilot.job.state if pilot.job is not None else ""
    tail = tail_of_output(link.folder) if state in _UNEXPLAINED else ""
    reason = f"{reason_of_loss(pilot)}{f'; it printed: {tail}' if tail else ''}"
    try:
        complete = pilot.job is not None and (state in _COMPLETE or pilot.job.complete)
        found = fence_job(link.folder, pilot.received, complete=complete)
    except FileNotFoundError:
        return events.PilotLost(time.time(), pilot.uid, reason, received=None if pilot.incarnation else 0)
    except (LogCorrupted, OSError) as error:
        return events.PilotLost(time.time(), pilot.uid, f"{reason}; {error}")
    link.remove_private_folder()
    return _lost(link, reason, found)


def _lost(link: PilotLink, reason: str, found: Aftermath, *, with_node: bool = False) -> events.PilotLost:
    state, out_of_time = "", False
    if found.ending is not None:
        state, reason, out_of_time = found.ending.state, found.ending.reason, found.ending.out_of_time
    return events.PilotLost(
        time.time(),
        link.pilot.uid,
        reason,
        found.received,
        found.outcomes,
        msgspec.Raw(msgspec.msgpack.encode(found.outcomes)),
        [*found.not_begun],
        state,
        with_node,
        found.tries,
        out_of_time,
        os.fspath(link.folder),
    )
