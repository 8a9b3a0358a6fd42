"""What pilots say: each message becomes an event for the core, or news for those who asked for it."""

from __future__ import annotations

import logging
import os
import time

import msgspec

from pilotage.client.loads import Loads
from pilotage.client.partition_questions import PartitionQuestions
from pilotage.client.pilot_link import PilotLink
from pilotage.client.steps import Steps
from pilotage.core.client import events
from pilotage.errors import unreachable
from pilotage.model.ids import PilotUid
from pilotage.model.outcome import Outcome
from pilotage.wire import messages as wire

log = logging.getLogger("pilotage")

_decode_outcomes = msgspec.msgpack.Decoder(list[Outcome]).decode


class PilotMessages:
    """Takes what the pilots of one session say. All calls are made with the lock."""

    def __init__(self, steps: Steps, loads: Loads, questions: PartitionQuestions) -> None:
        self._steps = steps
        self._loads = loads
        self._questions = questions

    def receive(self, link: PilotLink) -> None:
        """Take all that has come over a link."""
        now = time.monotonic()
        for message in link.receive(now):
            self._hear(link, message, now)

    def _hear(self, link: PilotLink, message: wire.FromAgent, now: float) -> None:
        pilot, handle = link.pilot.uid, self._steps.handle
        match message:
            case wire.Outcomes():
                if link.accept(now, message):
                    outcomes = _decode_outcomes(message.outcomes)
                    handle(events.OutcomesArrived(time.time(), pilot, message.number, outcomes, message.outcomes))
            case wire.Acknowledge():
                link.acknowledged(message)
                handle(events.AgentAcknowledged(time.time(), pilot, message.durable))
                self._steps.offer(pilot)
            case wire.Progress():
                self._progress(pilot, message)
            case wire.AgentHello():
                link.greeted(message)
                handle(events.AgentGreeted(time.time(), pilot, message.incarnation, message.durable, message.nodes))
                self._loads.greeted(pilot)
                self._questions.greeted(pilot)
            case wire.PilotEnded():
                if link.accept(now, message):
                    told = message.number, message.state, message.reason, message.begun, message.tries, message.out_of_time
                    handle(events.PilotEndArrived(time.time(), pilot, *told, os.fspath(link.folder)))
            case wire.Refused():
                self._steps.fail(f"pilot {pilot} refuses this client: {message.reason}")
            case wire.PartitionsTold():
                self._questions.take(message)
            case wire.Heartbeat() | wire.Inspection() | wire.NodesReturned() | wire.TasksReturned() | wire.JobEnds():
                pass
            case _:
                unreachable(message)

    def _progress(self, pilot: PilotUid, message: wire.Progress) -> None:
        handle = self._steps.handle
        if message.started:
            handle(events.TasksSeenRunning(time.time(), pilot, message.started))
        if message.unloading:
            handle(events.OutputsSeenStaged(time.time(), pilot, message.unloading))
        if message.services:
            handle(events.ServicesSeen(time.time(), pilot, message.services))
        if message.load is not None:
            self._loads.take(pilot, message.load)
        if message.notice:
            log.warning("pilot %s: %s", pilot, message.notice)
