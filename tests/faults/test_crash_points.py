"""Crashes before and after each append, sync, send, acknowledgement and spawn, also during recovery, and several in a row.

In each campaign the agent and the client die up to three times at planted points (``planted`` tells how they are named).
What the witness saw must agree with the outcomes, nothing may be lost by the death of an agent or a client, and nothing is
left.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest

from .jobs import Job, Plan
from .stage import Stage
from .witness import Harm

SESSION = f"crash.{os.getpid()}"
"""Campaigns of one name at the same time would end each other's tasks."""

PILOT = {"resource": "local.localhost", "cores": 2, "runtime": 10}
DIVIDED = {
    "resource": "local.emulated",
    "nodes": 2,
    "cores_per_node": 2,
    "runtime": 10,
    "partitions": [{"name": "a"}, {"name": "b"}],
}


def some_of_each(session: str, pilot: dict[str, Any] = PILOT) -> Plan:
    """Return a small campaign of all kinds of tasks."""
    jobs = [Job(f"null.{number}", "null") for number in range(12)]
    jobs += [Job(f"call.{number}", "call") for number in range(12)]
    jobs += [
        Job("sleep", "sleep", seconds=0.3),
        Job("ranks", "sleep", seconds=0.1, ranks=2),
        Job("sleep_call", "sleep_call", seconds=0.2),
        Job("stubborn", "stubborn", seconds=0.2, cancel=True),
        Job("daemon", "daemon"),
        Job("flaky", "flaky", retries=1),
        Job("flaky_call", "flaky_call", retries=1),
        Job("raising", "raising"),
        Job("infeasible", "infeasible", cores=1000),
        Job("cancelled", "sleep", seconds=0.2, cancel=True),
        *(Job(f"late.{number}", "null") for number in range(12)),
    ]
    return Plan(session, jobs, dict(pilot), batch=16)


def crash(
    planted: str, harm: Harm | None = None, pilot: dict[str, Any] = PILOT, change: bool = False, **environment: str
) -> None:
    """Play a campaign with these crashes, and see that each fell and that the books are right."""
    environment["FAULTS_PLANTED"] = planted
    plan = msgspec.structs.replace(some_of_each(SESSION, pilot), change=change)
    with Stage(plan, program="tests.faults.planted", environment=environment) as stage:
        stage.play()
        fell = (stage.folder / "fell").read_text().split("\n") if (stage.folder / "fell").exists() else []
        if sorted(filter(None, fell)) != sorted(planted.split()):
            raise stage.failed(f"planted were {sorted(planted.split())}, fell {sorted(fell)}")
        stage.check(harm)


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param("agent.1:append:before:1 agent.2:append:after:1 agent.3:append:before:4", id="first-appends"),
        pytest.param("agent.1:append:after:3 agent.2:append:before:3 agent.3:append:after:8", id="appends"),
        pytest.param("agent.1:sync:before:1 agent.2:sync:after:1 agent.3:sync:after:1", id="syncs"),
        pytest.param("agent.1:send:before:2 agent.2:send:after:2 agent.3:send:before:3", id="sends"),
        pytest.param("agent.1:acknowledge:before:1", id="before-acknowledgement"),
        pytest.param("agent.1:acknowledge:after:1 agent.2:append:after:1", id="after-acknowledgement"),
        pytest.param("agent.1:spawn:before:1 agent.2:spawn:after:1", id="spawns"),
        pytest.param("agent.1:tell:before:2 agent.2:tell:after:3 agent.3:tell:after:6", id="messages-to-runners"),
        pytest.param("agent.1:append:after:5 agent.2:recover:before:1 agent.3:recover:after:1", id="recovery"),
        pytest.param("agent.1:append:after:5 agent.2:listen:after:1", id="listening"),
        pytest.param("agent.1:hello:before:1 agent.2:hello:after:1", id="hellos"),
    ],
)
def test_an_agent_that_dies_at_a_point_costs_nothing(planted: str) -> None:
    crash(planted)


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param("client.1:append:before:1 client.2:append:after:1 client.3:append:before:3", id="first-appends"),
        pytest.param("client.1:append:after:5 client.2:append:before:3 client.3:append:after:4", id="appends"),
        pytest.param("client.1:sync:before:1 client.2:sync:after:1 client.3:sync:before:2", id="syncs"),
        pytest.param("client.1:send:before:1 client.2:send:after:1 client.3:send:before:2", id="sends"),
        pytest.param("client.1:acknowledge:before:1 client.2:acknowledge:after:1", id="acknowledgements"),
        pytest.param("client.1:spawn:before:1", id="before-the-pilot"),
        pytest.param("client.1:spawn:after:1", id="after-the-pilot"),
        pytest.param("client.1:append:after:6 client.2:recover:before:1 client.3:recover:after:1", id="recovery"),
        pytest.param("client.1:append:after:6 client.2:lease:after:1", id="lease"),
    ],
)
def test_a_client_that_dies_at_a_point_costs_nothing(planted: str) -> None:
    crash(planted)


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param("agent.1:append:after:4:client client.2:append:after:2 agent.2:append:before:2", id="append"),
        pytest.param("agent.1:send:after:3:client agent.2:send:before:2:client", id="send"),
        pytest.param("agent.1:acknowledge:after:1:client agent.2:recover:after:1:client", id="acknowledgement-and-recovery"),
        pytest.param("agent.1:tell:after:4:client client.2:send:after:1", id="message-to-runner"),
    ],
)
def test_agent_and_client_that_die_together_cost_nothing(planted: str) -> None:
    crash(planted)


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param("spawner.0:spawn:before:1 spawner.1:spawn:after:1", id="spawns"),
        pytest.param("spawner.0:spawn:after:3 spawner.1:tell:after:2", id="spawn-and-tell"),
        pytest.param("spawner.0:tell:before:2", id="tell"),
    ],
)
def test_a_spawner_that_dies_at_a_point_costs_no_more_than_what_it_ran(planted: str) -> None:
    crash(planted, Harm(runner=True))


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param("agent.1:append:before:1 agent.2:append:after:1 agent.3:append:before:4", id="head-first-appends"),
        pytest.param("agent.1:append:after:4 agent.2:append:before:4 agent.3:append:after:8", id="head-appends"),
        pytest.param("agent.1:spawn:before:1 agent.2:spawn:after:1", id="head-spawns"),
        pytest.param("agent.1:connect:after:1 agent.2:connect:before:2", id="head-connects"),
        pytest.param("agent.1:partition-send:before:3 agent.2:partition-send:after:3", id="head-sends-down"),
        pytest.param("agent.1:partition-acknowledge:before:1 agent.2:partition-acknowledge:after:1", id="head-acknowledges"),
        pytest.param("agent.1:send:before:2 agent.2:send:after:2 agent.3:send:before:3", id="head-sends-up"),
        pytest.param("agent.1:append:after:5 agent.2:recover:before:1 agent.3:recover:after:1", id="head-recovery"),
        pytest.param("a.1:append:before:1 a.2:append:after:2 b.1:append:after:3", id="agents-append"),
        pytest.param("a.1:hello:before:1 b.1:hello:after:1 a.2:listen:after:1", id="agents-hello"),
        pytest.param("a.1:acknowledge:before:1 b.1:send:after:2 a.2:send:before:2", id="agents-send"),
        pytest.param("a.1:spawn:after:1 b.1:tell:before:2", id="agents-spawn-and-tell"),
        pytest.param("agent.1:append:after:5 a.1:append:after:4 b.1:send:after:2 a.2:recover:before:1", id="head-and-agents"),
        pytest.param("agent.1:partition-send:after:4:client a.1:append:after:3 client.2:append:after:2", id="all"),
    ],
)
def test_heads_and_agents_of_partitions_that_die_at_a_point_cost_nothing(planted: str) -> None:
    crash(planted, pilot=DIVIDED)


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param("agent.1:append:after:6 agent.2:append:before:4 agent.3:append:after:6", id="head"),
        pytest.param("client.1:append:before:8 client.2:append:after:4 agent.1:acknowledge:before:2", id="client"),
        pytest.param("a.1:send:after:1 c.1:append:before:1 agent.1:partition-send:after:4", id="agents"),
    ],
)
def test_a_partition_is_retired_and_another_added_whoever_dies(planted: str) -> None:
    crash(planted, pilot=DIVIDED, change=True)


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param("agent.1:append:before:1 agent.2:append:after:4 agent.3:partition-send:before:3", id="head"),
        pytest.param("a.1:append:after:4 b.2:send:after:2 agent.3:recover:before:1", id="all"),
        pytest.param("a.1:append:before:1:raise a.2:append:after:2:raise b.1:append:after:3:raise", id="agents-append"),
        pytest.param("a.1:hello:before:1:raise b.1:hello:after:1:raise a.2:listen:after:1:raise", id="agents-hello"),
        pytest.param("a.1:acknowledge:before:1:raise b.1:send:after:2:raise a.2:send:before:2:raise", id="agents-send"),
        pytest.param("a.1:spawn:after:1:raise b.1:tell:before:2:raise", id="agents-spawn-and-tell"),
        pytest.param(
            "a.1:append:before:1:raise a.2:append:before:1:raise a.3:append:after:1:raise a.4:append:before:1:raise", id="lost"
        ),
        pytest.param(
            "agent.1:connect:after:1 agent.2:connect:after:1 "
            "a.3:append:before:1:raise a.4:append:before:1:raise a.5:append:before:1:raise",
            id="deaths-of-heads-are-none-of-agents",
        ),
        pytest.param("a.1:listen:before:1:raise agent.1:connect:after:2 b.2:append:after:2:raise", id="head-and-agents"),
    ],
)
def test_a_head_with_its_agents_on_threads_that_die_at_a_point_costs_nothing(planted: str) -> None:
    crash(planted, pilot={**DIVIDED, "sub_agents": "threads"})


@pytest.mark.parametrize(
    ("sub_agents", "planted"),
    [
        ("processes", "a.1:ended:before:1:hang"),
        # A thread is ended with its process, after which there is another head.
        ("threads", "a.1:ended:before:1:hang agent.2:listen:after:1:note"),
    ],
)
def test_an_agent_that_hangs_when_it_is_to_end_is_ended(sub_agents: str, planted: str) -> None:
    crash(planted, pilot={**DIVIDED, "sub_agents": sub_agents}, FAULTS_SILENT_S="0.5")
