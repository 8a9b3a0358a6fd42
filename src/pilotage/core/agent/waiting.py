"""Tasks that wait: for their named environment first, then for resources, in the policy's queue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pilotage.core.agent.lanes import group_of
from pilotage.core.agent.state import AgentState
from pilotage.core.scheduling.policy import GroupKey, Policy
from pilotage.model.ids import TaskUid, TemplateId

ALWAYS_THERE = ("", "rp", "pilotage")
"""Environments that need no preparation: none, and the agent's own Python."""


class Waiting:
    """The way into the queue, and out of it other than by being placed. Derived from the state."""

    def __init__(self, state: AgentState, policy: Policy) -> None:
        self._state = state
        self._policy = policy
        self._groups: dict[TemplateId, GroupKey] = {}
        self.held: dict[str, dict[TaskUid, None]] = {}
        """Tasks by the environment that they wait for."""

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
        if name and not self._is_there(name):
            self.held.setdefault(name, {}).update(dict.fromkeys(uids))
        else:
            self._policy.enqueue_many(uids, self.group(template), now)

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

    def withdraw(self, uid: TaskUid) -> None:
        """Let a task wait no longer."""
        name = self._state.templates[self._state.tasks[uid].row.template].named_env
        held = self.held.get(name)
        if held is None or uid not in held:
            self._policy.withdraw(uid)
            return
        del held[uid]
        if not held:
            del self.held[name]
