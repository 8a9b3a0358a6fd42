"""A pilot of partitions, whose agents are processes of their own or threads of their head's: null tasks, which are simulated,
through head and agents.

All processes share this machine, so what counts for a machine of many nodes is the time that each of them takes for a task.
Memory is what was used at most: of what tasks on their way took, little goes back to the system.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Literal

import pilotage as rp
from pilotage.bench.measure import Row, descendants, row
from pilotage.bench.runs import bench_pilot

MANY = 64
FEW = 4
CORES = 64
"""Cores of a partition's one node."""


def partitions(quick: bool = False) -> list[Row]:
    """F071, A43: 64 agents of partitions below one head, and 4, in both forms."""
    count = 100_000 if quick else 400_000
    idle_s = 3 if quick else 10
    rows = _measured("processes", MANY, count, idle_s)
    rows += _measured("processes", FEW, count // 4, idle_s)
    rows += _measured("threads", FEW, count // 4, idle_s)
    return [*rows, *_measured("threads", MANY, count // 4, idle_s)]


def _measured(form: Literal["processes", "threads"], number: int, count: int, idle_s: float) -> list[Row]:
    plan = [{"name": f"p{index:02}", "nodes": 1} for index in range(number)]
    shape: dict[str, Any] = {"nodes": number, "cores_per_node": CORES, "cores": None}
    with bench_pilot(resource="local.emulated", executor="simulated", partitions=plan, sub_agents=form, **shape) as bench:
        bench.run([rp.TaskDescription(executable="/bin/true") for _ in range(10 * number)])
        head, agents = _processes(Path(bench.pilot.sandbox), number if form == "processes" else 0)
        fresh = _private_bytes([head, *agents])
        descriptions = [rp.TaskDescription(executable="/bin/true") for _ in range(count)]
        before = _cpu_s([head]), _cpu_s(agents), time.process_time()
        start = time.perf_counter()
        bench.run(descriptions)
        rate = count / (time.perf_counter() - start)
        of_head, of_agents, of_client = _cpu_s([head]), _cpu_s(agents), time.process_time()
        used = _private_bytes([head, *agents])
        of_one = max((_private_bytes([pid]) for pid in agents), default=0)
        idle_from, idle_cpu = time.perf_counter(), _cpu_s([head, *agents])
        time.sleep(idle_s)
        idle = (_cpu_s([head, *agents]) - idle_cpu) / (time.perf_counter() - idle_from)
    what = f"{number} partitions, {form}"
    rows = [row(f"{what}: {count} null tasks", rate, "tasks/s", target=">= 20,000/s" if number == MANY and agents else "")]
    if agents:
        rows += [
            row(f"{what}: head", (of_head - before[0]) / count * 1e6, "us of a core/task"),
            row(f"{what}: all agents", (of_agents - before[1]) / count * 1e6, "us of a core/task"),
        ]
    else:
        rows.append(row(f"{what}: head with its agents", (of_head - before[0]) / count * 1e6, "us of a core/task"))
    rows += [
        row(f"{what}: client", (of_client - before[2]) / count * 1e6, "us of a core/task"),
        row(f"{what}: private memory of head and agents, fresh", fresh / 2**20, "MiB"),
        row(f"{what}: private memory of head and agents", used / 2**20, "MiB"),
    ]
    if agents:
        rows.append(row(f"{what}: private memory of the largest agent", of_one / 2**20, "MiB"))
    return [*rows, row(f"{what}: idle", idle * 100, "% of a core")]


def _processes(pilot_folder: Path, number: int) -> tuple[int, list[int]]:
    """Return the pids of the head and of the partitions' agents, of which there have to be ``number``."""
    head, agents = 0, []
    for pid in descendants(os.getpid()):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if any("pilotage.agent.main" in argument for argument in arguments):
            if os.fspath(pilot_folder) in arguments:
                head = pid
            elif any(argument.startswith(f"{pilot_folder}/") for argument in arguments):
                agents.append(pid)
    if not head or len(agents) != number:
        raise RuntimeError(f"of a head and {number} agents {len(agents)} agents were found, and {'a' if head else 'no'} head")
    return head, agents


def _cpu_s(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text()
        numbers = fields[fields.rindex(")") + 2 :].split()
        total += int(numbers[11]) + int(numbers[12])
    return total / os.sysconf("SC_CLK_TCK")


def _private_bytes(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_Dirty:"):
                total += int(line.split()[1]) * 1024
    return total
