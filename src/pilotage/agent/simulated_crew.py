"""The crew of a pilot whose tasks are simulated: what it is asked for is there at once, and no file is touched."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pilotage.agent.crew import Crew, Errand
from pilotage.core.agent import actions, events
from pilotage.errors import unreachable
from pilotage.model.ids import TemplateId
from pilotage.model.workload import Template

INFORMATION = "simulated"
"""What tasks are told of a simulated service."""


class SimulatedCrew(Crew):
    """Stages, prepares and watches without doing it."""

    def perform(self, errand: Errand, templates: Mapping[TemplateId, Template]) -> None:
        """Tell at once that it is done."""
        now = time.time()
        match errand:
            case actions.StageTasks():
                done = [(row.uid, attempt) for attempt, row in errand.tasks]
                self._inbox.put(events.StagingEnded(now, errand.phase, done))
            case actions.PrepareEnvironment():
                self._inbox.put(events.EnvironmentPrepared(now, errand.name))
            case actions.WatchService():
                if not errand.ready:
                    self._inbox.put(events.ServiceReady(now, errand.row.uid, errand.attempt, INFORMATION))
            case actions.EndStaging() | actions.UnwatchService():
                pass  # nothing is under way
            case _:
                unreachable(errand)

    def take(self) -> list[events.Event]:
        """Return what the crew has to say."""
        return self._inbox.take()
