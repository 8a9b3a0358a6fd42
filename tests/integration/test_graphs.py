"""Tasks that run after others, as their users submit them: policies, order within a list, what is refused, and a resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from integration_support import PATIENCE_S, Campaign, shell

import pilotage as rp
from pilotage import Ending, InvalidTask


def states(tasks: list[rp.Task]) -> dict[str, str]:
    return {task.name: task.state for task in tasks}


def test_a_task_runs_when_those_before_it_are_done(campaign: Campaign, tmp_path: Path) -> None:
    order = tmp_path / "order"
    first, second = campaign.tasks.submit_tasks([shell(f"sleep 0.2; echo {n} >> {order}") for n in (1, 2)])
    last = campaign.run(shell(f"echo last >> {order}", after=[first, second.uid]))
    assert last.state == rp.DONE
    assert order.read_text().split()[-1] == "last"
    assert last.times.started >= max(first.times.ended, second.times.ended)


def test_one_task_may_stand_for_a_list(campaign: Campaign) -> None:
    first = campaign.tasks.submit_tasks(shell("true"))
    assert campaign.shell("true", after=first).state == rp.DONE
    assert campaign.shell("true", after=first.uid).state == rp.DONE
    assert campaign.shell("true", after=(one for one in [first])).state == rp.DONE


@pytest.mark.parametrize(
    ("script", "policy", "state"),
    [
        ("exit 0", "ok", rp.DONE),
        ("exit 3", "ok", rp.CANCELED),
        ("exit 0", "any", rp.DONE),
        ("exit 3", "any", rp.DONE),
        ("exit 0", "notok", rp.CANCELED),
        ("exit 3", "notok", rp.DONE),
    ],
)
def test_what_follows_depends_on_the_policy(campaign: Campaign, script: str, policy: str, state: str) -> None:
    first = campaign.tasks.submit_tasks(shell(script))
    second = campaign.run(shell("true", after=first, after_policy=policy))
    assert second.state == state
    if state == rp.CANCELED:
        assert second.outcome is not None
        assert second.outcome.ending is Ending.CANCELLED
        assert second.exception.startswith("cancelled: it was to run ")
        assert policy == "notok" or first.uid in second.exception


def test_the_order_within_a_list_does_not_matter(campaign: Campaign, tmp_path: Path) -> None:
    order = tmp_path / "order"

    def step(name: str, *after: str) -> rp.TaskDescription:
        return shell(f"echo {name} >> {order}", uid=f"list.{name}", name=name, after=[f"list.{one}" for one in after])

    tasks = campaign.run([step("d", "b", "c"), step("b", "a"), step("a"), step("c", "a")])
    assert set(states(tasks).values()) == {rp.DONE}
    assert [task.name for task in tasks] == ["d", "b", "a", "c"]
    lines = order.read_text().split()
    assert (lines[0], lines[-1], sorted(lines)) == ("a", "d", ["a", "b", "c", "d"])


def test_a_failure_cancels_all_that_follow(campaign: Campaign) -> None:
    chain = [shell("exit 1", uid="chain.0")]
    chain += [shell("true", uid=f"chain.{n}", after=f"chain.{n - 1}") for n in range(1, 6)]
    tasks = campaign.run(chain)
    assert [task.state for task in tasks] == [rp.FAILED] + [rp.CANCELED] * 5


def test_functions_and_other_modes_follow_too(campaign: Campaign) -> None:
    first = campaign.tasks.submit_tasks(rp.TaskDescription(mode=rp.TASK_EVAL, code="21"))
    second = campaign.run(rp.TaskDescription(mode=rp.TASK_EXEC, code="return 42", after=first))
    assert second.result() == 42


def test_a_list_longer_than_a_message_in_reverse_order(fresh: Campaign) -> None:
    fresh.start(executor="simulated", resource="local.emulated", nodes=4, cores_per_node=16)
    count = 4500
    described = [
        rp.TaskDescription(executable="md", uid=f"r.{n}", **({"after": f"r.{n + 500}"} if n + 500 < count else {}))
        for n in range(count)
    ]
    tasks = fresh.run(described)
    assert {task.state for task in tasks} == {rp.DONE}
    assert [task.uid for task in tasks] == [f"r.{n}" for n in range(count)]
    assert all(tasks[n].times.started >= tasks[n + 500].times.ended for n in range(0, count - 500, 97))


def test_tasks_wait_before_there_is_a_pilot_and_for_those_of_other_managers(fresh: Campaign) -> None:
    other = rp.TaskManager(fresh.session)
    first = other.submit_tasks(shell("echo first"))
    second = fresh.tasks.submit_tasks(shell("echo second", after=first))
    pilot = fresh.start()
    assert second.wait(timeout=0) not in rp.FINAL
    other.add_pilots(pilot)
    fresh.tasks.wait_tasks(timeout=PATIENCE_S)
    assert (first.state, second.state) == (rp.DONE, rp.DONE)


def test_a_cancelled_task_cancels_its_followers_only_by_policy(campaign: Campaign) -> None:
    first = campaign.tasks.submit_tasks(shell("sleep 600"))
    ok, either = campaign.tasks.submit_tasks([shell("true", after=first), shell("true", after=first, after_policy="any")])
    first.cancel()
    campaign.tasks.wait_tasks([ok.uid, either.uid], timeout=PATIENCE_S)
    assert (first.state, ok.state, either.state) == (rp.CANCELED, rp.CANCELED, rp.DONE)


def test_a_waiting_task_can_be_cancelled(campaign: Campaign, tmp_path: Path) -> None:
    first = campaign.tasks.submit_tasks(shell(f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done"))
    waiting = campaign.tasks.submit_tasks(shell(f"touch {tmp_path}/ran", after=first))
    waiting.cancel()
    assert waiting.wait(timeout=PATIENCE_S) == rp.CANCELED
    (tmp_path / "go").touch()
    assert first.wait(timeout=PATIENCE_S) == rp.DONE
    assert not (tmp_path / "ran").exists()


def test_tasks_go_on_waiting_after_a_resume(base: Path, tmp_path: Path) -> None:
    campaign = Campaign(base, uid="graph")
    first = campaign.tasks.submit_tasks(shell(f"echo first > {tmp_path}/first", uid="first"))
    described = shell(f"cat {tmp_path}/first", uid="second", after="first")
    campaign.tasks.submit_tasks(described)
    del first
    campaign.session.close(terminate=False)
    with rp.Session.resume("graph", base=base) as session:
        (manager,) = [one for one in session.get_task_managers() if one.list_tasks()]
        second = manager.get_tasks("second")
        assert second.description.after == ["first"]
        assert manager.submit_tasks(described) == second
        pilot = rp.PilotManager(session).submit_pilots({"resource": "local.localhost", "cores": 1, "runtime": 5})
        manager.add_pilots(pilot)
        manager.wait_tasks(timeout=PATIENCE_S)
        assert second.stdout == "first\n"


# what is refused


@pytest.mark.parametrize(
    ("described", "told"),
    [
        (
            lambda: [shell("true", uid="x", after="y"), shell("true", uid="y", after="x")],
            r"each for the next: x -> y -> x; take",
        ),
        (
            lambda: [shell("true", uid=f"c{n}", after=f"c{(n + 1) % 30}") for n in range(30)],
            r"c0 -> c1 -> c2 -> c3 -> \(23 more\) -> ",
        ),
        (lambda: shell("true", uid="x", after="x"), "task 'x': after names the task itself"),
        (
            lambda: [shell("true"), shell("true", after="task.00000x")],
            "task 2 of 2: after names 'task.00000x', which is no task .*did you mean",
        ),
        (
            lambda: shell("true", services="nothing.here"),
            "services names 'nothing.here', which is no task of this session or list",
        ),
        (
            lambda: [shell("true", uid="x"), shell("true", services="x")],
            "services names 'x', which is no service; name it in after",
        ),
        (
            lambda: [shell("sleep 1000", uid="db", mode=rp.TASK_SERVICE), shell("true", after="db")],
            "task 2 of 2: after names 'db', which is a service: it runs until its pilot ends.*name it in services",
        ),
        (lambda: shell("true", after=[3]), r"after\[0\] is 3 \(int\); give a task, or its uid"),
    ],
)
def test_an_order_that_cannot_be_is_refused(campaign: Campaign, described: Callable[[], object], told: str) -> None:
    campaign.tasks.submit_tasks(shell("true", uid="task.000000.known"))
    before = campaign.tasks.list_tasks()
    with pytest.raises(InvalidTask, match=told):
        campaign.tasks.submit_tasks(described())
    assert campaign.tasks.list_tasks() == before


def test_a_task_cannot_run_after_a_service_that_is_known(campaign: Campaign) -> None:
    server = campaign.tasks.submit_tasks(shell("sleep 1000", mode=rp.TASK_SERVICE))
    campaign.pilots.get_pilots()[0].register_service("elsewhere.db", "host:1")
    for named in (server, server.uid, "elsewhere.db"):
        with pytest.raises(
            InvalidTask, match=r"which is a service: .* name it in services, and the task runs once it is ready"
        ):
            campaign.tasks.submit_tasks(shell("true", after=[named]))
    server.cancel()


def test_a_task_of_another_session_is_refused(campaign: Campaign, open_campaign: Callable[..., Campaign]) -> None:
    other = open_campaign()
    foreign = other.tasks.submit_tasks(shell("true"))
    with pytest.raises(
        InvalidTask, match=f"after names .* of session {other.session.uid}; it has to be a task of this session"
    ):
        campaign.tasks.submit_tasks(shell("true", after=[foreign]))
