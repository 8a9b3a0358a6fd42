"""What managers of pilots and of tasks have in common: a name in the session, callbacks, and waiting."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pilotage.client.awaited import unknown_attribute
from pilotage.client.callbacks import Callbacks
from pilotage.client.waiting import HasState, satisfying
from pilotage.core.client import events
from pilotage.core.client.facts import ManagerKind, TaskScheduler
from pilotage.core.client.state import PilotRecord, TaskRecord
from pilotage.errors import InvalidRequest, SessionClosed, nearest

if TYPE_CHECKING:
    from pilotage.client.session import Session

T = TypeVar("T")


class Manager:
    """Base of the managers.

    Raises:
        SessionClosed: the session was closed.
        InvalidRequest: the session has a manager of this name already, or one of another kind or with another scheduler.
    """

    KIND: ManagerKind
    PREFIX: str

    def __init__(self, session: Session, uid: str | None = None, scheduler: TaskScheduler | None = None) -> None:
        from pilotage.client.session import Session  # it imports the managers

        if not isinstance(session, Session):
            raise InvalidRequest(
                f"session={session!r:.60} ({type(session).__name__}): a {type(self).__name__} is made for a Session"
            )
        managers = session.state.managers
        number = sum(record.kind == self.KIND for record in managers.values())
        name = uid or f"{self.PREFIX}.{number:04d}"
        while uid is None and name in managers:
            number += 1
            name = f"{self.PREFIX}.{number:04d}"
        if name in managers and managers[name].kind != self.KIND:
            raise InvalidRequest(f"{name!r} is a manager of {managers[name].kind} in session {session.uid}; choose another uid")
        if name in managers and scheduler is not None and managers[name].scheduler != scheduler:
            has = f"scheduler={managers[name].scheduler!r}" if managers[name].scheduler else "no scheduler"
            raise InvalidRequest(
                f"scheduler={scheduler!r}: manager {name!r} was made with {has}, which stays; "
                "leave it out, or choose another uid"
            )
        self._session = session
        self._uid = name
        self._closed = False
        self.callbacks = Callbacks()
        session.register(name, self)
        if name not in managers:
            session.step(events.ManagerCreated(time.time(), name, self.KIND, scheduler or ""))

    @property
    def uid(self) -> str:
        """The manager's name in its session."""
        return self._uid

    @property
    def session(self) -> Session:
        """The session that it belongs to."""
        return self._session

    def close(self, terminate: bool = True) -> None:
        """Take no more submissions; what was submitted goes on until the session is closed."""
        del terminate
        self._closed = True

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._uid}>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise unknown_attribute(self, name)

    def wait_for(self, records: Sequence[HasState], state: str | Collection[str] | None, timeout: float | None) -> bool:
        """Wait until all records are in (or past) one of these states; False when the time is over before."""
        require_timeout(timeout)
        return self._session.wait(records, satisfying(state, pilot=self.KIND == "pilots"), timeout)

    def _require_open(self) -> None:
        engine = self._session.engine
        engine.require_owner()
        engine.check()
        if self._closed:
            raise SessionClosed(f"manager {self._uid} was closed; make another one")

    def tasks_changed(self, records: list[TaskRecord]) -> None:
        """Tell the callbacks; called with the engine's lock."""

    def pilot_changed(self, record: PilotRecord) -> None:
        """Tell the callbacks; called with the engine's lock."""

    def waiting_changed(self, count: int) -> None:
        """Tell the callbacks; called with the engine's lock."""


def require_timeout(timeout: object) -> None:
    """Raise ``InvalidRequest`` unless this is a number of seconds, or None."""
    if timeout is None:
        return
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise InvalidRequest(
            f"timeout={timeout!r} is a {type(timeout).__name__}: it is a number of seconds; None waits without limit"
        )
    if not timeout >= 0:
        raise InvalidRequest(f"timeout={timeout}: it is in seconds and must be 0 or more; None waits without limit")


def listed(given: Iterable[T], how: str) -> list[T]:
    """Return several things as a list.

    Raises:
        InvalidRequest: it is not several; ``how`` says what it has to be.
    """
    if not isinstance(given, Iterable):
        raise InvalidRequest(f"{how}, not {given!r:.60} ({type(given).__name__})")
    return list(given)


def chosen(uids: str | Iterable[str] | None, known: Collection[str], kind: str) -> list[str]:
    """Return the uids that are meant (None: all).

    Raises:
        InvalidRequest: there is no such one; names the nearest.
    """
    if uids is None:
        return list(known)
    wanted = [uids] if isinstance(uids, str) else listed(uids, f"{kind}s are named by their uids (str)")
    for uid in wanted:
        if not isinstance(uid, str):
            raise InvalidRequest(f"{kind}s are named by their uids (str), not {uid!r:.60} ({type(uid).__name__})")
        if uid not in known:
            raise InvalidRequest(f"there is no {kind} {uid!r} here{nearest(str(uid), known)}")
    return wanted
