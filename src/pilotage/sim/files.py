"""Finds and reads the files that simulations are made of: machines, launchers, workloads, plans, faults.

Each is a TOML file, named by its path or, if it ships with Pilotage, by its name. A machine's and a launcher's numbers each
have a source. What is wrong in a file is told with file, line, value and the nearest name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from pilotage.errors import InvalidRequest, nearest
from pilotage.model.resources import NodeShape, blocks
from pilotage.platforms.toml_values import Source
from pilotage.sim.misfortunes import ADOPTION_S
from pilotage.sim.model import Faults, KindCosts, Launcher, Machine, Quantity
from pilotage.sim.workloads.description import WorkloadDescription

Kind = Literal["machine", "launcher", "workload", "plan", "faults"]
KINDS: tuple[Kind, ...] = ("machine", "launcher", "workload")
"""The kinds of which some ship."""

ENDING = ".toml"
_SHIPPED = Path(__file__).parent
_MOST_LOSS = 0.5
_RATES = ("schedules_per_s", "starts_per_s", "most_at_once", "most_per_node")

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]


class _MachineFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine as its file says it; ``sources`` tells for each number where it is from."""

    description: str
    nodes: AtLeastOne
    cores_per_node: AtLeastOne
    gpus_per_node: NotNegative = 0
    memory_per_node_mib: NotNegative = 0
    disk_per_node_mib: NotNegative = 0
    torus: tuple[AtLeastOne, ...] = ()
    launchers: tuple[str, ...] = ()
    sources: dict[str, str]


class _LauncherFile(Launcher, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A launcher as its file says it."""

    description: str


def shipped(kind: Kind) -> dict[str, Path]:
    """Return the files of a kind that ship with Pilotage, by name."""
    return {path.stem: path for path in sorted((_SHIPPED / f"{kind}s").glob(f"*{ENDING}"))}


def describe(path: Path) -> str:
    """Return what a file that ships says of itself."""
    return str(Source(path, "shipped").content["description"])


def find_file(kind: Kind, name: str, folder: Path | None = None) -> Path:
    """Return the file that ``name`` means: a path, from ``folder`` if it is relative; or the name of a shipped file.

    Raises:
        InvalidRequest: there is none; names the nearest.
    """
    known = shipped(kind)
    if name.endswith(ENDING) or os.sep in name or not known:
        path = (folder or Path()) / Path(name).expanduser()
        if not path.is_file():
            or_name = f", or a name: {', '.join(known)}" if known else ""
            raise InvalidRequest(f"{kind} {name!r}: there is no such file; give the path of one{or_name}")
        return path
    if name not in known:
        raise InvalidRequest(
            f"no {kind} is named {name!r}{nearest(name, known)}; known are {', '.join(known)}; "
            f"for one of your own give its file, such as ./{name or kind}{ENDING}"
        )
    return known[name]


def read_machine(name: str, folder: Path | None = None) -> Machine:
    """Return the machine of this name or file.

    Raises:
        InvalidRequest: there is none, or its file is wrong.
    """
    path = find_file("machine", name, folder)
    source = Source(path, "machine")
    read = source.convert(_MachineFile)
    for field in ("nodes", "cores_per_node", "gpus_per_node", "memory_per_node_mib", "disk_per_node_mib", "torus"):
        if getattr(read, field) and not read.sources.get(field):
            raise source.error((field,), "give its source in the table [sources]")
    for field in read.sources:
        if field not in _MachineFile.__struct_fields__:
            hint = nearest(field, _MachineFile.__struct_fields__)
            raise source.error(("sources", field), f"there is no such field{hint}")
    product = 1
    for size in read.torus:
        product *= size
    if read.torus and product != read.nodes:
        raise source.error(("torus",), f"has {product:,} nodes, and the machine {read.nodes:,}; make them the same")
    return Machine(
        name=path.stem,
        description=read.description,
        nodes=read.nodes,
        shape=NodeShape(
            read.cores_per_node, read.gpus_per_node, blocks(read.memory_per_node_mib), blocks(read.disk_per_node_mib)
        ),
        source="; ".join(f"{field}: {said}" for field, said in read.sources.items()),
        torus=read.torus,
        launchers=read.launchers,
    )


def read_launcher(name: str, folder: Path | None = None) -> Launcher:
    """Return the launcher of this name or file.

    Raises:
        InvalidRequest: there is none, or its file is wrong.
    """
    path = find_file("launcher", name, folder)
    source = Source(path, "launcher")
    read = source.convert(_LauncherFile, name=path.stem)
    for place, quantity in quantities(read):
        _check_quantity(source, place, quantity)
    return Launcher(**{field: getattr(read, field) for field in Launcher.__struct_fields__})


def quantities(launcher: Launcher) -> Iterator[tuple[tuple[str, ...], Quantity]]:
    """Yield all numbers of a launcher, with their place in its file."""
    tables: list[tuple[tuple[str, ...], Launcher | KindCosts]] = [((), launcher)]
    tables += [(("kinds", kind), costs) for kind, costs in launcher.kinds.items()]
    for place, table in tables:
        for field in table.__struct_fields__:
            quantity = getattr(table, field)
            if isinstance(quantity, Quantity):
                yield (*place, field), quantity


def _check_quantity(source: Source, place: tuple[str, ...], quantity: Quantity) -> None:
    written: Mapping[str, Any] = source.content
    for key in place:
        written = written[key]
    if ("value" in written) == bool(quantity.at):
        raise source.error(place, "give one of value and at")
    if not quantity.source.strip():
        raise source.error((*place, "source"), 'say where the number is from, or "assumed" and why')
    given = {"spread": quantity.spread} | ({} if quantity.at else {"value": quantity.value})
    for name, number in [*given.items(), *((f"at.{size}", number) for size, number in quantity.at.items())]:
        if number < 0.0:
            raise source.error((*place, *name.split(".")), f"is {number:g}; give 0 or more")
        if number == 0.0 and place[-1] in _RATES and name != "spread":
            raise source.error(
                (*place, *name.split(".")), "is 0, so that nothing starts; give more, or leave it out for no limit"
            )
    for size in quantity.at:
        if size < 1:
            raise source.error((*place, "at", str(size)), f"{size} is no size; give 1 or more")
    if place == ("failure_share",) and max(quantity.value, *quantity.at.values(), 0.0) > 1.0:
        raise source.error(place, "is a share; give 1 or less")


def read_workload(name: str, folder: Path | None = None) -> WorkloadDescription:
    """Return the description of the workload of this name or file.

    Raises:
        InvalidRequest: there is none, or its file is wrong.
    """
    path = find_file("workload", name, folder)
    source = Source(path, "workload")
    read = source.convert(WorkloadDescription, name=path.stem)
    for place, message in read.faults():
        raise source.error(place, message)
    return read


def read_faults(name: str, folder: Path | None = None) -> Faults:
    """Return the faults of this file.

    Raises:
        InvalidRequest: there is no such file, or it is wrong.
    """
    source = Source(find_file("faults", name, folder), "faults")
    faults = source.convert(Faults)
    check_faults(source, faults, ())
    return faults


def check_faults(source: Source, faults: Faults, path: tuple[str | int, ...]) -> None:
    """Raise what is wrong in faults that stand at ``path`` of a file.

    Raises:
        InvalidRequest: a number is below 0, or a share above 1.
    """
    for field in ("node_losses_per_day", "restart_s", "message_loss", "message_delay_s", "clock_skew_s"):
        value = getattr(faults, field)
        if value < 0.0:
            raise source.error((*path, field), f"is {value:g}; give 0 or more")
    if faults.message_loss > _MOST_LOSS:
        raise source.error((*path, "message_loss"), f"is {faults.message_loss:g}; it is a share, give {_MOST_LOSS:g} or less")
    if faults.restart_s >= ADOPTION_S:
        raise source.error(
            (*path, "restart_s"),
            f"is {faults.restart_s:g}; what runs waits {ADOPTION_S:g} s for an agent, so give less than that",
        )
    for field in ("lose_nodes_at_s", "lose_partitions_at_s", "kill_agents_at_s"):
        for index, (time_s, _) in enumerate(getattr(faults, field)):
            if time_s < 0.0:
                raise source.error((*path, field, index), f"a time of {time_s:g} s is before the begin; give 0 or more")
