"""What all processes of a simulation share: time, chance, the witness, the books of what is measured."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import msgspec

from pilotage.model.ids import TaskUid
from pilotage.sim.clock import ProcessClock, Timeline
from pilotage.sim.model import Faults
from pilotage.sim.records import Digest
from pilotage.sim.result import Curves
from pilotage.sim.witness import Witness

EPOCH_S = 2.0**20
"""What clocks show at the begin. A time of 0.0 would say that something has not happened."""


class Effort(msgspec.Struct):
    """How often cores were asked to decide, and how much of the time that passed meanwhile, outside, they took for it."""

    steps: int = 0
    decided_s: float = 0.0

    def begin(self) -> float:
        """A core is about to decide; hand what is returned to ``end``."""
        self.steps += 1
        # The CPU's own clock would cost more than many a decision.
        return time.perf_counter()

    def end(self, began: float) -> None:
        """It has decided."""
        self.decided_s += time.perf_counter() - began


class Stage:
    """Where a simulation plays."""

    def __init__(self, faults: Faults, seed: int, duration_s: Callable[[TaskUid], float], note_history: bool) -> None:
        self.timeline = Timeline()
        self.witness = Witness()
        self.curves = Curves()
        self.effort = Effort()
        self.digest = Digest(note_history)
        self.faults = faults
        self.duration_s = duration_s
        self.last_release_s = 0.0
        """When resources were released last."""
        self._seed = seed

    def chance(self, purpose: str) -> random.Random:
        """Return a stream of chance of its own, so that nothing that is drawn elsewhere changes it."""
        return random.Random(f"{self._seed}:{self.faults.seed}:{purpose}")

    def clock(self, chance: random.Random) -> ProcessClock:
        """Return the clock of a new process."""
        skew = self.faults.clock_skew_s
        return ProcessClock(self.timeline, EPOCH_S + (chance.uniform(-skew, skew) if skew else 0.0))
