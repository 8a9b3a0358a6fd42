"""A function worker: takes calls from the agent, runs them one after another, tells how they ended.

The way of a call: a ``Launch`` puts it into the queue; its turn comes, and its number is written to the shared ``progress``;
it runs; its end joins those not yet told. They are told together, as one numbered frame: when the queue is empty, when they
are ``BATCH_ENDS`` (as many as the agent launches together, so that it can send the next while this worker goes on), when the
oldest is ``BATCH_S`` old, and after a call so long that a frame of its own costs nothing beside it. A long call that nobody
could foresee holds up nothing either: see ``attendant``. At the same moments the worker looks at what the agent says. Before
the next call begins an end is in the ``outbox`` as well, where it outlives this process. What the call printed is in its file
by then: see ``outputs``.

The end of this process is the agent's business, through the spawner: that is how a running call is cancelled. Signals are the
user's own. Should the handler of a function that is long over raise while this module's own code runs, the worker drops the
connection and begins a new one, which sets both sides straight.
"""

from __future__ import annotations

import os
import select
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, NoReturn

import msgspec

from pilotage.errors import BackendError, InvariantViolated, SerializationError
from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import Attempt, LaneId, RunnerId, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.payload import INLINE_LIMIT_BYTES, Payload
from pilotage.model.resources import core_indices
from pilotage.model.workload import Row, Template
from pilotage.wire.runner_messages import (
    DOUBT_S,
    DefineTemplates,
    EndTasks,
    Launch,
    RecallTasks,
    StopRunner,
    TasksReturned,
    TasksStarted,
    ToRunner,
)
from pilotage.wire.runner_settings import RunnerSettings
from pilotage.workers import current
from pilotage.workers.attendant import Attendant
from pilotage.workers.calls import Function, Home, failed
from pilotage.workers.descriptors import EXIT_BROKEN, StandardStreams, broken_end
from pilotage.workers.link import AgentLink, say, say_traceback
from pilotage.workers.outbox import RING_BYTES, Outbox
from pilotage.workers.outputs import WATCH_S, Outputs
from pilotage.workers.progress import CONNECTION, FIRST, LAST, NEVER, REACHED, create_progress

if TYPE_CHECKING:
    from pilotage.log.blobs import BlobStore

BATCH_ENDS = 128
BATCH_S = 0.02
LONG_CALL_S = 0.005
NOTICED_CALL_S = 1e-5
"""After calls that are no shorter it is looked whether the connection is there: that takes a fiftieth of this."""
LARGE_BYTES = 8 << 20
"""Results that go to the blob store are written together, up to this size."""

EXIT_ORPHANED = 75
"""Exit status of a worker that had no agent for too long."""

Call = tuple[Attempt, Row]

_REMEMBERED_LANES = 1024


class Worker:
    """The worker of this process. ``run`` returns the exit status when the worker has been stopped, or has no agent."""

    def __init__(self, folder: Path, worker: RunnerId, settings: RunnerSettings) -> None:
        self.idle = True
        self.begun = 0
        self._settings = settings
        self._words = create_progress(folder, worker)
        outbox = _make_outbox(folder, worker)
        self._keep: Callable[[AttemptEnd], bool] = outbox.add if outbox is not None else lambda end: True
        self._link = AgentLink(folder, worker, self._begin_connection, outbox)
        self._attendant = Attendant(self)
        self._home = Home(settings.pilot_folder)
        self._streams = StandardStreams()
        self._blobs: BlobStore | None = None
        self._templates: dict[TemplateId, Template] = {}
        self._functions: dict[TemplateId, Function] = {}
        self._outputs = Outputs(settings, worker, self._templates)
        # A call; None for one that was returned, which keeps the numbers of those behind it; a set of cores to move to.
        self._queue: deque[Call | frozenset[int] | None] = deque()
        self._number = 0
        self._running: Call | None = None
        self._running_since = 0.0
        self._ends: list[AttemptEnd] = []
        self._ends_since = 0.0
        self._large_bytes = 0
        self._lane_cores: dict[LaneId, frozenset[int]] = {}
        self._queued_cores: frozenset[int] | None = None
        self._stop_at: float | None = None
        self._exit_status = 0
        self._forked = False
        self._told_running = (0, 0)
        self._doubtful_until = 0.0
        """Until when ends are not told, of which the last may be the doing of who ends all; 0.0: there is none such."""

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve the agent until it says stop, or until there has been none for the orphan timeout."""
        os.register_at_fork(before=self._outputs.before_fork, after_in_child=self._after_fork)
        self._outputs.install()
        broken_at = -1
        while True:
            try:
                while self._stop_at is None:
                    self._run_calls()
                    self._exchange()
                    if not self._queue and self._stop_at is None:
                        self._wait()
                self._drain()
                self._outputs.close()
                return self._exit_status
            except BaseException as error:  # root of the process: a handler that a function left behind raised in our code
                self._attendant.take_back()
                say_traceback()
                if self.begun == broken_at:
                    return EXIT_BROKEN
                broken_at = self.begun
                self._recover(error)

    def _run_calls(self) -> None:
        """Run what is queued. The baton is held, except while the user's code runs."""
        queue, words, functions = self._queue, self._words, self._functions
        attendant, baton, outputs = self._attendant, self._attendant.baton, self._outputs
        keep, link, home = self._keep, self._link, self._home
        if queue:
            self.idle = False
            attendant.wake()
        while queue and self._stop_at is None:
            call = queue.popleft()
            if not isinstance(call, tuple):
                self._pass_by(call)
                continue
            attempt, row = call
            number = self._number = self._number + 1
            words[REACHED] = number
            # Read after the number was written: see ``progress``.
            if number >= words[FIRST] and number <= words[LAST]:
                self._link.tell(TasksReturned([(row.uid, attempt)]))
                continue
            self._running = current.call = call
            started = self._running_since = time()
            self.begun += 1
            function = functions.get(row.template)
            # From here to its return the user's code may run: imported, opened, called, pickled.
            baton.release()
            try:
                if function is None:
                    function = self._open(row.template)
                end = function.run(attempt, row, started)
            finally:
                baton.acquire()
            if self._forked:
                outputs.write_out()
                os._exit(0)
            touched = home.is_closed or (end.ended - started > NOTICED_CALL_S and link.is_touched)
            if attendant.attending and not attendant.dismiss():
                touched = True
            if touched:
                self._end_broken(call, end)
            if outputs.printed or attempt > 1:
                self._streams.reopen()
                outputs.end_call(call)
            ended = end.ended
            ends = self._ends
            if not ends:
                self._ends_since = ended
            ends.append(end)
            self._running = current.call = None
            result = end.result
            if result.__class__ is bytes and len(result) > INLINE_LIMIT_BYTES:
                kept = self._keep_large(end)
            else:
                kept = keep(end) or self._keep_in_next_batch(end)
            if (
                not kept
                or len(ends) >= BATCH_ENDS
                or ended - self._ends_since > BATCH_S
                or ended - started > LONG_CALL_S
                or self._large_bytes > LARGE_BYTES
            ):
                self._doubt(end, kept)
                self._exchange()
        self.idle = True

    def _keep_large(self, end: AttemptEnd) -> bool:
        assert isinstance(end.result, bytes)
        self._large_bytes += len(end.result)
        return len(end.result) < RING_BYTES and (self._keep(end) or self._keep_in_next_batch(end))

    def _keep_in_next_batch(self, end: AttemptEnd) -> bool:
        """Tell the ends before this last one, as their batch has no room for it. False: there is no room; tell it at once."""
        before = self._ends[:-1]
        if before:
            self._ends = before
            self._tell_ends()
            self._ends = [end]
            self._ends_since = end.ended
            if isinstance(end.result, bytes) and len(end.result) > INLINE_LIMIT_BYTES:
                self._large_bytes = len(end.result)
        return bool(before) and self._keep(end)

    def _pass_by(self, item: frozenset[int] | None) -> None:
        if item is None:
            self._number = self._words[REACHED] = self._number + 1
            return
        try:
            os.sched_setaffinity(0, self._settings.machine_cores(item))
        except OSError as error:
            say(f"cannot run on cores {sorted(item)}: {error.strerror}; calls go on where they were")

    def _open(self, template_id: TemplateId) -> Function:
        template = self._templates.get(template_id)
        if template is None:
            raise InvariantViolated(f"a task follows template {template_id}, which was never defined for this worker")
        function = self._functions[template_id] = Function(template, self._load, self._home)
        return function

    def _exchange(self) -> None:
        """Tell what has ended, and take in what the agent says. With the baton held."""
        link = self._link
        if not link.is_intact:
            self._leave_broken()
        self._streams.reopen()
        self._flush_output()
        # Without an agent they wait for the next, in as few batches as can be: the outbox has not many.
        if (link.connected and not self._doubt_s()) or len(self._ends) >= BATCH_ENDS:
            self._tell_ends()
        link.send()
        for message in link.receive():
            self._handle(message)
        link.send()

    def _wait(self) -> None:
        """Wait until the agent says something, or until it is time to look for one."""
        poll = select.poll()
        descriptor, events, limit_s = self._waiting_for()
        if descriptor >= 0:
            poll.register(descriptor, events)
        poll.poll(None if limit_s is None else limit_s * 1000)

    def _waiting_for(self) -> tuple[int, int, float | None]:
        interest = self._link.interest()
        if interest is not None:
            descriptor, full = interest
            return descriptor, select.POLLIN | select.POLLOUT if full else select.POLLIN, self._doubt_s() or None
        lost_since = self._link.lost_since
        if lost_since is not None and monotonic() - lost_since > self._settings.orphan_timeout_s:
            say(f"no agent for {self._settings.orphan_timeout_s} s; this worker ends")
            self._exit_status = EXIT_ORPHANED
            self._stop_at = monotonic()
        return -1, 0, self._link.retry_in_s()

    def _doubt(self, end: AttemptEnd, kept: bool) -> None:
        """Look whether this end may be the doing of a batch system, so that it is told a moment later; it must be ``kept``.

        When that ends a job's step it tells one process after another. A function whose child is told before its worker may
        raise; if the worker and its spawner are told next, the agent sees what that was. Short calls are not held up: it is
        hardly one of them that is hit.
        """
        if not kept:
            self._doubtful_until = 0.0
        elif end.ending is Ending.RAISED and end.ended - end.started > LONG_CALL_S and self._settings.allocation_environment:
            self._doubtful_until = monotonic() + DOUBT_S

    def _doubt_s(self) -> float:
        """Return for how long ends are not told yet; 0.0: they are told."""
        if self._doubtful_until:
            left_s = self._doubtful_until - monotonic()
            if left_s > 0 and self._ends:
                return left_s
            self._doubtful_until = 0.0
        return 0.0

    def attend(self) -> tuple[int, int, float | None]:
        """Serve the socket while a call takes long; see ``Attended``."""
        if not self._link.is_intact:
            self.give_up()
        self._outputs.look()
        if self._link.connected and not self._doubt_s():
            self._tell_ends()
        # Told once for each call and connection: a new agent does not know which of the calls that are held runs.
        told = (self.begun, self._words[CONNECTION])
        if self._running is not None and told != self._told_running:
            self._told_running = told
            attempt, row = self._running
            self._link.tell(TasksStarted([(row.uid, attempt, os.getpid(), self._running_since)], time()))
        self._exchange()
        descriptor, events, limit_s = self._waiting_for()
        if self._stop_at is not None:
            limit_s = max(0.0, self._stop_at - monotonic())
            if limit_s == 0.0:
                os._exit(self._exit_status)
        # What the call prints can be watched, whether or not the agent says anything.
        return descriptor, events, WATCH_S if limit_s is None else min(limit_s, WATCH_S)

    # -- what the agent says ------------------------------------------------------------------------------------------

    def _handle(self, message: ToRunner) -> None:
        if isinstance(message, Launch):
            for lane in message.lanes:
                if self._settings.bind:
                    self._queue_cores(lane)
                self._queue.extend(lane.tasks)
        elif isinstance(message, DefineTemplates):
            self._templates.update(message.templates)
        elif isinstance(message, (RecallTasks, EndTasks)):
            self._return(set(message.executions))
        elif isinstance(message, StopRunner):
            self._return(set(self._held()))
            self._stop_at = monotonic() + message.grace_s

    def _queue_cores(self, lane: LaneTasks) -> None:
        """Queue the move to the cores of this lane, if they are others than those of the call queued before."""
        cores = self._lane_cores.pop(lane.lane, frozenset())
        if lane.placement:
            cores = frozenset(core_indices(lane.placement[0].cores))
        if len(self._lane_cores) >= _REMEMBERED_LANES:
            del self._lane_cores[next(iter(self._lane_cores))]
        self._lane_cores[lane.lane] = cores
        if cores and cores != self._queued_cores:
            self._queued_cores = cores
            self._queue.append(cores)

    def _return(self, executions: set[Execution]) -> None:
        """Give back what of these is queued. The numbers of the calls behind stay what they are."""
        returned = []
        for position, call in enumerate(self._queue):
            if isinstance(call, tuple) and (execution := (call[1].uid, call[0])) in executions:
                self._queue[position] = None
                returned.append(execution)
        if returned:
            self._link.tell(TasksReturned(returned))

    # -- what is told -------------------------------------------------------------------------------------------------

    def _held(self) -> list[Execution]:
        return [(call[1].uid, call[0]) for call in self._queue if isinstance(call, tuple)]

    def _begin_connection(self) -> list[Execution]:
        """Number the calls anew for a hello, and return what is held in the order of the numbers.

        All ends are told under numbers first: so what is neither held nor told never began.
        """
        self._tell_ends()
        words, queue = self._words, self._queue
        first, last, number = words[FIRST], words[LAST], self._number
        kept: list[Call | frozenset[int]] = []
        for call in queue:
            if not isinstance(call, frozenset):
                number += 1
            # What an agent has recalled it may already have run elsewhere.
            if call is not None and (isinstance(call, frozenset) or not first <= number <= last):
                kept.append(call)
        queue.clear()
        queue.extend(kept)
        words[CONNECTION] += 1
        words[FIRST] = NEVER
        self._number = words[REACHED] = 0 if self._running is None else 1
        if self._running is None:
            return self._held()
        attempt, row = self._running
        return [(row.uid, attempt), *self._held()]

    def _tell_ends(self) -> None:
        ends = self._ends
        if ends:
            large = bool(self._large_bytes)
            self._link.tell_ends(self._store_large(ends) if large else ends, changed=large)
            self._ends = []

    def _store_large(self, ends: list[AttemptEnd]) -> list[AttemptEnd]:
        """Return the ends with the names of blobs in the place of results too large for a message."""
        self._large_bytes = 0
        results = [end.result if isinstance(end.result, bytes) else b"" for end in ends]
        try:
            payloads = self._blob_store().put_many(results)
        except BackendError as error:
            return [
                self._not_stored(end, error) if len(result) > INLINE_LIMIT_BYTES else end
                for end, result in zip(ends, results, strict=True)
            ]
        return [
            end if payload is result else msgspec.structs.replace(end, result=payload)
            for end, result, payload in zip(ends, results, payloads, strict=True)
        ]

    def _not_stored(self, end: AttemptEnd, error: BackendError) -> AttemptEnd:
        refusal = SerializationError(f"the result of task {end.task!r} cannot be kept: {error}")
        row = Row(end.task, TemplateId(0))
        return msgspec.structs.replace(failed(row, end.attempt, refusal), started=end.started, ended=end.ended)

    def _load(self, payload: Payload) -> bytes:
        return payload if isinstance(payload, bytes) else self._blob_store().get(payload)

    def _blob_store(self) -> BlobStore:
        if self._blobs is None:
            from pilotage.log.blobs import BlobStore  # only here: most workers meet no blob

            self._blobs = BlobStore(Path(self._settings.blob_folder))
        return self._blobs

    def _flush_output(self) -> None:
        """Write what functions have printed past ``outputs``, lest it be lost with this process."""
        for stream in (sys.__stdout__, sys.__stderr__):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                # A function closed it; it is the user's own.
                continue

    # -- ends and accidents -------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Send what is queued, for as long as the agent gave."""
        deadline = max(monotonic() + 1.0, self._stop_at or 0.0)
        self._doubtful_until = 0.0
        self._exchange()
        while (interest := self._link.interest()) and interest[1] and monotonic() < deadline:
            poll = select.poll()
            poll.register(interest[0], select.POLLOUT)
            poll.poll(1000)
            self._link.send()

    def _recover(self, error: BaseException) -> None:
        """Set everything straight after an exception at any place: end the call that ran, and connect anew."""
        if self._running is not None:
            attempt, row = self._running
            end = failed(row, attempt, error)
            if self._ends and (self._ends[-1].task, self._ends[-1].attempt) == (end.task, end.attempt):
                # It was over, and the exception came just then.
                self._running = current.call = None
            else:
                self._outputs.end_call(self._running)
                # Told before anything else happens, and so not kept.
                self._ends.append(end)
                self._running = current.call = None
        self._link.drop("starting over after an exception between calls")

    def give_up(self) -> NoReturn:
        """End this process: the call that runs has closed what the worker needs; see ``Attended``."""
        assert self._running is not None
        attempt, row = self._running
        self._end_broken(self._running, AttemptEnd(row.uid, attempt, Ending.DONE, started=self._running_since, ended=time()))

    def _end_broken(self, call: Call, end: AttemptEnd) -> NoReturn:
        """End this process: this call has closed what the worker needs, and would have ended like this."""
        # What was open before may be anything now.
        self._blobs = None
        self._outputs.start_over()
        self._outputs.end_call(call)
        end = broken_end(end)
        self._ends.append(end)
        if not self._keep(end) and not self._keep_in_next_batch(end):
            say(f"no room to tell what became of {end.task}: {end.message}")
        self._leave_broken()

    def _leave_broken(self) -> NoReturn:
        """End this process: its descriptors are not its own any more. The agent finds all ends in the outbox."""
        say("a function has closed descriptors of this worker, or put others in their place; this worker ends")
        os._exit(EXIT_BROKEN)

    def _after_fork(self) -> None:
        """In a child that a function forked: it may return from the function, but it is not a worker."""
        self._forked = True
        self._link.close_inherited()
        self._outputs.after_fork()
        if self._attendant.baton.locked():
            self._attendant.baton.release()


def _make_outbox(folder: Path, worker: RunnerId) -> Outbox | None:
    """Return the outbox, or None without room for one: the worker can do without, and loses more if it is killed."""
    try:
        return Outbox(folder, worker)
    except OSError as error:
        say(f"{worker}: no outbox in {folder}: {error.strerror}; if it is killed, ends that it has not sent are lost")
        return None
