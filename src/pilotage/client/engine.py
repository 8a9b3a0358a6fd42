"""The engine of a session: around its steps, what is done in them, those who wait, and one background thread.

One lock guards the core, the log and the links (``pilotage.client.steps``). A user's thread that submits or cancels takes it
and does the whole step by itself: decide, write the facts to the log as one record, then send. So a submission is durable when
the call returns, and a single task passes through no other thread on its way out. The background thread does what nobody calls
for: it takes what pilots send, acknowledges, keeps links alive, notices dead pilots, and wakes those who wait, once for each
batch.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from pilotage.client import handing_over
from pilotage.client.adapting import Adaptations
from pilotage.client.background import Background
from pilotage.client.batch_jobs import BatchJobs
from pilotage.client.callbacks import Dispatcher, FutureNews
from pilotage.client.fact_log import FactLog
from pilotage.client.loads import Loads
from pilotage.client.partition_questions import PartitionQuestions
from pilotage.client.pilot_ends import PilotEnds
from pilotage.client.pilot_link import PilotLink
from pilotage.client.pilot_messages import PilotMessages
from pilotage.client.pilot_starts import PilotStarts, Starter
from pilotage.client.steps import Steps
from pilotage.client.waiting import HasState, Waiter, Waiters
from pilotage.core.client import actions, events
from pilotage.core.client.state import ClientState, PilotRecord, TaskRecord
from pilotage.errors import SessionForked, unreachable
from pilotage.log.lease import Lease
from pilotage.log.writer import LogWriter
from pilotage.model.ids import PilotUid, SessionUid, TaskUid

log = logging.getLogger("pilotage")

LEASE_CHECK_S = 5.0


class Listener(Protocol):
    """What the engine tells of changes that callbacks may want to hear; called with the lock."""

    def tasks_changed(self, records: Sequence[TaskRecord]) -> None:
        """These tasks are in new states."""
        ...

    def pilot_changed(self, record: PilotRecord) -> None:
        """This pilot is in a new state."""
        ...

    def waiting_changed(self, manager: str, count: int) -> None:
        """So many tasks of this manager wait for a pilot."""
        ...


class Engine:
    """Runs one session. Made by ``Session``; ``close`` ends it.

    ``key_file`` holds the key pair for pilots that are reached over the network.
    """

    def __init__(
        self,
        session: SessionUid,
        lease: Lease,
        state: ClientState,
        writer: LogWriter,
        listener: Listener,
        starter: Starter,
        key_file: Path | None = None,
    ) -> None:
        self._pid = os.getpid()
        self._session = session
        self._lease = lease
        self._listener = listener
        self.steps = Steps(session, state, FactLog(writer), perform=self._perform, give_up=self._give_up)
        self.lock = self.steps.lock
        self.futures: dict[TaskUid, list[Future[Any]]] = {}
        self.resolve: Callable[[Future[Any], TaskRecord], None]
        self.dispatcher = Dispatcher(f"pilotage-callbacks-{session}", self._mark)
        self._waiters = Waiters()
        self.loads = Loads(self.lock, self.steps.links)
        self.questions = PartitionQuestions(self.lock, self.steps.links)
        self.adaptations = Adaptations(self.loads, self._waiters.look)
        self.jobs = BatchJobs(self)
        self._background = Background(self.steps, self._turn, self._patience_s)
        self._background.watch(writer.wake_fd)
        self._messages = PilotMessages(self.steps, self.loads, self.questions)
        self._ends = PilotEnds(self.steps, self.jobs, receive=self._messages.receive, forget=self._forget)
        self._starts = PilotStarts(self.steps, self._background, self.jobs, self._ends, starter, lease.epoch, key_file)

    @property
    def state(self) -> ClientState:
        """The session's state, for reading."""
        return self.steps.core.state

    # steps: with the lock

    def handle(self, event: events.Event) -> None:
        """Let the core decide on an event, write the facts, then act; see ``Steps.handle``."""
        self.steps.handle(event)

    def _perform(self, action: actions.Action) -> None:
        match action:
            case actions.TellTasks():
                self._tell_tasks(action.tasks)
            case actions.TellPilot():
                self._listener.pilot_changed(action.pilot)
                self._waiters.look()
            case actions.TellWaiting():
                self._listener.waiting_changed(action.manager, action.count)
            case actions.StartPilot():
                self._starts.start(action.pilot)
            case actions.SubmitJob():
                self._starts.submit_job(action.pilot)
            case actions.WatchJob():
                self._starts.watch_job(action.pilot)
            case actions.CancelJob():
                self.jobs.cancel(action.pilot, at_once=action.at_once)
            case actions.FencePilot():
                self._ends.job_over(action.pilot)
            case actions.DisconnectPilot():
                self._ends.said_goodbye(action.pilot)
            case actions.Warn():
                log.warning("%s", action.message)
            case actions.OfferMessages() | actions.SendMessage():
                pass
            case _:
                unreachable(action)

    def _tell_tasks(self, records: list[TaskRecord]) -> None:
        if self.adaptations:
            self.adaptations.note(records)
            self._background.poke()
        self._waiters.look()
        if self.futures:
            found = [
                (future, record)
                for record in records
                if record.outcome is not None
                for future in self.futures.pop(record.row.uid, ())
            ]
            if found:
                self.dispatcher.put(FutureNews(found, self.resolve))
        self._listener.tasks_changed(records)

    def _forget(self, pilot: PilotUid) -> None:
        self.loads.over(pilot)
        self.questions.over()
        self._waiters.look()

    def _give_up(self) -> None:
        self.adaptations.end_all()
        self._waiters.wake_all()
        self._ends.given_up()

    def check(self) -> None:
        """Raise ``SessionClosed`` or ``BackendError`` if the session does not go on in this process."""
        self.steps.check()

    # without the lock

    def require_owner(self) -> None:
        """Raise ``SessionForked`` in a forked child; to be called before anything else, as locks may be held there."""
        if os.getpid() != self._pid:
            raise SessionForked(
                f"session {self._session} belongs to process {self._pid}, and this is a forked child of it; "
                "open a session of its own here"
            )

    def tell(self, event: events.Event) -> bool:
        """Handle what a thread of jobs has learned. False: the session does not go on in this process."""
        if not self.steps.tell(event):
            return False
        if isinstance(event, events.JobTold):
            with self.lock:
                if (link := self.steps.links.get(event.pilot)) is not None:
                    link.hurry(time.monotonic())
                    self._background.poke()
        return True

    def stop_for(self, reason: str) -> None:
        """The session cannot go on in this process, as one of its threads cannot."""
        self.steps.stop_for(reason)

    def _mark(self, tasks: list[TaskUid]) -> None:
        self.steps.tell(events.CallbacksReturned(time.time(), tasks))

    def reconnect(self) -> None:
        """After a resume: look for the pilots that are not known to have ended."""
        with self.lock:
            self._starts.find_all()

    # waiting: without the lock

    def wait(self, records: Sequence[HasState], over: frozenset[str], timeout_s: float | None) -> bool:
        """Wait until all records are in one of the states ``over``; False when the time is over before.

        Raises:
            WaitInCallback, SessionClosed, BackendError
        """
        self.require_owner()
        self.dispatcher.refuse_here("waiting")
        waiter = Waiter(records, over)
        with self.lock:
            if waiter.advance():
                return True
            self.check()
            self._waiters.add(waiter)
        try:
            woken = waiter.sleep(timeout_s)
        finally:
            with self.lock:
                self._waiters.remove(waiter)
                over_now = waiter.advance()
        if not over_now and woken:
            with self.lock:
                self.check()
        return over_now

    def watch(self, record: TaskRecord, future: Future[Any]) -> None:
        """Have ``future`` resolved on the dispatcher's thread when the task is final."""
        with self.lock:
            if record.outcome is None:
                self.check()
                self.dispatcher.start()
                self.futures.setdefault(record.row.uid, []).append(future)
                return
            if self.steps.goes_on:
                self.dispatcher.start()
                self.dispatcher.put(FutureNews([(future, record)], self.resolve))
                return
        # Nobody serves callbacks any more, but what is known can be told.
        self.resolve(future, record)

    # the background thread

    def start(self) -> None:
        """Start the background thread if it does not run."""
        self._background.start()

    def look_again(self) -> None:
        """Something has changed beside the core: waits may be over, and another time may be the next. Called with the lock."""
        if not self.steps.closed:
            self._waiters.look()
            self._background.poke()

    def _patience_s(self) -> float:
        dues = [due for link in list(self.steps.links.values()) if (due := link.next_event()) is not None]
        if (next_look := self.adaptations.next_look()) is not None:
            dues.append(next_look)
        # The lease is shown to be alive at this rhythm, too.
        return max(0.0, min([*dues, time.monotonic() + LEASE_CHECK_S]) - time.monotonic())

    def _turn(self, ready: list[int]) -> None:
        now = time.monotonic()
        self._lease.renew()
        steps = self.steps
        if steps.log.wake_fd in ready:
            synced = steps.log.take_synced()
            for link in steps.links.values():
                link.synced(synced)
        for link in list(steps.links.values()):
            self._serve(link, ready, now)
        self.adaptations.look(now)
        steps.log.snapshot_if_due(steps.state)

    def _serve(self, link: PilotLink, ready: list[int], now: float) -> None:
        if any(link.owns(descriptor) for descriptor in ready):
            self._messages.receive(link)
        if link.ready_fd in ready:
            link.agent_ready(now)
        if link.process_fd in ready and link.process_ended():
            self._ends.gone(link)
            return
        if link.tick(now):
            self.steps.log.sync()
            link.connect(now)
        if link.refusal:
            log.warning("pilot %s: %s", link.pilot.uid, link.refusal)
            link.refusal = ""
        link.acknowledge()

    # the end

    def hand_over(self, timeout_s: float) -> None:
        """Give all pilots what they have not been sent, so that they need no client: where none is connected by their inboxes.

        Nothing is sent afterwards, so that ``close`` has to follow.

        Raises:
            BackendError: a pilot's job is not submitted within ``timeout_s``, a pilot that runs does not answer, or its folder
                cannot be written.
        """
        self.require_owner()
        self.dispatcher.refuse_here("handing over")
        pilots = list(self.state.pilots.values())
        if not self.wait(pilots, handing_over.SUBMITTED, timeout_s):
            raise handing_over.not_submitted(pilots, timeout_s)
        handing_over.leave(self.steps, pilots)

    def close(self, *, terminate: bool, timeout_s: float) -> list[PilotUid]:
        """End the session in this process; with ``terminate`` its pilots too. Return those that did not end in time."""
        self.dispatcher.refuse_here("closing")
        steps = self.steps
        with self.lock:
            if steps.closed:
                return []
            self.adaptations.end_all()
            failed = bool(steps.failure)
            if terminate and not failed:
                steps.handle(events.SessionClosing(time.time()))
        left: list[PilotUid] = []
        if terminate and not failed:
            left = self._ends.await_all(timeout_s)
        # What is being submitted has to be noted, or who resumes the session would have to look for it.
        self.jobs.stop()
        self.dispatcher.close()
        with self.lock:
            if not steps.failure:
                steps.commit_late()
            steps.closed = True
            self._waiters.wake_all()
        steps.ending.set()
        self._ends.join()
        self._background.join()
        for link in list(steps.links.values()):
            link.close()
        steps.links.clear()
        try:
            steps.log.close()
        finally:
            self._lease.release()
            self._background.close()
        return left
