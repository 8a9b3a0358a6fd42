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
        (f'{PILOT}services = [{{ executabel = "/bin/true" }}]\n{TASK}', 5, "did you mean 'executable'?"),
        (f'{PILOT}services = [{{ executable = "./none" }}]\n{TASK}', 5, "pilot.services[1]: there is no program"),
        (
            f'{PILOT}services = ["db"]\n{TASK}',
            5,
            "is a list of tables such as {executable = ...}, and has 'db'",
        ),
        (f"{PILOT}qos = 'high'\n{TASK}", 1, "platform local.emulated has no batch system"),
        (f"{PILOT}{TASK}contt = 3\n", 7, "tasks[1].contt: there is no such attribute; did you mean 'count'?"),
        (f"{PILOT}{TASK}ranks = 'a'\n", 7, "tasks[1].ranks"),
        (f"{PILOT}{TASK}\n{TASK}ranks = 0\n", 8, "tasks[2]: "),
        (f"{PILOT}{TASK}count = 0\n", 7, "tasks[1].count: is 0, and is to be a number of tasks, 1 or more"),
        (f"{PILOT}{TASK}count = 2\narray = '0-3'\n", 8, "tasks[1].array: count is given, too"),
        (f"{PILOT}{TASK}array = '3-0'\n", 7, "tasks[1].array: '3-0': the range '3-0' ends before it begins"),
        (f"{PILOT}{TASK}array = '0-9%2'\nlimit = 3\n", 8, "tasks[1].limit: array has a limit behind '%', too"),
        (f"{PILOT}{TASK}count = 9\nlimit = 0\n", 8, "tasks[1].limit: is 0, and is to be a number of tasks, 1 or more"),
        (f"{PILOT}{TASK}count = 9\nlimit = true\n", 8, "tasks[1].limit: is True, and is to be a number of tasks"),
        (f"{PILOT}{TASK}count = 9\nlimt = 2\n", 8, "tasks[1].limt: there is no such attribute; did you mean 'limit'?"),
        (f"{PILOT}{TASK}values = []\n", 7, "tasks[1].values: is [], and is to be the path of a table"),
        (f"{PILOT}{TASK}values = [{{ a = 1 }}, {{ b = 1 }}]\n", 7, "has rows of different names: a, and b"),
        (f"{PILOT}{TASK}values = 'none.csv'\n", 7, "none.csv: it cannot be read: No such file or directory"),
        (f"{PILOT}{TASK}after = 'a'\n", 7, "tasks[1].after"),
        (f"{PILOT}{TASK}after = ['a']\n", 7, "tasks[1].after: 'a' is the name of no table and of no task"),
        (f"{PILOT}{TASK}{TASK}after = ['ecoh']\n", 9, "no table and of no task; did you mean 'echo'?"),
        (f"{PILOT}{TASK}after = ['echo']\n", 7, "tasks[1].after: 'echo' is this table itself"),
        (f"{PILOT}{TASK}count = 2\nafter = ['echo.{{i}}']\n", 8, "echo.0 -> echo.0; take one out of after or services"),
        (f"{PILOT}{TASK}name = 'b'\nafter = ['echo']\n{TASK}after = ['b']\n", 8, "b -> echo -> b; take one out"),
        (
            f"{PILOT}{TASK}{TASK}{TASK}name = 'c'\nafter = ['echo']\n",
            12,
            "may mean tables and tasks of tasks[1] and of tasks[2]",
        ),
        (f"{PILOT}{TASK}{TASK}name = 'b'\nservices = ['echo']\n", 10, "'echo' is no service; name it in after"),
        (f"{PILOT}{TASK}mode = 'task.service'\n{TASK}name = 'b'\nafter = ['echo']\n", 11, "name it in services instead"),
        (f"{PILOT}{TASK}after_policy = 'any'\n", 5, "after_policy='any' without after"),
        (f"{PILOT}{TASK}count = 2\nuid = 'a'\nlimit = 1\n", 8, "there are two tasks of uid 'a'; put {i} into it"),
        (
            f"{PILOT}successors = 2\n{TASK}count = 3\nlimit = 2\n",
            5,
            "pilot.successors: is 2, and tasks[1].limit needs a client",
        ),
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


def test_several_pilots_have_no_client(tmp_path: Path) -> None:
    pilots = PILOT.replace("[pilot]", "[[pilots]]")
    with pytest.raises(InvalidRequest) as error:
        campaign(tmp_path, f"{pilots}{pilots}{TASK}{TASK}name = 'b'\nafter = ['echo']\n")
    assert "campaign.toml:5: pilots[2]: there are 2 pilots, and tasks[2].after needs a client that stays" in str(error.value)
    assert "describe one [pilot] with as many nodes" in str(error.value)


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        (f"{PILOT}{TASK}count = 9\n", ""),
        (f"{PILOT}{TASK}count = 9\nafter = []\n", ""),
        # As many at one time as there are need nobody who holds some back.
        (f"{PILOT}{TASK}count = 9\nlimit = 9\n", ""),
        (f"{PILOT}{TASK}count = 9\nlimit = 8\n", "tasks[1].limit"),
        (f"{PILOT}{TASK}array = '0-9%2'\n", "tasks[1].array"),
        (f"{PILOT}{TASK}{TASK}name = 'b'\nafter = ['echo']\n", "tasks[2].after"),
        (f"{PILOT}{TASK}mode = 'task.service'\n", "tasks[1], a service,"),
        (f'{PILOT}services = [{{ executable = "/bin/true" }}]\n{TASK}', "pilot.services"),
    ],
)
def test_it_is_known_what_needs_a_client(tmp_path: Path, text: str, needs: str) -> None:
    assert campaign(tmp_path, text).needs_client == needs


def test_a_table_that_says_no_number_is_one_task_of_its_name(tmp_path: Path) -> None:
    shell = "[[tasks]]\nmode = 'task.shell'\ncommand = 'true'\n"
    found = campaign(
        tmp_path, f"{PILOT}{TASK}{TASK}name = 'b'\n{TASK}count = 2\n{shell}name = 'c'\n{shell}name = 'd'\ncount = 2\n"
    )
    assert [task.name for task in found.tasks()] == ["echo", "b", "echo.0", "echo.1", "c", "d.0", "d.1"]
