"""The user's program: its disk, and the real ``Engine`` with its real ``PilotLink``s in one life after another."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from virtual_parts import Died, Disk, Log, VirtualClientChannel
from virtual_pilot import NODES, SESSION, Pilot

from pilotage.client.engine import Engine
from pilotage.client.launcher import StartedPilot
from pilotage.client.pilot_link import PilotLink
from pilotage.core.client import events, facts
from pilotage.core.client.applying import apply
from pilotage.core.client.state import ClientState, PilotRecord, TaskRecord
from pilotage.model.ids import PilotUid, TaskUid
from pilotage.wire.channel import Disconnected
from pilotage.wire.keys import Connection

if TYPE_CHECKING:
    from system_world import World

PILOTS, TASKS = "pmgr.0000", "tmgr.0000"
OF_OTHERS_CONCERN = (facts.PilotAccepted, facts.TasksAccepted, facts.TasksBound, facts.MessagesNumbered)
"""Facts that others may know of already when the client's node, with the end of its log, is lost."""

_encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(list[facts.Fact]).decode


class VirtualLink(PilotLink):
    """A ``PilotLink`` that finds its agent in the world, not in the file system."""

    world: World

    def watch_process(self) -> bool:
        pilot = self.world.pilots.get(self.pilot.uid)
        if pilot is None or not pilot.alive:
            return False
        self.process_fd = pilot.pid
        return True

    def _unwatch_process(self) -> None:
        self.process_fd = -1

    def _open(self, connection: Connection) -> Any:
        channel = self.world.pilots[self.pilot.uid].channel
        if channel is None:
            raise Disconnected("no agent listens there")
        return channel.connect(self.world.client.may_die)


class Thread:
    """Stands in for a thread that fences a pilot: it runs when the world lets it."""

    world: World

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...], name: str, daemon: bool) -> None:
        self.run = lambda: target(*args)

    def start(self) -> None:
        self.world.client.threads.append(self)


class NoLease:
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def renew(self) -> None:
        pass


class Client:
    """The client in all its lives. ``engine`` is None while no process has the session."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.disk = Disk()
        self.epoch = 0
        self.engine: Engine | None = None
        self.callbacks: deque[tuple[TaskUid, str]] = deque()
        self.threads: list[Thread] = []

    def may_die(self) -> None:
        self.world.may_die("client")

    @property
    def state(self) -> ClientState:
        assert self.engine is not None
        return self.engine.state

    def recover(self) -> ClientState:
        state, first = ClientState(), 0
        if self.disk.snapshot is not None:
            first, encoded = self.disk.snapshot
            state = msgspec.msgpack.decode(encoded, type=ClientState)
        for record in self.disk.records[first:]:
            for fact in _decode_record(record):
                apply(state, fact)
        return state

    def open(self) -> None:
        """Begin the session, or resume it: what ``Session`` does around its engine."""
        self.epoch += 1
        state = self.recover()
        log = Log(self.disk, self.may_die, self.world.random)
        engine = Engine(SESSION, NoLease(self.epoch), state, log, self, self)  # type: ignore[arg-type]
        self.engine = engine
        self.callbacks.clear()
        try:
            with engine.lock:
                engine.handle(events.SessionOpened(self.world.now, self.epoch))
                for manager, kind in ((PILOTS, "pilots"), (TASKS, "tasks")):
                    if manager not in state.managers:
                        scheduler = self.world.scheduler if manager == TASKS else ""
                        engine.handle(events.ManagerCreated(self.world.now, manager, kind, scheduler))  # type: ignore[arg-type]
            engine.reconnect()
            # The managers' callbacks are registered again, and hear of what has no mark.
            self.tasks_changed([record for record in state.tasks.values() if record.outcome is not None and not record.marked])
        except Died:
            self.die()

    def do(self, event: events.Event) -> bool:
        """Let the user ask for something; False if the process died of it."""
        assert self.engine is not None
        try:
            with self.engine.lock:
                self.engine.handle(event)
        except Died:
            self.die()
            return False
        return True

    def turn(self) -> None:
        """One turn of the background thread, over all that is ready, or a part of it."""
        engine = self.engine
        if engine is None:
            self.open()
            return
        ready = [Log.wake_fd]
        for uid, link in engine.steps.links.items():
            if link.channel is not None and self.world.random.random() < self.world.haste:
                ready.append(link.channel.fileno())
            if link.process_fd >= 0 and not self.world.pilots[uid].alive:
                ready.append(link.process_fd)
        try:
            with engine.lock:
                engine._turn(ready)
            while self.threads and self.world.random.random() < self.world.haste:
                self.threads.pop(0).run()
        except Died:
            self.die()
            return
        assert not engine.steps.failure, engine.steps.failure

    def die(self) -> None:
        """The process is gone; what it had sent still arrives."""
        engine, self.engine = self.engine, None
        self.threads.clear()
        if engine is None:
            return
        for link in engine.steps.links.values():
            if isinstance(link.channel, VirtualClientChannel):
                link.channel.close()
        os.close(engine._background._wakeup)

    def lose_node(self) -> None:
        """The node is gone, and with it what the log had not synced."""
        self.die()
        if not self.world.forgets_what_it_sent:
            for number, record in enumerate(self.disk.records[self.disk.synced :], self.disk.synced + 1):
                if any(isinstance(fact, OF_OTHERS_CONCERN) for fact in _decode_record(record)):
                    self.disk.synced = number
        before = self.recover()
        self.disk.lose_tail(self.world.random)
        self.world.note_client_loss(before, self.recover())

    def call_back(self, count: int) -> None:
        """Some callbacks return, and what they heard of is marked."""
        assert self.engine is not None
        finals = []
        while self.callbacks and count:
            count -= 1
            uid, state = self.callbacks.popleft()
            if not self.state.tasks[uid].marked:
                self.world.note_callback(uid, state)
                finals.append(uid)
        if finals:
            self.do(events.CallbacksReturned(self.world.now, finals))

    def check_replay(self) -> None:
        """The log, and the facts that may come late, give the state that is there."""
        if self.engine is not None:
            recovered = self.recover()
            for fact in self.engine.steps.log.late:
                apply(recovered, fact)
            assert recovered == self.state, "the client's log does not give the state that it has"

    # What the engine tells its listener.

    def tasks_changed(self, records: Sequence[TaskRecord]) -> None:
        for record in records:
            if record.outcome is not None:
                self.world.note_outcome(record)
                self.callbacks.append((record.row.uid, record.state))

    def pilot_changed(self, record: PilotRecord) -> None:
        pass

    def waiting_changed(self, manager: str, count: int) -> None:
        assert count == len(self.state.managers[manager].waiting)

    def start_pilot(self, record: PilotRecord) -> StartedPilot:
        self.may_die()
        pilot = Pilot(self.world, record.uid, self.epoch)
        self.world.pilots[record.uid] = pilot
        self.may_die()
        return StartedPilot(pilot.pid, 7, "boot", -1)

    def pilot_folder(self, record: PilotRecord) -> Path:
        return Path("/virtual") / record.uid


def submit_pilot(client: Client, uid: str) -> bool:
    """What ``submit_pilots`` and ``add_pilots`` tell the core."""
    now = client.world.now
    submitted = events.PilotSubmitted(now, PILOTS, PilotUid(uid), msgspec.Raw(_encode({})), NODES)
    return client.do(submitted) and client.do(events.PilotsAttached(now, TASKS, [PilotUid(uid)]))
