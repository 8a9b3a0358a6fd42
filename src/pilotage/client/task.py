"""The handle of a task.

A handle is a view: it holds the task's record, which the session keeps up to date, so any number of handles of one task may
exist, and asking costs nothing. Results are opened when they are asked for.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection, Generator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from pilotage.client.awaited import unknown_attribute
from pilotage.client.modes import named_mode
from pilotage.core.client.state import TaskRecord
from pilotage.errors import InvalidRequest, SerializationError, TaskCancelled, TaskFailed
from pilotage.model.ids import Attempt
from pilotage.model.outcome import Ending, Outcome, Times
from pilotage.model.sandboxes import sandbox_of
from pilotage.model.workload import OWN_SANDBOX, Template

if TYPE_CHECKING:
    from pilotage.client.node_list import Slot
    from pilotage.client.session import Session
    from pilotage.client.task_description import TaskDescription
    from pilotage.client.task_manager import TaskManager
    from pilotage.client.task_output import TaskOutput

_NO_TIMES = Times()


# A struct, as a hundred thousand of them are made at once: 0.1 us instead of 0.3 us. Handles refer to the manager, never the
# other way round, so no cycle can come about and the garbage collector need not look at them.
class Task(msgspec.Struct, eq=False, gc=False):
    """A task that was submitted. Equal to every other handle of the same task."""

    _manager: TaskManager
    _record: TaskRecord
    _description: TaskDescription | None = None

    @property
    def uid(self) -> str:
        """The task's name in its session."""
        return self._record.row.uid

    @property
    def name(self) -> str:
        """The name that the description gave, or the uid."""
        return self._record.row.name or self._record.row.uid

    @property
    def state(self) -> str:
        """The present state."""
        return self._record.state

    @property
    def mode(self) -> str:
        """What it is: ``task.executable``, ``task.function``, or the other word that the description has for it."""
        return named_mode(self._template)

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it is not final."""
        return self._record.outcome

    @property
    def attempt(self) -> Attempt:
        """The attempt that brought the outcome; 0 if there was none."""
        outcome = self._record.outcome
        return outcome.attempt if outcome is not None else Attempt(0)

    @property
    def times(self) -> Times:
        """When it passed its stations, in seconds since the epoch; all 0.0 while it is not final."""
        outcome = self._record.outcome
        return outcome.times if outcome is not None else _NO_TIMES

    @property
    def exit_code(self) -> int | None:
        """The exit code of an executable, negative for a signal; None if it is not final or there was no process."""
        outcome = self._record.outcome
        if outcome is None:
            return None
        if outcome.exit_code is None and outcome.ending is Ending.DONE:
            return 0
        return outcome.exit_code

    @property
    def return_value(self) -> Any:
        """What the function returned; None for an executable, and for what is not DONE.

        Raises:
            SerializationError: it cannot be opened in this process.
        """
        outcome = self._record.outcome
        if outcome is None or outcome.ending is not Ending.DONE or outcome.result is None:
            return None
        return self._manager.open_result(outcome.result)

    @property
    def exception(self) -> str | None:
        """One line that says why it did not end well; None if it did, or is not final."""
        outcome = self._record.outcome
        if outcome is None or outcome.ending is Ending.DONE:
            return None
        return outcome.message or outcome.ending.name.lower().replace("_", " ")

    @property
    def exception_detail(self) -> str | None:
        """The remote traceback, or the tail of stderr; None if it ended well, or is not final."""
        outcome = self._record.outcome
        if outcome is None or outcome.ending is Ending.DONE:
            return None
        return outcome.detail or None

    @property
    def pilot(self) -> str | None:
        """The uid of the pilot that the task is bound to; None while it waits for one."""
        return self._record.pilot or None

    @property
    def tmgr(self) -> TaskManager:
        """The manager that it was submitted to."""
        return self._manager

    @property
    def session(self) -> Session:
        """The session that it belongs to."""
        return self._manager.session

    @property
    def slots(self) -> list[Slot] | None:
        """Where each rank runs, or ran last: node, cores and GPUs. None before it was placed. Read from the pilot's log."""
        from pilotage.client.task_slots import slots_of

        placement = self._manager.placement(self._record)
        if placement is None:
            return None
        return slots_of(placement, self._template.request, self._manager.nodes(self._record.pilot))

    @property
    def partition(self) -> str | None:
        """The partition that its description asked for; None: whichever fits."""
        return self._template.partition or None

    @property
    def after(self) -> list[str]:
        """The uids of the tasks that it was to run after, as its description says; empty for most."""
        asked = self.session.state.asked.get(self._record.row.uid)
        return [] if asked is None else list(asked.after)

    # services

    @property
    def info(self) -> str | None:
        """What is known of a service that is ready: its address, for one; None before, afterwards, and of other tasks."""
        return self._manager.service_info(self._record)

    def wait_info(self, timeout: float | None = None) -> str:
        """Wait until this service is ready, at most ``timeout`` seconds, and return what is known of it.

        Raises:
            InvalidRequest: it is no service.
            TaskFailed: it ended before it was ready.
            TimeoutError: it is not ready yet.
            WaitInCallback: called in a callback while it is not ready.
        """
        if self._template.service is None:
            raise InvalidRequest(f"task {self.uid!r} is no service: its mode is {self.mode}; submit it with mode=TASK_SERVICE")
        info = self._manager.wait_service(self._record, timeout)
        if info is not None:
            return info
        if self._record.outcome is not None:
            raise TaskFailed(f"service {self.uid!r} is over: {self.exception or self.state}", self.uid, self._record.outcome)
        raise TimeoutError(f"service {self.uid!r} is not ready after {timeout:g} s: it is {self.state}")

    @property
    def description(self) -> TaskDescription:
        """The description that it was submitted with; after a resume, one that says the same."""
        if self._description is None:
            from pilotage.client.reconstruction import description_of

            asked = self.session.state.asked.get(self._record.row.uid)
            self._description = description_of(self._template, self._record, self._manager.load, self.metadata, asked)
        return self._description

    @property
    def metadata(self) -> Any:
        """The metadata of the description.

        Raises:
            SerializationError: another process submitted it, and it cannot be opened in this one.
        """
        return self._manager.metadata(self._record.row.uid) if self._description is None else self._description.metadata

    # files

    @property
    def sandbox(self) -> str | None:
        """The folder that it runs in; None while no pilot has it, and for one that runs in the folder of the program."""
        if not self._record.pilot:
            return None
        sandbox = sandbox_of(self._template, self._record.row)
        return None if sandbox is None else os.path.join(self._manager.pilot_folder(self._record.pilot), sandbox)

    task_sandbox = sandbox

    @property
    def pilot_sandbox(self) -> str | None:
        """The folder of its pilot; None while no pilot has it."""
        return self._manager.pilot_folder(self._record.pilot) if self._record.pilot else None

    @property
    def session_sandbox(self) -> str:
        """The folder of its session."""
        return self.session.path

    @property
    def output_files(self) -> list[str] | None:
        """The names of what it left in a sandbox of its own, without its output and what was staged; None before its end."""
        sandbox = self.sandbox
        if self._record.outcome is None or sandbox is None or self._template.sandbox != OWN_SANDBOX:
            return None
        from pilotage.client.staging import output_files

        return output_files(sandbox, self._template, self._record.row)

    @property
    def stdout_path(self) -> Path | None:
        """The file of its standard output; None if there is none: nothing was printed, or it is kept with that of others."""
        output = self._output
        return None if output is None else output.path("stdout")

    @property
    def stderr_path(self) -> Path | None:
        """The file of its standard error; None if there is none: nothing was printed, or it is kept with that of others."""
        output = self._output
        return None if output is None else output.path("stderr")

    @property
    def stdout(self) -> str | None:
        """The last 1024 characters of its standard output, so far; None while no pilot has it. ``open_stdout`` has all."""
        output = self._output
        return None if output is None else output.tail("stdout")

    @property
    def stderr(self) -> str | None:
        """The last 1024 characters of its standard error, so far; None while no pilot has it. ``open_stderr`` has all."""
        output = self._output
        return None if output is None else output.tail("stderr")

    def open_stdout(self) -> BinaryIO:
        """Return its standard output, so far, as a binary file to read; wherever that is kept."""
        output = self._output
        return io.BytesIO() if output is None else output.open("stdout")

    def open_stderr(self) -> BinaryIO:
        """Return its standard error, so far, as a binary file to read; wherever that is kept."""
        output = self._output
        return io.BytesIO() if output is None else output.open("stderr")

    @property
    def _output(self) -> TaskOutput | None:
        return self._manager.output(self._record)

    # acting

    def done(self) -> bool:
        """Tell whether it is final."""
        return self._record.outcome is not None

    def result(self, timeout: float | None = None) -> Any:
        """Wait until the task is final, at most ``timeout`` seconds, and return what a function returned (None: executable).

        Raises:
            TaskFailed: it ended otherwise; says how, with the tail of stderr or the traceback.
            TaskCancelled: it was cancelled.
            TimeoutError: it is not final yet.
            Exception: what the function raised, with the remote traceback.
            WaitInCallback: called in a callback for a task that is not final.
        """
        outcome = self._record.outcome
        if outcome is None:
            self._manager.wait_for([self._record], None, timeout)
            outcome = self._record.outcome
            if outcome is None:
                raise TimeoutError(f"task {self.uid!r} is not final after {timeout:g} s: it is {self.state}")
        if outcome.ending is Ending.DONE:
            return None if outcome.result is None else self._manager.open_result(outcome.result)
        raise self._error(outcome)

    def _error(self, outcome: Outcome) -> BaseException:
        how = f"task {self.uid!r} {_VERBS.get(outcome.ending, 'failed')}"
        if outcome.message:
            how += f": {outcome.message}"
        if outcome.ending is Ending.CANCELLED:
            return TaskCancelled(how, self.uid, outcome)
        if outcome.ending is Ending.RAISED:
            from pilotage.client.serialization import open_exception

            pickled = self._manager.load(outcome.result) if outcome.result is not None else None
            error = open_exception(pickled, how, outcome.detail)
            if isinstance(error, TaskFailed) and error.outcome is None:
                error.task, error.outcome = self.uid, outcome
            return error
        detail = outcome.detail.strip()
        return TaskFailed(f"{how}\n{detail}" if detail else how, self.uid, outcome)

    def wait(self, state: str | Collection[str] | None = None, timeout: float | None = None) -> str:
        """Wait until it is in (or past) one of these states, or final; at most ``timeout`` seconds. Return its state."""
        self._manager.wait_for([self._record], state, timeout)
        return self.state

    def cancel(self) -> None:
        """Ask for the task to be cancelled; one that is final stays as it is. Does not wait."""
        self._manager.cancel_tasks(self.uid)

    def register_callback(self, cb: Callable[..., Any], cb_data: Any = None, metric: str | None = None) -> None:
        """Have ``cb(task, state)``, or ``cb(task, state, cb_data)``, called for each state that this task comes to."""
        self._manager.register_task_callback(self, cb, cb_data, metric)

    def unregister_callback(self, cb: Callable[..., Any] | None = None, metric: str | None = None) -> None:
        """Have ``cb`` (or all of this task's callbacks) called no more."""
        self._manager.unregister_task_callback(self, cb)

    def as_future(self) -> Future[Any]:
        """Return a new future of the result. Its callbacks run on the thread of all callbacks."""
        future: Future[Any] = Future()
        self._manager.watch(self._record, future)
        return future

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the result in a coroutine; giving up the wait does not cancel the task."""
        import asyncio  # slow to import, and seldom needed

        return asyncio.wrap_future(self.as_future()).__await__()

    # the whole

    def as_dict(self) -> dict[str, Any]:
        """Return what is known of the task, as plain values."""
        outcome = self._record.outcome
        try:
            value = self.return_value
        except SerializationError as error:
            value = str(error)
        slots = self.slots
        return {
            "type": "task",
            "tmgr": self._manager.uid,
            "uid": self.uid,
            "name": self.name,
            "mode": self.mode,
            "state": self.state,
            "pilot": self.pilot,
            "slots": None if slots is None else [slot.as_dict() for slot in slots],
            "info": self.info,
            "exit_code": self.exit_code,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "return_value": value,
            "exception": self.exception,
            "exception_detail": self.exception_detail,
            "ending": outcome.ending.name if outcome is not None else None,
            "output_files": self.output_files,
            "task_sandbox": self.sandbox,
            "pilot_sandbox": self.pilot_sandbox,
            "session_sandbox": self.session_sandbox,
            "times": {name: getattr(self.times, name) for name in Times.__struct_fields__},
            "description": _plain(self.description.as_dict()),
        }

    @property
    def _template(self) -> Template:
        return self._manager.template(self._record.row.template)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and other._record is self._record

    def __hash__(self) -> int:
        return hash(self._record.row.uid)

    def __repr__(self) -> str:
        return f"<Task {self.uid} {self.state}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Task:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"task {self.uid!r} is a handle and belongs to this process; pass its uid or its result instead")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise unknown_attribute(self, name)


class TaskFuture(Future[Any]):
    """A future whose ``cancel`` also cancels the task."""

    def __init__(self, task: Callable[[], Task]) -> None:
        super().__init__()
        self._task = task

    def cancel(self) -> bool:
        """Cancel the task unless it is final, and the future with it."""
        cancelled = super().cancel()
        if cancelled:
            self._task().cancel()
        return cancelled


_VERBS = {
    Ending.EXITED: "failed",
    Ending.SIGNALLED: "was ended by a signal",
    Ending.TIMED_OUT: "ran out of time",
    Ending.OUT_OF_MEMORY: "ran out of memory",
    Ending.NODE_FAILED: "lost its node",
    Ending.PREEMPTED: "lost its allocation",
    Ending.LAUNCH_FAILED: "could not be started",
    Ending.STAGING_FAILED: "failed in staging",
    Ending.RAISED: "raised",
    Ending.INFEASIBLE: "can never run here",
    Ending.LOST: "was lost",
    Ending.CANCELLED: "was cancelled",
    Ending.OUT_OF_WALLTIME: "outlived its pilot",
}


def _plain(description: dict[str, Any]) -> dict[str, Any]:
    """Return a description with the uids of the tasks that it names."""
    named: dict[str, Any] = {
        name: [getattr(one, "uid", one) for one in description[name]] for name in ("after", "services") if name in description
    }
    return {**description, **named}
