"""How pilots end for the client: with a goodbye, or gone without one; then what is left of them is ended first.

The death of a pilot's processes, or the end of its job, is the end of the pilot. What it said before is taken first. If there
was a goodbye in it the link is done with. Otherwise the pilot is fenced: on a thread of its own, as that may take seconds, what
is left of it is ended, and its log has the last word (``pilotage.client.losses``).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from pilotage.client.batch_jobs import BatchJobs
from pilotage.client.losses import lost_job, lost_processes, reason_of_loss
from pilotage.client.pilot_link import PilotLink
from pilotage.client.steps import Steps
from pilotage.core.client import events
from pilotage.model.ids import PilotUid
from pilotage.model.states import FINAL

SIGNAL_PATIENCE_S = 10.0
FENCE_PAUSE_S = 2.0
LISTEN_PAUSE_S = 0.25
JOB_END_PATIENCE_S = 60.0
"""How long the jobs of pilots may take that were cancelled as a session was closed."""
STILL_SPEAKING_S = 90.0
"""For how long a pilot may be heard whose job is over, before it is given up."""


class PilotEnds:
    """The ends of the pilots of one session; all calls but ``await_all`` and ``join`` are made with the lock.

    ``receive`` takes what has come over a link; ``forget`` is called for each pilot that is done with.
    """

    def __init__(
        self,
        steps: Steps,
        jobs: BatchJobs,
        *,
        receive: Callable[[PilotLink], None],
        forget: Callable[[PilotUid], None],
    ) -> None:
        self._steps = steps
        self._jobs = jobs
        self._receive = receive
        self._forget = forget
        self._fencers: list[threading.Thread] = []
        self._reaped = threading.Condition(steps.lock)

    # with the lock

    def job_over(self, pilot: PilotUid) -> None:
        """Nothing of the pilot runs any more, says its batch system: it has said goodbye, or its log has the last word."""
        link = self._steps.links.get(pilot)
        if link is None:
            return
        self._receive(link)
        if link.pilot.state in FINAL:
            self._reap(link)
            return
        self._in_thread(self._fence_job, link)

    def gone(self, link: PilotLink) -> None:
        """The pilot's bootstrap and agent are gone: in good order, or what is left of it has to be ended first."""
        # It may have said goodbye before it went.
        self._receive(link)
        if link.pilot.state in FINAL:
            self._reap(link)
            return
        link.close()
        self._in_thread(self._fence, link)

    def said_goodbye(self, pilot: PilotUid) -> None:
        """The pilot has ended, as it says itself or its user does."""
        link = self._steps.links.get(pilot)
        if link is not None:
            # Its last message has to be acknowledged as durable, for which it waits before it exits.
            link.synced(self._steps.log.sync())
            link.acknowledge()
            if link.pilot.job is not None:
                # One that was never submitted has nothing to wait for; of the others the end is near.
                if link.pilot.job.id or link.pilot.incarnation:
                    self._jobs.hurry(pilot)
                else:
                    self._reap(link)

    def given_up(self) -> None:
        """The session goes on no longer here: nobody need wait for ends."""
        self._reaped.notify_all()

    def _reap(self, link: PilotLink) -> None:
        pilot = link.pilot
        link.close()
        self._steps.links.pop(pilot.uid, None)
        self._jobs.forget(pilot.uid)
        if pilot.pid:
            try:
                os.waitpid(pilot.pid, os.WNOHANG)
            except ChildProcessError:
                pass  # a pilot of the process that had this session before
        self._forget(pilot.uid)
        self._reaped.notify_all()

    # on threads of their own

    def _in_thread(self, fence: Callable[[PilotLink], None], link: PilotLink) -> None:
        fencer = threading.Thread(target=fence, args=(link,), name=f"pilotage-fence-{link.pilot.uid}", daemon=True)
        self._fencers.append(fencer)
        fencer.start()

    def _fence_job(self, link: PilotLink) -> None:
        """Take what is left to be heard from a pilot whose job is over, and then what its log says."""
        pilot, steps = link.pilot, self._steps
        began = time.monotonic()
        told = False
        while link.is_open and pilot.state not in FINAL and time.monotonic() - began < STILL_SPEAKING_S:
            if steps.ending.wait(LISTEN_PAUSE_S):
                return
            # What the batch system holds for over may live on where it was cut off from it.
            if not told and time.monotonic() - began > FENCE_PAUSE_S:
                told = steps.tell(events.PilotCancelRequested(time.time(), [pilot.uid], False, reason_of_loss(pilot)))
        with steps.lock:
            link.close()
        self._lost(link, lost_job(link))

    def _fence(self, link: PilotLink) -> None:
        """End what is left of a pilot, and take what its log says."""
        lost = lost_processes(link)
        while lost is None and not self._steps.ending.wait(FENCE_PAUSE_S):
            lost = lost_processes(link)
        self._lost(link, lost)

    def _lost(self, link: PilotLink, lost: events.PilotLost | None) -> None:
        with self._steps.lock:
            if lost is not None and self._steps.goes_on:
                self._steps.handle(lost)
            self._reap(link)

    # without the lock

    def await_all(self, timeout_s: float) -> list[PilotUid]:
        """Wait until all pilots have ended; tell those that take too long to end by a signal. Return what is left."""
        links = self._steps.links

        def none_left() -> bool:
            return not links or bool(self._steps.failure)

        with self._reaped:
            if not self._reaped.wait_for(none_left, timeout_s):
                for link in links.values():
                    if link.process_fd >= 0:
                        signal.pidfd_send_signal(link.process_fd, signal.SIGTERM)
                    elif link.pilot.job is not None:
                        self._jobs.cancel(link.pilot.uid, at_once=True)
                are_jobs = any(link.pilot.job is not None for link in links.values())
                self._reaped.wait_for(none_left, JOB_END_PATIENCE_S if are_jobs else SIGNAL_PATIENCE_S)
            return list(links)

    def join(self) -> None:
        """Wait for the threads that fence; the session is over."""
        for fencer in self._fencers:
            fencer.join()
