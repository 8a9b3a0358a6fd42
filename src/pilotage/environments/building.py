"""Making venvs and conda environments, so that an interrupted build is never taken for a whole one.

An environment cannot be moved, so it is built where it is to lie. A mark beside it, ``.<name>.building``, says that it is not
whole; the mark comes before the folder and goes when all is done. Who builds holds a lock on the mark, and all processes of
the build inherit it: so several pilots that want one path wait for each other, and a mark without a lock tells of a build
that was interrupted. What it left is removed, and the build begins anew. A folder without a mark is used as it is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pilotage.environments.shell import Step
from pilotage.errors import BackendError
from pilotage.model.environments import EnvironmentSpec

_LOOK_S = 0.1
_WHOLE = {"venv": "bin/activate", "conda": "conda-meta"}
"""What a folder holds that is an environment of this kind."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_LEFT_TO_PIP = re.compile(r"[/:]|^[-.]|\.whl$|\.tar\.gz$")
"""What no conda channel has: paths, addresses, archives."""

_FIND_PYTHON = """\
for __pilotage_python in {candidates}; do
  [ "$("$__pilotage_python" -c 'import sys; print(*sys.version_info[:{parts}], sep=".")' 2>/dev/null)" = {version} ] && break
  __pilotage_python=
done
[ -n "$__pilotage_python" ] || {{
  echo "none of {candidates} is a Python {version}; load one by 'modules' or 'pre_exec', or name another 'version'" >&2
  false
}}"""

_FIND_CONDA = """\
for __pilotage_conda in mamba conda micromamba "$CONDA_EXE"; do
  command -v "$__pilotage_conda" >/dev/null && break
  __pilotage_conda=
done
[ -n "$__pilotage_conda" ] || {
  echo "neither mamba, conda nor micromamba is on PATH; load it by 'modules' or 'pre_exec', or set CONDA_EXE" >&2
  false
}"""


@contextmanager
def claimed(kind: str, path: Path, deadline_s: float, is_stopped: Callable[[], bool]) -> Iterator[int | None]:
    """Give the lock under which the environment at ``path`` is to be built now; None if it is there.

    While another builds it, this waits, for ``deadline_s`` at the most. If the body raises, what was built is removed.

    Raises:
        BackendError: something else is at ``path``, the deadline came, or ``is_stopped`` told so.
    """
    mark = path.with_name(f".{path.name}.building")
    # In this order: who builds makes the mark before the folder, and removes it when the folder is whole.
    if _is_whole(kind, path) and not mark.exists():
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _locked(mark, deadline_s, is_stopped)
    try:
        # A mark with something in it was left behind; an empty one is new, and what lies beside it is as it should be.
        if os.fstat(lock).st_size:
            shutil.rmtree(path, ignore_errors=True)
        if _is_whole(kind, path):
            yield None
        elif os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
            raise BackendError(
                f"{path} is there, but it is no {kind} environment: it holds no {_WHOLE[kind]}; "
                "remove it, or choose another path"
            )
        else:
            os.write(lock, f"pid {os.getpid()} builds the environment beside this file; it is not whole yet\n".encode())
            try:
                yield lock
            except BaseException:
                shutil.rmtree(path, ignore_errors=True)
                raise
    finally:
        if not os.fstat(lock).st_size or _is_whole(kind, path) or not os.path.lexists(path):
            mark.unlink(missing_ok=True)
        # Processes that the build left behind may hold it still.
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def building_steps(spec: EnvironmentSpec, path: str) -> list[Step]:
    """Return what makes the environment at ``path`` and installs ``setup`` into it."""
    place, python = shlex.quote(path), shlex.quote(f"{path}/bin/python")
    for_pip = f"{python} -m pip install --disable-pip-version-check --no-input"
    if spec.kind == "venv":
        steps = [
            Step("the search for Python", f"python{spec.version}", _find_python(spec)),
            Step("the making of the venv", f"python{spec.version} -m venv {path}", f'"$__pilotage_python" -m venv {place}'),
        ]
        if spec.setup:
            steps.append(Step("setup", f"pip install {_listed(spec.setup)}", f"{for_pip} {_listed(spec.setup)}"))
        return steps
    python_wanted = f"python={spec.version}" if spec.version else "python"
    create = f"create --yes --quiet --prefix {place} {python_wanted} pip"
    steps = [
        Step("the search for conda", "conda", _FIND_CONDA),
        Step("the making of the conda environment", f"conda {create}", f'"$__pilotage_conda" {create}'),
    ]
    packages = [entry for entry in spec.setup if not _LEFT_TO_PIP.search(entry)]
    others = [entry for entry in spec.setup if _LEFT_TO_PIP.search(entry)]
    if packages:
        listed = _listed(packages)
        # What the channels do not have may be had from elsewhere.
        command = f'"$__pilotage_conda" install --yes --quiet --prefix {place} {listed} || {for_pip} {listed}'
        steps.append(Step("setup", f"conda install {listed}", command))
    if others:
        steps.append(Step("setup", f"pip install {_listed(others)}", f"{for_pip} {_listed(others)}"))
    return steps


def _find_python(spec: EnvironmentSpec) -> str:
    if spec.version:
        candidates = [f"python{spec.version}", "python3", "python", sys.executable]
    elif spec.modules or spec.pre_exec:
        # They may have been meant to bring one.
        candidates = ["python3", "python", sys.executable]
    else:
        candidates = [sys.executable, "python3"]
    parts = spec.version.count(".") + 1 if spec.version else 1
    return _FIND_PYTHON.format(candidates=_listed(candidates), parts=parts, version=spec.version or "3")


def _listed(entries: list[str] | tuple[str, ...]) -> str:
    """Return the entries for a command line; one that begins with an option may hold several words."""
    return " ".join(entry if entry.startswith("-") else shlex.quote(entry) for entry in entries)


def _is_whole(kind: str, path: Path) -> bool:
    return (path / _WHOLE[kind]).exists()


def _locked(mark: Path, deadline_s: float, is_stopped: Callable[[], bool]) -> int:
    """Open the mark, made if it is not there, and lock it; wait for it while another has it."""
    until = time.monotonic() + deadline_s
    while True:
        descriptor = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, mark):
                return descriptor
            # Who had it before removed it.
            os.close(descriptor)
            continue
        except OSError as error:
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                raise BackendError(
                    f"files in {mark.parent} cannot be locked, so that nobody knows whether others build there; "
                    "choose a path on another file system, or build it yourself and name it"
                ) from None
            if error.errno != errno.EWOULDBLOCK:
                raise
        if is_stopped():
            raise BackendError("it was stopped")
        if time.monotonic() > until:
            raise BackendError(f"somebody else has been building it for {deadline_s:g} s; see who has {mark} open")
        time.sleep(_LOOK_S)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
