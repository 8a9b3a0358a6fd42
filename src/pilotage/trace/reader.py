"""Reads a session's logs into a ``Run``.

The client's log comes first: it names the tasks and pilots and has the last word on outcomes. The agents' logs add what only
they know: attempts, lanes, placements and runners. Either may be absent, partial or still growing.

Each fact is folded once, and the loops over tasks touch columns only: this is what a hundred thousand tasks cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from pilotage.core.client import facts as client
from pilotage.core.client.state import ClientState
from pilotage.model.ids import PilotUid
from pilotage.trace.client_fold import ClientFold
from pilotage.trace.partition_folds import fold_pilot
from pilotage.trace.records import CLIENT_LOG, client_facts, decode_wanted, pilot_folders, read_log
from pilotage.trace.run import Run


def read_session(folder: Path | str) -> Run:
    """Read all that the logs in a session's folder tell, as of now.

    Never raises for what the logs lack: ``Run.remarks`` tells of it.
    """
    folder = Path(folder)
    run = Run(folder)
    ClientFold(run).read(folder / CLIENT_LOG)
    for pilot_folder in agent_folders(folder):
        fold_pilot(run, pilot_folder)
    if not run.tasks.uid and not run.pilots:
        run.remarks.append(f"{folder}: no log of a session, or an empty one")
    return run


def agent_folders(session_folder: Path) -> list[Path]:
    """Return the folders of all pilots of a session, by name: also of those that the client's log says lie elsewhere."""
    folders = {folder.name: folder for folder in pilot_folders(session_folder)}
    for uid, description in _descriptions(session_folder / CLIENT_LOG):
        sandbox = decode_wanted(description).sandbox
        if sandbox and uid not in folders:
            elsewhere = Path(sandbox).expanduser().absolute() / session_folder.name / uid
            if elsewhere.is_dir():
                folders[uid] = elsewhere
    return [folder for _, folder in sorted(folders.items())]


def _descriptions(client_log: Path) -> Iterator[tuple[PilotUid, msgspec.Raw]]:
    state, records = read_log(client_log, ClientState, client_facts, [])
    if state is not None:
        yield from ((uid, pilot.description) for uid, pilot in state.pilots.items())
    for record in records:
        yield from ((fact.pilot, fact.description) for fact in record if isinstance(fact, client.PilotAccepted))
