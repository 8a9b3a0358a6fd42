"""The records that a log still holds, for readers who take what there is.

Where all records were kept they are read from the first. Where a snapshot replaced the first ones, reading begins with the
snapshot. Whatever cannot be read is said in ``remarks`` and ends the reading of this log, not of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from pilotage.core.agent import facts as agent
from pilotage.core.client import facts as client
from pilotage.errors import PilotageError
from pilotage.log.format import HISTORY_FOLDER, list_segments
from pilotage.log.reader import Cursor, recover
from pilotage.model.outcome import Outcome
from pilotage.model.workload import Batch

CLIENT_LOG = Path("client")
"""Where the client's log lies in a session's folder."""

PILOT_LOG = Path("log")
"""Where the agent's log lies in a pilot's folder."""

PARTITIONS_FOLDER = "partitions"
"""Where the agents of a pilot's partitions have their folders, in the pilot's folder."""

SETTINGS_FILE = "pilot.json"
"""What a pilot's bootstrap was told, in the pilot's folder."""

agent_facts = msgspec.msgpack.Decoder(list[agent.Fact])
client_facts = msgspec.msgpack.Decoder(list[client.Fact])
decode_batch = msgspec.msgpack.Decoder(Batch).decode
decode_outcomes = msgspec.msgpack.Decoder(list[Outcome]).decode


class PilotWanted(msgspec.Struct, frozen=True):
    """What readers need of the description of a pilot."""

    resource: str = ""
    sandbox: str | None = None


decode_wanted = msgspec.msgpack.Decoder(PilotWanted).decode

State = TypeVar("State")
Fact = TypeVar("Fact")


def read_log(
    folder: Path, state: type[State], facts: msgspec.msgpack.Decoder[list[Fact]], remarks: list[str]
) -> tuple[State | None, Iterator[list[Fact]]]:
    """Return the state that replaced the first records, None if they were kept, and the facts of each record after it.

    An absent or empty log has neither; that needs no remark.
    """
    firsts = [segment.first for place in (folder, folder / HISTORY_FOLDER) for segment in list_segments(place)]
    snapshot, after = None, 0
    if min(firsts, default=2) > 1:
        try:
            recovered = recover(folder)
            if recovered.snapshot is not None:
                snapshot, after = msgspec.msgpack.decode(recovered.snapshot, type=state), recovered.snapshot_number
                remarks.append(f"{folder}: the records up to {after} were not kept; reading begins with the state after them")
        except (PilotageError, msgspec.DecodeError) as error:
            remarks.append(f"{folder}: {error}")
    return snapshot, _facts_after(folder, after, facts, remarks)


def _facts_after(
    folder: Path, after: int, facts: msgspec.msgpack.Decoder[list[Fact]], remarks: list[str]
) -> Iterator[list[Fact]]:
    cursor = Cursor(folder, after, skip_removed=True)
    last = after
    try:
        while batch := cursor.read():
            for number, record in batch:
                if number != last + 1:
                    remarks.append(f"{folder}: the records {last + 1} to {number - 1} were not kept")
                last = number
                yield facts.decode(record)
    except msgspec.DecodeError as error:
        remarks.append(f"{folder}: record {last} is not of this version of Pilotage, reading stopped there: {error}")
    except PilotageError as error:
        remarks.append(str(error))
    finally:
        cursor.close()


def partition_folders(pilot_folder: Path) -> list[Path]:
    """Return the folders of the agents of a pilot's partitions, by name; none if it has no partitions."""
    return sorted(path.parent for path in (pilot_folder / PARTITIONS_FOLDER).glob(f"*/{SETTINGS_FILE}"))


def agent_logs(pilot_folder: Path) -> list[Path]:
    """Return the logs of a pilot's agents that run tasks: its own, or those of its partitions."""
    return [folder / PILOT_LOG for folder in partition_folders(pilot_folder) or [pilot_folder]]


def pilot_folders(session_folder: Path) -> list[Path]:
    """Return the pilots' folders that lie in a session's, by name: those with an agent's log or settings.

    A pilot with a sandbox of its own has its folder there; see ``reader.agent_folders``.
    """
    try:
        return sorted(
            entry
            for entry in session_folder.iterdir()
            if ((entry / PILOT_LOG).is_dir() and entry.name != CLIENT_LOG.name) or (entry / SETTINGS_FILE).is_file()
        )
    except (FileNotFoundError, NotADirectoryError):
        return []
