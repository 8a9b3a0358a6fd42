"""``pilotage platforms check`` on a real Slurm: as from a login node, and inside a job."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import SlurmCluster

PATIENCE_S = 100
COMMAND = (sys.executable, "-m", "pilotage.cli", "platforms", "check", "test.cluster", "--format", "json")
DESCRIPTION = """
[cluster]
batch = "slurm"
launch_methods = ["srun"]
queue = "shared"
cores_per_node = 8
gpus_per_node = 4
memory_per_node_mib = 16000
emulated = true
sandbox = "$PILOTS"
{more}
"""


class Login:
    """A login node of the cluster, with a platform file and folders of its own."""

    def __init__(self, slurm: SlurmCluster, folder: Path) -> None:
        self.slurm = slurm
        self.folder = folder
        self.pilots = folder / "pilots"
        self.pilots.mkdir()
        self.file = folder / "test.toml"
        self.variables = {
            "PILOTAGE_PLATFORMS": str(self.file),
            "PILOTAGE_HOME": str(folder / "home"),
            "PILOTS": str(self.pilots),
            "TMPDIR": str(folder),
        }
        self.describe()

    def describe(self, more: str = "", **changes: str) -> None:
        text = DESCRIPTION.format(more=more)
        for old, new in changes.items():
            text = "\n".join(f"{old} = {new}" if line.startswith(f"{old} =") else line for line in text.splitlines())
        self.file.write_text(f"{text}\n")

    def check(self, *arguments: str, environment: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env={**(environment or self.slurm.environment), **self.variables},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.stdout, done.stderr
        return done.returncode, findings(done.stdout)

    def check_in_job(self, *options: str) -> tuple[int, dict[str, Any]]:
        """Check inside a job with these options of ``sbatch``."""
        said = self.folder / "said"
        script = f"{shlex.join(COMMAND)} >{said}.part; echo $? >{said}.code; mv {said}.part {said}"
        job = self.slurm.submit(*options, "--export=ALL", f"--wrap={script}", environment=self.variables)
        self.slurm.wait_for_job(job, "COMPLETED")
        return int((self.folder / "said.code").read_text()), findings(said.read_text())


def findings(text: str) -> dict[str, Any]:
    found = {finding["check"]: finding for finding in json.loads(text)["checks"]}
    assert len(found) == len(json.loads(text)["checks"])
    return found


@pytest.fixture
def login(slurm: SlurmCluster, tmp_path: Path) -> Login:
    return Login(slurm, tmp_path)


def statuses(found: dict[str, Any]) -> dict[str, str]:
    return {name: finding["status"] for name, finding in found.items()}


def test_on_a_login_node_all_is_well_and_nothing_is_left(login: Login) -> None:
    code, found = login.check()

    assert code == 0
    assert re.match(r"slurm\S* \d+\.\d+\.\d+, in /", found["batch system"]["found"])
    assert "1 node, queue shared: would be taken; it would start " in found["job"]["found"]
    assert found["srun"]["status"] == "ok"
    assert found["network"]["status"] == "ok"
    assert "this is no job" in found["allocation"]["found"]
    assert {name for name, status in statuses(found).items() if status != "ok"} <= {"folder of pilots"}
    assert [*login.pilots.iterdir()] == []
    assert {path.name for path in login.folder.iterdir()} == {"pilots", "test.toml"}
    assert login.slurm.jobs() == {}


@pytest.mark.parametrize(
    ("arguments", "kind", "remedy"),
    [
        (["--queue", "nowhere"], "(queue)", "name a queue"),
        (["--nodes", "40"], "(limit)", "ask for what the queue allows"),
    ],
)
def test_what_slurm_would_refuse_is_told_with_its_words(login: Login, arguments: list[str], kind: str, remedy: str) -> None:
    code, found = login.check(*arguments)
    assert (code, found["job"]["status"]) == (1, "broken")
    assert "sbatch: error: " in found["job"]["found"] or "allocation failure: " in found["job"]["found"]
    assert kind in found["job"]["found"]
    assert found["job"]["remedy"].startswith(remedy)
    assert login.slurm.jobs() == {}


def test_limits_of_the_platforms_file_are_told_before_slurm_is_asked(login: Login) -> None:
    login.describe("[cluster.queues]\nshared = { max_nodes = 2 }")
    code, found = login.check("--nodes", "3")
    assert (code, found["job"]["status"]) == (1, "broken")
    assert "3 nodes exceed the 2 of queue 'shared' on test.cluster" in found["job"]["found"]


def test_a_queue_that_takes_no_small_jobs_is_tried_with_its_least(login: Login) -> None:
    login.describe("[cluster.queues]\nshared = { min_nodes = 3, max_walltime_minutes = 5 }")
    code, found = login.check()
    assert code == 0
    assert found["job"]["found"].startswith("3 nodes, queue shared: would be taken")


def test_without_a_controller_it_says_so_and_what_to_do(login: Login) -> None:
    configuration = login.folder / "slurm.conf"
    lines = login.slurm.configuration.read_text().splitlines()
    lines = ["SlurmctldPort=1" if line.startswith("SlurmctldPort=") else line for line in lines]
    configuration.write_text("\n".join([*lines, "MessageTimeout=2", ""]))

    code, found = login.check(environment={**login.slurm.environment, "SLURM_CONF": str(configuration)})

    assert (code, found["batch system"]["status"]) == (1, "broken")
    assert "ask the site whether its batch system is down" in found["batch system"]["remedy"]


def test_a_variable_that_is_missing_in_the_sandbox_is_named(login: Login) -> None:
    login.describe(sandbox='"$NOWHERE/pilots"')
    code, found = login.check()
    assert (code, found["folder of pilots"]["status"]) == (1, "broken")
    assert "there is no variable NOWHERE here" in found["folder of pilots"]["found"]


def test_in_a_job_each_node_is_looked_at(login: Login) -> None:
    code, found = login.check_in_job("--nodes=4", "--partition=whole")

    assert code == 0, found
    assert "node[1-4] (8 cores" in found["allocation"]["found"]
    assert found["nodes"]["found"] == "one process on each of 4 nodes, by srun"
    assert found["folder of pilots, on nodes"]["found"] == "all see it"
    assert found["network, on nodes"]["found"].startswith("all reach this node, by ")
    assert found["python, on nodes"]["status"] == "ok"
    assert [*login.pilots.iterdir()] == []


def test_in_a_job_what_a_node_has_stands_beside_what_is_claimed(login: Login) -> None:
    cores = os.cpu_count() or 1
    login.describe(cores_per_node=str(cores + 7), gpus_per_node="3", emulated="false")
    code, found = login.check_in_job("--nodes=1", "--partition=whole", "--gres=gpu:4")
    told = next(finding for name, finding in found.items() if name.startswith("shape of node"))
    assert code == 0
    assert told["status"] == "warning"
    assert f"cores_per_node={cores + 7} in the platform's file, and tasks get " in told["found"]
    assert "gpus_per_node=3 in the platform's file, and tasks get 4 in this job" in told["found"]


def test_a_python_that_nodes_do_not_have_is_told(login: Login) -> None:
    login.describe('python = "/nonexistent/python"')
    code, found = login.check_in_job("--nodes=2", "--partition=whole")
    assert code == 1
    assert found["python"]["found"] == "/nonexistent/python: No such file or directory"
    assert found["nodes"]["status"] == "broken"
    assert "node[1-2] of 2: nothing was heard" in found["nodes"]["found"]
    assert "/nonexistent/python" in found["nodes"]["found"]
