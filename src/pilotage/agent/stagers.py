"""The agent's stagers: threads that stage the input and the output of tasks, while the agent goes on.

They are started when there is something to stage, and end when there has been nothing for a while. Each takes one task at a
time. Small files on a disk of the node are staged fastest by one, as several would wait for each other in the kernel; so
another one takes part when none has taken a task for ``PATIENCE_S``: a large file, or a slow file system, holds up one stager
and not what waits behind it. Tasks that want what is just being brought for another one are put aside meanwhile.

Where there is no room in the session's folder the task is handed back, to be asked for again when there is, and with it the
input that waits behind it; not the output, as staging that may free space. What several bring at a time may take all the room
and leave none of them enough. So there is one stager then, and one more after each task that it could stage.

What is done is handed over in bulk: the agent's loop is woken by a descriptor and takes all that has come together.

The agent may ask for the same twice, and for an end of what it does not want any more: staging done again has the same end,
and the core does not look at what it no longer waits for.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from pilotage.core.agent.events import StagingEnded, StagingPhase, StorageFilled
from pilotage.errors import StagingFailed
from pilotage.model.execution import Execution
from pilotage.model.ids import Attempt, TaskUid, TemplateId
from pilotage.model.sandboxes import sandbox_of
from pilotage.model.staging import Directive, StagingAction
from pilotage.model.workload import OWN_SANDBOX, Row, Template
from pilotage.staging.actions import Work
from pilotage.staging.failures import NoRoom, Stopped, no_sandbox
from pilotage.staging.notes import Errand, Notes
from pilotage.staging.shared import Busy, Delivery
from pilotage.staging.stager import Stager
from pilotage.staging.urls import Places

STAGERS = 8
"""Threads at the most."""

PATIENCE_S = 0.005
"""What takes longer is long; on a busy node a stager may be out of the processor for nearly as long."""

NOTES_FILE = "staging.notes"
"""In the pilot's folder: the moves that were about to be made, see ``staging.notes``."""

TOGETHER = 64
TOGETHER_S = 0.01
"""So many ends are handed over at once, unless the first of them has waited for so long."""

_IDLE_S = 10.0
"""A stager that has had nothing to do for so long ends."""


class _Job(msgspec.Struct, frozen=True, gc=False):
    phase: StagingPhase
    attempt: Attempt
    row: Row
    template: Template
    arrived: float
    begin_with: int = 0
    """Directives that were done when it was put aside."""

    @property
    def errand(self) -> Errand:
        return self.row.uid, self.phase, self.attempt

    @property
    def directives(self) -> tuple[Directive, ...]:
        extra = self.row.extra
        if extra is None:
            return ()
        return extra.input_staging if self.phase == "input" else extra.output_staging


class Stagers:
    """Stages for the tasks of one pilot.

    ``working_folder`` is that of the user's program, where tasks without a sandbox run. ``incarnation``: of the agent; those
    before it are dead. ``agent_folder`` has what is the agent's own, if that is not ``pilot_folder``.
    """

    def __init__(
        self, pilot_folder: str, working_folder: str, incarnation: int, stagers: int = STAGERS, agent_folder: str = ""
    ) -> None:
        self._pilot_folder = pilot_folder
        self._working_folder = working_folder
        self._places = Places.of_pilot(pilot_folder)
        self._notes = Notes(os.path.join(agent_folder or pilot_folder, NOTES_FILE))
        family = hashlib.sha256(os.fsencode(agent_folder or pilot_folder)).hexdigest()[:12] + "-"
        self._stager = Stager(
            f"{family}{incarnation}",
            self._is_stopped,
            self._notes,
            heir_of=family if incarnation > 1 else "",
            over=self._take_up,
        )
        self._limit = stagers
        self._width = stagers
        """So many may be staging; fewer than the limit after there was no room."""
        self._changed = threading.Condition()
        """Guards all that follows."""
        self._jobs: deque[_Job] = deque()
        self._aside: dict[Delivery[Any], list[_Job]] = {}
        self._in_hand: set[Errand] = set()
        self._unwanted: set[TaskUid] = set()
        self._hand = threading.local()
        """``uid``: the task that this stager is staging for."""
        self._threads: set[threading.Thread] = set()
        self._staging = 0
        """Threads that are staging; of the others one may be watching, for a task that takes long."""
        self._watching = False
        self._last_begun, self._last_stager = 0.0, 0
        self._stopping = False
        self._ended: list[tuple[_Job, str | NoRoom]] = []
        self._first_ended = 0.0
        self._told = False
        self._taken: list[Errand] = []
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something to take."""
        return self._wakeup

    def submit(
        self, phase: StagingPhase, tasks: Iterable[tuple[Attempt, Row]], templates: Mapping[TemplateId, Template]
    ) -> None:
        """Stage the input, or the output, of these attempts; what is under way already is not begun again."""
        arrived = time.monotonic()
        jobs = [_Job(phase, attempt, row, templates[row.template], arrived) for attempt, row in tasks]
        with self._changed:
            for job in jobs:
                if job.errand not in self._in_hand:
                    self._in_hand.add(job.errand)
                    self._jobs.append(job)
            self._call_another()

    def end(self, tasks: Iterable[TaskUid]) -> None:
        """Stop at these tasks, in the middle of a large file too; those that are not done with then are told as failed."""
        with self._changed:
            uids = {uid for uid, *_ in self._in_hand}
            self._unwanted.update(uid for uid in tasks if uid in uids)

    def take(self) -> list[StagingEnded | StorageFilled]:
        """Return what has ended since the last call. What was returned then must be in the agent's log by now.

        That storage is full comes before the ends of the tasks that were put off for it.
        """
        try:
            os.eventfd_read(self._wakeup)
        except BlockingIOError:
            return []
        with self._changed:
            ended, self._ended = self._ended, []
            self._told = False
        self._notes.drop(self._taken)
        # One that failed may be asked for again, and then has to know what it did.
        self._taken = [job.errand for job, error in ended if not error and _moves(job.directives)]
        now = time.time()
        events: list[StagingEnded | StorageFilled] = []
        full = next((str(error) for _, error in ended if isinstance(error, NoRoom)), "")
        if full:
            events.append(StorageFilled(now, full))
        for phase in ("input", "output"):
            done: list[Execution] = []
            failed: list[tuple[Execution, str]] = []
            put_off: list[Execution] = []
            for job, error in ended:
                if job.phase == phase:
                    execution = job.row.uid, job.attempt
                    if isinstance(error, NoRoom):
                        put_off.append(execution)
                    elif error:
                        failed.append((execution, error))
                    else:
                        done.append(execution)
            if done or failed or put_off:
                events.append(StagingEnded(now, phase, done, failed, put_off))
        return events

    def close(self, patience_s: float = 5.0) -> None:
        """Stop what is under way, and wait for it. What was not done is not told."""
        with self._changed:
            self._stopping = True
            self._jobs.clear()
            self._aside.clear()
            self._changed.notify_all()
            threads = list(self._threads)
        until = time.monotonic() + patience_s
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        if not any(thread.is_alive() for thread in threads):
            self._notes.close()
            os.close(self._wakeup)

    # ------------------------------------------------------------------------------------------------------- in the threads

    def _work(self) -> None:
        job: _Job | None = None
        result: str | Busy | NoRoom = ""
        while True:
            with self._changed:
                if job is not None:
                    self._staging -= 1
                    if isinstance(result, Busy):
                        self._put_aside(job, result)
                    else:
                        if isinstance(result, NoRoom):
                            self._hand_back(result)
                        else:
                            self._width = min(self._width + 1, self._limit)
                        self._note_end(job, result)
                job = self._next()
            if job is None:
                return
            result = self._stage(job)

    def _put_aside(self, job: _Job, busy: Busy) -> None:
        job = msgspec.structs.replace(job, begin_with=busy.index)
        if busy.delivery.lock.locked():
            self._aside.setdefault(busy.delivery, []).append(job)
        else:
            self._jobs.append(job)  # it was over before this could be put aside

    def _take_up(self, delivery: Delivery[Any]) -> None:
        """What these tasks were put aside for is over."""
        with self._changed:
            self._jobs.extend(self._aside.pop(delivery, ()))
            self._call_another()

    def _hand_back(self, problem: NoRoom) -> None:
        """There is no room: input that was not begun has to wait, too.

        It is told before the task that could not be staged, which is tried last then: it may need more than there will be.
        """
        self._width = 1
        jobs, self._jobs = self._jobs, deque()
        for job in jobs:
            if job.phase == "input":
                self._note_end(job, problem)
            else:
                self._jobs.append(job)

    def _note_end(self, job: _Job, error: str | NoRoom) -> None:
        self._in_hand.discard(job.errand)
        self._unwanted.discard(job.row.uid)
        if not self._ended:
            self._first_ended = time.monotonic()
        self._ended.append((job, error))

    def _next(self) -> _Job | None:
        """Return what is to be staged next; None: this stager is to end. The lock is held, but while it waits."""
        me = threading.get_ident()
        while not self._stopping:
            now = time.monotonic()
            due = self._last_begun + PATIENCE_S if self._staging and self._last_stager != me else now
            if len(self._ended) >= TOGETHER or not self._jobs or now > self._first_ended + TOGETHER_S:
                self._tell()
            may_begin = bool(self._jobs) and self._staging < self._width
            if may_begin and now >= due:
                self._staging += 1
                self._last_begun, self._last_stager = now, me
                job = self._jobs.popleft()
                if not self._jobs or self._staging >= self._width:
                    # Nobody watches then, and what has ended must not wait for what may take long.
                    self._tell()
                else:
                    self._call_another()
                return job
            if may_begin and not self._watching:
                self._watching = True
                self._changed.wait(due - now)
                self._watching = False
            elif not self._changed.wait(_IDLE_S) and not self._jobs:
                break
        self._threads.discard(threading.current_thread())
        return None

    def _tell(self) -> None:
        if self._ended and not self._told:
            self._told = True
            os.eventfd_write(self._wakeup, 1)

    def _call_another(self) -> None:
        """Have a stager that takes the next job at once, or when it is due. The lock is held."""
        if not self._jobs or self._watching or self._staging >= self._width:
            return
        if self._staging == len(self._threads) < self._limit:
            thread = threading.Thread(target=self._work, name="stager", daemon=True)
            self._threads.add(thread)
            thread.start()
        else:
            self._changed.notify()

    def _is_stopped(self) -> bool:
        return self._stopping or self._hand.uid in self._unwanted

    def _stage(self, job: _Job) -> str | Busy | NoRoom:
        """Stage for one task, and return why it cannot be done, if so."""
        self._hand.uid = job.row.uid
        try:
            self._stage_task(job)
        except StagingFailed as error:
            return str(error)
        except (Busy, NoRoom) as reason:
            return reason
        except Stopped:
            return "it was not wanted any more"
        except Exception as error:  # the task must not wait for ever because of a mistake here
            traceback.print_exc(file=sys.stderr)
            return f"staging broke: {type(error).__name__}: {error}; the agent's output (agent.err) has more"
        return ""

    def _stage_task(self, job: _Job) -> None:
        template, row = job.template, job.row
        relative = sandbox_of(template, row)
        sandbox = self._working_folder if relative is None else os.path.join(self._pilot_folder, relative)
        own = sandbox if template.sandbox == OWN_SANDBOX else ""
        before = job.phase == "input"
        if before:
            _make_sandbox(sandbox, self._places.session)
        printed = frozenset[str]()
        if not before and template.output == "files":
            names = (template.stdout or f"{row.uid}.out", template.stderr or f"{row.uid}.err")
            printed = frozenset(os.path.join(sandbox, name) for name in names)
        removed_last = template.cleanup and own != "" and not before
        if removed_last and not os.path.lexists(own):
            return  # it was all done by an agent before this one, which could not tell any more
        places = msgspec.structs.replace(self._places, task=sandbox)
        work = Work(
            job.errand,
            job.directives,
            places,
            own,
            share=before,
            arrived=job.arrived,
            printed=printed,
            go_on=not before,
            ground=places.session,
        )
        self._stager.stage(work, job.begin_with)
        if removed_last:
            with suppress(OSError):  # what another process still holds there is no failure of the task
                self._stager.files.discard(own)


def _moves(directives: Iterable[Directive]) -> bool:
    return any(directive.action is StagingAction.MOVE for directive in directives)


def _make_sandbox(folder: str, ground: str) -> None:
    try:
        try:
            os.mkdir(folder)
        except FileNotFoundError:
            os.makedirs(folder, exist_ok=True)
        except FileExistsError:
            pass
    except OSError as error:
        problem = no_sandbox(error, folder)
        if isinstance(problem, NoRoom) and problem.is_below(ground):
            raise problem from error
        raise StagingFailed(str(problem)) from error
