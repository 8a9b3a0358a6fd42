"""A pilot of many partitions, each with an agent process of its own: null tasks, which are simulated, through head and agents.

All processes share this machine, so what counts for a machine of many nodes is the time that each of them takes for a task.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pilotage as rp
from pilotage.bench.measure import Row, descendants, row
from pilotage.bench.runs import bench_pilot

PARTITIONS = 64
CORES = 64
"""Cores of a partition's one node."""


def partitions(quick: bool = False) -> list[Row]:
    """F071: 64 agents of partitions below one head."""
    count = 100_000 if quick else 400_000
    plan = [{"name": f"p{number:02}", "nodes": 1} for number in range(PARTITIONS)]
    shape: dict[str, Any] = {"nodes": PARTITIONS, "cores_per_node": CORES, "cores": None}
    with bench_pilot(resource="local.emulated", executor="simulated", partitions=plan, **shape) as bench:
        bench.run([rp.TaskDescription(executable="/bin/true") for _ in range(10 * PARTITIONS)])
        folder = Path(bench.pilot.sandbox)
        head, agents = _processes(folder)
        descriptions = [rp.TaskDescription(executable="/bin/true") for _ in range(count)]
        before = _cpu_s([head]), _cpu_s(agents), time.process_time()
        start = time.perf_counter()
        bench.run(descriptions)
        rate = count / (time.perf_counter() - start)
        of_head, of_agents, of_client = _cpu_s([head]), _cpu_s(agents), time.process_time()
        sizes = [_private_bytes(pid) for pid in agents]
        idle_from, idle_cpu = time.perf_counter(), _cpu_s([head, *agents])
        time.sleep(3 if quick else 10)
        idle = (_cpu_s([head, *agents]) - idle_cpu) / (time.perf_counter() - idle_from)
    what = f"{count} null tasks over {PARTITIONS} partitions"
    return [
        row(what, rate, "tasks/s", target=">= 20,000/s"),
        row(f"{what}: head", (of_head - before[0]) / count * 1e6, "us of a core/task"),
        row(f"{what}: all agents", (of_agents - before[1]) / count * 1e6, "us of a core/task"),
        row(f"{what}: client", (of_client - before[2]) / count * 1e6, "us of a core/task"),
        row("agent of a partition: private memory", max(sizes) / 2**20, "MiB"),
        row(f"head and {PARTITIONS} agents, idle", idle * 100, "% of a core"),
    ]


def _processes(pilot_folder: Path) -> tuple[int, list[int]]:
    """Return the pids of the head and of the partitions' agents."""
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
    if not head or len(agents) != PARTITIONS:
        raise RuntimeError(
            f"of a head and {PARTITIONS} agents {len(agents)} agents were found, and {'a' if head else 'no'} head"
        )
    return head, agents


def _cpu_s(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text()
        numbers = fields[fields.rindex(")") + 2 :].split()
        total += int(numbers[11]) + int(numbers[12])
    return total / os.sysconf("SC_CLK_TCK")


def _private_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Dirty:",)):
            return int(line.split()[1]) * 1024
    return 0
