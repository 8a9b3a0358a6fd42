"""What a spawner or a function worker has to know, written by the agent to a file in the pilot's private folder.

The private folder (mode 0700, on the node's own file system) holds ``agent.sock``, where the agent listens for runners,
``notify.sock``, where services say that they are ready, this file (``runner.settings``, mode 0600) and one
``<worker>.progress`` per function worker.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pilotage.model.ids import PilotUid, RunnerId, SessionUid
from pilotage.model.installed import Installed
from pilotage.model.resources import Node

AGENT_SOCKET = "agent.sock"
SETTINGS_FILE = "runner.settings"
NOTIFY_SOCKET = "notify.sock"
HOSTS_FILE = "hosts.json"
"""In the folder of an agent with hosts: how they reach it. It is there until the pilot is over."""


class RunnerSettings(msgspec.Struct, frozen=True):
    """Settings of all runners of a pilot."""

    session: SessionUid
    pilot: PilotUid
    pilot_folder: str
    """Where the pilot keeps ``tasks/<uid>/`` (the default sandboxes) and what they print."""
    blob_folder: str
    nodes: list[Node]
    bind: bool
    """Whether cores of placements are this machine's, so that tasks are pinned to them; False when nodes are emulated."""
    environment: dict[str, str]
    """The user's own environment, which every task starts from."""
    python_path: list[str]
    """``sys.path`` of the user's program, from which function workers import."""
    working_folder: str
    """The current folder of the user's program."""
    core_ids: list[int] = []
    """The machine's number of each core of the node, where they are not 0, 1, 2, ...: we may own but some of them."""
    notify_socket: str = ""
    """Where services say that they are ready; they find it in ``$NOTIFY_SOCKET``."""
    partition: str = ""
    """The partition of the pilot whose agent's runners these are; empty: the pilot has none."""
    agent_folder: str = ""
    """Where runners print; empty: the pilot's folder."""
    end_time: float = 0.0
    """When the pilot's time is over, in seconds since the epoch; 0.0: there is no limit."""
    orphan_timeout_s: float = 60.0
    """A runner without an agent for this long ends its tasks and itself."""
    launchers: dict[str, Installed] = {}
    """The launch methods for ranks of several nodes and for MPI, by name, the preferred one first; empty: all nodes are this
    host, where an mpiexec that a task's template names starts MPI."""
    gpu_ids: list[str] = []
    """How tasks name each GPU of this host (``0.1``, a UUID), where that is not its index."""
    node_gpu_ids: dict[int, list[str]] = {}
    """The same of other nodes, by their index, where it is not ``gpu_ids``."""
    node_core_ids: dict[int, list[int]] = {}
    """``core_ids`` of other nodes, by their index, where they are not those of this host."""
    host_nodes: list[int] = []
    """Indices of the nodes that are this host, whose processes are started without a launcher; empty: all."""
    allocation_environment: dict[str, str] = {}
    """The batch system's variables of the job, which its launchers and their ranks need; other tasks do not get them."""
    host: str = ""
    """The name of this host's node, in pilots that have one on each node; empty: the agent itself has the runners."""

    @property
    def printing_folder(self) -> str:
        """Where runners print what they have to say themselves."""
        return self.agent_folder or self.pilot_folder

    def printing_name(self, runner: RunnerId) -> str:
        """Return the runner's name among all those of the pilot, for files that they have in one folder."""
        return f"{self.partition}.{runner}" if self.partition else runner

    def marks(self) -> dict[str, str]:
        """Return the variables that tell of each process here whose it is."""
        marks = {"PILOTAGE_SESSION_ID": self.session, "PILOTAGE_PILOT_ID": self.pilot}
        more = {"PILOTAGE_PARTITION": self.partition, "PILOTAGE_HOST": self.host}
        return {**marks, **{name: value for name, value in more.items() if value}}

    def limits(self) -> dict[str, str]:
        """Return the variables that tell how long there is: the Unix time, in whole seconds, at which the pilot is over."""
        return {"PILOTAGE_END_TIME": str(int(self.end_time))} if self.end_time else {}

    def is_here(self, node: int) -> bool:
        """Return whether a node is this host."""
        return not self.host_nodes or node in self.host_nodes

    def machine_cores(self, indices: Iterable[int], node: int | None = None) -> frozenset[int]:
        """Return the machine's numbers of a node's cores of these indices; of this host if no node is named.

        Raises:
            OSError: the node has not that many cores.
        """
        core_ids = self.core_ids if node is None else self.node_core_ids.get(node, self.core_ids)
        if not core_ids:
            return frozenset(indices)
        try:
            return frozenset(core_ids[index] for index in indices)
        except IndexError:
            raise OSError(errno.EINVAL, f"only {len(core_ids)} cores are ours") from None

    def gpu_names(self, indices: Iterable[int], node: int) -> list[str]:
        """Return how tasks name a node's GPUs of these indices."""
        names = self.node_gpu_ids.get(node, self.gpu_ids)
        return [(names[index] if index < len(names) else "") or str(index) for index in indices]


def launch_folder(settings: RunnerSettings, runner: RunnerId) -> str:
    """Return where a spawner keeps what the launchers of its tasks, and their ranks on other nodes, need of files."""
    return f"{settings.pilot_folder}/launches/{settings.printing_name(runner)}"


def pilot_is_over(agent_folder: Path) -> bool:
    """Return whether an agent with hosts has ended in good order: it has taken their file along, and none is to follow."""
    return agent_folder.is_dir() and not (agent_folder / HOSTS_FILE).exists()


def write_settings(folder: Path, settings: RunnerSettings) -> None:
    """Write the settings file of ``folder``, readable by its owner alone."""
    path = folder / SETTINGS_FILE
    path.touch(mode=0o600)
    path.write_bytes(msgspec.msgpack.encode(settings))


def read_settings(folder: Path) -> RunnerSettings:
    """Read the settings file of ``folder``."""
    return msgspec.msgpack.decode((folder / SETTINGS_FILE).read_bytes(), type=RunnerSettings)
