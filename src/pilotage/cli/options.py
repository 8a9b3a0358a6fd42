"""Options that several commands share, and how sizes and times are written in options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer

from pilotage.cli.renderers import Format
from pilotage.errors import InvalidRequest

# Typer brings its own copy of click, or stands on the package, by its version; what it exports leads to the right classes.
UsageError, ClickException = cast("tuple[type[Exception], type[Exception]]", typer.BadParameter.__mro__[1:3])

FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print.", case_sensitive=False)]
SessionOption = Annotated[
    str,
    typer.Option("--session", "-s", metavar="UID", help="The session, or how its uid begins or ends. Default: the newest."),
]

_PANEL = "Job, where pilots are jobs of a batch system"
QueueOption = Annotated[
    str, typer.Option("--queue", help="Queue or partition. Default: the platform's.", rich_help_panel=_PANEL)
]
ProjectOption = Annotated[
    str, typer.Option("--project", help="Project or account that is charged. Default: the platform's.", rich_help_panel=_PANEL)
]
QosOption = Annotated[str, typer.Option("--qos", help="Quality of service. Default: the platform's.", rich_help_panel=_PANEL)]
ConstraintsOption = Annotated[
    list[str] | None,
    typer.Option("--constraints", metavar="FEATURE", help="Of the nodes; may be repeated.", rich_help_panel=_PANEL),
]
ReservationOption = Annotated[str, typer.Option("--reservation", help="Nodes that were reserved.", rich_help_panel=_PANEL)]
FilesystemsOption = Annotated[
    list[str] | None,
    typer.Option("--filesystems", metavar="NAME", help="That the job needs; may be repeated.", rich_help_panel=_PANEL),
]
ExclusiveOption = Annotated[bool, typer.Option("--exclusive", help="Share no node with other jobs.", rich_help_panel=_PANEL)]
ExtraOptionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--extra-options",
        metavar="OPTION",
        help="A whole option of the batch system, as in --extra-options=--switches=1; may be repeated.",
        rich_help_panel=_PANEL,
    ),
]

_MEGABYTES = {"": 1, "M": 1, "G": 1024, "T": 1024 * 1024}
_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def job_attributes(
    queue: str,
    project: str,
    qos: str,
    constraints: Sequence[str] | None,
    reservation: str,
    filesystems: Sequence[str] | None,
    exclusive: bool,
    extra_options: Sequence[str] | None,
) -> dict[str, Any]:
    """Return the attributes of a ``PilotDescription`` that the options of jobs say; those that are not given are left out."""
    said = {
        "queue": queue,
        "project": project,
        "qos": qos,
        "constraints": list(constraints or ()),
        "reservation": reservation,
        "filesystems": list(filesystems or ()),
        "exclusive": exclusive,
        "extra_options": list(extra_options or ()),
    }
    return {name: value for name, value in said.items() if value}


def megabytes(text: str, option: str) -> float:
    """Return an amount of memory in MB.

    >>> megabytes("512", "--memory"), megabytes("1.5G", "--memory")
    (512.0, 1536.0)
    """
    return _amount(text, option, _MEGABYTES, "in MB, or with a unit, such as 512M or 2G", text.upper().removesuffix("B"))


def seconds(text: str, option: str) -> float:
    """Return a length of time in seconds.

    >>> seconds("90", "--timeout"), seconds("1.5h", "--timeout")
    (90.0, 5400.0)
    """
    return _amount(text, option, _SECONDS, "in seconds, or with a unit, such as 90s, 15m or 2h", text.lower())


def _amount(text: str, option: str, units: dict[str, int], wanted: str, said: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", said.strip())
    if not found or found[2] not in units:
        raise InvalidRequest(f"{option} {text!r} is not understood; give it {wanted}")
    return float(found[1]) * units[found[2]]
