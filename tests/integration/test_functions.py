"""Functions: what can be called, what it gets and gives, and how exceptions come back."""

from __future__ import annotations

import functools
import math
import operator
import os
import re
import traceback
from collections.abc import Callable
from typing import Any

import integration_payloads as payloads
import pytest
from integration_payloads import Scale
from integration_support import Campaign, outcome_of

import pilotage as rp
from pilotage import Ending

OFFSET = 40


def add_offset(value: int) -> int:
    return value + OFFSET


def make_counter(step: int) -> Callable[[int], int]:
    def count(value: int) -> int:
        return value + step * OFFSET

    return count


async def add_later(left: int, right: int) -> int:
    import asyncio

    await asyncio.sleep(0)
    return left + right


class Local:
    """A class of the test itself."""

    def __init__(self, value: int) -> None:
        self.value = value

    def more(self, by: int) -> Local:
        return Local(self.value + by)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "expected"),
    [
        pytest.param(payloads.add, [1, 2], {}, 3, id="free function"),
        pytest.param(payloads.add, [1], {"right": 5}, 6, id="args and kwargs"),
        pytest.param(payloads.add, [], {"left": "a", "right": "b"}, "ab", id="kwargs only"),
        pytest.param(add_offset, [2], {}, 42, id="a global of its module"),
        pytest.param(lambda value: value * OFFSET, [2], {}, 80, id="lambda"),
        pytest.param(make_counter(2), [1], {}, 81, id="closure"),
        pytest.param(Scale(3).apply, [2], {"offset": 1}, 7, id="bound method"),
        pytest.param(Scale.double, [4], {}, 8, id="class method"),
        pytest.param(Scale.negate, [4], {}, -4, id="static method"),
        pytest.param(Scale(5), [2], {}, 10, id="instance with __call__"),
        pytest.param(Scale, [2], {}, Scale(2), id="class"),
        pytest.param(functools.partial(payloads.add, 1, right=9), [], {}, 10, id="partial"),
        pytest.param(functools.partial(lambda a, b: a - b, b=1), [5], {}, 4, id="partial of a lambda"),
        pytest.param(math.sqrt, [16], {}, 4.0, id="builtin"),
        pytest.param(operator.itemgetter("k"), [{"k": 7}], {}, 7, id="itemgetter"),
        pytest.param(str.upper, ["ü"], {}, "Ü", id="method of a builtin type"),
        pytest.param("{}-{}".format, [1, 2], {}, "1-2", id="method of a builtin object"),
        pytest.param(add_later, [1, 2], {}, 3, id="async def"),
    ],
)
def test_whatever_can_be_called(
    campaign: Campaign, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], expected: object
) -> None:
    task = campaign.run(rp.TaskDescription(function=function, args=args, kwargs=kwargs))
    assert task.result(0) == expected
    assert (task.return_value, task.state, task.exit_code, task.mode) == (expected, rp.DONE, 0, rp.TASK_FUNCTION)


def test_objects_of_the_tests_own_class_go_and_come_back(campaign: Campaign) -> None:
    made = campaign.call(Local(3).more, 4)
    assert (type(made), made.value) == (Local, 7)


def test_it_may_import_what_the_program_can(campaign: Campaign) -> None:
    def nested() -> int:
        import json

        from integration_payloads import add

        return add(json.loads("3"), 4)

    assert campaign.call(nested) == 7


@pytest.mark.parametrize("value", [None, True, 0, -1.5, "text ü", b"\0\xff", [], {"a": (1, {2})}, ..., float, 10**40])
def test_results_come_back_as_they_were(campaign: Campaign, value: object) -> None:
    assert campaign.call(lambda: value) == value


def test_a_function_changes_only_its_own_copy_of_an_argument(campaign: Campaign) -> None:
    mine = [1, 2]

    def extend(given: list[int]) -> list[int]:
        given.append(3)
        return given

    assert (campaign.call(extend, mine), mine) == ([1, 2, 3], [1, 2])


def test_ten_megabytes_go_and_come_back(campaign: Campaign) -> None:
    content = os.urandom(10_000_000)
    assert campaign.call(payloads.size_of, content) == len(content)
    assert campaign.call(bytes, content) == content


def test_many_calls_share_workers(campaign: Campaign) -> None:
    tasks = campaign.run([rp.TaskDescription(function=payloads.whoami) for _ in range(200)])
    assert 1 <= len({task.result(0)[0] for task in tasks}) <= 2


def test_a_call_can_ask_for_its_task(campaign: Campaign) -> None:
    def myself() -> tuple[str, str, int]:
        import pilotage

        task = pilotage.current_task()
        assert task is not None
        return task.uid, task.name, task.attempt

    assert campaign.run(rp.TaskDescription(function=myself, uid="call.me", name="me")).result(0) == ("call.me", "me", 1)


def test_what_asks_for_the_task_is_public() -> None:
    assert rp.current_task() is None


def test_environment_of_a_call(campaign: Campaign) -> None:
    def greeting() -> str | None:
        return os.environ.get("GREETING")

    assert campaign.call(greeting, environment={"GREETING": "hello"}) == "hello"
    assert campaign.call(greeting) is None


def test_what_a_call_prints_is_its_stdout(campaign: Campaign) -> None:
    def speak() -> None:
        import sys

        sys.stdout.write("said\n")
        sys.stderr.write("whispered\n")
        os.system("echo from a child")

    task = campaign.run(rp.TaskDescription(function=speak))
    assert "said" in (task.stdout or "")
    assert "whispered" in (task.stderr or "")


# exceptions


def test_an_exception_is_raised_by_result_with_the_remote_traceback(campaign: Campaign) -> None:
    task = campaign.run(rp.TaskDescription(function=payloads.fail_deeply, args=[2]))
    assert (task.state, outcome_of(task).ending) == (rp.FAILED, Ending.RAISED)
    with pytest.raises(LookupError, match="no water in replica True") as raised:
        task.result(0)
    shown = "".join(traceback.format_exception(raised.value))
    assert len(re.findall(r'integration_payloads\.py", line \d+, in fail_deeply', shown)) == 3
    assert task.exception == "LookupError: no water in replica True"
    assert "fail_deeply" in task.exception_detail


def test_the_cause_of_an_exception_comes_along(campaign: Campaign) -> None:
    with pytest.raises(RuntimeError, match="the input is missing") as raised:
        campaign.call(payloads.fail_with_cause)
    cause = raised.value.__cause__
    assert isinstance(cause, FileNotFoundError)
    assert cause.filename == "/no/such/file"


def test_the_context_of_an_exception_comes_along(campaign: Campaign) -> None:
    with pytest.raises(ValueError, match="second") as raised:
        campaign.call(payloads.fail_while_handling)
    assert isinstance(raised.value.__context__, KeyError)


def test_an_exception_that_plain_pickle_cannot_rebuild(campaign: Campaign) -> None:
    task = campaign.run(rp.TaskDescription(function=payloads.fail_fussily))
    with pytest.raises((payloads.FussyError, rp.TaskFailed), match="overflow at step 3"):
        task.result(0)
    assert "overflow at step 3" in task.exception


def test_an_exception_of_the_tests_own_class(campaign: Campaign) -> None:
    class OwnError(Exception):
        pass

    def fail() -> None:
        raise OwnError("mine")

    with pytest.raises(Exception, match="mine") as raised:
        campaign.call(fail)
    assert type(raised.value).__name__ == "OwnError"


@pytest.mark.parametrize("fatal", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_would_end_a_program_ends_only_the_call(campaign: Campaign, fatal: type[BaseException]) -> None:
    def leave() -> None:
        raise fatal("over")

    with pytest.raises(rp.TaskFailed, match=fatal.__name__) as raised:
        campaign.call(leave)
    assert isinstance(raised.value.__cause__, fatal)
    assert campaign.call(payloads.add, 1) == 2


def test_a_call_runs_out_of_time(campaign: Campaign) -> None:
    import time

    task = campaign.run(rp.TaskDescription(function=time.sleep, args=[600], timeout=0.3, grace=0.2))
    assert (task.state, outcome_of(task).ending) == (rp.FAILED, Ending.TIMED_OUT)
    assert "0.3 s" in task.exception
    assert campaign.call(payloads.add, 1) == 2


def test_retries_of_a_function(campaign: Campaign, tmp_path: Any) -> None:
    path = tmp_path / "tries"

    def third_time() -> int:
        payloads.append_line(str(path), "try")
        tries = len(path.read_text().split())
        if tries < 3:
            raise OSError("not yet")
        return tries

    task = campaign.run(rp.TaskDescription(function=third_time, retries=4))
    assert (task.result(0), task.attempt) == (3, 3)


def test_a_pythontask_as_users_of_radical_pilot_write_it(campaign: Campaign) -> None:
    @rp.pythontask
    def area(width: int, height: int = 2) -> int:
        return width * height

    assert campaign.run(rp.TaskDescription(function=area(3, height=5))).result(0) == 15
    assert campaign.run(rp.TaskDescription(mode=rp.TASK_FUNCTION, function=area(4))).result(0) == 8
