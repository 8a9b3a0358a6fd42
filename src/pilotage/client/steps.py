"""The steps of a session: one lock, the client core under it, and the order in which a step is done.

The core decides on an event; the facts that come of it are written to the log as one record; only then messages are sent and
actions performed. So a step that has returned is durable, and whoever comes back to the log finds all that others may know of.
Messages that a link takes at once are numbered in the record of the step, so that they cost no write of their own.

When the log cannot be written, or the core has a bug, the session cannot go on in this process: its pilots go on without it,
and everyone who waits is told.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NoReturn

from pilotage.client.fact_log import FactLog
from pilotage.client.pilot_link import PilotLink
from pilotage.core.client import actions, events, facts
from pilotage.core.client.core import ClientCore, Decision
from pilotage.core.client.state import ClientState
from pilotage.errors import BackendError, InvariantViolated, SessionClosed
from pilotage.model.ids import PilotUid, SessionUid

log = logging.getLogger("pilotage")


class Steps:
    """The steps of one session. ``perform`` does what the core wants done; ``give_up`` tells those who wait of a failure.

    All calls but ``tell`` and ``stop_for`` are made with ``lock``. ``ending`` is set when the session is over in this process,
    for threads that pause.
    """

    def __init__(
        self,
        session: SessionUid,
        state: ClientState,
        fact_log: FactLog,
        *,
        perform: Callable[[actions.Action], None],
        give_up: Callable[[], None],
    ) -> None:
        self.session = session
        self.lock = threading.Lock()
        self.core = ClientCore(state)
        self.log = fact_log
        self.links: dict[PilotUid, PilotLink] = {}
        self.failure = ""
        self.closed = False
        self.ending = threading.Event()
        self._perform = perform
        self._give_up = give_up

    @property
    def state(self) -> ClientState:
        """The session's state, for reading."""
        return self.core.state

    # one step

    def handle(self, event: events.Event) -> None:
        """Let the core decide on an event, write the facts, then act.

        Raises:
            BackendError: the log cannot be written; the session has ended for this process.
        """
        self.check()
        decision = self.decide(event)
        new_facts, todo = decision.facts, decision.actions
        frames: list[tuple[PilotLink, bytes]] = []
        for pilot in dict.fromkeys(action.pilot for action in todo if isinstance(action, actions.OfferMessages)):
            frames += self._number(pilot, new_facts)
        self.commit(new_facts)
        if any(isinstance(fact, facts.TasksBound) and fact.binding > 1 for fact in new_facts):
            # Were this forgotten with the node, the tasks would be bound once more while a pilot has them.
            self.log.sync()
        for link, frame in frames:
            link.send(frame)
        for action in todo:
            self._perform(action)

    def decide(self, event: events.Event) -> Decision:
        """Let the core decide on an event; to be committed.

        Raises:
            InvariantViolated: the core has a bug; the session has ended for this process.
        """
        try:
            return self.core.handle(event)
        except Exception as error:  # a bug has left the state half changed; the log is as it was before, and good to resume
            self.fail(f"a {type(event).__name__} led to {type(error).__name__}: {error}; Session.resume() goes on from the log")
            raise InvariantViolated(self.failure) from error

    def commit(self, new_facts: list[facts.Fact]) -> None:
        """Write the facts of a decision. Raises ``BackendError`` if the log cannot be written."""
        try:
            number = self.log.append(new_facts)
        except BackendError as error:
            self._fail_unwritten(error)
        if number is not None:
            for link in self.links.values():
                link.logged(number)

    def commit_late(self) -> None:
        """Write the facts that wait for the next record. Raises ``BackendError`` as ``commit``."""
        try:
            self.log.append_late()
        except BackendError as error:
            self._fail_unwritten(error)

    def offer(self, pilot: PilotUid) -> None:
        """Number and send what a link has room for now."""
        new_facts: list[facts.Fact] = []
        frames = self._number(pilot, new_facts)
        if frames:
            self.commit(new_facts)
            for link, frame in frames:
                link.send(frame)

    def _number(self, pilot: PilotUid, new_facts: list[facts.Fact]) -> list[tuple[PilotLink, bytes]]:
        link = self.links.get(pilot)
        frames: list[tuple[PilotLink, bytes]] = []
        record = self.core.state.pilots[pilot]
        while link is not None and record.outbox and link.may_number():
            number = link.outgoing.next_number
            decision = self.decide(events.LinkOpened(pilot, number))
            new_facts += decision.facts
            frames.append((link, link.number(number, record.unacknowledged[number])))
        return frames

    # what other threads have learned

    def tell(self, event: events.Event) -> bool:
        """Handle what another thread has learned. False: the session does not go on in this process."""
        with self.lock:
            if self.goes_on:
                self.handle(event)
                return True
            return False

    def stop_for(self, reason: str) -> None:
        """The session cannot go on in this process, as one of its threads cannot."""
        with self.lock:
            if self.goes_on:
                self.fail(reason)

    # whether there are more steps

    @property
    def goes_on(self) -> bool:
        """Whether the session goes on in this process."""
        return not self.closed and not self.failure

    def check(self) -> None:
        """Raise ``SessionClosed`` or ``BackendError`` if the session does not go on in this process."""
        if self.closed:
            raise SessionClosed(f"session {self.session} is closed; open a new one, or Session.resume({self.session!r})")
        if self.failure:
            raise BackendError(self.failure)

    def fail(self, reason: str) -> None:
        """The session cannot go on in this process: pilots go on without it, and everyone who waits is told."""
        self.failure = f"session {self.session} has stopped: {reason}"
        log.error("%s", self.failure)
        self._give_up()
        for link in self.links.values():
            link.close()
        self.links.clear()

    def _fail_unwritten(self, error: BackendError) -> NoReturn:
        self.fail(f"{error}; then Session.resume({self.session!r}) goes on from what was written")
        raise BackendError(self.failure) from error
