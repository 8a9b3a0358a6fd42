"""Partitions of a pilot that runs: how they are, one more, one less.

The head of the pilot is asked first, so that what cannot be is refused at the caller's line. A pilot that was not active yet
is judged by what is known here; what its head finds then is told in a warning, and by ``Pilot.partitions()``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pilotage.client.partitions import parse_partition
from pilotage.client.pilot_description import decoded, partitions_of
from pilotage.client.policies import check_policy
from pilotage.core.client import events
from pilotage.core.client.state import PilotRecord, QueuedRetirement
from pilotage.core.metascheduler.plan import check_addition, divide, nodes_wanted
from pilotage.errors import BackendError, InvalidPilot, InvalidRequest, PilotFailed, nearest
from pilotage.model.partitions import PartitionSpec, PartitionStatus
from pilotage.model.states import FINAL, PMGR_ACTIVE
from pilotage.wire.messages import PartitionsTold

if TYPE_CHECKING:
    from pilotage.client.session import Session


def statuses(session: Session, record: PilotRecord) -> list[PartitionStatus]:
    """Return how the partitions of a pilot are; empty if it has none.

    Raises:
        SessionClosed: the session is over.
        BackendError: the pilot does not answer.
    """
    plan = _plan(record)
    if not plan:
        return []
    if record.state in FINAL:
        return [PartitionStatus(spec.name, "ended", reason=record.reason) for spec in (*plan, *record.added.values())]
    told = _ask(session, record)
    if told is None:
        if record.state == PMGR_ACTIVE:
            raise BackendError(f"pilot {record.uid!r} does not answer; try again", transient=True)
        return [PartitionStatus(spec.name, "waiting", reason="the pilot is not active yet") for spec in plan]
    known = {each.name for each in told.partitions}
    under_way = [name for name in list(record.added) if name not in known]
    return told.partitions + [PartitionStatus(name, "waiting", reason="the pilot has not heard of it") for name in under_way]


def add(session: Session, record: PilotRecord, given: PartitionSpec | Mapping[str, Any]) -> None:
    """Have a partition added to a pilot, once.

    Raises:
        InvalidRequest: it cannot be; says why, and what to do.
        PilotFailed: the pilot has ended.
    """
    plan = _changeable(record, "takes no partition more")
    what = f"pilot {record.uid!r}: partition"
    spec = parse_partition(what, given)
    if not record.estimated:
        check_policy(f"{what} {spec.name!r}: scheduler", spec.scheduler, record.nodes)
    told = _ask(session, record, add=spec)
    if record.added.get(spec.name) == spec and not _was_refused(told, spec.name):
        return
    refusal = _against_addition(record, plan, spec) if told is None else told.refusal
    if refusal:
        raise InvalidRequest(f"pilot {record.uid!r}: {refusal}")
    session.step(events.PartitionAsked(time.time(), record.uid, spec))


def retire(session: Session, record: PilotRecord, name: str, drain: bool) -> None:
    """Have a partition of a pilot ended.

    Raises:
        InvalidRequest: it cannot be; says why, and what to do.
        PilotFailed: the pilot has ended.
    """
    plan = _changeable(record, "retires no partition")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"pilot {record.uid!r}: a partition is retired by its name (str), not {name!r:.60}")
    if not isinstance(drain, bool):
        raise InvalidRequest(
            f"pilot {record.uid!r}: drain is True (when its tasks are done) or False (now), "
            f"not {drain!r:.60} ({type(drain).__name__})"
        )
    told = _ask(session, record, retire=name, drain=drain)
    known = [*(spec.name for spec in plan), *record.added]
    if told is None and name not in known:
        refusal = f"it has no partition {name!r}{nearest(name, known) or '.'} It has {', '.join(known)}"
    elif told is None or (name in record.added and all(each.name != name for each in told.partitions)):
        # The head will hear of it before it hears of its end.
        refusal = ""
    else:
        refusal = told.refusal
    if refusal:
        raise InvalidRequest(f"pilot {record.uid!r}: {refusal}")
    session.step(events.RetirementAsked(time.time(), record.uid, name, drain))


def _plan(record: PilotRecord) -> list[PartitionSpec]:
    description = decoded(record.description)
    return partitions_of("pilot", description) if description.get("partitions") else []


def _changeable(record: PilotRecord, what: str) -> list[PartitionSpec]:
    plan = _plan(record)
    if not plan:
        raise InvalidRequest(
            f"pilot {record.uid!r} has no partitions, and {what}: all of its nodes are one. "
            "Submit a pilot with partitions=[...] in its description"
        )
    if record.state in FINAL or record.ending:
        raise PilotFailed(f"pilot {record.uid!r} has ended, or is about to; it {what}")
    return plan


def _ask(session: Session, record: PilotRecord, **about: Any) -> PartitionsTold | None:
    engine = session.engine
    engine.require_owner()
    with engine.lock:
        engine.check()
    return engine.questions.ask(record.uid, **about)


def _was_refused(told: PartitionsTold | None, name: str) -> bool:
    return told is not None and any(each.name == name and each.state == "refused" for each in told.partitions)


def _against_addition(record: PilotRecord, plan: list[PartitionSpec], spec: PartitionSpec) -> str:
    """Judge by what the pilot will begin with; with what a partition leaves that is to be retired only it itself can reckon."""
    if record.estimated:
        # Its head knows what it has, and tells what cannot be.
        return ""
    known = [*plan, *record.added.values()]
    available = len(record.nodes)
    if not any(isinstance(queued, QueuedRetirement) for queued in (*record.outbox, *record.unacknowledged.values())):
        for each, nodes in zip(plan, divide(plan, record.nodes), strict=True):
            available -= max(1, each.least_nodes) if each.most_nodes else len(nodes)
        available -= sum(map(nodes_wanted, record.added.values()))
    try:
        tags = [tag for each in known for tag in each.tags]
        check_addition(spec, [each.name for each in known], tags, max(0, available), record.nodes)
    except InvalidPilot as error:
        return str(error)
    return ""
