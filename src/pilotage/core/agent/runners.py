"""Which runner takes a lane: the spawners by load, and function workers that are kept while they are of use.

All of it is derived from the agent's state. A function worker holds one lane at a time; without one it is kept for
``KEEP_IDLE_S``, as the next function will want it, and its GPUs stay those with which it was started.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pilotage.core.agent import actions, facts
from pilotage.core.agent.state import AgentState
from pilotage.model.ids import LaneId, RunnerId
from pilotage.model.resources import Placement

KEEP_IDLE_S = 60.0
"""A function worker without work is kept this long."""

RESPAWN_S = 0.5
"""At least this long between the starts of spawners, so that one that dies at once does not eat the machine."""

RESPAWN_MOST_S = 30.0
"""The longest pause while spawners do not come up, and others are there."""

SPAWNER_FAILURES = 5
"""When none is left, and so many spawners in a row never came up, the nodes that they served are lost, and the pilot ends."""

WORKER_FAILURES = 5
"""After so many function workers in a row that never came up, what the next was to run fails to launch."""


class RunnerPool:
    """Chooses runners for lanes."""

    def __init__(self, spawners: int, hosts: Sequence[int] = ()) -> None:
        self._wanted = spawners
        self._first_node: dict[int, int] = {}
        """Of each host; there are as many spawners as wanted on each."""
        for node, host in enumerate(hosts or (0,)):
            self._first_node.setdefault(host, node)
        self._host_of = tuple(hosts) if len(self._first_node) > 1 else ()
        """The host of each node; empty if there is one alone."""
        self._host: dict[RunnerId, int] = {}
        """Of each spawner."""
        self._spawners: dict[RunnerId, int] = {}
        self._lanes: dict[RunnerId, dict[LaneId, None]] = {}
        self._idle: dict[str, dict[RunnerId, None]] = {}
        self._idle_until: dict[RunnerId, float] = {}
        """When idle workers are to go; in this order, as all are kept equally long."""
        self._binding: dict[RunnerId, str] = {}
        self._last_start = -RESPAWN_MOST_S
        self._failures = {"spawner": 0, "worker": 0}
        """Runners in a row that were lost before they came up."""

    @property
    def ready(self) -> bool:
        """Whether there is a spawner to give lanes to."""
        return bool(self._spawners)

    def rebuild(self, state: AgentState, now: float) -> None:
        """Take over what the recovered state says."""
        for runner, record in state.runners.items():
            self._lanes[runner] = {}
            if record.beside is None:
                self._spawners[runner] = 0
                self._host[runner] = self._host_of[record.node] if self._host_of else 0
            else:
                self._binding[runner] = record.gpus
        for lane_id, lane in state.lanes.items():
            self._lanes[lane.runner][lane_id] = None
            self.burden(lane.runner, len(lane.tasks))
        for runner in self._binding:
            if not self._lanes[runner]:
                self._rest(runner, now)

    def missing_spawners(self, state: AgentState, now: float) -> list[tuple[facts.RunnerAdded, actions.StartRunner]]:
        """Return what to record and do so that there are as many spawners as wanted."""
        if len(self._spawners) >= self._wanted * len(self._first_node) or now < self._last_start + self._pause_s:
            return []
        self._last_start = now
        started: list[tuple[facts.RunnerAdded, actions.StartRunner]] = []
        there = Counter(self._host[runner] for runner in self._spawners)
        for host, node in self._first_node.items():
            for _ in range(self._wanted - there[host]):
                runner = RunnerId(f"spawner.{state.runners_added + len(started)}")
                self._spawners[runner] = 0
                self._host[runner] = host
                self._lanes[runner] = {}
                started.append((facts.RunnerAdded(now, runner, None, node), actions.StartRunner(runner, None, {}, host)))
        return started

    def give_to_spawner(self, lane: LaneId, placement: Placement) -> RunnerId:
        """Give the lane to a spawner of the host of its first node, and return that."""
        runner = next(iter(self._spawners)) if len(self._spawners) == 1 else self.spawner(placement)
        self._lanes[runner][lane] = None
        return runner

    def spawner(self, placement: Placement) -> RunnerId:
        """Return the spawner of the host of its first node with the least to do.

        Lanes count too: those opened in this step hold no tasks yet.
        """
        there = list(self._spawners)
        if self._host_of:
            there = [runner for runner in there if self._host[runner] == self._host_of[placement[0].node]] or there
        return min(there, key=lambda runner: self._spawners[runner] + len(self._lanes[runner]))

    def worker(
        self, state: AgentState, placement: Placement, now: float
    ) -> tuple[RunnerId, tuple[facts.RunnerAdded, actions.StartRunner] | None]:
        """Return a function worker for this placement, and what to record and do when it is a new one."""
        share = placement[0]
        visible = ",".join(str(index) for index, _ in share.gpus)
        binding = f"{share.node}:{visible}" if visible else ""
        idle = self._idle.get(binding)
        if idle:
            runner, _ = idle.popitem()
            del self._idle_until[runner]
            return runner, None
        runner = RunnerId(f"worker.{state.runners_added}")
        beside = self.spawner(placement)
        environment = {"CUDA_VISIBLE_DEVICES": visible, "ROCR_VISIBLE_DEVICES": visible} if visible else {}
        self._lanes[runner] = {}
        self._binding[runner] = binding
        return runner, (
            facts.RunnerAdded(now, runner, beside, share.node, binding),
            actions.StartRunner(runner, beside, environment, self._host_of[share.node] if self._host_of else 0),
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
        if not lanes and runner in self._binding:
            self._rest(runner, now)

    def _rest(self, runner: RunnerId, now: float) -> None:
        self._idle.setdefault(self._binding[runner], {})[runner] = None
        self._idle_until[runner] = now + KEEP_IDLE_S

    def burden(self, runner: RunnerId, tasks: int) -> None:
        """So many tasks were handed to the runner."""
        if runner in self._spawners:
            self._spawners[runner] += tasks

    def relieve(self, runner: RunnerId, tasks: int) -> None:
        """So many tasks of the runner are over."""
        if runner in self._spawners:
            self._spawners[runner] -= tasks

    def note_failure(self, runner: RunnerId) -> int:
        """The runner never came up; return how many of its kind in a row did not."""
        kind = self._kind(runner)
        self._failures[kind] += 1
        return self._failures[kind]

    def note_success(self, runner: RunnerId) -> None:
        """The runner came up."""
        self._failures[self._kind(runner)] = 0

    def _kind(self, runner: RunnerId) -> str:
        return "worker" if runner in self._binding else "spawner"

    def shun(self, runner: RunnerId) -> None:
        """Give this spawner, if it is one, nothing more; another is started in its place."""
        self._spawners.pop(runner, None)

    def lanes_of(self, runner: RunnerId) -> list[LaneId]:
        """Return the lanes that the runner has."""
        return list(self._lanes.get(runner, ()))

    def remove(self, runner: RunnerId) -> None:
        """The runner is gone; its lanes no longer count."""
        self._lanes.pop(runner, None)
        self._spawners.pop(runner, None)
        binding = self._binding.pop(runner, None)
        if binding is not None:
            self._idle_until.pop(runner, None)
            idle = self._idle.get(binding, {})
            idle.pop(runner, None)
            if not idle:
                self._idle.pop(binding, None)

    def next_retirement(self) -> float | None:
        """Return when the next idle worker is to go."""
        return next(iter(self._idle_until.values()), None)

    def next_start(self) -> float | None:
        """Return when missing spawners may be started; None if none is missing."""
        return self._last_start + self._pause_s if len(self._spawners) < self._wanted * len(self._first_node) else None

    @property
    def _pause_s(self) -> float:
        in_vain = self._failures["spawner"] - SPAWNER_FAILURES
        return min(RESPAWN_MOST_S, RESPAWN_S * 2.0 ** min(in_vain, 16)) if in_vain > 0 else RESPAWN_S

    def has_spawner(self, state: AgentState) -> bool:
        """Tell whether one is there that came up."""
        return any((record := state.runners.get(runner)) is not None and record.pid for runner in self._spawners)

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
