"""Scripts of RADICAL-Pilot's users, with the line of the import changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from integration_support import Campaign, Programs, shell

import pilotage as rp

GETTING_STARTED = """
import os
import sys

import pilotage as rp

if __name__ == "__main__":
    session = rp.Session()
    try:
        pmgr = rp.PilotManager(session=session)
        tmgr = rp.TaskManager(session=session)

        pd_init = {"resource": "local.localhost", "runtime": 30, "exit_on_error": True, "cores": 4, "gpus": 0}
        pdesc = rp.PilotDescription(pd_init)
        pilot = pmgr.submit_pilots(pdesc)
        tmgr.add_pilots(pilot)

        n = 16
        tds = list()
        for i in range(n):
            td = rp.TaskDescription()
            td.stage_on_error = False
            td.executable = "/bin/date"
            td.sandbox = "sbox/%d" % i
            td.ranks = 1
            td.cores_per_rank = 1
            tds.append(td)

        tasks = tmgr.submit_tasks(tds)
        tmgr.wait_tasks()
        for task in tasks:
            assert task.state == rp.DONE, task
            assert task.exit_code == 0
            assert task.stdout
        print(len(tasks), "tasks", pilot.uid, sorted({task.state for task in tasks}))
    except Exception as e:
        print("caught Exception: %s" % e)
        raise
    except (KeyboardInterrupt, SystemExit):
        print("need to exit now")
    finally:
        session.close(download=True)
"""

UNITS = """
import pilotage as rp

session = rp.Session()
pmgr = rp.PilotManager(session)
umgr = rp.UnitManager(session)

pdesc = rp.ComputePilotDescription()
pdesc.resource = "local.localhost"
pdesc.cores = 2
pdesc.runtime = 15
pilot = pmgr.submit_pilots(pdesc)
umgr.add_pilots(pilot)

cuds = []
for i in range(4):
    cud = rp.ComputeUnitDescription()
    cud.executable = "/bin/sh"
    cud.arguments = ["-c", "echo $MESSAGE $OMP_NUM_THREADS"]
    cud.environment = {"MESSAGE": "unit %d" % i}
    cud.cpu_processes = 1
    cud.cpu_threads = 2
    cud.cpu_thread_type = rp.OpenMP
    cuds.append(cud)
units = umgr.submit_units(cuds)
umgr.wait_units()
for unit in units:
    print(unit.state, unit.exit_code, unit.stdout.strip())
session.close()
"""

VARIABLES = r"""
import os
import warnings

import pilotage as rp

warnings.simplefilter("error")

session = rp.Session()
pmgr = rp.PilotManager(session=session)
tmgr = rp.TaskManager(session=session)
pilot = pmgr.submit_pilots(rp.PilotDescription({"resource": "local.localhost", "cores": 2, "runtime": 15}))
tmgr.add_pilots(pilot)

def described(*arguments, **more):
    td = rp.TaskDescription(more)
    td.executable = "/bin/echo"
    td.arguments = list(arguments)
    return td

tds = [
    described("$RP_PILOT_ID"),
    described("$RP_TASK_ID greets $TEST", environment={"TEST": "jabberwocky"}, uid="task.env"),
    described("$RP_TASK_ID greets $TEST", pre_exec=["export TEST=jabberwocky"], uid="task.hook"),
    described("$RP_RANK/$RP_RANKS '$TEST'", environment={"TEST": '"a  b" $(touch x) `touch x`'}, ranks=2, use_mpi=False),
    described("$RP_RANK/$RP_RANKS", ranks=2, pre_exec=[{1: "export RP_RANK=one"}], use_mpi=False),
    described("\\$RP_RANK", "{print $1}", "$$", "[$RP_NONE]"),
]
tasks = tmgr.submit_tasks(tds)
tmgr.wait_tasks()
for task in tasks:
    print(task.state, sorted(task.stdout.splitlines()), "x" in os.listdir(task.sandbox))
session.close()
"""

FUNCTIONS = """
import pilotage as rp

@rp.pythontask
def greet(whom, times=1):
    return "hello " + whom * times

def state_cb(task, state):
    if state in rp.FINAL:
        seen.append(state)

seen = []
with rp.Session() as session:
    pmgr = rp.PilotManager(session=session)
    tmgr = rp.TaskManager(session=session)
    tmgr.register_callback(state_cb)
    pilot = pmgr.submit_pilots(rp.PilotDescription({"resource": "local.localhost", "cores": 2, "runtime": 15}))
    tmgr.add_pilots(pilot)
    pilot.wait(rp.PMGR_ACTIVE)
    task = tmgr.submit_tasks(rp.TaskDescription({"mode": rp.TASK_FUNCTION, "function": greet("you", times=2)}))
    tmgr.wait_tasks(uids=[task.uid])
    print(task.state, task.return_value)
print(seen)
"""


def test_the_getting_started_script(programs: Programs) -> None:
    done = programs.run(GETTING_STARTED)
    assert (done.returncode, done.stdout) == (0, "16 tasks pilot.0000 ['DONE']\n"), done.stderr


def test_the_names_of_2018(programs: Programs) -> None:
    done = programs.run(UNITS)
    assert (done.returncode, done.stdout) == (0, "".join(f"DONE 0 unit {number} 2\n" for number in range(4))), done.stderr


def test_variables_in_arguments(programs: Programs) -> None:
    done = programs.run(VARIABLES)
    assert done.returncode == 0, done.stderr
    of_ranks = [f"""{rank}/2 '"a  b" $(touch x) `touch x`'""" for rank in range(2)]
    assert done.stdout.splitlines() == [
        "DONE ['pilot.0000'] False",
        "DONE ['task.env greets jabberwocky'] False",
        "DONE ['task.hook greets jabberwocky'] False",
        f"DONE {of_ranks} False",
        "DONE ['0/2', 'one/2'] False",
        "DONE ['$RP_RANK {print $1} $$ []'] False",
    ]


def test_functions_and_callbacks(programs: Programs, tmp_path: Path) -> None:
    done = programs.run(FUNCTIONS, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "DONE hello youyou\n['DONE']\n"), done.stderr


def test_what_this_version_lacks_says_so(campaign: Campaign) -> None:
    (pilot,) = campaign.pilots.get_pilots()
    for use, told in (
        (lambda: pilot.rpc, r"Pilot\.rpc is not supported yet .* remote calls"),
        (lambda: campaign.tasks.submit_raptors, r"TaskManager\.submit_raptors is not supported yet .*RAPTOR"),
        (lambda: campaign.tasks.submit_task, "no attribute 'submit_task'; did you mean 'submit_tasks'"),
        (lambda: rp.raptor, r"pilotage\.raptor is not supported yet .*TASK_FUNCTION"),
        (lambda: rp.utils, r"radical\.utils"),
    ):
        with pytest.raises(AttributeError, match=told):
            use()


def test_profiles_log_files_and_metadata_of_a_session(campaign: Campaign, tmp_path: Path) -> None:
    campaign.shell("true")
    profiles, printed = campaign.session.fetch_profiles(), campaign.session.fetch_logfiles()
    assert {Path(path).parent.name for path in profiles} == {"client", "log"}
    assert "agent.err" in {Path(path).name for path in printed}
    copies = campaign.session.fetch_logfiles(tgt=tmp_path)
    assert len(copies) == len(printed)
    assert all(Path(path).is_relative_to(tmp_path) for path in copies)
    campaign.session.inject_metadata({"campaign": "water", "run": 1})
    campaign.session.inject_metadata({"run": 2})
    assert json.loads(Path(campaign.session.path, "metadata.json").read_bytes()) == {"campaign": "water", "run": 2}
    for wrong in ("text", {"lock": object()}):
        with pytest.raises(rp.InvalidRequest, match="metadata="):
            campaign.session.inject_metadata(wrong)  # type: ignore[arg-type]


def test_cleanup_removes_the_folders_of_the_tasks(open_campaign: Callable[..., Campaign]) -> None:
    campaign = open_campaign()
    pilots = [campaign.start(cores=1, cleanup=cleanup) for cleanup in (True, False)]
    campaign.run([shell("true", pilot=pilot.uid) for pilot in pilots])
    campaign.session.close()
    assert [Path(pilot.sandbox, "tasks").exists() for pilot in pilots] == [False, True]
