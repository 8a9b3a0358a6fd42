"""What many tasks bring to one place is brought there once, and again when it has changed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from staging_support import World, write

import pilotage as rp
from pilotage.errors import StagingFailed
from pilotage.staging import shared
from pilotage.staging.actions import Work
from pilotage.staging.files import Files
from pilotage.staging.shared import Busy
from pilotage.staging.stager import Stager


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets of all copies that are made."""
    made: list[str] = []
    copy = Files.copy

    def counted(self: Files, source: str, target: str) -> None:
        made.append(os.path.basename(target))
        copy(self, source, target)

    monkeypatch.setattr(Files, "copy", counted)
    return made


def brings(world: World, *entries: Any, stager: Stager | None = None) -> Callable[..., None]:
    """Return what stages these entries for a task that has just arrived (or did so at ``arrived``)."""
    stager = stager or Stager("p-1")
    directives = world.directives(*entries)

    def bring(number: int = 0, arrived: float | None = None, begin_with: int = 0) -> None:
        when = time.monotonic() if arrived is None else arrived
        work = Work((f"task.{number}", "input", 0), directives, world.places, str(world.task), share=True, arrived=when)
        stager.stage(work, begin_with=begin_with)

    return bring


SHARED = {"source": "a", "target": "pilot:///a", "action": rp.COPY}


def test_tasks_that_came_together_cost_one_copy(world: World, copies: list[str]) -> None:
    write(world.client / "a", "a")
    bring = brings(world, SHARED, {"source": "pilot:///a", "target": "task:///a", "action": rp.LINK})
    arrived = time.monotonic()
    for number in range(200):
        bring(number, arrived)
    assert copies == ["a"]
    assert os.path.samefile(world.pilot / "a", world.task / "a")


@pytest.mark.parametrize("source", ["a", "tree"])
def test_later_tasks_get_what_there_is_then(world: World, copies: list[str], source: str) -> None:
    write(world.client / "a", "one")
    write(world.client / "tree" / "sub" / "a", "one")
    bring = brings(world, {"source": source, "target": "pilot:///copy"})
    bring()
    bring()
    assert copies == ["copy"]
    changed = world.client / "a" if source == "a" else world.client / "tree" / "sub" / "a"
    changed.write_text("other")
    bring()
    assert copies == ["copy"] * 2
    copy = world.pilot / "copy" if source == "a" else world.pilot / "copy" / "sub" / "a"
    assert copy.read_text() == "other"


def test_a_copy_that_is_gone_or_was_replaced_is_made_again(world: World, copies: list[str]) -> None:
    write(world.client / "a", "a")
    bring = brings(world, SHARED)
    bring(arrived=0.0)
    (world.pilot / "a").unlink()
    bring(arrived=0.0)
    (world.pilot / "a").write_text("b")
    bring(arrived=0.0)
    assert (copies, (world.pilot / "a").read_text()) == (["a"] * 3, "a")


def test_what_goes_to_the_tasks_own_folder_is_a_copy_for_each(world: World, copies: list[str]) -> None:
    write(world.client / "a", "a")
    bring = brings(world, "a")
    bring(arrived=0.0)
    bring(arrived=0.0)
    assert copies == ["a", "a"]


def test_each_task_hears_of_a_failure_and_the_next_may_succeed(world: World, copies: list[str]) -> None:
    bring = brings(world, SHARED)
    for _ in range(2):
        with pytest.raises(StagingFailed, match="does not exist"):
            bring(arrived=0.0)
    write(world.client / "a", "a")
    bring(arrived=0.0)
    assert copies == ["a"]


def test_who_comes_while_it_is_brought_goes_on_when_that_is_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write(world.client / "a", "a")
    write(world.client / "own", "own")
    begun, go_on, over = threading.Event(), threading.Event(), threading.Event()
    copy = Files.copy

    def slow(self: Files, source: str, target: str) -> None:
        if source.endswith("/a"):
            begun.set()
            assert go_on.wait(30)
        copy(self, source, target)

    monkeypatch.setattr(Files, "copy", slow)
    stager = Stager("p-1", over=lambda delivery: over.set())
    bring = brings(world, "own", SHARED, {"source": "pilot:///a", "target": "task:///a", "action": rp.LINK}, stager=stager)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(bring, 1, 0.0)
        assert begun.wait(30)
        with pytest.raises(Busy) as busy:
            bring(2, 0.0)
        assert (busy.value.index, over.is_set(), busy.value.delivery.lock.locked()) == (1, False, True)
        go_on.set()
        first.result(30)
    assert over.is_set() and not busy.value.delivery.lock.locked()
    (world.task / "own").unlink()
    bring(2, 0.0, begin_with=busy.value.index)
    assert os.listdir(world.task) == ["a"]


def test_the_oldest_is_forgotten_when_there_are_too_many(
    world: World, copies: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "KEPT", 2)
    stager = Stager("p-1")
    for name in ("a", "b", "c"):
        write(world.client / name, name)
    for name in ("a", "b", "c", "c", "b", "a"):
        brings(world, {"source": name, "target": f"pilot:///{name}"}, stager=stager)(arrived=0.0)
    assert copies == ["a", "b", "c", "a"]
