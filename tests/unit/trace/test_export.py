"""Exports can be read back by those they are for."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path

from test_catalogue import make_eventful_run
from trace_builders import AgentLog, batch, random_run

from pilotage.model import states
from pilotage.trace import CATALOGUE, read_session
from pilotage.trace.export import write_chrome_trace, write_events_csv, write_prof_csv, write_tasks_csv
from pilotage.trace.run import STATIONS


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_of_tasks_has_each_task_and_nothing_where_no_station_was_passed(session: Path) -> None:
    make_eventful_run(session)
    run = read_session(session)
    write_tasks_csv(run, session / "tasks.csv")
    table = rows(session / "tasks.csv")
    assert [row["uid"] for row in table] == run.tasks.uid
    for row, task in zip(table, run.tasks, strict=True):
        assert row["state"] == task.state
        times = {station: getattr(task, station) for station in STATIONS}
        assert {station: row[station] for station in STATIONS} == {
            station: f"{time:.6f}" if time else "" for station, time in times.items()
        }
        assert row["ending"] == ("" if task.ending is None else task.ending.name)
        assert row["exit_code"] == ("" if task.exit_code is None else str(task.exit_code))


def test_the_table_of_events_has_names_of_the_catalogue_and_attributes_that_are_json(session: Path) -> None:
    make_eventful_run(session)
    write_events_csv(session, session / "events.csv")
    table = rows(session / "events.csv")
    assert {row["name"] for row in table} <= {kind.name for kind in CATALOGUE}
    assert all(isinstance(json.loads(row["attributes"]), dict) for row in table)
    assert all(float(row["time"]) >= 100.0 for row in table)


def test_profiles_advance_a_task_through_states_that_radical_pilot_knows(session: Path) -> None:
    make_eventful_run(session)
    write_prof_csv(session, session / "session.prof")
    table = rows(session / "session.prof")
    assert list(table[0]) == ["#time", "event", "comp", "thread", "uid", "state", "msg"]
    advances = [row["state"] for row in table if row["uid"] == "task.0" and row["event"] == "advance"]
    assert advances == [
        states.TMGR_SCHEDULING, states.AGENT_STAGING_INPUT_PENDING, states.AGENT_SCHEDULING,
        states.AGENT_EXECUTING_PENDING, states.AGENT_EXECUTING, states.AGENT_STAGING_OUTPUT_PENDING,
        states.TMGR_STAGING_OUTPUT_PENDING, states.CANCELED,
    ]  # fmt: skip
    assert [row["state"] for row in table if row["uid"] == "pilot.0000" and row["event"] == "advance"][-1] == states.DONE
    assert all(bool(row["state"]) == (row["event"] == "advance") for row in table)


def test_a_timeline_has_a_bar_for_each_attempt_that_began_and_bars_of_a_core_do_not_overlap(session: Path) -> None:
    for seed in range(8):
        folder = session / str(seed)
        random_run(folder, seed)
        run = read_session(folder)
        write_chrome_trace(run, folder / "trace.json")
        events = json.loads((folder / "trace.json").read_text())["traceEvents"]
        attempts = run.pilots[next(iter(run.pilots))].attempts
        bars = [event for event in events if event["ph"] == "X"]
        assert sum(bar["cat"] != "launch" for bar in bars) == sum(1 for started in attempts.started if started)
        assert all(bar["dur"] >= 0 and bar["ts"] >= 0 for bar in bars)
        named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
        assert {(bar["pid"], bar["tid"]) for bar in bars} == named
        for thread in named:
            spans = sorted((bar["ts"], bar["ts"] + bar["dur"]) for bar in bars if (bar["pid"], bar["tid"]) == thread)
            assert all(before[1] <= after[0] + 0.2 for before, after in pairwise(spans))


def test_a_run_without_anything_gives_empty_but_valid_files(session: Path) -> None:
    run = read_session(session)
    write_tasks_csv(run, session / "tasks.csv")
    write_events_csv(session, session / "events.csv")
    write_chrome_trace(run, session / "trace.json")
    assert rows(session / "tasks.csv") == rows(session / "events.csv") == []
    assert json.loads((session / "trace.json").read_text())["traceEvents"] == []


def test_a_timeline_names_the_first_core_of_each_lane(session: Path) -> None:
    agent = AgentLog(session)
    agent.start(100.0, 100.5)
    agent.submit(101.0, batch(["task.0", "task.1"]))
    agent.ended(103.0, ("task.0", 101.5, 102.5), ("task.1", 101.5, 102.5))
    write_chrome_trace(read_session(session), session / "trace.json")
    events = json.loads((session / "trace.json").read_text())["traceEvents"]
    assert [event["args"]["name"] for event in events if event["name"] == "thread_name"] == ["node0 core 0", "node0 core 1"]
    (bar,) = [event for event in events if event["name"] == "name of task.0"]
    assert (bar["ts"], bar["dur"], bar["args"]["uid"], bar["args"]["ending"]) == (1.5e6, 1e6, "task.0", "DONE")
