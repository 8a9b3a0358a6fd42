"""What functions print, as the standard output and error of the task whose call it is.

``sys.stdout`` and ``sys.stderr`` are replaced once, when the worker starts, by text streams over a ``CallOutput``. It collects
what is written while a call runs, and writes it out when the call is over: to where the output of an executable of this
template would go (see ``destinations``). A call that prints nothing makes no file, and costs one look at ``Outputs.printed``.
Of more than ``HELD_BYTES`` nothing is held, what a function flushes is written at once, and what a long call has printed is
written every ``WATCH_S`` by the attendant.

What comes while no call runs (threads that a function left behind, handlers at exit) goes to the worker's own files. So does
all that does not pass through ``sys``: the output of native code and of child processes on descriptors 1 and 2.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Mapping

from pilotage.model.ids import Attempt, RunnerId, TemplateId
from pilotage.model.workload import Row, Template
from pilotage.outputs.aggregate import Aggregate
from pilotage.wire.runner_settings import RunnerSettings
from pilotage.workers import current
from pilotage.workers.destinations import Destination, destination_of, write_all
from pilotage.workers.link import say

HELD_BYTES = 64 << 10
WATCH_S = 1.0


class Outputs:
    """Both streams of this process. ``templates`` are those that the worker knows."""

    def __init__(self, settings: RunnerSettings, worker: RunnerId, templates: Mapping[TemplateId, Template]) -> None:
        self.printed = False
        """Whether the present call has printed, so that ``end_call`` has something to do."""
        self._settings = settings
        self._templates = templates
        self._aggregate = Aggregate(settings.pilot_folder, settings.printing_name(worker))
        self._destination: Destination | None = None
        """Of the present call, once it has written something out."""
        # Held for a write to a stream or file; taken again by a signal handler that prints in the middle of one.
        self._lock = threading.RLock()
        self._streams = [CallOutput(self, 1), CallOutput(self, 2)]
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

    def look(self) -> None:
        """A call runs for long: write what is held, so that it can be watched."""
        with self._lock:
            self.write_out()
            if self._destination is not None:
                try:
                    self._destination.look()
                except OSError as error:
                    self._refuse(error)

    def end_call(self, call: tuple[Attempt, Row]) -> None:
        """Write what is held: the call is over, and its end not told yet."""
        with self._lock:
            stdout, stderr = [stream.take() for stream in self._streams]
            try:
                self._to(call).end(stdout, stderr)
            except OSError as error:
                self._refuse(error)
            self._destination = None
            self.printed = False
            self._refused = False

    def start_over(self) -> None:
        """Let go of all descriptors without closing them: they may be something else by now."""
        self._aggregate.start_over()

    def close(self) -> None:
        """No call runs any more."""
        self._aggregate.close()

    def before_fork(self) -> None:
        """Have nothing left to do that parent and child would both do."""
        call = current.call
        if call is not None:
            with self._lock:
                self.write_out()
                try:
                    self._to(call).before_fork()
                except OSError as error:
                    self._refuse(error)
                self.printed = True

    def after_fork(self) -> None:
        """In a child of a function: what a thread has printed in this moment is the parent's to write."""
        self._lock = threading.RLock()
        for stream in self._streams:
            stream.take()

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
        content = stream.take()
        call = current.call
        try:
            if call is None:
                write_all(stream.fileno(), content)
            else:
                self._to(call).write(stream.fileno(), content)
        except OSError as error:
            self._refuse(error)

    def _to(self, call: tuple[Attempt, Row]) -> Destination:
        if self._destination is None:
            attempt, row = call
            template = self._templates.get(row.template) or Template()
            self._destination = destination_of(template, row, attempt, self._settings, self._aggregate)
        return self._destination

    def _refuse(self, error: OSError) -> None:
        if not self._refused:
            self._refused = True
            name = "nothing" if current.call is None else current.call[1].uid
            say(f"what {name} printed cannot be written: {error}; free the disk or choose another sandbox")


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

    def take(self) -> bytes:
        """Return what is held, and hold nothing."""
        content = b"".join(self.held)
        self.held = []
        self.size = 0
        return content

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of the worker's own stream, for child processes that are to have one."""
        return self._number

    def close(self) -> None:
        """Only write what is held: the next call prints, too."""
        self.flush()
