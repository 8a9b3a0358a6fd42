"""The numbered link: credit, acknowledgement, resumption; and exactly once, in order, whatever breaks."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.errors import InvariantViolated, ProtocolError
from pilotage.wire.link import IncomingLink, Liveness, OutgoingLink, Unacknowledged
from pilotage.wire.messages import Acknowledge


class Log:
    """Frames by position: what a sender logged."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.loaded: list[int] = []

    def append(self, frame: bytes) -> int:
        self.frames.append(frame)
        return len(self.frames) - 1

    def load(self, position: int) -> bytes:
        self.loaded.append(position)
        return self.frames[position]


def outgoing(log: Log, *, window_messages: int = 8, window_bytes: int = 1 << 20, kept_bytes: int = 1 << 20) -> OutgoingLink:
    link = OutgoingLink(log.load, window_messages=window_messages, window_bytes=window_bytes, kept_bytes=kept_bytes)
    link.resume(0)
    return link


def send(link: OutgoingLink, log: Log, frame: bytes = b"frame") -> int:
    number = link.next_number
    link.send(number, frame, log.append(frame))
    return number


def test_nothing_is_sent_before_the_receivers_hello() -> None:
    log = Log()
    link = OutgoingLink(log.load)
    assert not link.may_send()
    with pytest.raises(InvariantViolated, match="connected=False"):
        send(link, log)
    link.resume(0)
    assert link.may_send()


def test_numbers_count_from_one_and_none_is_left_out() -> None:
    log = Log()
    link = outgoing(log)
    assert [send(link, log) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(InvariantViolated, match="message 5 was sent where 4 was next"):
        link.send(5, b"", 0)


def test_credit_in_messages_is_given_back_by_receipt() -> None:
    log = Log()
    link = outgoing(log, window_messages=2)
    send(link, log)
    send(link, log)
    assert not link.may_send()
    link.acknowledge(received=1, durable=0)
    assert link.may_send()
    assert link.unacknowledged == 2


def test_credit_in_bytes_lets_a_large_message_through() -> None:
    log = Log()
    link = outgoing(log, window_bytes=10)
    send(link, log, b"x" * 1000)
    assert not link.may_send()
    link.acknowledge(1, 0)
    send(link, log, b"x" * 9)
    assert link.may_send()


def test_what_is_durable_is_forgotten() -> None:
    log = Log()
    link = outgoing(log)
    for _ in range(3):
        send(link, log, b"12345")
    link.acknowledge(3, 2)
    assert (link.unacknowledged, link.kept_bytes, link.durable) == (1, 5, 2)
    link.acknowledge(2, 1)
    assert (link.unacknowledged, link.durable) == (1, 2)


@pytest.mark.parametrize(("received", "durable"), [(2, 0), (1, 2), (0, 1)])
def test_an_acknowledgement_of_what_was_not_sent_is_refused(received: int, durable: int) -> None:
    log = Log()
    link = outgoing(log)
    send(link, log)
    with pytest.raises(ProtocolError, match="another session"):
        link.acknowledge(received, durable)


def test_a_resumed_link_sends_again_what_is_not_durable_as_credit_allows_and_only_then_what_is_new() -> None:
    log = Log()
    link = outgoing(log, window_messages=2)
    for index in range(5):
        send(link, log, b"%d" % index)
        link.acknowledge(received=index + 1, durable=0)
    link.disconnected()
    assert not link.may_send()
    assert link.transmit() == []
    assert link.resume(durable=1) == 0
    assert link.transmit() == [b"1", b"2"]
    assert not link.may_send()
    link.acknowledge(3, 3)
    assert link.transmit() == [b"3", b"4"]
    link.acknowledge(5, 3)
    assert link.transmit() == []
    assert link.may_send()


def test_unacknowledged_messages_beyond_the_bound_are_read_back_from_the_log() -> None:
    log = Log()
    link = outgoing(log, kept_bytes=4)
    for frame in (b"aaa", b"bbb", b"c"):
        send(link, log, frame)
    assert link.kept_bytes == 4
    link.resume(0)
    assert link.transmit() == [b"aaa", b"bbb", b"c"]
    assert log.loaded == [1]


def test_a_restarted_sender_goes_on_from_its_log() -> None:
    log = Log()
    for frame in (b"1", b"2", b"3"):
        log.append(frame)
    link = OutgoingLink(log.load, last=3, unacknowledged=[Unacknowledged(2, 1, 1), Unacknowledged(3, 1, 2)])
    link.resume(2)
    assert link.transmit() == [b"3"]
    assert link.next_number == 4


def test_a_sender_that_lost_the_end_of_its_log_does_not_use_its_numbers_again() -> None:
    link = OutgoingLink(Log().load, last=3)
    assert link.resume(durable=5) == 2
    assert link.next_number == 6


def test_the_receiver_takes_each_number_once_and_in_order() -> None:
    link = IncomingLink()
    assert [link.accept(number) for number in (1, 1, 3, 2, 1, 3)] == ["new", "duplicate", "gap", "new", "duplicate", "new"]
    assert link.received == 3


def test_the_receiver_gives_credit_back_when_half_the_messages_are_used() -> None:
    link = IncomingLink(window_messages=4)
    link.accept(1)
    assert link.acknowledgement() is None
    link.accept(2)
    assert link.acknowledgement() == Acknowledge(2, 0)
    assert link.acknowledgement() is None


def test_the_receiver_gives_credit_back_when_half_the_bytes_are_used() -> None:
    link = IncomingLink(window_bytes=100)
    link.accept(1, size=49)
    assert link.acknowledgement() is None
    link.accept(2, size=1)
    assert link.acknowledgement() == Acknowledge(2, 0)


def test_the_receiver_tells_what_has_become_durable() -> None:
    link = IncomingLink()
    link.accept(1)
    link.synced(1)
    assert link.acknowledgement() == Acknowledge(1, 1)
    assert link.acknowledgement() is None
    with pytest.raises(InvariantViolated, match="only 1 were received"):
        link.synced(2)


def test_the_receiver_syncs_before_its_hello() -> None:
    link = IncomingLink(durable=4)
    assert link.hello() == 4
    link.accept(5)
    with pytest.raises(InvariantViolated, match="sync the log first"):
        link.hello()
    link.synced(5)
    assert link.hello() == 5
    assert link.acknowledgement() is None


def test_a_sender_never_waits_for_credit_that_the_receiver_does_not_give() -> None:
    log = Log()
    for size in (1, 30, 60, 100, 250):
        sender, receiver = outgoing(log, window_messages=4, window_bytes=100), IncomingLink(window_messages=4, window_bytes=100)
        for _ in range(50):
            assert sender.may_send()
            assert receiver.accept(send(sender, log, b"x" * size), size) == "new"
            told = receiver.acknowledgement()
            if told is not None:
                sender.acknowledge(told.received, told.durable)


def test_liveness() -> None:
    liveness = Liveness(interval_s=2.0, loss_s=10.0, now=100.0)
    assert not liveness.due(101.9)
    assert liveness.due(102.0)
    liveness.said(102.0)
    assert not liveness.due(103.9)
    assert liveness.next_event() == 104.0
    assert not liveness.lost(109.9)
    assert liveness.lost(110.0)
    liveness.heard(109.0)
    assert not liveness.lost(110.0)
    liveness.said(118.5)
    assert liveness.next_event() == 119.0


class World:
    """A sender and a receiver, each with a log of which a synced part survives the loss of its node.

    The connection loses, doubles and reorders. Each payload is made once and has a number of its own, apart from the link's.
    The witness is what the receiver's program took, in the log of the receiver.
    """

    outgoing: type[OutgoingLink] = OutgoingLink
    incoming: type[IncomingLink] = IncomingLink

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.sent_log: list[tuple[int, bytes]] = []
        self.sent_synced = 0
        self.made = 0
        self.taken_log: list[tuple[int, bytes]] = []
        self.taken_synced = 0
        self.to_receiver: list[tuple[int, bytes]] = []
        self.to_sender: list[Acknowledge] = []
        self.sender = self.new_sender()
        self.receiver = self.new_receiver()
        self.connected = False

    def new_sender(self) -> OutgoingLink:
        held = [Unacknowledged(number, len(frame), place) for place, (number, frame) in enumerate(self.sent_log)]
        last = self.sent_log[-1][0] if self.sent_log else 0
        return self.outgoing(
            lambda position: self.sent_log[position][1],
            last=last,
            unacknowledged=held,
            window_messages=4,
            window_bytes=60,
            kept_bytes=50,
        )

    def new_receiver(self) -> IncomingLink:
        self.taken_synced = len(self.taken_log)
        durable = self.taken_log[-1][0] if self.taken_log else 0
        return self.incoming(durable=durable, window_messages=4, window_bytes=60)

    def disconnect(self) -> None:
        self.connected = False
        self.to_receiver.clear()
        self.to_sender.clear()
        self.sender.disconnected()

    def connect(self) -> None:
        self.disconnect()
        self.sync_receiver()
        self.sender.resume(self.receiver.hello())
        self.connected = True
        self.transmit()

    def transmit(self) -> None:
        for frame in self.sender.transmit():
            self.to_receiver.append((int(frame.split()[0]), frame))

    def send(self) -> None:
        if not self.sender.may_send():
            return
        number = self.sender.next_number
        self.made += 1
        frame = b"%d %d %s" % (number, self.made, b"x" * self.chance.randrange(40))
        self.sent_log.append((number, frame))
        self.sender.send(number, frame, len(self.sent_log) - 1)
        self.to_receiver.append((number, frame))

    def receive(self) -> None:
        if not self.to_receiver:
            return
        number, frame = self.to_receiver.pop(0)
        if self.receiver.accept(number, len(frame)) == "new":
            self.taken_log.append((number, frame))
        self.acknowledge()

    def acknowledge(self) -> None:
        told = self.receiver.acknowledgement()
        if told is not None and self.connected:
            self.to_sender.append(told)

    def hear(self) -> None:
        if self.to_sender:
            told = self.to_sender.pop(0)
            self.sender.acknowledge(told.received, told.durable)
            self.transmit()

    def sync_receiver(self) -> None:
        self.taken_synced = len(self.taken_log)
        if self.taken_log:
            self.receiver.synced(self.taken_log[-1][0])

    def sync(self) -> None:
        self.sent_synced = len(self.sent_log)
        self.sync_receiver()
        self.acknowledge()

    def lose(self) -> None:
        queues: tuple[list[Any], list[Any]] = (self.to_receiver, self.to_sender)
        for queue in queues:
            if queue and self.chance.random() < 0.5:
                queue.pop(self.chance.randrange(len(queue)))

    def double(self) -> None:
        queues: tuple[list[Any], list[Any]] = (self.to_receiver, self.to_sender)
        for queue in queues:
            if queue:
                queue.append(self.chance.choice(queue))

    def reorder(self) -> None:
        self.chance.shuffle(self.to_receiver)
        self.chance.shuffle(self.to_sender)

    def end_sender(self) -> None:
        """The process dies: what it wrote stays."""
        self.disconnect()
        self.sender = self.new_sender()

    def end_receiver(self) -> None:
        self.disconnect()
        self.receiver = self.new_receiver()

    def lose_sender_node(self) -> None:
        """What was not synced may be gone, in part."""
        del self.sent_log[self.chance.randint(self.sent_synced, len(self.sent_log)) :]
        self.end_sender()

    def lose_receiver_node(self) -> None:
        del self.taken_log[self.chance.randint(self.taken_synced, len(self.taken_log)) :]
        self.end_receiver()

    def check(self) -> None:
        numbers = [number for number, _ in self.taken_log]
        assert numbers == list(range(1, len(numbers) + 1)), "taken out of order, twice, or with a hole"
        made = [int(frame.split()[1]) for _, frame in self.taken_log]
        assert made == sorted(set(made)), "a payload was taken twice or out of order"

    def finish(self) -> None:
        """Let the connection work; then all that the sender's log holds has been taken."""
        self.connect()
        while self.to_receiver or self.to_sender:
            self.receive()
            self.sync()
            self.hear()
        self.check()
        taken = dict(self.taken_log)
        for number, frame in self.sent_log:
            assert taken.get(number) == frame, f"message {number} was not delivered as it was logged"
        assert self.sender.unacknowledged == 0
        assert self.sender.kept_bytes == 0


FAULTS = {
    "lose": 2,
    "double": 2,
    "reorder": 1,
    "disconnect": 1,
    "end_sender": 1,
    "end_receiver": 1,
    "lose_sender_node": 1,
    "lose_receiver_node": 1,
}
STEPS = {"send": 25, "receive": 25, "hear": 12, "sync": 8, "connect": 6, **FAULTS}


def walk(world: World, steps: int) -> None:
    for step in world.chance.choices([*STEPS], weights=[*STEPS.values()], k=steps):
        getattr(world, step)()
        world.check()
    world.finish()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), steps=st.lists(st.sampled_from([*STEPS]), max_size=60))
def test_each_message_is_delivered_once_and_in_order(seed: int, steps: list[str]) -> None:
    world = World(random.Random(seed))
    for step in steps:
        getattr(world, step)()
        world.check()
    world.finish()


@pytest.mark.parametrize("seed", range(40))
def test_each_message_is_delivered_once_and_in_order_on_a_long_walk(seed: int) -> None:
    world = World(random.Random(seed))
    walk(world, 1000)
    assert len(world.taken_log) > 30, "the walk hardly delivered anything"


class TakesDoubles(IncomingLink):
    def accept(self, number: int, size: int = 0) -> Any:
        verdict = super().accept(number, size)
        return "new" if verdict == "duplicate" else verdict


class TakesBehindGaps(IncomingLink):
    def accept(self, number: int, size: int = 0) -> Any:
        if number > self._received:
            self._received = number - 1
        return super().accept(number, size)


class SaysHelloUnsynced(IncomingLink):
    def hello(self) -> int:
        return self._durable


class UsesLostNumbersAgain(OutgoingLink):
    def resume(self, durable: int) -> int:
        last = self._last
        lost = super().resume(durable)
        self._last = last
        return lost


class ForgetsWhatWasOnlyReceived(OutgoingLink):
    def acknowledge(self, received: int, durable: int) -> None:
        super().acknowledge(received, received)


class SendsNothingAgain(OutgoingLink):
    def resume(self, durable: int) -> int:
        lost = super().resume(durable)
        self._again.clear()
        return lost


@pytest.mark.parametrize(
    "fault",
    [TakesDoubles, TakesBehindGaps, SaysHelloUnsynced, UsesLostNumbersAgain, ForgetsWhatWasOnlyReceived, SendsNothingAgain],
)
def test_the_walk_catches_planted_faults(fault: type[OutgoingLink] | type[IncomingLink]) -> None:
    class Faulty(World):
        if issubclass(fault, OutgoingLink):
            outgoing = fault
        else:
            incoming = fault

        def sync_receiver(self) -> None:
            if fault is not SaysHelloUnsynced or self.chance.random() < 0.3:
                super().sync_receiver()

    for seed in range(40):
        try:
            walk(Faulty(random.Random(seed)), 1000)
        except (AssertionError, ProtocolError):
            return
    pytest.fail(f"40 walks did not notice {fault.__name__}")
