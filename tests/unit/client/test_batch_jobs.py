"""The threads that submit, watch and cancel the jobs of pilots, over a batch system whose answers are scripted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilotage.agent.claim import FORBIDDEN_FILE
from pilotage.batch.commands import BatchCommands, CommandResult
from pilotage.batch.registry import batch_system
from pilotage.client.batch_jobs import BatchJobs, Patience
from pilotage.core.client import events
from pilotage.core.client.state import JobRecord, PilotRecord, QueuedEnd
from pilotage.model.ids import PilotUid
from pilotage.model.resources import Node, NodeShape

PATIENCE_S = 30.0
SHORT = Patience(submit_s=0.2, settle_s=0.02, again_s=0.005, longest_s=0.02, vanish_s=0.05, unlisted_s=0.02, cancel_s=0.05)
ENDLESS = Patience(submit_s=600, settle_s=0.02, again_s=0.005, longest_s=0.02, vanish_s=0.05, unlisted_s=0.02, cancel_s=0.05)
NAME = "pilotage.s.p.1"
DOWN = CommandResult(1, "", "sbatch: error: Unable to contact slurm controller (connect failure)")

Answer = CommandResult | type[TimeoutError]


class Script:
    """Runs nothing: answers each program with what is scripted for it, the last answer again and again, and notes it all."""

    def __init__(self, **answers: Sequence[Answer]) -> None:
        self.answers = {name: list(some) for name, some in answers.items()}
        self.calls: list[tuple[str, ...]] = []
        self._lock = threading.Lock()

    def run(self, arguments: Sequence[str], timeout_s: float) -> CommandResult:
        with self._lock:
            program = next(each for each in arguments if each in ("sbatch", "squeue", "scancel"))
            finds = any(each.startswith("--name=") for each in arguments)
            name = "find" if finds else program
            self.calls.append((name, *arguments))
            some = self.answers[name]
            answer = some.pop(0) if len(some) > 1 else some[0]
        if isinstance(answer, type):
            raise TimeoutError(f"{program} had not ended after 60 s")
        return answer

    def count(self, name: str) -> int:
        with self._lock:
            return sum(call[0] == name for call in self.calls)


class Engine:
    """Takes events, and folds them as the core would as far as these threads can see it."""

    def __init__(self) -> None:
        self.told: list[events.Event] = []
        self.pilot = PilotRecord(PilotUid("p"), "pmgr", msgspec.Raw(b"\x80"), [], job=JobRecord("slurm", NAME))
        self.failure = ""
        self.jobs: BatchJobs
        self.script = Path()

    def tell(self, event: events.Event) -> bool:
        assert self.pilot.job is not None
        if isinstance(event, events.JobSubmitted):
            self.pilot.job.id = event.job
            self.jobs.watch(self.pilot, self.script)
        self.told.append(event)
        return True

    def stop_for(self, reason: str) -> None:
        self.failure = reason

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]

    @property
    def states(self) -> list[str]:
        return [event.state for event in self.of(events.JobTold) if event.state]


def ok(text: str = "") -> CommandResult:
    return CommandResult(0, text, "")


def status(state: str, reason: str = "None", exit_code: int = 0, nodes: str = "node1") -> CommandResult:
    """Return what Slurm tells of job 12, whose script was begun on node1."""
    widths = (40, 24, 200, 16, 16, 32, 32, 256, 4000)
    values = ("12", state, reason, str(exit_code), "0", "N/A", "N/A", "node1", nodes)
    return ok("".join(value.ljust(width) for value, width in zip(values, widths, strict=True)) + "\n")


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Return the engine of one pilot, whose jobs are played by a script."""
    engines: list[Engine] = []

    def begin_one(script: Script, patience: Patience = SHORT) -> Engine:
        engine = Engine()
        engine.script = tmp_path / "job.sh"
        engine.script.write_text("#!/bin/sh\n")
        system = batch_system("slurm")
        engine.jobs = BatchJobs(engine, patience=patience, commands_of=lambda name: BatchCommands(system, script))
        engines.append(engine)
        return engine

    yield begin_one
    for engine in engines:
        engine.jobs.stop()
        assert engine.failure == ""


def wait_until(there: Callable[[], object], engine: Engine) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < deadline, engine.told
        time.sleep(0.005)


def wait_for(engine: Engine, kind: type[Any]) -> Any:
    wait_until(lambda: engine.of(kind), engine)
    return engine.of(kind)[0]


def forbidden(engine: Engine) -> bool:
    return (engine.script.parent / FORBIDDEN_FILE).exists()


# ----- submitting -----------------------------------------------------------------------------------------------------


def test_a_job_is_submitted_watched_and_its_end_is_told(begin: Callable[..., Engine]) -> None:
    script = Script(sbatch=[ok("12\n")], squeue=[status("PENDING", "Priority"), status("TIMEOUT", "TimeLimit", 15)])
    engine = begin(script)
    engine.jobs.submit(engine.pilot, engine.script)

    wait_until(lambda: engine.of(events.JobTold)[-1:] and engine.of(events.JobTold)[-1].over, engine)

    assert wait_for(engine, events.JobSubmitted).job == "12"
    assert engine.states == ["queued", "timed_out"]
    last = engine.of(events.JobTold)[-1]
    assert last.reason == "TimeLimit, signal 15"
    assert script.calls[0][-1] == str(engine.script)
    assert not forbidden(engine)


@pytest.mark.parametrize(
    ("stderr", "remedy"),
    [
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination", "give a project of"),
        ("sbatch: error: Batch job submission failed: Invalid partition name specified", "give a queue, qos or reservation"),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            "ask for less, or for what there is",
        ),
        ("sbatch: error: something else", ""),
    ],
)
def test_a_refused_job_fails_its_pilot_with_what_was_printed(begin: Callable[..., Engine], stderr: str, remedy: str) -> None:
    script = Script(sbatch=[CommandResult(1, "", stderr)])
    engine = begin(script)
    engine.jobs.submit(engine.pilot, engine.script)

    lost = wait_for(engine, events.PilotLost)

    assert lost.received == 0
    assert lost.reason.startswith("its job could not be submitted: slurm: sbatch --parsable")
    assert stderr in lost.reason and remedy in lost.reason
    assert script.count("sbatch") == 1
    assert forbidden(engine)


def test_no_batch_system_here_is_said(begin: Callable[..., Engine]) -> None:
    engine = begin(Script(sbatch=[CommandResult(127, "", "sbatch: not found")]))
    engine.jobs.submit(engine.pilot, engine.script)
    assert "no batch system slurm here: sbatch: not found; work where sbatch is" in wait_for(engine, events.PilotLost).reason


def test_a_server_that_is_down_is_tried_again(begin: Callable[..., Engine]) -> None:
    script = Script(sbatch=[DOWN, DOWN, ok("12\n")], find=[DOWN, ok()], squeue=[status("PENDING")])
    engine = begin(script, ENDLESS)
    engine.jobs.submit(engine.pilot, engine.script)

    wait_for(engine, events.JobSubmitted)

    assert script.count("sbatch") == 3
    reasons = [event.reason for event in engine.of(events.JobTold) if not event.state]
    assert reasons and all("Unable to contact slurm controller" in reason for reason in reasons)


def test_one_that_stays_down_is_given_up(begin: Callable[..., Engine]) -> None:
    engine = begin(Script(sbatch=[DOWN], find=[DOWN]))
    engine.jobs.submit(engine.pilot, engine.script)
    lost = wait_for(engine, events.PilotLost)
    assert "Unable to contact slurm controller" in lost.reason
    assert f"A job '{NAME}' that comes into the queue ends by itself" in lost.reason
    assert forbidden(engine)


@pytest.mark.parametrize("answer", [TimeoutError, ok("what a site prints")], ids=["none", "unreadable"])
def test_a_job_whose_submission_got_no_answer_is_found_by_its_name(begin: Callable[..., Engine], answer: Answer) -> None:
    script = Script(sbatch=[answer], find=[ok(), ok("12\n")], squeue=[status("PENDING")])
    engine = begin(script, ENDLESS)
    engine.jobs.submit(engine.pilot, engine.script)

    assert wait_for(engine, events.JobSubmitted).job == "12"
    assert script.count("sbatch") == 1
    assert any(f"--name={NAME}" in call for call in script.calls)


def test_one_that_is_not_found_is_submitted_again(begin: Callable[..., Engine]) -> None:
    script = Script(sbatch=[TimeoutError, ok("12\n")], find=[ok()], squeue=[status("PENDING")])
    engine = begin(script, ENDLESS)
    engine.jobs.submit(engine.pilot, engine.script)
    wait_for(engine, events.JobSubmitted)
    assert [call[0] for call in script.calls if call[0] in ("sbatch", "find")][:2] == ["sbatch", "find"]
    assert script.count("sbatch") == 2


def test_one_that_is_not_found_is_looked_for_until_it_must_have_turned_up(begin: Callable[..., Engine]) -> None:
    script = Script(sbatch=[TimeoutError], find=[ok()])
    engine = begin(script, msgspec.structs.replace(ENDLESS, settle_s=600))
    engine.jobs.submit(engine.pilot, engine.script)
    wait_until(lambda: script.count("find") > 2, engine)
    assert script.count("sbatch") == 1


def test_of_two_that_are_found_one_is_cancelled(begin: Callable[..., Engine]) -> None:
    script = Script(sbatch=[TimeoutError], find=[ok("12\n13\n")], scancel=[ok()], squeue=[status("PENDING")])
    engine = begin(script, ENDLESS)
    engine.jobs.submit(engine.pilot, engine.script)
    assert wait_for(engine, events.JobSubmitted).job == "12"
    wait_until(lambda: script.count("scancel"), engine)
    assert next(call for call in script.calls if call[0] == "scancel")[-1] == "13"


def test_who_comes_back_looks_before_submitting(begin: Callable[..., Engine]) -> None:
    script = Script(find=[ok("12\n")], squeue=[status("PENDING")])
    engine = begin(script)
    engine.jobs.submit(engine.pilot, engine.script, anew=True)
    assert wait_for(engine, events.JobSubmitted).job == "12"
    assert script.count("sbatch") == 0


def test_a_pilot_that_was_cancelled_is_not_submitted(begin: Callable[..., Engine]) -> None:
    script = Script()
    engine = begin(script)
    engine.pilot.ending = True
    engine.pilot.outbox = [QueuedEnd(drain=False)]
    engine.jobs.submit(engine.pilot, engine.script)
    assert "cancelled before its job was submitted" in wait_for(engine, events.PilotLost).reason
    assert script.calls == []


def test_a_pilot_that_is_cancelled_while_the_server_is_down_is_given_up_at_once(begin: Callable[..., Engine]) -> None:
    slow = msgspec.structs.replace(ENDLESS, again_s=600.0, longest_s=600.0)
    engine = begin(Script(sbatch=[DOWN], find=[DOWN]), slow)
    engine.jobs.submit(engine.pilot, engine.script)
    wait_for(engine, events.JobTold)
    engine.pilot.ending = True
    engine.pilot.outbox = [QueuedEnd(drain=False)]

    wait_until(lambda: engine.jobs.cancel(PilotUid("p"), at_once=True) or engine.of(events.PilotLost), engine)

    assert "cancelled before its job was submitted" in wait_for(engine, events.PilotLost).reason
    assert forbidden(engine)


def test_one_that_drains_is(begin: Callable[..., Engine]) -> None:
    engine = begin(Script(sbatch=[ok("12\n")], squeue=[status("PENDING")]))
    engine.pilot.ending, engine.pilot.load = True, 1
    engine.pilot.outbox = [QueuedEnd(drain=True)]
    engine.jobs.submit(engine.pilot, engine.script)
    wait_for(engine, events.JobSubmitted)


def test_what_is_submitted_as_the_session_is_left_is_noted(begin: Callable[..., Engine]) -> None:
    engine = begin(Script(sbatch=[ok("12\n")], squeue=[status("PENDING")]))
    engine.jobs.submit(engine.pilot, engine.script)
    engine.jobs.stop()
    assert [event.job for event in engine.of(events.JobSubmitted)] == ["12"]


# ----- watching and cancelling ----------------------------------------------------------------------------------------


def running(engine: Engine) -> None:
    """Have the engine's pilot watched as job 12."""
    assert engine.pilot.job is not None
    engine.pilot.job.id = "12"
    engine.jobs.watch(engine.pilot, engine.script)


def test_a_job_that_is_not_listed_any_more_is_over_after_a_while(begin: Callable[..., Engine]) -> None:
    engine = begin(Script(squeue=[status("RUNNING"), ok()]))
    running(engine)
    wait_until(lambda: engine.of(events.JobTold) and engine.of(events.JobTold)[-1].over, engine)
    assert engine.states == ["running", "unknown", "unknown"]
    assert engine.of(events.JobTold)[-1].reason == "the batch system does not list it; it was running when it was listed last"


def test_a_job_that_can_never_begin_is_given_up(begin: Callable[..., Engine]) -> None:
    engine = begin(Script(squeue=[status("PENDING", "Priority"), status("PENDING", "PartitionTimeLimit")]))
    running(engine)
    told = wait_for(engine, events.PilotCancelRequested)
    assert told.failure == "its job 12 can never begin: PartitionTimeLimit; change what the pilot asks for"
    assert not told.drain


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (status("FAILED", "JobLaunchFailure", 9, nodes="node[2-3]"), "failed: JobLaunchFailure, signal 9"),
        (status("TIMEOUT", "TimeLimit", 15, nodes="node[2-3]"), "timed_out: TimeLimit, signal 15"),
    ],
)
def test_a_job_that_ended_without_its_first_node_has_lost_a_node(
    begin: Callable[..., Engine], told: CommandResult, reason: str
) -> None:
    engine = begin(Script(sbatch=[ok("12\n")], squeue=[status("RUNNING", nodes="node[1-3]"), told]))
    engine.jobs.submit(engine.pilot, engine.script)
    wait_until(lambda: engine.states[-1:] == ["node_failed"], engine)
    last = engine.of(events.JobTold)[-1]
    assert last.over and last.reason == f"node1, where its agent was; the batch system calls it {reason}"


def test_a_job_that_goes_on_without_its_first_node_is_cancelled(begin: Callable[..., Engine]) -> None:
    script = Script(
        sbatch=[ok("12\n")],
        squeue=[
            status("RUNNING", nodes="node[1-3]"),
            status("RUNNING", nodes="node[1-2]"),
            status("RUNNING", nodes="node2"),
            status("CANCELLED", nodes="node2", exit_code=15),
        ],
        scancel=[ok()],
    )
    engine = begin(script)
    engine.jobs.submit(engine.pilot, engine.script)
    wait_until(lambda: engine.states[-1:] == ["node_failed"], engine)
    assert script.count("scancel") == 1
    assert engine.states == ["running", "running", "running", "node_failed"]


def test_who_comes_back_sees_by_the_number_of_its_nodes_that_the_first_is_lost(begin: Callable[..., Engine]) -> None:
    script = Script(squeue=[status("RUNNING", nodes="node2"), status("CANCELLED", nodes="node2")], scancel=[ok()])
    engine = begin(script)
    assert engine.pilot.job is not None
    engine.pilot.job.id, engine.pilot.incarnation = "12", 1
    engine.pilot.nodes = [Node(index, f"node{index + 1}", NodeShape(8)) for index in range(2)]
    engine.jobs.watch(engine.pilot, engine.script)
    wait_until(lambda: engine.states == ["running", "node_failed"], engine)


def test_a_script_that_runs_beside_the_nodes_of_its_job_has_lost_none(begin: Callable[..., Engine]) -> None:
    told = [status("RUNNING", nodes="nid[2-3]"), status("FAILED", "NonZeroExitCode", 256, nodes="nid[2-3]")]
    engine = begin(Script(sbatch=[ok("12\n")], squeue=told))
    engine.pilot.incarnation = 1
    engine.pilot.nodes = [Node(index, f"nid{index + 2}", NodeShape(8)) for index in range(2)]
    engine.jobs.submit(engine.pilot, engine.script)
    wait_until(lambda: engine.states == ["running", "failed"], engine)


def test_one_that_is_listed_again_is_not(begin: Callable[..., Engine]) -> None:
    patience = msgspec.structs.replace(SHORT, vanish_s=600)
    engine = begin(Script(squeue=[status("RUNNING"), ok(), status("RUNNING"), status("COMPLETED")]), patience)
    running(engine)
    wait_until(lambda: engine.of(events.JobTold) and engine.of(events.JobTold)[-1].over, engine)
    assert engine.states == ["running", "unknown", "running", "done"]


def test_a_server_that_does_not_answer_says_nothing_of_jobs(
    begin: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(squeue=[status("RUNNING"), DOWN, DOWN, status("COMPLETED")])
    engine = begin(script)
    running(engine)
    wait_until(lambda: "done" in engine.states, engine)
    assert engine.states == ["running", "done"]
    assert "does not tell of jobs: slurm: " in caplog.text and "tells of jobs again" in caplog.text


def test_a_job_is_cancelled_until_that_succeeds(begin: Callable[..., Engine]) -> None:
    script = Script(squeue=[status("RUNNING"), status("CANCELLED")], scancel=[DOWN, DOWN, ok()])
    engine = begin(script)
    running(engine)
    engine.jobs.cancel(PilotUid("p"), at_once=True)
    engine.jobs.cancel(PilotUid("p"), at_once=True)
    wait_until(lambda: "cancelled" in engine.states and script.count("scancel") >= 3, engine)
    assert script.count("scancel") == 3


def test_an_agent_that_is_told_to_end_has_time_for_it(begin: Callable[..., Engine]) -> None:
    script = Script(squeue=[status("RUNNING")], scancel=[ok()])
    engine = begin(script, msgspec.structs.replace(SHORT, cancel_s=600))
    running(engine)
    engine.jobs.cancel(PilotUid("p"), at_once=False)
    wait_until(lambda: engine.states, engine)
    assert script.count("scancel") == 0
    # It did not help, or nobody waits any longer.
    engine.jobs.cancel(PilotUid("p"), at_once=True)
    wait_until(lambda: script.count("scancel"), engine)


def test_and_no_more_than_that(begin: Callable[..., Engine]) -> None:
    script = Script(squeue=[status("RUNNING")], scancel=[ok()])
    engine = begin(script)
    running(engine)
    engine.jobs.cancel(PilotUid("p"), at_once=False)
    wait_until(lambda: script.count("scancel"), engine)


def test_a_job_that_is_over_is_not_cancelled(begin: Callable[..., Engine]) -> None:
    script = Script(squeue=[status("COMPLETED")])
    engine = begin(script)
    running(engine)
    engine.jobs.cancel(PilotUid("p"), at_once=False)
    wait_until(lambda: "done" in engine.states, engine)
    engine.jobs.forget(PilotUid("p"))
    engine.jobs.stop()
    assert script.count("scancel") == 0


def test_an_error_of_ours_stops_the_session(tmp_path: Path) -> None:
    engine = Engine()
    engine.script = tmp_path / "job.sh"
    engine.jobs = BatchJobs(engine, commands_of=lambda name: 1 / 0)  # type: ignore[arg-type, return-value]
    engine.jobs.submit(engine.pilot, engine.script)
    wait_until(lambda: engine.failure, engine)
    assert "its jobs are looked after no longer: ZeroDivisionError" in engine.failure
    engine.jobs.stop()
