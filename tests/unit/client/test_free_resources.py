"""What is free and what waits, from what pilots told and what the client knows; and asking pilots for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from pilotage.client.loads import FOLLOWED_EVERY_S, Loads
from pilotage.client.resources import Resources, are_idle, resources_of
from pilotage.core.client.state import ClientState, ManagerRecord, PilotRecord, TaskRecord
from pilotage.model.ids import PilotUid, TaskUid, TemplateId
from pilotage.model.partitions import Load
from pilotage.model.resources import Node, NodeShape, Request
from pilotage.model.states import DONE, PMGR_ACTIVE, PMGR_ACTIVE_PENDING
from pilotage.model.workload import Row, Template
from pilotage.wire.codec import decode_from_client
from pilotage.wire.messages import AskLoad

SHAPE = NodeShape(4, 2, 10)
P, Q = PilotUid("p"), PilotUid("q")


def pilot(uid: PilotUid, load: int = 0, state: str = PMGR_ACTIVE) -> PilotRecord:
    return PilotRecord(uid, "pmgr", msgspec.Raw(b""), [Node(index, f"n{index}", SHAPE) for index in range(2)], state, load=load)


def manager(*waiting: str) -> ManagerRecord:
    return ManagerRecord("tasks", waiting=dict.fromkeys(map(TaskUid, waiting)))


# sums


def test_pilots_are_summed_up() -> None:
    loads = {P: Load(1, 4, 1, 3, False, 2, 96, 5, 64, 7), Q: Load(0, 0, 2, 8, False, 2, 256, 20, 0, 1)}
    assert resources_of(ClientState(), [pilot(P, load=9), pilot(Q, load=1)], loads) == Resources(
        pilots=2,
        nodes=4,
        idle_nodes=3,
        cores=16,
        free_cores=11,
        gpus=8,
        free_gpus=5.5,
        memory=40 * 64,
        free_memory=25 * 64,
        running=8,
        waiting=2,
        waiting_cores=4,
        waiting_gpus=1.0,
    )


def test_pilots_that_are_not_active_or_have_told_nothing_have_nothing() -> None:
    pilots = [pilot(P, load=5, state=PMGR_ACTIVE_PENDING), pilot(Q), pilot(PilotUid("r"), state=DONE)]
    assert resources_of(ClientState(), pilots, {P: Load(free_cores=1)}) == Resources()


def test_what_waits_in_the_manager_counts_by_what_it_asks_for() -> None:
    state = ClientState()
    state.templates[TemplateId(1)] = Template(request=Request(ranks=2, cores=3, gpu_shares=32))
    for uid in ("a", "b"):
        state.tasks[TaskUid(uid)] = TaskRecord(Row(TaskUid(uid), TemplateId(1)), "tmgr")
    told = resources_of(state, [], {}, manager("a", "b"), missing=4)
    assert told == Resources(waiting=2, waiting_cores=12, waiting_gpus=2.0, missing=4)


def test_outcomes_that_are_under_way_are_no_tasks_that_wait() -> None:
    assert resources_of(ClientState(), [pilot(P, load=3)], {P: Load(running=5)}).waiting == 0


# idle


def idle(load: Load | None, bound: int = 0, waiting: tuple[str, ...] = ()) -> bool:
    return are_idle([pilot(P, load=bound)], {} if load is None else {P: load}, manager(*waiting))


def test_idle_is_what_is_free_while_nothing_waits() -> None:
    assert idle(Load(free_cores=1, running=3), bound=3)
    assert not idle(Load(free_cores=0, running=3), bound=3)
    assert not idle(Load(free_cores=1, running=3), bound=4)
    assert not idle(Load(free_cores=1), waiting=("a",))
    assert not idle(Load(free_cores=1, paused=True))
    assert not idle(None)


def test_a_pilot_that_has_not_told_yet_may_have_no_room() -> None:
    assert not are_idle([pilot(P), pilot(Q)], {P: Load(free_cores=1)}, manager())
    assert are_idle([pilot(P), pilot(Q, state=PMGR_ACTIVE_PENDING)], {P: Load(free_cores=1)}, manager())
    assert not are_idle([], {}, manager())


# asking


class Link:
    """A link; what its pilot does when it is asked is ``answer``."""

    def __init__(self, answer: Callable[[], None] = lambda: None, is_open: bool = True) -> None:
        self.is_open = is_open
        self.asked: list[float] = []
        self._answer = answer

    def send(self, frame: bytes) -> None:
        message = decode_from_client(frame)
        assert isinstance(message, AskLoad)
        self.asked.append(message.every_s)
        threading.Thread(target=self._answer).start()


def session(*links: Link) -> tuple[Loads, threading.Lock]:
    lock = threading.Lock()
    return Loads(lock, {PilotUid(f"p{number}"): link for number, link in enumerate(links)}), lock


def test_asking_waits_for_the_answer_of_each_that_can_be_reached() -> None:
    def answer(number: int) -> None:
        with lock:
            loads.take(PilotUid(f"p{number}"), Load(free_cores=number + 1))

    links = [Link(lambda: answer(0)), Link(is_open=False), Link(lambda: answer(2))]
    loads, lock = session(*links)
    loads.ask([PilotUid(f"p{number}") for number in range(3)])
    assert loads.told == {"p0": Load(free_cores=1), "p2": Load(free_cores=3)}
    assert [link.asked for link in links] == [[0.0], [], [0.0]]


def test_asking_ends_when_the_pilot_does() -> None:
    def end() -> None:
        with lock:
            link.is_open = False
            loads.over(PilotUid("p0"))

    link = Link(end)
    loads, lock = session(link)
    loads.ask([PilotUid("p0")])
    assert loads.told == {}


def test_pilots_are_told_when_the_first_follows_and_when_the_last_does_no_more() -> None:
    link = Link()
    loads, lock = session(link)
    with lock:
        loads.greeted(PilotUid("p0"))
        for more in (1, 1, -1):
            loads.follow(more)
        loads.greeted(PilotUid("p0"))
        loads.follow(-1)
    assert link.asked == [FOLLOWED_EVERY_S, FOLLOWED_EVERY_S, 0.0]
