"""On which kind of file system a folder lies."""

from __future__ import annotations

import re
from pathlib import Path


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the kind of file system that holds ``folder``, which exists, as the kernel names it; empty if it does not tell."""
    place = folder.resolve()
    best: tuple[int, str] = (-1, "")
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        words = before.split()
        if len(words) < 5 or not after:
            continue
        mounted = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), words[4]))
        # Of two on the same place the later one is seen.
        if place.is_relative_to(mounted) and len(mounted.parts) >= best[0]:
            best = (len(mounted.parts), after.split()[0])
    return best[1]
