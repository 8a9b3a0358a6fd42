"""Spare files for silent tasks: lent, shown, put where they belong, and found again after a runner's death."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from pilotage.outputs.spares import Spares, recover


class World:
    """A pilot's folder, and one runner's spares."""

    def __init__(self, folder: Path) -> None:
        self.pilot = folder / "pilot"
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.spares = Spares(str(self.pilot), "a.spawner.0", self.notes, "spawner.0")

    def own(self, uid: str) -> str:
        folder = self.pilot / "tasks" / uid
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder / uid)

    def lend(self, uid: str, stdout: bytes = b"", stderr: bytes = b"") -> str:
        """Begin a task and let it print, as one does that opens its files by name."""
        pair = self.spares.lend(self.own(uid))
        for path, content in zip(self.spares.paths(pair), (stdout, stderr), strict=True):
            with open(path, "ab") as file:
                file.write(content)
        return pair

    def end(self, uid: str, pair: str) -> bool:
        return self.spares.end(pair, self.own(uid))

    def printed(self, uid: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.pilot / "tasks" / uid).iterdir()}

    def spare_files(self) -> list[str]:
        folder = self.pilot / "output"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def no_renames(source: str, target: str) -> None:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source)


def test_silent_tasks_have_the_same_files_one_after_another(world: World) -> None:
    inodes = set()
    for uid in ("a", "b", "c"):
        pair = world.lend(uid)
        inodes.add(tuple(os.stat(path).st_ino for path in world.spares.paths(pair)))
        assert world.end(uid, pair)
        assert world.printed(uid) == {}
    assert len(inodes) == 1
    assert world.spare_files() == ["a.spawner.0.spare.1.err", "a.spawner.0.spare.1.out"]


def test_tasks_side_by_side_have_files_of_their_own(world: World) -> None:
    assert len({world.lend(uid) for uid in ("a", "b", "c")}) == 3


def test_what_was_printed_is_moved_and_the_next_begins_with_empty_files(world: World) -> None:
    pair = world.lend("a", b"out")
    inode = os.stat(world.spares.paths(pair)[0]).st_ino
    assert not world.end("a", pair)
    assert world.printed("a") == {"a.out": b"out"}
    assert os.stat(world.own("a") + ".out").st_ino == inode
    assert world.lend("b", b"", b"err") == pair
    assert not world.end("b", pair)
    assert world.printed("b") == {"b.err": b"err"}


def test_a_task_that_is_shown_goes_on_writing_to_files_of_its_own(world: World) -> None:
    pair = world.lend("a", b"so far\n")
    with open(world.spares.paths(pair)[0], "ab", buffering=0) as stdout:
        own = world.own("a")
        assert world.spares.show(pair, own) == (own + ".out", own + ".err")
        stdout.write(b"the rest\n")
    assert world.end("a", pair), "nothing of it was left in the spare files"
    assert world.printed("a") == {"a.out": b"so far\nthe rest\n", "a.err": b""}
    assert world.end("b", world.lend("b"))


def test_a_file_that_the_task_has_made_under_that_name_keeps_its_content(world: World) -> None:
    pair = world.lend("a", b"from stdout")
    own = world.own("a")
    Path(own + ".out").write_bytes(b"from the task itself, ")
    assert world.spares.show(pair, own) == (world.spares.paths(pair)[0], own + ".err")
    world.end("a", pair)
    assert world.printed("a") == {"a.out": b"from the task itself, from stdout", "a.err": b""}
    assert world.end("b", world.lend("b"))


def test_between_file_systems_output_is_copied_at_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "rename", no_renames)
    pair = world.lend("a", b"out", b"err")
    assert world.spares.show(pair, world.own("a")) == world.spares.paths(pair), "it cannot be moved while it is written"
    assert not world.end("a", pair)
    assert world.printed("a") == {"a.out": b"out", "a.err": b"err"}
    assert world.lend("b") == pair
    assert world.end("b", pair)


def test_what_finds_no_room_stays_and_no_other_task_gets_its_files(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "rename", no_renames)
    monkeypatch.setattr(shutil, "copyfileobj", full)
    pair = world.lend("a", b"out")
    with pytest.raises(OSError, match="No space left"):
        world.end("a", pair)
    assert Path(world.spares.paths(pair)[0]).read_bytes() == b"out"
    assert world.lend("b") != pair
    monkeypatch.undo()
    recover(world.notes)
    assert world.printed("a") == {"a.out": b"out"}


def test_a_task_that_removes_its_folder_removes_what_it_printed(world: World) -> None:
    pair = world.lend("a", b"out")
    own = world.own("a")
    shutil.rmtree(world.pilot / "tasks" / "a")
    world.spares.end(pair, own)
    assert not Path(own).parent.exists()
    assert world.end("b", world.lend("b"))
    assert world.printed("b") == {}


def test_names_that_are_too_long_for_a_note_are_refused(world: World) -> None:
    pair = world.lend("a")
    world.end("a", pair)
    with pytest.raises(OSError, match="too long for a note"):
        world.spares.lend("/" + "long/" * 300 + "b")
    assert world.lend("c") == pair


def test_nothing_is_left_at_the_end(world: World) -> None:
    world.end("a", world.lend("a"))
    world.spares.close()
    assert not (world.pilot / "output").exists()
    assert list(world.notes.iterdir()) == []


def test_what_others_keep_is_left_at_the_end(world: World) -> None:
    world.end("a", world.lend("a"))
    (world.pilot / "output" / "node.data").write_bytes(b"x")
    world.spares.close()
    assert world.spare_files() == ["node.data"]


def test_a_dead_runners_tasks_get_what_they_had_printed(world: World) -> None:
    world.end("silent", world.lend("silent"))
    world.end("loud", world.lend("loud", b"all of it"))
    for uid in ("a", "täsk b"):
        world.lend(uid, f"{uid} so far".encode(), b"oops" if uid == "a" else b"")
    world.lend("c")
    recover(world.notes, "spawner.0")
    assert world.printed("a") == {"a.out": b"a so far", "a.err": b"oops"}
    assert world.printed("täsk b") == {"täsk b.out": "täsk b so far".encode()}
    assert world.printed("loud") == {"loud.out": b"all of it"}
    assert world.printed("silent") == world.printed("c") == {}
    assert world.spare_files() == []
    assert list(world.notes.iterdir()) == []


def test_a_longer_note_before_does_no_harm(world: World) -> None:
    world.end("a" * 200, world.lend("a" * 200))
    world.lend("b", b"so far")
    recover(world.notes)
    assert world.printed("b") == {"b.out": b"so far"}
    assert world.printed("a" * 200) == {}


def test_the_dead_are_told_from_the_living(world: World) -> None:
    world.lend("a", b"so far")
    other = Spares(str(world.pilot), "a.spawner.1", world.notes, "spawner.1")
    pair = other.lend(world.own("b"))
    recover(world.notes, "spawner.0")
    assert world.printed("a") == {"a.out": b"so far"}
    assert all(os.path.exists(path) for path in other.paths(pair))
    recover(world.notes, "spawner.7")
    recover(world.notes / "gone")
    assert [path.name for path in world.notes.iterdir()] == ["spawner.1.spares"]


def test_a_note_that_was_cut_short_is_passed_over(world: World) -> None:
    world.lend("a", b"so far")
    (notes,) = world.notes.iterdir()
    with notes.open("ab") as file:
        file.truncate(1024)
        file.write(b"\0" * 1024 + b"/somewhere/spare.3\0")
    recover(world.notes)
    assert world.printed("a") == {"a.out": b"so far"}


def test_what_cannot_be_recovered_is_told_and_keeps_nothing_else_from_it(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    first = world.spares.paths(world.lend("a", b"lost"))[0]
    world.lend("b", b"found")
    os.mkdir(world.own("a") + ".out")
    recover(world.notes)
    assert world.printed("b") == {"b.out": b"found"}
    assert Path(first).read_bytes() == b"lost"
    assert f"what was printed to {world.own('a')}.out stays in {first}: " in capsys.readouterr().err
