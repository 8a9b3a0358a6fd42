"""What tasks need of services in the same pilot: is it there, is it over, what are they told of it.

A client binds a task when the services that it needs are ready. By the time that the task is placed one of them may have been
started again, elsewhere, or be over; then what the client said of it is out of date. What is known here counts. A service that
was never here runs in another pilot: of that the client is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from pilotage.model.ids import TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.workload import Row


class AnyTask(Protocol):
    """A task that is here."""

    @property
    def ending(self) -> Ending | None:
        """The ending that was asked for."""
        ...


class KnowsServices(Protocol):
    """A state that has tasks and knows of services."""

    @property
    def tasks(self) -> Mapping[TaskUid, AnyTask]:
        """The tasks that are here."""
        ...

    @property
    def services(self) -> Mapping[TaskUid, str]:
        """Services that are ready, and what tasks are told of them."""
        ...

    @property
    def services_over(self) -> Mapping[TaskUid, str]:
        """Services that have ended for good, and how."""
        ...


def information(state: KnowsServices, service: TaskUid) -> str | None:
    """Return what tasks are told of a service that is here and ready; None if it is not, or is about to be ended."""
    task = state.tasks.get(service)
    return state.services.get(service) if task is not None and task.ending is None else None


def lacking(state: KnowsServices, row: Row) -> TaskUid | None:
    """Return a service that a task needs and that is over, or else one that is not ready; None if it may begin."""
    if row.extra is None or not row.extra.services:
        return None
    needed = dict.fromkeys(row.extra.services.values())
    for service in needed:
        if service in state.services_over:
            return service
    for service in needed:
        if service in state.tasks and information(state, service) is None:
            return service
    return None


def told(state: KnowsServices, row: Row) -> Row:
    """Return a task with what is known now of the services that it needs."""
    extra = row.extra
    if extra is None or not extra.services:
        return row
    news = {variable: info for variable, uid in extra.services.items() if (info := information(state, uid)) is not None}
    if news.items() <= extra.variables.items():
        return row
    return msgspec.structs.replace(row, extra=msgspec.structs.replace(extra, variables={**extra.variables, **news}))
