"""Seeded random walks over a core with several hosts, and faults planted to see that the walks bite."""

from __future__ import annotations

import sys

import pytest
from agent_world_hosts import walk_over_hosts

from pilotage.core.agent import dispatch as dispatch_module
from pilotage.core.agent import reports as reports_module
from pilotage.core.agent.dispatch import Dispatch
from pilotage.core.agent.hosts import Host
from pilotage.core.agent.nodes import Nodes
from pilotage.core.agent.runners import RunnerPool
from pilotage.core.scheduling.scheduler import Scheduler
from planted_faults import require_noticed

WALKS = 120
BITES_WITHIN = 400


def test_every_task_lives_to_exactly_one_outcome_whichever_host_comes_late_or_is_lost() -> None:
    worlds = [walk_over_hosts(seed) for seed in range(WALKS)]
    assert sum(world.deaths for world in worlds) > WALKS
    assert sum(world.came_late for world in worlds) > 20, "hosts that came late"
    assert sum(world.losses_told for world in worlds) > 100, "hosts that were lost"
    assert sum(world.cut_short for world in worlds) > 5, "tasks of which another node was lost"
    assert sum(world.gone == set(world.hosts) for world in worlds) > 1, "pilots of which no node was left"
    assert sum(world.rests for world in worlds) > 5, "hosts on which no function worker came up"


def test_a_long_walk_over_hosts() -> None:
    world = walk_over_hosts(5, length=1000)
    assert len(world.client.outcomes) == len(world.client.tasks) > 300


# ------------------------------------------------------------------------------------------------------- planted faults


def lanes_go_to_any_host(patch):
    original = RunnerPool.give_to_spawner

    def give(self, lane, placement):
        hosts = [host for host in self._hosts.values() if host.spawners]
        return original(self, lane, [type(placement[0])(hosts[0].first_node, 1, b"\1")])

    patch.setattr(RunnerPool, "give_to_spawner", give)


def workers_are_started_beside_any_spawner(patch):
    original = RunnerPool._least

    def least(self, spawners):
        return original(self, [name for host in self._hosts.values() for name in host.spawners])

    patch.setattr(RunnerPool, "_least", least)


def idle_workers_are_used_on_any_host(patch):
    shared = {}
    original = Host.__init__

    def made(self, number, nodes):
        original(self, number, nodes)
        if not number:
            shared.clear()
        self.idle = shared

    patch.setattr(Host, "__init__", made)


def tasks_are_placed_on_hosts_that_are_not_up(patch):
    patch.setattr(Scheduler, "suspend_nodes", lambda self, indices: None)


def hosts_that_come_late_are_not_used(patch):
    patch.setattr(Scheduler, "resume_nodes", lambda self, indices: None)


def all_wait_until_all_hosts_are_up(patch):
    patch.setattr(RunnerPool, "ready", property(lambda self: all(host.is_up for host in self._hosts.values() if host.nodes)))


def hosts_that_were_heard_of_in_an_earlier_life_are_up(patch):
    original = RunnerPool.rebuild

    def rebuild(self, state, now):
        original(self, state, now)
        for host in self._hosts.values():
            host.spawners |= host.coming
            host.coming.clear()
            self._note(host)

    patch.setattr(RunnerPool, "rebuild", rebuild)


def what_runs_beside_a_lost_node_goes_on(patch):
    patch.setattr(Dispatch, "end_on", lambda self, nodes, message: None)


def what_runs_beside_a_lost_node_goes_on_after_a_restart(patch):
    original = reports_module.lies_on

    def lies_on(placement, nodes):
        return sys._getframe(1).f_code.co_name != "reconciled" and original(placement, nodes)

    patch.setattr(reports_module, "lies_on", lies_on)


def lanes_on_lost_nodes_are_refilled(patch):
    original = dispatch_module.lies_on

    def lies_on(placement, nodes):
        return sys._getframe(1).f_code.co_name != "_refill" and original(placement, nodes)

    patch.setattr(dispatch_module, "lies_on", lies_on)


def lost_nodes_are_used_by_the_next_agent(patch):
    patch.setattr(Nodes, "recover", lambda self: None)


def spawners_are_started_on_lost_hosts(patch):
    patch.setattr(RunnerPool, "serve", lambda self, nodes: [])


def a_host_without_workers_gets_tasks_all_the_same(patch):
    patch.setattr(RunnerPool, "rest", lambda self, runner, now: False)


def hosts_are_short_of_spawners_for_ever(patch):
    original = RunnerPool._note

    def note(self, host):
        original(self, host)
        if host.number:
            self._short.pop(host.number, None)

    patch.setattr(RunnerPool, "_note", note)


FAULTS = [
    lanes_go_to_any_host,
    workers_are_started_beside_any_spawner,
    idle_workers_are_used_on_any_host,
    tasks_are_placed_on_hosts_that_are_not_up,
    hosts_that_come_late_are_not_used,
    all_wait_until_all_hosts_are_up,
    hosts_that_were_heard_of_in_an_earlier_life_are_up,
    what_runs_beside_a_lost_node_goes_on,
    what_runs_beside_a_lost_node_goes_on_after_a_restart,
    lanes_on_lost_nodes_are_refilled,
    lost_nodes_are_used_by_the_next_agent,
    spawners_are_started_on_lost_hosts,
    a_host_without_workers_gets_tasks_all_the_same,
    hosts_are_short_of_spawners_for_ever,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_walk_over_hosts_catches_a_planted_fault(fault, monkeypatch):
    require_noticed(fault, monkeypatch, walk_over_hosts, BITES_WITHIN)
