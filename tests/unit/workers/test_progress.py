"""The words shared by worker and agent: what was begun, what is recalled; no call lost, none run twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from worker_bench import WORKER, Bench, Gate, wait_at_gate

from pilotage.workers.progress import CONNECTION, FIRST, LAST, REACHED, ProgressReader, create_progress, progress_path


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    create_progress(tmp_path, WORKER)
    assert progress_path(tmp_path, WORKER).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["worker.0.progress"]


def test_a_recall_gives_back_all_above_the_call_that_was_reached(tmp_path: Path) -> None:
    words = create_progress(tmp_path, WORKER)
    reader = ProgressReader(tmp_path, WORKER)
    assert reader.current == 0
    words[REACHED] = 3
    assert reader.current == 3
    assert reader.recall_from(4, 10) == 4
    assert list(words) == [3, 4, 10, 0]


def test_a_call_reached_during_the_recall_is_left_to_the_worker(tmp_path: Path) -> None:
    words = create_progress(tmp_path, WORKER)
    reader = ProgressReader(tmp_path, WORKER)
    words[REACHED] = 3
    reader.ask(4, 10)
    words[REACHED] = 6
    assert reader.recalled() == 7
    words[REACHED] = 12
    assert reader.recalled() == 11, "all may have begun"


def test_a_recall_extends_one_that_the_worker_has_not_passed(tmp_path: Path) -> None:
    words = create_progress(tmp_path, WORKER)
    reader = ProgressReader(tmp_path, WORKER)
    words[REACHED] = 1
    reader.ask(2, 4)
    reader.ask(8, 9)
    assert (words[FIRST], words[LAST]) == (2, 9)
    assert reader.recalled() == 2


def test_a_recall_after_one_that_is_passed_leaves_what_lies_between(tmp_path: Path) -> None:
    words = create_progress(tmp_path, WORKER)
    reader = ProgressReader(tmp_path, WORKER)
    reader.ask(2, 4)
    words[REACHED] = 5
    reader.ask(8, 9)
    assert (words[FIRST], words[LAST]) == (8, 9)


def test_numbers_of_a_connection_before_are_worth_nothing(tmp_path: Path) -> None:
    words = create_progress(tmp_path, WORKER)
    reader = ProgressReader(tmp_path, WORKER)
    words[CONNECTION] += 1
    assert reader.current is None
    assert reader.recall_from(1, 5) is None
    assert ProgressReader(tmp_path, WORKER).current == 0


def test_a_worker_counts_the_calls_that_it_begins(bench: Bench) -> None:
    progress = bench.progress()
    assert progress.current == 0
    template = bench.define(len)
    bench.launch(*((f"t{index}", template, ("",)) for index in range(5)))
    bench.driver.wait_for_ends([f"t{index}" for index in range(5)])
    assert progress.current == 5


def test_recalled_calls_never_begin_and_later_ones_do(bench: Bench, gate: Gate, tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    def testify(path: str, uid: str) -> None:
        with open(path, "a") as file:
            file.write(f"{uid}\n")

    hold, write = bench.define(wait_at_gate), bench.define(testify)
    bench.launch(("held", hold, gate.args), *((f"t{index}", write, (str(witness), f"t{index}")) for index in range(2, 7)))
    bench.driver.wait_for(gate.reached)
    progress = bench.progress()
    assert progress.current == 1
    assert progress.recall_from(4, 6) == 4
    bench.launch(("later", write, (str(witness), "later")))
    gate.open()
    bench.driver.wait_for_ends(["held", "t2", "t3", "later"])
    assert witness.read_text().split() == ["t2", "t3", "later"]
    assert bench.driver.returned() == ["t4", "t5", "t6"]
    assert progress.current == 7


def test_a_recall_works_while_a_call_keeps_the_interpreter_to_itself(bench: Bench, tmp_path: Path) -> None:
    fifo, reached = tmp_path / "fifo", tmp_path / "reached"
    os.mkfifo(fifo)

    def native(path: str, reached: str) -> None:
        import ctypes

        library = ctypes.PyDLL(None)  # calls through it do not release the interpreter
        open(reached, "w").close()
        library.close(library.open(path.encode(), 0))

    template, short = bench.define(native), bench.define(len)
    bench.launch(("native", template, (str(fifo), str(reached))), ("b", short, ("",)), ("c", short, ("",)))
    bench.driver.wait_for(reached.exists, what="the native call")
    try:
        assert bench.progress().recall_from(2, 3) == 2
    finally:
        fifo.open("w").close()
    bench.driver.wait_for_end("native")
    bench.driver.wait_for(lambda: bench.driver.returned() == ["b", "c"], what="the return of b and c")
    assert bench.told_ends() == ["native"]


def test_after_a_kill_the_words_tell_what_never_began(bench: Bench, gate: Gate) -> None:
    hold, short = bench.define(wait_at_gate), bench.define(len)
    progress = bench.progress()
    bench.launch(("a", short, ("",)), ("held", hold, gate.args), ("c", short, ("",)))
    bench.driver.wait_for(gate.reached)
    process = bench.driver.processes[WORKER]
    process.kill()
    process.wait()
    assert progress.current == 2


@pytest.mark.parametrize("launched", [40])
def test_recalls_at_any_moment_lose_nothing_and_run_nothing_twice(bench: Bench, tmp_path: Path, launched: int) -> None:
    """What the agent takes back has not run when it takes it, and never does; all the rest runs once or is returned."""
    witness = tmp_path / "witness"

    def testify(path: str, uid: str) -> None:
        with open(path, "a") as file:
            file.write(f"{uid}\n")

    template = bench.define(testify)
    progress = bench.progress()
    taken: set[str] = set()
    all_calls: list[str] = []
    for turn in range(30):
        uids = [f"t{len(all_calls) + index}" for index in range(launched)]
        all_calls += uids
        bench.launch(*((uid, template, (str(witness), uid)) for uid in uids))
        if turn % 2:
            bench.driver.pump()
        current = progress.current
        assert current is not None
        first = progress.recall_from(max(current + 1, len(all_calls) - launched // 2), len(all_calls))
        assert first is not None
        taken.update(all_calls[first - 1 :])

    def settled() -> Any:
        return set(bench.told_ends()) | set(bench.driver.returned()) == set(all_calls)

    bench.driver.wait_for(settled, what="the end or return of every call")
    ran = witness.read_text().split()
    assert len(ran) == len(set(ran))
    assert set(ran) == set(bench.told_ends())
    assert not taken & set(ran)
    assert set(ran) | set(bench.driver.returned()) == set(all_calls)
