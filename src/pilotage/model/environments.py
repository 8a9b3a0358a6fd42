"""Named environments: what a user says of one, and what it amounts to."""

from __future__ import annotations

from typing import Literal

import msgspec

EnvironmentKind = Literal["shell", "modules", "venv", "conda", "spack"]


class EnvironmentSpec(msgspec.Struct, frozen=True):
    """How to come by an environment. It is built if ``path`` holds none, then evaluated once, in a shell, per pilot.

    ``path``: of the venv or conda environment, by default ``env/<name>`` in the pilot's folder; of a spack environment, its
    activation script. ``version``: of Python, such as ``3.11``. ``modules`` are loaded first, then ``pre_exec`` is run;
    ``setup`` is installed into what is built here.
    """

    kind: EnvironmentKind = "shell"
    path: str = ""
    version: str = ""
    modules: tuple[str, ...] = ()
    pre_exec: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()


class EnvironmentDifference(msgspec.Struct, frozen=True):
    """What an environment is beside the user's own: variables that it sets (or changes), and those that it unsets."""

    variables: dict[str, str]
    unset: tuple[str, ...] = ()
