"""Environments prepared in a folder of the test's own, and programs that stand in for others and keep state."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

from pilotage.environments.preparation import Preparation
from pilotage.environments.spec import parse_spec
from pilotage.model.environments import EnvironmentDifference

PATIENCE_S = 60.0


class Place:
    """A pilot's folder, a folder of stand-in programs on PATH, and the user's environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pilot = folder / "pilot"
        self.pilot.mkdir()
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.environment = {"PATH": f"{self.programs}:{os.defpath}", "HOME": str(folder), "LANG": "C.UTF-8"}

    def preparation(self, spec: dict[str, Any], name: str = "some_env") -> Preparation:
        marks = {"PILOTAGE_ENVIRONMENT": name}
        parsed = parse_spec(name, spec)
        return Preparation(name, parsed, self.environment, self.pilot, str(self.folder), marks, self.folder)

    def prepare(self, spec: dict[str, Any], name: str = "some_env") -> EnvironmentDifference:
        return self.preparation(spec, name).run()

    def program(self, name: str, script: str) -> Path:
        """Put a program on PATH."""
        path = self.programs / name
        path.write_text("#!/bin/bash\n" + textwrap.dedent(script))
        path.chmod(0o755)
        return path

    def python(self, version: str) -> None:
        """Put a stand-in for a Python on PATH, which notes the venvs that it makes."""
        self.program(
            f"python{version}",
            f"""\
            if [ "$1" = -c ]; then echo {version}; exit; fi
            [ "$1 $2" = "-m venv" ] || {{ echo "unknown: $*" >&2; exit 2; }}
            echo "$3" >> {self.folder}/made
            mkdir -p "$3/bin"
            if [ -p {self.folder}/hold ]; then read < {self.folder}/hold; fi
            printf 'VIRTUAL_ENV="%s"; export VIRTUAL_ENV; PATH="$VIRTUAL_ENV/bin:$PATH"\\n' "$3" > "$3/bin/activate"
            printf '#!/bin/sh\\necho "$*" >> {self.folder}/installed\\n' > "$3/bin/python"
            chmod +x "$3/bin/python"
            """,
        )

    def lines(self, name: str) -> list[str]:
        """Return what stand-ins noted in the file of this name."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []
