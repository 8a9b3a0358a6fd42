"""The partitions of a pilot's description: read, and judged before anything is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pilotage.client.fields import shown
from pilotage.client.policies import check_policy, converted, parse_policy
from pilotage.core.metascheduler.plan import check_plan
from pilotage.core.scheduling.policies import fault_of
from pilotage.errors import InvalidPilot
from pilotage.model.partitions import PartitionSpec
from pilotage.model.resources import Node, NodeShape


def parse_partition(what: str, given: object) -> PartitionSpec:
    """Return a partition as the user gave it; ``what`` is how messages name it.

    Raises:
        InvalidPilot: names the attribute, the value and the remedy.
    """
    if isinstance(given, PartitionSpec):
        # Its types are nobody's concern until now.
        given = {field: getattr(given, field) for field in given.__struct_fields__}
    if not isinstance(given, Mapping):
        raise InvalidPilot(f"{what}: a partition is described by a PartitionSpec or a dict, not {shown(given)}")
    fields = dict(given)
    if fields.get("name") is None:
        raise InvalidPilot(f"{what} has no name; give it one, such as 'name': 'functions'")
    if not isinstance(fields["name"], str):
        raise InvalidPilot(f"{what}: name={shown(fields['name'])}: a name is text (str), such as 'functions'")
    what = f"{what} ({fields['name']!r:.80})"
    if "scheduler" in fields:
        fields["scheduler"] = parse_policy(f"{what}: scheduler", fields["scheduler"])
    for name in ("kinds", "tags"):
        # A text is a sequence of letters, which nobody means.
        if isinstance(fields.get(name), str):
            fields[name] = (fields[name],)
    return converted(what, fields, PartitionSpec)


def check_partitions(pilot: str, plan: Sequence[PartitionSpec], nodes: Sequence[Node]) -> None:
    """See that a pilot of these nodes can have these partitions.

    Raises:
        InvalidPilot: it cannot; names the partition, the value, the limit and the remedy.
    """
    try:
        check_plan(plan, nodes)
    except InvalidPilot as error:
        raise InvalidPilot(f"{pilot}: {error}") from None
    for spec in plan:
        check_policy(f"{pilot}: partition {spec.name!r}: scheduler", spec.scheduler, nodes)


def check_partitions_of_job(pilot: str, plan: Sequence[PartitionSpec], count: int) -> None:
    """See that a pilot of so many nodes can have these partitions, whatever its nodes will be called and have.

    Raises:
        InvalidPilot: as ``check_partitions``.
    """
    for spec in plan:
        fault = fault_of(spec.scheduler)
        if fault is not None:
            raise InvalidPilot(f"{pilot}: partition {spec.name!r}: scheduler: {fault}")
    check_partitions(pilot, [_of_any_nodes(spec) for spec in plan], [Node(0, "", NodeShape(1))] * count)


def _of_any_nodes(spec: PartitionSpec) -> PartitionSpec:
    return msgspec.structs.replace(spec, scheduler=msgspec.structs.replace(spec.scheduler, groups={}))
