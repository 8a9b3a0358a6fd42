"""The agent's stagers: what is asked of them is done once, in bulk, by as many threads as it needs, and told."""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pilotage.agent import stagers as stagers_module
from pilotage.agent.stagers import NOTES_FILE, STAGERS, Stagers
from pilotage.core.agent.events import StagingPhase, StorageFilled
from pilotage.model.execution import Execution
from pilotage.model.ids import Attempt, TaskUid, TemplateId
from pilotage.model.staging import Directive, StagingAction
from pilotage.model.workload import Extra, Row, Template
from pilotage.staging import files
from pilotage.staging.files import Files

PATIENCE_S = 60.0
INPUT, OUTPUT = Attempt(0), Attempt(1)


class Pilot:
    """A pilot's folder, its stagers, and what they told."""

    def __init__(self, root: Path) -> None:
        self.user = root / "user"
        self.folder = root / "base" / "session" / "pilot.0000"
        (self.folder / "tasks").mkdir(parents=True)
        self.user.mkdir()
        self.incarnation = 0
        self.stagers: Stagers | None = None
        self.done: list[tuple[StagingPhase, Execution]] = []
        self.failed: dict[tuple[StagingPhase, Execution], str] = {}
        self.put_off: list[tuple[StagingPhase, Execution]] = []
        self.full: list[str] = []
        """Why storage was told to be full."""
        self.restart()

    def restart(self, stagers: int = STAGERS) -> Stagers:
        """Let another agent's stagers follow."""
        self.close()
        self.incarnation += 1
        self.stagers = Stagers(str(self.folder), str(self.user), self.incarnation, stagers)
        return self.stagers

    def close(self) -> None:
        if self.stagers is not None:
            self.stagers.close(PATIENCE_S)
            self.stagers = None

    def submit(self, phase: StagingPhase, *rows: Row, template: Template | None = None) -> None:
        assert self.stagers is not None
        attempt = INPUT if phase == "input" else OUTPUT
        self.stagers.submit(phase, [(attempt, row) for row in rows], {TemplateId(1): template or Template()})

    def wait(self, count: int) -> int:
        """Wait until ``count`` tasks in all were told of; return in how many events that came."""
        assert self.stagers is not None
        until = time.monotonic() + PATIENCE_S
        events = 0
        while self.told() < count:
            assert select.select([self.stagers], [], [], until - time.monotonic())[0], "the stagers tell nothing"
            for event in self.stagers.take():
                events += 1
                if isinstance(event, StorageFilled):
                    self.full.append(event.reason)
                    continue
                assert self.full or not event.put_off, "it was not told why"
                self.put_off += [(event.phase, execution) for execution in event.put_off]
                self.done += [(event.phase, execution) for execution in event.done]
                self.failed.update({(event.phase, execution): why for execution, why in event.failed})
        assert self.told() == count
        return events

    def told(self) -> int:
        return len(self.done) + len(self.failed) + len(self.put_off)

    def stage(self, phase: StagingPhase, *rows: Row, template: Template | None = None) -> None:
        self.submit(phase, *rows, template=template)
        self.wait(self.told() + len(rows))

    def sandbox(self, uid: str, shard: str = "") -> Path:
        return self.folder / "tasks" / shard / uid


@pytest.fixture
def pilot(tmp_path: Path) -> Iterator[Pilot]:
    before = set(threading.enumerate())
    descriptors = len(os.listdir("/proc/self/fd"))
    pilot = Pilot(tmp_path)
    yield pilot
    pilot.close()
    assert set(threading.enumerate()) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


def row(
    uid: str = "task.1",
    *directives: tuple[str, str] | Directive,
    output: list[tuple[str, str]] | None = None,
    action: StagingAction = StagingAction.COPY,
    shard: int = 0,
) -> Row:
    made = [one if isinstance(one, Directive) else Directive(*one, action) for one in directives]
    after = [Directive(*one, action) for one in output or []]
    return Row(TaskUid(uid), TemplateId(1), shard=shard, extra=Extra(tuple(made), tuple(after)))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    copy = Files.copy

    def slow(self: Files, source: str, target: str) -> None:
        gate.pass_through(os.path.basename(source))
        copy(self, source, target)

    monkeypatch.setattr(Files, "copy", slow)
    yield gate
    gate.opened.set()


def eventually(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


class Gate:
    """Copies of sources called ``slow...`` wait for it to be opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.copied: Counter[str] = Counter()

    def pass_through(self, name: str) -> None:
        self.copied[name] += 1
        if name.startswith("slow"):
            self.waiting.release()
            assert self.opened.wait(PATIENCE_S)

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.waiting.acquire(timeout=PATIENCE_S)


def test_nothing_is_started_before_there_is_something_to_stage(pilot: Pilot) -> None:
    before = threading.active_count()
    assert pilot.stagers is not None
    assert pilot.stagers.take() == []
    pilot.submit("input")
    assert (threading.active_count(), os.listdir(pilot.folder)) == (before, ["tasks"])


def test_input_comes_to_a_sandbox_that_is_made_for_it(pilot: Pilot) -> None:
    (pilot.user / "a").write_text("a")
    source = f"file://{pilot.user}/a"
    pilot.stage("input", row("task.1", (source, "task:///in")), row("task.2", (source, "task:///in"), shard=1))
    assert pilot.sandbox("task.1").joinpath("in").read_text() == "a"
    assert pilot.sandbox("task.2", "shard.0001").joinpath("in").read_text() == "a"
    assert sorted(pilot.done) == [("input", ("task.1", 0)), ("input", ("task.2", 0))]


@pytest.mark.parametrize(
    ("sandbox", "folder"),
    [("shared", "base/session/pilot.0000/tasks/shared"), ("none", "user"), ("sub/mine", "base/session/pilot.0000/sub/mine")],
)
def test_the_tasks_folder_is_where_its_template_says(pilot: Pilot, tmp_path: Path, sandbox: str, folder: str) -> None:
    (pilot.user / "a").write_text("a")
    pilot.stage("input", row("task.1", (f"file://{pilot.user}/a", "task:///b")), template=Template(sandbox=sandbox))
    assert (tmp_path / folder / "b").read_text() == "a"


def test_output_is_brought_and_what_printed_nothing_is_empty(pilot: Pilot) -> None:
    pilot.sandbox("task.1").mkdir()
    (pilot.sandbox("task.1") / "b").write_text("b")
    target = f"file://{pilot.user}/"
    pilot.stage(
        "output",
        row("task.1", output=[("task:///b", target), ("task:///task.1.out", target), ("task:///err", target)]),
        template=Template(stderr="err"),
    )
    assert sorted(os.listdir(pilot.user)) == ["b", "err", "task.1.out"]
    pilot.stage("output", row("task.1", output=[("task:///err", target)]), template=Template(stderr="err", output="tail"))
    assert "does not exist" in pilot.failed["output", (TaskUid("task.1"), OUTPUT)]


def test_ten_thousand_tasks_are_told_of_in_bulk(pilot: Pilot) -> None:
    (pilot.user / "a").write_text("a")
    source = f"file://{pilot.user}/a"
    rows = [row(f"task.{number}", (source, "pilot:///a")) for number in range(2000)]
    pilot.submit("input", *rows)
    events = pilot.wait(2000)
    assert len(set(pilot.done)) == 2000
    assert events <= 2000 / 10


def test_failures_are_told_with_their_reason_and_hold_nobody_up(pilot: Pilot) -> None:
    (pilot.user / "a").write_text("a")
    good = row("task.1", (f"file://{pilot.user}/a", "task:///a"))
    bad = row("task.2", (f"file://{pilot.user}/none", "task:///a"))
    pilot.stage("input", bad, good)
    assert pilot.done == [("input", ("task.1", 0))]
    (why,) = pilot.failed.values()
    assert "none' does not exist" in why


def test_a_sandbox_that_cannot_be_made_is_told(pilot: Pilot) -> None:
    (pilot.user / "a").write_text("a")
    pilot.stage(
        "input", row("task.1", (f"file://{pilot.user}/a", "task:///a")), template=Template(sandbox=f"{pilot.user}/a/sub")
    )
    (why,) = pilot.failed.values()
    assert "sandbox" in why and "Not a directory; " in why


def test_what_takes_long_holds_up_one_stager_and_tells_what_came_before(pilot: Pilot, gate: Gate) -> None:
    for name in ("slow", "quick"):
        (pilot.user / name).write_text(name)
    slow = [row(f"slow.{number}", (f"file://{pilot.user}/slow", "task:///a")) for number in range(STAGERS - 1)]
    quick = [row(f"quick.{number}", (f"file://{pilot.user}/quick", "task:///a")) for number in range(300)]
    pilot.submit("input", *quick[:3], *slow, *quick[3:])
    gate.wait_for(len(slow))
    pilot.wait(len(quick))
    assert {uid.partition(".")[0] for _, (uid, _) in pilot.done} == {"quick"}
    gate.opened.set()
    pilot.wait(len(quick) + len(slow))


def test_when_all_stagers_are_held_up_what_has_ended_is_told(pilot: Pilot, gate: Gate) -> None:
    for name in ("slow", "quick"):
        (pilot.user / name).write_text(name)
    quick = [row(f"quick.{number}", (f"file://{pilot.user}/quick", "task:///a")) for number in range(5)]
    slow = [row(f"slow.{number}", (f"file://{pilot.user}/slow", "task:///a")) for number in range(STAGERS + 3)]
    pilot.submit("input", *quick, *slow)
    gate.wait_for(STAGERS)
    pilot.wait(len(quick))
    assert len([thread for thread in threading.enumerate() if thread.name == "stager"]) == STAGERS
    gate.opened.set()
    pilot.wait(len(quick) + len(slow))


def test_stagers_without_work_end_and_others_follow(pilot: Pilot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stagers_module, "_IDLE_S", 0.001)
    (pilot.user / "a").write_text("a")
    for number in range(3):
        pilot.stage("input", row(f"task.{number}", (f"file://{pilot.user}/a", "task:///a")))
        eventually(lambda: all(thread.name != "stager" for thread in threading.enumerate()))


def test_what_is_asked_for_twice_is_told_once_while_it_is_under_way(pilot: Pilot, gate: Gate) -> None:
    (pilot.user / "slow").write_text("slow")
    task = row("task.1", (f"file://{pilot.user}/slow", "task:///a"))
    pilot.submit("input", task, task)
    gate.wait_for(1)
    pilot.submit("input", task)
    gate.opened.set()
    pilot.wait(1)
    pilot.stage("input", task)
    assert len(pilot.done) == 2


def test_input_that_many_tasks_share_is_copied_once_and_holds_nobody_else_up(pilot: Pilot, gate: Gate) -> None:
    for name in ("slow", "own", "quick"):
        (pilot.user / name).write_text(name)
    own = Directive(f"file://{pilot.user}/own", "task:///own", priority=2)
    shared = Directive(f"file://{pilot.user}/slow", "pilot:///shared", priority=1)
    link = Directive("pilot:///shared", "task:///in", StagingAction.LINK)
    quick = [row(f"quick.{number}", (f"file://{pilot.user}/quick", "task:///a")) for number in range(20)]
    pilot.submit("input", *(row(f"task.{number}", link, shared, own) for number in range(100)), *quick)
    gate.wait_for(1)
    pilot.wait(len(quick))
    gate.opened.set()
    pilot.wait(100 + len(quick))
    assert not gate.waiting.acquire(blocking=False)
    assert gate.copied == {"slow": 1, "own": 100, "quick": 20}
    assert os.path.samefile(pilot.folder / "shared", pilot.sandbox("task.99") / "in")
    assert not pilot.failed


def test_if_it_cannot_be_had_each_of_them_is_told(pilot: Pilot, gate: Gate) -> None:
    (pilot.user / "slow").write_text("slow")
    (pilot.folder / "shared").mkdir()
    (pilot.folder / "shared" / "slow").mkdir()
    pilot.submit("input", *(row(f"task.{number}", (f"file://{pilot.user}/slow", "pilot:///shared")) for number in range(20)))
    gate.wait_for(1)
    gate.opened.set()
    pilot.wait(20)
    assert len(pilot.failed) == 20 and all("is a folder" in why for why in pilot.failed.values())


def test_what_is_not_wanted_is_stopped_and_no_further_directive_begun(pilot: Pilot, gate: Gate) -> None:
    (pilot.user / "slow").write_text("slow")
    source = f"file://{pilot.user}/slow"
    first = row("task.1", (source, "task:///a"), (source, "task:///b"))
    pilot.submit("input", first, *(row(f"task.{number}", (source, "task:///a")) for number in range(2, 40)))
    gate.wait_for(STAGERS)
    assert pilot.stagers is not None
    pilot.stagers.end([TaskUid(f"task.{number}") for number in (1, *range(20, 40), 99)])
    gate.opened.set()
    pilot.wait(39)
    assert {uid for _, (uid, _) in pilot.failed} == {"task.1", *(f"task.{number}" for number in range(20, 40))}
    assert os.listdir(pilot.sandbox("task.1")) == []
    assert not any((pilot.sandbox(f"task.{number}") / "a").exists() for number in range(20, 40))
    pilot.stage("input", first)
    assert sorted(os.listdir(pilot.sandbox("task.1"))) == ["a", "b"]


def test_a_large_file_of_a_task_that_is_not_wanted_is_left_in_the_middle(pilot: Pilot, monkeypatch: pytest.MonkeyPatch) -> None:
    (pilot.user / "large").write_bytes(bytes(100_000))
    monkeypatch.setattr(files, "PIECE_BYTES", 1000)
    copy_piece = files._copy_piece
    copied: list[int] = []

    def slow(reader: int, writer: int, begin: int, size: int) -> int:
        assert pilot.stagers is not None
        copied.append(copy_piece(reader, writer, begin, size))
        if len(copied) == 3:
            pilot.stagers.end([TaskUid("task.1")])
        return copied[-1]

    monkeypatch.setattr(files, "_copy_piece", slow)
    pilot.stage("input", row("task.1", (f"file://{pilot.user}/large", "task:///large")))
    assert copied == [1000] * 3
    assert os.listdir(pilot.sandbox("task.1")) == []


def test_closing_stops_what_is_under_way_and_leaves_no_part_of_it(pilot: Pilot, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(200):
        (pilot.user / "tree" / f"{number}").mkdir(parents=True)
        (pilot.user / "tree" / f"{number}" / "a").write_text("a")
    begun, go_on = threading.Event(), threading.Event()
    write = Files._write

    def slow(self: Files, *arguments: object) -> None:
        write(self, *arguments)  # type: ignore[arg-type]
        begun.set()
        assert go_on.wait(PATIENCE_S)

    monkeypatch.setattr(Files, "_write", slow)
    pilot.submit("input", row("task.1", (f"file://{pilot.user}/tree", "task:///tree")))
    assert begun.wait(PATIENCE_S)
    assert pilot.stagers is not None
    closing = threading.Thread(target=pilot.close)
    stagers = pilot.stagers
    closing.start()
    eventually(lambda: stagers._stopping)
    go_on.set()
    closing.join(PATIENCE_S)
    assert not closing.is_alive()
    assert os.listdir(pilot.sandbox("task.1")) == []


# cleanup

CLEANUP = Template(cleanup=True)


def filled(pilot: Pilot) -> Path:
    sandbox = pilot.sandbox("task.1")
    (sandbox / "sub").mkdir(parents=True)
    (sandbox / "sub" / "a").write_text("a")
    (sandbox / "sub").chmod(0o555)
    return sandbox


def test_a_sandbox_is_removed_when_its_output_is_staged(pilot: Pilot) -> None:
    sandbox = filled(pilot)
    task = row("task.1", output=[("task:///sub/a", f"file://{pilot.user}/a")], action=StagingAction.LINK)
    pilot.stage("output", task, template=CLEANUP)
    assert ((pilot.user / "a").read_text(), sandbox.exists(), os.listdir(sandbox.parent)) == ("a", False, [])
    # An agent that died before it could log this asks again.
    pilot.restart()
    pilot.stage("output", task, template=CLEANUP)
    assert not pilot.failed


def test_without_output_the_sandbox_is_just_removed(pilot: Pilot) -> None:
    sandbox = filled(pilot)
    pilot.stage("output", Row(TaskUid("task.1"), TemplateId(1)), template=CLEANUP)
    assert not sandbox.exists()


def test_a_sandbox_with_output_that_cannot_be_staged_is_kept(pilot: Pilot) -> None:
    sandbox = filled(pilot)
    pilot.stage("output", row("task.1", output=[("task:///b", f"file://{pilot.user}/b")]), template=CLEANUP)
    assert pilot.failed and sandbox.exists()


@pytest.mark.parametrize("sandbox", ["shared", "none", "mine"])
def test_folders_of_others_are_not_removed(pilot: Pilot, sandbox: str) -> None:
    (pilot.folder / "mine").mkdir()
    (pilot.folder / "tasks" / "shared").mkdir()
    pilot.stage("output", row("task.1"), template=Template(cleanup=True, sandbox=sandbox))
    assert (pilot.folder / "mine").exists() and (pilot.folder / "tasks" / "shared").exists() and pilot.user.exists()


def test_an_agent_that_dies_while_it_removes_leaves_it_to_the_next(pilot: Pilot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox is removed as a whole: what is left of it is no sandbox with missing output."""
    sandbox = filled(pilot)
    task = row("task.1", output=[("task:///sub/a", f"file://{pilot.user}/a")])
    with monkeypatch.context() as dying:
        dying.setattr("pilotage.staging.files.remove", _die)
        pilot.stage("output", task, template=CLEANUP)
    assert not sandbox.exists() and len(os.listdir(sandbox.parent)) == 1
    pilot.restart()
    pilot.stage("output", task, template=CLEANUP)
    assert not pilot.failed
    pilot.sandbox("task.2").mkdir()
    pilot.stage("output", row("task.2"), template=CLEANUP)
    assert os.listdir(sandbox.parent) == []


def _die(path: str) -> None:
    raise OSError(5, "dying", path)


# moves and restarts


def test_a_move_that_was_made_but_not_logged_is_known_to_the_next_agent(pilot: Pilot) -> None:
    (pilot.user / "a").write_text("a")
    task = row("task.1", (f"file://{pilot.user}/a", "task:///a"), action=StagingAction.MOVE)
    pilot.stage("input", task)
    assert not (pilot.user / "a").exists()
    pilot.restart()
    pilot.stage("input", task)
    assert (not pilot.failed) and (pilot.sandbox("task.1") / "a").read_text() == "a"


def test_notes_are_dropped_when_their_ends_are_in_the_log(pilot: Pilot) -> None:
    notes = pilot.folder / NOTES_FILE
    for name in ("a", "b"):
        (pilot.user / name).write_text(name)
        pilot.stage("input", row(f"task.{name}", (f"file://{pilot.user}/{name}", "task:///in"), action=StagingAction.MOVE))
        assert notes.stat().st_size > 0
    pilot.stage("input", row("task.c", (f"file://{pilot.user}/none", "task:///in")))
    assert notes.stat().st_size == 0


def test_staging_that_failed_half_way_goes_on_from_there(pilot: Pilot) -> None:
    (pilot.user / "a").write_text("a")
    task = row(
        "task.1", (f"file://{pilot.user}/a", "task:///a"), (f"file://{pilot.user}/b", "task:///b"), action=StagingAction.MOVE
    )
    pilot.stage("input", task)
    assert pilot.failed
    pilot.failed.clear()
    pilot.stage("input", row("task.2"))
    (pilot.user / "b").write_text("b")
    pilot.stage("input", task)
    assert not pilot.failed
    assert sorted(os.listdir(pilot.sandbox("task.1"))) == ["a", "b"]


def test_a_mistake_of_ours_fails_the_task_and_not_the_stager(
    pilot: Pilot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (pilot.user / "a").write_text("a")

    def broken(self: Files, source: str, target: str) -> None:
        raise ZeroDivisionError("a mistake")

    with monkeypatch.context() as breaking:
        breaking.setattr(Files, "copy", broken)
        pilot.stage("input", row("task.1", (f"file://{pilot.user}/a", "task:///a")))
    (why,) = pilot.failed.values()
    assert why == "staging broke: ZeroDivisionError: a mistake; the agent's output (agent.err) has more"
    assert "Traceback" in capsys.readouterr().err
    pilot.stage("input", row("task.2", (f"file://{pilot.user}/a", "task:///a")))
    assert len(pilot.done) == 1


# no room


class Disk:
    """A disk below ``folder`` that has room for so many files.

    A file takes half of its room, then the other half. In between, and before it gives back what it took in vain, it does
    ``meet``.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 0.0
        self.writing = 0
        self.meet: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        self._folder = f"{folder}/"
        self._write = Files._write
        disk = self

        def write(files: Files, source: str, target: str, durable: bool = False) -> None:
            if target.startswith(disk._folder):
                disk.take_room(target)
            disk._write(files, source, target, durable)

        monkeypatch.setattr(Files, "_write", write)

    def take_room(self, target: str) -> None:
        taken = 0.0
        with self._lock:
            self.writing += 1
        try:
            for _ in range(2):
                with self._lock:
                    full = self.free < 0.5
                    self.free -= 0.0 if full else 0.5
                    taken += 0.0 if full else 0.5
                if taken:
                    self.meet()
                if full:
                    with self._lock:
                        self.free += taken
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            with self._lock:
                self.writing -= 1


@pytest.fixture
def disk(pilot: Pilot, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(pilot.folder, monkeypatch)


def copying(pilot: Pilot, uid: str, output: str = "") -> Row:
    """A task that copies a file into its sandbox, and its output somewhere."""
    (pilot.user / "a").write_text("a")
    return row(uid, (f"file://{pilot.user}/a", "task:///a"), output=[("task:///a", output)] if output else None)


def test_input_without_room_is_handed_back_and_with_it_what_waits_behind_it(pilot: Pilot, disk: Disk) -> None:
    stagers = pilot.restart(stagers=1)
    disk.free = 3.0
    pilot.stage("input", *(copying(pilot, f"task.{number}") for number in range(10)))
    assert [uid for _, (uid, _) in pilot.done] == ["task.0", "task.1", "task.2"]
    told = [uid for _, (uid, _) in pilot.put_off]
    assert told == [*(f"task.{number}" for number in range(4, 10)), "task.3"], "what failed is tried last"
    (why,) = pilot.full
    assert "task:///a' (COPY): there is no room for target" in why and "No space left on device; free space" in why
    assert os.listdir(pilot.sandbox("task.3")) == []
    assert not pilot.sandbox("task.4").exists(), "it was not begun"
    disk.free = 10.0
    assert stagers.take() == []
    pilot.put_off.clear()
    pilot.stage("input", *(copying(pilot, f"task.{number}") for number in range(3, 10)))
    assert len(pilot.done) == 10 and not pilot.failed


def test_output_without_room_is_handed_back_and_what_goes_elsewhere_is_staged(pilot: Pilot, disk: Disk) -> None:
    pilot.restart(stagers=1)
    rows = [copying(pilot, f"task.{number}", "pilot:///" if number < 2 else f"file://{pilot.user}/out") for number in range(4)]
    for each in rows:
        pilot.sandbox(each.uid).mkdir()
        (pilot.sandbox(each.uid) / "a").write_text("a")
    pilot.stage("output", *rows, template=CLEANUP)
    assert [uid for _, (uid, _) in pilot.put_off] == ["task.0", "task.1"]
    assert [pilot.sandbox(each.uid).exists() for each in rows] == [True, True, False, False]
    disk.free = 2.0
    pilot.put_off.clear()
    pilot.stage("output", *rows[:2], template=CLEANUP)
    assert (pilot.folder / "a").read_text() == "a"
    assert not pilot.sandbox("task.0").exists()


def test_what_has_no_room_in_a_folder_of_the_user_is_a_failure(pilot: Pilot, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(pilot.user, monkeypatch)
    pilot.sandbox("task.1").mkdir()
    (pilot.sandbox("task.1") / "a").write_text("a")
    pilot.stage("output", copying(pilot, "task.1", f"file://{pilot.user}/out"))
    (why,) = pilot.failed.values()
    assert "there is no room for target" in why
    assert (pilot.full, pilot.put_off) == ([], [])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_sandbox_that_there_is_no_room_for_is_made_later(pilot: Pilot, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    task = copying(pilot, "task.1")
    with monkeypatch.context() as full:
        full.setattr(os, "mkdir", lambda path, *more: _no_room(code, path))
        pilot.stage("input", task)
        assert os.strerror(code) in pilot.full[0] and not pilot.failed
        pilot.stage("input", task, template=Template(sandbox=f"{pilot.user}/mine"))
        assert len(pilot.failed) == 1, "that is a folder of the user"
    pilot.stage("input", task)
    assert len(pilot.done) == 1


def _no_room(code: int, path: str) -> None:
    raise OSError(code, os.strerror(code), path)


def test_what_takes_all_the_room_together_is_tried_again_one_by_one(pilot: Pilot, disk: Disk) -> None:
    rows = [copying(pilot, f"task.{number}") for number in range(STAGERS)]
    together = threading.Barrier(STAGERS)
    disk.meet = lambda: together.wait(PATIENCE_S)
    disk.free = STAGERS / 2
    pilot.stage("input", *rows)
    assert len(pilot.put_off) == STAGERS, "each had half of what it needs"
    alone: list[bool] = []

    def look() -> None:
        if not alone:
            # Long enough for another stager to come, if it may.
            until = time.monotonic() + 20 * stagers_module.PATIENCE_S
            while disk.writing == 1 and time.monotonic() < until:
                time.sleep(0.001)
            alone.append(disk.writing == 1)

    disk.meet = look
    disk.free = float(STAGERS)
    pilot.put_off.clear()
    pilot.stage("input", *rows)
    assert alone == [True]
    assert len(pilot.done) == STAGERS and not pilot.failed


def test_there_are_more_stagers_again_when_there_is_room(pilot: Pilot, disk: Disk, gate: Gate) -> None:
    pilot.stage("input", copying(pilot, "task.0"))
    assert pilot.put_off and pilot.stagers is not None
    disk.free = 1000.0
    pilot.stage("input", *(copying(pilot, f"task.{number}") for number in range(1, 20)))
    (pilot.user / "slow").write_text("slow")
    slow = [row(f"slow.{number}", (f"file://{pilot.user}/slow", "task:///a")) for number in range(STAGERS)]
    pilot.submit("input", *slow)
    gate.wait_for(STAGERS)
    gate.opened.set()
    pilot.wait(20 + STAGERS)
    assert not pilot.failed


def test_a_note_that_there_is_no_room_for_is_no_failure_of_the_move(pilot: Pilot, monkeypatch: pytest.MonkeyPatch) -> None:
    pilot.sandbox("task.1").mkdir()
    (pilot.sandbox("task.1") / "a").write_text("a")
    move = row("task.1", output=[("task:///a", f"file://{pilot.user}/a")], action=StagingAction.MOVE)
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda descriptor, content: _no_room(errno.ENOSPC, "?"))
        pilot.stage("output", move)
    assert NOTES_FILE in pilot.full[0] and (pilot.sandbox("task.1") / "a").exists()
    pilot.stage("output", move)
    assert (pilot.user / "a").read_text() == "a"


def test_a_pilot_may_end_while_tasks_are_handed_back(pilot: Pilot, disk: Disk) -> None:
    assert pilot.stagers is not None
    pilot.submit("input", *(copying(pilot, f"task.{number}") for number in range(100)))
    eventually(lambda: pilot.stagers is not None and pilot.stagers._ended)
    pilot.close()
    pilot.restart()
    disk.free = 100.0
    pilot.stage("input", *(copying(pilot, f"task.{number}") for number in range(100)))
    assert len(pilot.done) == 100
