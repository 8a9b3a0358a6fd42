"""Tasks that start together, simulated by hand, to the second."""

from __future__ import annotations

import pytest
from simulated_tasks import ONE, Tasks, core_seconds, machine, rows, uids

from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.partitions import PartitionSpec
from pilotage.model.resources import Request
from pilotage.model.workload import Template
from pilotage.sim.model import Arrival
from pilotage.sim.world import World

BOTH = pytest.mark.parametrize("client", [True, False])
MEMBER, DEEP = TemplateId(2), TemplateId(3)


def templates(size: int) -> dict[TemplateId, Template]:
    return {
        ONE: Template(executable="/bin/true"),
        MEMBER: Template(executable="/bin/true", request=Request(gang="g", gang_size=size)),
        DEEP: Template(executable="/bin/true", request=Request(cores=2, gang="g", gang_size=size)),
    }


@BOTH
def test_members_wait_for_the_last_and_for_room_for_all(client: bool) -> None:
    """Of 4 cores one is in use until 9 s. The last member comes at 4 s: all start at 9 s, and end at 19 s."""
    first, *members = uids(4)
    arrivals = [
        Arrival(0.0, [*rows([first]), *rows(members[:1], DEEP)]),
        Arrival(4.0, rows(members[1:], MEMBER)),
    ]
    seconds = {first: 9.0, **dict.fromkeys(members, 10.0)}
    workload = Tasks((), templates(3), arrivals, seconds=seconds)
    result = World(machine(cores=4), workload, nodes=1, client=client).finish()
    assert {outcome.task: time_s for outcome, time_s in workload.told} == {first: 9.0, **dict.fromkeys(members, 19.0)}
    assert core_seconds(result) == {"offered": 76.0, "running": 49.0, "idle": 27.0}


@BOTH
def test_in_a_pilot_with_partitions_all_run_in_one(client: bool) -> None:
    members = uids(4)
    workload = Tasks((), templates(4), [Arrival(0.0, rows(members, MEMBER))], seconds=dict.fromkeys(members, 10.0))
    plan = [PartitionSpec(name="left", nodes=2), PartitionSpec(name="right", nodes=2)]
    result = World(machine(cores=2), workload, nodes=4, plan=plan, client=client).finish()
    assert sorted(part.starts for part in result.partitions) == [0, 4]
    assert result.makespan_s == 10.0


@BOTH
def test_a_gang_that_cannot_be_fails_and_the_others_go_on(client: bool) -> None:
    members = uids(3, "m")
    arrivals = [Arrival(0.0, [*rows(members, DEEP), *rows(uids(2))])]
    seconds = dict.fromkeys([*members, *uids(2)], 10.0)
    result = World(machine(cores=2), Tasks((), templates(3), arrivals, seconds=seconds), nodes=2, client=client).finish()
    assert result.outcomes[Ending.DONE] == 2 and result.outcomes[Ending.INFEASIBLE] == 3
    assert result.makespan_s == 10.0


def test_small_tasks_that_keep_coming_do_not_starve_a_gang() -> None:
    """A task of 10 s comes each second for 600 s, so that of 8 cores there are never 6 free by themselves."""
    small = uids(600)
    members = [TaskUid("a"), TaskUid("b"), TaskUid("c")]
    arrivals = [Arrival(float(second), rows([uid])) for second, uid in enumerate(small)]
    arrivals.insert(20, Arrival(20.0, rows(members, DEEP)))
    workload = Tasks(
        (),
        templates(3),
        sorted(arrivals, key=lambda each: each.time_s),
        seconds={**dict.fromkeys(small, 7.5), **dict.fromkeys(members, 10.0)},
    )
    World(machine(cores=8), workload, nodes=1).finish()
    ended = {outcome.task: time_s for outcome, time_s in workload.told}
    assert ended[members[0]] == ended[members[1]] == ended[members[2]] < 150.0
