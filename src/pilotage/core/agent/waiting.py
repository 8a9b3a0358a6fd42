"""Tasks that wait: for others to arrive, for an environment, for services, for a launch that is free, then for resources.

The last of these they do in the policy's queue. A *barrier* keeps all tasks but services out of it until so many have arrived,
or the pilot is to end: then all begin together, and what is measured is not how fast they were submitted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from operator import attrgetter

import msgspec

from pilotage.core.agent.lanes import group_of
from pilotage.core.agent.launches import Launches
from pilotage.core.agent.needs import lacking
from pilotage.core.agent.state import AgentState
from pilotage.core.scheduling.policy import GroupKey, Policy
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.workload import Row

_template_of = attrgetter("template")

ALWAYS_THERE = ("", "rp", "pilotage")
"""Environments that need no preparation: none, and the agent's own Python."""


class Waiting:
    """The way into the queue, and out of it other than by being placed. Derived from the state."""

    def __init__(self, state: AgentState, policy: Policy, launches: Launches, barrier: int = 0) -> None:
        self.launches = launches
        self.barrier = barrier
        """Tasks that have to arrive before any goes on; 0 if there is no barrier, or none any more."""
        self.barred: dict[TaskUid, None] = {}
        """Tasks that wait for others to arrive."""
        self._state = state
        self._policy = policy
        self._groups: dict[TemplateId, GroupKey] = {}
        self.held: dict[str, dict[TaskUid, None]] = {}
        """Tasks by the environment that they wait for."""
        self.has_services = False
        """Whether there are, or were, services here that others may need."""
        self.unserved: dict[TaskUid, TaskUid] = {}
        """Tasks that wait for a service, such as this one, to be ready."""
        self.forsaken: dict[TaskUid, TaskUid] = {}
        """Tasks that need a service that is over; whoever looks after services ends them in the same step."""
        self.for_successor: dict[TaskUid, str] = {}
        """Tasks that would end too late here, but not in the pilot that follows, and why."""

    def group(self, template: TemplateId) -> GroupKey:
        """Return the scheduling group of a template's tasks."""
        group = self._groups.get(template)
        if group is None:
            group = self._groups[template] = group_of(self._state.templates[template])
        return group

    def refusal(self, template: TemplateId) -> str | None:
        """Return why no task of this template can ever be placed, or None."""
        return self._policy.refusal(self.group(template).request)

    def enqueue(self, uids: Sequence[TaskUid], template: TemplateId, now: float) -> None:
        """Let tasks of one template wait."""
        name = self._state.templates[template].named_env
        if not uids:
            return
        if self.barrier and not self.lift_barrier(now) and self._state.templates[template].service is None:
            self.barred.update(dict.fromkeys(uids))
            return
        if name and not self._is_there(name):
            self.held.setdefault(name, {}).update(dict.fromkeys(uids))
            return
        if self.has_services:
            uids = [uid for uid in uids if self._is_served(uid)]
        if self._state.templates[template].request.gang:
            uids = self._enqueue_begun(uids, template, now)
        if uids and self.launches.limits(self._state.templates[template]):
            uids = self.launches.let_in(uids, template)
        if uids:
            self._policy.enqueue_many(uids, self.group(template), now)

    def are_plain(self, templates: Iterable[TemplateId]) -> bool:
        """Tell whether tasks of these templates, none of which is a service, wait for nothing but resources."""
        if self.barrier or self.has_services:
            return False
        known = [self._state.templates[template] for template in templates]
        return not any(
            each.service is not None
            or each.request.gang
            or (each.named_env and not self._is_there(each.named_env))
            or self.launches.limits(each)
            for each in known
        )

    def _enqueue_begun(self, uids: Sequence[TaskUid], template: TemplateId, now: float) -> list[TaskUid]:
        """Let those wait alone whose gang has begun; return the others."""
        tasks, group = self._state.tasks, self.group(template)
        begun = [uid for uid in uids if tasks[uid].attempt]
        if begun:
            alone = msgspec.structs.replace(group.request, gang_size=1)
            self._policy.enqueue_many(begun, msgspec.structs.replace(group, request=alone), now)
        return [uid for uid in uids if not tasks[uid].attempt]

    def enqueue_plain(self, rows: Iterable[Row], now: float) -> None:
        """Let tasks wait whose templates ``are_plain``; those of different ones may come in turns."""
        enqueue, enqueue_many, groups = self._policy.enqueue, self._policy.enqueue_many, self._groups
        for template, several in itertools.groupby(rows, _template_of):
            group = groups.get(template) or self.group(template)
            uids = [row.uid for row in several]
            if len(uids) > 1:
                enqueue_many(uids, group, now)
            else:
                enqueue(uids[0], group, now)

    @property
    def arrived(self) -> int:
        """How many tasks have arrived, whatever became of them."""
        return self._state.outcomes + len(self._state.tasks)

    def lift_barrier(self, now: float) -> bool:
        """Let those behind the barrier go on if all have arrived, or none will; return whether there is no barrier now."""
        if self.barrier and (self.arrived >= self.barrier or self._state.ending is not None):
            self.barrier, barred, self.barred = 0, self.barred, {}
            self.enqueue_each(barred, now)
        return not self.barrier

    def _is_served(self, uid: TaskUid) -> bool:
        """Tell whether the services that a task needs are ready; note it if they are not."""
        service = lacking(self._state, self._state.tasks[uid].row)
        if service is None:
            return True
        (self.forsaken if service in self._state.services_over else self.unserved)[uid] = service
        return False

    def enqueue_each(self, uids: Iterable[TaskUid], now: float) -> None:
        """Let tasks of any templates wait."""
        tasks = self._state.tasks
        run: list[TaskUid] = []
        current: TemplateId | None = None
        for uid in uids:
            template = tasks[uid].row.template
            if template != current:
                if current is not None:
                    self.enqueue(run, current, now)
                run, current = [], template
            run.append(uid)
        if current is not None:
            self.enqueue(run, current, now)

    def _is_there(self, name: str) -> bool:
        environment = self._state.environments.get(name)
        return name in ALWAYS_THERE or (environment is not None and environment.prepared)

    def take_held(self, name: str) -> list[TaskUid]:
        """Hold the tasks that wait for this environment no longer, and return them."""
        return list(self.held.pop(name, ()))

    def leave_to_successor(self, uid: TaskUid, reason: str) -> None:
        """Let a task that is in the queue wait for the pilot that follows."""
        self.withdraw(uid)
        self.launches.let_out(uid)
        self.for_successor[uid] = reason

    def dequeue(self, uid: TaskUid) -> bool:
        """Take a task out that waits for a service or in the queue; return False if it does not."""
        if self.for_successor.pop(uid, None) is not None:
            return True
        return self.unserved.pop(uid, None) is not None or self.launches.withdraw(uid) or self._policy.withdraw(uid)

    def take_unserved(self, service: TaskUid) -> list[TaskUid]:
        """Let the tasks that wait for this service wait for it no longer, and return them."""
        found = [uid for uid, awaited in self.unserved.items() if awaited == service]
        for uid in found:
            del self.unserved[uid]
        return found

    def take_forsaken(self) -> dict[TaskUid, TaskUid]:
        """Let the tasks that need a service that is over wait no longer, and return them with that service."""
        found, self.forsaken = self.forsaken, {}
        return found

    def withdraw(self, uid: TaskUid) -> None:
        """Let a task wait no longer."""
        if uid in self.barred:
            del self.barred[uid]
            return
        if self.for_successor.pop(uid, None) is not None:
            return
        if self.unserved.pop(uid, None) is not None or self.forsaken.pop(uid, None) is not None:
            return
        if self.launches.withdraw(uid):
            return
        name = self._state.templates[self._state.tasks[uid].row.template].named_env
        held = self.held.get(name)
        if held is None or uid not in held:
            self._policy.withdraw(uid)
            return
        del held[uid]
        if not held:
            del self.held[name]
