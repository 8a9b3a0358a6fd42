"""The systems whose allocations are known, in the order in which they are looked for."""

from __future__ import annotations

from collections.abc import Mapping

from pilotage.platforms.allocations.allocation import Allocation, AllocationSystem, Ask, Read, Surroundings
from pilotage.platforms.allocations.cobalt import COBALT
from pilotage.platforms.allocations.flux import FLUX
from pilotage.platforms.allocations.grid_engine import GRID_ENGINE
from pilotage.platforms.allocations.loadleveler import LOADLEVELER
from pilotage.platforms.allocations.lsf import LSF
from pilotage.platforms.allocations.node_file import NODE_FILE_SYSTEM
from pilotage.platforms.allocations.pbs import PBS
from pilotage.platforms.allocations.slurm import SLURM
from pilotage.platforms.allocations.torque import TORQUE

# What the user says comes first. Flux runs inside jobs of the others. Torque has the variables of PBS and more.
_ORDER: tuple[AllocationSystem, ...] = (NODE_FILE_SYSTEM, FLUX, SLURM, LSF, COBALT, TORQUE, PBS, GRID_ENGINE, LOADLEVELER)

ALLOCATION_SYSTEMS: dict[str, AllocationSystem] = {system.name: system for system in _ORDER}


def discover(environment: Mapping[str, str], read: Read, ask: Ask | None = None, *, hostname: str = "") -> Allocation | None:
    """Return the allocation that a process with this environment is in; None if it is in none that is known.

    ``read`` returns the text of a file that a variable names. ``ask`` runs a command of the system, for what variables leave
    open; without it that stays None, and Flux, whose jobs are told by a command alone, cannot be read. ``hostname`` is the
    name of this host; the variable ``HOSTNAME`` is not set everywhere.

    Raises:
        BackendError: variables or files cannot be understood, or contradict each other; names the variable, its value and the
            remedy.
    """
    surroundings = Surroundings(environment, read, ask, hostname)
    for system in ALLOCATION_SYSTEMS.values():
        found = system.discover(surroundings)
        if found is not None:
            return found
    return None
