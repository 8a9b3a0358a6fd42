"""The local executor: who is connected, what was sent, what of it can't have begun, and who is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from executor_support import PILOT, SPAWNER, TEMPLATES, WORKER, Stage, execution, lane, orphaned_sleeper

from pilotage.core.agent.state import RunnerRecord
from pilotage.executors.local import LocalExecutor
from pilotage.executors.orphans import orphans
from pilotage.model.environments import EnvironmentDifference
from pilotage.model.execution import AttemptEnd
from pilotage.model.ids import RunnerId
from pilotage.model.outcome import Ending
from pilotage.outputs.spares import Spares
from pilotage.system.processes import boot_id, started_ticks
from pilotage.wire import runner_messages as wire
from pilotage.workers.outbox import Outbox, outbox_path


def lost(stage: Stage, runner: RunnerId) -> tuple:
    """Wait until the runner is told as lost; return exit code, what ran, and what had not begun."""
    (call,) = stage.until(lambda: stage.was_told("runner_lost", runner))
    return call[3], call[4], sorted(call[5])


def told_ends(stage: Stage) -> list[tuple[int, list[str]]]:
    return [(number, [end.task for end in ends]) for _, _, number, ends in stage.was_told("tasks_ended", WORKER)]


def record_of(pid: int, beside: RunnerId | None = None) -> RunnerRecord:
    return RunnerRecord(beside, 0, "", pid, started_ticks(pid) or 1, boot_id())


# ------------------------------------------------------------------------------------------------------------ connections


def test_what_is_launched_before_the_hello_is_sent_when_the_hello_is_in_the_log(stage):
    stage.start()
    stage.executor.start_runner(SPAWNER, None, {})
    stage.executor.launch(SPAWNER, [lane(1, "a")], TEMPLATES)
    runner = stage.runner(SPAWNER, stage.pid_of(SPAWNER))
    runner.hello()
    while not stage.was_told("runner_connected", SPAWNER):
        stage.turn()
    assert runner.listen() == [], "the hello is told, but not yet logged"
    assert stage.executor.next_deadline() == 0.0
    stage.executor.flush()
    assert [type(message).__name__ for message in runner.listen()] == ["Welcome", "DefineTemplates", "Launch"]
    assert stage.told[-1] == ("runner_reconciled", SPAWNER, [execution("a")])


def test_a_template_is_told_once_for_each_connection(stage):
    stage.start()
    spawner = stage.spawner()
    for number in (1, 2):
        stage.executor.launch(SPAWNER, [lane(number, f"t{number}")], TEMPLATES)
    stage.executor.flush()
    assert sum(isinstance(message, wire.DefineTemplates) for message in spawner.listen()) == 1
    spawner.heard.clear()
    spawner.hello([execution("t1"), execution("t2")])
    stage.until(lambda: len(stage.was_told("runner_connected", SPAWNER)) == 2)
    stage.executor.launch(SPAWNER, [lane(3, "t3")], TEMPLATES)
    stage.executor.flush()
    assert sum(isinstance(message, wire.DefineTemplates) for message in spawner.listen()) == 1


def test_a_runner_is_reconciled_when_all_that_it_had_kept_is_in_the_log(stage):
    stage.start({SPAWNER: record_of(pid := stage.sleeper())})
    spawner = stage.runner(SPAWNER, pid)
    spawner.hello([execution("b")], sent=2)
    for number, uid in ((1, "x"), (2, "y")):
        spawner.say(wire.TasksEnded(number, [AttemptEnd(*execution(uid), Ending.DONE)]))
    stage.until(lambda: len(stage.was_told("tasks_ended", SPAWNER)) == 2)
    stage.executor.release(SPAWNER, 1)
    assert not stage.was_told("runner_reconciled")
    stage.executor.release(SPAWNER, 2)
    assert stage.was_told("runner_reconciled") == [("runner_reconciled", SPAWNER, [execution("b")])]


def test_a_runner_that_nobody_waits_for_is_told_to_stop(stage):
    stage.start()
    stranger = stage.runner(RunnerId("spawner.9"), stage.sleeper())
    stranger.hello()
    stage.until(lambda: stranger.listen())
    assert stranger.heard == [wire.StopRunner(0.0)]
    assert stage.told == []


def test_garbage_ends_the_connection_and_nothing_else(stage):
    stage.start()
    spawner = stage.spawner()
    spawner.say_bytes(b"\xc1 no message")
    stage.until(lambda: spawner.listen() is not None and spawner.socket is None)
    spawner.hello([])
    stage.until(lambda: len(stage.was_told("runner_connected", SPAWNER)) == 2)
    assert not stage.was_told("runner_lost")


def test_named_environments_are_told_to_spawners_before_their_tasks_and_again_on_each_connection(stage):
    stage.start()
    early = EnvironmentDifference({"A": "1"}, ("B",))
    stage.executor.define_environment("early", early)
    spawner = stage.spawner()
    worker = stage.worker()
    stage.executor.launch(SPAWNER, [lane(1, "t1")], TEMPLATES)
    stage.executor.define_environment("late", EnvironmentDifference({"A": "2"}))
    stage.executor.flush()
    definitions = [wire.DefineEnvironment("early", {"A": "1"}, ["B"]), wire.DefineEnvironment("late", {"A": "2"}, [])]
    assert spawner.listen()[1] == definitions[0]
    assert [said for said in spawner.heard if isinstance(said, wire.DefineEnvironment)] == definitions
    spawner.heard.clear()
    spawner.hello([execution("t1")])
    stage.until(lambda: len(stage.was_told("runner_connected", SPAWNER)) == 2)
    stage.executor.flush()
    assert spawner.listen()[1:] == definitions
    assert not any(isinstance(said, wire.DefineEnvironment) for said in worker.listen())


def test_a_spawner_without_room_is_told_of(stage):
    stage.start()
    spawner = stage.spawner()
    spawner.say(wire.StorageFull("no space left on /scratch"))
    stage.until(lambda: stage.was_told("storage_full"))
    assert stage.told[-1] == ("storage_full", SPAWNER, "no space left on /scratch")


def test_runners_that_only_wait_cost_no_turns(stage):
    stage.start()
    stage.spawner()
    stage.worker()
    stage.turn()
    assert stage.executor.next_deadline() is None


# ------------------------------------------------------------------------------------------------------ ending, recalling


def test_a_function_cancelled_before_its_worker_is_up_comes_back_at_once_and_is_never_sent(stage):
    stage.start()
    stage.spawner()
    stage.executor.start_runner(WORKER, SPAWNER, {})
    stage.executor.launch(WORKER, [lane(1, "f", "g", template=2)], TEMPLATES)
    stage.executor.end(WORKER, [execution("f")], Ending.CANCELLED, "cancelled")
    assert stage.executor.next_deadline() == 0.0
    stage.turn()
    assert stage.was_told("tasks_returned") == [("tasks_returned", WORKER, [execution("f")])]
    worker = stage.runner(WORKER, stage.sleeper())
    worker.hello()
    stage.until(lambda: worker.launched())
    assert worker.launched() == ["g"]


def test_a_running_call_is_ended_with_its_worker_and_the_calls_behind_it_come_back(stage):
    stage.start()
    spawner = stage.spawner()
    worker = stage.worker()
    stage.executor.launch(WORKER, [lane(1, "f", "g", "h", template=2)], TEMPLATES)
    stage.until(lambda: worker.launched())
    worker.words[0] = 1
    stage.executor.end(WORKER, [execution("f")], Ending.CANCELLED, "cancelled")
    stage.until(lambda: stage.was_told("tasks_returned"))
    assert stage.was_told("tasks_returned") == [("tasks_returned", WORKER, [execution("g"), execution("h")])]
    stage.until(lambda: wire.EndWorker(WORKER) in spawner.listen())
    stage.kill(worker)
    spawner.say(wire.WorkerExited(WORKER, worker.pid, -9, "ended by signal 9"))
    assert lost(stage, WORKER) == (-9, execution("f"), [])


def test_a_call_that_ended_before_the_cancel_came_costs_no_worker(stage):
    stage.start()
    spawner = stage.spawner()
    worker = stage.worker()
    stage.executor.launch(WORKER, [lane(1, "f", template=2)], TEMPLATES)
    stage.until(lambda: worker.launched())
    worker.words[0] = 1
    stage.executor.end(WORKER, [execution("f")], Ending.CANCELLED, "cancelled")
    worker.say(wire.TasksEnded(1, [AttemptEnd(*execution("f"), Ending.DONE)]))
    stage.until(lambda: stage.was_told("tasks_ended") and not stage.executor._calls.recalls)
    stage.turn()
    stage.executor.flush()
    assert wire.EndWorker(WORKER) not in spawner.listen()


# ------------------------------------------------------------------------------------------------------------------ losses


def test_a_dead_workers_memory_tells_what_it_had_not_begun(stage):
    stage.start()
    spawner = stage.spawner()
    worker = stage.worker()
    stage.executor.launch(WORKER, [lane(1, "f", "g", "h", template=2)], TEMPLATES)
    stage.until(lambda: worker.launched())
    worker.words[0] = 2
    worker.say(wire.TasksEnded(1, [AttemptEnd(*execution("f"), Ending.DONE)]))
    stage.kill(worker)
    spawner.say(wire.WorkerExited(WORKER, worker.pid, -11, "ended by signal 11"))
    assert lost(stage, WORKER) == (-11, execution("g"), [execution("h")])
    names = [call[0] for call in stage.told if call[1] == WORKER]
    assert names.index("tasks_ended") < names.index("runner_lost"), "what it had said is heard first"


def test_a_worker_that_died_after_a_new_hello_is_read_by_its_new_numbers(stage):
    stage.start()
    spawner = stage.spawner()
    worker = stage.worker()
    stage.executor.launch(WORKER, [lane(1, "f", "g", "h", template=2)], TEMPLATES)
    stage.until(lambda: worker.launched())
    spawner.say(wire.WorkerExited(WORKER, worker.pid, -9, "ended by signal 9"))
    stage.until(lambda: WORKER in stage.executor._runners.dying)
    worker.hello([execution("g"), execution("h")])
    worker.words[0] = 1
    connections = stage.executor._runners.connections
    assert list(connections.poll()) == [], "it knocks"
    ((hello, _),) = connections.poll()
    stage.executor._conversation.hear_hello(hello)
    stage.kill(worker)
    assert lost(stage, WORKER) == (-9, execution("g"), [execution("h")])


def test_ends_that_a_dead_worker_had_not_sent_are_told_before_its_loss(stage):
    stage.start()
    spawner = stage.spawner()
    worker = stage.worker()
    outbox = Outbox(stage.folder, WORKER)
    stage.executor.launch(WORKER, [lane(1, "f", "g", "h", "i", template=2)], TEMPLATES)
    stage.until(lambda: worker.launched())
    ends = [AttemptEnd(*execution(uid), Ending.DONE) for uid in ("f", "g")]
    outbox.add(ends[0])
    outbox.close(1, 1)
    worker.say(wire.TasksEnded(1, ends[:1]))
    outbox.add(ends[1])
    worker.words[0] = 3
    stage.kill(worker)
    spawner.say(wire.WorkerExited(WORKER, worker.pid, -9, "ended by signal 9"))
    assert lost(stage, WORKER) == (-9, execution("h"), [execution("i")])
    assert told_ends(stage) == [(1, ["f"]), (2, ["g"])], "what was received is not told again"
    names = [call[0] for call in stage.told if call[1] == WORKER]
    assert names[-2:] == ["tasks_ended", "runner_lost"]


def test_the_last_words_of_a_runner_that_does_not_listen_any_more_are_heard(stage):
    stage.start()
    spawner = stage.spawner()
    stage.executor.launch(SPAWNER, [lane(1, "a")], TEMPLATES)
    stage.until(lambda: spawner.launched())
    spawner.say(wire.TasksEnded(1, [AttemptEnd(*execution("a"), Ending.DONE)]))
    stage.kill(spawner)
    stage.executor.launch(SPAWNER, [lane(2, "b")], TEMPLATES)
    stage.executor.flush()
    assert lost(stage, SPAWNER)[0] == -9
    assert [(call[1], [end.task for end in call[3]]) for call in stage.was_told("tasks_ended")] == [(SPAWNER, ["a"])]


def test_a_worker_that_died_between_calls_ran_none(stage):
    stage.start()
    spawner = stage.spawner()
    worker = stage.worker()
    stage.executor.launch(WORKER, [lane(1, "f", "g", template=2)], TEMPLATES)
    stage.until(lambda: worker.launched())
    Outbox(stage.folder, WORKER).add(AttemptEnd(*execution("f"), Ending.DONE))
    worker.words[0] = 1
    stage.kill(worker)
    spawner.say(wire.WorkerExited(WORKER, worker.pid, 1, "exited with 1"))
    assert lost(stage, WORKER) == (1, None, [execution("g")])


def test_an_agent_that_dies_before_it_has_logged_a_dead_workers_ends_leaves_them_to_the_next(stage):
    outbox = Outbox(stage.folder, WORKER)
    for number, uid in ((1, "f"), (2, "g"), (3, "h")):
        outbox.add(AttemptEnd(*execution(uid), Ending.DONE))
        outbox.close(number, 1)
    dead = stage.sleeper()
    known = record_of(dead, SPAWNER)
    stage.sleepers[-1].kill()
    stage.sleepers[-1].wait()
    known.released = 1
    stage.start({WORKER: known})
    while not stage.was_told("runner_lost", WORKER):
        stage.turn()
    assert told_ends(stage) == [(2, ["g"]), (3, ["h"])]
    assert outbox_path(stage.folder, WORKER).exists(), "none of it is in the log yet"
    stage.executor.flush()
    assert not outbox_path(stage.folder, WORKER).exists()


def test_an_agent_that_ends_with_a_fault_leaves_the_files_of_dead_workers(stage):
    stage.start()
    spawner = stage.spawner()
    worker = stage.worker()
    Outbox(stage.folder, WORKER)
    stage.kill(worker)
    spawner.say(wire.WorkerExited(WORKER, worker.pid, -9, "ended by signal 9"))
    while not stage.was_told("runner_lost", WORKER):
        stage.turn()
    stage.kill(spawner)
    stage.executor.close(0.0)
    assert outbox_path(stage.folder, WORKER).exists()
    stage.executor = LocalExecutor(stage.folder, stage.session, PILOT, stage.folder, 2)


def test_who_leaves_lets_runners_go_on_but_those_that_never_said_hello(stage):
    stage.start()
    spawner = stage.spawner()
    known = RunnerRecord(None, 0, "", spawner.pid, started_ticks(spawner.pid) or 0, boot_id())
    silent = RunnerId("spawner.9")
    stage.executor.start_runner(silent, None, {})
    never_heard_of = stage.pid_of(silent)
    stage.executor.leave()
    assert not Path(f"/proc/{never_heard_of}").exists(), "it was reaped, too"
    stage.executor = LocalExecutor(stage.folder, stage.session, PILOT, stage.folder, 2)
    stage.told.clear()
    stage.start({SPAWNER: known})
    spawner.hello()
    stage.until(lambda: stage.was_told("runner_reconciled", SPAWNER))


def test_a_worker_that_was_let_go_leaves_nothing(stage):
    stage.start()
    stage.spawner()
    stage.worker()
    Outbox(stage.folder, WORKER)
    stage.executor.stop_runner(WORKER)
    stage.executor.flush()
    assert list(stage.folder.glob(f"{WORKER}.*")) == []


def test_what_was_launched_on_a_runner_that_never_came_up_has_not_begun(stage):
    stage.start()
    stage.executor.start_runner(SPAWNER, None, {})
    stage.executor.launch(SPAWNER, [lane(1, "a", "b")], TEMPLATES)
    stage.kill(stage.runner(SPAWNER, stage.pid_of(SPAWNER)))
    assert lost(stage, SPAWNER) == (-9, None, [execution("a"), execution("b")])


def test_a_lost_spawner_takes_along_the_workers_that_it_had_not_started_but_no_others(stage):
    stage.start()
    spawner = stage.spawner()
    worker = stage.worker()
    unborn = RunnerId("worker.2")
    stage.executor.start_runner(unborn, SPAWNER, {})
    stage.executor.launch(unborn, [lane(1, "f", template=2)], TEMPLATES)
    stage.kill(spawner)
    assert lost(stage, unborn) == (None, None, [execution("f")])
    assert not stage.was_told("runner_lost", WORKER)
    stage.executor.start_runner(RunnerId("worker.3"), SPAWNER, {})
    assert lost(stage, RunnerId("worker.3")) == (None, None, [])
    stage.kill(worker)
    assert lost(stage, WORKER)[0] is None, "its own spawner is gone, so the process table tells"


def test_what_is_launched_on_a_runner_just_told_as_lost_is_dropped(stage):
    stage.start()
    stage.kill(stage.spawner())
    lost(stage, SPAWNER)
    stage.executor.launch(SPAWNER, [lane(1, "a")], TEMPLATES)
    stage.executor.end(SPAWNER, [execution("a")], Ending.CANCELLED, "cancelled")
    stage.turn()
    assert stage.told[-1][0] == "runner_lost"


def test_a_spawner_that_cannot_be_started_is_lost(stage, monkeypatch):
    monkeypatch.setattr("pilotage.executors.spawner_process.python_command", lambda *arguments: ["/nowhere/python"])
    stage.start()
    stage.executor.start_runner(SPAWNER, None, {})
    stage.executor.launch(SPAWNER, [lane(1, "a")], TEMPLATES)
    assert lost(stage, SPAWNER) == (None, None, [execution("a")])
    assert "could not be started" in stage.told[-1][2]


def test_the_tasks_of_a_spawner_that_died_with_the_last_agent_are_ended_before_it_is_told(stage):
    dead = stage.sleeper()
    stage.sleepers[-1].kill()
    stage.sleepers[-1].wait()
    orphaned_sleeper(stage.session, PILOTAGE_TASK_ID="task.0", PILOTAGE_ATTEMPT="1")
    assert orphans(stage.session, PILOT, ())
    stage.start({SPAWNER: record_of(dead)})
    lost(stage, SPAWNER)
    assert not orphans(stage.session, PILOT, ())


def test_what_a_lost_spawners_tasks_had_printed_is_in_its_place_before_it_is_told(stage):
    stage.start()
    spawner = stage.spawner()
    spares = Spares(str(stage.folder), SPAWNER, stage.folder, SPAWNER)
    own = stage.folder / "task.0"
    Path(spares.paths(spares.lend(str(own)))[0]).write_text("so far\n")
    seen = []
    stage.runner_lost = lambda *_: seen.append(Path(f"{own}.out").read_text())
    stage.kill(spawner)
    stage.until(lambda: seen)
    assert seen == ["so far\n"]


def test_a_spawner_that_an_earlier_agent_never_heard_is_not_left_behind(stage):
    # As it is started: the agent's folder and its own name come last.
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)", str(stage.folder)]
    unheard, other = (
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, start_new_session=True) for name in (SPAWNER, "spawner.9")
    )
    try:
        for process in (unheard, other):
            assert process.stdout is not None and process.stdout.readline() == b"\n"
        stage.start({SPAWNER: RunnerRecord(None, 0, "")})
        assert unheard.wait(10) == -signal.SIGKILL and other.poll() is None
        lost(stage, SPAWNER)
    finally:
        for process in (unheard, other):
            process.kill()
            process.communicate()
