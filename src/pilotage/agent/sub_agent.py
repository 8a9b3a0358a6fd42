"""The agent of one partition, as its head knows it: what it runs in, and what becomes of a partition without one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import msgspec

from pilotage.agent.fencing import fence_partition
from pilotage.agent.partition_link import PartitionLink
from pilotage.agent.settings import PilotSettings
from pilotage.core.metascheduler.events import PartitionLost
from pilotage.core.metascheduler.state import PartitionRecord, QueuedGrant
from pilotage.errors import LogCorrupted, PilotageError

HEAD_LOSS_S = 60.0
"""An agent of a partition that has no head for so long ends its tasks and itself."""
OUTPUT_FILE = "agent.err"
_TAIL_CHARACTERS = 1000

_encode = msgspec.msgpack.Encoder().encode


class AgentEnd(NamedTuple):
    """How an agent ended, in words. ``is_taken``: it found another one there, or was not wanted any more.

    ``was_told``: somebody told it to end, or it had no head.
    """

    how: str
    is_taken: bool = False
    was_told: bool = False


class RunningAgent(Protocol):
    """What an agent runs in. Who has it closes ``ended_fd`` and ``ready_fd``."""

    ended_fd: int
    """Readable when the agent is gone."""
    ready_fd: int
    """Readable when the agent listens, or is gone; -1 if it listened before."""

    @property
    def outlives_head(self) -> bool:
        """Whether it is a process of its own, so that it can be killed alone and goes on without its head."""
        ...

    def terminate(self) -> None:
        """Tell it to end."""
        ...

    def kill(self) -> None:
        """Have it gone."""
        ...

    def reap(self) -> AgentEnd:
        """Return how it ended, when it is gone."""
        ...


class SubAgent:
    """The agent of one partition. ``running`` is None if there is none now."""

    def __init__(self, name: str, folder: Path, record: PartitionRecord, link: PartitionLink, now: float) -> None:
        self.name = name
        self.folder = folder
        self.record = record
        self.link = link
        self.running: RunningAgent | None = None
        self.look_at: float | None = None
        """When to look again for one that has claimed the partition."""
        self.heard_at = now
        self.must_end_since: float | None = None
        self.told_by_signal: float | None = None
        self.is_killed = False
        self.is_fencing = False
        self.is_over = False


def settings_of(settings: PilotSettings, name: str, record: PartitionRecord, partitions: int) -> PilotSettings:
    """Return what the agent of a partition has to know; ``settings`` are those of its head, that has so many ``partitions``."""
    granted = {
        node
        for queued in (*record.outbox, *record.unacknowledged.values())
        if isinstance(queued, QueuedGrant)
        for node in queued.nodes
    }
    return msgspec.structs.replace(
        settings,
        partitions=[],
        partition=name,
        present=[node for node in record.nodes if node not in granted],
        scheduler=record.spec.scheduler,
        executor=_executor_of(settings, record),
        launch_share=partitions,
        transport="ipc",
        client_keys=[],
        observer_keys=[],
        client_epoch=1,
        on_client_loss="terminate",
        client_loss_timeout_s=HEAD_LOSS_S,
        idle_timeout_s=0.0,
        startup_barrier=0,
        # There are others beside it.
        spawners=max(1, settings.spawners // len(settings.partitions)),
    )


def _executor_of(settings: PilotSettings, record: PartitionRecord) -> Literal["local", "simulated", "cluster"]:
    asked = record.spec.executor or settings.executor
    # Tasks of a job are run by hosts where others are run by the agent.
    return "cluster" if asked == "local" and settings.executor == "cluster" else asked


def aftermath_of(agent: SubAgent, reason: str) -> PartitionLost | None:
    """End what is left of a partition, and return what became of it; None while something of it cannot be ended.

    It takes as long as ending takes. The event has no time yet.
    """
    try:
        found = fence_partition(agent.folder, agent.record.received)
    except LogCorrupted as error:
        return PartitionLost(0.0, agent.name, f"{reason}; {error}")
    except FileNotFoundError:
        return PartitionLost(0.0, agent.name, reason)
    except (PilotageError, OSError) as error:
        sys.stderr.write(f"partition {agent.name} is not given up yet: {error}\n")
        return None
    except Exception as error:  # the partition's tasks must not wait for ever because of a mistake here
        return PartitionLost(0.0, agent.name, f"{reason}; its log could not be read: {type(error).__name__}: {error}")
    encoded = msgspec.Raw(_encode(found.outcomes))
    return PartitionLost(0.0, agent.name, reason, found.received, found.outcomes, encoded, [*found.not_begun], {**found.tries})


def printed_last(folder: Path) -> str:
    """Return the end of what a partition's agents printed."""
    try:
        return (folder / OUTPUT_FILE).read_text(errors="replace").strip()[-_TAIL_CHARACTERS:]
    except OSError:
        return ""
