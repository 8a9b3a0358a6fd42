"""What tasks of a campaign wait for: names of tables and tasks, and an order in which none comes before its predecessors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from pilotage.cli import campaign_order
from pilotage.cli.campaign_order import Ordered, TaskGroup, described, ordered
from pilotage.cli.items import Items, Values, counted
from pilotage.errors import InvalidRequest
from pilotage.model.ids import TaskUid


def group(name: str, count: int = 1, **fields: Any) -> TaskGroup:
    return TaskGroup({"executable": "/bin/true", "name": name, **fields}, counted(count), is_single=count == 1)


def waits(tasks: Sequence[Ordered]) -> dict[str, list[str]]:
    return {task.uid: [*task.after, *task.services] for task in tasks}


def refusal(groups: Sequence[TaskGroup], services: Mapping[str, TaskUid] | None = None) -> tuple[int, str, str]:
    told: list[tuple[int, str, str]] = []

    def refused(number: int, name: str, message: str) -> InvalidRequest:
        told.append((number, name, message))
        return InvalidRequest(message)

    with pytest.raises(InvalidRequest):
        ordered(groups, services or {}, refused)
    return told[-1]


def test_a_name_means_a_table_or_a_task() -> None:
    groups = [group("a", 2), group("b", 2, after=["a.{i}"]), group("c", after=["b", "a.1"]), group("d", after=["task.000002"])]
    assert waits(ordered(groups, {})) == {
        "task.000000": [],
        "task.000001": [],
        "task.000002": ["task.000000"],
        "task.000003": ["task.000001"],
        "task.000004": ["task.000002", "task.000003", "task.000001"],
        "task.000005": ["task.000002"],
    }


def test_uids_of_the_file_stay_and_others_get_what_is_left() -> None:
    found = ordered([group("a", uid="task.000000"), group("b", 2, uid="b{i}"), group("c", 2, after=["b{i}"])], {})
    assert waits(found) == {"task.000000": [], "b0": [], "b1": [], "task.000001": ["b0"], "task.000002": ["b1"]}


def test_names_with_values_in_them_are_those_of_single_tasks() -> None:
    scripts = TaskGroup({"executable": "./run{i}.sh"}, counted(2))
    assert waits(ordered([scripts, group("b", 2, after=["run{i}.sh"])], {}))["task.000003"] == ["task.000001"]
    assert [task.name for task in described(scripts)] == ["run0.sh", "run1.sh"]


def test_a_name_that_comes_out_empty_is_left_out() -> None:
    rows: list[Values] = [{"i": 0, "before": ""}, {"i": 1, "before": "step.0"}, {"i": 2, "before": "step.1"}]
    chain = TaskGroup({"executable": "/bin/true", "name": "step", "after": ["{before}"]}, Items(rows, ("i", "before")))
    assert list(waits(ordered([chain], {})).values()) == [[], ["task.000000"], ["task.000001"]]


def test_tasks_may_stand_before_those_that_they_wait_for() -> None:
    found = ordered([group("last", after=["middle"]), group("middle", after=["first"]), group("first", 2)], {})
    assert [(task.group, task.place) for task in found] == [(2, 0), (2, 1), (1, 0), (0, 0)]


def test_a_table_may_turn_itself_round() -> None:
    rows: list[Values] = [{"i": 0, "before": "step.1"}, {"i": 1, "before": "step.2"}, {"i": 2, "before": ""}]
    chain = TaskGroup({"executable": "/bin/true", "name": "step", "after": ["{before}"]}, Items(rows, ("i", "before")))
    assert [task.place for task in ordered([chain], {})] == [2, 1, 0]


def test_services_are_tables_or_the_pilots() -> None:
    database = group("db", mode="task.service")
    found = ordered([group("a", services=["db", "cache"]), database], {"cache": TaskUid("pilot.0000.service.0000")})
    assert [task.services for task in found if task.group == 0] == [("task.000001", "pilot.0000.service.0000")]
    assert refusal([group("a", after=["db"]), database])[:2] == (0, "after")
    assert refusal([group("a", after=["cache"])], {"cache": TaskUid("c")})[2].startswith("'cache' is a service")


def test_a_circle_over_many_tables_is_shown_by_names() -> None:
    groups = [group("a"), group("b", 2, after=["d.{i}"]), group("c", after=["b"]), group("d", 2, after=["c"])]
    assert refusal(groups) == (
        1,
        "after",
        "these tasks wait for each other, each for the next: b.0 -> d.0 -> c -> b.0; take one out of after or services",
    )


def test_too_many_waits_are_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign_order, "WAITS_LIMIT", 100)
    ordered([group("a", 10), group("b", 10, after=["a"])], {})
    number, name, message = refusal([group("a", 10), group("b", 11, after=["a"])])
    assert (number, name) == (1, "after")
    assert "more than 100 waits, which is the limit; put a table of one small task between" in message
    ordered([group("a", 10), group("all"), group("b", 11, after=["all"])], {})
