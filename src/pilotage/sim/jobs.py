"""What a simulated runner knows of an attempt that it was handed, and the stages through which it goes."""

from __future__ import annotations

from collections import deque

import msgspec

from pilotage.model.execution import Execution
from pilotage.model.ids import Attempt, LaneId, RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import GPU_SHARES, Placement
from pilotage.model.workload import Template
from pilotage.sim.model import TaskKind

SCHEDULING, WAITING, STARTING, PREPARING, RUNNING, ACKNOWLEDGING, TELLING, OVER = range(8)

NEVER = float("inf")


class Kind(msgspec.Struct, frozen=True, gc=False):
    """What all tasks of a template are and take, and whether their agent wants to hear when one begins."""

    name: TaskKind
    cores: int
    gpus: float
    is_service: bool
    starts_are_told: bool
    exclusive: bool

    @classmethod
    def of(cls, template: Template) -> Kind:
        """Return that of a template."""
        request = template.request
        is_service = template.service is not None
        return cls(
            "mpi" if request.ranks > 1 else template.mode,
            request.ranks * request.cores,
            request.ranks * request.gpu_shares / GPU_SHARES,
            is_service,
            is_service or template.timeout_s > 0.0,
            request.exclusive,
        )


class Job(msgspec.Struct, gc=False):
    """An attempt in a lane; times are true times, NEVER where they are not known.

    ``due``: when its next stage begins; what was lined up for another time no longer counts.
    """

    runner: RunnerId
    lane: LaneId
    uid: TaskUid
    attempt: Attempt
    kind: Kind
    placement: Placement
    cores: int
    gpus: float
    placed: float
    stage: int = WAITING
    has_turn: bool = False
    """Whether the launcher is busy with it: from its start to its acknowledgement."""
    due: float = NEVER
    scheduled: float = NEVER
    launched: float = NEVER
    begun: float = NEVER
    ended: float = NEVER
    gone: float = NEVER
    """When its resources were lost with a node, from when on nobody holds them."""
    ending: Ending = Ending.DONE
    message: str = ""
    behind: deque[tuple[Execution, Kind]] | None = None
    """Executions that use the lane after it."""

    @property
    def execution(self) -> Execution:
        """Its name."""
        return self.uid, self.attempt


def held(kind: Kind, placement: Placement) -> tuple[int, float]:
    """Return the cores and GPUs that a task holds; one that has its nodes to itself holds more than it asks for."""
    if not kind.exclusive:
        return kind.cores, kind.gpus
    cores = sum(int.from_bytes(share.cores, "little").bit_count() for share in placement)
    return cores, sum(parts for share in placement for _, parts in share.gpus) / GPU_SHARES
