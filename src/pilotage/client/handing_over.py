"""Leaving pilots to themselves: they are given what they have not been sent, so that they need no client.

A pilot that is connected would have to be asked what it has; so its link is closed, and it looks into its inbox, a folder of
its own, when it has no client any more. There all messages lie that it is not known to have, under their numbers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from pilotage.agent.inbox import hand_over
from pilotage.client.steps import Steps
from pilotage.core.client import events, facts
from pilotage.core.client.state import PilotRecord
from pilotage.errors import BackendError
from pilotage.model.states import FINAL, PMGR_ACTIVE, PMGR_ACTIVE_PENDING

SUBMITTED = frozenset((PMGR_ACTIVE_PENDING, PMGR_ACTIVE, *FINAL))
"""The states of pilots that can be left to themselves."""

ANSWER_PATIENCE_S = 20.0
"""For how long pilots that run may not answer to whom leaves them to themselves."""
LEAVE_PAUSE_S = 0.05


def not_submitted(pilots: Sequence[PilotRecord], timeout_s: float) -> BackendError:
    """Return the error for pilots of which not all were ``SUBMITTED`` within ``timeout_s``."""
    waiting = next(pilot for pilot in pilots if pilot.state not in SUBMITTED)
    reason = waiting.job.reason if waiting.job is not None else ""
    return BackendError(
        f"pilot {waiting.uid!r}: its job was not submitted within {timeout_s:g} s{f': {reason}' if reason else ''}; "
        "nothing was handed over",
        transient=True,
    )


def leave(steps: Steps, pilots: Sequence[PilotRecord]) -> None:
    """Give pilots what they have not been sent, by their inboxes. Nothing can be sent to them afterwards.

    Raises:
        BackendError: a pilot that runs does not answer, or its folder cannot be written.
    """
    until = time.monotonic() + ANSWER_PATIENCE_S
    for pilot in pilots:
        while not _leave(steps, pilot):
            if time.monotonic() > until:
                raise BackendError(
                    f"pilot {pilot.uid!r} runs and has not answered within {ANSWER_PATIENCE_S:g} s, so that it is not "
                    "known what it has; nothing was handed over to it. Try again",
                    transient=True,
                )
            steps.ending.wait(LEAVE_PAUSE_S)


def _leave(steps: Steps, pilot: PilotRecord) -> bool:
    """Hand over to one pilot. False: it has to answer first."""
    with steps.lock:
        steps.check()
        link = steps.links.get(pilot.uid)
        if pilot.state in FINAL or link is None or not (pilot.outbox or pilot.unacknowledged):
            return True
        if not link.is_open and link.was_begun:
            # It may have messages of a program before this one whose end of the log was lost with a node.
            return False
        new_facts: list[facts.Fact] = []
        while pilot.outbox:
            new_facts += steps.decide(events.LinkOpened(pilot.uid, pilot.numbered + 1)).facts
        if new_facts:
            steps.commit(new_facts)
        # What an agent has under a number must never get another content, whatever dies.
        steps.log.sync()
        hand_over(link.folder, ((number, link.frame_of(number)) for number in sorted(pilot.unacknowledged)))
        # An agent that is connected looks at its inbox when it is no more.
        link.close()
        return True
