"""What a call costs in a function worker: real worker processes, driven through their protocol by a fake agent.

CPU is that of the worker process alone, from ``/proc``; a frame brings 128 calls and two are under way, as an agent does it.
"""

from __future__ import annotations

import argparse
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pilotage.client.serialization import pack_arguments
from pilotage.model.execution import LaneTasks
from pilotage.model.ids import Attempt, LaneId, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.workload import Row, Template
from pilotage.testing.runner_driver import RunnerDriver
from pilotage.wire.pickles import pickle_by_value
from pilotage.wire.runner_messages import DefineTemplates, Launch, TasksEnded

WORKER = RunnerId("worker.0")


def null() -> None:
    """Do nothing."""


def same(value: Any) -> Any:
    """Return the argument."""
    return value


def measure_calls(function: Callable[..., Any], args: tuple[Any, ...], calls: int, per_frame: int) -> dict[str, Any]:
    """Return rate and CPU of ``calls`` calls launched ``per_frame`` at a time with two frames under way."""
    payload = pack_arguments(args, {})
    template = TemplateId(1)
    with tempfile.TemporaryDirectory() as folder, RunnerDriver(Path(folder) / "agent") as driver:
        process = driver.start_runner("pilotage.workers.main", WORKER)
        driver.send(DefineTemplates({template: Template(mode="function", function=pickle_by_value(function))}))

        def launch(first: int, count: int) -> None:
            numbers = range(first, first + count)
            rows = [(Attempt(1), Row(TaskUid(f"task.{number:06d}"), template, (), payload)) for number in numbers]
            driver.send(Launch([LaneTasks(LaneId(1), None, rows)]))

        def ended() -> int:
            ends = [end for _, message in driver.messages if isinstance(message, TasksEnded) for end in message.ends]
            driver.messages.clear()
            if failures := [end for end in ends if end.ending is not Ending.DONE]:
                raise RuntimeError(f"a call failed: {failures[0].message}")
            return len(ends)

        launch(0, 1)
        finished = driver.wait_for(ended)
        launched = 1
        cpu_before, began = cpu_s(process.pid), time.perf_counter()
        while finished < calls + 1:
            while launched < calls + 1 and launched - finished < 2 * per_frame:
                count = min(per_frame, calls + 1 - launched)
                launch(launched, count)
                launched += count
            finished += driver.wait_for(ended)
        wall_s = time.perf_counter() - began
        cpu = cpu_s(process.pid) - cpu_before
        return {"calls": calls, "per_frame": per_frame, "calls_per_s": calls / wall_s, "cpu_us_per_call": 1e6 * cpu / calls}


def measure_start() -> dict[str, Any]:
    """Return the time from spawn to hello, the CPU until then, and the resident memory of an idle worker."""
    with tempfile.TemporaryDirectory() as folder, RunnerDriver(Path(folder) / "agent") as driver:
        began = time.perf_counter()
        process = driver.start_runner("pilotage.workers.main", WORKER)
        start_s = time.perf_counter() - began
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident_kib = int(status.split("VmRSS:")[1].split()[0])
        return {"start_ms": 1e3 * start_s, "start_cpu_ms": 1e3 * cpu_s(process.pid), "resident_mb": resident_kib / 1024}


def cpu_s(pid: int) -> float:
    """Return the CPU time of all threads of a process so far, to the nanosecond."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def measure_packing() -> dict[str, Any]:
    """Return the CPU of pickling the arguments of one small call at the client."""
    repeats = 200_000
    args, kwargs = (1, "two"), {"three": 3.0}
    began = time.process_time()
    for _ in range(repeats):
        pack_arguments(args, kwargs)
    packing = time.process_time() - began
    began = time.process_time()
    for _ in range(repeats):
        pickle.dumps((args, kwargs), 5)
    floor = time.process_time() - began
    return {"pack_us": 1e6 * packing / repeats, "pickle_alone_us": 1e6 * floor / repeats}


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per case; ``quick`` takes about two seconds in place of ten."""
    scale = 1 if quick else 10
    cases: list[tuple[str, Callable[..., Any], tuple[Any, ...], int, int]] = [
        ("null, 128 a frame", null, (), 20_000 * scale, 128),
        ("null, 16 a frame", null, (), 10_000 * scale, 16),
        ("null, 1 a frame", null, (), 1_000 * scale, 1),
        ("same(1), 128 a frame", same, (1,), 20_000 * scale, 128),
        ("same(3 kB), 128 a frame", same, (os.urandom(3_000),), 5_000 * scale, 128),
        ("same(10 kB) into a blob, 128 a frame", same, (os.urandom(10_000),), 2_000 * scale, 128),
    ]
    rows: list[dict[str, Any]] = [
        {"case": name, **measure_calls(function, args, calls, per_frame)} for name, function, args, calls, per_frame in cases
    ]
    rows.append({"case": "start", **measure_start()})
    rows.append({"case": "pack_arguments((1, 'two'), three=3.0)", **measure_packing()})
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls")
    for row in run(parser.parse_args().quick):
        figures = [f"{name}={value:,.2f}" if isinstance(value, float) else f"{name}={value}" for name, value in row.items()]
        print(f"{row['case']:40} {', '.join(figures[1:])}")


if __name__ == "__main__":
    main()
