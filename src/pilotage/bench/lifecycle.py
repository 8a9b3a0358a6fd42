"""From the start of a script to an active pilot, its first result and its end; and what an idle pilot costs."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from pilotage.bench.measure import Row, cpu_s, resident_mib, row

_SCRIPT = """
import time, sys, json
start = float(sys.argv[1])
import pilotage as rp
def null():
    return 1
if __name__ == "__main__":
    session = rp.Session(base=sys.argv[2])
    pilots, tasks = rp.PilotManager(session=session), rp.TaskManager(session=session)
    pilot = pilots.submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=10))
    tasks.add_pilots(pilot)
    task = tasks.submit_tasks(rp.TaskDescription(mode=rp.TASK_FUNCTION, function=null))
    pilot.wait(state=rp.PMGR_ACTIVE)
    active = time.time()
    assert task.result() == 1
    result = time.time()
    session.close()
    print(json.dumps([active - start, result - start, time.time() - result]))
"""

_IDLE = """
import sys
import pilotage as rp
with rp.Session(base=sys.argv[1]) as session:
    pilots, tasks = rp.PilotManager(session=session), rp.TaskManager(session=session)
    tasks.add_pilots(pilots.submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=10)))
    tasks.submit_tasks(rp.TaskDescription(executable="/bin/true")).wait()
    print("idle", flush=True)
    sys.stdin.readline()
"""


def start_and_close(quick: bool = False) -> list[Row]:
    """A fresh Python process each time; times count from before the interpreter starts."""
    figures = []
    with tempfile.TemporaryDirectory(prefix="pilotage-bench-") as base:
        script = os.path.join(base, "script.py")
        with open(script, "w") as file:
            file.write(_SCRIPT)
        for _ in range(3 if quick else 15):
            command = [sys.executable, script, repr(time.time()), base]
            figures.append(json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout))
    active, result, close = (statistics.median(column) for column in zip(*figures, strict=True))
    return [
        row("script start to pilot active", active, "s", target="< 0.25 s"),
        row("script start to first result", result, "s", target="< 0.35 s"),
        row("close", close, "s", target="< 0.2 s"),
    ]


def idle(quick: bool = False) -> list[Row]:
    """An active pilot that has run an executable and has nothing to do, seen from a small program that holds it."""
    seconds = 2.0 if quick else 10.0
    with tempfile.TemporaryDirectory(prefix="pilotage-bench-") as base:
        command = [sys.executable, "-c", _IDLE, base]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
            assert program.stdin is not None and program.stdout is not None
            program.stdout.readline()
            before = cpu_s(program.pid)
            time.sleep(seconds)
            spent = cpu_s(program.pid) - before
            memory, processes = resident_mib(program.pid)
            program.communicate("\n", timeout=60)
    return [
        row("idle: processes", processes, "", target="<= 5"),
        row("idle: resident, all processes", memory, "MiB", target="<= 150 MiB"),
        row("idle: CPU", spent / seconds * 100, "% of a core", target="none measurable"),
    ]
