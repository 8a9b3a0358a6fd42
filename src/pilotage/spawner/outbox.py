"""What the spawner has to tell, collected into few messages, and the endings kept until the agent has logged them.

While work waits here, news are held for up to 20 ms so that they travel in bulk; a spawner with nothing more to start tells at
once. No clock, no socket: time comes in, frames come out. ``now`` is monotonic, ``clock`` what clocks on walls show.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from pilotage.model.execution import AttemptEnd, Execution
from pilotage.wire.runner_messages import FromRunner, TasksEnded, TasksReturned, TasksStarted

HOLD_S = 0.02
"""How long news are held back at most."""

_MESSAGE_TASKS = 1024


class Outbox:
    """Collects news into frames. Endings are numbered, and kept until released."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._ends: list[AttemptEnd] = []
        self._starts: dict[Execution, tuple[int, float]] = {}
        self._others: list[FromRunner] = []
        self._warnings: list[FromRunner] = []
        self._returned: list[Execution] = []
        self._held: deque[tuple[int, bytes, list[Execution]]] = deque()
        self._since: float | None = None
        self.sent = 0
        """Number of the last ``TasksEnded``."""

    def add_start(self, execution: Execution, pid: int, started: float, now: float) -> None:
        """An execution has begun."""
        self._starts[execution] = (pid, started)
        if self._since is None:
            self._since = now

    def add_end(self, end: AttemptEnd, now: float) -> None:
        """An execution is over; if its start was not told, it never will be."""
        self._starts.pop((end.task, end.attempt), None)
        self._ends.append(end)
        if self._since is None:
            self._since = now

    def add_returned(self, executions: Iterable[Execution], now: float) -> None:
        """Executions that never began and will not."""
        self._returned.extend(executions)
        if self._returned and self._since is None:
            self._since = now

    def add(self, message: FromRunner, now: float) -> None:
        """Any other message."""
        self._others.append(message)
        if self._since is None:
            self._since = now

    def add_warning(self, message: FromRunner, now: float) -> None:
        """A message that goes before all others, so that they are seen in its light."""
        self._warnings.append(message)
        if self._since is None:
            self._since = now

    def due(self, busy: bool) -> float | None:
        """Return when the news are to be sent (0.0: at once); None if there are none. ``busy``: work waits here."""
        if self._since is None:
            return None
        return self._since + HOLD_S if busy and len(self._ends) < _MESSAGE_TASKS else 0.0

    def take(self, clock: float) -> list[bytes]:
        """Return the news as frames to send now."""
        frames = [self._encoder.encode(message) for message in self._warnings]
        self._warnings = []
        if self._returned:
            frames.append(self._encoder.encode(TasksReturned(self._returned)))
            self._returned = []
        if self._starts:
            starts = [(*name, *value) for name, value in self._starts.items()]
            frames.append(self._encoder.encode(TasksStarted(starts, clock)))
            self._starts = {}
        frames.extend(self.number_ends())
        frames.extend(self._encoder.encode(message) for message in self._others)
        self._others = []
        self._since = None
        return frames

    def number_ends(self) -> list[bytes]:
        """Number all endings that are not numbered yet, and return their frames, which ``unreleased`` has from now on.

        To be called before a hello: it says up to which number there are endings, and what is neither held nor covered by
        that number has not begun.
        """
        frames = []
        for first in range(0, len(self._ends), _MESSAGE_TASKS):
            ends = self._ends[first : first + _MESSAGE_TASKS]
            self.sent += 1
            frame = self._encoder.encode(TasksEnded(self.sent, ends))
            self._held.append((self.sent, frame, [(end.task, end.attempt) for end in ends]))
            frames.append(frame)
        self._ends = []
        return frames

    def encode(self, message: FromRunner) -> bytes:
        """Return the frame of a message that does not wait with the others, such as the hello."""
        return self._encoder.encode(message)

    def release(self, through: int) -> list[Execution]:
        """The agent has logged all endings up to this number: forget them, and return which those were."""
        released: list[Execution] = []
        while self._held and self._held[0][0] <= through:
            released += self._held.popleft()[2]
        return released

    def unreleased(self) -> list[bytes]:
        """Return the frames of all endings that the agent may not have, in order, to be sent again."""
        return [frame for _, frame, _ in self._held]
