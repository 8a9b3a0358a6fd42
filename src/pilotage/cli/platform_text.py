"""What is known of a platform, as rows of tables and as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pilotage.cli.renderers import show, span
from pilotage.model.partitions import PartitionSpec
from pilotage.platforms.allocations.host_lists import compress_numbers
from pilotage.platforms.nodes import this_machine
from pilotage.platforms.platform import Platform, QueueLimits
from pilotage.platforms.registry import SHIPPED, Described

_OWN = {
    "cores_per_node": "cores",
    "gpus_per_node": "gpus",
    "memory_per_node_mib": "memory_mib",
    "disk_per_node_mib": "disk_mib",
}
"""What a platform may leave to the machine itself, and what that is called there."""

_TOLD_ELSEWHERE = ("name", "sources", "partitions", "partitions_from")


def as_row(one: Platform, *, own: bool = False) -> dict[str, Any]:
    """Return all of a platform by field. ``own``: what it leaves to this machine is looked up."""
    row: dict[str, Any] = msgspec.to_builtins(one)
    row["nodes"] = "any number" if one.emulated else str(one.max_nodes or "") if one.batch != "local" else "1"
    if own and one.batch == "local" and not one.emulated:
        here = this_machine(one.sandbox)
        row |= {field: getattr(here, name) for field, name in _OWN.items() if row[field] is None}
    return row


def value_rows(described: Described) -> list[dict[str, Any]]:
    """Return a row for each value that a file says, and for what the machine itself says."""
    one = described.platform
    rows = [{"field": "platform", "value": one.name}]
    for field in one.__struct_fields__:
        if field in _TOLD_ELSEWHERE:
            continue
        for path, value in _values(field, getattr(one, field)):
            places = _places(path, described.origins)
            if places:
                said = ", ".join(map(_shown, places.values()))
                rows.append({"field": path, "value": value, "said": said, "source": _source(described, path, field, places)})
    if one.partitions:
        rows.append({"field": "partitions", "value": str(len(one.partitions)), "said": _shown(one.partitions_from)})
    if one.batch == "local" and not one.emulated:
        here = this_machine(one.sandbox)
        for field, name in _OWN.items():
            if getattr(one, field) is None:
                rows.append({"field": field, "value": str(getattr(here, name)), "said": "this machine"})
    return rows


def partition_row(spec: PartitionSpec) -> dict[str, Any]:
    """Return a partition as a row, in which what is left open is empty."""
    row = {key: value or None for key, value in msgspec.structs.asdict(spec).items()}
    row["nodes"] = spec.nodes or "a share"
    row["range"] = f"{max(1, spec.least_nodes)} to {spec.most_nodes}" if spec.most_nodes else None
    row["policy"] = spec.scheduler.policy
    return row


def limits_text(limits: QueueLimits) -> str:
    """Return what jobs of a queue may ask for.

    >>> limits_text(QueueLimits(max_walltime_minutes=720, min_nodes=3, max_nodes=512))
    'up to 12 h, 3 to 512 nodes'
    >>> limits_text(QueueLimits(max_nodes=4, note="by request"))
    'up to 4 nodes; by request'
    """
    said = []
    if limits.max_walltime_minutes is not None:
        said.append(f"up to {span(limits.max_walltime_minutes * 60)}")
    if limits.min_nodes > 1:
        said.append(f"{limits.min_nodes:,}{f' to {limits.max_nodes:,}' if limits.max_nodes else ' or more'} nodes")
    elif limits.max_nodes is not None:
        said.append(f"up to {limits.max_nodes:,} nodes")
    return "; ".join(part for part in (", ".join(said), limits.note) if part)


def _values(field: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield a field's values by path, as people read them: those of tables one by one, a queue's limits together."""
    match value:
        case dict():
            for name, inner in value.items():
                if isinstance(inner, QueueLimits):
                    yield f"{field}.{name}", limits_text(inner)
                else:
                    yield from _values(f"{field}.{name}", inner)
        case msgspec.Struct():
            for name in value.__struct_fields__:
                yield from _values(f"{field}.{name}", getattr(value, name))
        case tuple() if value and isinstance(value[0], tuple):
            yield field, "; ".join(map(compress_numbers, value))
        case tuple() if value and isinstance(value[0], int):
            yield field, compress_numbers(value)
        case 0:
            yield field, "no" if value is False else "0"
        case _:
            yield field, show(value)


def _places(path: str, origins: Mapping[str, str]) -> dict[str, str]:
    """Return where a value is said, by file; of a table that is shown as one the first line in each file."""
    places: dict[str, str] = {}
    for said, place in origins.items():
        if said == path or said.startswith(f"{path}."):
            places.setdefault(place.rpartition(":")[0], place)
    return places


def _source(described: Described, path: str, field: str, places: Mapping[str, str]) -> str:
    """Return where a value is known from, unless another file says it than the one that knows."""
    for named in (path, field):
        if named in described.platform.sources:
            knows = described.origins[f"sources.{named}"].rpartition(":")[0]
            return described.platform.sources[named] if set(places) == {knows} else ""
    return ""


def _shown(place: str) -> str:
    """Return a place in a file as people read it."""
    path, _, line = place.rpartition(":")
    if Path(path).parent == SHIPPED:
        return f"{Path(path).name}:{line} (shipped)"
    home = os.path.expanduser("~")
    return f"~{place.removeprefix(home)}" if place.startswith(f"{home}/") else place
