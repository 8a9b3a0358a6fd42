"""Functions in processes of their own: those with hooks, in a named environment, or over several ranks.

The call is written to a file in the pilot's folder, ``calls/<task>.<attempt>``, which only its user can read; beside it the
process tells the end (see ``workers.process_call``). Both are removed when the end is collected. Nothing that is pickled is
opened here.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from typing import NamedTuple

from pilotage.model.ids import Attempt
from pilotage.model.outcome import Ending
from pilotage.model.payload import INLINE_LIMIT_BYTES, Blob, Payload
from pilotage.model.sandboxes import folder_of_call
from pilotage.model.workload import Row, Template
from pilotage.spawner.choosing import Chosen
from pilotage.spawner.environment import ENCODING, Environment
from pilotage.system.python import installation_path
from pilotage.version import __version__
from pilotage.wire.runner_settings import RunnerSettings
from pilotage.wire.single_calls import Call, End, read_end, remove_call, write_call

CALLS_FOLDER = "calls"
"""Folder in the pilot's folder that holds the calls that are being made."""

_OWN_ENVIRONMENTS = ("", "rp", "pilotage")
_PYTHONS = ("python3", "python")
_PROGRAM = os.path.join(os.path.dirname(os.path.dirname(__file__)), "workers", "single_call.py")


class CallEnd(NamedTuple):
    """How a call ended, by its own account."""

    ending: Ending
    result: Payload | None = None
    message: str = ""
    detail: str = ""


def prepare(row: Row, template: Template, attempt: Attempt, settings: RunnerSettings, environment: Environment) -> list[str]:
    """Write the call of this attempt, and return the command line of its process (of each, if it has several ranks).

    ``environment`` is the one that the process is going to have.

    Raises:
        OSError: the call cannot be written.
    """
    python = _python(template, settings, environment)
    own = python == sys.executable
    assert template.function is not None
    call: Call = {
        "task": row.uid,
        "function": _written(template.function, settings),
        "payload": None if row.payload is None else _written(row.payload, settings),
        "folder": _folder(row, template, settings),
        "ranks": template.request.ranks,
        "mpi": template.uses_mpi,
        "packs": os.path.join(settings.blob_folder, "packs"),
        "inline_bytes": INLINE_LIMIT_BYTES,
        "path": list(dict.fromkeys([*settings.python_path, *installation_path()])) if own else None,
        "user_path": [] if own else _user_path(tuple(settings.python_path)),
        "package_path": [] if own else _package_path(),
        "version": __version__,
    }
    path = _path(row, attempt, settings)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    write_call(path, call)
    return [python, _PROGRAM, path]


def _folder(row: Row, template: Template, settings: RunnerSettings) -> str:
    sandbox = folder_of_call(template, row)
    if sandbox is not None:
        return os.path.join(settings.pilot_folder, sandbox)
    return settings.working_folder if os.path.isdir(settings.working_folder) else settings.pilot_folder


def collect(
    row: Row, template: Template, chosen: Chosen | None, attempt: Attempt, settings: RunnerSettings, exit_code: int
) -> CallEnd | None:
    """Return how the call of this attempt ended by its own account, and remove its files.

    ``exit_code`` is that of its process, or of all its ranks. None: it was ended by something else, which the exit code tells.
    """
    path = _path(row, attempt, settings)
    ranks = range(template.request.ranks)
    told = [(end, rank) for rank in ranks if (end := read_end(path, rank)) is not None]
    remove_call(path, template.request.ranks)
    failures = [(end["ended"], rank, end) for end, rank in told if not ("result" in end or "stored" in end)]
    if failures:
        # The first to fail has ended the others.
        _, rank, end = min(failures, key=lambda failure: failure[:2])
        return _failed(end, f"rank {rank}: " if len(ranks) > 1 else "", template, chosen)
    # What a single process did after it told its result is as little part of the call as what a worker does.
    if not told or (exit_code and len(ranks) > 1):
        return None
    return CallEnd(Ending.DONE, _result(told[0][0]))


def _failed(end: End, who: str, template: Template, chosen: Chosen | None) -> CallEnd:
    if "raised" in end:
        pickled, message, detail = end["raised"]
        return CallEnd(Ending.RAISED, pickled, who + message, detail)
    if "refused" in end:
        return CallEnd(Ending.LAUNCH_FAILED, message=end["refused"])
    size, library = end["alone"]
    assert chosen is not None
    return CallEnd(Ending.LAUNCH_FAILED, message=_mismatch(chosen, template.request.ranks, size, library))


def _mismatch(chosen: Chosen, ranks: int, size: int, library: str) -> str:
    launcher = chosen.mpi
    if launcher is None:
        name = chosen.method.facts.name
        return (
            f"PMI mismatch: {ranks} ranks were started by {name} ({chosen.installed.path}), but mpi4py, with "
            f"{library or 'its MPI library'}, sees {size}; use the mpi4py of the site's MPI, or have {name} speak its language"
            + (" (option 'mpi' of the launcher, as in pmi2 or pmix)" if "mpi" in chosen.method.facts.options else "")
        )
    # Only here: most spawners never see one.
    from pilotage.launchers.libmpi import library_of
    from pilotage.launchers.mismatch import explain
    from pilotage.launchers.mpiexec import describe

    explained = explain("mpi4py uses", library_of(library), launcher)
    return explained or (
        f"PMI mismatch: {ranks} ranks were started by {describe(launcher)}, but mpi4py, with {library or 'its MPI library'}, "
        f"sees {size}; use the mpi4py and the mpiexec of one MPI, and try them with 'pilotage check mpi'"
    )


def _result(end: End) -> Payload:
    if "result" in end:
        return end["result"]
    name, offset, size, digest = end["stored"]
    return Blob(digest, size, name, offset)


def _path(row: Row, attempt: Attempt, settings: RunnerSettings) -> str:
    return os.path.join(settings.pilot_folder, CALLS_FOLDER, f"{row.uid}.{attempt}")


def _written(payload: Payload, settings: RunnerSettings) -> bytes | tuple[str, int, int, str]:
    """Return a payload for the file: a large one by its place, as the process reads it better than the spawner."""
    if isinstance(payload, bytes):
        return payload
    place = os.path.join("packs", payload.pack) if payload.pack else os.path.join(payload.digest[:2], payload.digest)
    return (os.path.join(settings.blob_folder, place), payload.offset, payload.size, payload.digest)


def _python(template: Template, settings: RunnerSettings, environment: Environment) -> str:
    """Return the Python of the task's named environment, if that brings one; else our own."""
    if template.named_env in _OWN_ENVIRONMENTS:
        return sys.executable
    named = _python_in(environment.get(b"PATH", b"").decode(*ENCODING))
    return named if named and named != _python_in(settings.environment.get("PATH", "")) else sys.executable


@lru_cache(maxsize=64)
def _python_in(search_path: str) -> str:
    folders = [folder for folder in search_path.split(os.pathsep) if folder]
    paths = (os.path.join(folder, name) for name in _PYTHONS for folder in folders)
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), "")


@lru_cache(maxsize=4)
def _user_path(python_path: tuple[str, ...]) -> list[str]:
    """Return the folders of the user's program on its import path that are of no installation."""
    installed = set(installation_path())
    return [folder for folder in python_path if folder not in installed and not _is_of_an_installation(folder)]


def _is_of_an_installation(folder: str) -> bool:
    return any(part in ("site-packages", "dist-packages") for part in folder.split(os.sep)) or any(
        folder == root or folder.startswith(f"{root}{os.sep}lib{os.sep}python") for root in (sys.prefix, sys.base_prefix)
    )


@lru_cache(maxsize=1)
def _package_path() -> list[str]:
    """Return the folders that hold what a process under another Python may need of us."""
    import importlib.util

    specs = (importlib.util.find_spec(name) for name in ("pilotage", "cloudpickle", "msgspec"))
    return list(dict.fromkeys(os.path.dirname(os.path.dirname(spec.origin)) for spec in specs if spec and spec.origin))
