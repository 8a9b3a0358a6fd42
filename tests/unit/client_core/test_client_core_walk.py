"""A random walk: users, pilots and crashes in any order; at the end every task has one outcome, and none ran twice unasked.

Some pilots are jobs of a batch system (``client_job_world``): of these each has one at most, and none is left in the queue.

The pilots here keep their own books of what they ran. They are the witness: nothing that the core says about itself counts.
"""

from __future__ import annotations

import os
import random

import msgspec
import pytest
from client_builders import MANAGER, PLAIN, RESTARTABLE, RETRIED, WIDE, Session
from client_job_world import JobWorld

from pilotage.core.client import events, facts, holding
from pilotage.core.client.core import Decision
from pilotage.core.client.holding import Holding
from pilotage.core.client.pilots import Pilots
from pilotage.core.client.state import ClientState, PilotRecord, Queued, QueuedCancel, QueuedTasks
from pilotage.core.client.tasks import Tasks
from pilotage.model.ids import Attempt, Binding, PilotUid, TaskUid
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.states import CANCELED, FINAL
from pilotage.model.workload import Batch
from planted_faults import Patch, require_noticed

STEPS = 300


class WitnessPilot:
    """An agent: durable, at most one execution of each binding, outcomes kept until they are acknowledged."""

    def __init__(self, uid: str) -> None:
        self.uid = PilotUid(uid)
        self.received = 0
        self.held: dict[TaskUid, Binding] = {}
        self.ran: list[tuple[TaskUid, Binding]] = []
        self.sent: dict[int, list[Outcome]] = {}
        self.last_sent = 0
        self.ending = False
        self.goodbye = 0
        self.dead = False
        self.variables: dict[TaskUid, dict[str, str]] = {}
        self.inbox: dict[int, Queued] = {}
        """What was handed over, which it takes when it is up."""

    def look_into_inbox(self) -> None:
        while (message := self.inbox.get(self.received + 1)) is not None and not self.dead and not self.goodbye:
            self.take(self.received + 1, message)

    def take(self, number: int, message: Queued) -> None:
        if self.dead or self.goodbye or number != self.received + 1:
            return
        self.received = number
        if isinstance(message, QueuedTasks):
            for row in msgspec.msgpack.decode(message.batch, type=Batch).rows:
                self.held[row.uid] = message.binding
                self.variables[row.uid] = row.extra.variables if row.extra is not None else {}
        elif isinstance(message, QueuedCancel):
            self.finish([uid for uid, binding in message.tasks if self.held.get(uid) == binding], Ending.CANCELLED, run=False)
        else:
            self.ending = True

    def cut_off(self) -> None:
        """What it was running is cut off; nobody can tell whether it had run."""
        self.ran += [(uid, binding) for uid, binding in self.held.items()]
        self.held.clear()
        self.dead = True

    def finish(self, uids: list[TaskUid], ending: Ending, run: bool = True) -> None:
        outcomes = []
        for uid in uids:
            binding = self.held.pop(uid)
            if run:
                self.ran.append((uid, binding))
            outcomes.append(Outcome(uid, binding, Attempt(1), ending))
        if outcomes:
            self.last_sent += 1
            self.sent[self.last_sent] = outcomes


class Walk:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        schedulers: list[facts.TaskScheduler] = ["", "round_robin", "backfilling"]
        self.session = Session(scheduler=self.random.choice(schedulers))
        self.pilots: dict[str, WitnessPilot] = {}
        self.queue = JobWorld(self.session, self.random, self.pilots)  # type: ignore[arg-type]
        self.submitted = 0
        self.repeatable: set[str] = set()
        self.first_endings: dict[str, Ending] = {}
        self.pinned: set[str] = set()
        self.conditions: dict[str, facts.Held] = {}
        self.ever_ready: set[str] = set()

    def run(self) -> None:
        steps = [
            (6, self.submit), (2, self.cancel), (1, self.add_pilot), (5, self.connect), (8, self.number), (8, self.deliver),
            (8, self.execute), (8, self.send_outcomes), (1, self.kill_pilot), (1, self.end_pilot), (1, self.crash),
            (3, self.tell_services), (3, self.queue.submit), (3, self.queue.start), (2, self.queue.tell), (2, self.queue.end),
            (2, self.hand_over), (3, self.take_what_was_handed_over),
        ]  # fmt: skip
        weights, moves = [weight for weight, _ in steps], [move for _, move in steps]
        for _ in range(STEPS):
            self.random.choices(moves, weights)[0]()
            self.look()
        self.settle()

    # what may happen

    def submit(self) -> None:
        uids = [f"task.{self.submitted + number:04d}" for number in range(self.random.randint(1, 6))]
        self.submitted += len(uids)
        template = self.random.choice([PLAIN, PLAIN, WIDE, RESTARTABLE, RETRIED])
        if template not in (PLAIN, WIDE):
            self.repeatable.update(uids)
        pinned = ""
        if self.pilots and self.random.random() < 0.1:
            pinned = self.random.choice(list(self.pilots))
        held = {}
        known = list(self.session.state.tasks)
        if known and self.random.random() < 0.4:
            for uid in uids:
                if self.random.random() < 0.7:
                    held[uid] = self.condition(uid, [*known, *uids])
        self.session.submit(*uids, template=template, pinned=pinned, held=held)
        if pinned:
            self.pinned.update(uids)

    def condition(self, uid: str, known: list[str]) -> facts.Held:
        """Some tasks, all of which were described before this one."""
        earlier = known[: known.index(uid)]
        after = self.random.sample(earlier, min(len(earlier), self.random.randint(0, 3)))
        services = self.random.sample(earlier, min(len(earlier), self.random.choice([0, 0, 1])))
        policy: facts.AfterPolicy = self.random.choice(["ok", "ok", "any", "notok"])
        held = facts.Held(tuple(map(TaskUid, after)), policy, tuple(map(TaskUid, services)))
        self.conditions[uid] = held
        return held

    def cancel(self) -> None:
        if self.session.state.tasks:
            self.session.cancel(*self.random.sample(list(self.session.state.tasks), k=1))

    def add_pilot(self) -> None:
        uid = f"pilot.{len(self.pilots):04d}"
        self.pilots[uid] = WitnessPilot(uid)
        self.session.add(uid, cores=self.random.choice([1, 2, 3, 8]))
        if self.random.random() < 0.5:
            self.queue.begin(uid)

    def connect(self) -> None:
        for pilot in self.some_pilot():
            if not self.queue.is_up(pilot.uid):
                continue
            self.session.greet(pilot.uid, durable=pilot.received, incarnation=self.random.randint(1, 2))

    def number(self) -> None:
        for pilot in self.some_pilot():
            record = self.session.state.pilots[pilot.uid]
            # No link opens before the agent has answered.
            if record.incarnation:
                self.session.do(events.LinkOpened(pilot.uid, record.numbered + 1))

    def hand_over(self) -> None:
        """The program leaves a pilot what it was not sent, begun or not; it may die while it does so. Then another comes."""
        for pilot in self.some_pilot():
            record = self.session.state.pilots[pilot.uid]
            if record.state in FINAL:
                continue
            self.session.number_all(pilot.uid)
            messages = sorted(record.unacknowledged.items())
            for number, message in messages[: self.random.choice([len(messages), self.random.randint(0, len(messages))])]:
                there = pilot.inbox.setdefault(number, message)
                assert there == message, f"message {number} of {pilot.uid} was handed over as another one before"
            if self.random.random() < 0.5:
                self.crash()

    def take_what_was_handed_over(self) -> None:
        for pilot in self.some_pilot():
            if self.queue.is_up(pilot.uid):
                pilot.look_into_inbox()

    def deliver(self) -> None:
        """Any message that was sent arrives: the next one, an old one again, or one too early."""
        for pilot in self.some_pilot():
            waiting = list(self.session.state.pilots[pilot.uid].unacknowledged.items())
            if waiting:
                pilot.take(*self.random.choice(waiting))
            if self.random.random() < 0.5:
                self.session.do(events.AgentAcknowledged(self.session.tick(), pilot.uid, pilot.received))

    def tell_services(self) -> None:
        """A pilot says of some tasks that it has, or had, that they are ready."""
        for pilot in self.some_pilot():
            known = [uid for uid, record in self.session.state.tasks.items() if record.pilot == pilot.uid]
            told = self.random.sample(known, min(len(known), 3))
            bindings = [self.session.state.tasks[uid].binding for uid in told]
            services = [(uid, binding, Attempt(1), "here:1") for uid, binding in zip(told, bindings, strict=True)]
            self.session.do(events.ServicesSeen(self.session.tick(), pilot.uid, services))
            for uid in told:
                if uid in self.session.state.service_info:
                    self.ever_ready.add(uid)

    def execute(self) -> None:
        for pilot in self.some_pilot():
            count = self.random.randint(0, len(pilot.held))
            pilot.finish(self.random.sample(list(pilot.held), count), self.random.choice([Ending.DONE, Ending.EXITED]))
            if pilot.ending and not pilot.goodbye:
                pilot.finish(list(pilot.held), Ending.CANCELLED, run=False)
                pilot.last_sent += 1
                pilot.goodbye = pilot.last_sent

    def send_outcomes(self) -> None:
        for pilot in self.some_pilot():
            numbers = [*pilot.sent, *([pilot.goodbye] if pilot.goodbye else [])]
            if numbers:
                self.send(pilot, self.random.choice(numbers))

    def send(self, pilot: WitnessPilot, number: int) -> None:
        if number == pilot.goodbye:
            event = events.PilotEndArrived(self.session.tick(), pilot.uid, number, CANCELED, "told to")
            self.session.do(event)
        else:
            self.session.outcomes(pilot.uid, *pilot.sent[number], number=number)

    def kill_pilot(self) -> None:
        for pilot in self.some_pilot():
            if self.random.random() < 0.3 and self.session.state.pilots[pilot.uid].job is None:
                pilot.cut_off()
                self.session.lose(pilot.uid)

    def end_pilot(self) -> None:
        for pilot in self.some_pilot():
            if self.random.random() < 0.3:
                self.session.end_pilot(pilot.uid, drain=self.random.random() < 0.5)

    def crash(self) -> None:
        self.session.crash()
        self.queue.resume()

    def some_pilot(self) -> list[WitnessPilot]:
        alive = [pilot for pilot in self.pilots.values() if not pilot.dead]
        return [self.random.choice(alive)] if alive else []

    # what must hold

    def look(self) -> None:
        self.session.check()
        self.queue.look()
        for uid, held in self.conditions.items():
            self.look_at_held(TaskUid(uid), held)
        for uid, record in self.session.state.tasks.items():
            if record.outcome is not None:
                first = self.first_endings.setdefault(uid, record.outcome.ending)
                assert record.outcome.ending is first, f"{uid} was {first.name} and is {record.outcome.ending.name}"
            else:
                assert uid not in self.first_endings, f"{uid} was final and is not any more"

    def look_at_held(self, uid: TaskUid, held: facts.Held) -> None:
        """A task that was bound was allowed to be; what its predecessors did is told by their outcomes, which do not change."""
        tasks = self.session.state.tasks
        record = tasks[uid]
        endings = [outcome.ending if (outcome := tasks[other].outcome) is not None else None for other in held.after]
        if record.binding:
            assert None not in endings, f"{uid} was bound before all that it waits for had ended"
            if held.policy == "ok":
                assert set(endings) <= {Ending.DONE}, f"{uid} was bound though one before it failed"
            elif held.policy == "notok":
                assert set(endings) - {Ending.DONE}, f"{uid} was bound though none before it failed"
            assert self.ever_ready.issuperset(held.services), f"{uid} was bound before its services were ready"
            for pilot in self.pilots.values():
                if uid in pilot.variables:
                    assert len(pilot.variables[uid]) == 2 * len(set(held.services)), f"{uid} was not told of its services"

    def settle(self) -> None:
        """Let everything that is under way arrive; then nothing may be unfinished."""
        if not any(not pilot.dead and not pilot.goodbye for pilot in self.pilots.values()):
            self.add_pilot()
        for _ in range(200):
            self.queue.settle()
            for pilot in self.pilots.values():
                if pilot.dead or not self.queue.is_up(pilot.uid):
                    continue
                self.session.greet(pilot.uid, durable=pilot.received)
                self.session.number_all(pilot.uid)
                for number, message in sorted(self.session.state.pilots[pilot.uid].unacknowledged.items()):
                    pilot.take(number, message)
                services = [(uid, binding, Attempt(1), "here:1") for uid, binding in pilot.held.items()]
                self.session.do(events.ServicesSeen(self.session.tick(), pilot.uid, services))
                self.ever_ready.update(self.session.state.service_info)
                pilot.finish(list(pilot.held), Ending.DONE)
                if pilot.ending and not pilot.goodbye:
                    pilot.last_sent += 1
                    pilot.goodbye = pilot.last_sent
                for number in range(1, pilot.last_sent + 1):
                    self.send(pilot, number)
            if all(record.outcome is not None for record in self.session.state.tasks.values()):
                break
        self.queue.settle()
        self.queue.check()
        self.look()
        state = self.session.state
        unfinished = {uid: record.state for uid, record in state.tasks.items() if record.outcome is None}
        assert not unfinished, f"unfinished: {unfinished}; waiting: {state.managers[MANAGER].waiting}"
        assert len(state.tasks) == self.submitted
        ran = [execution for pilot in self.pilots.values() for execution in pilot.ran]
        assert len(ran) == len(set(ran)), "an execution ran twice under one name"
        for uid in {uid for uid, _ in ran}:
            times = sum(other == uid for other, _ in ran)
            assert times == 1 or uid in self.repeatable, f"{uid} ran {times} times, and may not run twice"
        for pilot in self.pilots.values():
            if pilot.dead or pilot.goodbye:
                assert state.pilots[pilot.uid].state in FINAL


@pytest.mark.parametrize("number", range(int(os.environ.get("PILOTAGE_WALKS", "60"))))
def test_whatever_happens_each_task_ends_once(number: int) -> None:
    seed = int(os.environ.get("PILOTAGE_SEED", "0")) or 20_260_000 + number
    print(f"seed {seed}")
    Walk(seed).run()


def _runs_again_without_leave(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pilots, "_may_run_again", lambda self, record, loss: True)


def _forgets_the_orphans(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pilots, "_rehome", lambda *arguments: None)


def _acts_before_it_logs(patch: pytest.MonkeyPatch) -> None:
    do = Session.do

    def do_and_lose_the_record(self: Session, event: events.Event) -> Decision:
        decision = do(self, event)
        if any(isinstance(fact, facts.MessagesNumbered) for fact in decision.facts):
            self.records.pop()
        return decision

    patch.setattr(Session, "do", do_and_lose_the_record)


def _keeps_the_binding(patch: pytest.MonkeyPatch) -> None:
    def bind(self: Tasks, now: float, pilot: PilotRecord, tasks: list[TaskUid]) -> None:
        self._journal.emit(facts.TasksBound(now, pilot.uid, Binding(1), tasks))

    patch.setattr(Tasks, "_bind", bind)


def _forgets_too_much(patch: pytest.MonkeyPatch) -> None:
    def delivered(self: Pilots, pilot: PilotRecord, durable: int) -> None:
        if pilot.numbered > pilot.delivered:
            self._journal.emit(facts.MessagesDelivered(pilot.uid, pilot.numbered))

    patch.setattr(Pilots, "delivered", delivered)


def _never_frees(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Holding, "ended", lambda self, uid: [])


def _frees_too_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Holding, "is_open", lambda self, uid: False)


def _forgets_who_waits(patch: pytest.MonkeyPatch) -> None:
    initialise = Holding.__init__

    def forget(self: Holding, state: ClientState) -> None:
        initialise(self, ClientState())
        self._state = state

    patch.setattr(Holding, "__init__", forget)


def _forgets_the_names_of_jobs(patch: pytest.MonkeyPatch) -> None:
    def begin(self: JobWorld, pilot: str) -> None:
        for number in range(2):
            self._session.do(events.JobPrepared(self._session.tick(), PilotUid(pilot), "slurm", f"{pilot}.{number}"))
            self.submit()

    patch.setattr(JobWorld, "begin", begin)


def _leaves_jobs_in_the_queue(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pilots, "_end_job", lambda self, pilot, drain: None)


def _takes_the_end_of_a_job_for_nothing(patch: pytest.MonkeyPatch) -> None:
    job_told = Pilots.job_told
    patch.setattr(Pilots, "job_told", lambda self, event: job_told(self, msgspec.structs.replace(event, over=False)))


def _is_content_with_failure(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(holding, "_succeeded", lambda record: record.outcome is not None)


@pytest.mark.parametrize(
    "fault",
    [
        _runs_again_without_leave,
        _forgets_the_orphans,
        _acts_before_it_logs,
        _keeps_the_binding,
        _forgets_too_much,
        _never_frees,
        _frees_too_early,
        _forgets_who_waits,
        _is_content_with_failure,
        _forgets_the_names_of_jobs,
        _leaves_jobs_in_the_queue,
        _takes_the_end_of_a_job_for_nothing,
    ],
)
def test_the_walk_finds_planted_faults(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    require_noticed(fault, monkeypatch, lambda seed: Walk(seed).run(), 40, by=(AssertionError, LookupError))
