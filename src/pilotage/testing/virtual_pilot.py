"""A pilot in virtual time: the real core and scheduler, and runners whose tasks take their time and nothing else.

No process is started and nobody waits: the next thing that happens is the next entry of a heap. So a machine of ten thousand
nodes and a campaign of a hundred thousand tasks pass in seconds, with every decision that a real pilot would make::

    pilot = VirtualPilot(nodes, duration_s=lambda uid: durations[uid])
    pilot.submit(batch)
    report = pilot.run()

Files are staged and environments prepared at once; a service is ready at once and runs until it is ended.

The same tasks on the same nodes give the same history. Ends are told to the core in steps of ``tick_s``, all together, as a
real agent under load takes them in.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from pilotage.core.agent import actions, events
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.scheduling.policy import Policy
from pilotage.errors import InvariantViolated, unreachable
from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import Binding, LaneId, RunnerId, TaskUid
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.resources import Node
from pilotage.model.workload import Batch

_MOMENT_S = 1e-6

_encode = msgspec.msgpack.Encoder().encode


class Report(msgspec.Struct, frozen=True):
    """What came of a run. ``makespan_s``: from the start to the last end, in virtual seconds.

    ``busy_core_s``: cores that were held, times how long. ``utilization``: that, as a share of all cores over the makespan.
    ``steps``: how often the core was called. ``history``: a digest of all facts, if it was asked for.
    """

    outcomes: dict[TaskUid, Outcome]
    makespan_s: float
    busy_core_s: float
    utilization: float
    steps: int
    history: str


class _Lane:
    """Tasks that a runner was handed for one placement; the first of ``waiting`` is next when ``running`` ends."""

    __slots__ = ("cores", "running", "waiting")

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.running: Execution | None = None
        self.waiting: deque[Execution] = deque()


class VirtualPilot:
    """One pilot over ``policy``, a fresh one for ``nodes``; ``duration_s`` tells how long each task takes.

    ``note_history`` makes the report's digest, which costs about as much as the log of a real agent.
    """

    def __init__(
        self,
        policy: Policy,
        nodes: Sequence[Node],
        duration_s: Callable[[TaskUid], float],
        *,
        spawners: int = 8,
        tick_s: float = 1.0,
        note_history: bool = False,
    ) -> None:
        self.policy = policy
        self.core = AgentCore(policy, spawners=spawners)
        self.now = 0.0
        self.outcomes: dict[TaskUid, Outcome] = {}
        self._cores = sum(node.shape.cores for node in nodes)
        self._duration_s = duration_s
        self._tick_s = tick_s
        self._history = hashlib.sha256() if note_history else None
        self._serving: dict[Execution, tuple[RunnerId, LaneId, float]] = {}
        """Services that run, where, and since when."""
        self._due: list[tuple[float, int, RunnerId, LaneId, Execution, float]] = []
        self._serial = 0
        self._lanes: dict[tuple[RunnerId, LaneId], _Lane] = {}
        self._cancelled: dict[Execution, tuple[Ending, str]] = {}
        self._numbers: dict[RunnerId, int] = {}
        self._steps = 0
        self._messages = 0
        self._busy_core_s = 0.0
        self._last_end = 0.0
        self._coming: deque[events.Event] = deque()
        self._take(self.core.start(self.now))
        self._settle()

    def submit(self, batch: Batch) -> None:
        """Let tasks arrive, now."""
        self._messages += 1
        self._handle(events.TasksSubmitted(self.now, self._messages, Binding(1), batch))

    def cancel(self, uids: Sequence[TaskUid]) -> None:
        """Let the user cancel tasks, now."""
        self._messages += 1
        self._handle(events.CancelRequested(self.now, self._messages, [(uid, Binding(1)) for uid in uids]))

    def prepare(self, name: str) -> None:
        """Let the user ask for an environment, now."""
        self._messages += 1
        self._handle(events.EnvironmentAsked(self.now, self._messages, name, msgspec.Raw(_encode({}))))

    def end(self, *, drain: bool) -> None:
        """Let the user end the pilot, now."""
        self._messages += 1
        self._handle(events.EndRequested(self.now, self._messages, drain, "ended by the user"))

    def run(self, until: float = float("inf")) -> Report:
        """Let time pass until nothing is left to happen, or until then."""
        while True:
            soonest = min(
                self._due[0][0] if self._due else float("inf"),
                deadline if (deadline := self.core.next_deadline()) is not None and self.core.state.tasks else float("inf"),
            )
            if soonest == float("inf") or soonest > until:
                break
            self.now = max(self.now, soonest)
            ended: dict[RunnerId, list[AttemptEnd]] = {}
            while self._due and self._due[0][0] <= self.now:
                self._end(*heapq.heappop(self._due)[2:], ended)
            for runner, ends in ended.items():
                self._numbers[runner] += 1
                self._take(self.core.handle(events.TasksEnded(self.now, runner, self._numbers[runner], ends)))
            if not ended:
                self._take(self.core.handle(events.TimePassed(self.now)))
            self._settle()
        if until != float("inf"):
            self.now = max(self.now, until)
        offered = self._cores * self._last_end
        return Report(
            self.outcomes,
            self._last_end,
            self._busy_core_s,
            self._busy_core_s / offered if offered else 0.0,
            self._steps,
            self._history.hexdigest() if self._history is not None else "",
        )

    def _handle(self, event: events.Event) -> None:
        self._take(self.core.handle(event))
        self._settle()

    def _settle(self) -> None:
        """Let what follows at once follow: runners that come up, outcomes that are delivered."""
        while self._coming or self.core.has_news:
            event = self._coming.popleft() if self._coming else events.LinkOpened(self.now)
            self._take(self.core.handle(event))

    def _take(self, step: Step) -> None:
        self._steps += 1
        if self._history is not None and step.facts:
            self._history.update(_encode(step.facts))
        for action in step.actions:
            self._perform(action)
        self.core.performed()

    def _perform(self, action: actions.Action) -> None:
        match action:
            case actions.LaunchTasks():
                for lane in action.lanes:
                    self._launch(action.runner, lane)
            case actions.SendOutcomes():
                self.outcomes.update((outcome.task, outcome) for outcome in action.outcomes)
                self._coming.append(events.OutcomesReceived(self.now, action.number))
            case actions.StartRunner():
                self._numbers.setdefault(action.runner, 0)
                self._coming.append(events.RunnerConnected(self.now, action.runner, len(self._numbers), 1, "virtual"))
                self._coming.append(events.RunnerReconciled(self.now, action.runner, []))
            case actions.EndExecutions():
                back = self._give_back(action.runner, action.executions)
                for execution in dict.fromkeys(action.executions):
                    if execution in back:
                        continue
                    self._cancelled[execution] = (action.ending, action.message)
                    if execution in self._serving:
                        runner, lane_id, began = self._serving.pop(execution)
                        self._serial += 1
                        self._due.append((self.now, self._serial, runner, lane_id, execution, began))
                self._due = [(self.now, *item[1:]) if item[4] in self._cancelled else item for item in self._due]
                heapq.heapify(self._due)
            case actions.RecallTasks():
                self._give_back(action.runner, action.executions)
            case actions.StageTasks():
                done = [(row.uid, attempt) for attempt, row in action.tasks]
                self._coming.append(events.StagingEnded(self.now, action.phase, done))
            case actions.PrepareEnvironment():
                self._coming.append(events.EnvironmentPrepared(self.now, action.name))
            case actions.WatchService():
                if not action.ready:
                    self._coming.append(events.ServiceReady(self.now, action.row.uid, action.attempt, "virtual"))
            case (
                actions.StopRunner()
                | actions.ReleaseRunner()
                | actions.TellProgress()
                | actions.SendPilotEnded()
                | actions.SendNodes()
                | actions.EndStaging()
                | actions.UnwatchService()
                | actions.TellService()
            ):
                pass
            case _:
                unreachable(action)

    def _launch(self, runner: RunnerId, tasks: LaneTasks) -> None:
        key = (runner, tasks.lane)
        if tasks.placement is not None:
            cores = sum(int.from_bytes(share.cores, "little").bit_count() for share in tasks.placement)
            self._lanes[key] = _Lane(cores)
        lane = self._lanes[key]
        lane.waiting.extend((row.uid, attempt) for attempt, row in tasks.tasks)
        if lane.running is None:
            self._begin(key, lane, self.now)

    def _begin(self, key: tuple[RunnerId, LaneId], lane: _Lane, at: float) -> None:
        execution = lane.running = lane.waiting.popleft()
        if self._is_service(execution[0]):
            self._serving[execution] = (*key, at)
            # At the beginning of time it would seem not to have begun.
            self._coming.append(events.TasksStarted(at, key[0], [(*execution, max(at, _MOMENT_S))]))
            return
        seconds = self._duration_s(execution[0])
        # Ends that fall into one tick are told together, so that a long campaign of short tasks is no long campaign of calls.
        told_at = -(-(at + seconds) // self._tick_s) * self._tick_s
        self._serial += 1
        heapq.heappush(self._due, (told_at, self._serial, *key, execution, at))

    def _end(
        self, runner: RunnerId, lane_id: LaneId, execution: Execution, began: float, ended: dict[RunnerId, list[AttemptEnd]]
    ) -> None:
        key = (runner, lane_id)
        lane = self._lanes[key]
        if lane.running != execution:
            raise InvariantViolated(f"{execution} ends in lane {lane_id}, where {lane.running} runs")
        at = self.now if self._is_service(execution[0]) else min(self.now, began + self._duration_s(execution[0]))
        ending, message = self._cancelled.pop(execution, (Ending.DONE, ""))
        self._busy_core_s += lane.cores * (at - began)
        self._last_end = max(self._last_end, at)
        ended.setdefault(runner, []).append(AttemptEnd(*execution, ending, 0, message=message, started=began, ended=at))
        lane.running = None
        if lane.waiting:
            self._begin(key, lane, at)

    def _is_service(self, uid: TaskUid) -> bool:
        state = self.core.state
        return state.templates[state.tasks[uid].row.template].service is not None

    def _give_back(self, runner: RunnerId, executions: Sequence[Execution]) -> list[Execution]:
        wanted = set(executions)
        back: list[Execution] = []
        for (name, _), lane in self._lanes.items():
            if name == runner and not wanted.isdisjoint(lane.waiting):
                back += [execution for execution in lane.waiting if execution in wanted]
                lane.waiting = deque(execution for execution in lane.waiting if execution not in wanted)
        if back:
            self._coming.append(events.TasksReturned(self.now, runner, back))
        return back
