"""The agent's process: what belongs to it, and not to the agent that it runs. Signals, the exit status, what is left behind.

Arguments: the agent's folder, which incarnation of the agent this is, and the descriptor on which to say that it is ready.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from pathlib import Path

from pilotage.agent.bootstrap import HOPELESS
from pilotage.agent.claim import TAKEN, claim
from pilotage.agent.private_folder import private_folder, remove_private_folder
from pilotage.agent.settings import LOG_FOLDER, read_settings
from pilotage.agent.startup import ABANDONED, CannotBegin, EndCall, end_with_job, heed_signals, note_own_crash

CRASHED = 1
_YOUNG_OBJECTS = 50_000


def main() -> None:
    """Run the agent described by the command line; exits with 0 when the pilot, or its partition, has ended."""
    agent_folder, incarnation, ready_fd = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    # What lives long here are plain values without cycles; looking for garbage among millions of them is time lost.
    gc.set_threshold(_YOUNG_OBJECTS, 50, 100)
    settings = read_settings(agent_folder)
    if settings.partition and claim(agent_folder) is None:
        os._exit(TAKEN)
    folder = private_folder(agent_folder)
    call = EndCall()
    heed_signals(call)
    if settings.batch != "local" and not settings.partition:
        end_with_job()
    status = 0
    try:
        if settings.partitions:
            from pilotage.agent.head_main import run_head as run
        else:
            from pilotage.agent.running import run_agent as run
        if abandoned := run(settings, folder, incarnation, lambda: _tell_ready(ready_fd), call):
            what = f"agent of partition {settings.partition}" if settings.partition else "agent"
            sys.stderr.write(f"this {what} ends: {abandoned}\n")
            sys.stderr.flush()
            call.stay()
            status = ABANDONED
    except CannotBegin as error:
        sys.stderr.write(f"{error}\n")
        status = HOPELESS
        remove_private_folder(folder)
    except BaseException:  # root of the process
        note_own_crash(agent_folder / LOG_FOLDER)
        traceback.print_exc(file=sys.stderr)
        status = CRASHED
    else:
        remove_private_folder(folder)
    sys.stderr.flush()
    # Nothing is left to be cleaned up; the interpreter's own way out would take longer, and wait for threads.
    os._exit(status)


def _tell_ready(ready_fd: int) -> None:
    """Say on this descriptor that the agent listens; -1: nobody wants to know."""
    if ready_fd >= 0:
        try:
            os.write(ready_fd, b"1")
            os.close(ready_fd)
        except OSError:
            # The client is gone, or this is not the first agent; both are found out in other ways.
            pass
