"""What an allocation looks like from inside: nodes, cores, GPUs, memory, end, as each batch system tells its jobs."""

from __future__ import annotations

from pilotage.platforms.allocations.allocation import AllocatedNode, Allocation, set_agent_nodes_apart
from pilotage.platforms.allocations.registry import ALLOCATION_SYSTEMS, discover

__all__ = ["ALLOCATION_SYSTEMS", "AllocatedNode", "Allocation", "discover", "set_agent_nodes_apart"]
