"""Killed, or failed by the system, at each single call that changes a file, and done again: the end is the right one.

A file that has its target's name is whole at any time, and what is moved is never in neither of its places.
"""

from __future__ import annotations

import errno
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from staging_support import Calls, World, calls_of, fail, killed_at, other_file_system, picture, temporaries, write

import pilotage as rp
from pilotage.errors import StagingFailed
from pilotage.staging.failures import NoRoom

Entry = dict[str, Any]


def entry(source: str, target: str, action: str) -> Entry:
    return {"source": source, "target": target, "action": action}


def files_of(world: World) -> None:
    """Make what all scenarios stage: some files, folders, and targets that are there already."""
    write(world.client / "a", "a" * 5000)
    write(world.client / "large", b"large" * 40_000)
    write(world.client / "tree" / "x", "x")
    write(world.client / "tree" / "sub" / "y", "y")
    (world.client / "tree" / "link").symlink_to("x")
    (world.client / "alias").symlink_to("tree/x")
    for name in ("p1", "p2", "p3"):
        write(world.client / "many" / name, name)
    write(world.task / "old", "old content")
    write(world.task / "there" / "kept", "kept")
    write(world.task / "there" / "x", "old x")
    write(world.task / "there" / "sub" / "y", "old y")


SCENARIOS: dict[str, list[Entry]] = {
    "copy": [entry("a", "task:///sub/a", rp.COPY), entry("large", "task:///old", rp.COPY)],
    "copy a folder": [entry("tree", "task:///tree", rp.COPY)],
    "merge a folder": [entry("tree", "task:///there", rp.COPY)],
    "link": [entry("a", "task:///old", rp.LINK), entry("tree", "task:///tree", rp.LINK)],
    "move": [entry("a", "task:///sub/a", rp.MOVE), entry("large", "task:///old", rp.MOVE)],
    "move a folder": [entry("tree", "task:///sub/tree", rp.MOVE)],
    "move a folder into another": [entry("tree", "task:///there", rp.MOVE)],
    "move a link": [entry("alias", "task:///alias", rp.MOVE)],
    "move a pattern": [entry("many/*", "task:///many", rp.MOVE)],
    "move on": [
        entry("a", "task:///a", rp.MOVE),
        entry("task:///a", "task:///copy", rp.COPY),
        entry("task:///a", "pilot:///a", rp.MOVE),
        entry("large", "task:///a", rp.MOVE),
    ],
    "swap": [
        entry("a", "task:///one", rp.MOVE),
        entry("large", "client:///a", rp.MOVE),
        entry("task:///one", "client:///large", rp.MOVE),
    ],
    "copy a pattern, then move it": [entry("many/*", "task:///copies", rp.COPY), entry("many/*", "task:///many", rp.MOVE)],
    "pack": [entry("tree", "pilot:///tree.tar", rp.TARBALL)],
}


def expected_after(root: Path, entries: list[Entry]) -> dict[str, object]:
    world = World(root)
    files_of(world)
    world.stage(*entries)
    return content_of(world)


def content_of(world: World) -> dict[str, object]:
    """Return all that is in the world but the notes; of links and archives that they are there."""
    found = picture(world.root)
    found.pop("resource/session/pilot.0000/staging.notes", None)
    return {
        name: "archive" if name.endswith(".tar") else "link" if isinstance(what, tuple) and what[0] == "link" else what
        for name, what in found.items()
    }


def require_whole(world: World, expected: dict[str, object]) -> None:
    """Check that each file is one that was there before, or one that is to be there in the end."""
    known = {what[0] for what in expected.values() if isinstance(what, tuple)}
    known |= {what[0] for what in BEFORE.values() if isinstance(what, tuple)}
    for name, what in content_of(world).items():
        if isinstance(what, tuple) and ".pilotage-" not in name:
            assert what[0] in known, f"{name} is not whole: {what}"
    for content in (b"a" * 5000, b"large" * 40_000, b"y"):
        assert any(isinstance(what, tuple) and what[0] == content for what in picture(world.root).values()), "something is lost"


BEFORE: dict[str, object] = {}


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is such a place: these tests make the same files hundreds of times."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=place if os.access(place, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def tmp_path(memory: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=memory))


@pytest.fixture(scope="module", autouse=True)
def _before(memory: Path) -> None:
    world = World(memory / "before")
    files_of(world)
    BEFORE.update(picture(world.root))


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_any_call_and_done_again(tmp_path: Path, name: str) -> None:
    entries = SCENARIOS[name]
    expected = expected_after(tmp_path / "expected", entries)
    at = 0
    while True:
        world = World(tmp_path / f"killed-{at}")
        files_of(world)
        killed = killed_at(at, lambda world=world: world.stage(*entries))  # type: ignore[misc]
        require_whole(world, expected)
        world.stage(*entries, incarnation=2)
        assert content_of(world) == expected, f"killed at call {at}"
        assert not temporaries(world.root)
        if not killed:
            break
        at += 1
    assert at >= len(entries)


@pytest.mark.parametrize("name", ["move", "move a folder", "move a folder into another", "move a link"])
def test_killed_on_the_way_to_another_file_system(tmp_path: Path, name: str) -> None:
    with other_file_system(tmp_path) as elsewhere:
        if elsewhere is None:
            pytest.skip("all that can be written here is one file system")

        def made(number: str) -> tuple[World, list[Entry]]:
            far = elsewhere / number
            (far / "there").mkdir(parents=True)
            write(far / "there" / "kept", "kept")
            write(far / "old", "old content")
            world = World(tmp_path / number)
            files_of(world)
            return world, [{**one, "target": one["target"].replace("task://", str(far))} for one in SCENARIOS[name]]

        def all_of(world: World, number: str) -> tuple[dict[str, object], dict[str, object]]:
            return content_of(world), picture(elsewhere / number)

        world, entries = made("expected")
        world.stage(*entries)
        expected = all_of(world, "expected")
        at, killed = 0, True
        while killed:
            number = f"killed-{at}"
            world, entries = made(number)
            killed = killed_at(at, lambda world=world, entries=entries: world.stage(*entries))  # type: ignore[misc]
            world.stage(*entries, incarnation=2)
            assert all_of(world, number) == expected, f"killed at call {at}"
            at += 1


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(SCENARIOS)), seed=st.integers(0, 1 << 30))
def test_killed_again_and_again(memory: Path, name: str, seed: int) -> None:
    """Any agents in a row may die; the one that lives brings it to its end."""
    entries = SCENARIOS[name]
    root = Path(tempfile.mkdtemp(dir=memory))
    expected = expected_after(root / "expected", entries)
    world = World(root / "world")
    files_of(world)
    chance = random.Random(seed)
    for incarnation in range(1, 5):
        killed_at(chance.randrange(30), lambda incarnation=incarnation: world.stage(*entries, incarnation=incarnation))  # type: ignore[misc]
        require_whole(world, expected)
    world.stage(*entries, incarnation=9)
    assert content_of(world) == expected
    assert not temporaries(world.root)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("name", SCENARIOS)
def test_failed_at_any_call_and_done_again(tmp_path: Path, name: str, code: int) -> None:
    """What the system refuses is told, leaves nothing half done, and can be done when it refuses no more."""
    entries = SCENARIOS[name]
    expected = expected_after(tmp_path / "expected", entries)
    counted = World(tmp_path / "counted")
    files_of(counted)
    calls = calls_of(lambda: counted.stage(*entries))
    for at, call in enumerate(calls):
        world = World(tmp_path / f"failed-{at}")
        files_of(world)
        told = ""
        with Calls(at, fail(code)).planted():
            try:
                world.stage(*entries)
            except StagingFailed as error:
                told = str(error)
        if told:
            assert (os.strerror(code) in told) and told.startswith("'"), f"{call}: {told}"
            assert "no room" in told or code != errno.ENOSPC, f"{call}: {told}"
        else:
            # Tidying up after what did not work anyway, or a thing that can be done in another way.
            assert (call in ("unlink", "link"), content_of(world)) == (True, expected), f"{call}, call {at}, failed"
        require_whole(world, expected)
        assert not temporaries(world.root), f"{call} failed"
        world.stage(*entries)
        assert content_of(world) == expected, f"{call}, call {at}, failed"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - {"swap"}))
def test_without_room_at_any_call_and_done_again_by_the_same_stager(tmp_path: Path, name: str, code: int) -> None:
    """What there is no room for in the session's folder is undone, no other directive is begun, and it can be done later."""
    entries = SCENARIOS[name]
    expected = expected_after(tmp_path / "expected", entries)
    counted = World(tmp_path / "counted")
    files_of(counted)
    waits = 0
    for at, call in enumerate(calls_of(lambda: counted.stage(*entries))):
        world = World(tmp_path / f"full-{at}")
        files_of(world)
        with world.stager() as stager:
            work = world.work(world.directives(*entries), go_on=True, ground=str(world.session))
            with Calls(at, fail(code)).planted():
                try:
                    stager.stage(work)
                except NoRoom as problem:
                    waits += 1
                    assert problem.is_below(str(world.session)), f"{call}: {problem}"
                    assert os.strerror(code) in str(problem)
                except StagingFailed:
                    # Where the source lies there is room to make, too, for what is removed there.
                    assert call in ("unlink", "rmdir"), f"{call}, call {at}, failed"
            require_whole(world, expected)
            assert not temporaries(world.root), f"{call} failed"
            stager.stage(work)
        assert content_of(world) == expected, f"{call}, call {at}, failed"
    assert waits


def test_what_has_no_room_elsewhere_is_a_failure_and_the_rest_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    write(world.task / "a", "a")
    write(world.task / "b", "b")
    (world.task / "out").symlink_to(world.client)
    entries = [entry("task:///a", "task:///out/a", rp.COPY), entry("task:///b", "pilot:///b", rp.COPY)]
    work = world.work(world.directives(*entries, phase="output"), "output", go_on=True, ground=str(world.session))
    with world.stager() as stager, Calls(0, fail(errno.ENOSPC)).planted(), pytest.raises(StagingFailed, match="no room"):
        stager.stage(work)
    assert (world.pilot / "b").read_text() == "b"


def rename_without_room_in(folder: Path) -> Callable[[str, str], None]:
    rename = os.rename

    def renaming(source: str, target: str) -> None:
        if os.path.dirname(target) == str(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)
        rename(source, target)

    return renaming


def test_a_move_that_finds_no_room_does_not_forget_the_failures_before_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(world.task / "a", "a")
    write(world.task / "b", "b")
    entries = [
        entry("task:///a", "client:///a", rp.MOVE),
        entry("task:///none", "client:///none", rp.COPY),
        entry("task:///b", "pilot:///b", rp.MOVE),
    ]
    work = world.work(world.directives(*entries, phase="output"), "output", go_on=True, ground=str(world.session))
    with world.stager() as stager:
        with monkeypatch.context() as full:
            full.setattr(os, "rename", rename_without_room_in(world.pilot))
            for _ in range(2):
                with pytest.raises(NoRoom):
                    stager.stage(work)
        with pytest.raises(StagingFailed, match="none' does not exist"):
            stager.stage(work)
    assert ((world.client / "a").read_text(), (world.pilot / "b").read_text()) == ("a", "b")


def test_what_is_larger_than_all_of_the_file_system_never_fits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write(world.client / "large", random.Random(1).randbytes(1 << 20))
    real = os.statvfs

    def small(path: str) -> Any:
        return Small(real(path).f_frsize, (1 << 19) // real(path).f_frsize)

    monkeypatch.setattr(os, "statvfs", small)
    work = world.work(world.directives(entry("large", "task:///large", rp.COPY)), ground=str(world.session))
    never = pytest.raises(StagingFailed, match=f"would never fit.* {1 << 19} in all")
    with world.stager() as stager, Calls(1, fail(errno.ENOSPC)).planted(), never:
        stager.stage(work)


class Small(NamedTuple):
    f_frsize: int
    f_blocks: int


def test_no_note_no_move(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write(world.client / "a", "a")
    wrote: Callable[..., int] = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: wrote(descriptor, content[:3]))
    with pytest.raises(StagingFailed, match="no room"):
        world.stage(entry("a", "task:///a", rp.MOVE))
    assert (os.listdir(world.client), os.listdir(world.task)) == (["a"], [])
    monkeypatch.undo()
    world.stage(entry("a", "task:///a", rp.MOVE), incarnation=2)
    assert os.listdir(world.task) == ["a"]


def test_a_source_that_never_was_is_not_taken_for_a_moved_one(world: World) -> None:
    """The target of a move is there, from an earlier time; only a note of this very task would make it the moved file."""
    write(world.task / "a", "something else")
    with pytest.raises(StagingFailed, match="does not exist"):
        world.stage(entry("a", "task:///a", rp.MOVE), incarnation=2)
    assert (world.task / "a").read_text() == "something else"
