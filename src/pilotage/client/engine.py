"""The engine of a session: around the client core, its log, its links to pilots and one background thread.

One lock guards the core, the log and the links. A user's thread that submits or cancels takes it and does the whole step by
itself: decide, write the facts to the log as one record, then send. So a submission is durable when the call returns, and a
single task passes through no other thread on its way out. The background thread does what nobody calls for: it takes what
pilots send, acknowledges, keeps links alive, notices dead pilots, and wakes those who wait, once for each batch.

In a program whose own thread computes, each system call of the background thread may cost it the interpreter's switch
interval of 5 ms. So a turn makes few of them, whatever the number of tasks: one wait, one read, one write, one answer.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pilotage.agent.inbox import hand_over
from pilotage.batch.job import JobState
from pilotage.client.adapting import Adaptations
from pilotage.client.batch_jobs import BatchJobs
from pilotage.client.callbacks import Dispatcher, FutureNews
from pilotage.client.job_specs import JOB_SCRIPT
from pilotage.client.launcher import PreparedJob, StartedPilot, claimed_by
from pilotage.client.loads import Loads
from pilotage.client.losses import lost_job, lost_processes, reason_of_loss
from pilotage.client.partition_questions import PartitionQuestions
from pilotage.client.pilot_link import PilotLink
from pilotage.client.waiting import HasState, Waiter
from pilotage.core.client import actions, events, facts
from pilotage.core.client.core import ClientCore, Decision
from pilotage.core.client.state import ClientState, PilotRecord, TaskRecord, apply
from pilotage.errors import (
    BackendError,
    InvariantViolated,
    PilotageError,
    SessionClosed,
    SessionForked,
    unreachable,
)
from pilotage.log.lease import Lease
from pilotage.log.reader import recover
from pilotage.log.writer import LogWriter
from pilotage.model.ids import PilotUid, SessionUid, TaskUid
from pilotage.model.outcome import Outcome
from pilotage.model.states import FINAL, PMGR_ACTIVE, PMGR_ACTIVE_PENDING
from pilotage.wire import messages as wire

log = logging.getLogger("pilotage")

DISK_FULL_PAUSE_S = 0.25
DISK_FULL_PATIENCE_S = 30.0
LEASE_CHECK_S = 5.0
SIGNAL_PATIENCE_S = 10.0
FENCE_PAUSE_S = 2.0
LEAVE_PAUSE_S = 0.05
ANSWER_PATIENCE_S = 20.0
"""For how long pilots that run may not answer to whom leaves them to themselves."""
LISTEN_PAUSE_S = 0.25
JOB_END_PATIENCE_S = 60.0
"""How long the jobs of pilots may take that were cancelled as a session was closed."""
STILL_SPEAKING_S = 90.0
"""For how long a pilot may be heard whose job is over, before it is given up."""
BYTES_PER_TASK = 512
"""Estimate of what a task takes in a snapshot."""

_encode = msgspec.msgpack.Encoder().encode
_decode_outcomes = msgspec.msgpack.Decoder(list[Outcome]).decode


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

    def start_pilot(self, record: PilotRecord) -> StartedPilot | PreparedJob:
        """Start this pilot, or write all that its job needs."""
        ...

    def pilot_folder(self, record: PilotRecord) -> Path:
        """Return the folder of this pilot."""
        ...


def recover_state(folder: Path) -> ClientState:
    """Return the state that the client's log in ``folder`` holds.

    Raises:
        LogCorrupted: history cannot be trusted.
    """
    return recover_state_and_last(folder)[0]


def recover_state_and_last(folder: Path) -> tuple[ClientState, int]:
    """Return the same, and the number of the log's last record, for who follows it from there on."""
    recovered = recover(folder)
    state = ClientState()
    if recovered.snapshot is not None:
        state = msgspec.msgpack.decode(recovered.snapshot, type=ClientState)
    decoder = msgspec.msgpack.Decoder(list[facts.Fact])
    for _, record in recovered.records:
        for fact in decoder.decode(record):
            apply(state, fact)
    return state, recovered.last


class Engine:
    """Runs one session. Made by ``Session``; ``close`` ends it."""

    def __init__(self, session: SessionUid, lease: Lease, state: ClientState, writer: LogWriter) -> None:
        self.lock = threading.Lock()
        self._reaped = threading.Condition(self.lock)
        self._pid = os.getpid()
        self.core = ClientCore(state)
        self.futures: dict[TaskUid, list[Future[Any]]] = {}
        self.resolve: Callable[[Future[Any], TaskRecord], None]
        self.listener: Listener
        self.key_file: Path | None = None
        self.dispatcher = Dispatcher(f"pilotage-callbacks-{session}", self._mark)
        self._session = session
        self._lease = lease
        self._log = writer
        self._late_facts: list[facts.Fact] = []
        self._links: dict[PilotUid, PilotLink] = {}
        self.loads = Loads(self.lock, self._links)
        self.questions = PartitionQuestions(self.lock, self._links)
        self.adaptations = Adaptations(self.loads, self._wake)
        self.jobs = BatchJobs(self)
        self._waiters: list[Waiter] = []
        self._fencers: list[threading.Thread] = []
        self._ending = threading.Event()
        self._failure: str = ""
        self._closed = False
        self._poll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wakeup, select.EPOLLIN)
        self._poll.register(writer.wake_fd, select.EPOLLIN)
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> ClientState:
        """The session's state, for reading."""
        return self.core.state

    # steps: with the lock

    def handle(self, event: events.Event) -> None:
        """Let the core decide on an event, write the facts, then act. Called with the lock.

        Raises:
            BackendError: the log cannot be written; the session has ended for this process.
        """
        self.check()
        decision = self._decide(event)
        new_facts, todo = decision.facts, decision.actions
        frames: list[tuple[PilotLink, bytes]] = []
        # Messages that a link takes at once are numbered in the same record, so they cost no write of their own.
        for pilot in dict.fromkeys(action.pilot for action in todo if isinstance(action, actions.OfferMessages)):
            frames += self._number(pilot, new_facts)
        self._commit(new_facts)
        if any(isinstance(fact, facts.TasksBound) and fact.binding > 1 for fact in new_facts):
            # Were this forgotten with the node, the tasks would be bound once more while a pilot has them.
            self._log.sync()
        for link, frame in frames:
            link.send(frame)
        for action in todo:
            self._perform(action)

    def _decide(self, event: events.Event) -> Decision:
        try:
            return self.core.handle(event)
        except Exception as error:  # a bug has left the state half changed; the log is as it was before, and good to resume
            self._fail(
                f"a {type(event).__name__} led to {type(error).__name__}: {error}; Session.resume() goes on from the log"
            )
            raise InvariantViolated(self._failure) from error

    def _number(self, pilot: PilotUid, new_facts: list[facts.Fact]) -> list[tuple[PilotLink, bytes]]:
        link = self._links.get(pilot)
        frames: list[tuple[PilotLink, bytes]] = []
        record = self.core.state.pilots[pilot]
        while link is not None and record.outbox and link.may_number():
            number = link.outgoing.next_number
            decision = self._decide(events.LinkOpened(pilot, number))
            new_facts += decision.facts
            frames.append((link, link.number(number, record.unacknowledged[number])))
        return frames

    def _commit(self, new_facts: list[facts.Fact]) -> None:
        if all(isinstance(fact, facts.LATE_FACTS) for fact in new_facts):
            self._late_facts += new_facts
            return
        record = _encode([*self._late_facts, *new_facts] if self._late_facts else new_facts)
        self._late_facts.clear()
        number = self._append(record)
        for link in self._links.values():
            link.logged(number)

    def _append(self, record: bytes) -> int:
        until = time.monotonic() + DISK_FULL_PATIENCE_S
        while True:
            try:
                return self._log.append(record)
            except BackendError as error:
                if not error.transient or time.monotonic() > until:
                    self._fail(f"{error}; then Session.resume({self._session!r}) goes on from what was written")
                    raise BackendError(self._failure) from error
            # Nothing may be done that is not in the log, so the session stands still until there is room again.
            time.sleep(DISK_FULL_PAUSE_S)

    def _perform(self, action: actions.Action) -> None:
        match action:
            case actions.TellTasks():
                self._tell_tasks(action.tasks)
            case actions.TellPilot():
                self.listener.pilot_changed(action.pilot)
                self._wake()
            case actions.TellWaiting():
                self.listener.waiting_changed(action.manager, action.count)
            case actions.StartPilot():
                self._start_pilot(action.pilot)
            case actions.SubmitJob():
                self._submit_job(action.pilot)
            case actions.WatchJob():
                record = self.core.state.pilots[action.pilot]
                self.jobs.watch(record, self._script_of(record))
            case actions.CancelJob():
                self.jobs.cancel(action.pilot, at_once=action.at_once)
            case actions.FencePilot():
                self._job_over(action.pilot)
            case actions.DisconnectPilot():
                self._note_end(action.pilot)
            case actions.Warn():
                log.warning("%s", action.message)
            case actions.OfferMessages() | actions.SendMessage():
                pass
            case _:
                unreachable(action)

    def _tell_tasks(self, records: list[TaskRecord]) -> None:
        if self.adaptations:
            self.adaptations.note(records)
            self._poke()
        self._wake()
        if self.futures:
            found = [
                (future, record)
                for record in records
                if record.outcome is not None
                for future in self.futures.pop(record.row.uid, ())
            ]
            if found:
                self.dispatcher.put(FutureNews(found, self.resolve))
        self.listener.tasks_changed(records)

    def _wake(self) -> None:
        for waiter in [waiter for waiter in self._waiters if waiter.advance()]:
            self._waiters.remove(waiter)
            waiter.wake()

    def _mark(self, tasks: list[TaskUid]) -> None:
        with self.lock:
            if not self._closed and not self._failure:
                self.handle(events.CallbacksReturned(time.time(), tasks))

    def require_owner(self) -> None:
        """Raise ``SessionForked`` in a forked child; to be called before anything else, as locks may be held there."""
        if os.getpid() != self._pid:
            raise SessionForked(
                f"session {self._session} belongs to process {self._pid}, and this is a forked child of it; "
                "open a session of its own here"
            )

    def check(self) -> None:
        """Raise ``SessionClosed`` or ``BackendError`` if the session does not go on in this process."""
        if self._closed:
            raise SessionClosed(f"session {self._session} is closed; open a new one, or Session.resume({self._session!r})")
        if self._failure:
            raise BackendError(self._failure)

    def _fail(self, reason: str) -> None:
        """The session cannot go on in this process: pilots go on without it, and everyone who waits is told."""
        self._failure = f"session {self._session} has stopped: {reason}"
        self.adaptations.end_all()
        log.error("%s", self._failure)
        for waiter in self._waiters:
            waiter.wake()
        self._waiters.clear()
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._reaped.notify_all()

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
            self._waiters.append(waiter)
        try:
            woken = waiter.sleep(timeout_s)
        finally:
            with self.lock:
                if waiter in self._waiters:
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
            if not self._closed and not self._failure:
                self.dispatcher.start()
                self.dispatcher.put(FutureNews([(future, record)], self.resolve))
                return
        # Nobody serves callbacks any more, but what is known can be told.
        self.resolve(future, record)

    # pilots: with the lock

    def _start_pilot(self, pilot: PilotUid) -> None:
        record = self.core.state.pilots[pilot]
        try:
            started = self.listener.start_pilot(record)
        except PilotageError as error:
            self.handle(events.PilotLost(time.time(), pilot, str(error), received=0))
            return
        if isinstance(started, PreparedJob):
            self.handle(events.JobPrepared(time.time(), pilot, started.system, started.name))
            return
        self.handle(events.PilotProcessStarted(time.time(), pilot, started.pid, started.started_ticks, started.boot_id))
        self._link(record, started.ready_fd)
        self.start()

    def _link(self, record: PilotRecord, ready_fd: int) -> None:
        now = time.monotonic()
        folder = self.listener.pilot_folder(record)
        link = PilotLink(self._session, self._lease.epoch, record, folder, self._poll, ready_fd, now, self.key_file)
        self._links[record.uid] = link
        if record.job is not None or link.watch_process():
            self._poke()
        else:
            self._gone(link)

    def reconnect(self) -> None:
        """After a resume: look for the pilots that are not known to have ended."""
        with self.lock:
            for record in list(self.core.state.pilots.values()):
                if record.state in FINAL:
                    continue
                if record.job is not None:
                    self._find_job(record)
                    continue
                if not record.pid:
                    # The program before this one died on its way from deciding on the pilot to noting its process.
                    claimed = claimed_by(self.listener.pilot_folder(record))
                    if claimed is None:
                        self._start_pilot(record.uid)
                        continue
                    self.handle(events.PilotProcessStarted(time.time(), record.uid, *claimed))
                self._link(record, -1)
            if self._links:
                self.start()

    # jobs: with the lock

    def _script_of(self, record: PilotRecord) -> Path:
        return self.listener.pilot_folder(record) / JOB_SCRIPT

    def _submit_job(self, pilot: PilotUid) -> None:
        # Were the job's name lost with this machine, nobody would ever find the job.
        self._log.sync()
        record = self.core.state.pilots[pilot]
        self._link(record, -1)
        self.jobs.submit(record, self._script_of(record))
        self.start()

    def _find_job(self, record: PilotRecord) -> None:
        """After a resume: go on with a pilot that is a job, wherever the program before this one left it."""
        self._link(record, -1)
        job, script = record.job, self._script_of(record)
        if job is None or not job.id:
            self.jobs.submit(record, script, anew=True)
            return
        if job.state and JobState(job.state).is_final:
            self._job_over(record.uid)
            return
        self.jobs.watch(record, script)
        if record.ending and not (record.drains and record.load):
            self.jobs.cancel(record.uid, at_once=not record.incarnation)

    def tell(self, event: events.Event) -> bool:
        """Handle what another thread has learned. False: the session does not go on in this process."""
        with self.lock:
            if self._closed or self._failure:
                return False
            self.handle(event)
            if isinstance(event, events.JobTold) and (link := self._links.get(event.pilot)) is not None:
                link.hurry(time.monotonic())
                self._poke()
        return True

    def stop_for(self, reason: str) -> None:
        """The session cannot go on in this process, as one of its threads cannot."""
        with self.lock:
            if not self._closed and not self._failure:
                self._fail(reason)

    def _job_over(self, pilot: PilotUid) -> None:
        """Nothing of the pilot runs any more, says its batch system: it has said goodbye, or its log has the last word."""
        link = self._links.get(pilot)
        if link is None:
            return
        self._receive(link)
        if link.pilot.state in FINAL:
            self._reap(link)
            return
        self._in_thread(self._fence_job, link)

    def _fence_job(self, link: PilotLink) -> None:
        """Take what is left to be heard from a pilot whose job is over, and then what its log says; on a thread of its own."""
        pilot = link.pilot
        began = time.monotonic()
        told = False
        while link.is_open and pilot.state not in FINAL and time.monotonic() - began < STILL_SPEAKING_S:
            if self._ending.wait(LISTEN_PAUSE_S):
                return
            # What the batch system holds for over may live on where it was cut off from it.
            if not told and time.monotonic() - began > FENCE_PAUSE_S:
                told = self.tell(events.PilotCancelRequested(time.time(), [pilot.uid], False, reason_of_loss(pilot)))
        with self.lock:
            link.close()
        lost = lost_job(link)
        with self.lock:
            if not self._closed and not self._failure:
                self.handle(lost)
            self._reap(link)

    def _gone(self, link: PilotLink) -> None:
        """The pilot's bootstrap and agent are gone: in good order, or what is left of it has to be ended first."""
        # It may have said goodbye before it went.
        self._receive(link)
        if link.pilot.state in FINAL:
            self._reap(link)
            return
        link.close()
        self._in_thread(self._fence, link)

    def _in_thread(self, fence: Callable[[PilotLink], None], link: PilotLink) -> None:
        fencer = threading.Thread(target=fence, args=(link,), name=f"pilotage-fence-{link.pilot.uid}", daemon=True)
        self._fencers.append(fencer)
        fencer.start()

    def _fence(self, link: PilotLink) -> None:
        """End what is left of a pilot, and take what its log says; on a thread of its own, as it may take seconds."""
        lost = lost_processes(link)
        while lost is None and not self._ending.wait(FENCE_PAUSE_S):
            lost = lost_processes(link)
        with self.lock:
            if lost is not None and not self._closed and not self._failure:
                self.handle(lost)
            self._reap(link)

    def _note_end(self, pilot: PilotUid) -> None:
        link = self._links.get(pilot)
        if link is not None:
            # Its last message has to be acknowledged as durable, for which it waits before it exits.
            self._log.sync()
            link.synced(self._log.synced)
            link.acknowledge()
            if link.pilot.job is not None:
                # One that was never submitted has nothing to wait for; of the others the end is near.
                if link.pilot.job.id or link.pilot.incarnation:
                    self.jobs.hurry(pilot)
                else:
                    self._reap(link)

    def _reap(self, link: PilotLink) -> None:
        pilot = link.pilot
        link.close()
        self._links.pop(pilot.uid, None)
        self.jobs.forget(pilot.uid)
        self.loads.over(pilot.uid)
        self.questions.over()
        if pilot.pid:
            try:
                os.waitpid(pilot.pid, os.WNOHANG)
            except ChildProcessError:
                pass  # a pilot of the process that had this session before
        self._wake()
        self._reaped.notify_all()

    # the background thread

    def start(self) -> None:
        """Start the background thread if it does not run."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"pilotage-{self._session}", daemon=True)
            self._thread.start()

    def look_again(self) -> None:
        """Something has changed beside the core: waits may be over, and another time may be the next. Called with the lock."""
        if not self._closed:
            self._wake()
            self._poke()

    def _poke(self) -> None:
        os.eventfd_write(self._wakeup, 1)

    def _run(self) -> None:
        try:
            while not self._closed:
                ready = self._poll.poll(self._patience_s())
                with self.lock:
                    if self._closed or self._failure:
                        return
                    self._turn([descriptor for descriptor, _ in ready])
        except Exception as error:  # the root of this thread: whoever waits must not wait for ever
            with self.lock:
                if not self._closed and not self._failure:
                    self._fail(f"{type(error).__name__}: {error}")
            log.exception("the background thread of session %s ended", self._session)

    def _patience_s(self) -> float:
        dues = [due for link in list(self._links.values()) if (due := link.next_event()) is not None]
        if (next_look := self.adaptations.next_look()) is not None:
            dues.append(next_look)
        # The lease is shown to be alive at this rhythm, too.
        return max(0.0, min([*dues, time.monotonic() + LEASE_CHECK_S]) - time.monotonic())

    def _turn(self, ready: list[int]) -> None:
        now = time.monotonic()
        self._lease.renew()
        if self._wakeup in ready:
            os.eventfd_read(self._wakeup)
        if self._log.wake_fd in ready:
            synced = self._log.take_synced()
            for link in self._links.values():
                link.synced(synced)
        for link in list(self._links.values()):
            self._serve(link, ready, now)
        self.adaptations.look(now)
        if self._log.should_snapshot(BYTES_PER_TASK * len(self.core.state.tasks)):
            self._log.snapshot(_encode(self.core.state))

    def _serve(self, link: PilotLink, ready: list[int], now: float) -> None:
        if any(link.owns(descriptor) for descriptor in ready):
            self._receive(link)
        if link.ready_fd in ready:
            link.agent_ready(now)
        if link.process_fd in ready and link.process_ended():
            self._gone(link)
            return
        if link.tick(now):
            self._log.sync()
            link.connect(now)
        if link.refusal:
            log.warning("pilot %s: %s", link.pilot.uid, link.refusal)
            link.refusal = ""
        link.acknowledge()

    def _receive(self, link: PilotLink) -> None:
        now = time.monotonic()
        for message in link.receive(now):
            self._hear(link, message, now)

    def _hear(self, link: PilotLink, message: wire.FromAgent, now: float) -> None:
        pilot = link.pilot.uid
        match message:
            case wire.Outcomes():
                if link.accept(now, message):
                    outcomes = _decode_outcomes(message.outcomes)
                    self.handle(events.OutcomesArrived(time.time(), pilot, message.number, outcomes, message.outcomes))
            case wire.Acknowledge():
                link.acknowledged(message)
                self.handle(events.AgentAcknowledged(time.time(), pilot, message.durable))
                self._offer(pilot)
            case wire.Progress():
                self._progress(pilot, message)
            case wire.AgentHello():
                link.greeted(message)
                self.handle(events.AgentGreeted(time.time(), pilot, message.incarnation, message.durable, message.nodes))
                self.loads.greeted(pilot)
                self.questions.greeted(pilot)
            case wire.PilotEnded():
                if link.accept(now, message):
                    told = message.number, message.state, message.reason, message.begun, message.tries, message.out_of_time
                    self.handle(events.PilotEndArrived(time.time(), pilot, *told, os.fspath(link.folder)))
            case wire.Refused():
                self._fail(f"pilot {pilot} refuses this client: {message.reason}")
            case wire.PartitionsTold():
                self.questions.take(message)
            case wire.Heartbeat() | wire.Inspection() | wire.NodesReturned() | wire.TasksReturned():
                pass
            case _:
                unreachable(message)

    def _progress(self, pilot: PilotUid, message: wire.Progress) -> None:
        if message.started:
            self.handle(events.TasksSeenRunning(time.time(), pilot, message.started))
        if message.unloading:
            self.handle(events.OutputsSeenStaged(time.time(), pilot, message.unloading))
        if message.services:
            self.handle(events.ServicesSeen(time.time(), pilot, message.services))
        if message.load is not None:
            self.loads.take(pilot, message.load)
        if message.notice:
            log.warning("pilot %s: %s", pilot, message.notice)

    def _offer(self, pilot: PilotUid) -> None:
        """Number and send what a link has room for now."""
        new_facts: list[facts.Fact] = []
        frames = self._number(pilot, new_facts)
        if frames:
            self._commit(new_facts)
            for link, frame in frames:
                link.send(frame)

    # leaving pilots to themselves

    def hand_over(self, timeout_s: float) -> None:
        """Give all pilots what they have not been sent, so that they need no client: where none is connected by their inboxes.

        Nothing is sent afterwards, so that ``close`` has to follow.

        Raises:
            BackendError: a pilot's job is not submitted within ``timeout_s``, a pilot that runs does not answer, or its folder
                cannot be written.
        """
        self.require_owner()
        self.dispatcher.refuse_here("handing over")
        known = (PMGR_ACTIVE_PENDING, PMGR_ACTIVE, *FINAL)
        pilots = list(self.state.pilots.values())
        if not self.wait(pilots, frozenset(known), timeout_s):
            waiting = next(pilot for pilot in pilots if pilot.state not in known)
            reason = waiting.job.reason if waiting.job is not None else ""
            raise BackendError(
                f"pilot {waiting.uid!r}: its job was not submitted within {timeout_s:g} s{f': {reason}' if reason else ''}; "
                "nothing was handed over",
                transient=True,
            )
        until = time.monotonic() + ANSWER_PATIENCE_S
        for pilot in pilots:
            while not self._leave(pilot):
                if time.monotonic() > until:
                    raise BackendError(
                        f"pilot {pilot.uid!r} runs and has not answered within {ANSWER_PATIENCE_S:g} s, so that it is not "
                        "known what it has; nothing was handed over to it. Try again",
                        transient=True,
                    )
                self._ending.wait(LEAVE_PAUSE_S)

    def _leave(self, pilot: PilotRecord) -> bool:
        """Hand over to one pilot. False: it has to answer first."""
        with self.lock:
            self.check()
            link = self._links.get(pilot.uid)
            if pilot.state in FINAL or link is None or not (pilot.outbox or pilot.unacknowledged):
                return True
            if not link.is_open and link.was_begun:
                # It may have messages of a program before this one whose end of the log was lost with a node.
                return False
            new_facts: list[facts.Fact] = []
            while pilot.outbox:
                new_facts += self._decide(events.LinkOpened(pilot.uid, pilot.numbered + 1)).facts
            if new_facts:
                self._commit(new_facts)
            # What an agent has under a number must never get another content, whatever dies.
            self._log.sync()
            hand_over(link.folder, ((number, link.frame_of(number)) for number in sorted(pilot.unacknowledged)))
            # An agent that is connected looks at its inbox when it is no more.
            link.close()
            return True

    # the end

    def _await_pilots(self, timeout_s: float) -> list[PilotUid]:
        """Wait until all pilots have ended; tell those that take too long to end by a signal. Return what is left."""

        def none_left() -> bool:
            return not self._links or bool(self._failure)

        with self._reaped:
            if not self._reaped.wait_for(none_left, timeout_s):
                for link in self._links.values():
                    if link.process_fd >= 0:
                        signal.pidfd_send_signal(link.process_fd, signal.SIGTERM)
                    elif link.pilot.job is not None:
                        self.jobs.cancel(link.pilot.uid, at_once=True)
                are_jobs = any(link.pilot.job is not None for link in self._links.values())
                self._reaped.wait_for(none_left, JOB_END_PATIENCE_S if are_jobs else SIGNAL_PATIENCE_S)
            return list(self._links)

    def close(self, *, terminate: bool, timeout_s: float) -> list[PilotUid]:
        """End the session in this process; with ``terminate`` its pilots too. Return those that did not end in time."""
        self.dispatcher.refuse_here("closing")
        with self.lock:
            if self._closed:
                return []
            self.adaptations.end_all()
            failed = bool(self._failure)
            if terminate and not failed:
                self.handle(events.SessionClosing(time.time()))
        left: list[PilotUid] = []
        if terminate and not failed:
            left = self._await_pilots(timeout_s)
        # What is being submitted has to be noted, or who resumes the session would have to look for it.
        self.jobs.stop()
        self.dispatcher.close()
        with self.lock:
            if self._late_facts and not self._failure:
                self._append(_encode(self._late_facts))
            self._closed = True
            for waiter in self._waiters:
                waiter.wake()
            self._waiters.clear()
        self._ending.set()
        self._poke()
        for fencer in self._fencers:
            fencer.join()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        for link in list(self._links.values()):
            link.close()
        self._links.clear()
        try:
            self._log.close()
        finally:
            self._lease.release()
            self._poll.close()
            os.close(self._wakeup)
        return left
