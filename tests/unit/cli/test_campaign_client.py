"""Dealing out a campaign's tasks: limits hold, what waits goes out behind what it waits for, and nothing gets stuck."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pilotage.cli.campaign_client import Dealer, keep_campaign, read_campaign
from pilotage.cli.campaign_file import CampaignFile
from pilotage.cli.campaign_order import TaskGroup, described, ordered
from pilotage.cli.items import Items, Values, counted
from pilotage.client.task_description import TaskDescription
from pilotage.client.task_manager import TaskManager
from pilotage.errors import InvalidTask
from pilotage.model.ids import TaskUid
from pilotage.model.states import DONE


class Manager:
    """Takes tasks as a manager does: none that waits for one that it has not."""

    def __init__(self, refuses: str = "") -> None:
        self.submitted: dict[str, TaskDescription] = {}
        self.unfinished: list[str] = []
        self.told: Callable[[Any, str], None] = lambda task, state: None
        self._refuses = refuses

    def register_callback(self, callback: Callable[[Any, str], None]) -> None:
        self.told = callback

    def submit_tasks(self, descriptions: list[TaskDescription]) -> list[Any]:
        here = {description.uid for description in descriptions}
        for description in descriptions:
            if description.name == self._refuses:
                raise InvalidTask(f"{self._refuses}: more cores than there are")
            for other in description.after:
                if other not in self.submitted and other not in here:
                    raise InvalidTask(f"{description.uid} names {other}")
        self.submitted.update({description.uid: description for description in descriptions})
        self.unfinished += [description.uid for description in descriptions]
        return [SimpleNamespace(uid=description.uid) for description in descriptions]

    def end(self, uid: str) -> None:
        self.unfinished.remove(uid)
        self.told(SimpleNamespace(uid=uid), DONE)


def group(name: str, count: int, limit: int = 0, **fields: Any) -> TaskGroup:
    return TaskGroup({"executable": "/bin/true", "name": name, **fields}, Items(counted(count).values, ("i",), limit))


def dealt(manager: Manager, *groups: TaskGroup, services: tuple[str, ...] = ()) -> Dealer:
    named = {service: TaskUid(service) for service in services}
    dealer = Dealer(cast(TaskManager, manager), groups, ordered(groups, named), named.values())
    dealer.open()
    return dealer


def test_without_a_limit_all_goes_out_at_once() -> None:
    manager = Manager()
    dealer = dealt(manager, group("b", 2, after=["a.{i}"]), group("a", 2))
    assert [task.uid for task in dealer.take()] == ["task.000002", "task.000003", "task.000000", "task.000001"]
    assert [task.name for task in manager.submitted.values()] == ["a.0", "a.1", "b.0", "b.1"]
    assert dealer.take() == []


def test_a_limit_is_that_of_its_table() -> None:
    manager = Manager()
    dealt(manager, group("a", 5, limit=2), group("b", 3))
    assert [task.name for task in manager.submitted.values()] == ["a.0", "a.1", "b.0", "b.1", "b.2"]
    manager.end("task.000001")
    manager.end("task.000005")
    assert [task.name for task in manager.submitted.values()][5:] == ["a.2"]


@pytest.mark.parametrize("seed", range(20))
def test_limits_and_waits_never_block_each_other(seed: int) -> None:
    """Tasks that wait for random others, over tables with narrow limits, and end in random order: all of them go out."""
    chance = random.Random(seed)
    names = [f"t{table}.{place}" for table in range(4) for place in range(6)]
    chance.shuffle(names)
    before = {name: chance.choice(["", *names[:place]]) for place, name in enumerate(names)}
    tables = []
    for table in range(4):
        rows: list[Values] = [{"i": place, "before": before[f"t{table}.{place}"]} for place in range(6)]
        items = Items(rows, ("i", "before"), chance.randint(1, 3))
        tables.append(TaskGroup({"executable": "/bin/true", "name": f"t{table}", "after": ["{before}"]}, items))
    manager = Manager()
    dealer = dealt(manager, *tables)
    ended: list[str] = []
    while manager.unfinished:
        running = [manager.submitted[uid].name for uid in manager.unfinished]
        for table, group in enumerate(tables):
            assert sum(name.startswith(f"t{table}.") for name in running) <= group.items.limit
        # Only what waits for nothing any more can end.
        ready = [uid for uid in manager.unfinished if not {*manager.submitted[uid].after} - {*ended}]
        ended.append(chance.choice(ready))
        manager.end(ended[-1])
    assert (len(ended), len(dealer.take())) == (24, 24)


def test_services_are_not_waited_for() -> None:
    manager = Manager()
    dealer = dealt(manager, group("db", 1, mode="task.service"), group("a", 2, services=["db.0", "cache"]), services=("cache",))
    assert [task.uid for task in dealer.take()] == ["task.000001", "task.000002"]


@pytest.mark.parametrize("limit", [0, 1])
def test_what_is_refused_is_counted_and_the_others_go_on(limit: int, capsys: pytest.CaptureFixture[str]) -> None:
    manager = Manager(refuses="large")
    large = TaskGroup({"executable": "/bin/true", "name": "large"}, counted(1), is_single=True)
    dealer = dealt(manager, group("a", 3, limit=limit), large, group("b", 1, after=["large"]))
    while manager.unfinished:
        manager.end(manager.unfinished[0])
    assert len(dealer.take()) == 3
    assert dealer.refused == 2
    said = capsys.readouterr().err
    assert "task.000003 (large) was refused: large: more cores than there are" in said
    assert "task.000004 (b.0) was refused: " in said


def test_what_goes_wrong_on_the_thread_of_callbacks_is_raised_where_it_is_seen() -> None:
    manager = Manager()
    dealer = dealt(manager, group("a", 2, limit=1))

    def fails(descriptions: list[TaskDescription]) -> list[Any]:
        raise OSError("no room")

    manager.submit_tasks = fails  # type: ignore[method-assign]
    manager.end("task.000000")
    with pytest.raises(OSError, match="no room"):
        dealer.take()


def test_nothing_goes_out_after_the_end() -> None:
    manager = Manager()
    dealer = dealt(manager, group("a", 3, limit=1))
    dealer.close()
    manager.end("task.000000")
    assert (len(dealer.take()), manager.unfinished) == (1, [])


def test_a_campaign_is_kept_as_its_file_was(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("x\n3\n4\n")
    (tmp_path / "c.toml").write_text(
        """
        [pilot]
        resource = "local.localhost"
        cores = 2
        runtime = 5
        services = [{ executable = "/bin/sh", name = "db" }]
        [[tasks]]
        executable = "/bin/echo"
        arguments = ["{x}", 1.5]
        values = "table.csv"
        limit = 1
        [[tasks]]
        name = "last"
        mode = "task.shell"
        command = "true"
        after = ["echo"]
        services = ["db"]
        """
    )
    keep_campaign(tmp_path, CampaignFile(tmp_path / "c.toml"))
    (tmp_path / "table.csv").write_text("x\n5\n")
    pilot, groups = read_campaign(tmp_path)
    assert (pilot.cores, pilot.services[0].name) == (2, "db")
    assert [[task.arguments for task in described(group)] for group in groups] == [[["3", "1.5"], ["4", "1.5"]], [[]]]
    assert [(group.items.limit, group.is_single) for group in groups] == [(1, False), (0, True)]
    assert groups[1].fields["after"] == ["echo"]
