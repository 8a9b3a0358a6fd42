"""A thread that speaks for the worker while a call takes long.

The worker runs calls in its main thread and, between short ones, needs no other. Only when one call has run for ``PATIENCE_S``
does the attendant take over the socket until that call is over: it sends the results of the calls before, tells that this one
runs, answers recalls, and finds the next agent when this one dies. A rule that sends results before each call would cost short
calls a system call each, and could neither answer nor reconnect.

One lock, the *baton*, makes it safe: the main thread holds it except inside the user's code. Who has the baton may touch the
worker's state. For the main thread that costs 70 ns a call and no contention: the attendant looks every ``PATIENCE_S`` whether
the number of calls begun has moved, and is parked while the worker has nothing to run, so that an idle worker costs nothing.

A call that keeps the interpreter to itself (native code that does not release it) holds the attendant up as well. Then the
shared words of ``progress`` still tell the agent where the worker is, and what the call holds up are the results of at most
one batch.
"""

from __future__ import annotations

import _thread
import os
import select
import threading
import time
from contextlib import suppress
from typing import NoReturn, Protocol

from pilotage.workers.descriptors import EXIT_BROKEN, Known, known, lifted
from pilotage.workers.link import say_traceback

PATIENCE_S = 0.02


class Attended(Protocol):
    """What the attendant needs of the worker; ``attend`` is only called with the baton held."""

    idle: bool
    begun: int

    def attend(self) -> tuple[int, int, float | None]:
        """Serve the socket; return its descriptor (-1: none), the events to wait for and in how many seconds to be called
        again at the latest (None: no limit)."""

    def give_up(self) -> NoReturn:
        """End the process: the call that runs has closed what the worker needs. Only called with the baton held."""


class Attendant:
    """The thread, its baton, and what wakes it and sends it away. The creator holds the baton."""

    def __init__(self, worker: Attended) -> None:
        self.baton = _thread.allocate_lock()
        self.baton.acquire()
        self.attending = False
        """Set with the baton held while the attendant serves the socket; who takes the baton back dismisses it."""
        self._worker = worker
        self._awake = threading.Event()
        # Made for each time that it attends: so only the call that it attends to can have closed it.
        self._dismissal = Known(-1, 0, 0)
        self._started = False

    def wake(self) -> None:
        """Begin to watch: calls are about to run. For the main thread, after it is no longer ``idle``."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, name="pilotage-attendant", daemon=True).start()
        if not self._awake.is_set():
            self._awake.set()

    def dismiss(self) -> bool:
        """Send the attendant away from the socket: the call is over. For the main thread, with the baton held.

        Returns False if that cannot be, as the call has closed what wakes the attendant.
        """
        self.attending = False
        if self._dismissal.is_there:
            os.eventfd_write(self._dismissal.number, 1)
            return True
        return False

    def take_back(self) -> None:
        """Hold the baton, whether or not it was held: after an exception that may have come at any place."""
        # Locked by whom? While the attendant attends, by either; otherwise, but for a moment, by the main thread alone.
        self.baton.acquire(timeout=1.0 if self.attending else 0.0)
        if self.attending:
            self.dismiss()

    def _run(self) -> None:
        worker, baton = self._worker, self.baton
        try:
            while True:
                self._park_while_idle()
                seen = worker.begun
                time.sleep(PATIENCE_S)
                # A free baton means that the main thread is inside a call; the same number, that it has been all the while.
                if worker.begun == seen and not worker.idle and baton.acquire(blocking=False):
                    self._attend()
        except BaseException:  # root of the thread: without it, and with the baton, the worker would stand still for ever
            say_traceback()
            os._exit(EXIT_BROKEN)

    def _park_while_idle(self) -> None:
        if self._worker.idle:
            self._awake.clear()
            # Looked at again: the main thread may have begun in between and found the event still set.
            if self._worker.idle:
                self._awake.wait()

    def _attend(self) -> None:
        """Serve the socket, with the baton now held, until the main thread has dismissed this one."""
        baton = self.baton
        dismissal = self._dismissal = known(lifted(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)))
        self.attending = True
        while True:
            if not dismissal.is_there:
                self._worker.give_up()
            descriptor, events, limit_s = self._worker.attend()
            baton.release()
            poll = select.poll()
            poll.register(dismissal.number, select.POLLIN)
            if descriptor >= 0:
                poll.register(descriptor, events)
            ready = poll.poll(None if limit_s is None else limit_s * 1000)
            dismissed = any(one == dismissal.number and event == select.POLLIN for one, event in ready)
            if not dismissed and baton.acquire(blocking=False):
                if self.attending:
                    continue
                baton.release()
            # The call is over: the dismissal is here, or on its way from the main thread, or the main thread has found it gone.
            if dismissal.is_there:
                with suppress(OSError):
                    # The next call may close it just now.
                    select.select([dismissal.number], [], [])
                    os.close(dismissal.number)
            return
