"""What can be told of sessions from their folders, whole or not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_catalogue import make_eventful_run
from trace_builders import AgentLog, ClientLog, batch, outcome

from pilotage.core.client import facts as client
from pilotage.log.format import list_segments
from pilotage.model.ids import Binding, PilotUid, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.states import CANCELED, DONE, TMGR_SCHEDULING
from pilotage.trace.listing import list_sessions, list_tasks, session_summary, show_task

PILOT = PilotUid("pilot.0000")


def test_sessions_are_listed_the_last_written_first_and_other_folders_are_not(session: Path) -> None:
    base = session.parent
    for name, changed in (("older", 1000.0), ("newer", 2000.0)):
        ClientLog(base / name).begin(100.0)
        for entry in (base / name / "client", *(base / name / "client").iterdir()):
            os.utime(entry, (changed, changed))
    AgentLog(base / "newer")
    for entry in (base / "newer" / PILOT / "log", *(base / "newer" / PILOT / "log").iterdir()):
        os.utime(entry, (1500.0, 1500.0))
    (base / "not a session").mkdir()
    (base / "a file").touch()

    found = list_sessions(base)

    assert [(entry.uid, entry.pilots, entry.changed) for entry in found] == [("newer", [PILOT], 2000.0), ("older", [], 1000.0)]
    assert list_sessions(base / "nowhere") == []


def test_a_summary_counts_tasks_by_state(session: Path) -> None:
    make_eventful_run(session)
    summary = session_summary(session)
    assert (summary.uid, summary.opened, summary.closed, summary.remarks) == (session.name, 100.0, 113.0, [])
    assert summary.tasks == {CANCELED: 5}
    (pilot,) = summary.pilots
    assert (pilot.uid, pilot.state, pilot.cores, pilot.nodes, pilot.active, pilot.ended) == (PILOT, DONE, 2, 1, 101.0, 112.0)


def test_tasks_are_chosen_by_state_and_by_a_pattern_of_name_or_uid(session: Path) -> None:
    user = ClientLog(session)
    user.begin(100.0)
    user.submit(101.0, batch([f"task.{i}" for i in range(12)]), pilot="")
    user.write(client.TasksSettled(102.0, Ending.CANCELLED, "cancelled", [TaskUid("task.3")]))
    assert [task.uid for task in list_tasks(session, states=[CANCELED])] == ["task.3"]
    assert [task.uid for task in list_tasks(session, name="task.1*")] == ["task.1", "task.10", "task.11"]
    assert [task.uid for task in list_tasks(session, name="name of *.2")] == ["task.2"]
    assert [task.uid for task in list_tasks(session, states=[TMGR_SCHEDULING], limit=2)] == ["task.0", "task.1"]
    assert len(list_tasks(session)) == 12


def test_a_task_is_shown_with_its_description_outcome_and_events(session: Path) -> None:
    make_eventful_run(session)
    shown = show_task(session, "task.0")
    assert shown is not None and shown.template is not None and shown.row is not None and shown.outcome is not None
    assert (shown.task.state, shown.template.executable, shown.row.name) == (CANCELED, "/bin/true", "name of task.0")
    assert (shown.outcome.ending, shown.events[0].name, shown.events[-1].name) == (
        Ending.CANCELLED,
        "task.submitted",
        "task.final",
    )
    assert show_task(session, "no such task") is None


def test_the_outcome_shown_is_the_one_that_counted(session: Path) -> None:
    user = ClientLog(session)
    user.begin(100.0, PILOT, "pilot.0001")
    user.submit(101.0, batch(["task.0"]))
    user.write(client.TasksUnbound(102.0, [TaskUid("task.0")]))
    user.write(client.TasksBound(103.0, PilotUid("pilot.0001"), Binding(2), [TaskUid("task.0")]))
    user.receive(104.0, [outcome("task.0", 1, 1, 1, 1, ending=Ending.EXITED)])
    user.receive(105.0, [outcome("task.0", 103.5, 104, 104, 104.5, binding=2)], pilot="pilot.0001")

    shown = show_task(session, "task.0")

    assert shown is not None and shown.outcome is not None
    assert (shown.outcome.binding, shown.outcome.ending) == (2, Ending.DONE)


@pytest.mark.parametrize("log", ["client", f"{PILOT}/log"])
def test_a_session_is_listed_wherever_a_log_of_it_is_cut(session: Path, log: str) -> None:
    make_eventful_run(session)
    (segment,) = list_segments(session / log)
    whole = segment.path.read_bytes()
    counts = []
    for length in (*range(0, len(whole), 97), len(whole)):
        segment.path.write_bytes(whole[:length])
        summary = session_summary(session)
        counts.append(sum(summary.tasks.values()))
        show_task(session, "task.0")
        list_tasks(session, states=[DONE])
        assert [entry.uid for entry in list_sessions(session.parent)] == [session.name]
    assert counts == sorted(counts)
    assert counts[-1] == 5
