"""The background thread of a session: it does what nobody calls for, one turn after another.

It sleeps in one ``epoll`` on all that may have news, until then or until something is due, and takes the lock for each turn.
In a program whose own thread computes, each system call of the background thread may cost it the interpreter's switch
interval of 5 ms. So a turn makes few of them, whatever the number of tasks: one wait, one read, one write, one answer.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable

from pilotage.client.steps import Steps

log = logging.getLogger("pilotage")


class Background:
    """The thread, which runs from ``start`` until the session is over; ``close`` after ``join``.

    ``poll`` is where links register what may have news. ``turn`` is called with the lock, and what was ready; ``patience_s``
    returns for how long the next turn may be waited for.
    """

    def __init__(self, steps: Steps, turn: Callable[[list[int]], None], patience_s: Callable[[], float]) -> None:
        self.poll = select.epoll()
        self._steps = steps
        self._turn = turn
        self._patience_s = patience_s
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.watch(self._wakeup)
        self._thread: threading.Thread | None = None

    def watch(self, descriptor: int) -> None:
        """Have a turn whenever this one is readable."""
        self.poll.register(descriptor, select.EPOLLIN)

    def start(self) -> None:
        """Start the thread if it does not run."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"pilotage-{self._steps.session}", daemon=True)
            self._thread.start()

    def poke(self) -> None:
        """Have a turn soon: another time may be the next."""
        os.eventfd_write(self._wakeup, 1)

    def _run(self) -> None:
        steps = self._steps
        try:
            while not steps.closed:
                ready = [descriptor for descriptor, _ in self.poll.poll(self._patience_s())]
                with steps.lock:
                    if not steps.goes_on:
                        return
                    if self._wakeup in ready:
                        os.eventfd_read(self._wakeup)
                    self._turn(ready)
        except Exception as error:  # the root of this thread: whoever waits must not wait for ever
            steps.stop_for(f"{type(error).__name__}: {error}")
            log.exception("the background thread of session %s ended", steps.session)

    def join(self) -> None:
        """Wait for the thread's end, unless called in it; the session is over."""
        self.poke()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def close(self) -> None:
        """Release the descriptors."""
        self.poll.close()
        os.close(self._wakeup)
