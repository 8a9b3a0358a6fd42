"""Gangs with real processes: members meet while they run, and those that can never start come to an end that says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from integration_support import PATIENCE_S, Campaign, eventually, outcome_of, shell

import pilotage as rp
from pilotage import Ending, InvalidTask
from pilotage.cli.main import run_command

# Each member says that it runs, and ends when all have said so: one that was started alone would never end.
MEET = 'touch "$1/$2"; while [ "$(ls "$1" | wc -l)" -lt "$3" ]; do sleep 0.02; done; ls "$1"'


@pytest.fixture(scope="module")
def machine(base: Path, _nothing_left: None) -> Iterator[Campaign]:
    """Two emulated nodes of 4 cores."""
    campaign = Campaign(base)
    try:
        campaign.start(resource="local.emulated", nodes=2, cores_per_node=4, gpus_per_node=1)
        yield campaign
    finally:
        campaign.session.close()


def meeting(folder: Path, name: str, size: int, gang: str, **more: object) -> rp.TaskDescription:
    return rp.TaskDescription(
        executable="/bin/sh",
        arguments=["-c", MEET, "sh", str(folder), name, str(size)],
        gang=gang,
        gang_size=size,
        output="tail",
        **more,
    )


def test_members_of_all_shapes_run_at_the_same_time(machine: Campaign, tmp_path: Path) -> None:
    occupied = machine.tasks.submit_tasks([shell("sleep 0.2") for _ in range(12)])
    shapes: list[dict[str, object]] = [{"cores_per_rank": 3}, {"gpus_per_rank": 1}, {}, {"cores_per_rank": 2}]
    members = [meeting(tmp_path, f"member{number}", 4, "ensemble", **shape) for number, shape in enumerate(shapes)]
    tasks = machine.run(members)
    assert [task.state for task in tasks] == [rp.DONE] * 4, [task.exception for task in tasks]
    assert all(task.stdout.split() == ["member0", "member1", "member2", "member3"] for task in tasks)
    machine.tasks.wait_tasks([task.uid for task in occupied], timeout=PATIENCE_S)


def test_many_gangs_that_compete_for_the_nodes_all_run(machine: Campaign, tmp_path: Path) -> None:
    members = []
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        members += [meeting(folder, str(name), 3, f"gang {number}", cores_per_rank=2) for name in range(3)]
    # One of each in turn, so that none is complete before the others nearly are.
    tasks = machine.run([members[3 * gang + place] for place in range(3) for gang in range(5)])
    assert {task.state for task in tasks} == {rp.DONE}, [task.exception for task in tasks]


def test_members_wait_for_the_last_and_say_so(
    machine: Campaign,
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home, folder = tmp_path / "home", tmp_path / "members"
    home.mkdir()
    folder.mkdir()
    (home / "sessions").symlink_to(base)
    monkeypatch.setenv("PILOTAGE_HOME", str(home))

    def why() -> str:
        assert run_command(["task", "why", first[0].uid, "--session", machine.session.uid]) == 0
        words = capsys.readouterr().out
        return words if "gang" in words else ""

    first = machine.tasks.submit_tasks([meeting(folder, str(name), 3, "late") for name in range(2)])
    told = " ".join(str(eventually(why, "the members wait for each other")).split())
    assert "2 of 3 wait here, 1 is missing" in told
    assert not list(folder.iterdir())
    last = machine.run(meeting(folder, "2", 3, "late"))
    machine.tasks.wait_tasks([task.uid for task in first], timeout=PATIENCE_S)
    assert [task.state for task in (*first, last)] == [rp.DONE] * 3


def test_a_member_that_is_cancelled_ends_its_gang(machine: Campaign, tmp_path: Path) -> None:
    first, other = machine.tasks.submit_tasks([meeting(tmp_path, str(name), 3, "given up") for name in range(2)])
    first.cancel()
    machine.tasks.wait_tasks([first.uid, other.uid], timeout=PATIENCE_S)
    assert (first.state, other.state) == (rp.CANCELED, rp.CANCELED)
    assert f"task {first.uid!r} ended before" in outcome_of(other).message


def test_a_gang_that_fits_nowhere_fails_and_says_why(machine: Campaign, tmp_path: Path) -> None:
    tasks = machine.run([meeting(tmp_path, str(name), 3, "too large", cores_per_rank=3) for name in range(3)])
    assert {task.state for task in tasks} == {rp.FAILED, rp.CANCELED} or {task.state for task in tasks} == {rp.FAILED}
    assert any(outcome_of(task).ending is Ending.INFEASIBLE for task in tasks)
    assert all("start together, and do not fit" in outcome_of(task).message for task in tasks)


def test_what_a_gang_cannot_be_is_refused(machine: Campaign) -> None:
    def task(**more: object) -> rp.TaskDescription:
        return rp.TaskDescription(executable="/bin/true", **more)

    submit = machine.tasks.submit_tasks
    for wrong, words in (
        ([task(gang="w", gang_size=1), task(gang="w", gang_size=1)], "has its gang_size=1 tasks already"),
        ([task(gang="x", gang_size=2), task(gang="x", gang_size=3)], "gang_size=3, and tasks of its gang='x' .* gang_size=2"),
        ([task(gang="y", gang_size=2), task(gang="y", gang_size=2, priority=1)], "have the same priority"),
        ([task(uid="z1", gang="z", gang_size=2), task(gang="z", gang_size=2, after=["z1"])], "they start together"),
    ):
        with pytest.raises(InvalidTask, match=words):
            submit(wrong)
    # A list that was refused has left nothing behind: its names are free.
    assert [each.state for each in machine.run([task(gang="x", gang_size=2), task(gang="x", gang_size=2)])] == [rp.DONE] * 2


def test_a_session_that_ends_does_not_wait_for_members_that_never_came(base: Path, tmp_path: Path) -> None:
    campaign = Campaign(base)
    try:
        campaign.start(resource="local.emulated", nodes=1, cores_per_node=4)
        tasks = campaign.tasks.submit_tasks([meeting(tmp_path, str(name), 3, "short") for name in range(2)])
        campaign.pilots.drain_pilots()
        campaign.tasks.wait_tasks([task.uid for task in tasks], timeout=PATIENCE_S)
        assert {outcome_of(task).ending for task in tasks} == {Ending.INFEASIBLE}
        assert all("1 of its 3 tasks had not come" in outcome_of(task).message for task in tasks)
    finally:
        campaign.session.close()
