"""Function workers that a batch system ends: what is told of the call that ran, and of what was raised just before."""

from __future__ import annotations

import time

import pytest
from executor_support import PILOT, SPAWNER, TEMPLATES, WORKER, FakeRunner, Stage, execution, lane

from pilotage.executors.local import LocalExecutor
from pilotage.model.execution import AttemptEnd
from pilotage.model.outcome import Ending
from pilotage.wire import runner_messages as wire
from pilotage.workers.outbox import Outbox


def told(stage: Stage) -> list[tuple[int, str, Ending]]:
    """What was told of calls: the number of the message, the task, and how it ended."""
    return [(number, end.task, end.ending) for _, _, number, ends in stage.was_told("tasks_ended") for end in ends]


@pytest.fixture
def spawner(stage: Stage) -> FakeRunner:
    stage.start()
    return stage.spawner()


@pytest.fixture
def worker(stage: Stage, spawner: FakeRunner) -> FakeRunner:
    """A worker that holds four calls."""
    worker = stage.worker()
    stage.executor.launch(WORKER, [lane(1, "f", "g", "h", "i", template=2)], TEMPLATES)
    stage.until(worker.launched)
    return worker


def end_worker(stage: Stage, spawner: FakeRunner, worker: FakeRunner, *, cut_short: bool) -> tuple[object, ...]:
    """End the worker, and return what is told of its loss: exit code, what ran, and what had not begun."""
    stage.kill(worker)
    spawner.say(wire.WorkerExited(WORKER, worker.pid, -15, "ended by signal 15 (SIGTERM)", cut_short))
    (loss,) = stage.until(lambda: stage.was_told("runner_lost", WORKER))
    return loss[3:]


def test_the_call_that_a_worker_was_in_was_cut_short_with_it(stage: Stage, spawner: FakeRunner, worker: FakeRunner) -> None:
    worker.say(wire.TasksEnded(1, [AttemptEnd(*execution("f"), Ending.DONE)]))
    worker.words[0] = 2
    spawner.say(wire.EndedByOthers(time.time()))
    loss = end_worker(stage, spawner, worker, cut_short=True)
    assert told(stage) == [(1, "f", Ending.DONE), (2, "g", Ending.CANCELLED)]
    (end,) = stage.was_told("tasks_ended")[-1][3]
    assert end.message == "ended with its pilot"
    assert loss == (-15, None, [execution("h"), execution("i")])


def test_a_worker_that_ended_by_itself_leaves_its_call_as_it_was(stage: Stage, spawner: FakeRunner, worker: FakeRunner) -> None:
    worker.words[0] = 1
    assert end_worker(stage, spawner, worker, cut_short=False)[:2] == (-15, execution("f"))
    assert told(stage) == []


def test_what_calls_raised_as_the_worker_was_ended_was_cut_short(stage: Stage, spawner: FakeRunner, worker: FakeRunner) -> None:
    now = time.time()
    outbox = Outbox(stage.folder, WORKER)
    before, after = now - 2 * wire.DOUBT_S, now - 0.5 * wire.DOUBT_S
    outbox.add(AttemptEnd(*execution("f"), Ending.RAISED, message="before", ended=before))
    outbox.add(AttemptEnd(*execution("g"), Ending.DONE, ended=after))
    outbox.add(AttemptEnd(*execution("h"), Ending.RAISED, result=b"pickled", message="after", ended=after))
    worker.words[0] = 3
    spawner.say(wire.EndedByOthers(now))
    loss = end_worker(stage, spawner, worker, cut_short=True)
    assert told(stage) == [(1, "f", Ending.RAISED), (1, "g", Ending.DONE), (1, "h", Ending.CANCELLED)]
    assert stage.was_told("tasks_ended")[0][3][2].result is None
    assert loss == (-15, None, [execution("i")])


def test_what_a_worker_tells_that_lives_on_for_a_moment(stage: Stage, spawner: FakeRunner, worker: FakeRunner) -> None:
    spawner.say(wire.EndedByOthers(time.time()))
    # The worker has a connection of its own: the spawner's word is heard when what it says next is.
    spawner.say(wire.StorageFull("a mark"))
    stage.until(lambda: stage.was_told("storage_full"))
    worker.say(wire.TasksEnded(1, [AttemptEnd(*execution("f"), Ending.RAISED, ended=time.time())]))
    stage.until(lambda: told(stage))
    assert told(stage) == [(1, "f", Ending.CANCELLED)]


# the last words on a host that is told to end


@pytest.fixture
def far(stage: Stage) -> Stage:
    """A stage whose executor is a host's."""
    stage.executor = LocalExecutor(stage.folder, stage.session, PILOT, stage.folder, 1, host="node1")
    return stage


def say_and_close(stage: Stage) -> None:
    """Have a spawner and a worker say their last words, and end with the executor."""
    stage.start()
    spawner, worker = stage.spawner(), stage.worker()
    stage.executor.launch(SPAWNER, [lane(1, "a", "b")], TEMPLATES)
    stage.executor.launch(WORKER, [lane(2, "f", "g", "h", template=2)], TEMPLATES)
    stage.until(lambda: spawner.launched() and worker.launched())
    outbox = Outbox(stage.folder, WORKER)
    ends = [AttemptEnd(*execution(uid), Ending.DONE) for uid in ("f", "g")]
    outbox.add(ends[0])
    outbox.close(1, 1)
    outbox.add(ends[1])
    spawner.say(wire.TasksEnded(1, [AttemptEnd(*execution("a"), Ending.DONE), AttemptEnd(*execution("b"), Ending.CANCELLED)]))
    worker.say(wire.TasksEnded(1, ends[:1]))
    stage.kill(spawner)
    stage.kill(worker)
    stage.executor.close(0.0)


def test_what_ended_well_is_told_while_a_host_ends(far: Stage) -> None:
    say_and_close(far)
    assert sorted(told(far)) == [(1, "a", Ending.DONE), (1, "f", Ending.DONE), (2, "g", Ending.DONE)]


def test_nothing_is_told_while_the_agents_own_executor_ends(stage: Stage) -> None:
    say_and_close(stage)
    assert told(stage) == []
