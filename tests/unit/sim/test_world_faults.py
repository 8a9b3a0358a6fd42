"""Whatever goes wrong, the books balance: each task has one outcome, no attempt begins twice; and who cheats is caught."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from simulated_tasks import ONE, Tasks, core_seconds, launcher, machine, rows, uids

import planted_faults
from pilotage.core.agent.core import AgentCore
from pilotage.errors import InvariantViolated
from pilotage.model.execution import LaneTasks
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.resources import Request
from pilotage.model.services import Service
from pilotage.model.workload import Row, Template
from pilotage.sim.jobs import Job
from pilotage.sim.launching import Launching
from pilotage.sim.links import Link
from pilotage.sim.model import IDEAL, Arrival, Faults
from pilotage.sim.records import Log
from pilotage.sim.result import Result
from pilotage.sim.runners import Runners
from pilotage.sim.world import World
from pilotage.wire.link import IncomingLink
from planted_faults import Patch, require_noticed

PILOT = "pilot.0000"
COSTLY = launcher(startup_s=3.0, starts_per_s=20.0, prepare_s=0.5, acknowledge_s=0.2, most_at_once=12, failure_share=0.05)
NARROW = launcher(starts_per_s=20.0, prepare_s=0.5, most_per_node=2)
BOTH = pytest.mark.parametrize("client", [True, False])


def mixed(seed: int, count: int = 300, widest: int = 6) -> Tasks:
    """Tasks of many kinds that come over 100 seconds, some with retries."""
    chance = random.Random(seed)
    templates = {
        ONE: Template(executable="/bin/true"),
        TemplateId(2): Template(executable="/bin/true", request=Request(cores=3), retries=2),
        TemplateId(3): Template(mode="function", restartable=True),
        TemplateId(4): Template(executable="/bin/true", request=Request(ranks=widest, cores=2), retries=1),
        TemplateId(5): Template(executable="/bin/true", timeout_s=20.0),
        TemplateId(6): Template(executable="/bin/server", service=Service()),
    }
    names = uids(count)
    kinds = [chance.choice([1, 1, 1, 2, 3, 4, 5]) for _ in names]
    kinds[count // 2] = 6
    tasks = [Row(uid, TemplateId(kind)) for uid, kind in zip(names, kinds, strict=True)]
    arrivals = [Arrival(100.0 * first / count, tasks[first : first + 20]) for first in range(0, count, 20)]
    seconds = {uid: chance.choice((0.01, 1.0, 5.0, 40.0)) for uid in names}
    return Tasks((), templates, arrivals, seconds=seconds)


def run(workload: Tasks, faults: Faults, *, seed: int = 0, **more: object) -> Result:
    return World(machine(cores=8), workload, nodes=4, faults=faults, seed=seed, **more).finish()  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------- one by one


@BOTH
def test_an_agent_that_dies_changes_nothing_but_the_time(client: bool) -> None:
    deaths = tuple((float(at), PILOT) for at in range(1, 60, 7))
    result = run(Tasks([4.0] * 200), Faults(kill_agents_at_s=deaths, restart_s=2.0), client=client)
    assert result.agent_deaths >= 5
    assert result.outcomes == {Ending.DONE: 200}
    assert result.starts == 200, "what ran went on, and none ran twice"
    assert result.makespan_s > 28.0
    parts = core_seconds(result)
    assert parts.pop("offered") == pytest.approx(sum(parts.values()))


@BOTH
def test_messages_that_are_late_lost_and_doubled_change_nothing_but_the_time(client: bool) -> None:
    faults = Faults(message_delay_s=0.5, message_loss=0.2)
    result = run(Tasks([4.0] * 400), faults, client=client, most_open=64)
    assert result.links_broken > 5
    assert result.outcomes == {Ending.DONE: 400}
    assert result.starts == 400


def test_clocks_that_differ_change_nothing() -> None:
    plain, skewed = run(mixed(1), Faults()), run(mixed(1), Faults(clock_skew_s=30.0))
    assert (skewed.outcomes, skewed.starts) == (plain.outcomes, plain.starts)


def test_a_lost_node_takes_its_tasks_with_it_and_gets_no_more() -> None:
    """4 nodes of one core: at 5 s one is lost, with its task; the other three share what waits."""
    result = World(machine(), Tasks([10.0] * 8), nodes=4, faults=Faults(lose_nodes_at_s=((5.0, 2),))).finish()
    assert result.outcomes == {Ending.DONE: 7, Ending.NODE_FAILED: 1}
    assert result.makespan_s == 30.0
    assert core_seconds(result) == {"offered": 120.0, "running": 75.0, "lost": 25.0, "idle": 20.0}
    assert result.nodes_lost == 1


def test_who_was_on_a_lost_node_and_may_run_again_does() -> None:
    templates = {ONE: Template(executable="/bin/true", retries=1)}
    result = World(machine(), Tasks([10.0] * 4, templates), nodes=4, faults=Faults(lose_nodes_at_s=((5.0, 2),))).finish()
    assert (result.outcomes, result.starts, result.makespan_s) == ({Ending.DONE: 4}, 5, 20.0)


def test_what_no_node_is_left_for_cannot_be_placed() -> None:
    templates = {ONE: Template(executable="/bin/true", request=Request(ranks=4))}
    result = World(machine(), Tasks([10.0] * 2, templates), nodes=4, faults=Faults(lose_nodes_at_s=((5.0, 0),))).finish()
    assert result.outcomes == {Ending.NODE_FAILED: 1, Ending.INFEASIBLE: 1}


def test_what_can_never_run_any_more_ends_though_a_service_runs() -> None:
    templates = {
        ONE: Template(executable="/bin/server", service=Service()),
        TemplateId(2): Template(executable="/bin/true", request=Request(ranks=3)),
    }
    arrival = Arrival(0.0, [Row(TaskUid("s"), ONE), *rows(uids(2), TemplateId(2))])
    workload = Tasks((), templates, [arrival], seconds=dict.fromkeys(uids(2), 10.0))
    result = World(machine(), workload, nodes=4, faults=Faults(lose_nodes_at_s=((5.0, 1), (6.0, 2)))).finish()
    assert result.outcomes == {Ending.DONE: 1, Ending.NODE_FAILED: 1, Ending.INFEASIBLE: 1}


def test_an_agent_that_recovers_after_a_node_was_lost_places_nothing_there() -> None:
    faults = Faults(lose_nodes_at_s=((5.0, 0),), kill_agents_at_s=((3.0, PILOT),), restart_s=10.0)
    result = World(machine(), Tasks([10.0] * 6), nodes=2, faults=faults).finish()
    assert result.outcomes == {Ending.DONE: 5, Ending.NODE_FAILED: 1}
    assert result.starts == 6


def test_nodes_are_lost_by_chance_under_the_seed() -> None:
    templates = {ONE: Template(executable="/bin/true", retries=100)}
    faults = Faults(node_losses_per_day=400.0)
    lost = [run(Tasks([100.0] * 60, templates), faults, seed=seed) for seed in (3, 3, 5)]
    assert 1 <= lost[0].nodes_lost < 4
    assert lost[0].outcomes == {Ending.DONE: 60}
    assert lost[0].makespan_s == lost[1].makespan_s != lost[2].makespan_s


def test_a_lost_pilot_leaves_its_tasks_to_the_others() -> None:
    """Two pilots of one core: what ran in the lost one is lost, as it may not run twice; the rest goes to the other."""
    faults = Faults(lose_partitions_at_s=((5.0, PILOT),))
    result = World(machine(), Tasks([10.0] * 6), nodes=2, pilots=2, faults=faults).finish()
    assert result.outcomes == {Ending.DONE: 5, Ending.LOST: 1}
    assert [part.starts for part in result.partitions] == [1, 5]
    assert result.makespan_s == 50.0
    assert core_seconds(result) == {"offered": 100.0, "running": 55.0, "lost": 45.0}


def test_what_may_run_twice_runs_again_when_its_pilot_is_lost() -> None:
    templates = {ONE: Template(executable="/bin/true", restartable=True)}
    faults = Faults(lose_partitions_at_s=((5.0, PILOT),))
    result = World(machine(), Tasks([10.0] * 6, templates), nodes=2, pilots=2, faults=faults).finish()
    assert (result.outcomes, result.starts) == ({Ending.DONE: 6}, 7)


@BOTH
def test_the_last_pilot_takes_all_that_is_open_with_it(client: bool) -> None:
    result = World(
        machine(), Tasks([10.0] * 6), nodes=2, faults=Faults(lose_partitions_at_s=((15.0, PILOT),)), client=client
    ).finish()
    assert result.outcomes[Ending.DONE] == 2
    assert result.outcomes[Ending.LOST] == 2
    assert sum(result.outcomes.values()) == 6


def test_a_fault_of_who_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no pilot or partition 'pilot\.1'.*pilot\.0000"):
        run(Tasks([1.0]), Faults(kill_agents_at_s=((1.0, "pilot.1"),)))
    with pytest.raises(ValueError, match="node 4 is to be lost, of 4"):
        run(Tasks([1.0]), Faults(lose_nodes_at_s=((1.0, 4),)))
    with pytest.raises(ValueError, match="restart_s=60"):
        run(Tasks([1.0]), Faults(restart_s=60.0))
    with pytest.raises(ValueError, match=r"message_loss=0\.6"):
        run(Tasks([1.0]), Faults(message_loss=0.6))


# --------------------------------------------------------------------------------------------------------- all together


def everything(seed: int) -> tuple[Faults, dict[str, object]]:
    """Faults of all kinds, by the seed; and what else differs."""
    chance = random.Random(seed)
    pilots = chance.choice((1, 2, 3))
    names = [f"pilot.{number:04d}" for number in range(pilots)]
    times = sorted(chance.uniform(0.0, 150.0) for _ in range(chance.randint(0, 12)))
    faults = Faults(
        seed=seed,
        lose_nodes_at_s=tuple((chance.uniform(0.0, 120.0), chance.randrange(4)) for _ in range(chance.randint(0, 2))),
        lose_partitions_at_s=((chance.uniform(0.0, 120.0), names[0]),) if chance.random() < 0.3 else (),
        kill_agents_at_s=tuple((at, chance.choice(names)) for at in times),
        restart_s=chance.choice((0.1, 5.0, 30.0)),
        message_loss=chance.choice((0.0, 0.02, 0.3)),
        message_delay_s=chance.choice((0.0, 0.01, 2.0)),
        clock_skew_s=chance.choice((0.0, 0.5, 20.0)),
    )
    more: dict[str, object] = {
        "pilots": pilots,
        "launcher": chance.choice((IDEAL, COSTLY, NARROW)),
        "walltime_s": chance.choice((None, None, 120.0)),
        "client": pilots > 1 or chance.random() < 0.7,
        "most_open": chance.choice((50, 1000)),
    }
    return faults, more


@pytest.mark.parametrize("seed", range(60))
def test_the_books_balance_whatever_goes_wrong(seed: int) -> None:
    faults, more = everything(seed)
    result = run(mixed(seed), faults, seed=seed, **more)
    assert sum(result.outcomes.values()) == result.tasks
    if more["walltime_s"] is None and not faults.lose_partitions_at_s:
        assert result.tasks == 300
    for held in (result.core_s, result.gpu_s):
        parts = {field: getattr(held, field) for field in held.__struct_fields__}
        assert min(parts.values()) >= -1e-6, parts
        assert parts.pop("offered") == pytest.approx(sum(parts.values()))


@pytest.mark.parametrize("seed", range(3))
def test_what_an_agent_recovers_is_what_it_was(seed: int) -> None:
    faults, more = everything(seed)
    faults = Faults(kill_agents_at_s=((1000.0, PILOT),), message_loss=faults.message_loss)
    world = World(machine(cores=8), mixed(seed), nodes=4, faults=faults, client=bool(more["client"]))
    for until_s in (10.0, 33.0, 70.0, 101.0):
        world.run(until_s=until_s)
        (pilot,) = world.pilots.values()
        assert pilot.core is not None
        assert pilot._log.recover() == pilot.core.state
    world.finish()


# ---------------------------------------------------------------------------------------------------------- determinism


def history(seed: int) -> str:
    faults, more = everything(seed)
    return run(mixed(seed), faults, seed=seed, note_history=True, **more).history


def test_the_same_seed_has_the_same_history_under_every_hash_seed() -> None:
    program = "from test_world_faults import history; print(history(7), history(8))"
    path = os.pathsep.join(str(folder) for folder in (Path(__file__).parent, Path(planted_faults.__file__).parent))
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for hash_seed in ("0", "1")
    }
    assert told == {f"{history(7)} {history(8)}\n"}
    assert history(7) != history(8)


def test_a_history_is_noted_where_it_is_wanted() -> None:
    assert run(Tasks([1.0]), Faults()).history == ""


# ------------------------------------------------------------------------------------------------------- planted faults


def forgets_what_it_launched(patch: pytest.MonkeyPatch) -> None:
    """An agent recovers from a log without its last records."""
    recover = Log.recover

    def short(log: Log[Any, Any]) -> Any:
        del log._records[-4:]
        return recover(log)

    patch.setattr(Log, "recover", short)


def takes_doubles(patch: pytest.MonkeyPatch) -> None:
    """A receiver takes a message as new that it has."""
    patch.setattr(IncomingLink, "accept", lambda link, number, size=0: "new")


def begins_twice(patch: pytest.MonkeyPatch) -> None:
    """A runner begins each tenth attempt twice."""
    begin = Launching._begin

    def twice(launching: Launching, jobs: list[Job], at: float) -> None:
        begin(launching, jobs + jobs[:1] if launching.starts % 10 == 9 else jobs, at)

    patch.setattr(Launching, "_begin", twice)


def loses_tasks(patch: pytest.MonkeyPatch) -> None:
    """A runner drops a task that it was handed."""
    launch = Launching.launch

    def some(launching: Launching, name: object, lanes: list[LaneTasks], templates: object) -> None:
        launch(launching, name, lanes[1:] if launching.starts > 20 else lanes, templates)  # type: ignore[arg-type]

    patch.setattr(Launching, "launch", some)


def never_resends(patch: pytest.MonkeyPatch) -> None:
    """What was under way when a link broke is gone for good."""
    patch.setattr(Link, "_send_again", lambda link, frames, up: None)


def adopts_nothing(patch: pytest.MonkeyPatch) -> None:
    """An agent that recovers is told that its runners hold nothing."""
    patch.setattr(Runners, "_executions", lambda runners, job: [])


@pytest.mark.parametrize(
    "fault", [forgets_what_it_launched, takes_doubles, begins_twice, loses_tasks, never_resends, adopts_nothing]
)
def test_a_planted_fault_is_caught(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_all(seed: int) -> None:
        faults, more = everything(seed)
        run(mixed(seed), faults, seed=seed, **more)

    # It may trip anything: the witness, the books of a policy, a fold.
    require_noticed(fault, monkeypatch, run_all, 60, by=Exception)


def test_the_witness_tells_of_a_task_that_two_arrivals_bring() -> None:
    names = uids(1)
    workload = Tasks(arrivals=[Arrival(0.0, rows(names)), Arrival(1.0, rows(names))], seconds=dict.fromkeys(names, 10.0))
    with pytest.raises(InvariantViolated, match="two tasks of one name, among t0"):
        World(machine(), workload, nodes=1).finish()


def test_a_simulation_that_stands_still_says_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AgentCore, "next_deadline", lambda core: None)
    templates = {ONE: Template(executable="/bin/true", named_env="conda")}
    world = World(machine(), Tasks([1.0], templates), nodes=1)
    monkeypatch.setattr(type(world.client), "_offer", lambda client, pilot: None)
    with pytest.raises(InvariantViolated, match=r"nothing can happen any more at 0 s, and 1 tasks are open"):
        world.run()
    assert world.stage.witness.open == {TaskUid("t0"): 0.0}
