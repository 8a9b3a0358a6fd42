"""Descriptions that cannot be accepted: one error at the caller's line, and nothing is submitted."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import integration_payloads as payloads
import pytest
from integration_support import PATIENCE_S, Campaign, outcome_of, shell

import pilotage as rp
from pilotage import Ending, InvalidPilot, InvalidTask, UnknownAttribute


@pytest.fixture(scope="module")
def idle(base: Path, _nothing_left: None) -> Iterator[Campaign]:
    """A session without a pilot."""
    campaign = Campaign(base)
    yield campaign
    campaign.session.close()


WRONG_TASKS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: {"executable": "x", "ranks": 0}, InvalidTask, "ranks=0: it must be 1 or more"),
    (lambda: {"executable": "x", "ranks": -3}, InvalidTask, "ranks=-3: it must be 1 or more"),
    (lambda: {"executable": "x", "cores_per_rank": 0}, InvalidTask, "cores_per_rank=0: it must be 1 or more"),
    (lambda: {"executable": "x", "gpus_per_rank": -1}, InvalidTask, "gpus_per_rank=-1: it must be 0 or more"),
    (lambda: {"executable": "x", "gpus_per_rank": 1.5}, InvalidTask, "gpus_per_rank=1.5.*ask for 1 or 2"),
    (lambda: {"executable": "x", "mem_per_rank": -5}, InvalidTask, "mem_per_rank=-5.*0 or more"),
    (lambda: {"executable": "x", "timeout": -1}, InvalidTask, "timeout=-1.*seconds.*0 or more"),
    (lambda: {"executable": "x", "timeout": float("nan")}, InvalidTask, "timeout=nan"),
    (lambda: {"executable": "x", "retries": -1}, InvalidTask, "retries=-1.*0 or more"),
    (lambda: {"executable": "x", "ranks": "two"}, InvalidTask, r"ranks takes a whole number \(int\), not 'two' \(str\)"),
    (lambda: {"executable": "x", "ranks": 2.5}, InvalidTask, r"ranks takes a whole number \(int\), not 2.5 \(float\)"),
    (lambda: {"executable": "x", "ranks": True}, InvalidTask, "ranks takes a whole number"),
    (lambda: {"executable": "x", "arguments": "-l"}, InvalidTask, re.escape("put it into a list: ['-l']")),
    (lambda: {"executable": "x", "arguments": [None]}, InvalidTask, r"arguments\[0\] is None.*text, numbers and paths"),
    (lambda: {"executable": "x", "arguments": ["a\0b"]}, InvalidTask, r"arguments\[0\].*NUL"),
    (lambda: {"executable": "x", "arguments": ["\udcff"]}, InvalidTask, r"arguments\[0\].*not valid Unicode"),
    (lambda: {"executable": 3}, InvalidTask, "executable takes a path"),
    (lambda: {"executable": "x", "environment": {"A=B": 1}}, InvalidTask, "environment has the name 'A=B'"),
    (lambda: {"executable": "x", "environment": {"A": []}}, InvalidTask, r"environment\['A'\] is \[\]"),
    (lambda: {"executable": "x", "environment": "A=B"}, InvalidTask, "environment takes a dict"),
    (lambda: {"function": "payloads.add"}, InvalidTask, "function takes a callable"),
    (lambda: {"function": payloads.add, "args": 3}, InvalidTask, "args takes a list"),
    (lambda: {"function": payloads.add, "arguments": [3]}, InvalidTask, "arguments are for executables.*args"),
    (lambda: {"executable": "x", "args": [3]}, InvalidTask, "args are for functions.*arguments"),
    (lambda: {"executable": "x", "function": payloads.add}, InvalidTask, "both executable='x' and a function"),
    (dict, InvalidTask, "nothing to run.*set executable .*function"),
    (lambda: {"executable": "x", "mode": "task.exectable"}, InvalidTask, "did you mean 'task.executable'"),
    (lambda: {"executable": "x", "tags": {"collocate": "a"}}, InvalidTask, "did you mean 'colocate'"),
    (lambda: {"executable": "x", "tags": {"exclusive": "yes"}}, InvalidTask, "True or False"),
    (lambda: {"executable": "x", "uid": "a/b"}, InvalidTask, "uid='a/b'.*cannot name a task.*without '/'"),
    (lambda: {"executable": "x", "uid": ".."}, InvalidTask, r"uid='\.\.'.*cannot name a task"),
    (lambda: {"executable": "x", "pilot": "pilot.0099"}, InvalidTask, "pilot='pilot.0099'.*no such pilot"),
    (
        lambda: {"executable": "x", "pre_exec": [{1: "module load"}]},
        InvalidTask,
        "is for rank 1 .*the ranks of this task are 0",
    ),
    (lambda: {"mode": rp.TASK_EVAL, "code": "1 +"}, InvalidTask, "code is no Python expression, line 1"),
    (lambda: {"executable": "x", "after": "no.such"}, InvalidTask, "after names 'no.such', which is no task of this session"),
    (lambda: {"executable": "x", "uid": "self", "services": ["self"]}, InvalidTask, "services names the task itself"),
    (lambda: {"executabel": "x"}, UnknownAttribute, "'executabel'; did you mean 'executable'"),
    (lambda: {"executable": "x", "core_per_rank": 1}, UnknownAttribute, "did you mean 'cores_per_rank'"),
    (lambda: {"executable": "x", "zzz": 1}, UnknownAttribute, "no attribute 'zzz'$"),
    (lambda: "/bin/date", InvalidTask, "takes a TaskDescription, a dict, or several of them, not '/bin/date'"),
    (lambda: 3, InvalidTask, r"not 3 \(int\)"),
    (lambda: [rp.TaskDescription(executable="x"), 3], InvalidTask, r"TaskDescription or a dict, not 3 \(int\)"),
]


@pytest.mark.parametrize(("wrong", "error", "told"), WRONG_TASKS, ids=[told[:40] for _, _, told in WRONG_TASKS])
def test_a_wrong_task_is_refused_at_the_callers_line(
    idle: Campaign, wrong: Callable[[], Any], error: type[Exception], told: str
) -> None:
    before = idle.tasks.list_tasks()
    with pytest.raises(error, match=told) as raised:
        idle.tasks.submit_tasks(wrong())
    assert "\n" not in str(raised.value)
    assert traceback.extract_tb(raised.value.__traceback__)[0].filename == __file__
    assert idle.tasks.list_tasks() == before


def test_an_unknown_attribute_is_refused_when_it_is_set_or_read() -> None:
    description = rp.TaskDescription()
    with pytest.raises(UnknownAttribute, match="no attribute 'rank'; did you mean 'ranks'"):
        description.rank = 3
    with pytest.raises(UnknownAttribute, match="did you mean 'stdout'"):
        _ = description.stduot
    with pytest.raises(InvalidTask, match="ranks takes a whole number"):
        description.ranks = "3"
    assert description == rp.TaskDescription()


def test_a_list_with_one_wrong_task_is_refused_as_a_whole(idle: Campaign) -> None:
    before = idle.tasks.list_tasks()
    with pytest.raises(InvalidTask, match="task 3 of 4: ranks=0"):
        idle.tasks.submit_tasks([rp.TaskDescription(executable="x", ranks=ranks) for ranks in (1, 2, 0, 1)])
    with pytest.raises(InvalidTask, match="task 'named': ranks=0"):
        idle.tasks.submit_tasks([rp.TaskDescription(executable="x", uid="named", ranks=0)])
    assert idle.tasks.list_tasks() == before


# uids


def test_two_different_tasks_with_one_uid(idle: Campaign) -> None:
    first = idle.tasks.submit_tasks(rp.TaskDescription(uid="md.1", executable="md", arguments=["300"]))
    for other in (
        rp.TaskDescription(uid="md.1", executable="md", arguments=["310"]),
        rp.TaskDescription(uid="md.1", executable="md2", arguments=["300"]),
        rp.TaskDescription(uid="md.1", executable="md", arguments=["300"], ranks=2),
        rp.TaskDescription(uid="md.1", function=payloads.add, args=[1]),
    ):
        with pytest.raises(InvalidTask, match=r"task 'md\.1'.*another description.*uid of its own"):
            idle.tasks.submit_tasks(other)
    assert idle.tasks.get_tasks("md.1") == first


def test_two_different_tasks_with_one_uid_in_one_list(idle: Campaign) -> None:
    with pytest.raises(InvalidTask, match=r"task 'md\.2'"):
        idle.tasks.submit_tasks([rp.TaskDescription(uid="md.2", executable="md", arguments=[n]) for n in (1, 2)])
    assert "md.2" not in idle.tasks.list_tasks()


def test_one_uid_and_the_same_description_is_the_same_task(idle: Campaign) -> None:
    described = {"uid": "md.3", "executable": "md", "arguments": ["1"], "environment": {"A": "1", "B": "2"}}
    first = idle.tasks.submit_tasks(described)
    assert idle.tasks.submit_tasks(rp.TaskDescription(described)) == first
    assert idle.tasks.submit_tasks([described]) == [first]
    assert idle.tasks.get_tasks("md.3") == first


def test_the_same_task_twice_in_one_list(idle: Campaign) -> None:
    described = {"uid": "md.4", "executable": "md", "arguments": ["1"]}
    first = idle.tasks.submit_tasks(described)
    assert idle.tasks.submit_tasks([described, described]) == [first, first]
    assert idle.tasks.get_tasks("md.4") == first


def test_a_pilot_is_no_task(idle: Campaign) -> None:
    with pytest.raises(InvalidTask, match="PilotDescription"):
        idle.tasks.submit_tasks(rp.PilotDescription(resource="local.localhost"))


def test_the_same_function_and_arguments_are_the_same_task(idle: Campaign) -> None:
    described = {"uid": "f.1", "function": payloads.add, "args": [1, {"b": 2}]}
    assert idle.tasks.submit_tasks(described) == idle.tasks.submit_tasks(described)
    with pytest.raises(InvalidTask, match=r"task 'f\.1'"):
        idle.tasks.submit_tasks({**described, "args": [2, {"b": 2}]})


# pilots


WRONG_PILOTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"resource": "local.localhst", "cores": 1, "runtime": 1},
        rp.UnknownPlatform,
        "'local.localhst'; did you mean 'local.localhost'",
    ),
    (
        {"resource": "ornl.nowhere", "cores": 1, "runtime": 1},
        rp.UnknownPlatform,
        r"'ornl.nowhere'; did you mean 'ornl.frontier'\? Known are access.bridges2, ",
    ),
    ({"cores": 1, "runtime": 1}, InvalidPilot, "no resource is given; name a platform"),
    ({"resource": "local.localhost", "runtime": 1}, InvalidPilot, "cores"),
    ({"resource": "local.localhost", "cores": -1, "runtime": 1}, InvalidPilot, "cores=-1"),
    ({"resource": "local.localhost", "cores": 1, "runtime": 0}, InvalidPilot, "runtime=0.*minutes.*more than 0"),
    ({"resource": "local.localhost", "cores": 1, "runtime": -5}, InvalidPilot, "runtime=-5"),
    (
        {"resource": "local.localhost", "cores": 1, "runtime": 1, "gpus": 999},
        InvalidPilot,
        r"gpus=999 exceeds the \d+ GPUs of local",
    ),
    (
        {"resource": "local.localhost", "nodes": 7, "runtime": 1},
        InvalidPilot,
        "nodes=7 exceeds the 1 node of local.*local.emulated",
    ),
    (
        {"resource": "local.localhost", "cores": 1, "runtime": 1, "memory": 10**9},
        InvalidPilot,
        r"memory=1000000000 exceeds the \d+ MB",
    ),
    ({"resource": "local.localhost", "core": 1}, UnknownAttribute, "did you mean 'cores'"),
    ({"resource": 3}, InvalidPilot, "resource takes"),
    ({"resource": "local.localhost", "cores": "2"}, InvalidPilot, "cores takes a whole number"),
]


@pytest.mark.parametrize(("wrong", "error", "told"), WRONG_PILOTS, ids=[told[:40] for _, _, told in WRONG_PILOTS])
def test_a_wrong_pilot_is_refused_at_the_callers_line(
    idle: Campaign, wrong: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told) as raised:
        idle.pilots.submit_pilots(wrong)
    assert traceback.extract_tb(raised.value.__traceback__)[0].filename == __file__
    assert idle.pilots.list_pilots() == []


def test_unknown_names_suggest_the_nearest(idle: Campaign) -> None:
    with pytest.raises(rp.InvalidRequest, match=r"no state 'DOEN'; did you mean 'DONE'"):
        idle.tasks.wait_tasks(state="DOEN", timeout=0)
    with pytest.raises(rp.InvalidRequest, match="there is no task 'nobody'"):
        idle.tasks.get_tasks("nobody")
    with pytest.raises(rp.InvalidRequest, match="did you mean 'round_robin'"):
        rp.TaskManager(idle.session, scheduler="round-robin")
    with pytest.raises(rp.InvalidRequest, match=r"has a manager 'tmgr\.0000' already"):
        rp.TaskManager(idle.session, uid="tmgr.0000")
    with pytest.raises(AttributeError, match="did you mean 'PMGR_ACTIVE'"):
        _ = rp.PMGR_ACTIV
    with pytest.raises(rp.UnknownPlatform, match=r"did you mean 'local\.emulated'"):
        idle.session.get_resource_config("local.emulate")


@pytest.mark.parametrize(("timeout", "error"), [(-1, rp.InvalidRequest)])
def test_a_wrong_timeout(idle: Campaign, timeout: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeout=-1: it is in seconds and must be 0 or more"):
        idle.tasks.wait_tasks(timeout=timeout)


def test_a_timeout_of_the_wrong_type(idle: Campaign) -> None:
    with pytest.raises(rp.InvalidRequest, match="timeout='soon'"):
        idle.tasks.wait_tasks(timeout="soon")


CALLS: list[tuple[Callable[[Campaign], object], type[Exception], str]] = [
    (lambda idle: idle.pilots.submit_pilots(3), rp.InvalidPilot, r"submit_pilots takes a PilotDescription.*, not 3 \(int\)"),
    (lambda idle: idle.tasks.add_pilots(None), rp.InvalidRequest, r"by handles or uids \(str\), not None \(NoneType\)"),
    (lambda idle: idle.tasks.cancel_tasks(3), rp.InvalidRequest, r"tasks are named by their uids \(str\), not 3 \(int\)"),
    (lambda idle: idle.tasks.get_tasks([[]]), rp.InvalidRequest, r"tasks are named by their uids \(str\), not \[\] \(list\)"),
    (lambda idle: idle.pilots.wait_pilots([3]), rp.InvalidRequest, r"pilots are named by their uids \(str\), not 3 \(int\)"),
    (
        lambda idle: rp.TaskManager(idle.session, scheduler=3),
        rp.InvalidRequest,
        "there is no scheduler 3; known are round_robin",
    ),
    (lambda idle: rp.TaskManager(None), rp.InvalidRequest, r"session=None \(NoneType\): a TaskManager is made for a Session"),
    (lambda idle: rp.Session(3), rp.InvalidRequest, r"uid=3 \(int\): a session is named by text"),
    (lambda idle: rp.Session.resume(3), rp.InvalidRequest, r"uid=3 \(int\): give the uid of a session"),
]


@pytest.mark.parametrize(("call", "error", "told"), CALLS, ids=[told[:30] for _, _, told in CALLS])
def test_what_is_of_the_wrong_type_is_refused(
    idle: Campaign, call: Callable[[Campaign], object], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        call(idle)


# requests that no node, or all nodes together, can never satisfy

INFEASIBLE: list[tuple[dict[str, Any], str]] = [
    ({"cores_per_rank": 9}, "9 cores per rank exceed the 4 cores of a node"),
    ({"gpus_per_rank": 3}, "3 GPUs per rank exceed the 2 GPUs of a node"),
    ({"mem_per_rank": 5000}, r"\d+ MiB of memory per rank exceed the 4096 MiB of a node"),
    ({"lfs_per_rank": 10**8}, r"\d+ MiB of .*disk per rank exceed"),
    ({"ranks": 9}, "9 ranks of 1 core.*8.*all 2 nodes"),
    ({"ranks": 5, "gpus_per_rank": 1}, "5 ranks.*all 2 nodes"),
    ({"ranks": 3, "mem_per_rank": 3000}, "3 ranks.*all 2 nodes"),
    ({"ranks": 3, "ranks_per_node": 1}, "3 ranks with 1 on each node.*more than the 2 nodes"),
]


@pytest.fixture(scope="module")
def small(base: Path, _nothing_left: None) -> Iterator[Campaign]:
    """Two emulated nodes of 4 cores and 2 GPUs."""
    campaign = Campaign(base)
    try:
        campaign.start(
            resource="local.emulated", nodes=2, cores_per_node=4, gpus_per_node=2, memory_per_node=4096, disk_per_node=10_000
        )
        yield campaign
    finally:
        campaign.session.close()


@pytest.mark.parametrize(("request_", "told"), INFEASIBLE, ids=[str(request) for request, _ in INFEASIBLE])
def test_what_can_never_run_is_refused_with_the_reason(small: Campaign, request_: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidTask, match=told):
        small.tasks.submit_tasks(shell("true", **request_))


def test_what_was_submitted_before_its_pilot_and_can_never_run_there_ends_with_the_reason(small: Campaign) -> None:
    early = rp.TaskManager(small.session)
    request_, told = INFEASIBLE[0]
    task = early.submit_tasks(shell("true", **request_))
    early.add_pilots(small.pilots.list_pilots())
    task.wait(timeout=PATIENCE_S)
    assert (task.state, task.exit_code, outcome_of(task).ending) == (rp.FAILED, None, Ending.INFEASIBLE)
    assert re.search(told, task.exception), task.exception
    with pytest.raises(rp.TaskFailed, match="can never run here"):
        task.result(0)


def test_what_a_named_pilot_can_never_run_is_refused_with_the_task(small: Campaign) -> None:
    pilot = small.pilots.list_pilots()[0]
    known = small.tasks.list_tasks()
    with pytest.raises(InvalidTask, match="task 2 of 2: 9 cores per rank exceed the 4 cores of a node"):
        small.tasks.submit_tasks([shell("true"), shell("true", cores_per_rank=9, pilot=pilot)])
    assert small.tasks.list_tasks() == known


def test_what_just_fits_runs(small: Campaign) -> None:
    tasks = small.run(
        shell("true", ranks=8),
        shell("true", ranks=4, gpus_per_rank=1, cores_per_rank=2),
        shell("true", ranks=2, mem_per_rank=4096, cores_per_rank=4),
    )
    assert {task.state for task in tasks} == {rp.DONE}
