"""A client inside a job: a program that `pilotage submit` runs there, or that a person starts in an allocation.

``$PILOTAGE_ALLOCATION_OF`` names a platform: its pilots then take the nodes of the job that this process is in, and are no jobs
of their own. There can be one such pilot at a time, and it has all nodes of the job. ``$PILOTAGE_SESSION`` is the name of the
session that a submitted program opens, unless it chooses another.
"""

from __future__ import annotations

import os
from pathlib import Path

from pilotage.errors import InvalidPilot

PLATFORM_VARIABLE = "PILOTAGE_ALLOCATION_OF"
SESSION_VARIABLE = "PILOTAGE_SESSION"


def is_inside(platform: str) -> bool:
    """Tell whether pilots of this platform take the nodes of the job around this process."""
    return bool(platform) and os.environ.get(PLATFORM_VARIABLE) == platform


def session_name(base: Path, client_folder: str) -> str:
    """Return the name for the session of a submitted program; empty: it is taken, or this is no such program."""
    name = os.environ.get(SESSION_VARIABLE, "")
    return name if name and not (base / name / client_folder).exists() else ""


def without_submission(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment for tasks: a program that a task runs is not the one that was submitted."""
    return {name: value for name, value in environment.items() if name not in (PLATFORM_VARIABLE, SESSION_VARIABLE)}


def check_inside(pilot: str, platform: str, nodes: int, others: list[str]) -> str:
    """See that the job around this process can have such a pilot, and return what its user should know.

    ``pilot`` is how messages name it, ``others`` are those that have the job's nodes.

    Raises:
        InvalidPilot: it has fewer nodes, or another pilot has them; names the value, the limit and the remedy.
    """
    from pilotage.agent.allocation import ask_system, read_text
    from pilotage.errors import BackendError
    from pilotage.platforms.allocations import discover

    if others:
        raise InvalidPilot(
            f"{pilot}: the nodes of this job are those of pilot {others[0]!r}, which has not ended; use that one, or submit "
            "the second as a job of its own from a login node"
        )
    try:
        found = discover(os.environ, read_text, ask_system)
    except BackendError as error:
        raise InvalidPilot(f"{pilot}: what is told of this job cannot be understood: {error}") from error
    if found is None:
        raise InvalidPilot(
            f"{pilot}: {PLATFORM_VARIABLE}={platform}, and this process is in no job; unset it, or start this inside one"
        )
    there = len(found.nodes)
    if nodes > there:
        raise InvalidPilot(f"{pilot}: {nodes} nodes exceed the {there} of this job; submit the program with --nodes {nodes}")
    job = f"this job {found.job}" if found.job else "this job"
    return f"{pilot} takes the nodes of {job}, {there} of them, and is no job of its own"
