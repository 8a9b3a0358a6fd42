"""The watch over one service: is it ready, what are tasks told of it, is it well. Time is handed in; nothing here blocks.

While it starts, its port, its URL or what it wrote is looked at again and again, in pauses that grow with its age. Once it is
ready, and if it has a health probe, it is asked in intervals; after three bad answers in a row it is unwell.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Literal, NamedTuple

from pilotage.agent.service_probes import Answer, Follower, GrowingFile, Printed
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.sandboxes import sandbox_of
from pilotage.model.services import Probe, Service
from pilotage.model.workload import Row, Template
from pilotage.outputs.files import file_names
from pilotage.outputs.limits import limit_of
from pilotage.outputs.reader import STREAM_NAMES, Outputs
from pilotage.outputs.stream import OutputStream

STRIKES = 3
"""Bad answers in a row after which a service is unwell."""

INFO_CHARACTERS = 4096
"""Tasks have it among their variables, so it is cut after so many."""

FIRST_LOOK_S = 0.02
LONGEST_PAUSE_S = 0.5
"""A service that starts is looked at in pauses of a tenth of its age, but not shorter or longer than these."""


class Ready(NamedTuple):
    """Tasks are told ``info`` of the service."""

    info: str


class Unwell(NamedTuple):
    """It is to be ended, for this reason."""

    message: str


Verdict = Ready | Unwell | None


class Files:
    """Where the output and the files of an attempt are, and where those of earlier ones ended. ``outputs``: the pilot's."""

    def __init__(
        self, template: Template, row: Row, attempt: Attempt, pilot_folder: str, working_folder: str, outputs: Outputs
    ) -> None:
        relative = sandbox_of(template, row)
        self._sandbox = working_folder if relative is None else os.path.join(pilot_folder, relative)
        self._names = dict(zip(STREAM_NAMES, file_names(template, row.uid), strict=True))
        self._template = template
        self._uid = row.uid
        self._attempt = attempt
        self._outputs = outputs

    def follower(self, pattern: str, ends: dict[str, int]) -> Follower:
        """Return who looks for ``source:regex``. ``ends`` are the sizes of files when the last attempt was over.

        Raises:
            ValueError: what is printed is not kept.
        """
        source, _, expression = pattern.partition(":")
        return Follower(self._source(source, ends), expression)

    def _source(self, name: str, ends: dict[str, int]) -> GrowingFile | Printed:
        stream = next((stream for stream in STREAM_NAMES if stream == name), None)
        if stream is None:
            path = os.path.join(self._sandbox, name)
            return GrowingFile(path, ends.get(path, 0))
        if self._template.output == "discard":
            remedy = "set output='files', 'aggregate' or 'tail'"
            raise ValueError(f"its {name} cannot be searched with output='discard', which keeps nothing of it; {remedy}")
        if self._template.output == "files":
            # Each attempt begins these anew.
            return GrowingFile(os.path.join(self._sandbox, self._names[stream]))
        locate = partial(self._outputs.extent, self._uid, stream, self._attempt)
        return Printed(OutputStream(locate, limit_of(self._template)))


class Watch:
    """One attempt at a service. ``ends`` as in ``Files.follower``; ``now`` is of one monotonic clock, in seconds.

    ``look`` is due at ``due``; what it wants asked is its ``question``, of which ``answered`` takes the answer.
    """

    def __init__(
        self,
        row: Row,
        attempt: Attempt,
        service: Service,
        files: Files,
        now: float,
        *,
        ready: bool,
        ends: dict[str, int],
    ) -> None:
        self.uid: TaskUid = row.uid
        self.attempt = attempt
        self._service = service
        self._began = now
        self._phase: Literal["starting", "ready", "over"] = "ready" if ready else "starting"
        self._deadline = now + service.startup_timeout_s if service.startup_timeout_s else None
        self._is_up = service.ready is None
        self._address = ""
        self._said: str | None = None
        self._found: str | None = None
        self._tries = 0
        self._last_answer = ""
        self._strikes = 0
        self._asking = False
        self._question: Probe | None = None
        self._fault = ""
        self._followers: dict[str, Follower] = {}
        try:
            if service.info_pattern:
                self._followers["info"] = files.follower(service.info_pattern, ends)
            if service.ready is not None and service.ready.kind == "pattern":
                self._followers["ready"] = files.follower(service.ready.target, ends)
            if service.health is not None and service.health.kind == "pattern":
                self._followers["health"] = files.follower(service.health.target, ends)
        except ValueError as error:
            self._fault = f"service {row.uid!r}: {error}"
        self.due: float | None = now if self._phase == "starting" or self._fault else self._next_check(now)

    @property
    def ends(self) -> dict[str, int]:
        """Where the files that were looked at end, by their paths."""
        sources = [follower.source for follower in self._followers.values()]
        return {source.path: source.size for source in sources if isinstance(source, GrowingFile)}

    def take_question(self) -> Probe | None:
        """Return what is to be asked now, if anything."""
        question, self._question = self._question, None
        return question

    def look(self, now: float) -> Verdict:
        """Look at files and at the clock; ask ``question`` after it."""
        if self._fault:
            return self._end(self._fault)
        if self._phase == "starting":
            return self._look_at_start(now)
        if self._phase == "ready":
            return self._check(now)
        self.due = None
        return None

    def answered(self, answer: Answer, now: float) -> Verdict:
        """Take in the answer to the question."""
        self._asking = False
        self._last_answer = answer.text
        if self._phase == "starting":
            self._tries += 1
            self._is_up = self._is_up or answer.good
            self._address = answer.address or self._address
            return self._judge_start(now)
        if self._phase == "ready":
            self.due = self._next_check(now)
            return self._score(answer.good)
        return None

    def heard(self, lines: dict[str, str], now: float) -> Verdict:
        """Take in what the service said itself."""
        if "INFO" in lines:
            self._said = lines["INFO"]
        if self._phase == "starting":
            if lines.get("READY") == "1" and self._service.ready is not None and self._service.ready.kind == "notify":
                self._is_up = True
            return self._judge_start(now)
        if self._phase == "ready" and "INFO" in lines and self._found is None:
            return Ready(self._info())
        return None

    # -------------------------------------------------------------------------------------------------------------- starting

    def _look_at_start(self, now: float) -> Verdict:
        if self._found is None and "info" in self._followers:
            self._found = self._followers["info"].look(now)
        if not self._is_up and "ready" in self._followers:
            self._tries += 1
            self._is_up = self._followers["ready"].look(now) is not None
        verdict = self._judge_start(now)
        if verdict is None and not self._is_up:
            self._want(self._service.ready)
            self.due = self._next_look(now)
        return verdict

    def _want(self, probe: Probe | None) -> None:
        if probe is not None and probe.kind in ("port", "http") and not self._asking:
            self._asking, self._question = True, probe

    def _judge_start(self, now: float) -> Verdict:
        if self._is_up and (self._found is not None or "info" not in self._followers):
            self._phase = "ready"
            self.due = self._next_check(now)
            return Ready(self._info())
        if self._deadline is not None and now >= self._deadline:
            return self._end(f"service {self.uid!r} was not ready within {self._service.startup_timeout_s:g} s: {self._lack()}")
        self.due = self._next_look(now)
        return None

    def _next_look(self, now: float) -> float | None:
        """Return when to look next: only the clock counts where nothing is lacking but an answer, or its own word."""
        ready = self._service.ready
        to_ask = not self._is_up and ready is not None and ready.kind in ("port", "http") and not self._asking
        to_find = self._found is None and "info" in self._followers
        to_find = to_find or (not self._is_up and "ready" in self._followers)
        if not to_ask and not to_find:
            return self._deadline
        due = now + min(LONGEST_PAUSE_S, max(FIRST_LOOK_S, (now - self._began) / 10))
        return due if self._deadline is None else min(due, self._deadline)

    def _lack(self) -> str:
        ready, parts = self._service.ready, []
        if not self._is_up and ready is not None:
            if ready.kind == "notify":
                parts.append("it did not say READY=1 on $NOTIFY_SOCKET ('pilotage service-ready' says it)")
            elif ready.kind == "pattern":
                error = self._followers["ready"].error
                parts.append(f"{ready.target!r} was not found in {self._tries} looks" + (f" ({error})" if error else ""))
            else:
                times = "once" if self._tries == 1 else f"{self._tries} times"
                what = f"port {ready.target}" if ready.kind == "port" else ready.target
                parts.append(f"{what} was tried {times}, last: {self._last_answer or 'no answer yet'}")
        if self._found is None and "info" in self._followers:
            error = self._followers["info"].error
            parts.append(f"its info_pattern {self._service.info_pattern!r} was not found" + (f" ({error})" if error else ""))
        return "; ".join(parts)

    def _info(self) -> str:
        info = self._found if self._found is not None else self._said
        return (self._address if info is None else info)[:INFO_CHARACTERS]

    # ---------------------------------------------------------------------------------------------------------------- health

    def _next_check(self, now: float) -> float | None:
        return now + self._service.health_interval_s if self._service.health is not None else None

    def _check(self, now: float) -> Verdict:
        health = self._service.health
        if health is None:
            self.due = None
            return None
        if health.kind != "pattern":
            # The answer sets the next time.
            self.due = None
            self._want(health)
            return None
        self.due = self._next_check(now)
        follower = self._followers["health"]
        good = follower.look(now) is not None
        self._last_answer = follower.error or "it was not found in what was written since the check before"
        return self._score(good)

    def _score(self, good: bool) -> Verdict:
        self._strikes = 0 if good else self._strikes + 1
        if self._strikes < STRIKES or self._service.health is None:
            return None
        health = self._service.health
        asked = f"port {health.target}" if health.kind == "port" else health.target
        return self._end(f"service {self.uid!r} is unwell: {asked} failed {STRIKES} times in a row, last: {self._last_answer}")

    def _end(self, message: str) -> Unwell:
        self._phase, self.due = "over", None
        return Unwell(message)
