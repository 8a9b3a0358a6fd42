"""How the nodes of a pilot are divided, and by which rule tasks are placed on them.

A pilot without a plan is one partition: it has all nodes, and takes every task. With a plan each partition has an executor, a
policy and a life of its own, and a metascheduler routes each task to one of those that can run it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

PolicyName = Literal["continuous", "torus", "tagged", "homogeneous", "packed", "spread"]
Order = Literal["first_come", "backfill", "priority"]
Kind = Literal["executable", "function", "service"]

LOST_NODES = 0
"""Stands for a request for nodes where a partition tells of nodes that are lost: nobody asked for them."""


class PolicySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scheduling policy by name, with what it has to know.

    ``order``: ``first_come`` lets nobody overtake; ``backfill`` lets later tasks start in gaps, and none starve;
    ``priority`` does the same, higher priorities first (priorities of tasks count in this order only).
    """

    policy: PolicyName = "continuous"
    order: Order = "priority"
    torus: tuple[int, ...] = ()
    """Nodes along each dimension, the last one varying fastest; the product is the number of nodes."""
    groups: dict[str, tuple[str, ...]] = {}
    """Names for sets of nodes, which tags may name like nodes: ``{"fat": ("node7", "node8")}``."""
    margin_s: float = 0.0
    """A task with a declared duration is not started if it would end later than this long before the pilot's end."""


class Load(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How busy a pilot or a partition is: tasks that wait there for resources, what they ask for, and what is free.

    GPUs in 64ths, memory in blocks of 64 MiB.
    """

    waiting: int = 0
    waiting_cores: int = 0
    idle_nodes: int = 0
    """Nodes of which nothing is in use."""
    free_cores: int = 0
    paused: bool = False
    """Whether nothing is placed for now, as the disk is full."""
    nodes: int = 0
    """Nodes that can be used."""
    free_gpu_shares: int = 0
    free_memory: int = 0
    waiting_gpu_shares: int = 0
    running: int = 0
    """Tasks that wait for nothing more: in the hands of runners, or over and their output being staged."""


class PartitionSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One partition of a plan, and which tasks it takes: those that fit all that is said here.

    ``nodes``: how many it begins with; 0: an equal share of what others leave. ``least_nodes`` and ``most_nodes`` bound what
    it may shrink to and grow to while the pilot runs (``most_nodes`` 0: it keeps its size).
    """

    name: str
    nodes: int = 0
    least_nodes: int = 0
    most_nodes: int = 0
    executor: Literal["local", "simulated"] | None = None
    """None: that of the pilot."""
    scheduler: PolicySpec = PolicySpec()
    kinds: tuple[Kind, ...] = ()
    """Kinds of tasks; empty: all."""
    tags: tuple[str, ...] = ()
    """Tasks that name one of these partition tags come here; a partition with tags takes no others."""
    most_task_nodes: int = 0
    """Tasks that need more nodes than this go elsewhere; 0: no limit."""
    longest_s: float = 0.0
    """Tasks whose declared duration is longer go elsewhere, as do those that declare none; 0.0: no limit."""
    idle_timeout_s: float = 0.0
    """When it has had no tasks for so long it ends, and its nodes are the others'; it comes again for tasks that need it.

    0.0: it stays.
    """


PartitionState = Literal["waiting", "starting", "active", "retiring", "dormant", "ended", "lost", "refused"]
"""How a partition is: *waiting* for nodes, *dormant* when it ended as it was idle and comes again if tasks need it."""


class PartitionStatus(msgspec.Struct, frozen=True):
    """How a partition of a pilot is now, as its head knows it."""

    name: str
    state: PartitionState
    nodes: int = 0
    """Nodes that it has."""
    running: int = 0
    """Tasks that run there, or have run and whose output is being staged."""
    waiting: int = 0
    """Tasks that were given to it and do not run yet."""
    reason: str = ""
    """Why it is so; empty where that needs no words."""
