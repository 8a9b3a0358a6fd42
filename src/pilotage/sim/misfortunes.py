"""What goes wrong in a simulation, beside the links: agents die, nodes and whole pilots are lost, by plan or by chance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from pilotage.errors import nearest
from pilotage.model.ids import PilotUid
from pilotage.model.partitions import PartitionSpec
from pilotage.sim.metaschedulers import SimulatedMetascheduler
from pilotage.sim.stage import Stage

if TYPE_CHECKING:
    from pilotage.sim.world import World

LOSS_SEEN_S = 1.0
"""It takes so long until it is certain that nothing of a lost pilot runs any more."""
ADOPTION_S = 60.0
"""Runners that have no agent for longer end their tasks, which is not simulated."""
_DAY_S = 86_400.0


class Misfortunes:
    """Lines up what the faults say."""

    def __init__(self, stage: Stage, world: World, plan: Sequence[PartitionSpec]) -> None:
        faults = stage.faults
        if not 0.0 <= faults.restart_s < ADOPTION_S:
            raise ValueError(f"restart_s={faults.restart_s:g}: an agent is started again within {ADOPTION_S:g} s")
        if not 0.0 <= faults.message_loss <= 0.5:
            raise ValueError(f"message_loss={faults.message_loss:g}: a share of messages, from 0 to 0.5")
        self._stage = stage
        self._world = world
        self._chance = stage.chance("losses of nodes")
        self._nodes = [(pilot, node.index) for pilot in world.pilots.values() for node in pilot.nodes]
        self._names = [*world.pilots, *(spec.name for spec in plan)]
        timeline = stage.timeline
        for at, name in faults.kill_agents_at_s:
            self._check_name(name)
            timeline.at(at, partial(self._kill, name))
        for at, name in faults.lose_partitions_at_s:
            self._check_name(name)
            timeline.at(at, partial(self._lose, name))
        for at, index in faults.lose_nodes_at_s:
            if not 0 <= index < len(self._nodes):
                raise ValueError(f"node {index} is to be lost, of {len(self._nodes)} whose indices count from 0")
            timeline.at(at, partial(self._lose_node, index))
        if faults.node_losses_per_day > 0.0:
            self._line_up_loss()

    def _line_up_loss(self) -> None:
        pause = self._chance.expovariate(self._stage.faults.node_losses_per_day / _DAY_S)
        self._stage.timeline.at(self._stage.timeline.now + pause, self._lose_any_node)

    def _lose_any_node(self) -> None:
        if not self._world.over:
            self._lose_node(self._chance.randrange(len(self._nodes)))
            self._line_up_loss()

    def _check_name(self, name: str) -> None:
        if name not in self._names:
            known = ", ".join(self._names)
            raise ValueError(f"there is no pilot or partition {name!r}; there are {known}{nearest(name, self._names)}")

    def _lose_node(self, index: int) -> None:
        pilot, own = self._nodes[index]
        if not pilot.gone and own not in pilot.lost_at:
            pilot.lose_node(own)

    def _kill(self, name: str) -> None:
        process = self._world.processes().get(name)
        if process is not None:
            process.kill()

    def _lose(self, name: str) -> None:
        timeline, world = self._stage.timeline, self._world
        pilot = world.pilots.get(PilotUid(name))
        if pilot is not None and not pilot.gone and not world.client.is_over(pilot.uid):
            pilot.lose()
            pilot.lose_all_nodes()
            timeline.at(timeline.now + LOSS_SEEN_S, lambda: world.client.pilot_lost(pilot, "its nodes are gone"))
        for divided in world.pilots.values():
            if isinstance(divided, SimulatedMetascheduler) and name in divided.partitions and not divided.partitions[name].gone:
                divided.lose_partition(name)
                self._tell_loss(divided, name)

    def _tell_loss(self, divided: SimulatedMetascheduler, name: str) -> None:
        def tell() -> None:
            if not divided.partition_lost(name):
                self._tell_loss(divided, name)

        self._stage.timeline.at(self._stage.timeline.now + LOSS_SEEN_S, tell)
