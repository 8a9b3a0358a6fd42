"""Shapes of tasks for the tests of launch methods, and how a line is shown in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pilotage.launchers.method import Installed, LaunchLine, LaunchRequest, step_name
from pilotage.launchers.registry import launch_method
from pilotage.model.ranks import RankSlot

FOLDER = "/scratch/pilot"
NAMES = {index: f"n{index:02}" for index in range(100)}
NIDS = {index: f"nid{index + 10:05}" for index in range(100)}


def slots_on(nodes: Sequence[int], cores: int = 1, gpus: int = 0) -> list[RankSlot]:
    """Return slots of ranks on these nodes; those of a node take its cores and GPUs in their order."""
    taken: dict[int, int] = {}
    slots = []
    for node in nodes:
        local = taken.get(node, 0)
        taken[node] = local + 1
        own_cores = tuple(range(local * cores, (local + 1) * cores))
        slots.append(RankSlot(node, local, own_cores, tuple(range(local * gpus, (local + 1) * gpus))))
    return slots


def variables_of(slots: Sequence[RankSlot]) -> list[dict[bytes, bytes]]:
    """Return the variables of ranks as a spawner gives them."""
    return [
        {
            b"PILOTAGE_RANK": b"%d" % rank,
            b"PILOTAGE_NODE": NAMES[slot.node].encode(),
            **({b"CUDA_VISIBLE_DEVICES": ",".join(map(str, slot.gpus)).encode()} if slot.gpus else {}),
        }
        for rank, slot in enumerate(slots)
    ]


def request_on(
    nodes: Sequence[int],
    cores: int = 1,
    gpus: int = 0,
    *,
    slots: Sequence[RankSlot] = (),
    bound: bool = True,
    names: Mapping[int, str] = NAMES,
    command: Sequence[str] = ("./md", "-x"),
    folder: str = FOLDER,
    memory_mib: int = 0,
    exclusive: bool = False,
    here: bool = False,
    environment: Mapping[bytes, bytes] | None = None,
    words: Sequence[str | None] = (),
) -> LaunchRequest:
    """Return a request for one rank on each of the nodes named, a node as often as it has ranks; or for these slots."""
    slots = slots or slots_on(nodes, cores, gpus)
    return LaunchRequest(
        slots,
        command,
        variables_of(slots),
        names,
        [frozenset(slot.cores) for slot in slots] if bound else None,
        words,
        step_name("task.000007", 1),
        folder,
        here,
        memory_mib,
        exclusive,
        environment or {},
    )


def rendered(method: str, installed: Installed, request: LaunchRequest) -> LaunchLine:
    """Return the line of a method by its name."""
    return launch_method(method).render(installed, request)


def shown(line: LaunchLine) -> str:
    """Return a line up to the script of its ranks, as one would read it in a terminal."""
    begin = line.arguments.index("/bin/sh") if "/bin/sh" in line.arguments else len(line.arguments)
    return " ".join(line.arguments[:begin])


def installed_of(name: str) -> Installed:
    """Return a launcher of which the method knows all it needs."""
    facts = launch_method(name).facts
    kind = next((kind for kind in facts.rank_variables if kind), "")
    given = {"dvm_uri": "file:/dvm", "block": "R00"}
    return Installed(facts.commands[0], kind, "5.0", (), {key: value for key, value in given.items() if key in facts.options})
