"""The files of a session's pilots: where their folders are, what is read there, and what is fetched and removed at the end."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pilotage.client.pilot_description import PilotDescription
from pilotage.client.task_output import PilotOutputs
from pilotage.core.client.state import ClientState, PilotRecord
from pilotage.errors import PilotageError
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.model.sandboxes import TASKS_FOLDER
from pilotage.model.states import FINAL
from pilotage.outputs.files import OUTPUT_FOLDER
from pilotage.platforms import platform
from pilotage.platforms.platform import sandbox_of

if TYPE_CHECKING:
    from pilotage.client.placements import Placements

log = logging.getLogger("pilotage")


class PilotFiles:
    """The files of the pilots in ``state``, of the session in ``session_folder``."""

    def __init__(self, session: SessionUid, session_folder: Path, state: ClientState) -> None:
        self._session = session
        self._session_folder = session_folder
        self._state = state
        self._folders: dict[PilotUid, Path] = {}
        self._placements: dict[PilotUid, Placements] = {}
        self._outputs: dict[PilotUid, PilotOutputs] = {}

    def folder(self, record: PilotRecord) -> Path:
        """Return the folder of a pilot: in the session's, or below the sandbox of its description or platform."""
        folder = self._folders.get(record.uid)
        if folder is None:
            description = PilotDescription(msgspec.msgpack.decode(record.description))
            base = description.sandbox or sandbox_of(platform(description.resource or ""))
            folder = (
                Path(base).expanduser().absolute() / self._session / record.uid if base else self._session_folder / record.uid
            )
            # One that is not accepted yet may be refused, and come again with another sandbox.
            if record.uid in self._state.pilots:
                self._folders[record.uid] = folder
        return folder

    def agent_folders(self) -> list[Path]:
        """Return the folders of all agents: of pilots, and of their partitions."""
        from pilotage.trace.records import partition_folders

        pilots = [self.folder(record) for record in list(self._state.pilots.values())]
        return [folder for pilot in pilots for folder in (pilot, *partition_folders(pilot))]

    # what is read there

    def placements(self, record: PilotRecord) -> Placements:
        """Return the placements that a pilot's log tells of."""
        from pilotage.client.placements import Placements

        found = self._placements.get(record.uid)
        if found is None:
            found = self._placements[record.uid] = Placements(self.folder(record))
        return found

    def outputs(self, record: PilotRecord) -> PilotOutputs:
        """Return what a pilot's tasks have printed."""
        found = self._outputs.get(record.uid)
        if found is None:
            found = self._outputs[record.uid] = PilotOutputs(self.folder(record))
        return found

    # the end

    def stage_out(self) -> None:
        """Fetch what the descriptions of pilots that have ended ask for."""
        for record in self._state.pilots.values():
            description = PilotDescription(msgspec.msgpack.decode(record.description))
            entries = description.get("output_staging", [])
            if record.state not in FINAL or not entries:
                continue
            from pilotage.client.staging import parse_directives, stage

            try:
                directives = parse_directives(entries, record.uid, "stage_out")
                stage(directives, "stage_out", record.uid, os.fspath(self.folder(record)))
            except PilotageError as error:
                log.warning("pilot %s: %s", record.uid, error)

    def clean_up(self) -> None:
        """Remove the tasks' files of pilots that have ended, where their descriptions ask for it."""
        for record in self._state.pilots.values():
            if record.state in FINAL and PilotDescription(msgspec.msgpack.decode(record.description)).cleanup:
                for folder in (TASKS_FOLDER, OUTPUT_FOLDER):
                    shutil.rmtree(self.folder(record) / folder, ignore_errors=True)
