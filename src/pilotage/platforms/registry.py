"""Finds and reads platform descriptions.

A file ``<site>.toml`` describes the machines of a site, a table each; ``[frontier]`` in ``olcf.toml`` is the platform
``olcf.frontier``. Files are read in this order, and a later one changes single fields of a platform or adds platforms:

1. those shipped beside this module,
2. ``$XDG_CONFIG_HOME/pilotage/platforms/*.toml`` (``~/.config`` by default),
3. the files and folders named in ``$PILOTAGE_PLATFORMS``, separated by colons.

A table within a table (``[frontier.node_rules]``) is merged as the platform itself is, anything else is replaced as a whole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pilotage.errors import InvalidRequest, UnknownPlatform, nearest
from pilotage.model.node_rules import NodeRules
from pilotage.model.partitions import PartitionSpec, PolicyName, PolicySpec
from pilotage.platforms.allocations.host_lists import expand_numbers
from pilotage.platforms.platform import MethodName, Platform
from pilotage.platforms.toml_values import Source

SHIPPED = Path(__file__).parent

Numbers = tuple[int, ...] | str


class _Partition(PartitionSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A partition as it stands in a file, where a scheduler may be a name alone."""

    scheduler: PolicyName | PolicySpec = PolicySpec()  # type: ignore[assignment]


class _Rules(NodeRules, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules as they stand in a file, where numbers may be ranges: ``"0-7,64"``."""

    reserved_cores: Numbers = ()  # type: ignore[assignment]
    gpu_cores: tuple[Numbers, ...] = ()  # type: ignore[assignment]


class _Table(Platform, frozen=True, forbid_unknown_fields=True):
    """A platform as it stands in a file."""

    name: str = ""
    partitions: tuple[_Partition, ...] = ()
    node_rules: _Rules = _Rules()
    launcher_options: dict[MethodName, dict[str, str]] = {}  # type: ignore[assignment]
    launcher_paths: dict[MethodName, str] = {}  # type: ignore[assignment]


class Described(msgspec.Struct, frozen=True):
    """A platform, and where each value is said: ``file:line`` by field, ``queues.debug.max_nodes`` for one in a table."""

    platform: Platform
    origins: dict[str, str]


# Made from file, table and place, so they are no fields of the table.
_MADE = {"name": "it is made from the names of file and table", "partitions_from": "it is where the partitions stand"}
_FIELDS = tuple(name for name in Platform.__struct_fields__ if name not in _MADE)


def load_platforms(environment: Mapping[str, str] | None = None) -> dict[str, Platform]:
    """Return all platforms by name: those shipped, with the user's merged over them.

    ``environment`` is ``os.environ`` unless given.

    Raises:
        InvalidRequest: a file cannot be read or holds what no platform has; names the file, the line and the nearest field.
    """
    return {name: merged.platform() for name, merged in sorted(_merged(_files(_surroundings(environment))).items())}


def describe_platforms(environment: Mapping[str, str] | None = None) -> dict[str, Described]:
    """Return all platforms by name, with the origin of each value.

    Raises:
        InvalidRequest: as ``load_platforms``.
    """
    merged = _merged(_files(_surroundings(environment)))
    return {name: Described(each.platform(), each.origins()) for name, each in sorted(merged.items())}


def platform(name: str, platforms: Mapping[str, Platform] | None = None) -> Platform:
    """Return the platform of this name.

    Raises:
        UnknownPlatform: there is none; names the nearest one and says how to add one.
        InvalidRequest: as ``load_platforms``.
    """
    if platforms is None:
        # Others' files are of no concern, as long as this one is found.
        site = name.partition(".")[0]
        alone = _merged(path for path in _files(os.environ) if path.stem == site).get(name)
        if alone is not None:
            return alone.platform()
        platforms = load_platforms()
    found = platforms.get(name)
    if found is None:
        raise UnknownPlatform(
            f"no platform is named {name!r}{nearest(name, platforms) or '.'} Known are {', '.join(platforms)}. "
            f"To add one, describe it as [machine] in {_user_folder(os.environ)}/<site>.toml, "
            "or in a file that $PILOTAGE_PLATFORMS names"
        )
    return found


class _Merged:
    """What the files say of one platform so far, and which of them says what."""

    def __init__(self, site: str, machine: str) -> None:
        self.name = f"{site}.{machine}"
        self._machine = machine
        self._content: dict[str, Any] = {}
        self._sources: dict[tuple[str, ...], Source] = {}

    def add(self, source: Source) -> None:
        """Merge what a file says."""
        self._merge(self._content, source.content[self._machine], (), source)

    def platform(self) -> Platform:
        """Return the platform.

        Raises:
            InvalidRequest: fields contradict each other.
        """
        # Each file was converted by itself, so this cannot fail.
        table = msgspec.convert(self._content, _Table)
        fields = {field: getattr(table, field) for field in _FIELDS}
        fields["node_rules"] = self._rules(table.node_rules)
        fields["partitions"] = tuple(map(_partition, table.partitions))
        if "transport" not in self._content and table.batch != "local":
            fields["transport"] = "tcp"
        if "on_client_loss" not in self._content and table.batch != "local":
            # It is paid for, and came after a wait.
            fields["on_client_loss"] = "continue"
        made = Platform(self.name, partitions_from=self._place(("partitions",), 0) if table.partitions else "", **fields)
        self._check(made)
        return made

    def origins(self) -> dict[str, str]:
        """Return where each value is said."""
        return {".".join(path): self._place(path) for path in self._sources}

    def _merge(self, into: dict[str, Any], table: dict[str, Any], path: tuple[str, ...], source: Source) -> None:
        for name, value in table.items():
            place = (*path, name)
            if isinstance(value, dict):
                self._merge(into.setdefault(name, {}), value, place, source)
            else:
                into[name] = value
                self._sources[place] = source

    def _place(self, path: tuple[str, ...], *more: int) -> str:
        source = self._sources[path]
        return f"{source.path}:{source.line((self._machine, *path, *more))}"

    def _rules(self, rules: _Rules) -> NodeRules:
        values = {field: getattr(rules, field) for field in NodeRules.__struct_fields__}
        values["reserved_cores"] = self._numbers(rules.reserved_cores, "reserved_cores")
        values["gpu_cores"] = tuple(self._numbers(each, "gpu_cores") for each in rules.gpu_cores)
        return NodeRules(**values)

    def _numbers(self, given: Numbers, field: str) -> tuple[int, ...]:
        try:
            numbers = tuple(expand_numbers(given)) if isinstance(given, str) else given
        except ValueError:
            raise self._error(("node_rules", field), f"{given!r} is no list of numbers, such as '0-7,64'") from None
        if any(number < 0 for number in numbers):
            raise self._error(("node_rules", field), f"{given!r}: numbers of hardware threads are 0 or more")
        return numbers

    def _check(self, made: Platform) -> None:
        if made.batch != "local" and made.transport == "ipc":
            raise self._error(
                ("transport",), f"'ipc' does not leave this machine, and jobs of {made.batch} run on others; give 'tcp'"
            )
        if made.batch != "local" and made.sandbox and made.sandbox[0] not in "/~$":
            raise self._error(
                ("sandbox",), f"{made.sandbox!r} depends on where a program runs; begin it with '/', '~' or a variable"
            )
        for field, table in (("queues", made.queues), ("qos_limits", made.qos_limits)):
            for name, limits in table.items():
                if limits.max_nodes is not None and limits.min_nodes > limits.max_nodes:
                    raise self._error(
                        (field, name, "min_nodes"), f"{limits.min_nodes} exceeds max_nodes={limits.max_nodes}; give less"
                    )
        for field in made.sources:
            if field.partition(".")[0] not in _FIELDS:
                raise self._error(("sources", field), f"there is no such field{nearest(field, _FIELDS)}")

    def _error(self, path: tuple[str, ...], message: str) -> InvalidRequest:
        return self._sources[path].error((self._machine, *path), message)


def _surroundings(environment: Mapping[str, str] | None) -> Mapping[str, str]:
    return os.environ if environment is None else environment


def _user_folder(environment: Mapping[str, str]) -> Path:
    home = environment.get("XDG_CONFIG_HOME") or os.path.join(environment.get("HOME") or os.path.expanduser("~"), ".config")
    return Path(home) / "pilotage" / "platforms"


def _files(environment: Mapping[str, str]) -> Iterator[Path]:
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


def _merged(files: Iterable[Path]) -> dict[str, _Merged]:
    found: dict[str, _Merged] = {}
    for path in files:
        source = Source(path, "platform")
        for machine in source.content:
            _check_table(source, machine)
            name = f"{path.stem}.{machine}"
            found.setdefault(name, _Merged(path.stem, machine)).add(source)
    return found


def _check_table(source: Source, machine: str) -> None:
    """Check what a file says of a machine, as far as it can be without what other files say."""
    table = source.content[machine]
    if not isinstance(table, dict):
        raise source.error(
            (machine,), f"it stands outside of a table; put it under the machine's name, such as [{source.path.stem}]"
        )
    for field, reason in _MADE.items():
        if field in table:
            raise source.error((machine, field), f"is no field of the file: {reason}")
    partitions = source.part((machine,), _Table).partitions
    names: set[str] = set()
    for index, spec in enumerate(partitions):
        for field in PartitionSpec.__struct_fields__:
            value = getattr(spec, field)
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise source.error((machine, "partitions", index, field), f"{value}: it must be 0 or more")
        if spec.name in names:
            raise source.error(
                (machine, "partitions", index, "name"), f"two partitions are named {spec.name!r}; give each a name of its own"
            )
        names.add(spec.name)


def _partition(given: _Partition) -> PartitionSpec:
    values = {field: getattr(given, field) for field in PartitionSpec.__struct_fields__}
    if isinstance(given.scheduler, str):
        values["scheduler"] = PolicySpec(policy=given.scheduler)
    return PartitionSpec(**values)
