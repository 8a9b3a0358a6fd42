"""What a client hands over: whole messages, in order, each once. What is missing or broken is said, and stops what follows."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from pilotage.agent.inbox import INBOX_FOLDER, BrokenInbox, discard, hand_over, handed_over
from pilotage.errors import BackendError
from pilotage.model.ids import Binding, TaskUid
from pilotage.wire.codec import encode
from pilotage.wire.messages import AgentHello, Cancel, EndPilot, FromAgent, FromClient, GrantNodes, Heartbeat, Submit


def cancel(number: int) -> Cancel:
    return Cancel(number, [(TaskUid(f"task.{number}"), Binding(1))])


def give(folder: Path, *messages: Cancel | Submit | EndPilot) -> None:
    hand_over(folder, [(message.number, encode(message)) for message in messages])


def file_of(folder: Path, number: int) -> Path:
    return folder / INBOX_FOLDER / f"{number:08d}"


def test_messages_are_taken_in_order_from_behind_the_last_one(tmp_path: Path) -> None:
    batch = msgspec.Raw(msgspec.msgpack.encode([1, 2, 3]))
    messages = [Submit(number, Binding(1), batch) for number in range(1, 13)] + [EndPilot(13, True)]
    give(tmp_path, *messages)
    assert [encode(message) for message in handed_over(tmp_path, 0)] == [encode(message) for message in messages]
    assert [message.number for message in handed_over(tmp_path, 11)] == [12, 13]
    assert list(handed_over(tmp_path, 13)) == []


def test_nothing_was_handed_over(tmp_path: Path) -> None:
    assert list(handed_over(tmp_path, 0)) == []


def test_only_the_owner_can_read_them(tmp_path: Path) -> None:
    give(tmp_path, cancel(1))
    assert (tmp_path / INBOX_FOLDER).stat().st_mode & 0o777 == 0o700
    assert file_of(tmp_path, 1).stat().st_mode & 0o777 == 0o600


def test_what_has_a_number_keeps_it(tmp_path: Path) -> None:
    give(tmp_path, cancel(1))
    hand_over(tmp_path, [(1, encode(EndPilot(1))), (2, encode(cancel(2)))])
    assert list(handed_over(tmp_path, 0)) == [cancel(1), cancel(2)]


@pytest.mark.parametrize("written", range(4))
def test_a_client_that_dies_between_files_leaves_whole_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    real = os.rename

    class Killed(BaseException):
        pass

    def die_before(source: Path, target: Path) -> None:
        if target.name == f"{written + 1:08d}":
            raise Killed
        real(source, target)

    with monkeypatch.context() as dying:
        dying.setattr(os, "rename", die_before)
        try:
            give(tmp_path, cancel(1), cancel(2), cancel(3))
        except Killed:
            assert written < 3
    assert [message.number for message in handed_over(tmp_path, 0)] == [1, 2, 3][:written]
    # Who comes back hands over again, and nothing is there twice.
    give(tmp_path, cancel(1), cancel(2), cancel(3))
    assert list(handed_over(tmp_path, 0)) == [cancel(1), cancel(2), cancel(3)]


def taken_until_broken(folder: Path, received: int = 0) -> tuple[list[int], str]:
    """Return the numbers that can be taken, and what is said of the one behind them."""
    numbers = []
    with pytest.raises(BrokenInbox) as broken:
        for message in handed_over(folder, received):
            numbers.append(message.number)
    return numbers, str(broken.value)


def test_a_missing_number_stops_what_is_behind_it(tmp_path: Path) -> None:
    give(tmp_path, cancel(1), cancel(2), cancel(3), cancel(4))
    file_of(tmp_path, 2).unlink()
    numbers, said = taken_until_broken(tmp_path)
    assert numbers == [1]
    assert said.startswith("message 2 of those that were handed over in ")
    assert "is missing, and 3 is there; it and all behind it wait until the session is attached to again" in said
    # A client came meanwhile, and sent the second.
    assert [message.number for message in handed_over(tmp_path, 2)] == [3, 4]


def test_a_message_that_is_cut_off_at_any_byte_is_broken(tmp_path: Path) -> None:
    give(tmp_path, cancel(1), cancel(2))
    path = file_of(tmp_path, 2)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        numbers, said = taken_until_broken(tmp_path)
        assert (numbers, f"is damaged: its {length} bytes" in said) == ([1], True), said


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    give(tmp_path, cancel(1))
    path = file_of(tmp_path, 1)
    content = bytearray(path.read_bytes())
    for position in range(len(content)):
        content[position] ^= 1
        path.write_bytes(content)
        assert taken_until_broken(tmp_path)[0] == []
        content[position] ^= 1


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (cancel(2), "is a Cancel that does not belong there"),
        (GrantNodes(1, [0]), "is a GrantNodes that does not belong there"),
        (Heartbeat(), "is a Heartbeat that does not belong there"),
        (AgentHello(1, "s", "p", 1, 0, [], 0.0), "is not understood: "),  # type: ignore[arg-type]
    ],
)
def test_what_no_client_hands_over_is_refused(tmp_path: Path, message: FromClient | FromAgent, said: str) -> None:
    hand_over(tmp_path, [(1, encode(message))])
    numbers, told = taken_until_broken(tmp_path)
    assert (numbers, said in told) == ([], True), told


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / INBOX_FOLDER).write_text("in the way")
    with pytest.raises(BackendError, match=r"cannot write .* bytes in .*/inbox: "):
        give(tmp_path, cancel(1))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / INBOX_FOLDER).iterdir())


def test_what_is_on_disk_elsewhere_is_removed_and_nothing_else(tmp_path: Path) -> None:
    discard(tmp_path, 3)
    give(tmp_path, cancel(1), cancel(2), cancel(3))
    discard(tmp_path, 2)
    assert names(tmp_path) == ["00000003"]
    # A client that was not told hands over again, and what was taken is not taken for new.
    give(tmp_path, cancel(1), cancel(2), cancel(3), cancel(4))
    assert [message.number for message in handed_over(tmp_path, 3)] == [4]
    discard(tmp_path, 4)
    assert names(tmp_path) == []


def test_what_cannot_be_removed_stays(tmp_path: Path) -> None:
    (tmp_path / INBOX_FOLDER / "00000001").mkdir(parents=True)
    discard(tmp_path, 1)
    assert names(tmp_path) == ["00000001"]


def test_unfinished_files_of_a_client_that_died_go_with_the_next_one(tmp_path: Path) -> None:
    give(tmp_path, cancel(1))
    (tmp_path / INBOX_FOLDER / ".00000002.4711").write_text("half a mess")
    give(tmp_path, cancel(1), cancel(2))
    assert names(tmp_path) == ["00000001", "00000002"]
