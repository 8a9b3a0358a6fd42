"""Which runner takes a lane: the spawners by load, and function workers that are kept while they are of use.

All of it is derived from the agent's state. A lane goes to the host of its first node. A function worker holds one lane at a
time; without one it is kept for ``KEEP_IDLE_S``, as the next function there will want it, and its GPUs stay those with which
it was started.

Where there is one host alone, its spawners get lanes as soon as they are asked for: tasks wait there until they are up. Of
several hosts only those are given lanes that have a spawner that is up: the nodes of the others are suspended (``changes``), so
that nobody waits for a host that comes late, or never.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pilotage.core.agent import actions, facts
from pilotage.core.agent.hosts import RESPAWN_MOST_S, Host
from pilotage.core.agent.state import AgentState
from pilotage.model.ids import LaneId, RunnerId
from pilotage.model.resources import Placement

KEEP_IDLE_S = 60.0
"""A function worker without work is kept this long."""


class RunnerPool:
    """Chooses runners for lanes.

    ``spawners``: how many are wanted on each host. ``hosts``: the number of the host of each node; none: all are on one.
    """

    def __init__(self, spawners: int, hosts: Sequence[int] = ()) -> None:
        self._wanted = spawners
        nodes: dict[int, list[int]] = {}
        for node, number in enumerate(hosts or (0,)):
            nodes.setdefault(number, []).append(node)
        self._hosts = {number: Host(number, mine) for number, mine in nodes.items()}
        self._only = next(iter(self._hosts.values())) if len(self._hosts) == 1 else None
        self._host_of = [self._hosts[number] for number in hosts]
        """The host of each node."""
        self._host: dict[RunnerId, Host] = {}
        self._load: dict[RunnerId, int] = {}
        """How many tasks each spawner holds, but for those that get nothing more."""
        self._lanes: dict[RunnerId, dict[LaneId, None]] = {}
        self._idle_until: dict[RunnerId, float] = {}
        """When idle workers are to go; in this order, as all are kept equally long."""
        self._binding: dict[RunnerId, str] = {}
        """Of function workers: their node and GPUs, if they have some."""
        self._shunned: set[RunnerId] = set()
        """Function workers that are to end."""
        self._inherited: set[RunnerId] = set()
        """Runners that had not come up when an earlier agent was lost."""
        self._short = dict.fromkeys(self._hosts)
        """Hosts that miss spawners."""
        self._resting: dict[int, None] = {}
        self.changed: dict[int, None] = dict.fromkeys(self._hosts) if self._only is None else {}
        """Of several hosts, those that may be up, or no longer, since ``take_changes`` was asked last."""

    # ------------------------------------------------------------------------------------------------------------ of hosts

    @property
    def ready(self) -> bool:
        """Whether there is a spawner to give lanes to."""
        return bool(self._only.spawners) if self._only is not None else any(host.is_up for host in self._hosts.values())

    @property
    def has_several_hosts(self) -> bool:
        """Whether there is more than one."""
        return self._only is None

    @property
    def awaits_hosts(self) -> bool:
        """Whether one of several hosts is not up."""
        return self._only is None and any(host.nodes and not host.is_up for host in self._hosts.values())

    def take_changes(self) -> tuple[list[int], list[int]]:
        """Return, of the hosts that changed, the nodes on which nothing can be started now, and those on which it can."""
        down: list[int] = []
        up: list[int] = []
        for number in self.changed:
            host = self._hosts[number]
            (up if host.is_up else down).extend(host.nodes)
        self.changed.clear()
        return down, up

    def serve(self, nodes: Iterable[int]) -> list[RunnerId]:
        """Of several hosts' nodes these are in use from now on. Return runners to be stopped, on hosts of which none is."""
        if self._only is not None:
            return []
        mine: dict[int, list[int]] = {}
        for node in nodes:
            mine.setdefault(self._host_of[node].number, []).append(node)
        left = set()
        for number, host in self._hosts.items():
            if host.nodes != mine.get(number, []):
                host.nodes = mine.get(number, [])
                self._note(host)
                if not host.nodes:
                    left.add(number)
        gone = (
            [runner for runner, host in self._host.items() if host.number in left and not self._lanes[runner]] if left else []
        )
        for runner in gone:
            self.remove(runner)
        return gone

    def nodes_beside(self, runner: RunnerId) -> list[int]:
        """Return the nodes in use of the runner's host."""
        return list(self._host[runner].nodes)

    def rest(self, runner: RunnerId, now: float) -> bool:
        """Give the host of this worker nothing for a while, if workers come up on others; tell whether they do."""
        host = self._host[runner]
        if not any(other.workers_came_up for other in self._hosts.values() if other is not host):
            return False
        host.rests_until = now + RESPAWN_MOST_S
        self._resting[host.number] = None
        self.changed[host.number] = None
        return True

    def wake(self, now: float) -> None:
        """Use hosts again that have rested."""
        for number in [number for number in self._resting if self._hosts[number].rests_until <= now]:
            del self._resting[number]
            self._hosts[number].rests_until = -math.inf
            self.changed[number] = None

    def next_wake(self) -> float | None:
        """Return when the next host has rested."""
        return min((self._hosts[number].rests_until for number in self._resting), default=None)

    def _at(self, node: int) -> Host:
        return self._only if self._only is not None else self._host_of[node]

    def _note(self, host: Host) -> None:
        """The host has other spawners, or nodes, than before."""
        if host.nodes and len(host.spawners) + len(host.coming) < self._wanted:
            self._short[host.number] = None
        else:
            self._short.pop(host.number, None)
        if self._only is None:
            self.changed[host.number] = None

    # ------------------------------------------------------------------------------------------------------- runners come up

    def rebuild(self, state: AgentState, now: float) -> None:
        """Take over what the recovered state says."""
        for runner, record in state.runners.items():
            host = self._at(record.node)
            if not record.pid:
                self._inherited.add(runner)
            if record.beside is None:
                self._add_spawner(runner, host)
            else:
                self._add_worker(runner, host, record.gpus)
        for lane_id, lane in state.lanes.items():
            self._lanes[lane.runner][lane_id] = None
            self.burden(lane.runner, len(lane.tasks))
        for runner in self._binding:
            if not self._lanes[runner]:
                self._rest(runner, now)

    def _add_spawner(self, runner: RunnerId, host: Host) -> None:
        self._host[runner] = host
        self._lanes[runner] = {}
        self._load[runner] = 0
        (host.spawners if self._only is not None else host.coming)[runner] = None
        self._note(host)

    def _add_worker(self, runner: RunnerId, host: Host, binding: str) -> None:
        self._host[runner] = host
        self._lanes[runner] = {}
        self._binding[runner] = binding

    def missing_spawners(self, state: AgentState, now: float) -> list[tuple[facts.RunnerAdded, actions.StartRunner]]:
        """Return what to record and do so that there are as many spawners as wanted."""
        started: list[tuple[facts.RunnerAdded, actions.StartRunner]] = []
        for host in [self._hosts[number] for number in self._short]:
            if now < host.next_start:
                continue
            host.last_start = now
            for _ in range(self._wanted - len(host.spawners) - len(host.coming)):
                runner = RunnerId(f"spawner.{state.runners_added + len(started)}")
                self._add_spawner(runner, host)
                added = facts.RunnerAdded(now, runner, None, host.first_node)
                started.append((added, actions.StartRunner(runner, None, {}, host.number)))
        return started

    def next_start(self) -> float | None:
        """Return when missing spawners may be started; None if none is missing."""
        return min((self._hosts[number].next_start for number in self._short), default=None) if self._short else None

    def note_success(self, runner: RunnerId) -> None:
        """The runner came up, or was found again."""
        host = self._host[runner]
        if runner in self._binding:
            host.worker_failures, host.workers_came_up = 0, True
            host.untried.discard(runner)
            return
        host.spawner_failures = 0
        if runner in host.coming:
            del host.coming[runner]
            host.spawners[runner] = None
            self._note(host)

    def note_failure(self, runner: RunnerId) -> int:
        """The runner never came up; return how many of its kind in a row did not on its host, or 0 if it was no fault of it.

        Workers that were coming up at the same time count as one: what they were lost with, their host or their spawner, may be
        told later than they are. Runners that had not come up when an earlier agent was lost do not count.
        """
        host = self._host[runner]
        if runner in self._inherited:
            return 0
        if runner in self._binding:
            if runner in host.untried:
                host.untried.clear()
                host.worker_failures += 1
            return host.worker_failures
        host.spawner_failures += 1
        return host.spawner_failures

    def is_alone(self, state: AgentState, runner: RunnerId) -> bool:
        """Tell whether its host has no other spawner that came up."""
        host = self._host[runner]
        others = [name for name in (*host.spawners, *host.coming) if name != runner and name in state.runners]
        return not any(state.runners[name].pid for name in others)

    # ------------------------------------------------------------------------------------------------------ runners for lanes

    def give_to_spawner(self, lane: LaneId, placement: Placement) -> RunnerId:
        """Give the lane to a spawner of the host of its first node, and return that."""
        spawners = (self._only or self._host_of[placement[0].node]).spawners
        runner = next(iter(spawners)) if len(spawners) == 1 else self._least(spawners)
        self._lanes[runner][lane] = None
        return runner

    def _least(self, spawners: Iterable[RunnerId]) -> RunnerId:
        """Return the one with the least to do. Lanes count too: those opened in this step hold no tasks yet."""
        return min(spawners, key=lambda runner: self._load[runner] + len(self._lanes[runner]))

    def worker(
        self, state: AgentState, placement: Placement, now: float
    ) -> tuple[RunnerId, tuple[facts.RunnerAdded, actions.StartRunner] | None]:
        """Return a function worker for this placement, and what to record and do when it is a new one."""
        share = placement[0]
        host = self._only or self._host_of[share.node]
        visible = ",".join([str(index) for index, _ in share.gpus]) if share.gpus else ""
        binding = f"{share.node}:{visible}" if visible else ""
        idle = host.idle.get(binding)
        if idle:
            runner, _ = idle.popitem()
            del self._idle_until[runner]
            return runner, None
        runner = RunnerId(f"worker.{state.runners_added}")
        beside = self._least(host.spawners)
        environment = {"CUDA_VISIBLE_DEVICES": visible, "ROCR_VISIBLE_DEVICES": visible} if visible else {}
        self._add_worker(runner, host, binding)
        host.untried.add(runner)
        return runner, (
            facts.RunnerAdded(now, runner, beside, share.node, binding),
            actions.StartRunner(runner, beside, environment, host.number),
        )

    def attach(self, runner: RunnerId, lane: LaneId) -> None:
        """The runner has this lane now."""
        self._lanes[runner][lane] = None

    def detach(self, runner: RunnerId, lane: LaneId, now: float) -> None:
        """The lane is closed."""
        lanes = self._lanes.get(runner)
        if lanes is None:
            return
        lanes.pop(lane, None)
        if not lanes and runner in self._binding and runner not in self._shunned:
            self._rest(runner, now)

    def _rest(self, runner: RunnerId, now: float) -> None:
        self._host[runner].idle.setdefault(self._binding[runner], {})[runner] = None
        self._idle_until[runner] = now + KEEP_IDLE_S

    def burden(self, runner: RunnerId, tasks: int) -> None:
        """So many tasks were handed to the runner."""
        if runner in self._load:
            self._load[runner] += tasks

    def relieve(self, runner: RunnerId, tasks: int) -> None:
        """So many tasks of the runner are over."""
        if runner in self._load:
            self._load[runner] -= tasks

    def lanes_of(self, runner: RunnerId) -> list[LaneId]:
        """Return the lanes that the runner has."""
        return list(self._lanes.get(runner, ()))

    # ---------------------------------------------------------------------------------------------------------- runners go

    def shun(self, runner: RunnerId) -> None:
        """Give this runner nothing more; for a spawner another is started in its place."""
        if self._load.pop(runner, None) is not None:
            host = self._host[runner]
            host.spawners.pop(runner, None)
            host.coming.pop(runner, None)
            self._note(host)
        elif runner in self._binding:
            self._shunned.add(runner)
            self._wake_up(runner)

    def _wake_up(self, worker: RunnerId) -> None:
        """The worker is not one of the idle ones."""
        self._idle_until.pop(worker, None)
        host, binding = self._host[worker], self._binding[worker]
        idle = host.idle.get(binding, {})
        idle.pop(worker, None)
        if not idle:
            host.idle.pop(binding, None)

    def remove(self, runner: RunnerId) -> None:
        """The runner is gone; its lanes no longer count."""
        self.shun(runner)
        self._shunned.discard(runner)
        self._inherited.discard(runner)
        self._lanes.pop(runner, None)
        self._binding.pop(runner, None)
        host = self._host.pop(runner, None)
        if host is not None:
            host.untried.discard(runner)

    def next_retirement(self) -> float | None:
        """Return when the next idle worker is to go."""
        return next(iter(self._idle_until.values()), None)

    def retire(self, now: float) -> list[RunnerId]:
        """Let go of workers that were idle for long, and return them."""
        gone = []
        for runner, until in self._idle_until.items():
            if until > now:
                break
            gone.append(runner)
        for runner in gone:
            self.remove(runner)
        return gone
