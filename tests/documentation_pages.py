"""The pages of the documentation, as tests run them.

The blocks of a page belong together: all its Python blocks make one program, in their order, and all its ``console`` blocks
are one shell, in which each line after ``$`` must succeed and print what stands below it (``...`` stands for anything). A page
is run in a folder of its own, with the files that its ``text title="NAME"`` and ``python title="NAME"`` blocks show.

A page that says ``<!-- needs: slurm -->`` is run where there is one.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PATIENCE_S = 110
ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
_BLOCK = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')
_NEEDS = re.compile(r"^<!-- needs: (\w+) -->$", re.MULTILINE)


class Page:
    """The blocks of a page."""

    def __init__(self, path: Path) -> None:
        self.files: dict[str, str] = {}
        self.program = ""
        self.shell: list[str] = []
        text = path.read_text()
        needs = _NEEDS.search(text)
        self.needs = needs[1] if needs else ""
        for indent, language, rest, body in _BLOCK.findall(text):
            code = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
            title = _TITLE.search(rest)
            if title is not None:
                self.files[title[1]] = code
            elif language == "python":
                self.program += code
            elif language == "console":
                self.shell.append(code)


def commands(block: str) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with what it is to print."""
    found: list[tuple[str, str]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif line.startswith("> ") and found:
            found[-1] = (f"{found[-1][0]}\n{line[2:]}", "")
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
    return found


def is_as_shown(expected: str, printed: str) -> bool:
    """Tell whether output looks like that on a page: what stands between ``...``, in this order, blanks of any width."""
    at = 0
    # A whole line of ``...`` stands for any number of lines, none too.
    for part in re.split(r"(?m)^\.\.\.\n|\.\.\.", expected.strip()):
        found = re.compile(re.escape(part.strip(" ")).replace(r"\ ", r"\s+")).search(printed, at)
        if found is None:
            return False
        at = found.end()
    return True


def newcomers_environment(folder: Path) -> dict[str, str]:
    """Return a newcomer's environment: our commands in PATH, a home of their own. ``folder`` is where these are made."""
    binaries = folder / "bin"
    binaries.mkdir()
    command = binaries / "pilotage"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pilotage.cli "$@"\n')
    command.chmod(0o755)
    (binaries / "python").symlink_to(sys.executable)
    return {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PILOTAGE_HOME": str(folder / "home"),
        "COLUMNS": "120",
    }


def place_of(page: Page, folder: Path) -> Path:
    """Return a folder with the files of a page."""
    place = folder / "here"
    place.mkdir()
    for name, content in page.files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(content)
        if content.startswith("#!"):
            (place / name).chmod(0o755)
    return place


def run_program(page: Page, place: Path, environment: Mapping[str, str]) -> None:
    """Run the Python of a page; it has to end well."""
    (place / "page.py").write_text(page.program)
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=place, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def run_commands(page: Page, place: Path, environment: Mapping[str, str]) -> None:
    """Run the commands of a page; each has to succeed, and print what the page says."""
    for block in page.shell:
        for command, expected in commands(block):
            done = subprocess.run(
                ["bash", "-c", command], cwd=place, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
            )
            assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
            if expected:
                assert is_as_shown(expected, done.stdout + done.stderr), f"$ {command}\n{done.stdout}\n{done.stderr}"
