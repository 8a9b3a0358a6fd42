"""Partitions as they are written in an option of ``pilotage sim``."""

from __future__ import annotations

import re

import msgspec

from pilotage.errors import InvalidRequest
from pilotage.sim.files import ENDING, shipped
from pilotage.sim.plans import PlannedPartition, read_plan

_PARTITION = re.compile(r"(?P<name>[A-Za-z0-9][\w-]*):(?P<nodes>\d+)(x(?P<count>\d+))?(:(?P<kinds>[a-z+]+))?")


def partitions_of(text: str) -> tuple[PlannedPartition, ...]:
    """Return the partitions that ``NAME:NODES[xCOUNT][:KIND[+KIND]],...`` means, or those of a plan's file.

    Raises:
        InvalidRequest: it is not written like that, or the file is wrong.

    >>> [(each.name, each.nodes, each.launcher, each.kinds) for each in partitions_of("flux:8x2,mine:4:function")]
    [('flux-0', 8, 'flux', ()), ('flux-1', 8, 'flux', ()), ('mine', 4, '', ('function',))]
    """
    if text.endswith(ENDING):
        partitions = read_plan(text).partitions
        if not partitions:
            raise InvalidRequest(f"--partitions {text}: the plan has no partitions; write one as a table [[partitions]]")
        return partitions
    return tuple(each for part in text.split(",") for each in _partitions(part.strip(), text))


def _partitions(part: str, text: str) -> list[PlannedPartition]:
    found = _PARTITION.fullmatch(part)
    if found is None:
        raise InvalidRequest(f"--partitions {text}: {part!r} is not NAME:NODES[xCOUNT][:KIND], such as flux:32x2:executable")
    count = int(found["count"] or 1)
    name, kinds = found["name"], found["kinds"].split("+") if found["kinds"] else []
    fields = {"nodes": int(found["nodes"]), "kinds": kinds, "launcher": name if name in shipped("launcher") else ""}
    names = [name] if count == 1 else [f"{name}-{number}" for number in range(count)]
    try:
        return [msgspec.convert({"name": each, **fields}, PlannedPartition) for each in names]
    except msgspec.ValidationError:
        raise InvalidRequest(f"--partitions {text}: kinds of tasks are executable, function and service, not {kinds}") from None
