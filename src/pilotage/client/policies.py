"""Scheduling policies as users give them: a name, a table, or a ``PolicySpec``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from pilotage.client.fields import shown
from pilotage.core.scheduling.policies import ORDERS, POLICIES, fault_of, misfit_of
from pilotage.errors import InvalidPilot, nearest
from pilotage.model.partitions import PartitionSpec, PolicySpec
from pilotage.model.resources import Node
from pilotage.platforms.toml_values import choices

Spec = TypeVar("Spec", PartitionSpec, PolicySpec)


def parse_policy(what: str, given: object) -> PolicySpec:
    """Return a policy as the user gave it; ``what`` is how messages name it.

    Raises:
        InvalidPilot: names the attribute, the value and the remedy.

    >>> parse_policy("scheduler", "packed").policy, parse_policy("scheduler", {"order": "first_come"}).order
    ('packed', 'first_come')
    """
    if isinstance(given, PolicySpec):
        # Its types are nobody's concern until now.
        given = {field: getattr(given, field) for field in given.__struct_fields__}
    if isinstance(given, str):
        if given not in POLICIES:
            raise InvalidPilot(f"{what}={given!r} is not one of {', '.join(POLICIES)}{nearest(given, POLICIES)}")
        given = {"policy": given}
    if not isinstance(given, Mapping):
        raise InvalidPilot(f"{what} is the name of a policy, a PolicySpec or a dict, not {shown(given)}")
    for name, known in (("policy", POLICIES), ("order", ORDERS)):
        value = given.get(name, known[0])
        if value not in known:
            raise InvalidPilot(f"{what}: {name}={value!r} is not one of {', '.join(known)}{nearest(str(value), known)}")
    spec = converted(what, dict(given), PolicySpec)
    fault = fault_of(spec)
    if fault is not None:
        raise InvalidPilot(f"{what}: {fault}")
    return spec


def check_policy(what: str, spec: PolicySpec, nodes: Sequence[Node]) -> None:
    """See that a pilot of these nodes can be scheduled so.

    Raises:
        InvalidPilot: it cannot; names the value, the limit and the remedy.
    """
    misfit = misfit_of(spec, nodes)
    if misfit is not None:
        raise InvalidPilot(f"{what}: {misfit}")


def converted(what: str, fields: Mapping[Any, Any], kind: type[Spec]) -> Spec:
    """Return a spec of this ``kind`` from its fields.

    Raises:
        InvalidPilot: names the attribute, the value and the remedy.
    """
    known = kind.__struct_fields__
    for name in fields:
        if name not in known:
            raise InvalidPilot(f"{what} has no attribute {name!r}{nearest(str(name), known)}; it has {', '.join(known)}")
    # One after another, so that the message names the attribute and shows its value.
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.name in fields:
            value = fields[field.name]
            try:
                values[field.name] = msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                raise InvalidPilot(f"{what}: {field.name}{_misfit(field.type, value, str(error))}") from None
    return kind(**values)


def _misfit(wanted: Any, value: object, said: str) -> str:
    """Return what is wrong with a value that is no ``wanted``; ``said`` is what msgspec says of it."""
    known = choices(msgspec.inspect.type_info(wanted), ())
    if known:
        return f"={value!r} is not one of {', '.join(known)}{nearest(str(value), known)}"
    known = choices(msgspec.inspect.type_info(wanted), (0,))
    if known and isinstance(value, list | tuple):
        wrong = next((each for each in value if each not in known), value)
        return f": {wrong!r} is not one of {', '.join(known)}{nearest(str(wrong), known)}"
    return f"={shown(value)}: {said.partition(' - at ')[0]}"
