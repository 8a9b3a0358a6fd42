"""What the head of a pilot is asked about its partitions: how they are, and whether one may come or go.

The answer is awaited for a while. Who asks while the head is started again is answered by the next one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from pilotage.client.loads import Link
from pilotage.model.ids import PilotUid
from pilotage.model.partitions import PartitionSpec
from pilotage.wire.codec import encode
from pilotage.wire.messages import AskPartitions, PartitionsTold

ANSWER_S = 10.0


class PartitionQuestions:
    """The questions of a session to its pilots. All calls but ``ask`` are made with the engine's lock."""

    def __init__(self, lock: threading.Lock, links: Mapping[PilotUid, Link]) -> None:
        self._links = links
        self._number = 0
        self._answers: dict[int, PartitionsTold] = {}
        self._greetings: dict[PilotUid, int] = {}
        self._heard = threading.Condition(lock)

    def take(self, answer: PartitionsTold) -> None:
        """A pilot has answered."""
        self._answers[answer.question] = answer
        self._heard.notify_all()

    def greeted(self, pilot: PilotUid) -> None:
        """A pilot said hello; what was asked before on another connection it may not have heard."""
        self._greetings[pilot] = self._greetings.get(pilot, 0) + 1
        self._heard.notify_all()

    def over(self) -> None:
        """A pilot is gone."""
        self._heard.notify_all()

    def ask(
        self, pilot: PilotUid, *, add: PartitionSpec | None = None, retire: str = "", drain: bool = True
    ) -> PartitionsTold | None:
        """Return what the head of a pilot says; None if it has ended, was never heard, or does not answer."""
        with self._heard:
            if not self._greetings.get(pilot):
                return None
            self._number += 1
            number, asked_in = self._number, 0
            question = encode(AskPartitions(number, add, retire, drain))
            until = time.monotonic() + ANSWER_S
            while (link := self._links.get(pilot)) is not None and (left_s := until - time.monotonic()) > 0:
                if link.is_open and asked_in != self._greetings[pilot]:
                    asked_in = self._greetings[pilot]
                    link.send(question)
                self._heard.wait(left_s)
                answer = self._answers.pop(number, None)
                if answer is not None:
                    return answer
            return None
