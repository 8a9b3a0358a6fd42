"""What an agent learns from its job, and what its tasks are told."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import msgspec
import pytest

from pilotage.agent.allocation import allocation_environment, allocation_here, is_on, task_environment
from pilotage.agent.settings import PilotSettings, write_settings
from pilotage.agent.startup import times_of
from pilotage.errors import BackendError
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.platforms.allocations import AllocatedNode, Allocation
from pilotage.system.python import python_command


def settings_in(folder: Path, **others: object) -> PilotSettings:
    made = PilotSettings(
        session=SessionUid("s"),
        pilot=PilotUid("p"),
        session_folder=str(folder),
        pilot_folder=str(folder),
        blob_folder=str(folder),
        nodes=[],
        executor="cluster",
    )
    return msgspec.structs.replace(made, **others)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without any job."""
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"]})
    return monkeypatch


def test_a_file_of_nodes_is_an_allocation(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("n[1-3] cores=4\n")
    bare.setitem(os.environ, "PILOTAGE_NODE_FILE", str(tmp_path / "nodes"))
    found = allocation_here(settings_in(tmp_path, batch="pbspro"))
    assert [node.name for node in found.nodes] == ["n1", "n2", "n3"]
    assert is_on(found) is None


def test_without_a_batch_system_there_is_this_machine(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = allocation_here(settings_in(tmp_path))
    assert [node.name for node in found.nodes] == [socket.gethostname()]
    assert is_on(found) == 0


def test_a_job_without_any_variable_of_one_is_an_error(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"run in a job of slurm, and no variable of a job is set .* PILOTAGE_NODE_FILE"):
        allocation_here(settings_in(tmp_path, batch="slurm"))


@pytest.mark.parametrize(
    ("names", "here", "launch_node", "place"),
    [
        (["n1", "n2"], "n2", None, 1),
        (["n1", "n2"], None, None, None),
        (["n1"], None, None, 0),
        (["n1"], None, "batch1", None),
    ],
)
def test_which_node_an_agent_is_on(names: list[str], here: str | None, launch_node: str | None, place: int | None) -> None:
    nodes = tuple(AllocatedNode(name=name) for name in names)
    assert is_on(Allocation(system="lsf", job="1", nodes=nodes, here=here, launch_node=launch_node)) == place


def test_tasks_start_from_the_users_environment_and_know_of_no_job(tmp_path: Path) -> None:
    of_the_user = {
        "HOME": "/home/me",
        "SLURM_JOB_ID": "1",
        "SLURM_CONF": "/etc/slurm.conf",
        "PMI_RANK": "0",
        "PMIX_MCA_gds": "hash",
        "HOSTNAME": "login1",
        "XDG_RUNTIME_DIR": "/run/user/1000",
        "TMPDIR": "/no/such/folder",
        "JOB_NAME": "mine",
    }
    settings = settings_in(tmp_path, batch="slurm", environment=of_the_user)
    given = task_environment(settings, {"SLURM_JOB_ID": "2", "LD_PRELOAD": "of the job"})
    assert given == {"HOME": "/home/me", "SLURM_CONF": "/etc/slurm.conf", "PMIX_MCA_gds": "hash", "JOB_NAME": "mine"}
    assert task_environment(settings, {"TMPDIR": "/scratch/job2"})["TMPDIR"] == "/scratch/job2"
    kept = msgspec.structs.replace(settings, environment={**of_the_user, "TMPDIR": str(tmp_path)})
    assert task_environment(kept, {})["TMPDIR"] == str(tmp_path)


def test_on_this_machine_the_users_environment_is_that_of_the_node(tmp_path: Path) -> None:
    variables = {"HOSTNAME": "here", "XDG_RUNTIME_DIR": "/run/user/1000", "TMPDIR": "/no/such/folder"}
    assert task_environment(settings_in(tmp_path, environment=variables), {"TMPDIR": "/other"}) == variables


def test_launchers_get_what_is_said_of_the_job_and_not_of_a_launch() -> None:
    of_the_job = {
        "SLURM_JOB_ID": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_PROCID": "0",
        "PMI_RANK": "0",
        "PBS_NODEFILE": "/var/spool/pbs/aux/2",
        "HOME": "/home/me",
    }
    given = allocation_environment(of_the_job)
    assert set(given) == {"SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_CONF", "PBS_NODEFILE"}


@pytest.mark.parametrize(
    ("runtime_s", "job_end", "deadline"),
    [(0.0, None, None), (600.0, None, 1600.0), (0.0, 1500.0, 1490.0), (600.0, 1500.0, 1490.0), (600.0, 5000.0, 1600.0)],
)
def test_a_pilot_ends_with_its_runtime_or_before_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime_s: float, job_end: float | None, deadline: float | None
) -> None:
    monkeypatch.setattr("pilotage.agent.startup._began", lambda folder: 1000.0)
    settings = settings_in(tmp_path, runtime_s=runtime_s, end_margin_s=10.0)
    assert times_of(settings, job_end) == (1000.0, deadline)


def test_an_agent_that_cannot_begin_says_why_and_is_not_followed_by_another(tmp_path: Path) -> None:
    folder = tmp_path / "pilot"
    folder.mkdir(mode=0o700)
    write_settings(settings_in(folder, batch="slurm"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    bootstrap = subprocess.run(
        python_command("pilotage.agent.bootstrap", str(folder), "-1"),
        env={**environment, "TMPDIR": str(tmp_path)},
        capture_output=True,
        timeout=60.0,
        check=False,
    )
    said = (folder / "agent.err").read_text()
    assert bootstrap.returncode == 1
    assert said.startswith("this agent is to run in a job of slurm, and no variable of a job is set on ")
    assert said.count("\n") == 1
    assert not list(tmp_path.glob("pilotage-*/*"))
