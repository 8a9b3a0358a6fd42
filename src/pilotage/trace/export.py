"""Writes a run for other tools: tables as CSV, events as JSON lines, a timeline for trace viewers, RADICAL-Pilot's profiles."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pilotage.model import states
from pilotage.model.outcome import Ending, state_of
from pilotage.trace import catalogue as names
from pilotage.trace.events import read_events
from pilotage.trace.run import STATIONS, PilotTrace, Run, TaskTrace

_encode = msgspec.json.Encoder().encode

_ADVANCES = {
    names.PILOT_SUBMITTED: states.PMGR_LAUNCHING_PENDING,
    names.PILOT_LAUNCHED: states.PMGR_ACTIVE_PENDING,
    names.PILOT_JOB_NAMED: states.PMGR_LAUNCHING,
    names.PILOT_QUEUED: states.PMGR_ACTIVE_PENDING,
    names.PILOT_ACTIVE: states.PMGR_ACTIVE,
    names.TASK_SUBMITTED: states.TMGR_SCHEDULING,
    names.TASK_BOUND: states.AGENT_STAGING_INPUT_PENDING,
    names.TASK_ACCEPTED: states.AGENT_SCHEDULING,
    names.TASK_LAUNCHED: states.AGENT_EXECUTING_PENDING,
    names.TASK_STARTED: states.AGENT_EXECUTING,
    names.TASK_OUTPUT_BEGUN: states.AGENT_STAGING_OUTPUT,
    names.TASK_ENDED: states.AGENT_STAGING_OUTPUT_PENDING,
    names.TASK_COLLECTED: states.TMGR_STAGING_OUTPUT_PENDING,
}
"""The states of RADICAL-Pilot that events stand for."""


def write_tasks_csv(run: Run, path: Path) -> None:
    """Write one line a task: all of ``TaskTrace``, times in seconds since the epoch, empty where not passed."""
    columns = TaskTrace.__struct_fields__
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for task in run.tasks:
            table.writerow([_cell(getattr(task, column), column) for column in columns])


def write_events_csv(folder: Path, path: Path) -> None:
    """Write one line an event of the session in ``folder``: time, name, entity, and the attributes as JSON."""
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("time", "name", "entity", "attributes"))
        for event in read_events(folder):
            table.writerow((f"{event.time:.6f}", event.name, event.entity, _encode(event.attributes).decode()))


def write_events_jsonl(folder: Path, path: Path) -> None:
    """Write one JSON document a line for each event of the session in ``folder``: time, name, entity and attributes."""
    with open(path, "wb") as file:
        for event in read_events(folder):
            file.write(_encode(event) + b"\n")


def write_prof_csv(folder: Path, path: Path) -> None:
    """Write the session's events in the columns of RADICAL-Pilot's profiles: ``advance`` with a state where one is reached."""
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("#time", "event", "comp", "thread", "uid", "state", "msg"))
        for event in read_events(folder):
            component = str(event.attributes.get("pilot", "client"))
            state = _ADVANCES.get(event.name, "")
            if event.name == names.PILOT_FINAL:
                state = str(event.attributes.get("state", ""))
            elif event.name in (names.TASK_FINAL, names.TASK_SETTLED):
                state = state_of(Ending[str(event.attributes["ending"])])
            what = "advance" if state else event.name
            message = "" if state else _encode(event.attributes).decode()
            table.writerow((f"{event.time:.7f}", what, component, "", event.entity, state, message))


def write_chrome_trace(run: Run, path: Path) -> None:
    """Write a timeline in the trace event format (JSON), which Perfetto and Chrome's ``about:tracing`` show.

    A pilot is a process, the first core of a lane a thread; a task is a bar from its start to its end, after a bar of its
    launch. Attempts that were repeated have bars of their own. Times count from the begin of the first pilot.
    """
    begin = min((pilot.begin for pilot in run.pilots.values()), default=0.0)
    with open(path, "wb") as file:
        file.write(b'{"displayTimeUnit":"ms","traceEvents":[\n')
        separator = b""
        for process, pilot in enumerate(run.pilots.values(), start=1):
            for bar in _bars(run, pilot, process, begin):
                file.write(separator + _encode(bar))
                separator = b",\n"
        file.write(b"\n]}\n")


def _bars(run: Run, pilot: PilotTrace, process: int, begin: float) -> Iterator[dict[str, object]]:
    tasks, lanes, attempts = run.tasks, pilot.lanes, pilot.attempts
    yield {"ph": "M", "name": "process_name", "pid": process, "args": {"name": pilot.uid}}
    stride = max((node.shape.cores for node in pilot.nodes), default=1)
    names_of_nodes = {node.index: node.name for node in pilot.nodes}
    threads: set[int] = set()
    shown: set[int] = set()
    for row in range(len(attempts)):
        lane, task = attempts.lane[row], attempts.task[row]
        node, core = lanes.node[lane], lanes.first_core[lane]
        thread = node * stride + core
        if thread not in threads:
            threads.add(thread)
            label = f"{names_of_nodes.get(node, node)} core {core}"
            yield {"ph": "M", "name": "thread_name", "pid": process, "tid": thread, "args": {"name": label}}
        end = attempts.ended[row] or pilot.end
        start = attempts.started[row] or end
        # A task of a chain waits behind others of its lane; only the first of them shows its launch.
        launch: dict[str, object] = {"launched": attempts.launched[row] - begin}
        if lane not in shown:
            shown.add(lane)
            yield _bar("launch", "launch", process, thread, (attempts.launched[row] - begin, start - begin), {})
        if attempts.started[row]:
            ending = tasks.ending[task]
            more = {"uid": tasks.uid[task], "cores": lanes.cores[lane], "ending": ending.name if ending is not None else ""}
            span = (start - begin, end - begin)
            yield _bar(tasks.name[task] or tasks.uid[task], tasks.kind[task], process, thread, span, {**launch, **more})


def _bar(
    name: str, category: str, process: int, thread: int, span: tuple[float, float], arguments: dict[str, object]
) -> dict[str, object]:
    start, end = span
    length = max(0.0, end - start)
    timing = {"ts": round(start * 1e6, 1), "dur": round(length * 1e6, 1)}
    return {"ph": "X", "name": name, "cat": category, "pid": process, "tid": thread, **timing, "args": arguments}


def _cell(value: object, column: str) -> object:
    if value is None or (value == 0.0 and column in STATIONS):
        return ""
    if isinstance(value, Ending):
        return value.name
    return f"{value:.6f}" if column in STATIONS else value
