"""Campaigns as files: what they describe, and that a slip is told by file, line and nearest name before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotage.cli.campaign_file import IDLE_TIMEOUT_S, CampaignFile
from pilotage.errors import InvalidRequest

PILOT = '[pilot]\nresource = "local.emulated"\nnodes = 2\nruntime = 30\n'
TASK = '[[tasks]]\nexecutable = "/bin/echo"\n'


def campaign(folder: Path, text: str) -> CampaignFile:
    path = folder / "campaign.toml"
    path.write_text(text)
    return CampaignFile(path)


def test_a_campaign_describes_pilots_and_tasks(tmp_path: Path) -> None:
    found = campaign(tmp_path, f'session = "water"\n{PILOT}{TASK}arguments = ["{{i}}"]\ncount = 3\n{TASK}ranks = 2\n')
    assert (found.session, found.total) == ("water", 4)
    [pilot] = found.pilots
    assert (pilot.nodes, pilot.runtime, pilot.on_client_loss, pilot.idle_timeout_s) == (2, 30, "continue", IDLE_TIMEOUT_S)
    tasks = list(found.tasks())
    assert [task.arguments for task in tasks] == [["0"], ["1"], ["2"], []]
    assert [task.ranks for task in tasks] == [1, 1, 1, 2]


def test_what_a_pilot_says_of_its_end_is_left_as_it_is(tmp_path: Path) -> None:
    [pilot] = campaign(tmp_path, f'{PILOT}idle_timeout_s = 5\non_client_loss = "drain"\n{TASK}').pilots
    assert (pilot.idle_timeout_s, pilot.on_client_loss) == (5, "drain")


@pytest.mark.parametrize(
    ("said", "made"),
    [
        ('array = "0-6:3"', ["0", "3", "6"]),
        ('values = [{ x = 1.5, i = 0 }, { x = "a", i = 0 }]', ["1.5", "a"]),
        ('values = "table.csv"', ["3", "4"]),
    ],
)
def test_tasks_differ_by_what_stands_in_braces(tmp_path: Path, said: str, made: list[str]) -> None:
    (tmp_path / "table.csv").write_text("x\n3\n4\n")
    name = "i" if "array" in said else "x"
    found = campaign(tmp_path, f'{PILOT}{TASK}arguments = ["{{{name}}}"]\n{said}\n')
    assert [task.arguments for task in found.tasks()] == [[each] for each in made]


def test_tasks_of_other_modes_have_their_texts_filled_in(tmp_path: Path) -> None:
    found = campaign(tmp_path, f'{PILOT}[[tasks]]\nmode = "task.shell"\ncommand = "echo {{i}} >out"\ncount = 2\n')
    assert [task.command for task in found.tasks()] == ["echo 0 >out", "echo 1 >out"]


def test_programs_and_folders_are_taken_from_where_the_file_is(tmp_path: Path) -> None:
    program = tmp_path / "prog"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    [task] = campaign(tmp_path, f'{PILOT}[[tasks]]\nexecutable = "./prog"\nsandbox = "runs"\nstdout = "o"\n').tasks()
    assert (task.executable, task.sandbox, task.stdout) == (str(program), str(tmp_path / "runs"), str(tmp_path / "o"))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (f"{PILOT}", 1, "there are no tasks; describe some as [[tasks]]"),
        (f"{TASK}", 1, "there is no pilot; describe one as [pilot]"),
        (f"{PILOT}{TASK}[[taks]]\n", 7, "taks: there is no such table; did you mean 'tasks'?"),
        (f"{PILOT}node = 3\n{TASK}", 5, "pilot.node: there is no such attribute; did you mean 'nodes'?"),
        (f'{PILOT}cores_per_node = "a"\n{TASK}', 5, "cores_per_node"),
        (f"{PILOT}cores = 4\n{TASK}", 1, "pilot: both nodes=2 and cores=4 are given"),
        (f'{PILOT}services = [{{ executable = "/bin/true" }}]\n{TASK}', 5, "services need a program that stays"),
        (f"{PILOT}qos = 'high'\n{TASK}", 1, "platform local.emulated has no batch system"),
        (f"{PILOT}{TASK}contt = 3\n", 7, "tasks[1].contt: there is no such attribute; did you mean 'count'?"),
        (f"{PILOT}{TASK}ranks = 'a'\n", 7, "tasks[1].ranks"),
        (f"{PILOT}{TASK}\n{TASK}ranks = 0\n", 8, "tasks[2]: "),
        (f"{PILOT}{TASK}count = 0\n", 7, "tasks[1].count: is 0, and is to be a number of tasks, 1 or more"),
        (f"{PILOT}{TASK}count = 2\narray = '0-3'\n", 8, "tasks[1].array: count is given, too"),
        (f"{PILOT}{TASK}array = '3-0'\n", 7, "tasks[1].array: '3-0': the range '3-0' ends before it begins"),
        (f"{PILOT}{TASK}array = '0-9%2'\n", 7, "how many run at one time needs a program that stays"),
        (f"{PILOT}{TASK}values = []\n", 7, "tasks[1].values: is [], and is to be the path of a table"),
        (f"{PILOT}{TASK}values = [{{ a = 1 }}, {{ b = 1 }}]\n", 7, "has rows of different names: a, and b"),
        (f"{PILOT}{TASK}values = 'none.csv'\n", 7, "none.csv: it cannot be read: No such file or directory"),
        (f"{PILOT}{TASK}after = ['a']\n", 7, "tasks that wait for others need a program that stays"),
        (f"{PILOT}{TASK}stdout = 'o'\ncount = 2\n", 5, "stdout o is one file for 2 tasks; put {i} into its name"),
        (f"{PILOT}[[tasks]]\nexecutable = './none'\n", 5, "there is no program"),
        (f"session = 3\n{PILOT}{TASK}", 1, "session: is a text, and it is 3"),
        (f"{PILOT}{TASK}[[pilots]]\nnodes = 1\n", 7, "pilots: there is [pilot], too"),
    ],
)
def test_a_slip_is_told_by_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        campaign(tmp_path, text)
    assert str(error.value).startswith(f"campaign file {tmp_path}/campaign.toml:{line}: "), error.value
    assert said in str(error.value)
