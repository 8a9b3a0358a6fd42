"""Silence without a death: a stopped client or agent comes back, and what becomes of a pilot whose client is gone."""

from __future__ import annotations

import signal
from pathlib import Path

import msgspec
import pytest

from pilotage.core.agent import facts
from pilotage.log.reader import read_history

from .jobs import Job, Plan
from .stage import Stage

ARMED = "tests.faults.planted"


QUICK = {"FAULTS_LOSS_S": "0.4"}


def gate_and_others(**pilot: str | float) -> Plan:
    """Return a gate, which runs until it is opened, and some short tasks."""
    jobs = [Job("gate", "gate"), *(Job(f"null.{number}", "null") for number in range(6))]
    jobs += [Job(f"call.{number}", "call") for number in range(6)]
    return Plan("partition", jobs, {"resource": "local.localhost", "cores": 2, "runtime": 10, **pilot})


def endings(stage: Stage) -> dict[str, str]:
    return {report.uid: report.ending for report in stage.reports()}


def logged(folder: Path) -> list[facts.Fact]:
    decode = msgspec.msgpack.Decoder(list[facts.Fact]).decode
    return [fact for _, record in read_history(folder / "log") for fact in decode(record)]


def until_only_the_gate_runs(stage: Stage) -> None:
    """Wait until all but the gate have ended: one word of the gate, two of each other."""
    stage.until_witnessed(2 * len(stage.plan.jobs) - 1)


def test_a_client_that_was_silent_for_too_long_comes_back() -> None:
    environment = {"FAULTS_LOSS_S": "0.4", "FAULTS_PLANTED": "agent.1:drop:after:1:note"}
    with Stage(gate_and_others(), program=ARMED, environment=environment) as stage:
        stage.start_client()
        stage.until_witnessed(4)
        (client,) = stage.pids("client")
        with stage.stopped(client):
            stage.until_passed("agent.1:drop:after:1:note")
            stage.open_gate()
            stage.until_witnessed(2 * len(stage.plan.jobs))
        stage.finish()
        stage.check()


def test_an_agent_that_was_silent_for_too_long_comes_back() -> None:
    environment = {"FAULTS_LOSS_S": "0.4", "FAULTS_PLANTED": "client.1:disconnect:after:1:note"}
    with Stage(gate_and_others(), program=ARMED, environment=environment) as stage:
        stage.start_client()
        stage.until_witnessed(4)
        (agent,) = stage.pids("agent")
        with stage.stopped(agent):
            stage.until_passed("client.1:disconnect:after:1:note")
        stage.open_gate()
        stage.finish()
        stage.check()


def test_without_a_client_a_pilot_that_is_to_continue_goes_on_and_keeps_the_outcomes() -> None:
    with Stage(
        gate_and_others(on_client_loss="continue", client_loss_timeout_s=0.0), program=ARMED, environment=QUICK
    ) as stage:
        stage.start_client()
        until_only_the_gate_runs(stage)
        stage.kill("client")
        stage.open_gate()
        stage.until_witnessed(2 * len(stage.plan.jobs))
        (agent,) = stage.pids("agent")
        stage.start_client()
        stage.until(lambda: (stage.folder / "outcomes.json").exists(), "the second client is done")
        stage.finish()
        assert set(endings(stage).values()) == {"DONE"}
        assert f"agent {agent}" not in "\n".join(stage.story)
        stage.check()


def test_without_a_client_a_pilot_that_is_to_drain_finishes_what_it_has() -> None:
    with Stage(gate_and_others(on_client_loss="drain", client_loss_timeout_s=0.2), program=ARMED, environment=QUICK) as stage:
        stage.start_client()
        until_only_the_gate_runs(stage)
        stage.kill("client")
        folder = stage.pilot_folder()
        stage.until(
            lambda: any(isinstance(fact, facts.PilotEnding) and fact.drain for fact in logged(folder)), "the pilot drains", 15.0
        )
        stage.open_gate()
        stage.until(lambda: not stage.processes(), "the pilot was gone", 15.0)
        stage.start_client()
        stage.finish()
        assert set(endings(stage).values()) == {"DONE"}
        stage.check()


def test_without_a_client_a_pilot_that_is_to_terminate_ends_what_runs() -> None:
    with Stage(
        gate_and_others(on_client_loss="terminate", client_loss_timeout_s=0.2), program=ARMED, environment=QUICK
    ) as stage:
        stage.start_client()
        until_only_the_gate_runs(stage)
        stage.kill("client")
        stage.until(lambda: not stage.processes(), "the pilot and its tasks were gone", 15.0)
        stage.start_client()
        stage.finish()
        found = endings(stage)
        assert found.pop("gate") == "CANCELLED"
        assert set(found.values()) == {"DONE"}


def test_a_pilot_that_never_saw_its_client_ends_too() -> None:
    # The client dies between the start of the pilot and its first hello.
    environment = {"FAULTS_PLANTED": "client.1:send:before:1"}
    plan = gate_and_others(on_client_loss="terminate", client_loss_timeout_s=0.2)
    with Stage(plan, program=ARMED, environment=environment) as stage:
        stage.start_client()
        stage.until(lambda: not stage.pids("client"), "the client died")
        assert stage.client is not None
        assert stage.client.returncode == -signal.SIGKILL
        stage.until(lambda: not stage.processes(), "the pilot was gone", 15.0)


@pytest.mark.parametrize("roles", [("bootstrap",), ("bootstrap", "client")], ids="-and-".join)
def test_an_agent_goes_on_without_its_bootstrap(roles: tuple[str, ...]) -> None:
    with Stage(gate_and_others()) as stage:
        stage.start_client()
        until_only_the_gate_runs(stage)
        for role in roles:
            stage.kill(role)
        if "client" in roles:
            stage.start_client()
        stage.open_gate()
        stage.finish()
        stage.check()


def test_what_an_agent_left_that_is_gone_for_good_is_ended_before_its_tasks_are_called_lost() -> None:
    with Stage(gate_and_others()) as stage:
        stage.start_client()
        until_only_the_gate_runs(stage)
        stage.kill("bootstrap")
        stage.kill("agent")
        stage.finish()
        found = endings(stage)
        assert found.pop("gate") == "LOST"
        assert set(found.values()) == {"DONE"}
        stage.check_nothing_left()
