"""What each action and flag does, and what cannot be done says why."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path

import pytest
from staging_support import OLD_TIME_NS, World, other_file_system, picture, temporaries, write

import pilotage as rp
from pilotage.errors import StagingFailed
from pilotage.staging import files
from pilotage.staging.files import SMALL_BYTES


def entry(source: str, target: str, action: str = rp.COPY, **more: object) -> dict[str, object]:
    return {"source": source, "target": target, "action": action, **more}


# where things go


@pytest.mark.parametrize(
    ("target", "goal"),
    [
        ("task:///b.dat", "task/b.dat"),
        ("task:///", "task/a.dat"),
        ("task:///sub/", "task/sub/a.dat"),
        ("task:///sub/b.dat", "task/sub/b.dat"),
        ("there", "task/there/a.dat"),
        ("pilot:///b.dat", "pilot/b.dat"),
        ("session:///b.dat", "session/b.dat"),
        ("resource:///b.dat", "resource/b.dat"),
        ("client:///out/b.dat", "client/out/b.dat"),
    ],
)
def test_a_file_comes_to_where_its_target_says(world: World, target: str, goal: str) -> None:
    write(world.client / "a.dat", "hello")
    (world.task / "there").mkdir()
    world.stage(entry("a.dat", target))
    folder, _, name = goal.partition("/")
    roots = {"task": world.task, "pilot": world.pilot, "session": world.session, "client": world.client}
    assert (roots.get(folder, world.session.parent) / name).read_text() == "hello"


def test_endpoint_and_file_are_the_root_of_the_file_system(world: World) -> None:
    write(world.client / "a.dat", "hello")
    world.stage(entry(f"endpoint://{world.client}/a.dat", f"file://localhost{world.root}/b.dat"))
    assert (world.root / "b.dat").read_text() == "hello"


def test_without_a_target_the_copy_has_the_name_of_the_source(world: World) -> None:
    write(world.client / "in" / "a.dat", "hello")
    world.stage("in/a.dat")
    world.stage("a.dat", phase="output")
    assert (world.task / "a.dat").read_text() == (world.client / "a.dat").read_text() == "hello"


# copies


@pytest.mark.parametrize("action", [rp.COPY, rp.TRANSFER, rp.TARBALL, rp.MOVE])
def test_content_mode_and_times_are_kept(world: World, action: str) -> None:
    write(world.client / "run.sh", "#!/bin/sh\n", mode=0o754)
    world.stage(entry("run.sh", "task:///run.sh", action))
    status = (world.task / "run.sh").stat()
    assert (status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (OLD_TIME_NS, 0o754)
    assert (world.client / "run.sh").exists() == (action != rp.MOVE)


def test_a_copy_drops_the_bits_that_change_the_user(world: World) -> None:
    write(world.client / "tool", mode=0o4755)
    world.stage(entry("tool", "task:///tool"))
    assert stat.S_IMODE((world.task / "tool").stat().st_mode) == 0o755


def test_a_copy_replaces_a_link_and_not_what_the_link_names(world: World) -> None:
    write(world.client / "new", "new")
    kept = write(world.pilot / "shared", "shared")
    (world.task / "in").symlink_to(kept)
    world.stage(entry("new", "task:///in"))
    assert ((world.task / "in").read_text(), kept.read_text()) == ("new", "shared")


def test_a_link_given_as_the_source_is_followed(world: World) -> None:
    write(world.client / "real", "hello")
    (world.client / "alias").symlink_to("real")
    world.stage(entry("alias", "task:///in"))
    assert not (world.task / "in").is_symlink()
    assert (world.task / "in").read_text() == "hello"


@pytest.mark.parametrize("size", [0, 1, SMALL_BYTES, SMALL_BYTES + 1, 3 * SMALL_BYTES, 3 * SMALL_BYTES + 4097])
def test_files_of_all_sizes(world: World, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIECE_BYTES", SMALL_BYTES)
    content = os.urandom(1 << 16) * (size // (1 << 16)) + os.urandom(size % (1 << 16))
    write(world.client / "a", content)
    world.stage(entry("a", "task:///a"))
    assert (world.task / "a").read_bytes() == content


def test_holes_stay_holes(world: World) -> None:
    with open(world.client / "sparse", "wb") as file:
        file.write(b"head")
        file.seek(100 << 20)
        file.write(b"middle")
        file.truncate(200 << 20)
    world.stage(entry("sparse", "task:///sparse"))
    status = (world.task / "sparse").stat()
    assert (status.st_size, status.st_blocks * 512 < 1 << 20) == (200 << 20, True)
    with open(world.task / "sparse", "rb") as file:
        assert file.read(4) == b"head"
        file.seek(100 << 20)
        assert file.read(6) == b"middle"


def test_a_file_of_the_kernel_is_read_to_its_end(world: World) -> None:
    world.stage(entry("/proc/self/status", "task:///status"))
    assert (world.task / "status").read_text().startswith("Name:")


def test_a_copy_to_another_file_system(world: World) -> None:
    with other_file_system(world.root) as elsewhere:
        if elsewhere is None:
            pytest.skip("all that can be written here is one file system")
        content = os.urandom(3 << 20)
        write(world.client / "a", content)
        world.stage(entry("a", f"{elsewhere}/a"))
        assert (elsewhere / "a").read_bytes() == content


# folders


def a_tree(folder: Path) -> None:
    write(folder / "a.dat", "a", mode=0o600)
    write(folder / "sub" / "b.dat", "b")
    write(folder / "sub" / "deep" / "c.dat", "c")
    (folder / "empty").mkdir(mode=0o700)
    (folder / "inside").symlink_to("sub/b.dat")
    (folder / "sub" / "deep").chmod(0o555)


@pytest.mark.parametrize("flags", [rp.CREATE_PARENTS, rp.CREATE_PARENTS | rp.RECURSIVE])
def test_a_folder_is_brought_with_all_that_is_in_it(world: World, flags: int) -> None:
    a_tree(world.client / "tree")
    expected = picture(world.client / "tree")
    world.stage(
        entry("tree", "task:///copy", flags=flags), entry("tree/", "pilot:///"), entry("tree", "task:///in/", rp.TARBALL)
    )
    for copy in (world.task / "copy", world.pilot / "tree", world.task / "in" / "tree"):
        assert picture(copy) == expected
    assert (world.task / "copy" / "sub" / "deep" / "c.dat").stat().st_mtime_ns == OLD_TIME_NS


def test_a_folder_brought_to_a_folder_is_merged_into_it(world: World) -> None:
    write(world.client / "tree" / "sub" / "a", "new")
    write(world.client / "tree" / "b", "new")
    write(world.task / "tree" / "sub" / "a", "old")
    write(world.task / "tree" / "sub" / "kept", "old")
    for _ in range(2):
        world.stage(entry("tree", "task:///tree"))
    assert {name: what[0] for name, what in picture(world.task / "tree").items() if what[0] != "folder"} == {  # type: ignore[index]
        "b": b"new",
        "sub/a": b"new",
        "sub/kept": b"old",
    }


def test_links_in_a_folder_go_on_to_name_what_they_named(world: World) -> None:
    outside = write(world.client / "outside.dat", "outside")
    tree = world.client / "tree"
    write(tree / "sub" / "a", "a")
    (tree / "sub" / "inside").symlink_to("a")
    (tree / "sub" / "out").symlink_to("../../outside.dat")
    (tree / "absolute").symlink_to(outside)
    (tree / "dangling").symlink_to("nowhere")
    world.stage(entry("tree", "task:///tree"))
    copy = world.task / "tree"
    assert os.readlink(copy / "sub" / "inside") == "a"
    assert (copy / "sub" / "out").read_text() == (copy / "absolute").read_text() == "outside"
    assert os.readlink(copy / "dangling") == "nowhere"


def test_pipes_in_a_folder_are_not_read(world: World) -> None:
    write(world.client / "tree" / "a", "a")
    os.mkfifo(world.client / "tree" / "pipe")
    world.stage(entry("tree", "task:///tree"))
    assert stat.S_ISFIFO((world.task / "tree" / "pipe").stat().st_mode)


def test_what_is_half_done_beside_a_file_is_not_copied_with_its_folder(world: World) -> None:
    write(world.client / "tree" / "a", "a")
    write(world.client / "tree" / ".pilotage-other-0", "half")
    world.stage(entry("tree", "task:///tree"))
    assert list(picture(world.task / "tree")) == ["a"]


# patterns


def test_what_a_pattern_matches_comes_into_the_target(world: World) -> None:
    for name in ("a.dat", "b.dat", "c.txt", "run1/out", "run2/out", "run2/more"):
        write(world.client / "data" / name, name)
    world.stage(entry("data/*.dat", "task:///one"), "data/*.txt", entry("data/*/out", "task:///two"))
    world.stage(entry("data/**", "task:///all"), entry("data/run[12]", "task:///three"))
    names = {str(path.relative_to(world.task)) for path in world.task.rglob("*") if path.is_file()}
    assert names == {
        "one/a.dat",
        "one/b.dat",
        "c.txt",
        "two/run1/out",
        "two/run2/out",
        *(f"all/{name}" for name in ("a.dat", "b.dat", "c.txt", "run1/out", "run2/out", "run2/more")),
        "three/run1/out",
        "three/run2/out",
        "three/run2/more",
    }


def test_a_file_whose_name_is_a_pattern_is_that_file(world: World) -> None:
    write(world.client / "run[1].dat", "one")
    write(world.client / "run1.dat", "other")
    world.stage(entry("run[1].dat", "task:///in.dat"))
    assert (world.task / "in.dat").read_text() == "one"


def test_wildcards_in_the_name_of_the_users_folder_are_none(tmp_path: Path) -> None:
    world = World(tmp_path)
    os.rename(world.client, tmp_path / "client[1]")
    world.client = tmp_path / "client[1]"
    write(world.client / "a.dat", "mine")
    write(tmp_path / "client1" / "a.dat", "other")
    write(tmp_path / "client1" / "b.dat", "other")
    world.stage(entry("a.dat", "task:///one"), entry("*.dat", "task:///all"))
    assert ((world.task / "one").read_text(), list(picture(world.task / "all"))) == ("mine", ["a.dat"])
    with pytest.raises(StagingFailed, match="does not exist"):
        world.stage(entry("b.dat", "task:///one"))


# links


def test_a_link_is_another_name_of_the_file(world: World) -> None:
    write(world.pilot / "shared.dat", "shared")
    for _ in range(2):
        world.stage(entry("pilot:///shared.dat", "task:///in.dat", rp.LINK))
    assert os.path.samefile(world.pilot / "shared.dat", world.task / "in.dat")


def test_links_to_folders_and_to_other_file_systems_are_symbolic(world: World) -> None:
    write(world.pilot / "shared" / "a", "a")
    write(world.task / "old", "old")
    with other_file_system(world.root) as elsewhere:
        entries = [entry("pilot:///shared", "task:///in", rp.LINK)]
        if elsewhere is not None:
            write(elsewhere / "far.dat", "far")
            entries.append(entry(f"{elsewhere}/far.dat", "task:///old", rp.LINK))
        for _ in range(2):
            world.stage(*entries)
        assert (world.task / "in" / "a").read_text() == "a"
        assert elsewhere is None or (world.task / "old").read_text() == "far"


def test_a_link_to_a_link_names_the_file_itself(world: World) -> None:
    write(world.client / "real", "hello")
    (world.client / "alias").symlink_to("real")
    world.stage(entry("alias", "task:///in", rp.LINK))
    (world.client / "alias").unlink()
    assert (world.task / "in").read_text() == "hello"


# moves


def test_a_moved_folder_is_merged_into_one_that_is_there(world: World) -> None:
    write(world.task / "results" / "one", "1")
    write(world.task / "results" / "sub" / "two", "2")
    write(world.client / "results" / "sub" / "three", "3")
    world.stage(entry("task:///results", "client:///results", rp.MOVE), phase="output")
    assert not (world.task / "results").exists()
    assert sorted(path.name for path in (world.client / "results").rglob("*") if path.is_file()) == ["one", "three", "two"]


def test_of_a_link_that_is_moved_the_content_comes(world: World) -> None:
    write(world.task / "out.3", "third")
    (world.task / "latest").symlink_to("out.3")
    world.stage(entry("task:///latest", "client:///latest", rp.MOVE), phase="output")
    assert (world.client / "latest").read_text() == "third"
    assert not (world.client / "latest").is_symlink()
    assert sorted(os.listdir(world.task)) == ["out.3"]


def test_moving_one_name_of_a_file_to_another_leaves_one(world: World) -> None:
    write(world.client / "a", "a")
    os.link(world.client / "a", world.task / "a")
    world.stage(entry("a", "task:///a", rp.MOVE))
    assert (os.listdir(world.client), (world.task / "a").read_text()) == ([], "a")


def test_moves_to_another_file_system(world: World) -> None:
    with other_file_system(world.root) as elsewhere:
        if elsewhere is None:
            pytest.skip("all that can be written here is one file system")
        a_tree(world.client / "tree")
        a_tree(world.client / "more")
        write(world.client / "file", "file")
        expected = picture(world.client / "tree")
        write(elsewhere / "more" / "kept", "kept")
        world.stage(*(entry(name, f"{elsewhere}/{name}", rp.MOVE) for name in ("tree", "more", "file")))
        assert (os.listdir(world.client), picture(elsewhere / "tree")) == ([], expected)
        assert (elsewhere / "file").read_text() == "file"
        assert set(picture(elsewhere / "more")) == {*expected, "kept"}


# archives


@pytest.mark.parametrize("name", ["all.tar", "all.tar.gz", "all.tgz", "all.tar.xz", "all.tar.bz2"])
def test_a_folder_or_pattern_is_packed_into_a_tar_file(world: World, name: str) -> None:
    a_tree(world.task / "tree")
    write(world.task / "x.log", "x")
    world.stage(
        entry("task:///tree", f"client:///{name}", rp.TARBALL),
        entry("task:///*.log", f"client:///logs/{name}", rp.TARBALL),
        phase="output",
    )
    with tarfile.open(world.client / name) as archive:
        assert {"tree/a.dat", "tree/sub/deep/c.dat", "tree/inside", "tree/empty"} < set(archive.getnames())
    with tarfile.open(world.client / "logs" / name) as archive:
        assert archive.getnames() == ["x.log"]


def test_a_tar_file_is_brought_as_it_is(world: World) -> None:
    write(world.client / "in.tar", "not even one")
    world.stage(entry("in.tar", "task:///in.tar", rp.TARBALL))
    assert (world.task / "in.tar").read_text() == "not even one"


# flags and order


def test_higher_priorities_come_first_and_equals_in_their_order(world: World) -> None:
    for name in ("a", "b", "c"):
        write(world.client / name, name)
    world.stage(entry("a", "task:///in"), entry("b", "task:///in", priority=5), entry("c", "task:///in"))
    assert (world.task / "in").read_text() == "c"


def test_what_may_be_missing_does_not_fail_the_task(world: World) -> None:
    flags = rp.NON_FATAL | rp.CREATE_PARENTS
    write(world.client / "b", "b")
    world.stage(
        entry("a", "task:///a", flags=flags), entry("*.dat", "task:///", flags=flags), entry("b", "task:///sub/b", flags=flags)
    )
    assert sorted(os.listdir(world.task)) == ["sub"]


def test_folders_are_made_only_if_that_is_asked_for(world: World) -> None:
    write(world.client / "a", "a")
    with pytest.raises(StagingFailed, match=r"folder '.*/sub' does not exist; set the flag CREATE_PARENTS"):
        world.stage(entry("a", "task:///sub/a", flags=0))
    world.stage(entry("a", "task:///a", flags=0))
    assert os.listdir(world.task) == ["a"]


def test_of_output_all_that_can_be_staged_is(world: World) -> None:
    write(world.task / "b", "b")
    with pytest.raises(StagingFailed, match=r"'task:///a'.* source '.*/a' does not exist.* \(and 1 more\)"):
        world.stage("a", "b", "c", phase="output", go_on=True)
    assert os.listdir(world.client) == ["b"]


def test_what_printed_nothing_is_empty(world: World) -> None:
    printed = frozenset({f"{world.task}/task.out"})
    for _ in range(2):
        world.stage(entry("task:///task.out", "client:///log/", rp.MOVE), phase="output", printed=printed)
    assert (world.client / "log" / "task.out").read_bytes() == b""


def test_input_that_is_where_it_is_wanted_is_left_alone(world: World) -> None:
    path = write(world.client / "a", "a")
    inode = path.stat().st_ino
    (world.root / "alias").symlink_to(world.client)
    for action in (rp.COPY, rp.LINK, rp.MOVE):
        world.stage(entry("a", "client:///a", action), entry("a", f"{world.root}/alias/", action))
    assert (path.stat().st_ino, path.read_text(), os.listdir(world.client)) == (inode, "a", ["a"])


# what cannot be done


@pytest.mark.parametrize("action", [rp.COPY, rp.TRANSFER, rp.LINK, rp.MOVE, rp.TARBALL])
def test_a_missing_source_is_named(world: World, action: str) -> None:
    with pytest.raises(StagingFailed) as failed:
        world.stage(entry("sub/a.dat", "task:///b.dat", action))
    assert str(failed.value) == (
        f"'file://{world.client}/sub/a.dat' > 'task:///b.dat' ({action.upper()}): source "
        f"'{world.client}/sub/a.dat' does not exist; check its name, or set the flag NON_FATAL if it may be missing"
    )


def test_a_pattern_without_a_match_is_named(world: World) -> None:
    with pytest.raises(StagingFailed, match=r"nothing matches '.*/\*\.dat'; check the pattern"):
        world.stage("*.dat")


def test_a_pipe_is_no_source(world: World) -> None:
    os.mkfifo(world.client / "pipe")
    with pytest.raises(StagingFailed, match="device, pipe or socket"):
        world.stage("pipe")


@pytest.mark.parametrize("action", [rp.COPY, rp.MOVE])
def test_a_folder_cannot_be_brought_into_itself(world: World, action: str) -> None:
    write(world.task / "a", "a")
    with pytest.raises(StagingFailed, match=r"lies inside the source .*; choose a target outside"):
        world.stage(entry("task:///", "task:///sub/copy", action), phase="output")
    assert not temporaries(world.root)


def test_a_folder_is_in_the_way(world: World) -> None:
    write(world.client / "a", "a")
    (world.task / "b" / "a").mkdir(parents=True)
    for action in (rp.COPY, rp.LINK, rp.MOVE):
        with pytest.raises(StagingFailed, match=r"target '.*/b/a' is a folder; name a file, or remove the folder"):
            world.stage(entry("a", "task:///b", action))


def test_a_file_is_in_the_way(world: World) -> None:
    write(world.client / "tree" / "a", "a")
    write(world.task / "b", "b")
    for action, target in ((rp.COPY, "b"), (rp.MOVE, "b"), (rp.COPY, "b/c"), (rp.MOVE, "b/c")):
        with pytest.raises(StagingFailed, match="is a file, or lies below one, where a folder is wanted"):
            world.stage(entry("tree", f"task:///{target}", action))
    assert (world.task / "b").read_text() == "b"
    assert not temporaries(world.root)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_may_not_be_written(world: World) -> None:
    write(world.client / "a", "a")
    world.task.chmod(0o555)
    with pytest.raises(StagingFailed, match=r"cannot be written.*Permission denied; choose a folder that you may write"):
        world.stage("a")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_source_that_may_not_be_read(world: World) -> None:
    write(world.client / "a", "a", mode=0)
    with pytest.raises(StagingFailed, match=r"source '.*/a' cannot be read: Permission denied; make it readable"):
        world.stage("a")


def test_a_file_system_that_nobody_may_write(world: World) -> None:
    write(world.client / "a", "a")
    with pytest.raises(StagingFailed, match=r"target '/proc/a' cannot be written"):
        world.stage(entry("a", "/proc/a"))


def test_too_long_a_name(world: World) -> None:
    write(world.client / "a", "a")
    with pytest.raises(StagingFailed, match="too long a name"):
        world.stage(entry("a", f"task:///{'x' * 300}"))
    assert not temporaries(world.root)
