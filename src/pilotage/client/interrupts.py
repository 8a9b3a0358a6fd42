"""Keeping Ctrl-C out of the moments in which it would leave something half done.

Python raises ``KeyboardInterrupt`` between any two instructions of the main thread. A step of the engine changes the state
and then writes to the log; it takes microseconds, and the interrupt is delivered right behind it.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Uninterrupted:
    """A context in which SIGINT is held back; it acts at the end. Outside of the main thread there is nothing to do."""

    __slots__ = ("_handler", "_held")

    def __enter__(self) -> None:
        self._held: list[tuple[int, FrameType | None]] = []
        self._handler: Any = None
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            # Signals that are ignored, or handled by something that is not Python, do not raise here.
            if callable(handler):
                self._handler = handler
                signal.signal(signal.SIGINT, self._hold)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        self._held.append((number, frame))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            if self._held:
                self._handler(*self._held[0])
