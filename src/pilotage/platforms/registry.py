"""Finds and reads platform descriptions.

A file ``<site>.toml`` describes the machines of a site, a table each; ``[frontier]`` in ``ornl.toml`` is the platform
``ornl.frontier``. Files are read in this order, and a later one changes single fields of a platform or adds platforms:

1. those shipped beside this module,
2. ``$XDG_CONFIG_HOME/pilotage/platforms/*.toml`` (``~/.config`` by default),
3. the files and folders named in ``$PILOTAGE_PLATFORMS``, separated by colons.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from pilotage.errors import InvalidRequest, UnknownPlatform, nearest
from pilotage.model.partitions import PartitionSpec, PolicyName, PolicySpec
from pilotage.platforms.toml_values import Source

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

SHIPPED = Path(__file__).parent


class Platform(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine, or a part of one, on which pilots can run.

    ``name`` is ``site.machine``. What a node has is None where it is that of the machine the agent finds itself on. Of an
    ``emulated`` platform the nodes exist in name only: their tasks share this machine. ``transport`` is how client and
    agent talk: ``ipc`` (a socket in a folder, same machine) or ``tcp``. ``sandbox`` is where pilots have their folders;
    empty for the session's own. A pilot whose client is lost for ``client_loss_timeout_s`` does ``on_client_loss``.
    """

    name: str
    description: str = ""
    batch: Literal["local"] = "local"
    launch_methods: tuple[str, ...] = ("fork",)
    transport: Literal["ipc", "tcp"] = "ipc"
    emulated: bool = False
    cores_per_node: int | None = None
    gpus_per_node: int | None = None
    memory_per_node_mib: int | None = None
    disk_per_node_mib: int | None = None
    sandbox: str = ""
    on_client_loss: Literal["continue", "drain", "terminate"] = "terminate"
    client_loss_timeout_s: float = 300.0
    partitions: tuple[PartitionSpec, ...] = ()
    """How pilots are divided whose description says nothing of it."""
    partitions_from: str = ""
    """The file that says so, with the line."""


class _Partition(PartitionSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A partition as it stands in a file, where a scheduler may be a name alone."""

    scheduler: PolicyName | PolicySpec = PolicySpec()  # type: ignore[assignment]


# Made from file, table and place, so they are no fields of the table.
_MADE = ("name", "partitions_from")
_FIELDS = tuple(name for name in Platform.__struct_fields__ if name not in _MADE)
_LEAST = {"cores_per_node": 1, "gpus_per_node": 0, "memory_per_node_mib": 0, "disk_per_node_mib": 0, "client_loss_timeout_s": 0}


def load_platforms(environment: Mapping[str, str] | None = None) -> dict[str, Platform]:
    """Return all platforms by name: those shipped, with the user's merged over them.

    ``environment`` is ``os.environ`` unless given.

    Raises:
        InvalidRequest: a file cannot be read or holds what no platform has; names the file, the line and the nearest field.
    """
    tables: dict[str, dict[str, Any]] = {}
    for path in _files(os.environ if environment is None else environment):
        for name, table in _read(path).items():
            tables.setdefault(name, {}).update(table)
    return {name: Platform(name=name, **table) for name, table in sorted(tables.items())}


def platform(name: str, platforms: Mapping[str, Platform] | None = None) -> Platform:
    """Return the platform of this name.

    Raises:
        UnknownPlatform: there is none; names the nearest one and says how to add one.
    """
    platforms = load_platforms() if platforms is None else platforms
    found = platforms.get(name)
    if found is None:
        raise UnknownPlatform(
            f"no platform is named {name!r}{nearest(name, platforms) or '.'} Known are {', '.join(platforms)}. "
            f"To add one, describe it as [machine] in {_user_folder(os.environ)}/<site>.toml, "
            "or in a file that $PILOTAGE_PLATFORMS names"
        )
    return found


def _user_folder(environment: Mapping[str, str]) -> Path:
    home = environment.get("XDG_CONFIG_HOME") or os.path.join(environment.get("HOME") or os.path.expanduser("~"), ".config")
    return Path(home) / "pilotage" / "platforms"


def _files(environment: Mapping[str, str]) -> Iterable[Path]:
    yield from sorted(SHIPPED.glob("*.toml"))
    yield from sorted(_user_folder(environment).glob("*.toml"))
    for entry in environment.get("PILOTAGE_PLATFORMS", "").split(os.pathsep):
        if not entry:
            continue
        path = Path(entry).expanduser()
        if path.is_dir():
            yield from sorted(path.glob("*.toml"))
        elif path.exists():
            yield path
        else:
            raise InvalidRequest(f"$PILOTAGE_PLATFORMS names {entry!r}, which does not exist; correct it or unset it")


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the fields of each platform in a file, checked and converted."""
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise InvalidRequest(f"platform file {path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"platform file {path}: is not valid TOML: {error}") from error
    return {f"{path.stem}.{machine}": _checked(path, text, machine, table) for machine, table in content.items()}


def _checked(path: Path, text: str, machine: str, table: Any) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise InvalidRequest(
            f"platform file {_place(path, text, '', machine)}: {machine!r} stands outside of a table; "
            f"put it under the machine's name, such as [{path.stem}]"
        )
    fields: dict[str, Any] = {}
    for field, value in table.items():
        place = f"platform file {_place(path, text, machine, field)}: [{machine}]"
        if field not in _FIELDS:
            raise InvalidRequest(f"{place} has an unknown field {field!r}{nearest(field, _FIELDS)}")
        if field == "partitions":
            fields["partitions"], fields["partitions_from"] = _partitions(path, machine)
            continue
        try:
            # Through the struct itself, so that the types are said once.
            converted = msgspec.convert({"name": machine, field: value}, Platform)
        except msgspec.ValidationError as error:
            reason = str(error).partition(" - at ")[0]
            raise InvalidRequest(f"{place} {field}={value!r}: {reason}") from None
        if field in _LEAST and not value >= _LEAST[field]:
            raise InvalidRequest(f"{place} {field}={value!r}: it must be {_LEAST[field]} or more")
        fields[field] = getattr(converted, field)
    return fields


def _partitions(path: Path, machine: str) -> tuple[tuple[PartitionSpec, ...], str]:
    """Return the partitions that a file gives a machine, and where. Whether a pilot can have them depends on its nodes."""
    source = Source(path, "platform")
    specs: list[PartitionSpec] = []
    for index, given in enumerate(source.part((machine, "partitions"), tuple[_Partition, ...])):
        values = {field: getattr(given, field) for field in PartitionSpec.__struct_fields__}
        for field, value in values.items():
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise source.error((machine, "partitions", index, field), f"{value}: it must be 0 or more")
        if isinstance(given.scheduler, str):
            values["scheduler"] = PolicySpec(policy=given.scheduler)
        if given.name in (spec.name for spec in specs):
            raise source.error(
                (machine, "partitions", index, "name"), f"two partitions are named {given.name!r}; give each a name of its own"
            )
        specs.append(PartitionSpec(**values))
    return tuple(specs), f"{path}:{source.line((machine, 'partitions', 0))}"


def _place(path: Path, text: str, machine: str, field: str) -> str:
    """Return ``path:line`` of a field, or only ``path`` where the line cannot be told (dotted keys, inline tables)."""
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\s*[\"']?([^\]\"']+?)[\"']?\s*\]", line)
        if header:
            table = header[1]
        elif table == machine and re.match(rf"\s*[\"']?{re.escape(field)}[\"']?\s*=", line):
            return f"{path}:{number}"
    return str(path)
