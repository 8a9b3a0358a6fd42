"""What a template depends on beside its description: the MPI that this machine has, and the nodes of the session's pilots.

A task of several ranks is started by an mpiexec if there is one, as such tasks nearly always use MPI. The path to it goes
into the template, so that a task runs with what its user had when it was submitted. Pilots on clusters have launch methods of
their own, and choose among these by what the template names.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from pilotage.errors import InvalidTask, PilotageError, nearest
from pilotage.model.workload import ANY_MPI, Mode, MpiLauncher

if TYPE_CHECKING:
    from pilotage.client.session import Session

log = logging.getLogger("pilotage")

FORK = "fork"
"""The launch method that starts ranks as plain processes."""


class Surroundings(Protocol):
    """What is asked of a session while descriptions become templates."""

    def find_launcher(self, wanted: str, search_path: str) -> MpiLauncher:
        """Return the mpiexec that is wanted ('': any), sought in these folders. Raises ``PilotageError`` if it is not here."""
        ...

    def on_clusters(self) -> bool | None:
        """Return whether a pilot is on a cluster, with launch methods of its own; None: there is no pilot yet."""
        ...

    def ranks_without_launcher(self, reason: str) -> None:
        """A task of several ranks is going to run without MPI, as none is here."""
        ...

    def node_index(self, name: str) -> int:
        """Return the index of a pilot's node. Raises ``InvalidTask`` if no pilot has one of this name."""
        ...


class ThisMachine:
    """The surroundings of a description that is checked outside of a session: any node may be, and warnings are left out."""

    def find_launcher(self, wanted: str, search_path: str) -> MpiLauncher:
        """Return the mpiexec that is wanted."""
        from pilotage.launchers.mpiexec import find_mpiexec

        return find_mpiexec(search_path, wanted)

    def on_clusters(self) -> bool | None:
        """Return that nothing is known of pilots."""
        return None

    def ranks_without_launcher(self, reason: str) -> None:
        """Pass over it: submission tells."""

    def node_index(self, name: str) -> int:
        """Return the first node."""
        del name
        return 0


class SessionSurroundings:
    """The surroundings of the tasks of a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._warned = False

    def find_launcher(self, wanted: str, search_path: str) -> MpiLauncher:
        """Return the mpiexec that is wanted; one that comes with this Python only for pilots on this machine, or if named."""
        from pilotage.launchers.mpiexec import find_mpiexec

        return find_mpiexec(search_path, wanted, bundled=not self.on_clusters())

    def on_clusters(self) -> bool | None:
        """Return whether a pilot is on another machine than this one, by what it was described with."""
        described = [msgspec.msgpack.decode(pilot.description) for pilot in list(self._session.state.pilots.values())]
        if not described:
            return None
        return not all(description.get("resource", "").startswith("local.") for description in described)

    def ranks_without_launcher(self, reason: str) -> None:
        """Tell it, once."""
        if not self._warned:
            self._warned = True
            log.warning("tasks of several ranks are started as plain processes, without MPI: %s", reason)

    def node_index(self, name: str) -> int:
        """Return the index of the node of this name."""
        pilots = list(self._session.state.pilots.values())
        nodes = [node for pilot in pilots for node in pilot.known_nodes]
        indices = {node.index for node in nodes if node.name == name}
        if len(indices) == 1:
            return indices.pop()
        if indices:
            raise InvalidTask("several pilots have a node of this name; give its node_index")
        if any(pilot.estimated and pilot.usable for pilot in pilots):
            raise InvalidTask("which nodes a pilot has is not known before it is active; wait for it, or give node_index")
        raise InvalidTask(f"no pilot has a node of this name{nearest(name, {node.name for node in nodes})}")


def launcher_of(task: str, mode: Mode, said: Mapping[str, Any], surroundings: Surroundings) -> tuple[MpiLauncher | None, str]:
    """Return what starts the ranks of a task: an mpiexec of this machine, and a launch method of pilots on clusters.

    None and an empty name: they are plain processes.

    Raises:
        InvalidTask: MPI is needed and not here, or the attributes contradict each other.
    """
    wanted, use_mpi, ranks = said["launch_method"], said["use_mpi"], said["ranks"] if not said["slots"] else len(said["slots"])
    several = ranks > 1
    if mode == "function" and several and (use_mpi is False or wanted == FORK):
        given = f"launch_method={wanted!r}" if wanted == FORK else "use_mpi=False"
        raise InvalidTask(
            f"{task}: a function with ranks={ranks} is an MPI function, but {given}; "
            "leave that out, or submit one task per rank"
        )
    if use_mpi and wanted == FORK:
        raise InvalidTask(f"{task}: use_mpi=True and launch_method='fork' contradict each other; leave one of them out")
    if use_mpi is False and wanted not in ("", FORK):
        raise InvalidTask(f"{task}: use_mpi=False and launch_method={wanted!r} contradict each other; leave one of them out")
    if use_mpi is False or wanted == FORK or not (several or use_mpi or wanted):
        return None, ""
    clusters = surroundings.on_clusters()
    if wanted and (method := _of_clusters(task, wanted, clusters)):
        return None, method
    search_path = str(said["environment"].get("PATH") or os.environ.get("PATH", ""))
    named = (wanted or ANY_MPI) if clusters else ""
    try:
        return surroundings.find_launcher(wanted, search_path), named
    except PilotageError as error:
        if clusters:
            # What the nodes of a cluster have, their pilot knows.
            return None, named
        if wanted:
            raise InvalidTask(f"{task}: {error}") from error
        if mode == "function" or use_mpi:
            need = "use_mpi=True" if use_mpi else f"a function with ranks={ranks}"
            raise InvalidTask(f"{task}: {need} needs MPI, but {error}") from error
        surroundings.ranks_without_launcher(str(error))
        return None, ""


def _of_clusters(task: str, wanted: str, clusters: bool | None) -> str:
    """Return the launch method that is named, if it is one that only pilots on clusters have; empty if it is an mpiexec.

    Raises:
        InvalidTask: all pilots are on this machine, or there is no such launch method.
    """
    from pilotage.launchers.mpiexec import KINDS
    from pilotage.launchers.registry import LAUNCH_METHODS

    name = wanted.strip().lower()
    if "/" in name or name in ("mpiexec", "mpirun", *KINDS):
        return ""
    if name in LAUNCH_METHODS:
        if clusters is False:
            raise InvalidTask(
                f"{task}: launch_method={wanted!r} is for pilots on clusters, and those of this session are on this machine; "
                f"leave it out, or name 'mpiexec', {', '.join(map(repr, KINDS))}, or the path of an mpiexec"
            )
        return name
    if clusters:
        known = ("mpiexec", *KINDS, *LAUNCH_METHODS)
        raise InvalidTask(
            f"{task}: launch_method={wanted!r} is not known{nearest(name, known)}; known are "
            f"{', '.join(dict.fromkeys(known))}, or the path of an mpiexec"
        )
    return ""
