"""The whole system in one seeded world: client, links, agents, runners; only time, disks, wires and tasks are virtual.

What is real: ``ClientCore`` in its ``Engine``, ``PilotLink`` and ``ClientLink`` over ``wire.link``, ``Agent`` around
``AgentCore`` with its ``Scheduler``, and every frame and log record, encoded and decoded. ``World(seed)`` lets one thing
happen after the other by chance, and at any write, send or order a process may die; ``settle`` ends the misfortunes and
waits until nothing is open; ``close`` ends the session. The witness (``note_*``) stands outside: it sees tasks begin and end
where they run, and outcomes where the user sees them.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import msgspec
from agent_world_client import ENVIRONMENTS, MENU, SPEC, luggage, retries_of
from agent_world_runners import ADOPT_S
from virtual_client import TASKS, Client, Thread, VirtualLink, submit_pilot
from virtual_crew import is_done
from virtual_parts import Clock, Died, Select, descriptors
from virtual_pilot import Pilot

from pilotage.agent import agent as agent_module
from pilotage.agent import fencing as fencing_module
from pilotage.agent import loop as loop_module
from pilotage.agent import progress as progress_module
from pilotage.client import background as background_module
from pilotage.client import engine, fact_log, losses, pilot_ends, pilot_messages, pilot_starts
from pilotage.client.background import Background
from pilotage.core.agent.aftermath import Aftermath
from pilotage.core.client import events
from pilotage.core.client.facts import Held, TaskScheduler
from pilotage.core.client.state import ClientState, QueuedTasks, TaskRecord
from pilotage.model.ids import Attempt, PilotUid, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.states import FINAL
from pilotage.model.workload import Batch, Row, Template
from pilotage.wire import agent_link as agent_link_module
from pilotage.wire.keys import Connection

STEPS = 180
SETTLE_TURNS = 500
TIMED_CLIENT_MODULES = (engine, fact_log, losses, pilot_ends, pilot_messages, pilot_starts)

_encode = msgspec.msgpack.Encoder().encode


class World:
    """Everything, by one seed."""

    def __init__(self, seed: int, steps: int = STEPS, forgets_what_it_sent: bool = False) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        nature = random.Random(f"world of {seed}")
        self.scheduler: TaskScheduler = nature.choice(("", "", "round_robin", "backfilling"))
        self.clock = Clock()
        self.steps = steps
        self.haste = self.random.choice((0.4, 0.8, 1.0))
        self.mishaps = self.random.choice((0.0, 0.01, 0.03))
        self.node_losses = self.random.random() < 0.6
        self.forgets_what_it_sent = forgets_what_it_sent
        """Whether a client whose node is lost may forget what it told its pilots: see ``test_lost_client_tail``."""
        self.most_pilots = self.random.choice((1, 2, 3, 3))
        self.calm = False
        self.descriptors = descriptors()
        self.pilots: dict[PilotUid, Pilot] = {}
        self.pilots_asked = 0
        self.serial = 1 << 30
        self.luggage = self.random.choice((0.0, 0.3, 0.9))
        """How many tasks have files to stage."""
        self.submitted: dict[TaskUid, Template] = {}
        self.rows: dict[TaskUid, Row] = {}
        self.wanted: dict[TaskUid, tuple[TaskUid, ...]] = {}
        """Tasks, and the services that they want."""
        self.ever_ready: set[TaskUid] = set()
        self.unstaged: set[TaskUid] = set()
        """Tasks of which some file could not be staged."""
        self.put_off = 0
        self.forgotten: set[TaskUid] = set()
        """Submitted, and lost with the client's node before the log was synced."""
        self.cancelled: set[TaskUid] = set()
        self.pilot_ends_asked = False
        self.client_losses = 0
        self.misfortunes = 0
        self.begins: dict[TaskUid, list[PilotUid]] = {}
        self.running: dict[tuple[TaskUid, PilotUid], None] = {}
        self.adrift: set[TaskUid] = set()
        """Tasks that are with a pilot of which the client does not know that it has them."""
        self.endings: dict[TaskUid, list[Ending]] = {}
        self.told: dict[TaskUid, Outcome] = {}
        self.called: dict[TaskUid, str] = {}
        self.client = Client(self)

    @property
    def now(self) -> float:
        return self.clock.now

    def next_pid(self) -> int:
        self.serial += 1
        return self.serial

    def may_die(self, who: str) -> None:
        if not self.calm and self.mishaps and self.random.random() < self.mishaps:
            self.misfortunes += 1
            raise Died(who)

    # The witness.

    def note_begin(self, pilot: Pilot, uid: TaskUid, attempt: Attempt) -> None:
        where = self.begins.setdefault(uid, [])
        template = self.submitted.get(uid)
        assert template is not None, f"{uid} begins on {pilot.uid}, and was never submitted"
        assert (uid, pilot.uid) not in self.running, f"{uid} begins twice at a time on {pilot.uid}"
        self.running[uid, pilot.uid] = None
        if uid in self.adrift:
            return
        elsewhere = [other for task, other in self.running if task == uid and other != pilot.uid]
        assert not elsewhere, f"{uid} begins on {pilot.uid} while it runs on {elsewhere}"
        assert uid not in self.told, f"{uid} begins on {pilot.uid} after the user was told {self.told[uid]}"
        assert self.ever_ready.issuperset(self.wanted.get(uid, ())), f"{uid} begins before its services were ready"
        where.append(pilot.uid)
        if not template.restartable:
            assert where.count(pilot.uid) <= 1 + retries_of(template), f"{uid} begins too often on {pilot.uid}: {where}"
            assert len(set(where)) <= 1 + retries_of(template), f"{uid} begins on too many pilots: {where}"

    def note_end(self, pilot: Pilot, uid: TaskUid, ending: Ending) -> None:
        del self.running[uid, pilot.uid]
        self.endings.setdefault(uid, []).append(ending)

    def note_outcome(self, record: TaskRecord) -> None:
        uid, outcome = record.row.uid, record.outcome
        assert outcome is not None
        before = self.told.setdefault(uid, outcome)
        assert before.ending is outcome.ending, f"{uid} was {before} and is {outcome}"

    def note_callback(self, uid: TaskUid, state: str) -> None:
        before = self.called.setdefault(uid, state)
        assert before == state, f"callbacks heard that {uid} is {before}, and now that it is {state}"

    def note_client_loss(self, before: ClientState, recovered: ClientState) -> None:
        """What the client's node took with it was promised to nobody durably: it may come out otherwise."""
        self.client_losses += 1
        for task, was in before.tasks.items():
            now = recovered.tasks.get(task)
            if was.pilot and (now is None or now.pilot != was.pilot):
                self.adrift.add(task)
        # What it forgot to have sent it sends again, also what is over by then.
        self.adrift.update(tasks_on_their_way(recovered) - tasks_on_their_way(before))
        for uid, pilot in self.pilots.items():
            if uid not in recovered.pilots:
                # Nobody knows of it any more; its time will be over one day.
                pilot.end()
        lost = [uid for uid in self.submitted if uid not in recovered.tasks]
        self.forgotten.update(lost)
        for uid in list(self.told):
            record = recovered.tasks.get(uid)
            if record is None or record.outcome is None:
                del self.told[uid]
                self.called.pop(uid, None)

    def is_awaited(self, service: TaskUid) -> bool:
        """Tell whether tasks wait for this service, of which their client does not know yet that it is ready."""
        if self.client.engine is None or service in self.client.state.service_info:
            return False
        return any(service in held.services for held in self.client.state.held.values())

    # What happens.

    def step(self) -> None:
        """Let one thing happen."""
        chance, client = self.random, self.client
        draw = chance.random()
        if draw < 0.30:
            self.client.turn()
        elif draw < 0.60:
            for pilot in self.some_pilot():
                pilot.turn()
        elif draw < 0.74:
            for pilot in self.some_pilot():
                pilot.run()
        elif draw < 0.75:
            for pilot in self.some_pilot():
                pilot.full = chance.random() < 0.4
        elif draw < 0.77:
            chance.choice([client.disk, *(pilot.disk for pilot in self.pilots.values())]).sync()
        elif draw < 0.80:
            seconds = chance.choice((0.001, 0.05, 0.2, 1.0, 6.0, 30.0))
            self.clock.now += seconds
            # After such a pause heartbeats were missed, and runners did not say hello in time.
            self.misfortunes += seconds > ADOPT_S
        elif draw < 0.95:
            if client.engine is None:
                client.open()
            else:
                self.use(chance.random())
        elif self.mishaps:
            self.mishap()

    def use(self, draw: float) -> None:
        """The user does something."""
        client, chance = self.client, self.random
        if draw < 0.45:
            self.submit()
        elif draw < 0.60:
            self.cancel()
        elif draw < 0.66:
            self.ask_environment(chance.choice(ENVIRONMENTS))
        elif draw < 0.85:
            client.call_back(chance.choice((1, 5, 100)))
        elif draw < 0.96 or self.pilots_asked == 0:
            if self.pilots_asked < self.most_pilots:
                self.add_pilot()
        elif chance.random() < 0.5:
            self.end_pilot()

    def add_pilot(self) -> None:
        uid = f"pilot.{self.pilots_asked:04d}"
        self.pilots_asked += 1
        submit_pilot(self.client, uid)

    def submit(self) -> None:
        chance, client = self.random, self.client
        state = client.state
        uids = [TaskUid(f"t{len(self.submitted) + number:04d}") for number in range(chance.choice((1, 2, 5, 12)))]
        number = TemplateId(chance.randrange(len(MENU)))
        template = MENU[number]
        rows = [Row(uid, number, extra=luggage(chance, self.luggage)) for uid in uids]
        batch = Batch({} if number in state.templates else {number: template}, rows)
        pinned = chance.choice(list(state.pilots)) if state.pilots and chance.random() < 0.1 else PilotUid("")
        services = [uid for uid, earlier in self.submitted.items() if earlier.service is not None and uid in state.tasks]
        held = {}
        if services and chance.random() < 0.4:
            wanted = tuple(chance.sample(services, min(len(services), chance.choice((1, 1, 2)))))
            held = {uid: Held(services=wanted) for uid in uids}
            self.wanted.update(dict.fromkeys(uids, wanted))
        self.submitted.update(dict.fromkeys(uids, template))
        self.rows.update((row.uid, row) for row in rows)
        encoded = msgspec.Raw(_encode(batch))
        if not client.do(events.TasksSubmitted(self.now, TASKS, pinned, batch, encoded, held=held)):
            recovered = client.recover().tasks
            # The user's call did not return: the tasks are the session's, or they are not.
            for uid in uids:
                if uid not in recovered:
                    del self.submitted[uid]
                    self.wanted.pop(uid, None)

    def ask_environment(self, name: str) -> None:
        for uid, record in list(self.client.state.pilots.items()):
            if record.state not in FINAL and not self.client.do(events.EnvironmentAsked(self.now, uid, name, SPEC)):
                return

    def cancel(self) -> None:
        chance, tasks = self.random, self.client.state.tasks
        if tasks:
            open_tasks = [uid for uid, record in tasks.items() if record.outcome is None] or list(tasks)
            chosen = chance.sample(open_tasks, min(len(open_tasks), chance.choice((1, 1, 4))))
            self.cancelled.update(chosen)
            if self.client.do(events.CancelRequested(self.now, [*chosen, chosen[0]])):
                for uid in chosen:
                    record = tasks[uid]
                    assert record.outcome is not None or (record.pilot and record.cancelling), (
                        f"{uid} was not cancelled: {record}"
                    )

    def end_pilot(self) -> None:
        pilots = self.client.state.pilots
        if pilots:
            self.pilot_ends_asked = True
            uid = self.random.choice(list(pilots))
            self.client.do(events.PilotCancelRequested(self.now, [uid], self.random.random() < 0.5))

    def mishap(self) -> None:
        chance, client = self.random, self.client
        self.misfortunes += 1
        what = chance.random()
        if what < 0.15:
            client.die()
        elif what < 0.35:
            for pilot in self.some_pilot():
                pilot.end_agent()
                if chance.random() < 0.3:
                    client.die()
        elif what < 0.55:
            for pilot in self.some_pilot():
                if pilot.channel is not None:
                    for connection in pilot.channel.connections.values():
                        connection.cut(chance)
        elif what < 0.7:
            for pilot in self.some_pilot():
                for process in chance.sample(list(pilot.processes.values()), min(1, len(pilot.processes))):
                    process.die()
        elif self.node_losses:
            if what < 0.85:
                client.lose_node()
            else:
                for pilot in self.some_pilot():
                    pilot.lose_node()

    def some_pilot(self) -> list[Pilot]:
        living = [pilot for pilot in self.pilots.values() if pilot.alive]
        return [self.random.choice(living)] if living else []

    # The end.

    def walk(self) -> None:
        """Live through all of it."""
        with self.installed():
            try:
                self.client.open()
                for number in range(self.steps):
                    self.step()
                    if number % 40 == 0:
                        self.check_replay()
                self.settle()
                self.close()
                self.check_end()
            finally:
                self.client.die()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put this world's clock in the place of time, and its pilots in the place of files and processes."""
        link = type("Link", (VirtualLink,), {"world": self})
        thread = type("FencingThread", (Thread,), {"world": self})
        threads = SimpleNamespace(Condition=threading.Condition, Thread=thread)
        changes = [
            (agent_module, "time", self.clock),
            (progress_module, "time", self.clock),
            (loop_module, "time", self.clock),
            (loop_module, "select", Select),
            (background_module, "select", Select),
            # The world gives the client its turns.
            (Background, "start", lambda background: None),
            (pilot_starts, "PilotLink", link),
            (pilot_ends, "threading", threads),
            *((module, "time", self.clock) for module in TIMED_CLIENT_MODULES),
            (losses, "tail_of_output", lambda folder: ""),
            (fencing_module, "fence", self.fence),
            (
                agent_link_module,
                "read_connection",
                lambda path: Connection(PilotUid(path.parent.name), 1, "there", "boot", 1, 1),
            ),
        ]
        before = [(module, name, getattr(module, name)) for module, name, _ in changes]
        for module, name, value in changes:
            setattr(module, name, value)
        try:
            yield
        finally:
            for module, name, value in before:
                setattr(module, name, value)

    def fence(self, folder: Path, delivered: int) -> Aftermath:
        """What ``fence`` does: end what is left of a pilot, and read what its log says."""
        pilot = self.pilots.get(PilotUid(folder.name))
        if pilot is None:
            raise FileNotFoundError(f"no pilot was ever started in {folder}")
        return pilot.fence(delivered)

    def everyone_turns(self) -> None:
        self.client.turn()
        for pilot in list(self.pilots.values()):
            pilot.turn()
            if pilot.alive:
                pilot.run(everything=True)
            pilot.disk.sync()
        self.client.disk.sync()
        if self.client.engine is not None:
            self.client.call_back(1000)

    def drive(self, is_quiet: partial[bool]) -> None:
        for turn in range(SETTLE_TURNS):
            self.everyone_turns()
            if is_quiet():
                return
            if turn % 4 == 3:
                self.clock.now += 0.3 if turn < 200 else 2.0
        raise AssertionError(f"things wait for ever: {self.story()}")

    def settle(self) -> None:
        """No more misfortunes: every task comes to its end, and everything that was to be acknowledged is."""
        self.calm, self.haste = True, 1.0
        for pilot in self.pilots.values():
            pilot.haste, pilot.full = 1.0, False
        if self.client.engine is None:
            self.client.open()
        # The program may have died before it added a pilot that it had submitted; run again, it does so.
        self.client.do(events.PilotsAttached(self.now, TASKS, list(self.client.state.pilots)))
        if self.client.state.managers[TASKS].waiting and not any(p.usable for p in self.client.state.pilots.values()):
            self.add_pilot()
        self.drive(partial(self.is_settled))

    def is_settled(self) -> bool:
        state = self.client.state
        self.help_on()
        if any(record.outcome is None or not record.marked for record in state.tasks.values()):
            return False
        for uid, record in state.pilots.items():
            if record.outbox or record.unacknowledged:
                return False
            pilot = self.pilots.get(uid)
            if record.state not in FINAL and pilot is not None:
                agent = pilot.agent
                if agent is None or not agent._link.connected:
                    return False
                there = agent._core.state
                if there.tasks or there.unsent or there.undelivered or agent._link._outgoing.unacknowledged:
                    return False
        return True

    def help_on(self) -> None:
        """The user sees what is missing: environments that were never asked for."""
        for uid, pilot in self.pilots.items():
            record = self.client.state.pilots.get(uid)
            if record is not None and record.state not in FINAL and pilot.agent is not None:
                for name in pilot.agent._core._waiting.held:
                    if name not in pilot.agent._core.state.environments and not record.outbox:
                        self.client.do(events.EnvironmentAsked(self.now, uid, name, SPEC))

    def close(self) -> None:
        """The session ends, and all pilots with it."""
        self.pilot_ends_asked = True
        self.client.do(events.SessionClosing(self.now))
        self.drive(partial(self.is_closed))

    def is_closed(self) -> bool:
        assert self.client.engine is not None
        return (
            all(record.state in FINAL for record in self.client.state.pilots.values())
            and not any(pilot.alive for pilot in self.pilots.values())
            and not self.client.engine.steps.links
        )

    def check_replay(self) -> None:
        self.client.check_replay()
        for pilot in self.pilots.values():
            pilot.check_replay()

    def check_end(self) -> None:
        """Compare what was promised with what the witness saw."""
        self.check_replay()
        state = self.client.state
        promised = set(self.submitted) - self.forgotten
        assert promised <= set(state.tasks), f"tasks were lost: {sorted(promised - set(state.tasks))}"
        assert set(self.called) == set(state.tasks), "callbacks did not hear of all tasks"
        assert not self.running, f"still running: {self.running}"
        for uid, record in state.tasks.items():
            outcome, template = record.outcome, self.submitted[uid]
            assert outcome is not None and record.marked
            endings = self.endings.get(uid, [])
            if uid in self.adrift:
                continue
            if outcome.ending is Ending.DONE:
                if template.service is None:
                    assert endings[-1] is Ending.DONE, f"{uid} is said to be done, and its attempts ended {endings}"
                there = any(is_done(pilot, uid, outcome.attempt, outcome.ending) for pilot in self.pilots.values())
                assert there, f"{uid} is said to be done, and its output is nowhere"
            elif outcome.ending is Ending.CANCELLED:
                may_be = uid in self.cancelled or uid in self.wanted or self.pilot_ends_asked or self.may_end_by_itself()
                assert may_be, f"nobody cancelled {uid}"
            elif outcome.ending is Ending.INFEASIBLE:
                assert template.request.cores == 64 or template.request.slots
            elif outcome.ending is Ending.STAGING_FAILED:
                assert uid in self.unstaged or self.misfortunes or self.may_end_by_itself(), f"{uid}: {outcome}"
            elif outcome.ending in (Ending.EXITED, Ending.RAISED):
                assert endings[-1] in (outcome.ending, Ending.LOST), f"{uid}: {outcome}, and its attempts ended {endings}"
            elif outcome.ending is Ending.LOST:
                assert self.misfortunes or self.may_end_by_itself(), f"{uid} is lost, but nothing was"
        for uid, pilot in state.pilots.items():
            assert not pilot.outbox and not pilot.unacknowledged, f"{uid} has something left: {pilot}"
            # Of a task that is adrift the outcome may come from the pilot that is not known to have it.
            assert pilot.load == 0 or self.adrift, f"{uid} has a load of {pilot.load}, and no tasks"

    def may_end_by_itself(self) -> bool:
        """Whether a pilot may have ended that nobody ended: its time was over, or it missed its client."""
        return any(pilot.deadline is not None or pilot.settings.on_client_loss != "continue" for pilot in self.pilots.values())

    def story(self) -> str:
        lines = []
        state = self.client.state
        for uid, record in state.tasks.items():
            if record.outcome is None or not record.marked:
                lines.append(f"{uid}: {record}")
        for pilot_uid, record in state.pilots.items():
            pilot = self.pilots.get(pilot_uid)
            agent = pilot.agent if pilot is not None else None
            there = agent._core.summary() if agent is not None else None
            lines.append(
                f"{pilot_uid} {record.state} load={record.load} outbox={len(record.outbox)} "
                f"unacknowledged={list(record.unacknowledged)} alive={pilot is not None and pilot.alive} {there}"
            )
        return "\n".join(lines[:12])

    def fingerprint(self) -> str:
        """A digest of all that was ever written to any log."""
        digest = hashlib.sha256(self.client.disk.digest.digest())
        for pilot in self.pilots.values():
            digest.update(pilot.disk.digest.digest())
        return digest.hexdigest()


def tasks_on_their_way(state: ClientState) -> set[TaskUid]:
    """The tasks in messages that have no number yet."""
    queued = [each for pilot in state.pilots.values() for each in pilot.outbox if isinstance(each, QueuedTasks)]
    return {row.uid for each in queued for row in msgspec.msgpack.decode(each.batch, type=Batch).rows}


def walk(seed: int, steps: int = STEPS, forgets_what_it_sent: bool = False) -> World:
    """Walk through one world; the error of a walk that fails names its seed."""
    world = World(seed, steps, forgets_what_it_sent)
    try:
        world.walk()
    except Exception as error:
        raise AssertionError(f"the walk of seed {seed} failed; PILOTAGE_SEED={seed} replays it: {error!r}") from error
    return world
