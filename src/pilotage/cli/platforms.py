"""``pilotage platforms``: the machines on which pilots can run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilotage.cli.options import FormatOption
from pilotage.cli.renderers import Column, Format, print_one, print_rows

if TYPE_CHECKING:
    from pilotage.model.partitions import PartitionSpec

_COLUMNS = (
    Column("name", "PLATFORM"),
    Column("batch", "BATCH"),
    Column("nodes", "NODES"),
    Column("cores_per_node", "CORES/NODE", right=True),
    Column("gpus_per_node", "GPUS/NODE", right=True),
    Column("memory_per_node_mib", "MIB/NODE", right=True),
    Column("description", "DESCRIPTION"),
)
_DETAILS = (
    Column("name", "platform"),
    Column("description", "description"),
    Column("batch", "batch system"),
    Column("launch_methods", "launch methods"),
    Column("transport", "transport"),
    Column("nodes", "nodes"),
    Column("cores_per_node", "cores per node"),
    Column("gpus_per_node", "GPUs per node"),
    Column("memory_per_node_mib", "memory per node (MiB)"),
    Column("disk_per_node_mib", "disk per node (MiB)"),
    Column("sandbox", "folder of pilots"),
    Column("on_client_loss", "when the client is lost"),
    Column("client_loss_timeout_s", "after", kind="span"),
    Column("partitions_from", "partitions, from"),
)
_PARTITIONS = (
    Column("name", "PARTITION"),
    Column("nodes", "NODES", right=True),
    Column("range", "RANGE"),
    Column("policy", "SCHEDULER"),
    Column("kinds", "KINDS"),
    Column("tags", "TAGS"),
    Column("most_task_nodes", "TASK NODES", right=True),
    Column("longest_s", "LONGEST", kind="span"),
    Column("idle_timeout_s", "IDLE", kind="span"),
)


def platforms(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One platform, in detail.")] = "",
    format: FormatOption = Format.TABLE,
) -> None:
    """List the platforms that pilots can run on, or show one in detail."""
    import msgspec

    from pilotage.platforms import load_platforms, platform
    from pilotage.platforms.nodes import this_machine

    known = load_platforms()
    chosen = [platform(name, known)] if name else list(known.values())
    rows = []
    for one in chosen:
        row = msgspec.structs.asdict(one)
        row["nodes"] = "any number" if one.emulated else "1"
        if not one.emulated and one.batch == "local" and format is Format.TABLE:
            # What the description leaves open is this machine's own.
            here = this_machine(one.sandbox)
            for key, value in (
                ("cores_per_node", here.cores),
                ("gpus_per_node", here.gpus),
                ("memory_per_node_mib", here.memory_mib),
                ("disk_per_node_mib", here.disk_mib),
            ):
                row[key] = value if row[key] is None else row[key]
        rows.append(row)
    if name:
        print_one("platform", rows[0], _DETAILS, format, uid="name")
        if chosen[0].partitions and format is Format.TABLE:
            print()
            print_rows("partitions", [_partition_row(spec) for spec in chosen[0].partitions], _PARTITIONS, format)
    else:
        print_rows("platforms", rows, _COLUMNS, format, uid="name")


def _partition_row(spec: PartitionSpec) -> dict[str, Any]:
    """Return a partition as a row, in which what is left open is empty."""
    import msgspec

    row = {key: value or None for key, value in msgspec.structs.asdict(spec).items()}
    row["nodes"] = spec.nodes or "a share"
    row["range"] = f"{max(1, spec.least_nodes)} to {spec.most_nodes}" if spec.most_nodes else None
    row["policy"] = spec.scheduler.policy
    return row
