"""Named environments: asked for by the client, prepared once, and then there for the tasks that want them."""

from __future__ import annotations

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.endings import Endings
from pilotage.core.agent.journal import Journal
from pilotage.core.agent.waiting import Waiting
from pilotage.model.outcome import Ending


class Environments:
    """Has environments prepared, and lets tasks go on, or fail, when it is known whether theirs can be had."""

    def __init__(self, journal: Journal, waiting: Waiting, endings: Endings) -> None:
        self._journal = journal
        self._state = journal.state
        self._waiting = waiting
        self._endings = endings

    def resume(self) -> None:
        """Ask again for what an agent before this one had asked for."""
        if self._state.ending is None or self._state.ending.drain:
            for name, environment in self._state.environments.items():
                if not environment.prepared and not environment.error:
                    self._journal.act(actions.PrepareEnvironment(name, environment.spec))

    def asked(self, event: events.EnvironmentAsked) -> None:
        """Have it prepared, unless it is there, or on its way. One that could not be had is tried again."""
        before = self._state.environments.get(event.name)
        self._journal.emit(facts.EnvironmentAsked(event.time, event.number, event.name, event.spec))
        if self._state.environments[event.name] is not before:
            self._journal.act(actions.PrepareEnvironment(event.name, event.spec))

    def prepared(self, event: events.EnvironmentPrepared) -> None:
        """Note that it is there, or cannot be had."""
        environment = self._state.environments.get(event.name)
        if environment is None or environment.prepared or environment.error:
            self._journal.stale += 1
        else:
            self._journal.emit(facts.EnvironmentPrepared(event.time, event.name, event.error))

    def settle(self, now: float) -> None:
        """Let go of the tasks that wait for an environment of which all is known."""
        for name in list(self._waiting.held):
            environment = self._state.environments.get(name)
            error = ""
            if environment is not None:
                if not environment.prepared and not environment.error:
                    continue
                error = environment.error
            elif self._state.ending is None:
                continue
            else:
                error = "nobody had asked for it when the pilot began to end; Pilot.prepare_env prepares one"
            uids = self._waiting.take_held(name)
            if error:
                message = f"the environment {name!r} cannot be had: {error}"
                self._endings.finish(now, uids, Ending.LAUNCH_FAILED, message)
            else:
                self._waiting.enqueue_each(uids, now)
