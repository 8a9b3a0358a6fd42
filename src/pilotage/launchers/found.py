"""Which launchers there are on this machine, as pilots use them: found by their names in PATH, or where a platform says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

import msgspec

from pilotage.errors import BackendError
from pilotage.launchers.mpiexec import find_mpiexec
from pilotage.launchers.node_hosts import HOST_METHODS, PBSDSH, USUAL
from pilotage.launchers.registry import check_installed, launch_method
from pilotage.model.installed import Installed

ASKED_BY_BATCH: dict[str, tuple[str, ...]] = {
    "slurm": ("srun", "mpiexec"),
    "flux": ("flux", "mpiexec"),
    "lsf": ("jsrun", "mpiexec"),
    "cobalt": ("aprun", "mpiexec"),
}
"""What is looked for where nothing is preferred, by batch system; in all others ``mpiexec``."""

CEILING = "ceiling"
"""An option of any method: how many of its launches may be under way at once, where more is known than of the method."""

_MPIEXECS = ("mpiexec", "mpirun")
_PATIENCE_S = 30.0
_VERSION = re.compile(r"\b(\d+\.\d+(?:\.\w+)*)")


def found_launchers(
    preferred: Sequence[str],
    batch: str,
    paths: Mapping[str, str],
    options: Mapping[str, Mapping[str, str]],
    search_path: str,
) -> dict[str, Installed]:
    """Return the launchers that are there, by the names of their methods, the preferred one first.

    ``preferred``: names of methods; empty: those usual with the batch system. ``paths``, ``options``: of methods, by name.
    ``search_path``: a PATH.

    Raises:
        BackendError: what is preferred is not known, or is not there at all; a path leads to nothing, an option is not known.
    """
    found: dict[str, Installed] = {}
    missing: list[str] = []
    for name in preferred or ASKED_BY_BATCH.get(batch, ("mpiexec",)):
        installed = find_installed(name, paths.get(name, ""), options.get(name, {}), search_path)
        if installed is None:
            missing.append(name)
        else:
            found[name] = _by_batch(installed, batch)
    if preferred and not found:
        raise BackendError(
            f"launch_methods={', '.join(preferred)}: none of these is in PATH ({search_path or 'empty'}); load the modules "
            "that have them in the platform's setup, or say where they are in launcher_paths"
        )
    return found


def found_host_launcher(
    preferred: Sequence[str],
    batch: str,
    paths: Mapping[str, str],
    options: Mapping[str, Mapping[str, str]],
    search_path: str,
) -> tuple[str, Installed]:
    """Return the method by which hosts are started on nodes, and its launcher: the first of those that can and are there.

    Arguments are those of ``found_launchers``; what is usual with the batch system comes behind what is preferred.

    Raises:
        BackendError: there is none.
    """
    methods = [method for method in preferred if method in HOST_METHODS]
    methods += [method for method in USUAL.get(batch, ("ssh",)) if method not in methods]
    for method in methods:
        path = paths.get(method, "")
        if method == PBSDSH:
            where = path or _which(PBSDSH, search_path)
            installed = Installed(where) if where else None
        else:
            installed = find_installed(method, path, options.get(method, {}), search_path)
        if installed is not None:
            return method, installed
    raise BackendError(
        f"nothing can start processes on the pilot's nodes: {', '.join(methods)} are not in PATH ({search_path or 'empty'}); "
        "load the module that has one of them in the platform's setup, or name another one in launch_methods: "
        f"{', '.join(HOST_METHODS)}"
    )


def find_installed(name: str, path: str, options: Mapping[str, str], search_path: str) -> Installed | None:
    """Return the launcher of a method as it is here; None: it is not in ``search_path``.

    Raises:
        BackendError: the method or an option is not known, or ``path`` (empty: look for it) is no program.
    """
    method = launch_method(name)
    own = {option: value for option, value in options.items() if option != CEILING}
    ceiling = _ceiling_of(name, options)
    if path and not os.access(path, os.X_OK):
        raise BackendError(
            f"launcher_paths: {name}={path!r} is no program that can be executed here; correct it or leave it out"
        )
    if name in _MPIEXECS:
        try:
            # On the nodes of a cluster one beside this Python knows neither the network nor the batch system.
            launcher = find_mpiexec(search_path, path, bundled=False)
        except BackendError:
            if path:
                raise
            return None
        installed = Installed(launcher.path, launcher.kind, launcher.version, (), own, ceiling)
    else:
        where = path or next((there for command in method.facts.commands if (there := _which(command, search_path))), "")
        if not where:
            return None
        version = _version(where) if name == "srun" else ""
        installed = Installed(where, "", version, (), own, ceiling)
    check_installed(method, installed)
    return installed


def _ceiling_of(name: str, options: Mapping[str, str]) -> int:
    value = options.get(CEILING, "")
    if value and not (value.isascii() and value.isdigit() and int(value)):
        raise BackendError(
            f"launcher_options: {name}.{CEILING}={value!r}: it takes how many launches may be under way at once, 1 or more"
        )
    return int(value or 0)


def _by_batch(installed: Installed, batch: str) -> Installed:
    """Return an mpiexec that starts daemons by the batch system, as it would by itself; told so, it lets tasks share nodes."""
    if batch == "slurm" and installed.kind in ("mpich", "intelmpi") and "daemons" not in installed.options:
        return msgspec.structs.replace(installed, options={**installed.options, "daemons": "slurm"})
    return installed


def _which(command: str, search_path: str) -> str:
    return shutil.which(command, path=search_path) or ""


def _version(path: str) -> str:
    """Return what a program says of its version; empty if it says nothing of it."""
    try:
        asked = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_PATIENCE_S
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    said = _VERSION.search(asked.stdout)
    return said[1] if said else ""
