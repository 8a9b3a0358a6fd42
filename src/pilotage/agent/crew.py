"""Who does for the agent what takes time, on threads: stagers, the preparation of environments, the watch over services, the
probe of full storage.

Each of them, and its thread, comes into being when it is first needed: a pilot that uses none of it pays for none of it. What
they have to say comes to the agent's loop as events, through one descriptor that it polls.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pilotage.agent.settings import PilotSettings
from pilotage.core.agent import actions, events
from pilotage.environments.own import ENVIRONMENTS_FOLDER, OWN_NAMES, own_environment, write_commands
from pilotage.errors import unreachable
from pilotage.executors.base import Executor
from pilotage.executors.notify import NotifySocket, Word
from pilotage.model.ids import Attempt, TaskUid, TemplateId
from pilotage.model.sandboxes import TASKS_FOLDER
from pilotage.model.workload import Template
from pilotage.wire.runner_settings import NOTIFY_SOCKET

if TYPE_CHECKING:
    from pilotage.agent.environments import Environments
    from pilotage.agent.services import Services
    from pilotage.agent.stagers import Stagers
    from pilotage.agent.storage import StorageProbe

Errand = actions.StageTasks | actions.EndStaging | actions.PrepareEnvironment | actions.WatchService | actions.UnwatchService
"""The actions that are for the crew."""


class Inbox:
    """Events that threads have for the agent's loop. ``fileno`` is readable while there are some."""

    def __init__(self) -> None:
        self._events: deque[events.Event] = deque()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._wakeup

    def put(self, event: events.Event) -> None:
        """Hand an event over, from any thread."""
        self._events.append(event)
        os.eventfd_write(self._wakeup, 1)

    def take(self) -> list[events.Event]:
        """Return what was handed over since the last call."""
        try:
            os.eventfd_read(self._wakeup)
        except BlockingIOError:
            return []
        return [self._events.popleft() for _ in range(len(self._events))]

    def close(self) -> None:
        """Let go of the descriptor; nobody puts anything any more."""
        os.close(self._wakeup)


class Crew:
    """The crew of one agent. ``private`` is its private folder; ``incarnation`` counts the pilot's agents."""

    def __init__(self, settings: PilotSettings, private: Path, incarnation: int, executor: Executor) -> None:
        self._settings = settings
        self._private = private
        self._incarnation = incarnation
        self._executor = executor
        self._notify = NotifySocket(private / NOTIFY_SOCKET, settings.session, settings.pilot)
        self._inbox = Inbox()
        self._poll = select.epoll()
        self._poll.register(self._inbox, select.EPOLLIN)
        self._stagers: Stagers | None = None
        self._environments: Environments | None = None
        self._services: Services | None = None
        self._storage: StorageProbe | None = None

    def start(self) -> None:
        """Be there for runners: define the environments that are there already, and let services speak."""
        settings = self._settings
        pilot_folder = Path(settings.pilot_folder)
        write_commands(pilot_folder)
        own = own_environment(settings.environment, pilot_folder)
        for name in OWN_NAMES:
            self._executor.define_environment(name, own)
        if self._incarnation > 1 and (pilot_folder / ENVIRONMENTS_FOLDER).exists():
            self._preparing()
        self._notify.open()

    def fileno(self) -> int:
        """Return the descriptor that is readable while ``take`` has something to give."""
        return self._poll.fileno()

    def take(self) -> list[events.Event]:
        """Return what the crew has to say. What was returned before must be in the log by now."""
        taken = self._inbox.take()
        for event in taken:
            if isinstance(event, events.EnvironmentPrepared) and not event.error:
                # Before the core hears of it, and sends tasks there.
                self._preparing().define(event.name)
        if self._stagers is not None:
            taken += self._stagers.take()
        return taken

    def perform(self, errand: Errand, templates: Mapping[TemplateId, Template]) -> None:
        """Have it done. ``templates`` has those that the tasks concerned follow."""
        match errand:
            case actions.StageTasks():
                self._staging().submit(errand.phase, errand.tasks, templates)
            case actions.EndStaging():
                self._staging().end(errand.tasks)
            case actions.PrepareEnvironment():
                self._preparing().prepare(errand.name, errand.spec)
            case actions.WatchService():
                self._watching().watch(errand, templates)
            case actions.UnwatchService():
                self._watching().unwatch(errand.service)
            case _:
                unreachable(errand)

    def service_spoke(self, service: TaskUid, attempt: Attempt, lines: dict[str, str]) -> None:
        """A service on another node said this of itself."""
        self._watching().hear(Word(service, attempt, lines))

    def storage_full(self) -> None:
        """Storage was found full: tell ``StorageFreed`` when it is not any more."""
        from pilotage.agent.storage import StorageProbe

        if self._storage is None:
            folder = Path(self._settings.pilot_folder) / TASKS_FOLDER
            self._storage = StorageProbe(folder, lambda: self._inbox.put(events.StorageFreed(time.time())))
        self._storage.begin()

    def close(self) -> None:
        """End what is under way."""
        for member in (self._stagers, self._environments, self._services, self._storage, self._notify):
            if member is not None:
                member.close()
        self._poll.close()
        self._inbox.close()

    def _environment_prepared(self, name: str, error: str) -> None:
        self._inbox.put(events.EnvironmentPrepared(time.time(), name, error))

    def _preparing(self) -> Environments:
        if self._environments is None:
            from pilotage.agent.environments import Environments

            define = self._executor.define_environment
            self._environments = Environments(
                self._settings, self._private, self._incarnation, define, self._environment_prepared
            )
        return self._environments

    def _staging(self) -> Stagers:
        if self._stagers is None:
            from pilotage.agent.stagers import Stagers

            settings = self._settings
            self._stagers = Stagers(
                settings.pilot_folder,
                settings.working_folder,
                self._incarnation,
                agent_folder=str(settings.agent_folder),
            )
            self._poll.register(self._stagers, select.EPOLLIN)
        return self._stagers

    def _watching(self) -> Services:
        if self._services is None:
            from pilotage.agent.services import Services

            self._services = Services(self._settings, self._notify, self._inbox.put)
        return self._services
