"""``Executor``: ``concurrent.futures`` over a pilot.

``map`` chooses the size of its chunks: the first calls travel alone and are timed; when the first of them is back, the rest
goes out in chunks that take about ``CHUNK_S``, which costs short calls next to nothing each and keeps long ones apart.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from pilotage.client.chunks import call_each
from pilotage.client.pilot_description import PilotDescription
from pilotage.client.pilot_manager import PilotManager
from pilotage.client.serialization import open_exception
from pilotage.client.session import Session
from pilotage.client.task import Task, TaskFuture
from pilotage.client.task_description import TaskDescription
from pilotage.client.task_manager import TaskManager
from pilotage.errors import InvalidRequest
from pilotage.wire.pickles import pickle_exception

CHUNK_S = 0.05
CHUNK_CALLS = 2000
CHUNKS_PER_CORE = 4
MINUTES = 24 * 60

_Result = TypeVar("_Result")


class Executor(concurrent.futures.Executor):
    """Runs Python functions on a pilot: ``submit``, ``map`` and ``shutdown`` as in ``concurrent.futures``.

    ``cores`` (by default all of this machine) and ``resource`` say where; ``task`` holds further attributes of the tasks'
    descriptions, such as ``{"cores_per_rank": 2, "retries": 1}``. With ``session`` the pilot belongs to that session;
    otherwise the executor has one of its own, which ends with it.

    Raises:
        InvalidPilot, UnknownPlatform: the pilot cannot be had.
    """

    def __init__(
        self,
        cores: int | None = None,
        *,
        gpus: int = 0,
        resource: str = "local.localhost",
        runtime: float = MINUTES,
        session: Session | None = None,
        task: dict[str, Any] | None = None,
    ) -> None:
        self._task = dict(task or {})
        TaskDescription(self._task)
        if cores is not None and cores < 1:
            raise InvalidRequest(f"cores={cores}: an executor needs 1 core or more")
        self._cores = cores or len(os.sched_getaffinity(0))
        description = PilotDescription(resource=resource, cores=self._cores, gpus=gpus, runtime=runtime)
        description.verify()
        self._own_session = session is None
        self._session = session if session is not None else Session()
        try:
            self._pilot = PilotManager(self._session).submit_pilots(description)
            self._manager = TaskManager(self._session)
            self._manager.add_pilots(self._pilot)
        except BaseException:
            if self._own_session:
                self._session.close()
            raise
        self._lock = threading.Lock()
        self._shut_down = False
        self._futures: set[TaskFuture] = set()

    @property
    def session(self) -> Session:
        """The session in which the tasks are."""
        return self._session

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call ``fn(*args, **kwargs)`` on the pilot, and return a future of the result."""
        with self._lock:
            self._require_running()
            return self._future(self._submit_task(fn, args, kwargs))

    def _future(self, task: Task) -> Future[Any]:
        future = TaskFuture(lambda: task)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        self._manager.watch(task._record, future)
        return future

    def _describe(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskDescription:
        return TaskDescription(self._task, function=fn, args=list(args), kwargs=kwargs, mode="task.function")

    def _submit_task(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Task:
        return self._manager.submit_tasks(self._describe(fn, args, kwargs))

    def map(
        self, fn: Callable[..., _Result], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int | None = None
    ) -> Iterator[_Result]:
        """Return an iterator over ``fn`` called with the items of the iterables, in order.

        ``chunksize``: calls that travel together; by default it is chosen from the time that the first calls took.

        Raises:
            TimeoutError: from the iterator, when a result is not there ``timeout`` seconds after this call.
        """
        if chunksize is not None and chunksize < 1:
            raise InvalidRequest(f"chunksize={chunksize}: chunks hold 1 call or more; None lets the executor choose")
        calls = list(zip(*iterables, strict=False))
        with self._lock:
            self._require_running()
            run = _Map(self._submit_chunks, fn, calls, chunksize, CHUNKS_PER_CORE * self._cores)
        return run.results(None if timeout is None else time.monotonic() + timeout)

    def _submit_chunks(self, fn: Callable[..., Any], chunks: list[list[tuple[Any, ...]]]) -> list[Task]:
        return self._manager.submit_tasks([self._describe(call_each, (fn, chunk), {}) for chunk in chunks])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; end the pilot when the calls made so far are done (``cancel_futures``: at once).

        ``wait=False`` returns at once; a session of its own is then closed by the thread that the last call ends on.
        """
        with self._lock:
            first, self._shut_down = not self._shut_down, True
        if cancel_futures:
            for future in list(self._futures):
                future.cancel()
            self._manager.cancel_tasks()
        if not first:
            return
        if wait:
            self._finish()
        else:
            threading.Thread(target=self._finish, name="pilotage-executor-shutdown").start()

    def _finish(self) -> None:
        self._manager.wait_tasks()
        # What the futures' callbacks do belongs to the calls.
        concurrent.futures.wait(list(self._futures))
        if self._own_session:
            self._session.close()
        else:
            self._pilot.cancel()

    def _require_running(self) -> None:
        if self._shut_down:
            raise RuntimeError("cannot submit calls to an executor after shutdown; make another one")


class _Map:
    """One ``map``: its calls, and the tasks that make them."""

    def __init__(
        self,
        submit: Callable[[Callable[..., Any], list[list[tuple[Any, ...]]]], list[Task]],
        fn: Callable[..., Any],
        calls: list[tuple[Any, ...]],
        chunksize: int | None,
        first_wave: int,
    ) -> None:
        self._submit = submit
        self._fn = fn
        self._rest: list[tuple[Any, ...]] = []
        self._first_wave = first_wave
        self._all_submitted = threading.Event()
        self._failure: BaseException | None = None
        self._start_rest = threading.Lock()
        if chunksize is not None or len(calls) <= first_wave:
            self._tasks = submit(fn, _cut(calls, chunksize or 1))
            self._all_submitted.set()
            return
        self._rest = calls[first_wave:]
        self._tasks = submit(fn, _cut(calls[:first_wave], 1))
        # The first to come back tells how long a call takes; later ones find the rest under way.
        for task in self._tasks:
            task.as_future().add_done_callback(lambda _, timed=task: self._submit_rest(timed))  # type: ignore[misc]

    def _submit_rest(self, timed: Task) -> None:
        if not self._start_rest.acquire(blocking=False):
            return
        call_s = max(timed.times.ended - timed.times.started, 1e-6)
        fair = -(-len(self._rest) // self._first_wave)
        size = max(1, min(int(CHUNK_S / call_s), CHUNK_CALLS, fair))
        try:
            self._tasks += self._submit(self._fn, _cut(self._rest, size))
        except BaseException as error:  # it belongs to whoever takes the results
            self._failure = error
        self._rest = []
        self._all_submitted.set()

    def results(self, deadline: float | None) -> Iterator[Any]:
        """Yield the results in order."""
        position = 0
        while True:
            if position == len(self._tasks):
                if not self._all_submitted.wait(_left(deadline)):
                    raise TimeoutError("the results of map() are not there in time")
                if self._failure is not None:
                    raise self._failure
                if position == len(self._tasks):
                    return
            values, error, trace = self._tasks[position].result(_left(deadline))
            position += 1
            yield from values
            if error is not None:
                raise open_exception(pickle_exception(error), str(error), trace)


def _cut(calls: list[tuple[Any, ...]], size: int) -> list[list[tuple[Any, ...]]]:
    return [calls[start : start + size] for start in range(0, len(calls), size)]


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
