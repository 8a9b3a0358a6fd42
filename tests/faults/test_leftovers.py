"""What tasks leave behind is ended, and a session can be ended, whoever was killed before."""

from __future__ import annotations

import os
from pathlib import Path

from .jobs import Job, Plan
from .stage import Stage
from .witness import Harm

PILOT: dict[str, str | int | float] = {"resource": "local.localhost", "cores": 2, "runtime": 10}


def parent_of(pid: int) -> int:
    """Return the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def until_all_but_the_gate_are_heard(stage: Stage) -> None:
    """Wait until callbacks have heard of the end of all tasks but the gate."""
    heard = stage.folder / "callbacks"
    stage.until(lambda: len(heard.read_text().splitlines()) == len(stage.plan.jobs) - 1, "all but the gate had ended")


def test_what_a_function_left_running_is_ended_though_its_spawner_was_lost() -> None:
    with Stage(Plan("child", [Job("child", "child_call"), Job("gate", "gate", restartable=True)], PILOT)) as stage:
        stage.start_client()
        until_all_but_the_gate_are_heard(stage)
        (worker,) = stage.pids("worker")
        spawner = parent_of(worker)
        stage.kill("spawner", lambda pids: spawner)
        stage.open_gate()
        stage.finish()
        stage.check(Harm(runner=True))


def test_what_tasks_left_running_is_ended_though_spawner_and_agent_were_lost_together() -> None:
    jobs = [Job(f"stubborn.{number}", "stubborn", seconds=300.0) for number in range(2)]
    with Stage(Plan("stubborn", jobs, PILOT)) as stage:
        stage.start_client()
        stage.until_witnessed(2)
        bootstrap, agent = stage.pids("bootstrap")[0], stage.pids("agent")[0]
        with stage.stopped(bootstrap):
            for spawner in stage.pids("spawner"):
                stage.kill("spawner", lambda pids, pid=spawner: pid)
            os.kill(agent, 9)
        stage.finish()
        stage.check(Harm(runner=True))


def test_a_session_whose_client_died_while_it_closed_can_be_used_and_closed_again() -> None:
    plan = Plan("closing", [Job("null", "null")], PILOT)
    environment = {"FAULTS_PLANTED": "client.1:close:before:1", "FAULTS_END_PATIENCE_S": "3"}
    with Stage(plan, program="tests.faults.planted", environment=environment) as stage:
        stage.start_client()
        stage.until(lambda: not stage.pids("client"), "the client died")
        stage.until(lambda: not stage.pids("bootstrap"), "its pilot ended")
        stage.environment["FAULTS_PLANTED"] = ""
        # More work for the resumed session, which takes a new pilot.
        again = Plan("closing", [*plan.jobs, Job("another", "null")], PILOT, new_pilot=True)
        stage.change(again)
        stage.start_client()
        stage.finish()
        reports = stage.check()
        assert [report.ending for report in reports] == ["DONE", "DONE"]
        assert "SIGTERM" not in stage.why_ended("pilot.0001")
