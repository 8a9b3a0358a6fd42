"""What a pilot's description says of the end of its time: the drain, the signal to tasks, the pilots that follow."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from pilotage.core.client.successors import UNTIL_DONE
from pilotage.errors import InvalidPilot, nearest

if TYPE_CHECKING:
    from pilotage.client.pilot_description import PilotDescription

CHECKPOINT_SIGNALS = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2")
"""Those that a shell which waits for its program leaves to it."""


def verify_walltime(pilot: str, description: PilotDescription) -> None:
    """Check what is said of the end of the pilot's time. ``pilot`` is how messages name it.

    Raises:
        InvalidPilot: names the value, the limit and the remedy.
    """
    drain_s, runtime_s = description.drain_s, description.runtime * 60
    if drain_s >= runtime_s:
        raise InvalidPilot(
            f"{pilot}: drain_s={drain_s:g}: no task would ever begin, as its runtime={description.runtime:g} minutes are "
            f"{runtime_s:g} s; give it a longer runtime, or a shorter drain_s"
        )
    if checkpoint_signal_of(pilot, description) and not drain_s:
        raise InvalidPilot(
            f"{pilot}: checkpoint_signal={description.checkpoint_signal!r} is sent drain_s before the end, and drain_s is 0; "
            "set drain_s to the seconds that tasks need to save what they have"
        )
    successors = description.get("successors", 0)
    is_count = isinstance(successors, int) and not isinstance(successors, bool) and successors >= 0
    if not is_count and successors != UNTIL_DONE:
        raise InvalidPilot(f"{pilot}: successors={successors!r}: give a number, 0 or more, or {UNTIL_DONE!r}")
    if successors and description.get("services", []):
        raise InvalidPilot(
            f"{pilot}: both successors={successors!r} and services are given, and services end with their pilot; leave one of "
            "them out, or submit the services as tasks"
        )


def checkpoint_signal_of(pilot: str, description: PilotDescription) -> int:
    """Return the number of the signal that executables get when the drain begins; 0: none.

    Raises:
        InvalidPilot: there is no such signal, or none that can be caught.
    """
    given = description.checkpoint_signal
    if not given:
        return 0
    name = given.upper().removeprefix("SIG")
    if name not in CHECKPOINT_SIGNALS:
        raise InvalidPilot(
            f"{pilot}: checkpoint_signal={given!r} is not one of {', '.join(CHECKPOINT_SIGNALS)}"
            f"{nearest(name, CHECKPOINT_SIGNALS)}"
        )
    return int(signal.Signals[f"SIG{name}"])
