"""Which tasks have arguments that refer to variables, and who is told that a variable stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from description_support import Submission

from pilotage.client.task_description import TaskDescription
from pilotage.client.templates import fingerprint
from pilotage.model.workload import Template

HERE = Path("/scratch/$RP_TASK_ID")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set where tasks are submitted."""
    for name in ("NF", "TEST", "VENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("_", "/usr/bin/python")


def template_of(*descriptions: TaskDescription) -> Template:
    templates, _ = Submission().split(*descriptions)
    (template,) = templates.values()
    return template


@pytest.mark.parametrize(
    "described",
    [
        {"executable": "/bin/echo", "arguments": ["a", "$RP_TASK_ID greets"]},
        {"executable": "/bin/echo", "arguments": [1, 2.5, HERE]},
        {"executable": "/bin/echo", "arguments": ["${TEST}s"], "environment": {"TEST": "1"}},
        {"executable": "bash", "arguments": ["-e", "run.sh", "-c", "$RP_RANK"]},
        {"executable": "bash", "arguments": ["-o", "pipefail", "run.sh", "$RP_RANK"]},
        {"executable": "ssh", "arguments": ["-c", "aes", "host", "touch $RP_TASK_ID"]},
        {"executable": "python3", "arguments": ["-c", "print('$RP_RANK')"]},
        {"executable": "server", "arguments": ["--name=$RP_TASK_ID"], "mode": "task.service"},
        {"executable": "/bin/echo", "arguments": ["$RP_RANK"], "mode": "task.proc", "ranks": 2},
    ],
)
def test_arguments_that_refer_to_own_variables(described: dict[str, Any], recwarn: pytest.WarningsRecorder) -> None:
    assert template_of(TaskDescription(described)).expands
    assert not recwarn.list


@pytest.mark.parametrize(
    "described",
    [
        {"executable": "/bin/echo"},
        {"executable": "/bin/echo", "arguments": ["a", 1, "RP_RANK"]},
        {"executable": "awk", "arguments": ["{print $1, $$, $}"]},
        {"executable": "/bin/bash", "arguments": ["-lc", "echo $RP_TASK_ID"]},
        {"executable": Path("/bin/sh"), "arguments": ["-e", "-c", "echo '$HOME'"]},
        {"executable": "bash", "arguments": ["--norc", "-o", "pipefail", "-c", "echo $HOME"]},
        {"executable": "timeout", "arguments": [5, "sh", "-c", "echo $RP_TASK_ID"]},
        {"command": "echo $RP_TASK_ID $HOME"},
    ],
)
def test_arguments_without_any_and_those_of_shells_are_left_alone(
    described: dict[str, Any], recwarn: pytest.WarningsRecorder
) -> None:
    assert not template_of(TaskDescription(described)).expands
    assert not recwarn.list


def test_tasks_that_differ_only_in_variables_share_no_template() -> None:
    alike = {"executable": "/bin/echo", "environment": {"A": "1"}}
    arguments = (["x"], ["$A"], ["y"], ["$1"], [], ["$B", "z"])
    submission = Submission()

    # Twice: those of the second call are known by their keys.
    for _ in range(2):
        templates, rows = submission.split(*(TaskDescription(alike, arguments=one) for one in arguments))
        assert [row.template for row in rows] == [1, 2, 1, 1, 1, 2]
    assert not templates

    rare = [TaskDescription(alike, arguments=one, output_staging=["x"]) for one in (["x"], ["$A"])]
    assert [row.template for row in submission.split(*rare)[1]] == [1, 2]


def test_what_follows_from_arguments_is_no_part_of_a_fingerprint() -> None:
    templates, (row,) = Submission().split(TaskDescription(executable="/bin/echo", arguments=["$RP_RANK"]))
    (template,) = templates.values()
    before = Template(executable="/bin/echo")
    assert template == Template(executable="/bin/echo", expands=True)
    assert fingerprint(template, row) == fingerprint(before, row)


@pytest.mark.parametrize(
    "described",
    [
        {"arguments": ["a", "$HOME/x"]},
        {"arguments": ["$RP_RANK", "${HOME}"]},
        {"arguments": [Path("$HOME/x")], "pre_exec": ["source ve/bin/activate"]},
        {"executable": "bash", "arguments": ["run.sh", "$HOME"]},
    ],
)
def test_who_hopes_for_other_variables_is_told_once(described: dict[str, Any]) -> None:
    task = TaskDescription({"executable": "/bin/echo", **described})
    told = r"\$HOME in the argument .* goes to the program as it is.*only the task's own variables are put in.*command='\.\.\.'"
    with pytest.warns(UserWarning, match=told) as warned:
        Submission().split(*[task] * 3)
    assert len(warned) == 1
    assert Path(warned[0].filename).parent == Path(__file__).parent


@pytest.mark.parametrize(
    "described",
    [
        {"executable": "awk", "arguments": ["{print $NF}"]},
        {"executable": "perl", "arguments": ["-ne", "print $_"]},
        {"executable": "ssh", "arguments": ["host", "ls $HOME"]},
        {"arguments": ["$HOME"], "environment": {"HOME": "/elsewhere"}},
        {"arguments": ["$HOME"], "pre_exec": ["export HOME=/elsewhere"]},
        {"arguments": ["$HOME"], "pre_launch": ["export HOME=/elsewhere"]},
        {"arguments": ["$HOME"], "named_env": "ve"},
        {"arguments": ["$$HOME"]},
    ],
)
def test_nobody_else_is_told_anything(described: dict[str, Any], recwarn: pytest.WarningsRecorder) -> None:
    Submission().split(TaskDescription({"executable": "/bin/echo", **described}))
    assert not recwarn.list
