"""Printing what a task has printed: once, or on and on until the task is final."""

from __future__ import annotations

import io
import sys
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO

from pilotage.cli.lookup import living_agent, pilot_folder, read_state, session_state
from pilotage.cli.watch import LiveState
from pilotage.client.session_folder import CLIENT_FOLDER
from pilotage.client.task_output import PilotOutputs, TaskOutput
from pilotage.core.client.state import ClientState, TaskRecord
from pilotage.model.ids import Attempt, TaskUid
from pilotage.outputs.reader import StreamName
from pilotage.outputs.stream import OutputStream, StreamFile

PAUSE_S = 0.2
AGENT_PAUSE_S = 2.0
"""Between looks into agents' logs, which are read from their beginning."""


def output_of(folder: Path, state: ClientState, record: TaskRecord) -> TaskOutput | None:
    """Return what a task of the session in ``folder`` has printed; None while no pilot has it."""
    if not record.pilot:
        return None
    place = pilot_folder(folder, state.pilots[record.pilot])
    attempt = record.outcome.attempt if record.outcome is not None else Attempt(0)
    return PilotOutputs(place).of(state.templates[record.row.template], record.row, attempt)


def print_output(output: TaskOutput, streams: list[StreamName], lines: int) -> bool:
    """Print streams of a task, or their last ``lines``; tell whether there was anything."""
    printed = [_print_present(output.follow(stream), _target(stream, streams), lines) for stream in streams]
    return any(printed)


def follow_output(folder: Path, uid: TaskUid, streams: list[StreamName], lines: int) -> None:
    """Print streams of a task, from their last ``lines`` on, until it is final, or nobody is left to run it."""
    watched = _Watched(folder, uid)
    try:
        pilot = ""
        following: list[tuple[OutputStream, BinaryIO]] = []
        while True:
            # Asked before the last look, so that what was printed last is seen.
            over = watched.over()
            if watched.record.pilot != pilot and (output := output_of(folder, watched.state, watched.record)) is not None:
                pilot = watched.record.pilot
                following = [(output.follow(stream), _target(stream, streams)) for stream in streams]
                for each, target in following:
                    _print_present(each, target, lines)
                lines = 0
            for each, target in following:
                _print_present(each, target, 0)
            if over:
                return
            time.sleep(PAUSE_S)
    finally:
        watched.close()


class _Watched:
    """A task of a session that another process writes, or nobody any more."""

    def __init__(self, folder: Path, uid: TaskUid) -> None:
        self._folder = folder
        self._uid = uid
        self._live = LiveState(folder / CLIENT_FOLDER)
        self._look_at = 0.0

    @property
    def state(self) -> ClientState:
        return self._live.state

    @property
    def record(self) -> TaskRecord:
        return self._live.state.tasks[self._uid]

    def over(self) -> bool:
        """Tell whether nothing more can be printed."""
        closed = session_state(self._folder) != "open"
        self._live.refresh()
        if self.record.outcome is not None:
            return True
        if not closed or time.monotonic() < self._look_at:
            return False
        # The program is gone; its pilot's agent may go on, and has in its log what becomes of the task.
        self._look_at = time.monotonic() + AGENT_PAUSE_S
        alive = bool(self.record.pilot) and living_agent(pilot_folder(self._folder, self.state.pilots[self.record.pilot]))
        return not alive or read_state(self._folder).tasks[self._uid].outcome is not None

    def close(self) -> None:
        self._live.close()


def _target(stream: StreamName, streams: list[StreamName]) -> BinaryIO:
    # Bytes, as they are: a task's output need not be text.
    return sys.stderr.buffer if stream == "stderr" and len(streams) > 1 else sys.stdout.buffer


def _print_present(stream: OutputStream, target: BinaryIO, lines: int) -> bool:
    """Print what there is beyond what was printed before, or its last ``lines``; tell whether there was anything."""
    printed = False
    if lines:
        for line in deque(io.BufferedReader(StreamFile(stream)), lines):
            printed = True
            target.write(line)
    while content := stream.read():
        printed = True
        target.write(content)
    target.flush()
    return printed
