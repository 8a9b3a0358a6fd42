"""Fake runners for ``agent_world``: processes that begin and end what they are told to, and an executor over them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from pilotage.core.agent import actions, events
from pilotage.core.agent.state import AgentState
from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import LaneId, RunnerId
from pilotage.model.outcome import Ending

if TYPE_CHECKING:
    from agent_world import World

ADOPT_S = 10.0


class Process:
    """A fake runner: a spawner, or a function worker. It begins and ends what it is told to when the world says so."""

    def __init__(self, world: World, name: RunnerId, beside: RunnerId | None) -> None:
        self.world = world
        self.name = name
        self.beside = beside
        self.pid = world.next_pid()
        self.alive = True
        self.stopping = False
        self.welcomed = False
        self.connected = False
        self.inbox: deque[tuple[object, ...]] = deque()
        self.outbox: deque[tuple[object, ...]] = deque()
        self.lanes: dict[LaneId, deque[Execution]] = {}
        self.running: dict[Execution, tuple[LaneId, Ending | None, str]] = {}
        self.held: dict[Execution, None] = {}
        self.barred: set[Execution] = set()
        self.kept: list[tuple[int, list[AttemptEnd]]] = []
        self.sent = 0
        self.proof = True
        """Whether the worker's death leaves proof of what it had not begun."""
        self.last_running: Execution | None = None

    @property
    def is_worker(self) -> bool:
        return self.beside is not None

    def waiting(self) -> list[Execution]:
        return [execution for queue in self.lanes.values() for execution in queue]

    def hello(self) -> list[Execution]:
        """Connect: return what is held. What was recalled is no longer."""
        self.connected, self.welcomed = True, False
        self.inbox.clear()
        self.outbox.clear()
        for lane, queue in self.lanes.items():
            self.lanes[lane] = deque(execution for execution in queue if execution not in self.barred)
        return [*self.running, *self.waiting()]

    def cut_off(self) -> None:
        """The connection broke: what was under way in it is lost."""
        self.connected = self.welcomed = False
        self.inbox.clear()
        self.outbox.clear()

    def tell(self, *message: object) -> None:
        if self.welcomed:
            self.outbox.append(message)

    def read(self, count: int) -> None:
        while count and self.inbox and self.alive:
            count -= 1
            self.follow(*self.inbox.popleft())

    def follow(self, verb: object, *arguments: object) -> None:
        match verb, arguments:
            case "welcome", (int() as released,):
                self.release(released)
                self.welcomed = True
                if self.running:
                    self.tell("started", [(*execution, self.world.now) for execution in self.running])
                for number, ends in self.kept:
                    self.tell("ended", number, ends)
            case "launch", (list() as lanes,):
                for lane in lanes:
                    self.take_in(lane)
            case "end", (list() as executions, Ending() as ending, str() as message):
                self.give_back([execution for execution in executions if execution in self.waiting()])
                for execution in executions:
                    if execution in self.running and self.running[execution][1] is None:
                        self.running[execution] = (self.running[execution][0], ending, message)
            case "signal", (list() as executions,):
                for execution in executions:
                    if execution in self.running and execution not in self.world.signalled:
                        self.world.signalled.add(execution)
                        lane, ending, message = self.running[execution]
                        if ending is None and self.world.heeds_signal():
                            self.running[execution] = (lane, Ending.OUT_OF_WALLTIME, "after a signal")
            case "recall", (list() as executions,):
                self.give_back([execution for execution in executions if execution in self.waiting()])
            case "release", (int() as through,):
                self.release(through)
            case "start_worker", (str() as worker,):
                self.world.spawn(RunnerId(worker), self.name)
            case "end_worker", (str() as worker,):
                if worker in self.world.processes:
                    self.world.processes[RunnerId(worker)].die()
            case "stop", ():
                self.give_back(self.waiting())
                self.die()
            case _:
                raise AssertionError(f"{self.name} does not know {verb} {arguments}")

    def take_in(self, lane: LaneTasks) -> None:
        executions = [(row.uid, attempt) for attempt, row in lane.tasks]
        if not self.is_worker and lane.placement is None and lane.lane not in self.lanes:
            self.tell("returned", executions)
            return
        queue = self.lanes.setdefault(LaneId(0) if self.is_worker else lane.lane, deque())
        for execution in executions:
            if execution not in self.held:
                self.held[execution] = None
                queue.append(execution)

    def give_back(self, executions: list[Execution]) -> None:
        for lane, queue in self.lanes.items():
            self.lanes[lane] = deque(execution for execution in queue if execution not in executions)
        for execution in executions:
            self.held.pop(execution)
        if executions:
            self.tell("returned", executions)

    def release(self, through: int) -> None:
        for number, ends in self.kept:
            if number <= through:
                for end in ends:
                    self.held.pop((end.task, end.attempt), None)
        self.kept = [item for item in self.kept if item[0] > through]

    def ready(self) -> list[LaneId]:
        """The lanes whose next task may begin."""
        busy = {lane for lane, _, _ in self.running.values()}
        return [lane for lane, queue in self.lanes.items() if queue and lane not in busy]

    def begin(self, lane: LaneId) -> None:
        no_room = self.world.full and not self.is_worker
        if no_room and not self.welcomed:
            return
        execution = self.lanes[lane].popleft()
        if execution in self.barred:
            self.held.pop(execution)
            self.tell("returned", [execution])
            return
        if no_room:
            self.held.pop(execution)
            self.tell("full")
            self.tell("returned", [execution])
            return
        self.world.note_begin(self, execution)
        self.running[execution] = (lane, None, "")
        # That something began is left out of what ends at once.
        if self.world.random.random() < self.world.talkativeness or self.world.is_service(execution[0]):
            self.tell("started", [(*execution, self.world.now)])

    def end(self, executions: list[Execution]) -> None:
        """These are over, in one message."""
        ends = []
        for execution in executions:
            _, ending, message = self.running.pop(execution)
            if ending is None:
                ending = self.world.fate(self.is_worker)
            self.world.note_end(execution, ending)
            seconds = self.world.task_seconds
            ends.append(
                AttemptEnd(
                    *execution,
                    ending,
                    self.world.exit_code(execution, ending),
                    message=message,
                    started=self.world.now - seconds,
                    ended=self.world.now,
                )
            )
        self.sent += 1
        self.kept.append((self.sent, ends))
        self.tell("ended", self.sent, ends)

    def die(self) -> None:
        """The process is gone, and a worker's call with it; a spawner's tasks go on until someone ends them."""
        if not self.alive:
            return
        self.alive = False
        if self.is_worker or self.stopping:
            self.kill_tasks()

    def kill_tasks(self) -> None:
        for execution in self.running:
            self.world.note_end(execution, Ending.LOST)
        self.last_running = next(iter(self.running), None)
        self.running.clear()


class Known:
    """What the executor remembers of a runner."""

    def __init__(self, beside: RunnerId | None, released: int, hello_by: float | None) -> None:
        self.beside = beside
        self.released = released
        self.hello_by = hello_by
        self.process: Process | None = None
        self.waiting: list[tuple[object, ...]] = []
        self.unsent: dict[Execution, None] = {}
        self.holds: dict[Execution, None] = {}
        self.reconcile_at: int | None = None
        self.recalled: list[Execution] = []
        self.gone = False


class Executor:
    """An executor as the contract wants it, over the fake processes; its memory dies with its agent."""

    def __init__(self, world: World, tell: Callable[[events.Event], None], state: AgentState) -> None:
        self.world = world
        self.tell = tell
        self.late: list[events.Event] = []
        """Messages that will be told a second time."""
        self.known = {
            name: Known(record.beside, record.released, world.now + ADOPT_S) for name, record in state.runners.items()
        }

    # What the agent asks for.

    def perform(self, action: actions.Action) -> None:
        match action:
            case actions.StartRunner():
                self.known[action.runner] = Known(action.beside, 0, self.world.now + ADOPT_S)
                if action.beside is None:
                    self.world.spawn(action.runner, None)
                elif action.beside in self.known:
                    self.send(action.beside, "start_worker", action.runner)
            case actions.StopRunner():
                self.send(action.runner, "stop")
                self.known.pop(action.runner, None)
            case actions.LaunchTasks():
                known = self.known.get(action.runner)
                if known is None:
                    return
                executions = [(row.uid, attempt) for lane in action.lanes for attempt, row in lane.tasks]
                known.holds.update(dict.fromkeys(executions))
                if known.process is None:
                    known.unsent.update(dict.fromkeys(executions))
                self.send(action.runner, "launch", action.lanes)
            case actions.EndExecutions():
                self.end(action)
            case actions.RecallTasks():
                known = self.known.get(action.runner)
                if known is None:
                    return
                if known.beside is None:
                    self.send(action.runner, "recall", action.executions)
                else:
                    self.recall(known, action.executions)
            case actions.SignalExecutions():
                known = self.known.get(action.runner)
                assert known is None or known.beside is None, "a worker is signalled"
                if known is not None and known.process is not None:
                    self.send(action.runner, "signal", action.executions)
            case actions.ReleaseRunner():
                known = self.known.get(action.runner)
                if known is not None:
                    known.released = max(known.released, action.through)
                    self.send(action.runner, "release", action.through)
                    self.reconcile(action.runner)
            case _:
                raise AssertionError(f"{action} is nothing for an executor")

    def send(self, runner: RunnerId, *message: object) -> None:
        known = self.known.get(runner)
        if known is None:
            return
        if known.process is None:
            known.waiting.append(message)
        elif known.process.connected:
            known.process.inbox.append(message)

    def end(self, action: actions.EndExecutions) -> None:
        known = self.known.get(action.runner)
        if known is None:
            return
        if known.beside is None:
            self.send(action.runner, "end", action.executions, action.ending, action.message)
        elif known.process is None:
            self.send(action.runner, "recall", action.executions)
        else:
            self.recall(known, action.executions)
            # The worker is replaced if it is at one of these.
            if any(execution in known.process.running for execution in action.executions):
                if known.beside in self.known:
                    self.send(known.beside, "end_worker", action.runner)
                else:
                    known.process.die()

    def recall(self, known: Known, executions: list[Execution]) -> None:
        process = known.process
        if process is None:
            return
        under_way = [
            (row.uid, attempt)
            for message in process.inbox
            if message[0] == "launch"
            for lane in message[1]  # type: ignore[attr-defined]
            for attempt, row in lane.tasks
        ]
        wanted = set(executions)
        taken = [execution for execution in [*process.waiting(), *under_way] if execution in wanted]
        process.barred.update(taken)
        known.recalled += taken

    # What happened.

    def turn(self) -> None:
        """Take in a part of what has arrived, by chance."""
        chance = self.world.random
        while self.late and chance.random() < 0.3:
            self.tell(self.late.pop(0))
        for name in [name for name, known in self.known.items() if known.gone]:
            self.lose(name)
        for name, known in list(self.known.items()):
            if known.recalled:
                returned, known.recalled = known.recalled, []
                for execution in returned:
                    known.holds.pop(execution, None)
                self.tell(events.TasksReturned(self.world.now, name, returned))
        for process in list(self.world.processes.values()):
            if process.alive and not process.connected and chance.random() < self.world.haste:
                self.hello(process)
            elif process.connected and chance.random() < self.world.haste:
                self.read(process, chance.randint(1, 4))
        for name, known in list(self.known.items()):
            self.look_after(name, known)

    def tell_maybe_twice(self, event: events.Event) -> None:
        self.tell(event)
        if self.world.tells_again():
            self.late.append(event)

    def disconnect(self, process: Process) -> None:
        """The connection broke; what is sent from now on waits for the next one."""
        known = self.known.get(process.name)
        if known is not None and known.process is process:
            self.read(process, -1)
            known.process = None
        process.cut_off()

    def hello(self, process: Process) -> None:
        known = self.known.get(process.name)
        if known is None:
            process.stopping = True
            process.die()
            return
        if known.gone:
            return
        holds = process.hello()
        known.process = process
        known.hello_by = None
        known.holds = dict.fromkeys([*holds, *known.unsent])
        known.reconcile_at = process.sent
        process.inbox.append(("welcome", known.released))
        process.inbox.extend(known.waiting)
        known.waiting, known.unsent = [], {}
        self.tell(events.RunnerConnected(self.world.now, process.name, process.pid, process.pid, "boot"))
        self.reconcile(process.name)

    def reconcile(self, name: RunnerId) -> None:
        known = self.known[name]
        if known.process is not None and known.reconcile_at is not None and known.released >= known.reconcile_at:
            known.reconcile_at = None
            self.tell(events.RunnerReconciled(self.world.now, name, list(known.holds)))

    def read(self, process: Process, count: int) -> None:
        known = self.known.get(process.name)
        while count and process.outbox:
            count -= 1
            verb, *rest = process.outbox.popleft()
            if known is None or known.process is not process:
                continue
            now = self.world.now
            match verb, rest:
                case "ended", [int() as number, list() as ends]:
                    for end in ends:
                        known.holds.pop((end.task, end.attempt), None)
                    self.tell_maybe_twice(events.TasksEnded(now, process.name, number, ends))
                case "started", [list() as started]:
                    self.tell_maybe_twice(events.TasksStarted(now, process.name, started))
                case "returned", [list() as executions]:
                    for execution in executions:
                        known.holds.pop(execution, None)
                    self.tell_maybe_twice(events.TasksReturned(now, process.name, executions))
                case "full", []:
                    self.world.surroundings.look_at_disk()
                case _:
                    raise AssertionError(f"{process.name} said {verb}")

    def look_after(self, name: RunnerId, known: Known) -> None:
        process = self.world.processes.get(name)
        if known.gone:
            return
        if process is not None and not process.alive:
            if self.world.random.random() < self.world.haste:
                self.read(process, -1)
                known.gone = True
        elif known.hello_by is not None and self.world.now >= known.hello_by:
            if process is not None:
                process.stopping = True
                process.die()
            known.gone = True

    def lose(self, name: RunnerId) -> None:
        known = self.known.pop(name)
        process = self.world.processes.get(name)
        not_begun = list(known.unsent)
        running, exit_code = None, None
        if process is not None:
            process.kill_tasks() if process.running else None
            if process.is_worker and known.process is process and process.proof:
                running, exit_code = process.last_running, -9
                not_begun += [execution for execution in known.holds if execution not in self.world.begun]
        for beside in [other for other, record in self.known.items() if record.beside == name]:
            if beside not in self.world.processes:
                self.known[beside].gone = True
        self.world.proven.update(not_begun)
        self.tell(events.RunnerLost(self.world.now, name, f"{name} was lost", exit_code, running, not_begun))
