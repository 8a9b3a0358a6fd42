"""What is noted of moves outlives the process, and is dropped when it is needed no more."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from staging_support import World, write

import pilotage as rp
from pilotage.errors import StagingFailed
from pilotage.staging import notes as notes_module
from pilotage.staging.notes import Errand, Failure, Move, Note, Notes


def move(errand: Errand, index: int = 0) -> Move:
    return Move(errand, index, "/a b\n/ä", "/c", (1, 2), (3, 4), True)


ONE: Errand = ("task.1", "input", 0)
TWO: Errand = ("task.2", "output", 3)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "staging.notes")


def test_notes_are_read_by_the_next_process(path: str) -> None:
    first = Notes(path)
    assert first.of(ONE) == ()
    for note in (move(ONE), move(TWO, 1), Failure(TWO, 0, "why")):
        first.add(note)
    for notes in (first, Notes(path)):
        assert notes.of(ONE) == (move(ONE),)
        assert notes.of(TWO) == (move(TWO, 1), Failure(TWO, 0, "why"))
    first.close()


def test_without_notes_there_is_no_file(path: str) -> None:
    notes = Notes(path)
    notes.of(ONE)
    notes.drop([ONE])
    notes.close()
    assert not Path(path).exists()


@settings(max_examples=60)
@given(kept=st.integers(0, 3), cut=st.integers(1, 40))
def test_a_note_that_was_cut_is_none_and_the_next_is_whole(
    tmp_path_factory: pytest.TempPathFactory, kept: int, cut: int
) -> None:
    path = tmp_path_factory.mktemp("notes") / "staging.notes"
    notes = Notes(str(path))
    for index in range(kept + 1):
        notes.add(move(ONE, index))
    notes.close()
    path.write_bytes(path.read_bytes()[:-cut])
    again = Notes(str(path))
    again.add(move(TWO))
    again.close()
    last = Notes(str(path))
    assert (last.of(ONE), last.of(TWO)) == (tuple(move(ONE, index) for index in range(kept)), (move(TWO),))


def test_the_file_is_empty_when_all_is_dropped(path: str) -> None:
    notes = Notes(path)
    notes.add(move(ONE))
    notes.add(move(TWO))
    notes.drop([ONE])
    assert (notes.of(ONE), notes.of(TWO)) == ((), (move(TWO),))
    notes.drop([ONE, TWO])
    assert Path(path).stat().st_size == 0
    notes.add(move(ONE))
    notes.close()
    assert Notes(path).of(ONE) == (move(ONE),)


def test_a_long_file_is_written_anew(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes_module, "REWRITE_BYTES", 1000)
    notes = Notes(path)
    kept: list[Note] = [move(TWO)]
    notes.add(kept[0])
    for number in range(100):
        errand = f"task.{number}", "input", 0
        notes.add(move(errand))
        notes.drop([errand])
        assert Path(path).stat().st_size < 1500
    kept.append(move(TWO, 1))
    notes.add(kept[1])
    notes.close()
    assert Notes(path).of(TWO) == tuple(kept)


def test_what_failed_before_a_move_stays_failed(world: World) -> None:
    """The process died after it had moved the file, before it could tell that something else had failed."""
    write(world.task / "a", "a")
    entries = ("missing", {"source": "a", "target": "a", "action": rp.MOVE})
    for incarnation in (1, 2):
        with pytest.raises(StagingFailed, match=r"'task:///missing'.*does not exist"):
            world.stage(*entries, phase="output", go_on=True, incarnation=incarnation)
    assert (world.client / "a").read_text() == "a"
