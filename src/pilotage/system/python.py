"""Starting a Python process of our own quickly, and from the same installation, whatever the user's environment says.

Such a process reads no ``PYTHON*`` variable, no site hooks and nothing from the current folder: it gets the import path of
the installation handed to it. That makes it start in a third of the usual time, and a user's ``queue.py`` or ``PYTHONPATH``
cannot break it. Function workers are different: they must be able to import what the user's program imports.
"""

from __future__ import annotations

import site
import sys
from pathlib import Path


def installation_path() -> list[str]:
    """Return the entries of ``sys.path`` that belong to this Python and to Pilotage, not to the user's program."""
    if sys.flags.no_site:
        # This process was started by ``python_command``: all of its path is the installation's.
        return list(sys.path)
    ours = str(Path(__file__).resolve().parents[2])
    roots = {sys.prefix, sys.base_prefix, sys.exec_prefix, site.getuserbase()}
    inside = tuple(f"{root}/" for root in roots)
    path = [entry for entry in sys.path if entry.startswith(inside)]
    return path if ours in path else [*path, ours]


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs ``main()`` of ``module`` in a process of this installation."""
    program = f"import sys; sys.path[:] = {installation_path()!r}; from {module} import main; main()"
    return [sys.executable, "-I", "-S", "-c", program, *arguments]
