"""What goes wrong in a simulation, beside the links: agents die, nodes and whole pilots are lost, by plan or by chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pilotage.errors import nearest
from pilotage.model.ids import PilotUid
from pilotage.sim.pilots import SimulatedPilot
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

    def __init__(self, stage: Stage, world: World) -> None:
        faults = stage.faults
        if not 0.0 <= faults.restart_s < ADOPTION_S:
            raise ValueError(f"restart_s={faults.restart_s:g}: an agent is started again within {ADOPTION_S:g} s")
        if not 0.0 <= faults.message_loss <= 0.5:
            raise ValueError(f"message_loss={faults.message_loss:g}: a share of messages, from 0 to 0.5")
        self._stage = stage
        self._world = world
        self._chance = stage.chance("losses of nodes")
        self._nodes = [(pilot, node.index) for pilot in world.pilots.values() for node in pilot.nodes]
        timeline = stage.timeline
        for at, name in faults.kill_agents_at_s:
            timeline.at(at, _named(world.pilots, name).kill)
        for at, name in faults.lose_partitions_at_s:
            pilot = _named(world.pilots, name)
            timeline.at(at, lambda pilot=pilot: self._lose(pilot))  # type: ignore[misc]
        for at, index in faults.lose_nodes_at_s:
            if not 0 <= index < len(self._nodes):
                raise ValueError(f"node {index} is to be lost, of {len(self._nodes)} whose indices count from 0")
            timeline.at(at, lambda index=index: self._lose_node(index))  # type: ignore[misc]
        if faults.node_losses_per_day > 0.0:
            self._line_up_loss()

    def _line_up_loss(self) -> None:
        pause = self._chance.expovariate(self._stage.faults.node_losses_per_day / _DAY_S)
        self._stage.timeline.at(self._stage.timeline.now + pause, self._lose_any_node)

    def _lose_any_node(self) -> None:
        if not self._world.over:
            self._lose_node(self._chance.randrange(len(self._nodes)))
            self._line_up_loss()

    def _lose_node(self, index: int) -> None:
        pilot, own = self._nodes[index]
        pilot.lose_node(own)

    def _lose(self, pilot: SimulatedPilot) -> None:
        if pilot.gone or self._world.client.is_over(pilot.uid):
            return
        pilot.lose()
        timeline = self._stage.timeline
        timeline.at(timeline.now + LOSS_SEEN_S, lambda: self._world.client.pilot_lost(pilot, "its nodes are gone"))


def _named(pilots: Mapping[PilotUid, SimulatedPilot], name: str) -> SimulatedPilot:
    pilot = pilots.get(PilotUid(name))
    if pilot is None:
        raise ValueError(f"there is no pilot or partition {name!r}; there are {', '.join(pilots)}{nearest(name, pilots)}")
    return pilot
