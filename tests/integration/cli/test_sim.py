"""``pilotage sim`` at work: each test is a person at a shell who tries a workload before it costs anything."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 100.0
PILOTAGE = [sys.executable, "-m", "pilotage.cli"]

WORKLOAD = """\
description = "mine"
source = "made up"
machine = "small.toml"
nodes = 2

[[classes]]
name = "first"
count = 8
duration_s = 10

[[classes]]
name = "second"
count = 1
cores_per_rank = 4
duration_s = 5
after = "first"
when = "all"
"""
MACHINE = """\
description = "small"
nodes = 4
cores_per_node = 4
[sources]
nodes = "made up"
cores_per_node = "made up"
"""


def sim(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``pilotage sim`` to its end, its output in pipes."""
    return subprocess.run([*PILOTAGE, "sim", *arguments], capture_output=True, text=True, timeout=PATIENCE_S, **options)


def asked(*arguments: str, **options: Any) -> Any:
    """Return what it says as JSON."""
    done = sim(*arguments, "--json", **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "mine.toml").write_text(WORKLOAD)
    (tmp_path / "small.toml").write_text(MACHINE)
    return tmp_path


def test_a_workload_on_frontier_under_srun() -> None:
    done = sim("sleep", "--machine", "frontier", "--nodes", "4", "--launcher", "srun")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sleep on 4 nodes of frontier, started by srun: 896 tasks, 896 done\n")
    for line in (
        r"^makespan    24 min 2 s, 12 min at best on these nodes$",
        r"^cores used  49.9% of 89.7 core-hours$",
        r"^running     112 at a time at the most$",
        r"^tasks run +44\.8 +49\.9%",
        r"^tasks wait for the launcher +39\.\d +43\.\d%",
        r"^Limited by launcher ceiling \(44%\): srun runs no more than 112 tasks at a time",
    ):
        assert re.search(line, done.stdout, re.MULTILINE), f"{line}\n{done.stdout}"


def test_a_workload_of_ones_own(here: Path) -> None:
    document = asked("mine.toml", "--launcher", "ideal", cwd=here)["simulation"]
    assert (document["workload"], document["machine"]["name"], document["nodes"]) == ("mine", "small", 2)
    assert document["result"]["outcomes"] == {"DONE": 9}
    assert document["result"]["makespan_s"] == 15.0
    assert document["result"]["core_s"]["running"] == 8 * 10 + 4 * 5
    assert document["utilization"] == 100 / 120
    assert document["demand"]["core_s"] == 100.0


def test_quiet_is_the_makespan(here: Path) -> None:
    assert sim("mine.toml", "-l", "ideal", "-q", cwd=here).stdout == "15\n"


def test_the_word_run_may_be_said(here: Path) -> None:
    assert sim("run", "mine.toml", "-l", "ideal", "-q", cwd=here).stdout == "15\n"


def test_options_are_over_the_plan(here: Path) -> None:
    (here / "plans").mkdir()
    (here / "plans" / "a.toml").write_text('nodes = 1\nlauncher = "ideal"\nmachine = "../small.toml"\n')
    assert sim("mine.toml", "--plan", "plans/a.toml", "-q", cwd=here).stdout == "25\n"
    assert sim("mine.toml", "--plan", "plans/a.toml", "--nodes", "2", "-q", cwd=here).stdout == "15\n"


def test_tasks_that_are_left_at_the_walltime_make_the_exit_code(here: Path) -> None:
    done = sim("mine.toml", "--launcher", "ideal", "--walltime", "0.2", cwd=here)
    assert done.returncode == 1
    assert "9 tasks, 8 done, 1 out of walltime" in done.stdout


def test_faults(here: Path) -> None:
    (here / "faults.toml").write_text("lose_nodes_at_s = [[5, 1]]\n")
    done = sim("mine.toml", "--launcher", "ideal", "--faults", "faults.toml", cwd=here)
    assert done.returncode == 1
    assert "9 tasks, 5 done, 4 node failed" in done.stdout
    assert re.search(r"^lost +1 node$", done.stdout, re.MULTILINE)


def test_partitions_in_an_option_and_in_a_file(here: Path) -> None:
    done = sim("sleep", "--partitions", "srun:1x2,flux:2:executable")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sleep on 4 nodes of frontier in 3 partitions, started by srun, flux: 896 tasks, 896 done\n")
    assert re.search(r"^srun-1 +srun +1 +\d+ ", done.stdout, re.MULTILINE)
    (here / "plan.toml").write_text('[[partitions]]\nname = "a"\nnodes = 1\n[[partitions]]\nname = "b"\n')
    document = asked("mine.toml", "--launcher", "ideal", "--partitions", "plan.toml", cwd=here)["simulation"]
    assert [(each["name"], each["nodes"]) for each in document["result"]["partitions"]] == [("a", 1), ("b", 1)]
    assert sorted(document["launchers"]) == ["a", "b"]


def test_tasks_that_fit_nowhere(here: Path) -> None:
    (here / "mine.toml").write_text(WORKLOAD.replace("cores_per_rank = 4", "gpus_per_rank = 1"))
    done = sim("mine.toml", "--launcher", "ideal", cwd=here)
    assert done.returncode == 1, done.stderr
    assert "9 tasks, 8 done, 1 infeasible" in done.stdout
    assert re.search(r"^makespan    10 s$", done.stdout, re.MULTILINE)
    assert "Limited by requests (11%): 1 of the tasks ask for more than there is" in done.stdout


def test_plans_side_by_side() -> None:
    done = sim("compare", "sleep", "--vary", "launcher=srun,flux", "--vary", "nodes=2,4")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    titles = "PLAN MACHINE NODES LAUNCHER MAKESPAN CORES USED GPUS USED CORE-HOURS STARTS/S MEDIAN WAIT NOT DONE LIMITED BY"
    assert lines[0].split() == titles.split()
    assert [line[:23].strip() for line in lines[1:]] == [
        "launcher=srun nodes=2",
        "launcher=srun nodes=4",
        "launcher=flux nodes=2",
        "launcher=flux nodes=4",
    ]
    assert "launcher ceiling" in lines[2]


def test_plans_from_files_side_by_side(here: Path) -> None:
    for name, nodes in (("few", 1), ("many", 4)):
        (here / f"{name}.toml").write_text(f'nodes = {nodes}\nlauncher = "ideal"\n')
    document = asked("compare", "mine.toml", "--plan", "few.toml", "--plan", "many.toml", "--vary", "pilots=1", cwd=here)
    found = [(one["plan"], one["nodes"], one["result"]["makespan_s"]) for one in document["simulations"]]
    assert found == [("few pilots=1", 1, 25.0), ("many pilots=1", 4, 15.0)]
    done = sim("compare", "mine.toml", "--plan", "few.toml", "--plan", "many.toml", "--quiet", cwd=here)
    assert done.stdout.split() == ["few", "many"]


def test_a_session_that_ran(tmp_path: Path) -> None:
    home = {**os.environ, "PILOTAGE_HOME": str(tmp_path)}
    ran = subprocess.run(
        [*PILOTAGE, "run", "-n", "12", "--session", "small", "--", "sh", "-c", "exit 0"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=home,
    )
    assert ran.returncode == 0, ran.stderr
    document = asked("--session", "small", "--launcher", "ideal", env=home)["simulation"]
    assert (document["workload"], document["result"]["outcomes"]) == ("small", {"DONE": 12})
    on_frontier = asked("-s", str(tmp_path / "sessions" / "small"), "-m", "frontier", "-n", "3", env=home)["simulation"]
    assert (on_frontier["nodes"], on_frontier["launchers"][""]["name"]) == (3, "srun")


def test_what_ships_is_listed_and_shown() -> None:
    names = sim("list", "-f", "quiet").stdout.split()
    assert {"frontier", "summit", "srun", "flux", "impeccable", "machine-scale"} <= set(names)
    shown = sim("show", "srun").stdout
    assert '[most_at_once]\nvalue = 112\nsource = "P25 section 4.1.1"\n' in shown
    assert json.loads(sim("show", "srun", "-f", "json").stdout)["launcher"]["most_at_once"]["value"] == 112


def test_help_has_examples() -> None:
    text = sim("--help").stdout
    assert "pilotage sim sleep --machine frontier --nodes 4 --launcher srun" in text
    assert "compare" in text


BAD = [
    (["sleeep"], "no workload is named 'sleeep'; did you mean 'sleep'?"),
    ([], ""),
    (["sleep", "--session", "x"], "give a workload or --session, not both 'sleep' and --session 'x'"),
    (["--nodes", "4"], "give a workload or --session, not neither"),
    (["--session", "./gone"], "--session ./gone: there is no such folder"),
    (["sleep", "--nodes", "99999"], "nodes=99,999 exceeds the 9,408 nodes of frontier"),
    (["sleep", "--scheduler", "pakced"], "scheduler=pakced: invalid enum value 'pakced'; did you mean 'packed'?"),
    (["sleep", "--order", "last"], "order=last: invalid enum value 'last'; known are first_come, backfill, priority"),
    (["sleep", "--walltime", "0"], "walltime=0.0: expected `float` > 0.0"),
    (["sleep", "--partitions", "flux"], "--partitions flux: 'flux' is not NAME:NODES[xCOUNT][:KIND], such as flux:32x2:"),
    (["sleep", "--partitions", "a:1:jobs"], "--partitions a:1:jobs: kinds of tasks are executable, function and service, not"),
    (["sleep", "--partitions", "a:5"], "partition 'a': nodes=5 exceeds the 4 nodes of the pilot"),
    (["sleep", "--partitions", "gone.toml"], "plan "),
    (["sleep", "--faults", "gone.toml"], "faults "),
    (["sleep", "--json", "--quiet"], "--format, --json and --quiet say different things"),
    (["sleep", "--plan", "a.toml", "--plan", "b.toml"], "--plan: a run has one plan, not 2"),
    (["compare", "sleep"], "there is one plan, and nothing to compare it with"),
    (["compare", "sleep", "--vary", "node=1,2"], "--vary node=1,2: there is no 'node' to vary; did you mean 'nodes'?"),
    (["compare", "sleep", "--vary", "nodes="], "--vary nodes=: write what to vary and its values"),
    (["compare", "sleep", "--vary", "nodes=1,x"], "nodes=x: expected `int`, got `str`"),
    (["compare", "sleep", "--vary", "nodes=1", "--vary", "nodes=2"], "--vary nodes=2: nodes is varied twice"),
    (["show", "srum"], "nothing is named 'srum'; did you mean 'srun'?"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(case[0]) or "nothing" for case in BAD])
def test_what_is_not_understood_is_said_in_a_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = sim(*arguments, cwd=tmp_path)
    assert done.returncode == 2, f"{done.stdout}\n{done.stderr}"
    assert done.stderr.startswith(f"pilotage: {message}")


def test_a_file_that_is_wrong_is_told_with_its_line(here: Path) -> None:
    (here / "mine.toml").write_text(WORKLOAD.replace("duration_s = 5", "duraton_s = 5"))
    done = sim("mine.toml", cwd=here)
    assert done.returncode == 2
    assert done.stderr == (
        "pilotage: workload file mine.toml:15: classes[2].duraton_s: there is no such field; did you mean 'duration_s'?\n"
    )
