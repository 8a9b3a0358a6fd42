"""Numbered messages that arrive once and in order, over connections that break and between processes that die.

Pure state: no clock, no channel, no file. Each direction has an ``OutgoingLink`` at its sender and an ``IncomingLink`` at its
receiver; what they know survives in the log of each side.

The sender gives each message the next number, logs it, then calls ``send``. It keeps the message until the receiver has it
durably. The receiver takes numbers one after the other, drops doubles, and reports two marks: ``received``, which gives
credit, and ``durable``, which lets the sender forget. After a break the receiver's hello tells its durable mark, and the
sender goes on behind it. Five rules make that exact:

1. The receiver syncs its log before its hello. Then durable equals received, and no number it has seen can come again with
   another content.
2. The sender numbers nothing before it has heard the receiver's hello (``may_send`` is False). A sender whose node was lost
   may have lost the end of its log, and with it messages that did arrive; ``resume`` goes on behind them and tells how many.
3. Credit counts what is sent and not yet received, so it bounds what lies in the channel. What there is no credit for stays
   with the owner: the next message is the larger.
4. What is unacknowledged is bounded in memory: beyond ``kept_bytes`` only the position in the log is kept, and ``load``
   reads the frame back if it has to be sent again. The outbox is a cursor into the log.
5. After a hello only its connection counts: what still arrives on an older one is not shown to the link.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from pilotage.errors import InvariantViolated, ProtocolError
from pilotage.wire.messages import Acknowledge

WINDOW_MESSAGES = 8
WINDOW_BYTES = 32 << 20
KEPT_BYTES = 64 << 20

Accepted = Literal["new", "duplicate", "gap"]


class Unacknowledged(msgspec.Struct, gc=False):
    """A message that the receiver does not have durably: its ``size`` in bytes, and its ``position`` in the sender's log.

    ``frame`` is None when it has to be read back from there.
    """

    number: int
    size: int
    position: int
    frame: bytes | None = None


class OutgoingLink:
    """The sender's side. ``load(position)`` returns the frame that was logged there.

    After a restart ``last`` is the last number in the log, and ``unacknowledged`` holds those messages of the log that are
    not known to be durable at the receiver, ascending.
    """

    def __init__(
        self,
        load: Callable[[int], bytes],
        *,
        last: int = 0,
        unacknowledged: Iterable[Unacknowledged] = (),
        window_messages: int = WINDOW_MESSAGES,
        window_bytes: int = WINDOW_BYTES,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._load = load
        self._last = last
        self._unacknowledged = {message.number: message for message in unacknowledged}
        self._kept = sum(message.size for message in self._unacknowledged.values() if message.frame is not None)
        self._kept_bytes = kept_bytes
        self._window_messages = window_messages
        self._window_bytes = window_bytes
        self._connected = False
        self._durable = 0
        self._again: deque[int] = deque()
        self._in_flight: deque[tuple[int, int]] = deque()
        self._in_flight_bytes = 0

    @property
    def next_number(self) -> int:
        """The number that the next message has to carry."""
        return self._last + 1

    @property
    def durable(self) -> int:
        """The receiver has all messages up to this number durably, as far as it has told."""
        return self._durable

    @property
    def unacknowledged(self) -> int:
        """How many messages the receiver is not known to have durably."""
        return len(self._unacknowledged)

    @property
    def kept_bytes(self) -> int:
        """How many bytes of unacknowledged messages are in memory."""
        return self._kept

    def may_send(self) -> bool:
        """Tell whether a new message may be numbered and sent now."""
        return self._connected and not self._again and self._has_credit()

    def send(self, number: int, frame: bytes, position: int) -> None:
        """Take note of a new message, logged at ``position``, which the owner sends now.

        Raises:
            InvariantViolated: ``may_send`` is False, or ``number`` is not ``next_number``.
        """
        if number != self._last + 1 or not self.may_send():
            raise InvariantViolated(
                f"message {number} was sent where {self._last + 1} was next: connected={self._connected}, "
                f"to be sent again={len(self._again)}, in flight={len(self._in_flight)} messages, {self._in_flight_bytes} bytes"
            )
        self._last = number
        size = len(frame)
        message = Unacknowledged(number, size, position)
        if self._kept + size <= self._kept_bytes:
            message.frame = frame
            self._kept += size
        self._unacknowledged[number] = message
        self._fly(number, size)

    def resume(self, durable: int) -> int:
        """Go on after a hello whose sender has everything up to ``durable``; call ``transmit`` next.

        Return how many messages the receiver has that this side's log has lost. Their numbers are not used again.
        """
        lost = max(0, durable - self._last)
        self._last = max(self._last, durable)
        self._forget(durable)
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self._again = deque(self._unacknowledged)
        self._connected = True
        return lost

    def disconnected(self) -> None:
        """The connection is lost: nothing may be sent before the next hello."""
        self._connected = False
        self._again.clear()

    def transmit(self) -> list[bytes]:
        """Return the frames to send again now, as far as credit reaches; call it after ``resume`` and ``acknowledge``."""
        frames = []
        while self._again and self._has_credit():
            message = self._unacknowledged[self._again.popleft()]
            frames.append(self._load(message.position) if message.frame is None else message.frame)
            self._fly(message.number, message.size)
        return frames

    def acknowledge(self, received: int, durable: int) -> None:
        """Take in how far the receiver has come. Marks lower than those told before do nothing.

        Raises:
            ProtocolError: the receiver claims a message that was never sent.
        """
        if not durable <= received <= self._last:
            raise ProtocolError(
                f"the peer acknowledges {received} messages as received and {durable} as durable, of {self._last} sent; "
                "is its log that of another session?"
            )
        in_flight = self._in_flight
        while in_flight and in_flight[0][0] <= received:
            self._in_flight_bytes -= in_flight.popleft()[1]
        self._forget(durable)

    def _has_credit(self) -> bool:
        # A message may exceed the window of bytes by itself: any message must get through, and a receiver that has told
        # nothing yet has at most half the window.
        return len(self._in_flight) < self._window_messages and self._in_flight_bytes < self._window_bytes

    def _fly(self, number: int, size: int) -> None:
        self._in_flight.append((number, size))
        self._in_flight_bytes += size

    def _forget(self, durable: int) -> None:
        while self._again and self._again[0] <= durable:
            self._again.popleft()
        if durable > self._durable:
            self._durable = durable
        unacknowledged = self._unacknowledged
        while unacknowledged:
            number = next(iter(unacknowledged))
            if number > durable:
                break
            message = unacknowledged.pop(number)
            if message.frame is not None:
                self._kept -= message.size


class IncomingLink:
    """The receiver's side. After a restart ``durable`` is the number of the last message in the (synced) log."""

    def __init__(self, *, durable: int = 0, window_messages: int = WINDOW_MESSAGES, window_bytes: int = WINDOW_BYTES) -> None:
        self._received = durable
        self._durable = durable
        self._told = Acknowledge(durable, durable)
        self._untold_bytes = 0
        self._half_messages = max(1, window_messages // 2)
        self._half_bytes = max(1, window_bytes // 2)

    @property
    def received(self) -> int:
        """Number of the last message taken."""
        return self._received

    @property
    def durable(self) -> int:
        """Number of the last message that is on disk."""
        return self._durable

    def accept(self, number: int, size: int = 0) -> Accepted:
        """Judge a message of ``size`` bytes: ``new`` is to be taken, ``duplicate`` dropped.

        A ``gap`` means that the connection has lost something: drop the message and connect anew.
        """
        if number <= self._received:
            return "duplicate"
        if number > self._received + 1:
            return "gap"
        self._received = number
        self._untold_bytes += size
        return "new"

    def synced(self, through: int) -> None:
        """All messages up to ``through`` are on disk.

        Raises:
            InvariantViolated: not all of them were received.
        """
        if through > self._received:
            raise InvariantViolated(f"messages up to {through} were synced, but only {self._received} were received")
        self._durable = max(self._durable, through)

    def hello(self) -> int:
        """Return the mark for the hello of a new connection.

        Raises:
            InvariantViolated: the log was not synced first.
        """
        if self._durable != self._received:
            raise InvariantViolated(
                f"a hello while message {self._received} is received and only {self._durable} durable; sync the log first"
            )
        self._told = Acknowledge(self._received, self._durable)
        self._untold_bytes = 0
        return self._durable

    def acknowledgement(self) -> Acknowledge | None:
        """Return what to tell the sender now: when half its credit is used, or more has become durable; else None."""
        told = self._told
        if (
            self._received - told.received < self._half_messages
            and self._untold_bytes < self._half_bytes
            and self._durable == told.durable
        ):
            return None
        self._told = Acknowledge(self._received, self._durable)
        self._untold_bytes = 0
        return self._told


class Liveness:
    """When to send a heartbeat, and when to hold the other side for lost. Times in seconds, of any one monotonic clock."""

    def __init__(self, interval_s: float, loss_s: float, now: float) -> None:
        self._interval_s = interval_s
        self._loss_s = loss_s
        self._heard = now
        self._said = now

    def heard(self, now: float) -> None:
        """Something came from the other side."""
        self._heard = now

    def said(self, now: float) -> None:
        """Something was sent to the other side, which spares a heartbeat."""
        self._said = now

    def due(self, now: float) -> bool:
        """Tell whether a heartbeat is to be sent: nothing was said for the interval."""
        return now - self._said >= self._interval_s

    def lost(self, now: float) -> bool:
        """Tell whether nothing was heard for too long."""
        return now - self._heard >= self._loss_s

    def next_event(self) -> float:
        """Return the earliest time at which ``due`` or ``lost`` can become true."""
        return min(self._said + self._interval_s, self._heard + self._loss_s)
