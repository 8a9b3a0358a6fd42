"""What an agent has to know, written by the client into the pilot's folder before the pilot starts.

The pilot's folder (mode 0700) holds ``pilot.json`` (this), ``connection.json`` (where the agent listens, written by the agent
when it is ready), ``log/``, ``tasks/`` with the default sandboxes, ``env/`` with named environments that were built here and
what all of them amount to, ``bin/`` with commands for tasks, and what each process printed: ``bootstrap.err``,
``agent.err``, ``spawner.0.err``, ``worker.0.out`` and so on.

The agent of a pilot with partitions is their *head*: it runs no tasks itself. Each partition has an agent of its own, a
*sub-agent*, for which the head writes such settings, too. What is a sub-agent's own (``pilot.json``, ``connection.json``,
``log/``, what it and its runners printed) lies in ``partitions/<name>/`` of the pilot's folder; the rest is the pilot's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from pilotage.model.ids import PilotUid, SessionUid
from pilotage.model.node_rules import NodeRules
from pilotage.model.partitions import PartitionSpec, PolicySpec
from pilotage.model.resources import Node, NodeShape

SETTINGS_FILE = "pilot.json"
CONNECTION_FILE = "connection.json"
LOG_FOLDER = "log"
PARTITIONS_FOLDER = "partitions"


class PilotSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one pilot. Paths are absolute."""

    session: SessionUid
    pilot: PilotUid
    session_folder: str
    pilot_folder: str
    blob_folder: str
    nodes: list[Node]
    """Empty for a pilot of a batch system: its agent finds them when it is in its allocation."""
    bind: bool = True
    """Whether the nodes' cores are this machine's, so that tasks are pinned to them."""
    executor: Literal["local", "simulated", "cluster"] = "local"
    batch: str = "local"
    """The batch system that the pilot is a job of, by its name in ``batch.registry``."""
    launch_methods: list[str] = []
    """How tasks of several ranks, and the hosts of nodes, are launched: names of methods, the preferred first; empty: found."""
    launcher_paths: dict[str, str] = {}
    """By launch method: the program, where it is not the one found."""
    launcher_options: dict[str, dict[str, str]] = {}
    """By launch method: its own options, see ``Installed.options``."""
    node_rules: NodeRules = NodeRules()
    """What tasks get of each node of the allocation."""
    agent_nodes: int = 0
    """How many nodes of the allocation are kept for the agent, from the first."""
    nodes_here: list[int] | None = None
    """The indices of those nodes that are the agent's own machine; None: all are."""
    emulated: NodeShape | None = None
    """What each node of the allocation has where they are virtual, whatever is found there: tasks are not bound then."""
    hosts_timeout_s: float = 120.0
    """Of a pilot on several nodes: for how long its agent waits for the hosts of all of them before it goes on without some."""
    end_margin_s: float = 10.0
    """By how much a pilot ends itself before its job's time is over."""
    simulated_duration_s: float = 0.0
    transport: Literal["ipc", "tcp"] = "ipc"
    client_keys: list[str] = []
    """CURVE public keys (Z85) that may connect as the client over tcp."""
    observer_keys: list[str] = []
    """CURVE public keys (Z85) that may connect as observers over tcp."""
    client_epoch: int = 1
    environment: dict[str, str] = {}
    """The user's environment, which tasks start from."""
    python_path: list[str] = []
    """``sys.path`` of the user's program."""
    working_folder: str = "/"
    on_client_loss: Literal["continue", "drain", "terminate"] = "terminate"
    client_loss_timeout_s: float = 300.0
    runtime_s: float = 0.0
    """Seconds after which the pilot ends itself; 0.0: no limit."""
    drain_s: float = 0.0
    """Seconds before the end of its time from which on no task begins any more."""
    checkpoint_signal: int = 0
    """The number of the signal that executables get then; 0: none."""
    followed: bool = False
    """Whether another pilot like this one is to follow when its time is over and tasks are left."""
    idle_timeout_s: float = 0.0
    """Seconds without anything to do after which the pilot ends itself; 0.0: no limit."""
    startup_barrier: int = 0
    """Tasks that have to arrive before any is started."""
    spawners: int = 2
    keep_history: bool = True
    """Tracing: keep every record of the log, not only those that recovery needs."""
    log: bool = True
    """False, for measuring what the log costs: nothing is written, and nothing survives."""
    partitions: list[PartitionSpec] = []
    """How the pilot's nodes are divided: then its agent is a head. Empty: it has no partitions."""
    sub_agents: Literal["processes", "threads"] = "processes"
    """Of a head: what the agents of its partitions run in."""
    partition: str = ""
    """Of a sub-agent: the partition."""
    present: list[int] | None = None
    """Of a sub-agent: the indices of the nodes with which the partition began."""
    scheduler: PolicySpec = PolicySpec()
    """Of a sub-agent: by which rule tasks are placed."""
    launch_share: int = 1
    """Of a sub-agent: how many partitions shared the launches that the pilot may have under way at once as this one began."""
    sync_delay_s: float = 0.0
    """Added to each sync of the log, for measuring what a slow disk does."""

    @property
    def across_machines(self) -> bool:
        """Whether client, agent and nodes may be on different machines, which talk to each other over TCP."""
        return self.batch != "local" or self.executor == "cluster"

    def is_here(self, node: int) -> bool:
        """Return whether a node is the machine that the agent runs on."""
        return self.nodes_here is None or node in self.nodes_here

    @property
    def agent_folder(self) -> Path:
        """Where this agent has what is its own: the pilot's folder, or that of the partition."""
        if self.partition:
            return partition_folder(Path(self.pilot_folder), self.partition)
        return Path(self.pilot_folder)


def partition_folder(pilot_folder: Path, partition: str) -> Path:
    """Return the folder of a partition's agent."""
    return pilot_folder / PARTITIONS_FOLDER / partition


def write_settings(settings: PilotSettings) -> None:
    """Write ``pilot.json`` into the agent's folder, readable by its owner alone."""
    path = settings.agent_folder / SETTINGS_FILE
    path.touch(mode=0o600)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(settings)))


def read_settings(agent_folder: Path) -> PilotSettings:
    """Read ``pilot.json`` of an agent's folder."""
    return msgspec.json.decode((agent_folder / SETTINGS_FILE).read_bytes(), type=PilotSettings)
