"""What tasks have printed, wherever it is: in files of their own or in an aggregate."""

from __future__ import annotations

import io
import os
from functools import partial
from pathlib import Path

from pilotage.agent.settings import read_settings
from pilotage.model.ids import Attempt
from pilotage.model.sandboxes import sandbox_of
from pilotage.model.workload import Row, Template
from pilotage.outputs.files import file_names, tail
from pilotage.outputs.limits import limit_of
from pilotage.outputs.reader import STREAM_NAMES, Extent, Outputs, StreamName
from pilotage.outputs.records import DATA
from pilotage.outputs.stream import OutputStream, StreamFile

TAIL_CHARACTERS = 1024
_TAIL_BYTES = 4 * TAIL_CHARACTERS


class PilotOutputs:
    """What the tasks of one pilot have printed. ``folder`` is the pilot's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._aggregated = Outputs(folder)
        self._working_folder: str | None = None

    def of(self, template: Template, row: Row, attempt: Attempt) -> TaskOutput:
        """Return what a task has printed. ``attempt``: the one that is meant; 0: the last one so far."""
        return TaskOutput(self, template, row, attempt)

    def sandbox(self, template: Template, row: Row) -> str:
        """Return the folder that a task runs in."""
        sandbox = sandbox_of(template, row)
        return os.path.join(self._folder, sandbox) if sandbox is not None else self._program_folder()

    def _program_folder(self) -> str:
        """Return the folder of the user's program when it submitted the pilot."""
        if self._working_folder is None:
            try:
                self._working_folder = read_settings(self._folder).working_folder
            except FileNotFoundError:
                # The pilot has not begun, and no task of it has printed anything anywhere.
                return os.fspath(self._folder)
        return self._working_folder

    @property
    def aggregated(self) -> Outputs:
        """What is in aggregates."""
        return self._aggregated


class TaskOutput:
    """What one task has printed, so far or at all."""

    def __init__(self, pilot: PilotOutputs, template: Template, row: Row, attempt: Attempt) -> None:
        self._pilot = pilot
        self._template = template
        self._row = row
        self._attempt = attempt or None

    def path(self, stream: StreamName) -> Path | None:
        """Return the file that holds a stream and nothing else; None if there is none."""
        extent = self._extent(stream)
        if extent is None or (self._template.output != "files" and (extent.size is None or extent.path.endswith(DATA))):
            return None
        path = Path(extent.path)
        return path if path.exists() else None

    def tail(self, stream: StreamName) -> str:
        """Return the last 1024 characters of a stream."""
        if self._template.output == "files":
            content = tail(self._file(stream), _TAIL_BYTES)
        else:
            content = self._pilot.aggregated.tail(self._row.uid, stream, _TAIL_BYTES, self._attempt)
        return content.decode("utf-8", "replace")[-TAIL_CHARACTERS:]

    def follow(self, stream: StreamName) -> OutputStream:
        """Return a reader of a stream, from its beginning on, that can be asked again and again for more."""
        return OutputStream(partial(self._extent, stream), limit_of(self._template))

    def open(self, stream: StreamName) -> io.BufferedReader:
        """Return a stream as it is now, as a binary file."""
        return io.BufferedReader(StreamFile(self.follow(stream)))

    def _extent(self, stream: StreamName) -> Extent | None:
        if self._template.output == "files":
            return Extent(self._file(stream))
        return self._pilot.aggregated.extent(self._row.uid, stream, self._attempt)

    def _file(self, stream: StreamName) -> str:
        name = file_names(self._template, self._row.uid)[STREAM_NAMES.index(stream)]
        return os.path.join(self._pilot.sandbox(self._template, self._row), name)
