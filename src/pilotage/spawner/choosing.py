"""Which launch method starts the ranks of a task: one of those that the pilot has, or none.

Ranks without MPI on this host are processes of their own, and need none. All others need one: ranks that use MPI, and ranks on
other nodes. It is the one that the task names; else the first of the pilot's that can. A pilot without launch methods, as on
one machine, takes the mpiexec that was found when the task was submitted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from pilotage.errors import BackendError
from pilotage.launchers.method import Installed, LaunchMethod
from pilotage.launchers.mpi_methods import MPIEXEC
from pilotage.model.workload import ANY_MPI, MpiLauncher, Template
from pilotage.spawner.failures import LaunchFailed, executable_fault
from pilotage.wire.runner_settings import RunnerSettings

_MPIEXECS = ("mpiexec", "mpirun")


class Chosen(NamedTuple):
    """A launch method, and its launcher. ``of_pilot``: it is one of the pilot's, and works by the batch system's variables."""

    method: LaunchMethod
    installed: Installed
    of_pilot: bool = True

    @property
    def kind(self) -> str:
        """Of what says how its ranks ended: the kind of an mpiexec, or the method's name."""
        return self.installed.kind or self.method.facts.name

    @property
    def mpi(self) -> MpiLauncher | None:
        """It as an mpiexec of one MPI, whose programs have to be of that MPI; None if it serves any, or if nobody knows."""
        match self.installed.kind:
            case "mpich" | "openmpi" | "intelmpi" | "pals" as kind:
                return MpiLauncher(kind, self.installed.path, self.installed.version)
            case _:
                return None


def choose(template: Template, settings: RunnerSettings, nodes: Iterable[int]) -> Chosen | None:
    """Return what starts the ranks of a task of this template on these nodes; None: they are processes of their own.

    Raises:
        LaunchFailed: it needs what this pilot does not have; names what, where it was looked for, and the remedy.
    """
    elsewhere = sorted({node for node in nodes if not settings.is_here(node)})
    if not elsewhere and not template.uses_mpi:
        return None
    wanted = template.launch_method
    if not settings.launchers:
        if elsewhere:
            names = ", ".join([_node_name(settings, node) for node in elsewhere])
            raise LaunchFailed(
                f"ranks on {names} need a launcher, and this pilot has none; name those of its machine in the platform's "
                "'launch_methods', or ask for ranks on one node"
            )
        return _own(template, wanted)
    if wanted and wanted != ANY_MPI:
        return _named(template, settings, wanted)
    chosen = _first(settings, mpi=template.uses_mpi, several=bool(elsewhere))
    if chosen is not None:
        return chosen
    if template.launcher is not None and not elsewhere:
        return _of(template.launcher)
    what = "starts MPI" if template.uses_mpi else "starts ranks on several nodes"
    otherwise = ", or say use_mpi=False of ranks that need no MPI" if template.uses_mpi else ""
    raise LaunchFailed(
        f"none of this pilot's launchers {what}: it has {_listed(settings)}; name one that does in the platform's "
        f"'launch_methods'{otherwise}"
    )


def _first(settings: RunnerSettings, *, mpi: bool, several: bool) -> Chosen | None:
    for name, installed in settings.launchers.items():
        method = _method(name)
        if (method.facts.starts_mpi or not mpi) and (method.facts.several_nodes or not several):
            return _there(Chosen(method, installed), settings)
    return None


def _method(name: str) -> LaunchMethod:
    # Only here: most spawners start no launcher, and need none of the methods.
    from pilotage.launchers.registry import launch_method

    try:
        return launch_method(name)
    except BackendError as error:
        raise LaunchFailed(str(error)) from error


def _named(template: Template, settings: RunnerSettings, wanted: str) -> Chosen:
    if wanted in settings.launchers:
        chosen = Chosen(_method(wanted), settings.launchers[wanted])
        if template.mode == "function" and not chosen.method.facts.starts_mpi:
            raise LaunchFailed(
                f"launch_method={wanted!r} starts no MPI, and a function with ranks={template.request.ranks} is an MPI "
                "function; leave launch_method out, or submit one task per rank"
            )
        return _there(chosen, settings)
    for name in _MPIEXECS:
        installed = settings.launchers.get(name)
        if installed is not None and (wanted in _MPIEXECS or wanted in (installed.kind, installed.path)):
            return _there(Chosen(_method(name), installed), settings)
    if template.launcher is not None:
        # The user's own, found when the task was submitted; what the site's knows of its machine holds for it as well.
        site = next((settings.launchers[name] for name in _MPIEXECS if name in settings.launchers), None)
        installed = _of(template.launcher).installed
        if site is not None:
            installed = msgspec.structs.replace(installed, options=site.options)
        return _there(Chosen(MPIEXEC, installed), settings)
    raise LaunchFailed(
        f"launch_method={wanted!r} is none of this pilot's launchers; it has {_listed(settings)}; name one of these, leave "
        "launch_method out, or name it in the platform's 'launch_methods'"
    )


def _own(template: Template, wanted: str) -> Chosen:
    if template.launcher is not None:
        return _of(template.launcher)
    what = "a task that uses MPI" if wanted == ANY_MPI else f"launch_method={wanted!r}"
    raise LaunchFailed(
        f"{what} needs a launcher, and this pilot has none, as on a single machine; install an MPI there before the task is "
        "submitted, or send it to a pilot on a cluster"
    )


def _of(launcher: MpiLauncher) -> Chosen:
    return Chosen(MPIEXEC, Installed(launcher.path, launcher.kind, launcher.version), of_pilot=False)


def _there(chosen: Chosen, settings: RunnerSettings) -> Chosen:
    """Return the method with the path of its launcher, which is there.

    Raises:
        LaunchFailed: it is not.
    """
    name, installed = chosen.method.facts.name, chosen.installed
    path = installed.path
    if "/" not in path:
        search = settings.environment.get("PATH", os.defpath)
        found = shutil.which(path, path=search)
        if found is None:
            raise LaunchFailed(
                f"launch_method={name!r}: there is no {path!r} in PATH ({search or 'empty'}) of this node; give its path in "
                "the platform's 'launcher_paths'"
            )
        installed = msgspec.structs.replace(installed, path=found)
    elif executable_fault(path, ""):
        why = "is not executable" if os.path.exists(path) else "is not there"
        raise LaunchFailed(
            f"launch_method={name!r}: {path} {why} on this node; give its path in the platform's 'launcher_paths'"
        )
    return chosen._replace(installed=installed)


def _listed(settings: RunnerSettings) -> str:
    return ", ".join([f"{name} ({installed.path})" for name, installed in settings.launchers.items()])


def _node_name(settings: RunnerSettings, node: int) -> str:
    return next((each.name for each in settings.nodes if each.index == node), f"node {node}")
