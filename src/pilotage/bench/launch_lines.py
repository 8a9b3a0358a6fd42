"""How fast launch methods render: lines a second on one core, for one rank, a node's, and a few ranks on two nodes.

What is counted is all that a task costs whose ranks a launcher starts, but for the start: the request is made, and the line
rendered, with the ranks' variables, cores and GPUs in its script. Places differ from task to task, as a scheduler gives them.
The figure is lines per second of CPU time, of the best of several rounds.
"""

from __future__ import annotations

import time

from pilotage.bench.measure import Row, row
from pilotage.launchers.method import Installed, LaunchRequest, Variables, step_name
from pilotage.launchers.registry import launch_method
from pilotage.model.ranks import RankSlot

TARGET = 50_000
_PLACES = 64
_NODES = 100
_NODE_CORES = 56

_INSTALLED = {
    "srun": Installed("/usr/bin/srun"),
    "mpiexec": Installed("/opt/mpich/bin/mpiexec", "mpich", "4.2"),
    "ibrun": Installed("/opt/bin/ibrun", "intelmpi"),
    "jsrun": Installed("/opt/bin/jsrun"),
}
_SHAPES = (("one rank", 1, 1), ("4 ranks on a node", 4, 4), ("2 ranks on each of 2 nodes", 4, 2))


def launch_lines(quick: bool = False) -> list[Row]:
    """Return a row for each method and shape."""
    lines, rounds = (1000, 3) if quick else (20_000, 7)
    rows = []
    for method, installed in _INSTALLED.items():
        for words, ranks, per_node in _SHAPES:
            rate = max(_rate(method, installed, ranks, per_node, lines) for _ in range(rounds))
            rows.append(row(f"{method}, {words}", rate, "lines/s", target=f">= {TARGET}"))
    return rows


def _rate(method: str, installed: Installed, ranks: int, per_node: int, lines: int) -> float:
    """Return lines per second of CPU time."""
    names = {index: f"node{index:05}" for index in range(_NODES)}
    places = [_slots(number, ranks, per_node) for number in range(_PLACES)]
    variables = [[_variables(rank, slot) for rank, slot in enumerate(slots)] for slots in places]
    binds = [[frozenset(slot.cores) for slot in slots] for slots in places]
    name, render = step_name("task.000001", 1), launch_method(method).render
    begin = time.process_time()
    for number in range(lines):
        place = number % _PLACES
        render(
            installed,
            LaunchRequest(
                places[place], ["./md", "-x"], variables[place], names, binds[place], name=name, folder="/scratch/pilot.0000"
            ),
        )
    return lines / (time.process_time() - begin)


def _slots(number: int, ranks: int, per_node: int) -> list[RankSlot]:
    first_node, first_core = number * 7 % (_NODES - ranks), number * per_node % (_NODE_CORES - per_node)
    return [
        RankSlot(first_node + rank // per_node, rank % per_node, (first_core + rank % per_node,), (rank % per_node,))
        for rank in range(ranks)
    ]


def _variables(rank: int, slot: RankSlot) -> Variables:
    """Return what a spawner tells a rank."""
    return {
        b"PILOTAGE_RANK": b"%d" % rank,
        b"RP_RANK": b"%d" % rank,
        b"PILOTAGE_LOCAL_RANK": b"%d" % slot.local_rank,
        b"PILOTAGE_NODE": b"node%05d" % slot.node,
        b"CUDA_VISIBLE_DEVICES": b"%d" % slot.gpus[0],
    }
