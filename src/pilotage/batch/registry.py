"""The batch systems, by name."""

from __future__ import annotations

from pilotage.batch.cobalt import COBALT
from pilotage.batch.flux import FLUX
from pilotage.batch.grid_engine import GRID_ENGINE
from pilotage.batch.lgi import LGI
from pilotage.batch.loadleveler import LOADLEVELER
from pilotage.batch.lsf import LSF
from pilotage.batch.pbs import PBSPRO
from pilotage.batch.slurm import SLURM
from pilotage.batch.system import BatchSystem
from pilotage.batch.torque import TORQUE
from pilotage.errors import InvalidRequest, nearest

_ALL: tuple[BatchSystem, ...] = (SLURM, PBSPRO, TORQUE, LSF, COBALT, FLUX, GRID_ENGINE, LOADLEVELER, LGI)

BATCH_SYSTEMS: dict[str, BatchSystem] = {system.facts.name: system for system in _ALL}

_ALIASES = {"openpbs": "pbspro", "pbs": "pbspro", "sge": "grid_engine", "gridengine": "grid_engine"}


def batch_system(name: str) -> BatchSystem:
    """Return a batch system by its name, in letters of either case. ``openpbs`` and ``pbs`` are ``pbspro``.

    Raises:
        InvalidRequest: there is none of this name; names the nearest one.
    """
    known = name.strip().lower()
    system = BATCH_SYSTEMS.get(_ALIASES.get(known, known))
    if system is None:
        raise InvalidRequest(
            f"batch system {name!r} is not known{nearest(known, BATCH_SYSTEMS)}; known are {', '.join(BATCH_SYSTEMS)}"
        )
    return system
