"""The report has the numbers of the session, for any session: long, short, broken, running, empty."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from invented_runs import InventedRun, report_of, varied_run
from trace_builders import AgentLog, batch, random_run

from pilotage.analytics import Session
from pilotage.analytics.report import Report, verdict
from pilotage.model.outcome import Ending


@pytest.mark.parametrize("seed", range(8))
def test_the_parts_of_a_report_agree_with_each_other_and_with_the_session(session_folder: Path, seed: int) -> None:
    random_run(session_folder, seed)
    session = Session.read(session_folder)
    report = report_of(session)
    figures = report.figures
    assert figures == session.figures()
    assert sum(kind.tasks for kind in report.kinds) == sum(group.tasks for group in report.groups) == figures.tasks
    assert sum(kind.failed for kind in report.kinds) == sum(cause.count for cause in report.causes) == figures.failed
    assert sum(report.endings.values()) == figures.tasks - figures.unfinished
    assert sum(part.share for part in report.cores.parts) == pytest.approx(1.0)
    for scheme in report.schemes.values():
        assert sum(part.seconds for part in scheme) == pytest.approx(report.cores.seconds)
    for stage, distribution in zip(report.stages, report.distributions, strict=True):
        assert (stage.stage, stage.count) == (distribution.stage, sum(distribution.counts))
        assert len(distribution.edges_s) == len(distribution.counts) + 1
        assert distribution.edges_s[-1] >= stage.most_s * (1 - 1e-9)
    assert all(len(series.values) == len(report.rates.at) - 1 for series in report.rates.series)


@pytest.mark.parametrize("seed", range(4))
def test_over_time_the_states_fill_the_pilot(session_folder: Path, seed: int) -> None:
    random_run(session_folder, seed)
    usage = report_of(Session.read(session_folder)).cores
    for place, (left, right) in enumerate(zip(usage.at, usage.at[1:], strict=False)):
        if right > left:
            assert sum(part.values[place] for part in usage.parts) == pytest.approx(usage.capacity, abs=0.01)
    for part in usage.parts:
        area = sum(value * (right - left) for value, left, right in zip(part.values, usage.at, usage.at[1:], strict=False))
        assert area == pytest.approx(part.seconds, abs=1e-3 * usage.seconds)


def test_a_report_of_a_varied_run() -> None:
    report = report_of(varied_run().session())
    assert verdict(report) == "2 of 5 tasks done, 1 failed, 1 cancelled, 1 unfinished in 10 s"
    assert [(kind.kind, kind.tasks) for kind in report.kinds] == [("executable", 4), ("function", 1)]
    groups = {group.group: (group.tasks, group.core_s) for group in report.groups}
    assert groups == {"md #": (2, 24.0), "function": (1, 1.0), "executable": (1, 1.0), "analysis": (1, 0.0)}
    assert [(node.node, node.tasks, node.failed) for node in report.nodes] == [("node0", 1, 0), ("node1", 4, 1)]
    (pilot,) = report.pilots
    assert (pilot.resource, pilot.begin_s, pilot.ready_s, pilot.end_s) == ("test.cluster", 0.0, 1.0, 100.0)
    (cause,) = report.causes
    assert (cause.task, cause.first_s, cause.exit_code) == ("task.0001", 8.0, 1)
    assert report.gpus is not None and report.gpus.capacity == 2.0
    assert [part.name for part in report.cores.parts][:2] == ["running: executable", "running: function"]
    assert report.groups_left_out == report.causes_left_out == report.printed_left_out == 0


def test_of_many_names_and_causes_those_that_matter_are_shown_and_the_rest_is_counted() -> None:
    made = InventedRun()
    for number in range(60):
        letters = chr(97 + number // 26) + chr(97 + number % 26)
        for _ in range(2 if number == 59 else 1):
            made.add(
                100.0, 101.0 + number, name=letters, ending=Ending.EXITED, message=f"no {letters}", lane=0 if number else None
            )
    report = report_of(made.session())
    assert (len(report.groups), report.groups_left_out) == (25, 35)
    assert (len(report.causes), report.causes_left_out) == (25, 35)
    assert report.groups[0].group == "ch"
    assert report.causes[0].count == 2


def test_a_running_session_says_what_is_to_go(session_folder: Path) -> None:
    agent = AgentLog(session_folder)
    agent.start(100.0, 101.0)
    agent.submit(102.0, batch(["task.0", "task.1", "task.2"]))
    agent.started(103.0, "task.0", 102.5)
    report = report_of(Session.read(session_folder), "open")
    assert verdict(report) == "0 of 3 tasks done, 3 to go"
    assert [advice.level for advice in report.advice] == ["fine"]
    running = next(series for series in report.concurrency.series if series.name == "running")
    assert running.values[-1] == 1.0
    agent.writer.close()


def test_a_session_with_nothing_in_it_has_a_report(session_folder: Path) -> None:
    report = report_of(Session.read(session_folder))
    assert verdict(report) == "No tasks yet"
    assert (report.cores.parts, report.stages, report.causes, report.timeline.cores) == ([], [], [], [])
    assert "no log of a session" in report.remarks[0]


def test_a_report_survives_as_json() -> None:
    report = report_of(varied_run().session())
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_what_processes_printed_is_at_hand(session_folder: Path) -> None:
    random_run(session_folder, 1)
    (session_folder / "pilot.0000" / "agent.err").write_text("".join(f"line {number}\n" for number in range(100)))
    report = report_of(Session.read(session_folder))
    assert (len(report.printed), report.printed_left_out) == (40, 60)
    assert report.printed[-1]["text"] == "line 99"
