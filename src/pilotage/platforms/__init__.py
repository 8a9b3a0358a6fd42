"""Machines on which pilots can run: described in TOML, shipped ones merged with the user's own."""

from __future__ import annotations

from pilotage.platforms.nodes import PilotNodes, nodes_of
from pilotage.platforms.platform import Platform
from pilotage.platforms.registry import load_platforms, platform

__all__ = ["PilotNodes", "Platform", "load_platforms", "nodes_of", "platform"]
