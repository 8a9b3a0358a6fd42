"""Staging as users write it: every form, what it amounts to, and what is said of what cannot be."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest

import pilotage as rp
from pilotage.client.staging import directive_dict, output_files, parse_directives, stage
from pilotage.errors import InvalidPilot, InvalidTask, StagingFailed
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.staging import Directive, StagingAction, StagingFlag
from pilotage.model.workload import Extra, Row, Template

PARENTS = StagingFlag.CREATE_PARENTS


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, which the program is in."""
    folder = tmp_path / "user"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def parsed(entry: Any, phase: Any = "input") -> Directive:
    (directive,) = parse_directives(entry, "task 'md'", phase)
    return directive


def brought(entry: Any, phase: Any = "input") -> tuple[str, str]:
    """Return source and target, with the user's folder as HERE."""
    directive = parsed(entry, phase)
    return directive.source.replace(os.getcwd(), "/HERE"), directive.target.replace(os.getcwd(), "/HERE")


@pytest.mark.parametrize(
    ("entry", "source", "target"),
    [
        ("a.dat", "file:///HERE/a.dat", "task:///a.dat"),
        ("in/a.dat", "file:///HERE/in/a.dat", "task:///a.dat"),
        ("../in/./a.dat", "file://", "task:///a.dat"),
        ("/etc/passwd", "file:///etc/passwd", "task:///passwd"),
        ("a > b", "file:///HERE/a", "task:///b"),
        ("a >> b", "file:///HERE/a", "task:///b"),
        ("b < a", "file:///HERE/a", "task:///b"),
        ("b << a", "file:///HERE/a", "task:///b"),
        ("a>sub/", "file:///HERE/a", "task:///sub/"),
        ("a >", "file:///HERE/a", "task:///a"),
        ("in/*.dat", "file:///HERE/in/*.dat", "task:///"),
        ("client:///a", "file:///HERE/a", "task:///a"),
        ("pwd:///a > pwd:///b", "file:///HERE/a", "task:///b"),
        ("pilot:///a", "pilot:///a", "task:///a"),
        ("a > client:///b", "file:///HERE/a", "file:///HERE/b"),
        ("a > resource:///b", "file:///HERE/a", "resource:///b"),
        ("https://host/x/a.tgz?v=1", "https://host/x/a.tgz?v=1", "task:///a.tgz"),
        (Path("in") / "a", "file:///HERE/in/a", "task:///a"),
        ({"source": "a"}, "file:///HERE/a", "task:///a"),
        ({"source": Path("a"), "target": Path("b")}, "file:///HERE/a", "task:///b"),
        ({"source": "a > b", "target": "c"}, "file:///HERE/a > b", "task:///c"),
        ({"source": "gromacs/", "target": "pilot:///"}, "file:///HERE/gromacs/", "pilot:///"),
        ({"source": "a", "target": None, "uid": "sd.1"}, "file:///HERE/a", "task:///a"),
        ("~/a", f"file://{Path.home()}/a", "task:///a"),
    ],
)
def test_input_comes_from_here_to_the_task(entry: Any, source: str, target: str) -> None:
    found = brought(entry)
    if source == "file://":
        source = f"file://{os.path.dirname(os.getcwd())}/in/a.dat"
    assert found == (source, target)


@pytest.mark.parametrize(
    ("entry", "source", "target"),
    [
        ("a", "task:///a", "file:///HERE/a"),
        ("sub/a", "task:///sub/a", "file:///HERE/a"),
        ("a > out/b", "task:///a", "file:///HERE/out/b"),
        ("*.dat", "task:///*.dat", "file:///HERE"),
        ("*.dat > out", "task:///*.dat", "file:///HERE/out"),
        ({"source": "task:///STDOUT", "target": "pilot:///STDOUT.000001"}, "task:///STDOUT", "pilot:///STDOUT.000001"),
        ({"source": "result.dat", "target": "/tmp/result.dat"}, "task:///result.dat", "file:///tmp/result.dat"),
        ("pilot:///x > pwd:///y", "pilot:///x", "file:///HERE/y"),
    ],
)
def test_output_goes_from_the_task_to_here(entry: Any, source: str, target: str) -> None:
    assert brought(entry, "output") == (source, target)


def test_the_pilots_files_are_relative_to_its_folder() -> None:
    assert brought("a", "stage_in") == ("file:///HERE/a", "pilot:///a")
    assert brought("a > session:///b", "stage_in") == ("file:///HERE/a", "session:///b")
    assert brought("a", "stage_out") == ("pilot:///a", "file:///HERE/a")


def test_wildcards_of_the_users_own_folder_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run[1]").mkdir()
    monkeypatch.chdir(tmp_path / "run[1]")
    assert parsed("*.dat").source == f"file://{tmp_path}/run[[]1]/*.dat"
    assert parsed("a.dat", "output").target == f"file://{tmp_path}/run[1]/a.dat"
    assert parsed("a.dat").target == "task:///a.dat"


def test_a_folder_that_is_gone_has_no_relative_paths(here: Path) -> None:
    here.rmdir()
    with pytest.raises(InvalidTask, match="relative to the current folder, which was removed; give the full path"):
        parsed("a")


@pytest.mark.parametrize(
    ("action", "meant"),
    [
        (None, StagingAction.TRANSFER),
        (rp.COPY, StagingAction.COPY),
        (rp.LINK, StagingAction.LINK),
        (rp.MOVE, StagingAction.MOVE),
        (rp.TRANSFER, StagingAction.TRANSFER),
        (rp.TARBALL, StagingAction.TARBALL),
        ("copy", StagingAction.COPY),
        (StagingAction.LINK, StagingAction.LINK),
    ],
)
def test_actions(action: Any, meant: StagingAction) -> None:
    assert parsed({"source": "a", "action": action}).action is meant


def test_flags_and_priority() -> None:
    assert parsed("a") == Directive(f"file://{os.getcwd()}/a", "task:///a", StagingAction.TRANSFER, PARENTS, 0)
    given = parsed({"source": "a", "flags": rp.RECURSIVE | rp.NON_FATAL, "priority": -3})
    assert (given.flags, given.priority) == (StagingFlag.RECURSIVE | StagingFlag.NON_FATAL, -3)
    assert parsed({"source": "a", "flags": 0}).flags == StagingFlag.NONE


def test_one_entry_is_a_list_of_one_and_none_is_none() -> None:
    assert parse_directives(None, "task", "input") == parse_directives([], "task", "input") == ()
    assert parse_directives("a", "task", "input") == parse_directives(("a",), "task", "input")
    assert len(parse_directives(["a", {"source": "b"}, Path("c")], "task", "input")) == 3


def test_what_was_parsed_can_be_parsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run[1]").mkdir()
    monkeypatch.chdir(tmp_path / "run[1]")
    entries = ["a", "*.dat > sub/", "https://host/a", {"source": "pilot:///a/", "action": "Move", "flags": 5, "priority": 2}]
    first = parse_directives(entries, "task", "input")
    monkeypatch.chdir(tmp_path)
    assert parse_directives([directive_dict(one) for one in first], "task", "input") == first


def test_the_old_name_of_the_pilots_folder_is_mapped_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="staging:// is an older name: use 'pilot:///a'") as warned:
        assert brought("staging:///a > b") == ("pilot:///a", "task:///b")
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parsed("pilot:///a")


@pytest.mark.parametrize(
    ("entry", "phase", "why"),
    [
        ("", "input", "source is '' (str); give a path or URL"),
        ("> b", "input", "source is '' (str); give a path or URL"),
        ({"target": "b"}, "input", "source is None (NoneType); give a path or URL"),
        ({"source": "a", "target": 3}, "input", "target is 3 (int); give a path or URL"),
        ("a > b > c", "input", "'a > b > c' has more than one arrow; write 'source > target', or a dict"),
        (7, "input", "a directive is a text ('source > target') or a dict, not 7 (int)"),
        (
            {"source": "a", "tagret": "b"},
            "input",
            "unknown key 'tagret'; known are source, target, action, flags, priority; did you mean 'target'?",
        ),
        (
            {"source": "a", "action": "Cpoy"},
            "input",
            "unknown action 'Cpoy' (str); known are Copy, Link, Move, Download, Transfer, Tarball; did you mean 'Copy'?",
        ),
        ({"source": "a", "action": 1}, "input", "unknown action 1 (int)"),
        (
            {"source": "a", "flags": 8},
            "input",
            "flags=8 (int); known are RECURSIVE (1), CREATE_PARENTS (2) and NON_FATAL (4), joined by |",
        ),
        ({"source": "a", "flags": True}, "input", "flags=True (bool)"),
        ({"source": "a", "priority": "high"}, "input", "priority='high' (str); it is a whole number"),
        ({"source": "a", "action": rp.DOWNLOAD}, "input", "action DOWNLOAD takes a source on http:// or https://"),
        ({"source": "http://host/a", "action": rp.LINK}, "input", "action LINK cannot fetch 'http://host/a'; use 'Download'"),
        ("a > http://host/a", "output", "target 'http://host/a' is a web address; nothing can be sent there"),
        ("plot:///a", "input", "unknown schema 'plot'; known are client, pwd, task,"),
        ("scp://host/a", "input", "this version does not transfer files by scp://; bring them to this machine first"),
        ("a > globus://x/a", "output", "this version does not transfer files by globus://"),
        ("task:///../other/a", "output", "leads out of the folder that task:// stands for"),
        ("a > ../a", "input", "'task:///../a' leads out of the folder"),
        ("task:///a", "stage_out", "there is no task here; name a file of the pilot (pilot:///...)"),
        ("a > pilot:///log/x", "stage_in", "would overwrite what the pilot itself keeps there; choose another name"),
        ("a > session:///client", "input", "would overwrite what the session itself keeps there"),
        ("a\0b", "input", "holds a NUL character"),
        ("a\udc80", "input", "is not valid Unicode and cannot be sent: rename the file"),
    ],
)
def test_what_cannot_be_is_told(entry: Any, phase: Any, why: str) -> None:
    with pytest.raises(InvalidTask) as refused:
        parse_directives([entry], "task 'md'", phase)
    attribute = phase if phase.startswith("stage") else f"{phase}_staging"
    assert str(refused.value).startswith(f"task 'md': {attribute}[0]: ")
    assert why in str(refused.value)


def test_the_error_is_that_of_who_asks() -> None:
    with pytest.raises(InvalidPilot, match=r"^pilot 'p': stage_in: unknown key"):
        parse_directives({"x": 1}, "pilot 'p'", "stage_in", InvalidPilot)


# what the client stages itself


def test_staging_into_and_out_of_a_pilot(here: Path, tmp_path: Path) -> None:
    pilot = tmp_path / "base" / "session" / "pilot.0000"
    pilot.mkdir(parents=True)
    (here / "a").write_text("a")
    entries = [
        "a",
        "a > session:///b",
        {"source": "a", "target": "resource:///sub/c", "action": rp.COPY},
        f"a > endpoint://{tmp_path}/d",
    ]
    targets = stage(parse_directives(entries, "pilot", "stage_in"), "stage_in", "pilot.0000", str(pilot))
    assert targets == [
        f"file://{tmp_path}/{name}" for name in ("base/session/pilot.0000/a", "base/session/b", "base/sub/c", "d")
    ]
    assert all(Path(target[7:]).read_text() == "a" for target in targets)
    targets = stage(parse_directives(["a > out/", "session:///b"], "pilot", "stage_out"), "stage_out", "pilot.0000", str(pilot))
    assert targets == [f"file://{here}/out/", f"file://{here}/b"]
    assert sorted(path.name for path in here.rglob("*") if path.is_file()) == ["a", "a", "b"]


def test_what_the_pilot_does_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(StagingFailed, match=r"^'pilot:///a' > 'file://.*/a' \(TRANSFER\): source .* does not exist"):
        stage(parse_directives("a", "pilot", "stage_out"), "stage_out", "pilot.0000", str(tmp_path))


def test_output_files_are_what_the_task_left(tmp_path: Path) -> None:
    folder = tmp_path / "sandbox"
    folder.mkdir()
    for name in ("task.1.out", "task.1.3.err", "log", "in.dat", "a.txt", "b.txt", "made.dat", ".hidden", "folder"):
        (folder / name).write_text(name)
    extra = Extra(parse_directives(["in.dat", "x/*.txt", "y > pilot:///made.dat", "https://host/page"], "task", "input"))
    row = Row(TaskUid("task.1"), TemplateId(1), extra=extra)
    assert output_files(str(folder), Template(stderr="log"), row) == ["folder", "made.dat"]
    assert output_files(str(folder / "none"), Template(), row) == []
