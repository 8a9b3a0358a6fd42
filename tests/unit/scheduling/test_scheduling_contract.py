"""The policy `continuous` keeps the contract of all policies."""

from __future__ import annotations

from collections.abc import Sequence

from pilotage.core.scheduling import Policy, Scheduler
from pilotage.model.resources import Node
from pilotage.testing.contracts.policies import PolicyContract


class TestContinuous(PolicyContract):
    def make_policy(self, machine: Sequence[Node]) -> Policy:
        return Scheduler(machine)
