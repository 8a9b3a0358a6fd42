"""``pilotage run --after``: waiting for the tasks of another session, whoever runs it."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase

from pilotage.cli.progress import Interrupts
from pilotage.cli.renderers import note, plural
from pilotage.core.client.state import TaskRecord
from pilotage.errors import InvalidRequest
from pilotage.model.states import DONE

POLICIES = ("ok", "any", "notok")
SHORTEST_PAUSE_S = 0.2
READING_SHARE = 0.05
"""The share of the time that may be spent reading the other session's log."""


def wait_for_session(wanted: str, policy: str) -> int:
    """Wait for ``SESSION`` or ``SESSION:GLOB`` to end; return 0 if it ended as the policy wants, else an exit code.

    Raises:
        InvalidRequest: there is no such session, no task of such a name or uid, or the policy is none.
    """
    from pilotage.cli.lookup import find_session, living_pilots, read_state, session_state

    if policy not in POLICIES:
        raise InvalidRequest(f"--after-policy {policy!r} is none of {', '.join(POLICIES)}")
    name, _, pattern = wanted.partition(":")
    folder = find_session(name)
    told = False
    with Interrupts() as interrupts:
        while not interrupts.count:
            began = time.monotonic()
            state = read_state(folder)
            tasks = [record for record in state.tasks.values() if _is_meant(record, pattern or "*")]
            if not tasks:
                raise InvalidRequest(f"--after {wanted}: session {folder.name} has no task of such a name or uid")
            left = sum(record.outcome is None for record in tasks)
            if not left:
                return _judge(wanted, policy, tasks)
            if session_state(folder) != "open" and not living_pilots(folder, state):
                note(f"--after {wanted}: {plural(left, 'task')} will not end: nobody runs session {folder.name} any more")
                return 1
            if not told:
                note(f"waiting for {plural(left, 'task')} of session {folder.name}")
                told = True
            interrupts.wait(max(SHORTEST_PAUSE_S, (time.monotonic() - began) / READING_SHARE))
    return 128 + interrupts.number


def _judge(wanted: str, policy: str, tasks: list[TaskRecord]) -> int:
    failed = [record for record in tasks if record.state != DONE]
    if policy == "ok" and failed:
        some = f"{len(failed):,} of {plural(len(tasks), 'task')}"
        note(f"--after {wanted}: {some} failed, such as {failed[0].row.uid}; nothing was run")
        return 1
    if policy == "notok" and not failed:
        note(f"--after {wanted}: no task failed; nothing was run")
        return 1
    return 0


def _is_meant(record: TaskRecord, pattern: str) -> bool:
    return fnmatchcase(record.row.uid, pattern) or fnmatchcase(record.row.name, pattern)
