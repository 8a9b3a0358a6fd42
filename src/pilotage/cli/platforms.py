"""``pilotage platforms``: the machines on which pilots can run; what is known of each and from where; what holds here."""

from __future__ import annotations

from typing import Annotated

import typer

from pilotage.cli.options import FormatOption
from pilotage.cli.renderers import Column, Format, print_json, print_rows

app = typer.Typer(help="The machines on which pilots can run.")

_COLUMNS = (
    Column("name", "PLATFORM"),
    Column("batch", "BATCH"),
    Column("nodes", "NODES"),
    Column("cores_per_node", "CORES/NODE", right=True),
    Column("gpus_per_node", "GPUS/NODE", right=True),
    Column("memory_per_node_mib", "MIB/NODE", right=True),
    Column("status", "STATUS"),
    Column("description", "DESCRIPTION"),
)
_VALUES = (Column("field", "FIELD"), Column("value", "VALUE"), Column("said", "SAID BY"), Column("source", "KNOWN FROM"))
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

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A platform, as in ornl.frontier.")]


@app.callback(invoke_without_command=True)
def platforms(context: typer.Context, format: FormatOption = Format.TABLE) -> None:
    """The machines on which pilots can run."""
    if context.invoked_subcommand is None:
        list_platforms(format)


@app.command("list")
def list_platforms(format: FormatOption = Format.TABLE) -> None:
    """List the platforms that pilots can run on."""
    from pilotage.cli.platform_text import as_row
    from pilotage.platforms import load_platforms

    rows = [as_row(one, own=format is Format.TABLE) for one in load_platforms().values()]
    print_rows("platforms", rows, _COLUMNS, format, uid="name")


@app.command("show")
def show_platform(name: NameArgument, format: FormatOption = Format.TABLE) -> None:
    """Show what is known of a platform: each value, the file and the line that say it, and where that is known from."""
    from pilotage.cli.platform_text import as_row, partition_row, value_rows
    from pilotage.platforms.registry import describe_platforms, platform

    described = describe_platforms()
    shown = platform(name, {known: each.platform for known, each in described.items()})
    if format is Format.JSON:
        print_json({"platform": {**as_row(shown), "origins": described[name].origins}})
    elif format is Format.QUIET:
        print(name)
    else:
        print_rows("values", value_rows(described[name]), _VALUES, format, uid="field")
        if shown.partitions:
            print()
            print_rows("partitions", [partition_row(spec) for spec in shown.partitions], _PARTITIONS, format)


@app.command("check")
def check_platform(
    name: NameArgument,
    queue: Annotated[str, typer.Option(help="Queue or partition of the pilots. Default: the platform's.")] = "",
    project: Annotated[str, typer.Option(help="Project or account that is charged. Default: the platform's.")] = "",
    qos: Annotated[str, typer.Option(help="Quality of service. Default: the platform's.")] = "",
    nodes: Annotated[int, typer.Option(min=0, help="Nodes of a pilot to be tried. Default: as few as the queue takes.")] = 0,
    format: FormatOption = Format.TABLE,
) -> int:
    """Test whether pilots can run on this machine as the platform says: on a login node, or inside a job. Leaves nothing.

    Inside a job all of its nodes are looked at. Exit code: 1 if something is broken; what may be as it should is a warning.
    """
    from pilotage.cli.findings import print_findings
    from pilotage.cli.platform_checks import check_platform
    from pilotage.platforms import platform

    asked: dict[str, str | int] = {"queue": queue, "project": project, "qos": qos, "nodes": nodes}
    return print_findings(check_platform(platform(name), asked), format)
