"""What functions print, as the standard output and error of the task whose call it is.

``sys.stdout`` and ``sys.stderr`` are replaced once, when the worker starts, by text streams over a ``CallOutput``. It collects
what is written while a call runs, and writes it to the task's file when the call is over: the same file that an executable of
this template would have, emptied by the first write of an attempt. A call that prints nothing makes no file, and costs one look
at ``Outputs.printed``. Of more than ``HELD_BYTES`` nothing is held, what a function flushes is written at once, and what a long
call has printed is written every ``WATCH_S`` by the attendant.

What comes while no call runs (threads that a function left behind, handlers at exit) goes to the worker's own files. So does
all that does not pass through ``sys``: the output of native code and of child processes on descriptors 1 and 2.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Mapping

from pilotage.model.ids import TemplateId
from pilotage.model.workload import Row, Template
from pilotage.workers import current
from pilotage.workers.link import say

HELD_BYTES = 64 << 10
WATCH_S = 1.0

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class Outputs:
    """Both streams of this process. ``templates`` are those that the worker knows."""

    def __init__(self, pilot_folder: str, templates: Mapping[TemplateId, Template]) -> None:
        self.printed = False
        """Whether the present call has printed, so that ``end_call`` has something to do."""
        self._pilot_folder = pilot_folder
        self._templates = templates
        # Held for a write to a stream or file; taken again by a signal handler that prints in the middle of one.
        self._lock = threading.RLock()
        self._streams = [CallOutput(self, 1), CallOutput(self, 2)]
        self._begun: set[str] = set()
        """Files that this call has written to."""
        self._refused = False

    def install(self) -> None:
        """Take the place of ``sys.stdout`` and ``sys.stderr``."""
        sys.stdout, sys.stderr = [
            # Written through: so all that is held back is in one place, which the attendant can write as well.
            io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", write_through=True)
            for stream in self._streams
        ]

    def write_out(self) -> None:
        """Write what is held."""
        for stream in self._streams:
            stream.flush()

    def end_call(self) -> None:
        """Write what is held: the call is over, and its end not told yet."""
        self.write_out()
        self.printed = False
        self._begun.clear()
        self._refused = False

    def empty_unwritten(self, row: Row) -> None:
        """Empty the files that this attempt has not written to, if they are there from an earlier one."""
        with self._lock:
            for number in (1, 2):
                path = self._path(row, number)
                if path not in self._begun:
                    self._begun.add(path)
                    try:
                        os.truncate(path, 0)
                    except OSError:
                        # There is none; or it is not ours to write, which a print will tell.
                        continue

    def before_fork(self) -> None:
        """Have nothing left to do that parent and child would both do: write what is held, or empty a file."""
        call = current.call
        if call is not None:
            self.write_out()
            self.empty_unwritten(call[1])
            self.printed = True

    def after_fork(self) -> None:
        """In a child of a function: what a thread has printed in this moment is the parent's to write."""
        self._lock = threading.RLock()
        for stream in self._streams:
            stream.drop()

    def _hold(self, stream: CallOutput, content: bytes) -> None:
        with self._lock:
            self.printed = True
            stream.held.append(content)
            stream.size += len(content)
            if stream.size > HELD_BYTES or current.call is None:
                self._write_held(stream)

    def _flush(self, stream: CallOutput) -> None:
        with self._lock:
            if stream.held:
                self._write_held(stream)

    def _write_held(self, stream: CallOutput) -> None:
        content = b"".join(stream.held)
        stream.drop()
        call = current.call
        try:
            if call is None:
                _write_all(stream.fileno(), content)
            else:
                self._append(self._path(call[1], stream.fileno()), content)
        except OSError as error:
            if not self._refused:
                self._refused = True
                name = "nothing" if call is None else call[1].uid
                say(f"what {name} printed cannot be written: {error}; free the disk or choose another sandbox")

    def _append(self, path: str, content: bytes) -> None:
        flags = _FLAGS if path in self._begun else _FLAGS | os.O_TRUNC
        try:
            descriptor = os.open(path, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            descriptor = os.open(path, flags, 0o666)
        self._begun.add(path)
        try:
            _write_all(descriptor, content)
        finally:
            os.close(descriptor)

    def _path(self, row: Row, number: int) -> str:
        """Return the file of a task's stream, where the spawner has it for executables."""
        template = self._templates.get(row.template) or Template()
        name = (template.stdout, template.stderr)[number - 1] or f"{row.uid}{('.out', '.err')[number - 1]}"
        return os.path.join(self._pilot_folder, template.sandbox or os.path.join("tasks", row.uid), name)


class CallOutput(io.BufferedIOBase):
    """The binary stream below ``sys.stdout`` (1) or ``sys.stderr`` (2)."""

    mode = "wb"

    def __init__(self, outputs: Outputs, number: int) -> None:
        self.name = f"<{('stdout', 'stderr')[number - 1]}>"
        self.held: list[bytes] = []
        self.size = 0
        self._outputs = outputs
        self._number = number

    def write(self, content: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Hold the content until the call is over."""
        taken = bytes(content)
        self._outputs._hold(self, taken)
        return len(taken)

    def flush(self) -> None:
        """Write what is held."""
        self._outputs._flush(self)

    def drop(self) -> None:
        """Hold nothing."""
        self.held = []
        self.size = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of the worker's own stream, for child processes that are to have one."""
        return self._number

    def close(self) -> None:
        """Only write what is held: the next call prints, too."""
        self.flush()


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
