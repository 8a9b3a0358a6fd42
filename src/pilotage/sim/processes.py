"""A process around a core: events in, facts to its log, then actions; and its death between any two of these.

A process dies in its next turn, at a point that is drawn: before its facts are in the log, after that, or between two actions.
The next one begins with what the log holds, by ``apply`` alone. Time is an event when the core's ``next_deadline`` has come.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pilotage.model.ids import PilotUid
from pilotage.model.outcome import Outcome
from pilotage.model.resources import Node
from pilotage.model.workload import Batch
from pilotage.sim.records import Log
from pilotage.sim.stage import Stage
from pilotage.wire.messages import FromAgent, FromClient, FromPartition, Outcomes, PilotEnded

DIES_WITHIN_S = 1.0
"""A process that is to die does so in its next turn, if one comes within this time."""


class Steps(Protocol):
    """What a core says of an event."""

    facts: list[Any]
    actions: list[Any]


class Core(Protocol):
    """What is common to the cores of agents and metaschedulers."""

    @property
    def has_news(self) -> bool:
        """Whether there is something to make a message of."""

    @property
    def finished(self) -> bool:
        """Whether it was to end and holds no more tasks."""

    def handle(self, event: Any) -> Any:
        """Decide."""

    def performed(self) -> None:
        """All actions so far have been performed."""

    def next_deadline(self) -> float | None:
        """Return when time alone is an event."""


class Numbers(Protocol):
    """How far a log says that its owner has come with its messages, down and up."""

    received: int
    numbered: int
    delivered: int


class Uplink(Protocol):
    """The way of an agent or metascheduler to who has bound the tasks to it."""

    @property
    def has_room(self) -> bool:
        """Whether another message may be sent now."""

    def listen(self, process: Process, numbers: Numbers) -> None:
        """The process is there; its log says how far it has come."""

    def hang_up(self) -> None:
        """The process is gone."""

    def send(self, number: int, message: Outcomes | PilotEnded | FromPartition, outcomes: list[Outcome] | None) -> None:
        """Send a numbered message for the first time."""

    def tell(self, message: FromAgent) -> None:
        """Send a plain message."""


class _Died(Exception):
    """The process is gone, in the middle of what it did."""


class Process(ABC):
    """An agent or a metascheduler, in all its lives."""

    def __init__(self, stage: Stage, uid: PilotUid, nodes: Sequence[Node], uplink: Uplink, log: Log[Any, Any]) -> None:
        self.uid = uid
        self.nodes = list(nodes)
        self.deaths = 0
        self.gone = False
        """Whether it is lost for good, with all that it had."""
        self._stage = stage
        self._timeline = stage.timeline
        self._chance = stage.chance(f"process {uid}")
        self._clock = stage.clock(self._chance)
        self._uplink = uplink
        self._log = log
        self._coming: deque[Any] = deque()
        self._busy = False
        self._alarm = float("inf")
        self._doomed = -1
        """How far it gets in its next turn before it dies; negative: it lives."""
        self._lives = 0

    # ------------------------------------------------------------------------------------------------------ what it is made of

    @property
    @abstractmethod
    def running_core(self) -> Core | None:
        """The core; None while there is no process."""

    @abstractmethod
    def begin_life(self) -> None:
        """Make a core from what the log holds, and listen."""

    @abstractmethod
    def end_life(self) -> None:
        """The core is gone."""

    @abstractmethod
    def perform(self, action: Any) -> None:
        """Do what the core wants."""

    def perform_all(self, several: Sequence[Any]) -> None:
        """Do several things that the core wants, in this order; it does not die between them."""
        for action in several:
            self.perform(action)

    @abstractmethod
    def time_passed(self) -> Any:
        """Return the event that says so."""

    @abstractmethod
    def link_opened(self) -> Any:
        """Return the event that says so."""

    @abstractmethod
    def heard_from_above(self, message: FromClient, batch: Batch | None = None) -> None:
        """Who is above sent this; numbered messages are new. ``batch``: the tasks in it, if they are at hand decoded."""

    @abstractmethod
    def hello_heard(self, durable: int) -> None:
        """Who is above is there, and has all messages up to this one."""

    @abstractmethod
    def frame(self, number: int) -> FromAgent:
        """Make a message again that was numbered before."""

    # ------------------------------------------------------------------------------------------------------- life and death

    def start(self) -> None:
        """Begin, now."""
        self._lives += 1
        self._clock = self._stage.clock(self._chance)
        self._coming.clear()
        self.begin_life()

    def now(self) -> float:
        """Return the time that its clock shows."""
        return self._clock.now()

    def kill(self) -> None:
        """Let it die, at some point of its next turn; another is started."""
        if self.running_core is None or self._doomed >= 0:
            return
        self._doomed, life = self._chance.choice((0, 1, 2, 3, 5)), self._lives

        def give_up() -> None:
            if self._doomed >= 0 and life == self._lives:
                self._die()

        self._timeline.at(self._timeline.now + DIES_WITHIN_S, give_up)

    def _die(self) -> None:
        self.deaths += 1
        self.fall()
        self._timeline.at(self._timeline.now + self._stage.faults.restart_s, self._start_next)

    def _start_next(self) -> None:
        if not self.gone:
            self.start()

    def fall(self) -> None:
        """It is gone, and hears and says nothing."""
        self._doomed = -1
        self._coming.clear()
        self._alarm = float("inf")
        self.end_life()
        self._uplink.hang_up()

    # ------------------------------------------------------------------------------------------------------------ the turns

    def tell(self, event: Any) -> None:
        """Something has happened, or (a list) several things at the same time. Without a process nobody hears of it."""
        if self.running_core is not None:
            self._coming.append(event)
            self.take_turn()

    def take_turn(self, first: Callable[[float], Steps] | None = None) -> None:
        """Decide what has come, and do what that calls for, until nothing is left."""
        if self._busy:
            return
        self._busy = True
        effort = self._stage.effort
        try:
            while (core := self.running_core) is not None:
                if first is None and not self._coming and not (core.has_news and self._uplink.has_room):
                    break
                began = effort.begin()
                if first is not None:
                    step, first = first(self.now()), None
                else:
                    step = self.decide(core, self._coming.popleft() if self._coming else self.link_opened())
                effort.end(began)
                self._commit(core, step)
        except _Died:
            self._die()
        finally:
            self._busy = False
        self._set_alarm()

    def decide(self, core: Any, event: Any) -> Steps:
        """Ask the core."""
        return core.handle(event)  # type: ignore[no-any-return]

    def _commit(self, core: Any, step: Steps) -> None:
        self._come_closer_to_death()
        if step.facts:
            self._stage.digest.note(step.facts)
            self._log.append(step.facts, core.state)
        self._come_closer_to_death()
        if self._doomed < 0:
            self.perform_all(step.actions)
        else:
            for action in step.actions:
                self.perform(action)
                self._come_closer_to_death()
        core.performed()

    def _come_closer_to_death(self) -> None:
        if self._doomed >= 0:
            self._doomed -= 1
            if self._doomed < 0:
                raise _Died

    def places_yet(self) -> bool:
        """Tell whether time counts yet."""
        return True

    def _set_alarm(self) -> None:
        core = self.running_core
        due = core.next_deadline() if core is not None and self.places_yet() else None
        if due is None:
            return
        at = max(self._timeline.now, self._clock.true(due))
        if at < self._alarm:
            self._alarm = at
            life = self._lives
            self._timeline.at(at, lambda: self._ring(at, life))

    def _ring(self, at: float, life: int) -> None:
        # An alarm of an earlier life may be due at the very time of one of this life.
        if at == self._alarm and life == self._lives:
            self._alarm = float("inf")
            self.tell(self.time_passed())
