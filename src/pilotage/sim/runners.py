"""The runners of a simulated pilot or partition, and what passes between them and its agent.

They outlive their agent. What ends while it is away is told to the next one, under the number that it had; a runner keeps an
end until the agent has it in its log. They have a clock of their own; the agent takes their starts over as a real one does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from pilotage.core.agent import events
from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.ids import LaneId, RunnerId
from pilotage.sim.clock import ProcessClock, Timeline
from pilotage.sim.jobs import Job
from pilotage.wire.runner_messages import TasksStarted, by_own_clock

Tell = Callable[[events.Event | list[events.Event]], None]
Now = Callable[[], float]


class Runner:
    """A spawner or function worker: its lanes, and the ends that its agent may not have in its log yet."""

    __slots__ = ("kept", "lanes", "number", "pid")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.number = 0
        self.kept: deque[tuple[int, list[AttemptEnd]]] = deque()
        self.lanes: dict[LaneId, Job] = {}


class Runners:
    """All of them. ``tell`` is their agent's ear, None while there is no agent; ``now`` is what the agent's clock shows."""

    def __init__(self, timeline: Timeline, clock: ProcessClock) -> None:
        self.tell: Tell | None = None
        self.now: Now = clock.now
        self.clock = clock
        self.known: dict[RunnerId, Runner] = {}
        self._timeline = timeline
        self._coming_up: list[RunnerId] = []
        """Those that are about to say hello."""
        self._pids = 0

    def attach(self, tell: Tell, now: Now) -> None:
        """There is an agent; call ``adopt`` once it has begun."""
        self.tell, self.now = tell, now

    def adopt(self, names: Iterable[RunnerId]) -> None:
        """Tell the agent of the runners of which its log says that they were started."""
        for name in names:
            if name in self.known:
                self._coming_up.append(name)
            else:
                self.say(events.RunnerLost(self.now(), name, "its agent ended before it was started"))
        self._say_hello()

    def detach(self) -> None:
        """The agent is gone."""
        self.tell = None
        self._coming_up.clear()

    def say(self, event: events.Event | list[events.Event]) -> None:
        """Tell the agent, if there is one."""
        if self.tell is not None:
            self.tell(event)

    def start(self, name: RunnerId) -> None:
        """Start a runner, which is there at once."""
        if name in self.known:
            return
        self._pids += 1
        self.known[name] = Runner(self._pids)
        if not self._coming_up:
            # Not in the agent's turn: what it hands over in the rest of that is held when the runner says what it holds.
            self._timeline.at(self._timeline.now, self._say_hello)
        self._coming_up.append(name)

    def stop(self, name: RunnerId) -> None:
        """Let a runner go that has nothing to do."""
        self.known.pop(name, None)

    def release(self, name: RunnerId, through: int) -> None:
        """The agent has these ends in its log."""
        runner = self.known.get(name)
        while runner is not None and runner.kept and runner.kept[0][0] <= through:
            runner.kept.popleft()

    def tell_started(self, jobs: Iterable[Job]) -> None:
        """The programs of these began."""
        by_runner: dict[RunnerId, list[Job]] = {}
        for job in jobs:
            by_runner.setdefault(job.runner, []).append(job)
        for name, some in by_runner.items():
            self.say(self._started(name, some))

    def _started(self, name: RunnerId, jobs: Iterable[Job]) -> events.TasksStarted:
        clock, now = self.clock, self.now()
        told = TasksStarted([(*job.execution, 1, job.begun + clock.skew_s) for job in jobs], clock.now())
        return events.TasksStarted(now, name, by_own_clock(told, now))

    def tell_ended(self, ends: Mapping[RunnerId, list[AttemptEnd]]) -> None:
        """These are over; each runner tells of its own."""
        told: list[events.Event] = []
        known, now = self.known, self.now()
        for name, some in ends.items():
            runner = known[name]
            number = runner.number = runner.number + 1
            runner.kept.append((number, some))
            told.append(events.TasksEnded(now, name, number, some))
        self.say(told)

    def _say_hello(self) -> None:
        """Runners are connected to the agent, tell of what ended meanwhile, and say what they hold."""
        now, said = self.now(), list[events.Event]()
        coming_up, self._coming_up = self._coming_up, []
        for name in coming_up:
            runner = self.known.get(name)
            if runner is None:
                continue  # it was stopped before it came up
            said.append(events.RunnerConnected(now, name, runner.pid, 1, "virtual"))
            if running := [job for job in runner.lanes.values() if job.kind.starts_are_told and self._runs(job)]:
                said.append(self._started(name, running))
            said += [events.TasksEnded(now, name, number, ends) for number, ends in runner.kept]
            # What is over and not told yet is held, too: its end is still to come.
            holds = [each for job in runner.lanes.values() for each in self._executions(job)]
            said.append(events.RunnerReconciled(now, name, holds))
        if said:
            self.say(said)

    def _runs(self, job: Job) -> bool:
        return job.begun <= self._timeline.now < job.ended

    def _executions(self, job: Job) -> list[Execution]:
        return [job.execution, *(execution for execution, _ in job.behind or ())]
