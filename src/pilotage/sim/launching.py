"""How tasks come to run in one pilot or partition: the runners of its agent, as a ``Launcher`` model has them behave.

The way of a task, once the agent has placed it and handed it over::

    scheduled by the system -> waits for its turn -> starts, one after another -> prepares -> runs -> is acknowledged -> told

A stage of which the model says nothing takes no time and costs no event (see ``delays`` for what it says). Ends are told to the
agent in *ticks*, many at once, as a real agent under load takes them in: a tick is a small part of the mean duration of a task,
and where few tasks run there is none.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping

from pilotage.core.agent import events
from pilotage.errors import InvariantViolated
from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.workload import Template
from pilotage.sim.clock import ProcessClock
from pilotage.sim.delays import Delays
from pilotage.sim.jobs import (
    ACKNOWLEDGING,
    NEVER,
    OVER,
    PREPARING,
    RUNNING,
    SCHEDULING,
    STARTING,
    TELLING,
    WAITING,
    Job,
    Kind,
    held,
)
from pilotage.sim.ledger import Ledger
from pilotage.sim.runners import Runners
from pilotage.sim.stage import Stage
from pilotage.sim.turns import Turns

EXACT_TASKS = 32_768
"""In a simulation of up to so many tasks each end is told by itself: ticks of a sixty-fourth are seen in utilisations."""
FEW_TASKS = 256
"""Up to so many tasks in hand, it is in larger ones, too."""

LONGEST_TICK = 1.0 / 64
SHORTEST_TICK = 1.0 / 512
"""Of the mean duration of a task."""
ENDS_PER_TICK = 256
"""So many tasks end in one tick, where that is possible."""


class Launching:
    """What the runners of a pilot or partition do with what they are handed."""

    def __init__(
        self,
        name: str,
        stage: Stage,
        clock: ProcessClock,
        delays: Delays,
    ) -> None:
        self.name = name
        self.runners = Runners(stage.timeline, clock)
        self.starts = 0
        self.ledger = Ledger(stage.curves)
        self._stage = stage
        self._timeline = stage.timeline
        self._witness = stage.witness
        self._curves = stage.curves
        self._duration_s = stage.duration_s
        self._clock = clock
        self._delays = delays
        self._ideal = delays.ideal
        self._kinds: dict[TemplateId, Kind] = {}
        self._jobs: dict[TaskUid, Job] = {}
        self._buckets: dict[float, list[Job]] = {}
        self._turns = Turns(delays.most_at_once, delays.most_per_node)
        self._preparing = 0
        self._running = 0
        self._tick_s = 0.0
        self._known_s = 0.0
        self._known = 0

    # ------------------------------------------------------------------------------------------------------------- beginning

    def launch(self, handed: Iterable[tuple[RunnerId, Iterable[LaneTasks]]], templates: Mapping[TemplateId, Template]) -> None:
        """Take over tasks from the agent, which hands them to these runners."""
        known, kinds, jobs, now = self.runners.known, self._kinds, self._jobs, self._timeline.now
        first: list[Job] = []
        for name, lanes in handed:
            in_lanes = known[name].lanes
            for lane in lanes:
                lane_id, placement = lane.lane, lane.placement
                job = in_lanes.get(lane_id)
                for attempt, row in lane.tasks:
                    uid, kind = row.uid, kinds.get(row.template)
                    if kind is None:
                        kind = kinds[row.template] = Kind.of(templates[row.template])
                    if job is not None:
                        if job.behind is None:
                            job.behind = deque()
                        job.behind.append(((uid, attempt), kind))
                        continue
                    if placement is None:
                        raise InvariantViolated(f"{uid} comes to lane {lane_id} of {name}, of which nobody said where it is")
                    if kind.exclusive:
                        cores, gpus = held(kind, placement)
                    else:
                        cores, gpus = kind.cores, kind.gpus
                    job = Job(name, lane_id, uid, attempt, kind, placement, cores, gpus, now)
                    in_lanes[lane_id] = jobs[uid] = job
                    first.append(job)
        if first:
            self._curves.held_tasks.change(now, len(first))
            self._set_tick(first)
            if self._ideal:
                self._begin(first, now)
            else:
                for job in first:
                    self._schedule(job)

    def _set_tick(self, first: list[Job]) -> None:
        known_s, known = self._known_s, self._known
        if self._ideal and not known:
            # When these end is settled as they begin, and nobody ran before to tell how long tasks last.
            durations = [self._duration_s(job.uid) for job in first if not job.kind.is_service]
            known_s, known = sum(durations), len(durations)
        mean = known_s / known if known else 0.0
        self._tick_s = 0.0
        if self._witness.submitted > EXACT_TASKS and len(self._jobs) > FEW_TASKS and mean > 0.0:
            share = max(SHORTEST_TICK, min(LONGEST_TICK, ENDS_PER_TICK / len(self._jobs)))
            # Ticks that divide each other keep what has begun together together.
            self._tick_s = 2.0 ** round(math.log2(mean * share))

    def _begin(self, jobs: list[Job], at: float) -> None:
        """These run from then on. Where the model costs nothing, when they are told is known, too."""
        witness, buckets, duration_s, tick_s = self._witness, self._buckets, self._duration_s, self._tick_s
        cores, gpus, known_s = 0, 0.0, 0.0
        told: list[Job] = []
        for arrived, count in witness.begin(jobs, self.name).items():
            self._curves.waits.note(at - arrived, count)
        for job in jobs:
            job.begun = at
            job.stage = RUNNING
            cores += job.cores
            gpus += job.gpus
            if job.kind.starts_are_told:
                told.append(job)
                if job.kind.is_service:
                    job.due = NEVER
                    continue
            seconds = duration_s(job.uid)
            known_s += seconds
            job.ended = due = at + seconds
            if self._ideal:
                job.stage = TELLING
                if tick_s:
                    due = math.ceil(due / tick_s) * tick_s
            job.due = due
            bucket = buckets.get(due)
            if bucket is None:
                self._new_bucket(due, job)
            else:
                bucket.append(job)
        self.starts += len(jobs)
        self._running += len(jobs)
        self._known += len(jobs)
        self._known_s += known_s
        self._curves.begin(at, len(jobs), cores, gpus)
        if told:
            self.runners.tell_started(told)

    # ------------------------------------------------------------------------------------------------------ stages and delays

    def _line_up(self, job: Job, stage: int, due: float) -> None:
        job.stage, job.due = stage, due
        bucket = self._buckets.get(due)
        if bucket is None:
            self._new_bucket(due, job)
        else:
            bucket.append(job)

    def _new_bucket(self, due: float, job: Job) -> None:
        self._buckets[due] = [job]
        self._timeline.at(due, lambda: self._come_due(due))

    def _come_due(self, due: float) -> None:
        over: list[Job] = []
        for job in self._buckets.pop(due):
            if job.due != due or job.stage == OVER:
                continue
            if job.stage == TELLING:
                job.stage = OVER
                over.append(job)
            else:
                self._advance(job)
        if over:
            self._tell(over)

    def _schedule(self, job: Job) -> None:
        job.scheduled = at = self._delays.scheduled(self._timeline.now)
        if at > self._timeline.now:
            self._line_up(job, SCHEDULING, at)
        else:
            self._await_turn(job)

    def _await_turn(self, job: Job) -> None:
        job.due = NEVER
        self._turns.wait(job)
        self._take_turns()

    def _take_turns(self) -> None:
        while (job := self._turns.take()) is not None:
            at = self._delays.started(job.kind.name, self._timeline.now)
            if at > self._timeline.now:
                self._line_up(job, STARTING, at)
            else:
                self._prepare(job)

    def _give_up_turn(self, job: Job) -> None:
        self._turns.give_up(job)
        self._take_turns()

    def _advance(self, job: Job) -> None:
        if job.stage == SCHEDULING:
            self._await_turn(job)
        elif job.stage == STARTING:
            self._prepare(job)
        elif job.stage == PREPARING:
            self._preparing -= 1
            self._run(job)
        elif job.stage == RUNNING:
            self._finish(job)
        else:
            self._acknowledged(job)

    def _prepare(self, job: Job) -> None:
        now = job.launched = self._timeline.now
        delay = self._delays.preparation_s(job.kind.name, self._running, self._preparing)
        if delay > 0.0:
            self._preparing += 1
            self._line_up(job, PREPARING, now + delay)
        else:
            self._run(job)

    def _run(self, job: Job) -> None:
        if self._delays.start_fails():
            job.ended = self._timeline.now
            job.ending, job.message = Ending.LAUNCH_FAILED, "the launcher could not start it"
            self._acknowledged(job)
        else:
            self._begin([job], self._timeline.now)

    def _finish(self, job: Job) -> None:
        now = job.ended = self._timeline.now
        self._stop_running(job)
        delay = self._delays.acknowledgement_s(job.kind.name, self._running)
        if delay > 0.0:
            self._line_up(job, ACKNOWLEDGING, now + delay)
        else:
            self._acknowledged(job)

    def _stop_running(self, job: Job) -> None:
        self._running -= 1
        self._witness.end([job])
        self._curves.end(job.ended, 1, job.cores, job.gpus)

    def _acknowledged(self, job: Job) -> None:
        now, tick_s = self._timeline.now, self._tick_s
        self._line_up(job, TELLING, math.ceil(now / tick_s) * tick_s if tick_s else now)
        self._give_up_turn(job)

    # ---------------------------------------------------------------------------------------------------------------- ending

    def _tell(self, jobs: list[Job]) -> None:
        """These are over, and their agent hears of it."""
        now, skew, known = self._timeline.now, self._clock.skew_s, self._jobs
        ends: dict[RunnerId, list[AttemptEnd]] = {}
        following: list[Job] = []
        runner: RunnerId | None = None
        for job in jobs:
            uid, begun = job.uid, job.begun
            del known[uid]
            began = 0.0 if begun == NEVER else begun + skew
            end = AttemptEnd(uid, job.attempt, job.ending, 0, None, job.message, "", began, job.ended + skew)
            if job.runner != runner:
                runner = job.runner
                some = ends.setdefault(runner, [])
                in_lanes = self.runners.known[runner].lanes
            some.append(end)
            if job.behind:
                following.append(job)
            else:
                del in_lanes[job.lane]
        if self._ideal:
            self._running -= len(jobs)
            self._witness.end(jobs)
            self.ledger.account_together(jobs, now)
        else:
            for job in jobs:
                self.ledger.account(job, now)
        self._stage.last_release_s = now
        self._curves.held_tasks.change(now, -len(jobs))
        for job in following:
            self._follow(job)
        self.runners.tell_ended(ends)

    def _follow(self, before: Job) -> None:
        """The next task of a lane takes its turn."""
        assert before.behind is not None
        (uid, attempt), kind = before.behind.popleft()
        at = before.ended if self._ideal else self._timeline.now
        job = Job(before.runner, before.lane, uid, attempt, kind, before.placement, before.cores, before.gpus, at)
        job.behind = before.behind or None
        self.runners.known[before.runner].lanes[before.lane] = self._jobs[uid] = job
        self._curves.held_tasks.change(self._timeline.now, 1)
        if self._ideal:
            self._begin([job], at)
        else:
            self._schedule(job)

    def end(self, name: RunnerId, executions: Iterable[Execution], ending: Ending, message: str) -> None:
        """End these now; what has not begun is given back."""
        back = self._take_back(name, executions)
        for uid, attempt in dict.fromkeys(executions):
            job = self._jobs.get(uid)
            if job is None or job.attempt != attempt or job.runner != name:
                continue
            if job.stage in (SCHEDULING, WAITING):
                back.append(job.execution)
                self._withdraw(job)
            else:
                self._cut_short(job, ending, message)
        if back:
            self.runners.say(events.TasksReturned(self.runners.now(), name, back))

    def recall(self, name: RunnerId, executions: Iterable[Execution]) -> None:
        """Give back what of these waits in its lane."""
        back = self._take_back(name, executions)
        if back:
            self.runners.say(events.TasksReturned(self.runners.now(), name, back))

    def _take_back(self, name: RunnerId, executions: Iterable[Execution]) -> list[Execution]:
        """Take what of these waits behind another out of its lane."""
        runner, wanted, back = self.runners.known.get(name), set(executions), []
        for job in runner.lanes.values() if runner is not None else ():
            if job.behind and any(execution in wanted for execution, _ in job.behind):
                back += [execution for execution, _ in job.behind if execution in wanted]
                job.behind = deque(item for item in job.behind if item[0] not in wanted)
        return back

    def _withdraw(self, job: Job) -> None:
        """It waits with the launcher no more."""
        job.stage = OVER
        del self._jobs[job.uid]
        self._curves.held_tasks.change(self._timeline.now, -1)
        self.ledger.account(job, self._timeline.now)
        if job.behind:
            self._follow(job)
        else:
            del self.runners.known[job.runner].lanes[job.lane]

    def _cut_short(self, job: Job, ending: Ending, message: str) -> None:
        """End what the launcher has begun with; what is over already stays as it ended."""
        now = self._timeline.now
        if job.stage == ACKNOWLEDGING or (job.stage == TELLING and job.ended <= now):
            return
        if job.stage == PREPARING:
            self._preparing -= 1
        job.ended, job.ending, job.message = now, ending, message
        if job.stage == RUNNING and not self._ideal:
            self._stop_running(job)
        self._line_up(job, TELLING, now)
        self._give_up_turn(job)

    def lose_node(self, index: int) -> None:
        """The node is gone, with all that ran there."""
        for job in [job for job in self._jobs.values() if any(share.node == index for share in job.placement)]:
            job.gone = min(job.gone, self._timeline.now)
            if job.behind:
                back = [execution for execution, _ in job.behind]
                job.behind = None
                self.runners.say(events.TasksReturned(self.runners.now(), job.runner, back))
            self._cut_short(job, Ending.NODE_FAILED, "its node was lost")

    def lose_everything(self) -> None:
        """All nodes are gone, and nobody is told of any end any more."""
        self.runners.detach()
        self._stage.last_release_s = self._timeline.now
        for job in self._jobs.values():
            if self._ideal or job.stage == RUNNING:
                job.ended = min(job.ended, self._timeline.now)
                self._stop_running(job)
            job.ending = Ending.NODE_FAILED
            self.ledger.account(job, self._timeline.now)
            job.stage = OVER
        self._curves.held_tasks.change(self._timeline.now, -len(self._jobs))
        self._jobs.clear()
        self._turns.forget()
