"""What a session does when its log cannot be written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pilotage as rp
from pilotage.client import fact_log
from pilotage.log.writer import LogWriter


def failing(times: int, *, transient: bool) -> Callable[[LogWriter, Any], int]:
    append = LogWriter.append
    left = times

    def fail_first(self: LogWriter, record: Any) -> int:
        nonlocal left
        if left > 0:
            left -= 1
            raise rp.BackendError("no room for 100 bytes: the disk is full; make room there", transient=transient)
        return append(self, record)

    return fail_first


def test_a_disk_that_is_full_for_a_moment_delays_the_submission(
    session: rp.Session, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = rp.TaskManager(session)
    monkeypatch.setattr(fact_log, "DISK_FULL_PAUSE_S", 0.001)
    monkeypatch.setattr(LogWriter, "append", failing(3, transient=True))
    manager.submit_tasks({"executable": "/bin/true", "uid": "kept"})
    session.close(terminate=False)
    with rp.Session.resume(session.uid, base=base) as again:
        assert again.get_task_managers("tmgr.0000").list_tasks() == ["kept"]


def test_a_log_that_fails_stops_the_session_at_the_callers_line_and_resume_has_what_was_promised(
    session: rp.Session, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = rp.TaskManager(session)
    promised = manager.submit_tasks({"executable": "/bin/true", "uid": "promised"})
    with monkeypatch.context() as patch:
        patch.setattr(LogWriter, "append", failing(1, transient=False))
        with pytest.raises(rp.BackendError, match=r"disk is full(?s:.)*resume"):
            manager.submit_tasks({"executable": "/bin/true", "uid": "refused"})
    with pytest.raises(rp.BackendError, match="has stopped"):
        manager.submit_tasks({"executable": "/bin/true"})
    with pytest.raises(rp.BackendError, match="has stopped"):
        promised.wait(timeout=30)
    session.close()
    with rp.Session.resume(session.uid, base=base) as again:
        assert again.get_task_managers("tmgr.0000").list_tasks() == ["promised"]
