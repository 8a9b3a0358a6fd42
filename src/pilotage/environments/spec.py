"""What users write of a named environment, in the words of RADICAL-Pilot, made an ``EnvironmentSpec``.

>>> parse_spec("analysis", {"type": "venv", "version": "3.11", "setup": ["numpy", "pandas"]}).setup
('numpy', 'pandas')
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from pilotage.environments.own import OWN_NAMES
from pilotage.errors import InvalidRequest, nearest
from pilotage.model.environments import EnvironmentKind, EnvironmentSpec

KINDS: dict[str, EnvironmentKind] = {
    "shell": "shell",
    "venv": "venv",
    "virtualenv": "venv",
    "conda": "conda",
    "anaconda": "conda",
    "mamba": "conda",
    "module": "modules",
    "modules": "modules",
    "spack": "spack",
}
"""The types that users write, and what they amount to. Without one it is a venv."""

_KEYS = ("type", "path", "version", "setup", "pre_exec", "modules")
_FOREIGN: dict[EnvironmentKind, tuple[str, ...]] = {
    "shell": ("path", "version", "setup"),
    "modules": ("path", "version", "setup"),
    "spack": ("version", "setup"),
    "venv": (),
    "conda": (),
}
"""What means nothing to environments of a kind."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_VERSION = re.compile(r"(\d+(?:\.\d+)?)(?:\.\d+)*")


def parse_spec(name: str, spec: Mapping[str, object]) -> EnvironmentSpec:
    """Return what the user's table ``spec`` says of the environment ``name``.

    A relative ``path`` is relative to the pilot's folder, ``~`` is the user's home; of ``version`` only major and minor number
    count.

    Raises:
        InvalidRequest: names the key, its value, and what is allowed there.
    """
    check_name(name)
    if not isinstance(spec, Mapping):
        raise InvalidRequest(f"environment {name!r} is described by {_shown(spec)}; give a table such as {{'type': 'venv'}}")
    for key in spec:
        if key not in _KEYS:
            raise InvalidRequest(
                f"environment {name!r} has the key {_shown(key)}{nearest(str(key), _KEYS)}; known are {', '.join(_KEYS)}"
            )
    kind = _kind(name, spec.get("type"))
    said = {key: value for key, value in spec.items() if value not in (None, "", [], ())}
    for key in _FOREIGN[kind]:
        if key in said:
            takers = sorted(other for other, foreign in _FOREIGN.items() if key not in foreign)
            raise InvalidRequest(
                f"environment {name!r} is of type {kind!r}, to which {key!r} means nothing; "
                f"leave it out, or use type {' or '.join(map(repr, takers))}"
            )
    found = EnvironmentSpec(
        kind,
        _path(name, said.get("path")),
        _version(name, said.get("version")),
        _lines(name, "modules", said.get("modules")),
        _lines(name, "pre_exec", said.get("pre_exec")),
        _lines(name, "setup", said.get("setup")),
    )
    if kind == "spack" and not found.path:
        raise InvalidRequest(
            f"environment {name!r} of type 'spack' needs 'path', the activation script of the spack environment; make one "
            "with 'spack env activate --sh NAME > script'"
        )
    if kind == "modules" and not found.modules:
        raise InvalidRequest(f"environment {name!r} of type 'modules' needs 'modules', such as ['gcc/12', 'openmpi']")
    return found


def check_name(name: str) -> None:
    """Refuse what cannot be the name of an environment to be prepared.

    Raises:
        InvalidRequest: it cannot, and why.
    """
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise InvalidRequest(
            f"an environment cannot be called {_shown(name)}; begin with a letter or digit, go on with these and '_', '-', "
            "'.', 100 at the most"
        )
    if name in OWN_NAMES:
        raise InvalidRequest(f"the environment {name!r} is Pilotage's own and always there; choose another name")


def _kind(name: str, value: object) -> EnvironmentKind:
    if value in (None, ""):
        return "venv"
    if not isinstance(value, str) or value.lower() not in KINDS:
        raise InvalidRequest(
            f"environment {name!r}: type is {_shown(value)}{nearest(str(value), KINDS)}; it must be one of {', '.join(KINDS)}"
        )
    return KINDS[value.lower()]


def _path(name: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str | os.PathLike):
        raise InvalidRequest(f"environment {name!r}: path is {_shown(value)}; it must be text")
    path = os.path.expanduser(os.fspath(value))
    if not isinstance(path, str) or "\0" in path or "\n" in path:
        raise InvalidRequest(f"environment {name!r}: path is {_shown(value)}; it must be text of one line")
    return os.path.normpath(path)


def _version(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        raise InvalidRequest(
            f"environment {name!r}: version is the number {value}; give it as text, such as '3.10': as a number that is 3.1"
        )
    match = _VERSION.fullmatch(str(value).strip()) if isinstance(value, str | int) and not isinstance(value, bool) else None
    if match is None:
        raise InvalidRequest(f"environment {name!r}: version is {_shown(value)}; it must be one of Python, such as '3.11'")
    return match[1]


def _lines(name: str, key: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list | tuple):
        raise InvalidRequest(f"environment {name!r}: {key} is {_shown(value)}; it must be text, or a list of text")
    for entry in entries:
        if not isinstance(entry, str) or not entry.strip() or "\0" in entry:
            raise InvalidRequest(f"environment {name!r}: {key} holds {_shown(entry)}; each entry must be text, and not empty")
    return tuple(entries)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
