"""What happened in a run, read from its logs: events, columns of tasks, core-time, exports.

The log is the trace. Client and agents write each transition with its time because they must remember it; what is here reads
that, from any process, without locks, while the session runs or after it crashed. A pilot that keeps its history (tracing)
leaves all records; without, those that a snapshot replaced are gone, and ``Run.remarks`` says so.
"""

from pilotage.trace.catalogue import CATALOGUE, EventKind, TraceEvent
from pilotage.trace.events import read_client, read_events, read_pilot
from pilotage.trace.reader import read_session
from pilotage.trace.run import PilotTrace, Run, TaskTrace

__all__ = [
    "CATALOGUE",
    "EventKind",
    "PilotTrace",
    "Run",
    "TaskTrace",
    "TraceEvent",
    "read_client",
    "read_events",
    "read_pilot",
    "read_session",
]
