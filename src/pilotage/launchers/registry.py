"""The launch methods, by name."""

from __future__ import annotations

from collections.abc import Mapping

from pilotage.errors import BackendError, nearest
from pilotage.launchers.cray import APRUN, CCMRUN, MPIRUN_CCMRUN
from pilotage.launchers.flux import FLUX
from pilotage.launchers.ibm import JSRUN, POE, RUNJOB
from pilotage.launchers.ibrun import IBRUN
from pilotage.launchers.method import Installed, LaunchMethod
from pilotage.launchers.mpi_methods import MPIEXEC, MPIRUN
from pilotage.launchers.prrte import ORTE, ORTE_LIB, PRRTE
from pilotage.launchers.remote_shells import FORK, RSH, SSH
from pilotage.launchers.slurm import SRUN
from pilotage.launchers.vendor_mpi import DPLACE, MPIRUN_DPLACE, MPIRUN_MPT, MPIRUN_RSH

_ALL: tuple[LaunchMethod, ...] = (
    SRUN,
    MPIEXEC,
    MPIRUN,
    IBRUN,
    JSRUN,
    PRRTE,
    FLUX,
    MPIRUN_MPT,
    MPIRUN_RSH,
    MPIRUN_DPLACE,
    DPLACE,
    SSH,
    RSH,
    FORK,
    APRUN,
    CCMRUN,
    MPIRUN_CCMRUN,
    RUNJOB,
    POE,
    ORTE,
    ORTE_LIB,
)

LAUNCH_METHODS: dict[str, LaunchMethod] = {method.facts.name: method for method in _ALL}


def launch_method(name: str) -> LaunchMethod:
    """Return a launch method by its name, in letters of either case.

    Raises:
        BackendError: there is none of this name; names the nearest one.
    """
    method = LAUNCH_METHODS.get(name.strip().lower())
    if method is None:
        raise BackendError(
            f"launch_method={name!r} is not known{nearest(name.lower(), LAUNCH_METHODS)}; known are {', '.join(LAUNCH_METHODS)}"
        )
    return method


def ceiling_of(method: LaunchMethod, installed: Installed) -> int:
    """Return how many launches may be under way at once, for each ``MethodFacts.ceiling_per``; 0: as many as one likes."""
    return installed.ceiling or method.facts.ceiling


def launches_at_once(launchers: Mapping[str, Installed], nodes: int) -> int:
    """Return how many launches a pilot of so many nodes may have under way, by its preferred launcher; 0: any number."""
    for name, installed in launchers.items():
        method = launch_method(name)
        ceiling = ceiling_of(method, installed)
        return ceiling * nodes if method.facts.ceiling_per == "node" else ceiling
    return 0


def check_installed(method: LaunchMethod, installed: Installed) -> None:
    """Raise unless a method knows the options and the kind of a launcher, as a platform or a user gave them.

    Raises:
        BackendError: it does not; names the nearest one.
    """
    facts = method.facts
    if installed.ceiling < 0:
        raise BackendError(
            f"launch_method={facts.name!r}: ceiling={installed.ceiling}; 1 at least, or 0 for what is known of it"
        )
    for option in installed.options:
        if option not in facts.options:
            known = f"; it has {', '.join(facts.options)}" if facts.options else "; it has none"
            raise BackendError(f"launch_method={facts.name!r} has no option {option!r}{nearest(option, facts.options)}{known}")
    kinds = [kind for kind in facts.rank_variables if kind]
    if installed.kind and installed.kind not in kinds:
        known = f"known are {', '.join(kinds)}" if kinds else "it is of no kind, leave it empty"
        raise BackendError(f"launch_method={facts.name!r}: kind {installed.kind!r}{nearest(installed.kind, kinds)}; {known}")
