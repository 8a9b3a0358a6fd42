"""Tasks through a session and a pilot on this machine: what they give, and what is refused."""

from __future__ import annotations

import asyncio
import threading

import client_payloads
import pytest

import pilotage as rp


def test_an_executable(manager: rp.TaskManager) -> None:
    task = manager.submit_tasks(rp.TaskDescription(executable="/bin/sh", arguments=["-c", "echo out; echo err >&2"]))
    assert task.wait(timeout=30) == rp.DONE
    assert (task.exit_code, task.stdout, task.stderr, task.exception) == (0, "out\n", "err\n", None)
    assert task.result() is None
    assert task.stdout_path is not None and task.stdout_path.read_text() == "out\n"
    assert 0 < task.times.accepted <= task.times.started <= task.times.ended
    assert task.as_dict()["state"] == rp.DONE


def test_an_executable_that_fails(manager: rp.TaskManager) -> None:
    task = manager.submit_tasks({"executable": "/bin/sh", "arguments": ["-c", "echo sorry >&2; exit 3"], "name": "sad"})
    with pytest.raises(rp.TaskFailed, match=r"task\.000000.*(?s:.)*sorry") as caught:
        task.result(30)
    assert (task.state, task.exit_code, task.name) == (rp.FAILED, 3, "sad")
    assert caught.value.outcome is task.outcome


def test_a_missing_executable(manager: rp.TaskManager) -> None:
    task = manager.submit_tasks({"executable": "/no/such/program"})
    with pytest.raises(rp.TaskFailed, match="/no/such/program"):
        task.result(30)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "expected"),
    [
        (client_payloads.double, [21], {}, 42),
        (client_payloads.double, [], {"value": 4}, 8),
        (client_payloads.Scale(3).apply, [5], {}, 15),
        (lambda a, b=1: a + b, [1], {"b": 5}, 6),
        (client_payloads.big, [100_000], {}, b"x" * 100_000),
        (len, [b"y" * 50_000], {}, 50_000),
    ],
    ids=["free", "keywords", "method", "lambda", "large result", "large argument"],
)
def test_functions(
    manager: rp.TaskManager, function: object, args: list[object], kwargs: dict[str, object], expected: object
) -> None:
    task = manager.submit_tasks(rp.TaskDescription(function=function, args=args, kwargs=kwargs))
    assert task.result(30) == expected
    assert task.return_value == expected


def test_a_function_that_raises(manager: rp.TaskManager) -> None:
    task = manager.submit_tasks(rp.TaskDescription(function=client_payloads.fail, args=[5]))
    with pytest.raises(ValueError, match="5 is not liked"):
        task.result(30)
    assert task.state == rp.FAILED
    assert "client_payloads.py" in str(task.exception_detail)


def test_a_result_that_cannot_be_pickled(manager: rp.TaskManager) -> None:
    task = manager.submit_tasks(rp.TaskDescription(function=client_payloads.unopenable))
    with pytest.raises(Exception, match="pickle"):
        task.result(30)


def test_many_at_once_in_order(manager: rp.TaskManager) -> None:
    tasks = manager.submit_tasks([rp.TaskDescription(function=client_payloads.double, args=[number]) for number in range(5000)])
    assert [task.result(60) for task in tasks] == [2 * number for number in range(5000)]
    assert set(manager.wait_tasks(timeout=30)) == {rp.DONE}
    assert manager.list_tasks() == [task.uid for task in tasks]


def test_a_generator_of_dicts(manager: rp.TaskManager) -> None:
    tasks = manager.submit_tasks({"executable": "/bin/true"} for _ in range(3))
    assert manager.wait_tasks([task.uid for task in tasks], timeout=30) == [rp.DONE] * 3


def test_a_list_is_accepted_as_a_whole_or_not_at_all(manager: rp.TaskManager) -> None:
    with pytest.raises(rp.InvalidTask, match="3 of 3"):
        manager.submit_tasks([{"executable": "/bin/true"}, {"executable": "/bin/true"}, {"arguments": ["x"]}])
    with pytest.raises(rp.SerializationError, match="lock"):
        manager.submit_tasks(
            [{"executable": "/bin/true"}, rp.TaskDescription(function=client_payloads.double, args=[threading.Lock()])]
        )
    assert manager.list_tasks() == []
    assert manager.submit_tasks({"executable": "/bin/true"}).wait(timeout=30) == rp.DONE


@pytest.mark.parametrize("given", [None, 3, "text", [3]])
def test_what_is_no_description(manager: rp.TaskManager, given: object) -> None:
    with pytest.raises(rp.InvalidTask):
        manager.submit_tasks(given)  # type: ignore[call-overload]


def test_a_known_uid(manager: rp.TaskManager) -> None:
    first = manager.submit_tasks({"executable": "/bin/true", "uid": "mine"})
    again = manager.submit_tasks({"executable": "/bin/true", "uid": "mine"})
    assert again == first and manager.list_tasks() == ["mine"]
    with pytest.raises(rp.InvalidTask, match=r"'mine'.*another description"):
        manager.submit_tasks({"executable": "/bin/false", "uid": "mine"})
    with pytest.raises(rp.InvalidTask, match="'yours'"):
        manager.submit_tasks([{"executable": "/bin/true", "uid": "yours"}, {"executable": "/bin/false", "uid": "yours"}])
    assert manager.submit_tasks({"executable": "/bin/false", "uid": "yours"}).wait(timeout=30) == rp.FAILED


def test_more_than_the_pilot_has_is_refused_with_the_reason(manager: rp.TaskManager) -> None:
    with pytest.raises(rp.InvalidTask, match="1000 cores per rank exceed"):
        manager.submit_tasks({"executable": "/bin/true", "cores_per_rank": 1000})


def test_cancel(manager: rp.TaskManager) -> None:
    tasks = manager.submit_tasks([{"executable": "/bin/sleep", "arguments": ["100"]} for _ in range(4)])
    tasks[0].wait(rp.AGENT_EXECUTING, timeout=30)
    manager.cancel_tasks()
    assert manager.wait_tasks(timeout=30) == [rp.CANCELED] * 4
    with pytest.raises(rp.TaskCancelled):
        tasks[0].result()


def test_a_wait_with_a_timeout(manager: rp.TaskManager) -> None:
    task = manager.submit_tasks({"executable": "/bin/sleep", "arguments": ["100"]})
    assert manager.wait_tasks(timeout=0) != [rp.DONE]
    with pytest.raises(TimeoutError, match=r"task\.000000"):
        task.result(0.01)
    with pytest.raises(rp.InvalidRequest, match="AGENT_EXECUTING"):
        task.wait("AGENT_EXECUTNG")
    task.cancel()
    assert task.wait(timeout=30) == rp.CANCELED


def test_await(manager: rp.TaskManager) -> None:
    async def both() -> list[object]:
        tasks = manager.submit_tasks([rp.TaskDescription(function=client_payloads.double, args=[number]) for number in (1, 2)])
        return [await task for task in tasks]

    assert asyncio.run(both()) == [2, 4]


def test_handles_name_the_nearest_attribute(manager: rp.TaskManager) -> None:
    task = manager.submit_tasks({"executable": "/bin/true"})
    with pytest.raises(rp.UnknownAttribute, match="exit_code"):
        task.exitcode  # noqa: B018
    with pytest.raises(rp.UnknownAttribute, match="state"):
        manager.get_pilots()[0].stat  # noqa: B018
    with pytest.raises(rp.InvalidRequest, match=r"task\.000000"):
        manager.get_tasks("task.00000")


def test_late_binding_says_so_and_goes_on_with_a_pilot(session: rp.Session, caplog: pytest.LogCaptureFixture) -> None:
    manager = rp.TaskManager(session)
    tasks = manager.submit_tasks([{"executable": "/bin/true"}, {"executable": "/bin/true"}])
    assert "add_pilots" in caplog.text
    assert [task.state for task in tasks] == [rp.TMGR_SCHEDULING] * 2
    manager.add_pilots(rp.PilotManager(session).submit_pilots({"resource": "local.localhost", "cores": 1}))
    assert manager.wait_tasks(timeout=30) == [rp.DONE] * 2


def test_two_pilots_and_a_task_that_names_one(session: rp.Session) -> None:
    pilots = rp.PilotManager(session).submit_pilots([{"resource": "local.localhost", "cores": 1}] * 2)
    manager = rp.TaskManager(session, scheduler="backfilling")
    manager.add_pilots(pilots)
    named = manager.submit_tasks({"executable": "/bin/true", "pilot": pilots[1].uid})
    tasks = manager.submit_tasks([{"executable": "/bin/sleep", "arguments": ["0.05"]} for _ in range(12)])
    assert set(manager.wait_tasks(timeout=60)) == {rp.DONE}
    assert named.pilot == pilots[1].uid
    assert {task.pilot for task in tasks} == {pilot.uid for pilot in pilots}
    assert pilots[0].submit_tasks({"executable": "/bin/true"}).wait(timeout=30) == rp.DONE


def test_a_pilot_that_ends_before_its_tasks(session: rp.Session) -> None:
    pilot = rp.PilotManager(session).submit_pilots({"resource": "local.localhost", "cores": 1})
    manager = rp.TaskManager(session)
    manager.add_pilots(pilot)
    tasks = manager.submit_tasks([{"executable": "/bin/sleep", "arguments": ["100"]} for _ in range(3)])
    tasks[0].wait(rp.AGENT_EXECUTING, timeout=30)
    pilot.cancel()
    assert pilot.wait(timeout=30) == rp.CANCELED
    assert manager.wait_tasks(timeout=30) == [rp.CANCELED] * 3


def test_older_names(manager: rp.TaskManager) -> None:
    assert rp.UnitManager is rp.TaskManager
    units = manager.submit_units([rp.ComputeUnitDescription(executable="/bin/true")])
    assert manager.wait_units(timeout=30) == [rp.DONE] == [unit.state for unit in units]
