"""The worker and its agent: when ends are told, what is returned, and what happens when one of the two is gone."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from worker_bench import WORKER, Bench, Gate, wait_at_gate

from pilotage.model.execution import AttemptEnd
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.outcome import Ending
from pilotage.testing.runner_driver import RunnerDriver
from pilotage.wire.runner_messages import EndTasks, RecallTasks, Release, RunnerHello, StopRunner, TasksEnded, Welcome
from pilotage.workers.link import connect
from pilotage.workers.outbox import read_outbox
from pilotage.workers.worker import BATCH_ENDS, EXIT_ORPHANED


def frames(driver: RunnerDriver) -> list[TasksEnded]:
    return [message for _, message in driver.messages if isinstance(message, TasksEnded)]


def test_short_calls_are_told_together_and_in_order(bench: Bench) -> None:
    template = bench.define(len)
    bench.call(len, "")  # so that opening the first function does not count as a long call
    uids = [f"t{index}" for index in range(1000)]
    bench.launch(*((uid, template, ("",)) for uid in uids))
    bench.driver.wait_for_ends(uids)
    assert bench.told_ends()[1:] == uids
    assert [frame.number for frame in frames(bench.driver)] == list(range(1, len(frames(bench.driver)) + 1))
    assert max(len(frame.ends) for frame in frames(bench.driver)) <= BATCH_ENDS


def test_a_long_call_does_not_hold_up_the_ends_before_it(bench: Bench, gate: Gate) -> None:
    short, hold = bench.define(len), bench.define(wait_at_gate)
    bench.launch(("a", short, ("",)), ("b", short, ("",)), ("held", hold, gate.args), ("c", short, ("",)))
    bench.driver.wait_for_ends(["a", "b"])
    assert bench.driver.wait_for_start("held") == bench.driver.processes[WORKER].pid
    assert "held" not in bench.told_ends()
    gate.open()
    bench.driver.wait_for_ends(["held", "c"])
    assert "c" not in bench.driver.started()


@pytest.mark.parametrize("message", [RecallTasks, lambda executions: EndTasks(executions, Ending.CANCELLED, "by the user")])
def test_calls_not_begun_are_returned_while_one_runs(bench: Bench, gate: Gate, message: Callable[..., RecallTasks]) -> None:
    short, hold = bench.define(len), bench.define(wait_at_gate)
    bench.launch(("held", hold, gate.args), ("b", short, ("",)), ("c", short, ("",)), ("d", short, ("",)))
    bench.driver.wait_for(gate.reached)
    one = Attempt(1)
    bench.driver.send(message([(TaskUid("held"), one), (TaskUid("c"), one), (TaskUid("d"), Attempt(9))]))
    bench.driver.wait_for(lambda: bench.driver.returned(), what="the return of c")
    gate.open()
    bench.driver.wait_for_ends(["held", "b", "d"])
    assert bench.driver.returned() == ["c"]
    assert "c" not in bench.told_ends()
    assert bench.progress().current == 4, "a returned call keeps its number"


def test_unreleased_ends_are_told_again_to_the_next_agent(driver: RunnerDriver) -> None:
    driver.auto_release = False
    bench = Bench(driver)
    bench.start()
    for value in ("a", "b", "c"):
        bench.call(str, value)
    first = frames(driver)
    assert [frame.number for frame in first] == [1, 2, 3]
    driver.send(Release(1))
    driver.released[WORKER] = 2
    driver.pause()
    driver.resume()
    driver.wait_for(lambda: len(frames(driver)) > 3, what="a frame told again")
    assert driver.hellos()[-1].sent == 3
    assert driver.hellos()[-1].holds == []
    assert frames(driver)[3:] == [first[2]]


def test_nothing_but_the_hello_is_said_before_the_welcome(driver: RunnerDriver) -> None:
    driver.auto_release = False
    bench = Bench(driver)
    bench.start()
    bench.call(str, "a")
    driver.auto_welcome = False
    driver.pause()
    driver.resume()
    driver.wait_for(lambda: len(driver.hellos()) == 2, what="a second hello")
    template = bench.define(str)
    bench.launch(("b", template, ("b",)))
    progress = bench.progress()
    driver.wait_for(lambda: progress.current == 1, what="call b")
    assert len(frames(driver)) == 1
    driver.send(Welcome(2, 0))
    driver.wait_for(lambda: len(frames(driver)) == 3, what="both frames")
    assert [frame.number for frame in frames(driver)] == [1, 1, 2]


def test_a_worker_in_a_long_call_finds_the_next_agent(bench: Bench, gate: Gate) -> None:
    driver = bench.driver
    short, hold = bench.define(len), bench.define(wait_at_gate)
    bench.launch(("a", short, ("",)), ("held", hold, gate.args), ("c", short, ("",)), ("d", short, ("",)))
    driver.wait_for_start("held")
    driver.wait_for_end("a")
    driver.send(RecallTasks([(TaskUid("c"), Attempt(1))]))
    driver.wait_for(driver.returned, what="the return of c")
    old = bench.progress()
    driver.pause()
    driver.messages.clear()
    driver.resume()
    hello = driver.wait_for(lambda: driver.hellos(), what="a hello during the call")[0]
    assert hello == RunnerHello(WORKER, driver.processes[WORKER].pid, hello.started_ticks, hello.boot_id, hello.holds, 1)
    assert hello.holds == [("held", 1), ("d", 1)]
    driver.wait_for_start("held")
    assert old.current is None
    assert bench.progress().current == 1, "numbers begin again with the hello"
    gate.open()
    driver.wait_for_ends(["held", "d"])
    assert bench.progress().current == 2


def test_what_a_dead_agent_recalled_stays_recalled(bench: Bench, gate: Gate) -> None:
    driver = bench.driver
    short, hold = bench.define(len), bench.define(wait_at_gate)
    bench.launch(("held", hold, gate.args), ("b", short, ("",)), ("c", short, ("",)))
    driver.wait_for_start("held")
    assert bench.progress().recall_from(3, 3) == 3
    driver.pause()
    driver.messages.clear()
    driver.resume()
    assert driver.wait_for(lambda: driver.hellos(), what="a hello")[0].holds == [("held", 1), ("b", 1)]
    gate.open()
    driver.wait_for_end("b")
    bench.call(len, "")
    assert "c" not in bench.told_ends()


def test_calls_go_on_without_an_agent(bench: Bench, gate: Gate, tmp_path: Path) -> None:
    driver = bench.driver
    hold, touch = bench.define(wait_at_gate), bench.define(lambda path: open(path, "w").close())
    bench.launch(("held", hold, gate.args), ("touch", touch, (str(tmp_path / "touched"),)))
    driver.wait_for(gate.reached)
    driver.pause()
    gate.open()
    driver.wait_for((tmp_path / "touched").exists, what="the call without an agent")
    driver.resume()
    ends = driver.wait_for_ends(["held", "touch"])
    assert {end.ending for end in ends.values()} == {Ending.DONE}
    assert len(bench.told_ends()) == 2


def test_a_worker_without_an_agent_ends_itself(bench_with: Callable[..., Bench]) -> None:
    bench = bench_with(orphan_timeout_s=0.2)
    bench.start()
    bench.call(len, "")
    bench.driver.pause()
    assert bench.driver.processes[WORKER].wait(timeout=60) == EXIT_ORPHANED


def test_a_worker_in_a_call_without_an_agent_ends_itself(bench_with: Callable[..., Bench], gate: Gate) -> None:
    bench = bench_with(orphan_timeout_s=0.2)
    bench.start()
    bench.launch(("held", bench.define(wait_at_gate), gate.args))
    bench.driver.wait_for_start("held")
    bench.driver.pause()
    assert bench.driver.processes[WORKER].wait(timeout=60) == EXIT_ORPHANED


def test_stop_lets_the_call_end_and_returns_the_rest(bench: Bench, gate: Gate) -> None:
    short, hold = bench.define(len), bench.define(wait_at_gate)
    bench.launch(("held", hold, gate.args), ("b", short, ("",)))
    bench.driver.wait_for_start("held")
    bench.driver.send(StopRunner(30.0))
    bench.driver.wait_for(bench.driver.returned, what="the return of b")
    gate.open()
    assert bench.driver.wait_for_end("held").ending is Ending.DONE
    assert bench.driver.processes[WORKER].wait(timeout=60) == 0


def test_stop_ends_an_idle_worker_at_once_though_its_agent_stays_connected(bench: Bench) -> None:
    bench.launch(("a", bench.define(len), ("",)))
    bench.driver.wait_for_end("a")
    bench.driver.send(StopRunner(600.0))
    assert bench.driver.processes[WORKER].wait(timeout=60) == 0


def test_stop_does_not_wait_longer_than_its_grace(bench: Bench, gate: Gate) -> None:
    bench.launch(("held", bench.define(wait_at_gate), gate.args))
    bench.driver.wait_for_start("held")
    bench.driver.send(StopRunner(0.0))
    assert bench.driver.processes[WORKER].wait(timeout=60) == 0
    assert bench.told_ends() == []


def test_a_worker_that_a_function_ends_is_gone_with_its_status(bench: Bench) -> None:
    bench.launch(("a", bench.define(os._exit), (3,)))
    assert bench.driver.processes[WORKER].wait(timeout=60) == 3


def _raise_and_be_ended() -> None:
    """Raise, in a worker that is gone long before a doubt is over."""
    import signal
    import time

    time.sleep(0.01)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    raise RuntimeError("a child was told to end")


@pytest.mark.parametrize("job", [{"SLURM_JOB_ID": "1"}, {}], ids=["in a job", "in none"])
def test_what_a_long_call_raised_in_a_job_is_told_a_moment_later(bench_with: Callable[..., Bench], job: dict[str, str]) -> None:
    bench = bench_with(allocation_environment=job)
    bench.start()
    bench.launch(("quick", bench.define(len), ("abc",)), ("raises", bench.define(_raise_and_be_ended), ()))
    assert bench.driver.processes[WORKER].wait(timeout=60) == -signal.SIGALRM
    bench.driver.wait_for(lambda: not bench.driver._by_runner, what="the end of the connection")
    told = bench.told_ends()
    assert ("raises" in told) == (not job)
    left = read_outbox(bench.driver.folder, WORKER, max((frame.number for frame in frames(bench.driver)), default=0))
    assert [end.task for batch in left for end in batch.ends][-1:] == (["raises"] if job else [])


def test_what_was_held_back_for_a_moment_is_told(bench_with: Callable[..., Bench]) -> None:
    def fails() -> None:
        import time

        time.sleep(0.01)
        raise RuntimeError("by itself")

    bench = bench_with(allocation_environment={"SLURM_JOB_ID": "1"})
    bench.start()
    assert bench.call(fails).message == "RuntimeError: by itself"
    bench.launch(("fails", bench.define(fails), ()), ("behind", bench.define(len), ("abc",)))
    ends = bench.driver.wait_for_ends(["fails", "behind"])
    assert [end.ending for end in ends.values()] == [Ending.RAISED, Ending.DONE]


def test_a_worker_that_is_stopped_tells_what_it_holds_back(bench_with: Callable[..., Bench], gate: Gate) -> None:
    def fails(path: str) -> None:
        wait_at_gate(path)
        raise RuntimeError("by itself")

    bench = bench_with(allocation_environment={"SLURM_JOB_ID": "1"})
    bench.start()
    bench.launch(("fails", bench.define(fails), gate.args))
    bench.driver.wait_for_start("fails")
    bench.driver.send(StopRunner(30.0))
    gate.open()
    assert bench.driver.processes[WORKER].wait(timeout=60) == 0
    assert bench.driver.wait_for_end("fails").ending is Ending.RAISED


def test_an_interrupt_between_calls_does_not_end_the_worker(bench: Bench) -> None:
    bench.call(len, "")
    bench.driver.processes[WORKER].send_signal(signal.SIGINT)
    bench.driver.wait_for(lambda: len(bench.driver.hellos()) == 2, what="a second hello")
    end: AttemptEnd = bench.call(len, "abc")
    assert end.ending is Ending.DONE


def test_a_deep_folder_is_reached(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["folder-of-thirty-characters-...."] * 5)
    with RunnerDriver(deep) as driver:
        bench = Bench(driver)
        bench.start()
        assert bench.value(len, "abc") == 3


def test_an_agent_of_another_user_is_refused(driver: RunnerDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    with pytest.raises(PermissionError, match="belongs to user"):
        connect(driver.folder)


@pytest.mark.parametrize("seed", range(3))
def test_agents_that_come_and_go_lose_nothing_and_see_nothing_twice(driver: RunnerDriver, tmp_path: Path, seed: int) -> None:
    """What a hello neither holds nor counts as told has not begun and never does; all else ends once, under one number."""
    chance = random.Random(seed)
    driver.auto_release = False
    bench = Bench(driver)
    bench.start()
    witness = tmp_path / "witness"

    def testify(path: str, uid: str, duration_s: float) -> None:
        import time

        with open(path, "a") as file:
            file.write(f"{uid}\n")
        time.sleep(duration_s)

    template = bench.define(testify)
    launched: list[str] = []
    lost: set[str] = set()
    for _turn in range(12):
        uids = [f"t{len(launched) + index}" for index in range(chance.randrange(1, 40))]
        launched += uids
        bench.launch(*((uid, template, (str(witness), uid, chance.choice([0, 0, 0, 0.001, 0.03]))) for uid in uids))
        for _ in range(chance.randrange(3)):
            driver.pump(0.01)
        if chance.random() < 0.5:
            driver.released[WORKER] = chance.randint(driver.released.get(WORKER, 0), len({f.number for f in frames(driver)}))
            before = len(driver.hellos())
            driver.pause()
            driver.resume()
            driver.wait_for(lambda before=before: len(driver.hellos()) > before, what="a hello")
            hello = driver.hellos()[-1]
            driver.wait_for(lambda sent=hello.sent: {f.number for f in frames(driver)} >= set(range(1, sent + 1)))
            told = {end.task for frame in frames(driver) if frame.number <= hello.sent for end in frame.ends}
            lost |= set(launched) - told - {task for task, _ in hello.holds}
    remaining = set(launched) - lost
    driver.wait_for(lambda: set(bench.told_ends()) >= remaining, what="the ends of all that was not lost")

    by_number: dict[int, TasksEnded] = {}
    for frame in frames(driver):
        assert by_number.setdefault(frame.number, frame) == frame
    ended = [end.task for number in sorted(by_number) for end in by_number[number].ends]
    assert ended == witness.read_text().split()
    assert ended == [uid for uid in launched if uid not in lost]
