"""Frames over a stream socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pilotage.wire.framing import Disconnected, FrameReader, FrameWriter

READ_BYTES = 1 << 18


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


def test_frames_arrive_as_they_were_written(pair: tuple[socket.socket, socket.socket]) -> None:
    writer, reader = FrameWriter(pair[0]), FrameReader(pair[1])
    frames = [b"", b"a", b"b" * 1000] * 50
    for frame in frames:
        writer.write(frame)
    assert writer.flush()
    assert reader.read() == frames
    assert reader.read() == []


def test_a_frame_larger_than_the_sockets_buffer_arrives_in_parts(pair: tuple[socket.socket, socket.socket]) -> None:
    writer, reader = FrameWriter(pair[0]), FrameReader(pair[1])
    frame = bytes(range(256)) * 20_000
    writer.write(frame)
    arrived: list[bytes] = []
    turns = 0
    while not arrived:
        writer.flush()
        arrived = reader.read()
        turns += 1
    assert arrived == [frame]
    assert turns > 1


def test_a_stream_cut_anywhere_gives_the_same_frames(pair: tuple[socket.socket, socket.socket]) -> None:
    reader = FrameReader(pair[1])
    stream = b"\x03\x00\x00\x00abc\x00\x00\x00\x00\x01\x00\x00\x00z"
    arrived: list[bytes] = []
    for position in range(len(stream)):
        pair[0].send(stream[position : position + 1])
        arrived += reader.read()
    assert arrived == [b"abc", b"", b"z"]


@pytest.mark.parametrize("size", [5, READ_BYTES - 4, 2 * READ_BYTES - 4])
def test_frames_before_the_end_are_read_before_the_end_is_told(size: int) -> None:
    left, right = socket.socketpair()
    with left, right:
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        left.setblocking(False)
        right.setblocking(False)
        writer, reader = FrameWriter(left), FrameReader(right)
        writer.write(b"x" * size)
        arrived: list[bytes] = []
        while not writer.flush():
            arrived += reader.read()
        left.close()
        while not arrived:
            arrived += reader.read()
        assert [len(frame) for frame in arrived] == [size]
        with pytest.raises(Disconnected):
            reader.read()


def test_writing_to_one_that_left_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].close()
    writer = FrameWriter(pair[0])
    writer.write(b"x")
    with pytest.raises(Disconnected):
        writer.flush()
