"""What is known of a machine on which pilots run: the fields that files may give a platform, their limits and their checks.

Types and limits of single fields are said here, once, for the files and for whoever builds a ``Platform``; ``registry`` finds
the files and merges them.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping
from typing import Annotated, Literal, get_args

import msgspec

from pilotage.errors import InvalidRequest
from pilotage.model.node_rules import NodeRules
from pilotage.model.partitions import PartitionSpec

BatchName = Literal["local", "slurm", "pbspro", "torque", "lsf", "cobalt", "flux", "grid_engine", "loadleveler", "lgi"]
MethodName = Literal[
    "srun",
    "mpiexec",
    "mpirun",
    "ibrun",
    "jsrun",
    "prrte",
    "flux",
    "mpirun_mpt",
    "mpirun_rsh",
    "mpirun_dplace",
    "dplace",
    "ssh",
    "rsh",
    "fork",
    "aprun",
    "ccmrun",
    "mpirun_ccmrun",
    "runjob",
    "poe",
    "orte",
    "orte_lib",
]
Status = Literal["verified", "documented", "retired"]

BATCH_NAMES: tuple[str, ...] = get_args(BatchName)
METHOD_NAMES: tuple[str, ...] = get_args(MethodName)

_Amount = Annotated[int, msgspec.Meta(ge=0)]
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Span = Annotated[float, msgspec.Meta(ge=0)]
_Minutes = Annotated[float, msgspec.Meta(gt=0)]


class QueueLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What jobs of a queue or a quality of service may ask for, in minutes and nodes; None: nothing is known.

    ``note``: what else is to be known.
    """

    max_walltime_minutes: _Minutes | None = None
    max_nodes: _Count | None = None
    min_nodes: _Count = 1
    note: str = ""


class Platform(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine, or a part of one, on which pilots can run.

    ``name`` is ``site.machine``. What a node has is None where it is that of the machine the agent finds itself on. Of an
    ``emulated`` platform the nodes exist in name only: their tasks share this machine, and are bound to no cores.
    ``transport`` is how client and agent talk: ``ipc`` (a socket in a folder, same machine) or ``tcp``, which is what
    platforms with a batch system have. ``sandbox`` is where pilots have their folders, and may have variables in it
    (``$SCRATCH/pilots``); empty for the session's own. A pilot whose client is lost for ``client_loss_timeout_s`` does
    ``on_client_loss``, which is ``continue`` on platforms with a batch system unless their files say otherwise.
    """

    name: str
    description: str = ""
    batch: BatchName = "local"
    launch_methods: tuple[MethodName, ...] = ()
    """In order of preference; empty: those that are found on its nodes."""
    transport: Literal["ipc", "tcp"] = "ipc"
    emulated: bool = False
    cores_per_node: _Count | None = None
    """Cores that tasks get of a node: without those that ``node_rules`` reserve, threads counted as these say."""
    gpus_per_node: _Amount | None = None
    """GPUs as tasks ask for them: what counts as one is for ``node_rules`` to say."""
    memory_per_node_mib: _Amount | None = None
    disk_per_node_mib: _Amount | None = None
    sandbox: str = ""
    on_client_loss: Literal["continue", "drain", "terminate"] = "terminate"
    client_loss_timeout_s: _Span = 300.0
    partitions: tuple[PartitionSpec, ...] = ()
    """How pilots are divided whose description says nothing of it."""
    partitions_from: str = ""
    """The file that says so, with the line."""

    queue: str = ""
    """Of pilots that name none, as are ``project``, ``qos``, ``constraints``, ``filesystems`` and ``extra_options``."""
    project: str = ""
    qos: str = ""
    constraints: tuple[str, ...] = ()
    filesystems: tuple[str, ...] = ()
    extra_options: tuple[str, ...] = ()
    """Whole options of the batch system, each put into the job's script as it is; a pilot's own come behind them."""
    batch_options: dict[str, str] = {}
    """Options of the batch system that are its own, such as Grid Engine's parallel environment."""
    exclusive: bool = False
    """Whether pilots ask for whole nodes: where jobs else share them, and a pilot is to have all of each."""
    max_walltime_minutes: _Minutes | None = None
    """Of any job, whatever its queue; None: nothing is known."""
    max_nodes: _Count | None = None
    queues: dict[str, QueueLimits] = {}
    qos_limits: dict[str, QueueLimits] = {}
    """Of qualities of service, beside those of the queue."""

    launcher_options: dict[str, dict[str, str]] = {}
    launcher_paths: dict[str, str] = {}
    """Where a launcher is not found by its name."""
    node_rules: NodeRules = NodeRules()
    agent_nodes: _Amount = 0
    """Nodes of a pilot that are kept for its agent."""
    setup: tuple[str, ...] = ()
    """Shell lines of the job's script that run before the agent, such as those that load modules."""
    python: str = ""
    """Path of the Python that agents run under, on the machine's nodes; empty: the one that submits them."""

    status: Status | None = None
    """``verified``: pilots were seen to run there; ``documented``: from the site's documentation; ``retired``: no more in
    service."""
    status_date: datetime.date | None = None
    sources: dict[str, str] = {}
    """Where what is said of a field is from, by field."""
    note: str = ""


def sandbox_of(on: Platform, environment: Mapping[str, str] | None = None) -> str:
    """Return the path of the folder of a platform's pilots, its variables put in; empty if it is the session's own.

    ``environment`` is ``os.environ`` unless given.

    Raises:
        InvalidRequest: a variable in it is not set.
    """
    known = os.environ if environment is None else environment

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not known.get(name):
            raise InvalidRequest(
                f"platform {on.name}: sandbox={on.sandbox!r}: there is no variable {name} here; set it, or give the pilot a "
                "sandbox of its own"
            )
        return known[name]

    path = re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, on.sandbox)
    return os.path.expanduser(path)
