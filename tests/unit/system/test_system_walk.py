"""The whole system keeps its promises whatever happens; one seed gives one history; planted faults do not get through."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from system_world import walk

from pilotage.agent.agent import Agent
from pilotage.agent.client_link import ClientLink
from pilotage.agent.progress import Progress
from pilotage.client.pilot_link import PilotLink
from pilotage.client.steps import Steps
from pilotage.core.client import facts
from pilotage.core.client.pilots import Pilots
from pilotage.core.client.state import PilotRecord
from pilotage.core.client.tasks import Tasks
from pilotage.wire.link import IncomingLink, OutgoingLink
from planted_faults import Patch, instead, require_noticed

FIRST = int(os.environ.get("PILOTAGE_SEED", "0"))
WALKS = 1 if FIRST else int(os.environ.get("PILOTAGE_WALKS", "400"))
FAULT_WALKS = 1500


@pytest.mark.parametrize("first", range(FIRST, FIRST + WALKS, 50))
def test_whatever_happens_each_task_ends_once_and_nothing_is_left(first: int) -> None:
    for seed in range(first, min(first + 50, FIRST + WALKS)):
        walk(seed)


def test_the_loss_of_the_client_s_node_costs_only_what_was_not_synced() -> None:
    for seed in range(400):
        walk(seed, forgets_what_it_sent=True)


def test_the_walks_meet_what_they_are_for() -> None:
    """A walk in which nothing goes wrong would prove nothing: over some of them, everything has to have happened."""
    worlds = [walk(seed) for seed in range(150)]
    assert sum(world.client.epoch > 1 for world in worlds) > 20, "clients that were resumed"
    assert sum(pilot.incarnation > 1 for world in worlds for pilot in world.pilots.values()) > 20, "agents that recovered"
    assert sum(pilot.fenced for world in worlds for pilot in world.pilots.values()) > 10, "pilots that were fenced"
    assert sum(pilot.node_lost for world in worlds for pilot in world.pilots.values()) > 5, "nodes that were lost"
    assert sum(world.client_losses for world in worlds) > 10, "nodes of clients that were lost"
    assert sum(len(world.pilots) > 1 for world in worlds) > 20, "several pilots"
    states = [pilot.recover() for world in worlds for pilot in world.pilots.values()]
    assert sum(state.ending is not None and state.ending.idle for state in states) > 10, "pilots that were idle"
    assert sum(len(state.late) for state in states) > 10, "tasks that came when their pilot had begun to end"
    assert sum(outcome.binding > 1 for world in worlds for outcome in world.told.values()) > 10, "tasks bound again"
    assert sum(bool(world.ever_ready) for world in worlds) > 50, "services that were ready"
    assert sum(len(world.wanted) for world in worlds) > 300, "tasks that want services"
    dones = [pilot.done for world in worlds for pilot in world.pilots.values()]
    assert sum(len(done.staged_in) + len(done.staged_out) for done in dones) > 1000, "files that were staged"
    assert sum(len(world.unstaged) for world in worlds) > 50, "files that could not be"
    assert sum(world.put_off for world in worlds) > 20, "files that there was no room for"
    assert sum(len(done.cleaned) for done in dones) > 50, "sandboxes that were removed"
    assert sum(len(done.prepared) for done in dones) > 50, "environments that were prepared"
    assert sum(outcome.attempt > 1 for world in worlds for outcome in world.told.values()) > 20, "tasks run again"


def test_one_seed_gives_one_history_under_every_hash_seed() -> None:
    program = "from system_world import walk; print([walk(seed).fingerprint() for seed in range(12)])"
    here = Path(__file__).parent
    histories = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{here}:{here.parent / 'agent_core'}"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for hash_seed in ("0", "1")
    }
    assert len(histories) == 1, histories


@instead(Tasks, "cancel")
def a_cancel_of_a_waiting_task_is_forgotten(original: Any, part: Tasks, now: float, tasks: Any) -> None:
    original(part, now, [uid for uid in tasks if part._state.tasks[uid].pilot])


@instead(Pilots, "_may_run_again")
def what_may_have_run_runs_again(original: Any, part: Pilots, record: Any, loss: Any) -> bool:
    return True


@instead(Pilots, "_unfinished")
def the_tasks_of_a_lost_pilot_are_forgotten(original: Any, part: Pilots, pilot: PilotRecord) -> list[Any]:
    return list(original(part, pilot))[1:]


@instead(Pilots, "delivered")
def acknowledged_messages_are_kept(original: Any, part: Pilots, pilot: PilotRecord, durable: int) -> None:
    pass


@instead(OutgoingLink, "transmit")
def what_was_lost_with_the_connection_is_not_sent_again(original: Any, link: OutgoingLink) -> list[bytes]:
    original(link)
    return []


@instead(OutgoingLink, "resume")
def the_link_goes_on_behind_the_next_message(original: Any, link: OutgoingLink, durable: int) -> int:
    return int(original(link, min(durable + 1, link._last)))


@instead(IncomingLink, "acknowledgement")
def what_is_received_is_called_durable(original: Any, link: IncomingLink) -> Any:
    link.synced(link.received)
    return original(link)


@instead(ClientLink, "_frame")
def messages_sent_again_say_something_else(original: Any, link: ClientLink, number: int) -> bytes:
    return bytes(original(link, number - 1 if number - 1 in link._state.undelivered else number))


@instead(PilotLink, "disconnect")
def a_broken_connection_is_not_made_anew(original: Any, link: PilotLink, now: float) -> None:
    original(link, now)
    link.retry_at = None


@instead(Steps, "commit")
def the_client_acts_without_writing(original: Any, steps: Steps, new_facts: list[Any]) -> None:
    original(steps, [fact for fact in new_facts if not isinstance(fact, facts.TasksBound)])


@instead(Agent, "_append")
def the_agent_forgets_to_write_every_fifth_record(original: Any, agent: Agent, record: bytes) -> int:
    agent._skipped = getattr(agent, "_skipped", 0) + 1  # type: ignore[attr-defined]
    return agent._log._disk.synced if agent._skipped % 5 == 0 else int(original(agent, record))  # type: ignore[attr-defined]


@instead(Progress, "service_ready")
def clients_are_not_told_when_services_become_ready(original: Any, progress: Progress, service: Any) -> None:
    pass


@instead(Agent, "storage_full")
def the_agent_does_not_hear_that_the_disk_is_full(original: Any, agent: Agent, runner: Any, reason: str) -> None:
    agent._core._dispatch.paused = reason


@instead(Agent, "_storage_full")
def an_agent_whose_stagers_find_no_room_does_not_look_for_it(original: Any, agent: Agent, reason: str) -> None:
    agent._core._dispatch.paused = reason


FAULTS = [
    an_agent_whose_stagers_find_no_room_does_not_look_for_it,
    clients_are_not_told_when_services_become_ready,
    the_agent_does_not_hear_that_the_disk_is_full,
    a_cancel_of_a_waiting_task_is_forgotten,
    what_may_have_run_runs_again,
    the_tasks_of_a_lost_pilot_are_forgotten,
    acknowledged_messages_are_kept,
    what_was_lost_with_the_connection_is_not_sent_again,
    the_link_goes_on_behind_the_next_message,
    what_is_received_is_called_durable,
    messages_sent_again_say_something_else,
    a_broken_connection_is_not_made_anew,
    the_client_acts_without_writing,
    the_agent_forgets_to_write_every_fifth_record,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_walk_catches_a_planted_fault(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk_twice(seed: int) -> None:
        walk(seed)
        walk(seed, forgets_what_it_sent=True)

    require_noticed(fault, monkeypatch, walk_twice, FAULT_WALKS)
