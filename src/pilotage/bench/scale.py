"""Many at once, and very many in a row: sleeping executables on an emulated pilot, null tasks that are simulated."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pilotage as rp
from pilotage.bench.measure import Row, descendants, row
from pilotage.bench.runs import bench_pilot

_LOG_FOLDERS = ("client", "log", "history")


def sleepers(quick: bool = False) -> list[Row]:
    """E06: as many ``sleep`` executables as the emulated pilot has cores, all at one time."""
    count = 1024 if quick else 16_384
    with bench_pilot(resource="local.emulated", nodes=count // 32, cores_per_node=32, cores=None) as bench:
        # Long enough for the last to start before the first ends.
        seconds = 10 if quick else 60
        start = time.perf_counter()
        tasks = bench.tasks.submit_tasks(
            [rp.TaskDescription(executable="/bin/sleep", arguments=[str(seconds)]) for _ in range(count)]
        )
        pids = _own_processes()
        most = 0
        while most < count and time.perf_counter() - start < 600:
            most = max(most, sum(task.state == rp.AGENT_EXECUTING for task in tasks))
            if any(task.state in rp.FINAL for task in tasks):
                break
            time.sleep(0.2)
        started = time.perf_counter() - start
        before, since = sum(_own_cpu(pid) for pid in pids), time.perf_counter()
        time.sleep(5 if quick else 15)
        idle = (sum(_own_cpu(pid) for pid in pids) - before) / (time.perf_counter() - since)
        bench.tasks.wait_tasks()
        failed = [task for task in tasks if task.state != rp.DONE]
        reason = f"; the first failure: {failed[0].exception}" if failed else ""
    return [
        row("sleeping executables at one time", most, "tasks", target=f"all {count}"),
        row("sleeping executables: until all run", started, "s"),
        row("sleeping executables: agent and spawners meanwhile", idle * 100, "% of a core", target="< 5 %"),
        row("sleeping executables: accounted for as DONE", count - len(failed), "tasks", target=f"all {count}{reason}"),
    ]


def _own_processes() -> list[int]:
    """The pilot's own processes: Python under this process, not the tasks."""
    found = []
    for pid in descendants(os.getpid()):
        try:
            name = Path(f"/proc/{pid}/comm").read_text()
        except OSError:
            continue
        if pid != os.getpid() and name.startswith("python"):
            found.append(pid)
    return found


def _own_cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text()
    numbers = fields[fields.rindex(")") + 2 :].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def million(quick: bool = False) -> list[Row]:
    """Null tasks through client and agent with the simulated executor: rate, memory of the agent, size of the logs."""
    count = 50_000 if quick else 1_000_000
    with bench_pilot(executor="simulated", cores=64, resource="local.emulated") as bench:
        bench.run([rp.TaskDescription(executable="/bin/true") for _ in range(1000)])
        agent = _agent_pid()
        empty = _resident_bytes(agent)
        rates = []
        parts = 4
        for _ in range(parts):
            descriptions = [rp.TaskDescription(executable="/bin/true") for _ in range(count // parts)]
            start = time.perf_counter()
            bench.run(descriptions)
            rates.append(count / parts / (time.perf_counter() - start))
        after = _resident_bytes(agent)
        folder = Path(bench.session.path)
        logged = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.parent.name in _LOG_FOLDERS)
    with bench_pilot(executor="simulated", cores=1, resource="local.emulated", simulated_duration_s=3600.0) as bench:
        bench.tasks.submit_tasks(rp.TaskDescription(executable="/bin/true"))
        live = count // 2
        agent = _agent_pid()
        base = _resident_bytes(agent)
        bench.tasks.submit_tasks([rp.TaskDescription(executable="/bin/true") for _ in range(live)])
        held = _settled_bytes(agent)
        bench.pilot.cancel()
    total = parts / sum(1 / rate for rate in rates)
    return [
        row(f"{count} simulated null tasks", total, "tasks/s", target=">= 40,000/s"),
        row(
            "simulated null tasks: last quarter",
            rates[-1],
            "tasks/s",
            baseline=rates[0],
            against="first quarter",
            target="flat",
        ),
        row("agent: growth over the run", (after - empty) / 2**20, "MiB", target="flat"),
        row("agent: resident per live task", (held - base) / live, "bytes", target="< 1536"),
        row("logs of client and agent", logged / count, "bytes/task"),
    ]


def _agent_pid() -> int:
    for pid in descendants(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"pilotage.agent.main" in command:
            return pid
    raise RuntimeError("there is no agent among the descendants of this process")


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _settled_bytes(pid: int) -> int:
    """Return the resident memory once it has stopped growing."""
    last = 0
    while True:
        time.sleep(1.0)
        now = _resident_bytes(pid)
        if now <= last * 1.001:
            return now
        last = now
