"""Callbacks and futures, served one after another by a thread of their own.

What is told here is in the log already. A callback may submit and cancel; waiting or closing in it would wait for itself, and
raises. One that raises is logged with its traceback, and the others go on. When all callbacks of a task have heard of its
final state the task gets a mark, which is logged; what has no mark is told again after a resume.

The thread starts with the first registration, so programs without callbacks do not pay for it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import msgspec

from pilotage.core.client.state import PilotRecord, TaskRecord
from pilotage.errors import WaitInCallback
from pilotage.model.ids import TaskUid
from pilotage.model.states import FINAL, NEW, passed_states, pilot_may_go, task_may_go

log = logging.getLogger("pilotage")

CLOSE_PATIENCE_S = 10.0
_ANY = "*"

Callback = Callable[..., Any]


class Registration(msgspec.Struct, frozen=True):
    """A callback, and what it is called with at the end, if anything."""

    callback: Callback
    cb_data: Any = None

    def call(self, *arguments: Any) -> None:
        """Call it; what it raises is logged."""
        try:
            if self.cb_data is None:
                self.callback(*arguments)
            else:
                self.callback(*arguments, self.cb_data)
        except Exception:  # the user's code may raise anything, and the others are to be called all the same
            name = getattr(self.callback, "__qualname__", repr(self.callback))
            log.exception("callback %s raised; it stays registered", name)


class Callbacks:
    """The callbacks of one manager: for everything it has, and for single tasks or pilots by uid."""

    def __init__(self) -> None:
        self._by_subject: dict[str, list[Registration]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_subject)

    def add(self, callback: Callback, cb_data: Any, subjects: Iterable[str] = (_ANY,)) -> None:
        """Register for these uids, or for all."""
        for subject in subjects:
            self._by_subject.setdefault(subject, []).append(Registration(callback, cb_data))

    def remove(self, callback: Callback | None, subject: str = _ANY) -> bool:
        """Unregister a callback, or all of a subject; return whether there was one."""
        before = self._by_subject.pop(subject, [])
        left = [entry for entry in before if callback is not None and entry.callback != callback]
        if left:
            self._by_subject[subject] = left
        return len(left) < len(before)

    def forget(self, subject: str) -> None:
        """Nothing more will happen to this one."""
        self._by_subject.pop(subject, None)

    def of(self, subject: str) -> list[Registration]:
        """Return whom to tell about this one, in the order of registration."""
        everywhere = self._by_subject.get(_ANY, [])
        return everywhere if subject == _ANY else [*everywhere, *self._by_subject.get(subject, ())]


class TaskNews(msgspec.Struct, frozen=True):
    """Tasks with the states they were in, for the manager's callbacks. ``again``: also those that callbacks have heard of."""

    callbacks: Callbacks
    handle: Callable[[TaskRecord], Any]
    news: list[tuple[TaskRecord, str]]
    again: bool = False


class PilotNews(msgspec.Struct, frozen=True):
    """A pilot in a new state."""

    callbacks: Callbacks
    handle: Callable[[PilotRecord], Any]
    record: PilotRecord
    state: str


class WaitingNews(msgspec.Struct, frozen=True):
    """So many tasks of a manager wait for a pilot."""

    callbacks: Callbacks
    manager: Any
    count: int


class FutureNews(msgspec.Struct, frozen=True):
    """Tasks that somebody holds futures of are final; ``resolve`` opens the result."""

    futures: list[tuple[Future[Any], TaskRecord]]
    resolve: Callable[[Future[Any], TaskRecord], None]


class Errand(msgspec.Struct, frozen=True):
    """Something else that is to be done in its turn; it raises nothing."""

    call: Callable[[], None]


News = TaskNews | PilotNews | WaitingNews | FutureNews | Errand


class Dispatcher:
    """The thread that calls callbacks. ``mark`` records that tasks need not be told again."""

    def __init__(self, name: str, mark: Callable[[list[TaskUid]], None]) -> None:
        self._name = name
        self._mark = mark
        self._news: queue.SimpleQueue[News | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._start_lock = threading.Lock()
        # What callbacks have heard of last, so that skipped states are made up once and in order.
        self._told_tasks: dict[tuple[int, str], str] = {}
        self._told_pilots: dict[tuple[int, str], str] = {}

    def start(self) -> None:
        """Start the thread if it does not run; one that was closed stays so."""
        with self._start_lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    @property
    def running(self) -> bool:
        """Whether anybody has ever registered."""
        return self._thread is not None

    def put(self, news: News) -> None:
        """Queue news."""
        self._news.put(news)

    def refuse_here(self, what: str) -> None:
        """Raise ``WaitInCallback`` if this is the dispatcher's own thread."""
        if self._thread is not None and threading.get_ident() == self._thread.ident:
            raise WaitInCallback(
                f"{what} inside a callback would wait for the callback itself; "
                "let the callback return, and do it in the main program, or submit and cancel here"
            )

    def close(self) -> None:
        """Call what is queued and end the thread; a callback that does not return is left behind with a warning."""
        with self._start_lock:
            self._closed = True
        if self._thread is None:
            return
        self._news.put(None)
        self._thread.join(CLOSE_PATIENCE_S)
        if self._thread.is_alive():
            log.warning("a callback has not returned for %g s after the session closed; it is left behind", CLOSE_PATIENCE_S)

    def _run(self) -> None:
        while (news := self._news.get()) is not None:
            try:
                self._serve(news)
            except Exception:  # the root of this thread: later callbacks must be called all the same
                log.exception("callbacks were interrupted by an error of Pilotage")

    def _serve(self, news: News) -> None:
        if isinstance(news, TaskNews):
            self._serve_tasks(news)
        elif isinstance(news, FutureNews):
            for future, record in news.futures:
                news.resolve(future, record)
        elif isinstance(news, PilotNews):
            self._serve_pilot(news)
        elif isinstance(news, Errand):
            news.call()
        else:
            for entry in news.callbacks.of(_ANY):
                entry.call(news.manager, news.count)

    def _serve_tasks(self, news: TaskNews) -> None:
        callbacks, owner = news.callbacks, id(news.callbacks)
        final: list[TaskUid] = []
        for record, state in news.news:
            uid = record.row.uid
            key = (owner, uid)
            told = self._told_tasks.get(key, NEW)
            if (record.marked and not news.again) or not task_may_go(told, state):
                continue
            handle = news.handle(record)
            entries = callbacks.of(uid)
            for passed in passed_states(told, state):
                for entry in entries:
                    entry.call(handle, passed)
            if state in FINAL:
                self._told_tasks.pop(key, None)
                callbacks.forget(uid)
                if not record.marked:
                    final.append(uid)
            else:
                self._told_tasks[key] = state
        if final:
            self._mark(final)

    def _serve_pilot(self, news: PilotNews) -> None:
        key = (id(news.callbacks), news.record.uid)
        told = self._told_pilots.get(key, NEW)
        if not pilot_may_go(told, news.state):
            return
        self._told_pilots[key] = news.state
        handle = news.handle(news.record)
        for passed in passed_states(told, news.state, pilot=True):
            for entry in news.callbacks.of(news.record.uid):
                entry.call(handle, passed)
