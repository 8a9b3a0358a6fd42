"""Every mode of a task: what it runs, what its user gets back, and how it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import integration_payloads as payloads
import pytest
from integration_support import Campaign, outcome_of

import pilotage as rp
from pilotage import Ending, InvalidTask, TaskFailed


def run(campaign: Campaign, **attributes: Any) -> rp.Task:
    return campaign.run(rp.TaskDescription(**attributes))


# shell, proc, executable


def test_a_shell_command_has_pipes_variables_and_an_exit_code(campaign: Campaign) -> None:
    task = run(campaign, mode=rp.TASK_SHELL, command="echo one two | wc -w > count; cat count; echo $PILOTAGE_TASK_ID; exit 3")
    assert (task.mode, task.state, task.exit_code, task.outcome.ending) == (rp.TASK_SHELL, rp.FAILED, 3, Ending.EXITED)
    assert task.stdout.split() == ["2", task.uid]
    assert Path(task.sandbox, "count").exists()


def test_a_command_needs_no_mode(campaign: Campaign) -> None:
    task = run(campaign, command="echo '$HOME is not shown' \"but $((6 * 7)) is\"")
    assert (task.mode, task.stdout) == (rp.TASK_SHELL, "$HOME is not shown but 42 is\n")


def test_many_different_commands_are_one_template(campaign: Campaign) -> None:
    tasks = campaign.run([rp.TaskDescription(command=f"echo {number}") for number in range(50)])
    assert [task.stdout for task in tasks] == [f"{number}\n" for number in range(50)]
    assert len({task._record.row.template for task in tasks}) == 1


@pytest.mark.parametrize("mode", [rp.TASK_PROC, rp.TASK_EXECUTABLE])
def test_an_executable_by_either_name(campaign: Campaign, mode: str) -> None:
    task = run(campaign, mode=mode, executable="/bin/echo", arguments=["a  b", 3])
    assert (task.mode, task.stdout, task.exit_code) == (mode, "a  b 3\n", 0)


# functions and methods


@pytest.mark.parametrize("mode", [rp.TASK_FUNCTION, rp.TASK_METHOD, rp.TASK_FUNC, rp.TASK_METH])
def test_functions_and_bound_methods(campaign: Campaign, mode: str) -> None:
    task = run(campaign, mode=mode, function=payloads.Scale(3).apply, args=[2], kwargs={"offset": 1})
    assert (task.mode, task.return_value) == (mode, 7)


def test_a_method_under_its_older_name(campaign: Campaign) -> None:
    with pytest.warns(DeprecationWarning, match="TaskDescription.method is an older name"):
        description = rp.TaskDescription(mode=rp.TASK_METHOD, method=payloads.Scale(3).apply, args=[2])
    assert campaign.run(description).return_value == 6


# eval


def test_the_value_of_an_expression_is_the_result(campaign: Campaign) -> None:
    task = run(campaign, mode=rp.TASK_EVAL, code="[os.getpid() > 0, 6 * 7, {'a': (1, 2)}]")
    assert (task.mode, task.state, task.return_value, task.result()) == (
        rp.TASK_EVAL,
        rp.DONE,
        [True, 42, {"a": (1, 2)}],
        [True, 42, {"a": (1, 2)}],
    )


def test_an_expression_may_have_imports_before_it(campaign: Campaign) -> None:
    task = run(campaign, mode=rp.TASK_EVAL, code="json.dumps({'a': half})", pre_exec=["import json", "half = 0.5"])
    assert task.return_value == '{"a": 0.5}'


def test_expressions_print_and_see_the_environment(campaign: Campaign) -> None:
    code = 'print("hello", os.environ["GREETED"]) or time.sleep(0)'
    task = run(campaign, mode=rp.TASK_EVAL, code=code, environment={"GREETED": "you"})
    assert (task.return_value, task.stdout) == (None, "hello you\n")


def test_an_expression_that_raises(campaign: Campaign) -> None:
    task = run(campaign, mode=rp.TASK_EVAL, code="1 / 0")
    assert (task.state, outcome_of(task).ending) == (rp.FAILED, Ending.RAISED)
    assert "<code of the task>" in task.exception_detail
    assert "1 / 0" in task.exception_detail
    with pytest.raises(ZeroDivisionError):
        task.result()


@pytest.mark.parametrize(
    ("mode", "code", "told"),
    [
        (rp.TASK_EVAL, "x = 1", "code is no Python expression, line 1: .*statements are for mode=TASK_EXEC"),
        (rp.TASK_EVAL, "(1", "code is no Python expression, line 1"),
        (rp.TASK_EXEC, "x = 1\nif x\n  return", "code is not Python, line 2: .*'if x'"),
    ],
)
def test_a_syntax_error_is_told_when_the_task_is_submitted(campaign: Campaign, mode: str, code: str, told: str) -> None:
    before = campaign.tasks.list_tasks()
    with pytest.raises(InvalidTask, match=told):
        campaign.tasks.submit_tasks(rp.TaskDescription(mode=mode, code=code))
    assert campaign.tasks.list_tasks() == before


# exec


def test_statements_may_return_a_result(campaign: Campaign) -> None:
    code = """
import os
print("in", os.environ["PLACE"])
total = 0
for number in range(5):
    total += number
return total
"""
    task = run(campaign, mode=rp.TASK_EXEC, code=code, environment={"PLACE": "a worker"})
    assert (task.mode, task.return_value, task.stdout) == (rp.TASK_EXEC, 10, "in a worker\n")


def test_statements_run_before_are_python_too(campaign: Campaign) -> None:
    before = ["import math", "def area(r):\n    return math.pi * r * r"]
    task = run(campaign, mode=rp.TASK_EXEC, code="return round(area(2), 3)", pre_exec=before)
    assert task.return_value == 12.566


def test_statements_without_a_return_give_none(campaign: Campaign, tmp_path: Path) -> None:
    task = run(campaign, mode=rp.TASK_EXEC, code=f"open({str(tmp_path / 'made')!r}, 'w').write('x')")
    assert (task.state, task.return_value) == (rp.DONE, None)
    assert (tmp_path / "made").read_text() == "x"


def test_statements_that_raise_show_their_line(campaign: Campaign) -> None:
    task = run(campaign, mode=rp.TASK_EXEC, code="x = []\n\nreturn x[3]")
    assert "line 3, in" in task.exception_detail
    assert "return x[3]" in task.exception_detail
    assert "pilotage" not in task.exception_detail


def test_codes_do_not_see_each_other(campaign: Campaign) -> None:
    codes = [f"global secret\nsecret = {number}\nreturn 'other' in globals()" for number in range(20)]
    others = ["global other\nother = 1\nreturn 'secret' in globals()"] * 20
    tasks = campaign.run([rp.TaskDescription(mode=rp.TASK_EXEC, code=code) for code in (*codes, *others)])
    assert {task.return_value for task in tasks} == {False}


def test_a_result_that_is_defined_in_the_code_can_be_opened(campaign: Campaign) -> None:
    code = "class Box:\n    def __init__(self, content): self.content = content\nreturn Box([1, 2])"
    assert run(campaign, mode=rp.TASK_EXEC, code=code).return_value.content == [1, 2]


# as users see them later


def test_modes_come_back_after_a_resume(base: Path) -> None:
    campaign = Campaign(base, uid="modes")
    campaign.start()
    described = {
        "shell": rp.TaskDescription(uid="shell", command="echo a | tr a b"),
        "eval": rp.TaskDescription(uid="eval", mode=rp.TASK_EVAL, code="y + 1", pre_exec="y = 1"),
        "exec": rp.TaskDescription(uid="exec", mode=rp.TASK_EXEC, code="return 3"),
        "proc": rp.TaskDescription(uid="proc", mode=rp.TASK_PROC, executable="true"),
        "method": rp.TaskDescription(uid="method", mode=rp.TASK_METHOD, function=payloads.Scale(2).apply, args=[4]),
    }
    campaign.run(list(described.values()))
    campaign.session.close()
    with rp.Session.resume("modes", base=base) as session:
        (manager,) = [one for one in session.get_task_managers() if one.list_tasks()]
        for uid, description in described.items():
            task = manager.get_tasks(uid)
            assert task.mode == description.mode
            assert task.state == rp.DONE
            again = task.description
            assert (again.code, again.command, again.mode) == (description.code, description.command, description.mode)
            assert manager.submit_tasks(description) == task
            assert manager.submit_tasks(again) == task
        with pytest.raises(InvalidTask, match="another description"):
            manager.submit_tasks(described["eval"].clone(code="y + 2"))


def test_results_of_code_are_told_to_who_waits(campaign: Campaign) -> None:
    task = campaign.tasks.submit_tasks(rp.TaskDescription(mode=rp.TASK_EXEC, code="raise SystemExit(4)"))
    with pytest.raises(TaskFailed, match="SystemExit"):
        task.result(40)
