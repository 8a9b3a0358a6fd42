"""The watch over all services of a pilot: one thread that sleeps until something is due or is said, and a few that ask.

Which service is watched, and since when, is decided by the agent; here the clock, the files, the socket on which services speak
and the answers to questions are brought to each ``Watch``, and its verdicts to the agent.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pilotage.agent.service_probes import Answer, ask
from pilotage.agent.service_watch import Files, Ready, Unwell, Verdict, Watch
from pilotage.agent.settings import PilotSettings
from pilotage.core.agent.actions import WatchService
from pilotage.core.agent.events import ServiceReady, ServiceUnwell
from pilotage.executors.notify import NotifySocket, Word
from pilotage.model.ids import Attempt, TaskUid, TemplateId
from pilotage.model.services import Probe
from pilotage.model.workload import Template
from pilotage.outputs.reader import Outputs

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

ASKERS = 8
"""Threads that ask ports and URLs, at the most."""

_EARLY_WORDS = 1024
"""Tasks that spoke before the agent knew that they run, and are remembered, at the most."""

_LONGEST_SLEEP_S = 3600.0

_Errand = Callable[[float], None]


class Services:
    """Watches services; ``tell`` is called on its thread. ``notify`` is where they speak."""

    def __init__(
        self, settings: PilotSettings, notify: NotifySocket, tell: Callable[[ServiceReady | ServiceUnwell], None]
    ) -> None:
        self._settings = settings
        self._notify = notify
        self._tell = tell
        self._watches: dict[TaskUid, Watch] = {}
        self._hosts = {node.index: node.name for node in settings.nodes}
        self._nodes: dict[TaskUid, int] = {}
        self._outputs = Outputs(settings.pilot_folder)
        self._ends: dict[TaskUid, dict[str, int]] = {}
        self._early: dict[tuple[TaskUid, Attempt], dict[str, str]] = {}
        self._errands: deque[_Errand] = deque()
        """What the thread is to do, handed over by others."""
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._askers: ThreadPoolExecutor | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="services", daemon=True)
        self._thread.start()

    def watch(self, action: WatchService, templates: Mapping[TemplateId, Template]) -> None:
        """Look after this attempt at a service from now on."""
        template = templates[action.row.template]
        folders = self._settings.pilot_folder, self._settings.working_folder
        files = Files(template, action.row, action.attempt, *folders, self._outputs)
        self._hand_over(lambda now: self._begin(action, files, now))

    def unwatch(self, service: TaskUid) -> None:
        """The service is over."""
        self._hand_over(lambda _now: self._end(service))

    def hear(self, word: Word) -> None:
        """A service on another node said this."""
        self._hand_over(lambda now: self._hear(word, now))

    def close(self) -> None:
        """Watch nothing any more."""
        self._stopping = True
        self._hand_over(lambda _now: None)
        self._thread.join()
        if self._askers is not None:
            self._askers.shutdown(wait=False, cancel_futures=True)
        os.close(self._wakeup)

    def _hand_over(self, errand: _Errand) -> None:
        self._errands.append(errand)
        os.eventfd_write(self._wakeup, 1)

    # ---------------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        poll.register(self._notify, select.POLLIN)
        while not self._stopping:
            poll.poll(self._patience_ms())
            try:
                self._turn(time.monotonic())
            except Exception:  # the services of a pilot must not lose their watch because of a mistake with one
                traceback.print_exc(file=sys.stderr)

    def _patience_ms(self) -> float | None:
        due = min((watch.due for watch in self._watches.values() if watch.due is not None), default=None)
        return None if due is None else min(max(0.0, due - time.monotonic()), _LONGEST_SLEEP_S) * 1000

    def _turn(self, now: float) -> None:
        try:
            os.eventfd_read(self._wakeup)
        except BlockingIOError:
            pass
        while self._errands:
            self._errands.popleft()(now)
        for word in self._notify.receive():
            self._hear(word, now)
        for watch in list(self._watches.values()):
            if watch.due is not None and watch.due <= now:
                self._conclude(watch, watch.look(now))
                question = watch.take_question()
                if question is not None:
                    self._ask(watch, question)

    def _begin(self, action: WatchService, files: Files, now: float) -> None:
        row, service = action.row, action.service
        ends = self._ends.pop(row.uid, {})
        watch = Watch(row, action.attempt, service, files, now, ready=action.ready, ends=ends)
        self._watches[row.uid], self._nodes[row.uid] = watch, action.node
        said = self._early.pop((row.uid, action.attempt), None)
        if said is not None:
            self._conclude(watch, watch.heard(said, now))

    def _end(self, service: TaskUid) -> None:
        watch = self._watches.pop(service, None)
        if watch is not None:
            # Its next attempt may write to the same files.
            if watch.ends:
                self._ends[service] = watch.ends
            del self._nodes[service]

    def _hear(self, word: Word, now: float) -> None:
        watch = self._watches.get(word.task)
        if watch is not None and watch.attempt == word.attempt:
            self._conclude(watch, watch.heard(word.lines, now))
        else:
            # It may have spoken before the agent heard that it began.
            self._early.setdefault((word.task, word.attempt), {}).update(word.lines)
            if len(self._early) > _EARLY_WORDS:
                del self._early[next(iter(self._early))]

    def _ask(self, watch: Watch, question: Probe) -> None:
        if self._askers is None:
            from concurrent.futures import ThreadPoolExecutor

            self._askers = ThreadPoolExecutor(ASKERS, thread_name_prefix="service")
        node = self._nodes[watch.uid]
        host, is_here = self._hosts.get(node, ""), self._settings.is_here(node)

        def ask_and_tell() -> None:
            try:
                answer = ask(question, host, is_here=is_here)
            except Exception as error:  # whatever a service answers, there has to be an answer
                answer = Answer(False, f"{question.target}: {type(error).__name__}: {error}")
            self._hand_over(lambda now: self._answered(watch, answer, now))

        self._askers.submit(ask_and_tell)

    def _answered(self, watch: Watch, answer: Answer, now: float) -> None:
        if self._watches.get(watch.uid) is watch:
            self._conclude(watch, watch.answered(answer, now))

    def _conclude(self, watch: Watch, verdict: Verdict) -> None:
        if isinstance(verdict, Ready):
            self._tell(ServiceReady(time.time(), watch.uid, watch.attempt, verdict.info))
        elif isinstance(verdict, Unwell):
            self._tell(ServiceUnwell(time.time(), watch.uid, watch.attempt, verdict.message))
