"""The environments ``rp`` and ``pilotage``: that of the Python in which Pilotage itself runs, and always there."""

from __future__ import annotations

import os
import shlex
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from pilotage.model.environments import EnvironmentDifference
from pilotage.system.python import python_command

OWN_NAMES = ("rp", "pilotage")
"""Environments that need no preparation."""

ENVIRONMENTS_FOLDER = "env"
"""Folder in the pilot's folder that holds what is built there, unless the user names another place."""

COMMANDS_FOLDER = "bin"
"""Folder in the pilot's folder with commands that scripts of RADICAL-Pilot's users call."""

_COMMANDS = {"radical-pilot-service-signal": "pilotage.workers.service"}
"""The commands, and the modules whose ``main`` they run."""


def own_environment(environment: Mapping[str, str], pilot_folder: Path) -> EnvironmentDifference:
    """Return what our Python's environment is beside ``environment``, the user's own."""
    python_folder = Path(sys.executable).parent
    path = [os.fspath(python_folder), os.fspath(pilot_folder / COMMANDS_FOLDER), environment.get("PATH", os.defpath)]
    variables = {"PATH": os.pathsep.join(path)}
    unset = [name for name in ("PYTHONHOME",) if name in environment]
    if (python_folder.parent / "pyvenv.cfg").exists():
        variables["VIRTUAL_ENV"] = os.fspath(python_folder.parent)
    elif "VIRTUAL_ENV" in environment:
        unset.append("VIRTUAL_ENV")
    ours = Path(__file__).resolve().parents[2]
    if not ours.is_relative_to(python_folder.parent):
        # It is not installed there, or is from a working tree.
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [os.fspath(ours), environment.get("PYTHONPATH", "")]))
    return EnvironmentDifference(variables, tuple(unset))


def write_commands(pilot_folder: Path) -> None:
    """Write the commands, if they are not there."""
    folder = pilot_folder / COMMANDS_FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, module in _COMMANDS.items():
        script = folder / name
        if not script.exists():
            # The agents of several partitions may do this at the same time.
            new = folder / f".{name}.{threading.get_native_id()}"
            new.write_text(f'#!/bin/sh\nexec {shlex.join(python_command(module))} "$@"\n')
            new.chmod(0o755)
            new.replace(script)
