"""What the client may conclude from the logs of a head and its partitions' agents that are gone for good.

As for a pilot without partitions (see ``core.agent.aftermath``) all of it has to be fenced. The metascheduler's log owns the
tasks; what a partition's log tells counts for the leases that the partition has.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pilotage.core.agent.aftermath import Aftermath
from pilotage.core.client.state import QueuedTasks, queued_rows
from pilotage.core.metascheduler.state import MetaschedulerState
from pilotage.model.ids import Attempt, Binding, TaskUid
from pilotage.model.outcome import Outcome


def aftermath_of_all(
    state: MetaschedulerState, partitions: Mapping[str, Aftermath], delivered: int, *, complete: bool = True
) -> Aftermath:
    """Read the recovered state of a head whose messages up to ``delivered`` the client has.

    ``partitions``: what the logs of living partitions say, read behind what the head has of them; those are left out of which
    nothing is known. ``complete``: whether nothing of the head's log can have been lost with the node.
    """
    outcomes = [outcome for number, message in sorted(state.undelivered.items()) if number > delivered for outcome in message]
    outcomes += state.unsent
    over: set[TaskUid] = set()
    never_began: set[TaskUid] = set()
    tries: dict[TaskUid, tuple[Attempt, int]] = {}
    for name, record in state.partitions.items():
        found = partitions.get(name)
        unsent = list(record.outbox)
        if found is not None:
            for outcome in found.outcomes:
                if _holds(state, outcome.task, outcome.binding, name) and outcome.task not in over:
                    over.add(outcome.task)
                    outcomes.append(_of_pilot(state, outcome))
            never_began |= {uid for uid, lease in found.not_begun if _holds(state, uid, lease, name)}
            tries |= {
                uid: each for uid, each in found.tries.items() if uid in state.tasks and state.tasks[uid].partition == name
            }
            if found.received is not None:
                unsent += [message for number, message in record.unacknowledged.items() if number > found.received]
        elif not record.incarnation:
            unsent += record.unacknowledged.values()
        never_began |= {row.uid for row in queued_rows(each for each in unsent if isinstance(each, QueuedTasks))}
    begun = frozenset(state.begun_tasks)
    not_begun: list[tuple[TaskUid, Binding]] = [each for each in state.late.items() if each[0] not in begun]
    may_have_run: list[tuple[TaskUid, Binding]] = [each for each in state.late.items() if each[0] in begun]
    for uid, task in state.tasks.items():
        if uid in over:
            continue
        if task.attempt:
            tries.setdefault(uid, (Attempt(task.attempt), task.failures))
        known = complete and (not task.partition or uid in never_began)
        (not_begun if known else may_have_run).append((uid, task.binding))
    return Aftermath(state.received if complete else None, outcomes, not_begun, may_have_run, tries)


def _holds(state: MetaschedulerState, uid: TaskUid, lease: Binding, partition: str) -> bool:
    task = state.tasks.get(uid)
    return task is not None and task.partition == partition and task.lease == lease


def _of_pilot(state: MetaschedulerState, outcome: Outcome) -> Outcome:
    return msgspec.structs.replace(outcome, binding=state.tasks[outcome.task].binding)
