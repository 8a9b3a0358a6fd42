"""Jobs of batch systems: what is asked for (``JobSpec``), and what is told of them (``JobStatus``)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Literal

import msgspec

DependencyKind = Literal["after", "afterok", "afternotok", "afterany"]


class Dependency(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A job that another waits for: until it has begun (``after``), or ended, well, badly or in any way."""

    kind: DependencyKind
    job: str


class SignalBeforeEnd(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A signal that the first process of a job gets some time before its walltime is over. ``signal``: ``TERM``, ``USR1``,
    ..."""

    signal: str
    seconds: int


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A job to submit. Amounts are of each node; 0 and empty leave a choice to the batch system.

    ``folder``: where the command runs, an absolute path that all nodes see. ``constraints``: features of nodes, all of them
    wanted. ``begin_s``: not before this Unix time. ``extra_options``: whole options of the system (``--switches=1``), each
    put into the script as it is. ``environment``: ``clean``: nothing of the submitter's, what the system gives to everyone;
    ``all``: the submitter's. ``variables`` and ``setup`` (shell lines that run before the command) stand in the script, which
    others may be able to read: secrets belong into files that the user alone can read. ``output``, ``error``: paths; an empty
    ``error``: the same as the output. ``hold``: submitted, but not to start until somebody releases it. ``options``: of the
    system, by the names in ``SystemFacts.options``.
    """

    name: str
    folder: str
    command: tuple[str, ...]
    walltime_s: int
    nodes: int = 1
    cores_per_node: int = 0
    gpus_per_node: int = 0
    memory_mib_per_node: int = 0
    queue: str = ""
    project: str = ""
    qos: str = ""
    constraints: tuple[str, ...] = ()
    reservation: str = ""
    licenses: tuple[str, ...] = ()
    filesystems: tuple[str, ...] = ()
    exclusive: bool = False
    begin_s: float | None = None
    dependencies: tuple[Dependency, ...] = ()
    mail_to: str = ""
    extra_options: tuple[str, ...] = ()
    environment: Literal["clean", "all"] = "clean"
    variables: Mapping[str, str] = {}
    setup: tuple[str, ...] = ()
    output: str = ""
    error: str = ""
    signal_before_end: SignalBeforeEnd | None = None
    requeue: bool = False
    hold: bool = False
    options: Mapping[str, str] = {}


class JobState(str, Enum):
    """Where a job is. ``REQUEUED``: it has run, and waits again. ``UNKNOWN``: its batch system no longer lists it, or in words
    that are not known here; what became of it is to be learned elsewhere."""

    QUEUED = "queued"
    HELD = "held"
    REQUEUED = "requeued"
    RUNNING = "running"
    ENDING = "ending"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    PREEMPTED = "preempted"
    NODE_FAILED = "node_failed"
    OUT_OF_MEMORY = "out_of_memory"
    UNKNOWN = "unknown"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended, and how is known."""
        return self in _FINAL


_FINAL = frozenset(
    {
        JobState.DONE,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.TIMED_OUT,
        JobState.PREEMPTED,
        JobState.NODE_FAILED,
        JobState.OUT_OF_MEMORY,
    }
)


class JobStatus(msgspec.Struct, frozen=True, gc=False):
    """What a batch system tells of a job.

    ``reason``: why it waits, or how it ended, in the system's own words. ``exit_code``, ``signal``: of the script, once it
    has ended. ``nodes``: as the system writes them. ``first_node``: where the script was begun, if that is told; the job may
    have lost it since. ``restarts``: how often it was begun again; None where that is not told.
    Times are Unix times; ``start_estimate_s``: when the system expects a waiting job to start; ``end_s``: when a running job
    has to be over, or when it was.
    """

    state: JobState
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    nodes: str = ""
    start_estimate_s: float | None = None
    started_s: float | None = None
    end_s: float | None = None
    restarts: int | None = None
    first_node: str = ""


NOT_LISTED = JobStatus(JobState.UNKNOWN, "the batch system does not list it")
