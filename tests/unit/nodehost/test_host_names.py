"""Which node a host is on: what it is told, what the batch system says, what it is called."""

from __future__ import annotations

import socket

import pytest

from pilotage.errors import BackendError
from pilotage.executors.hosts import NODE_NAME
from pilotage.nodehost.main import name_here

NAMES = ("nid001", "nid002")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """In no job, on a machine that is no node of the pilot."""
    for name in ("SLURM_JOB_ID", "SLURM_JOBID", "PBS_JOBID", "LSB_JOBID", "FLUX_URI", "COBALT_JOBID", "JOB_ID", NODE_NAME):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "login7")


def test_what_it_is_told_counts_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "nid001")
    monkeypatch.setenv(NODE_NAME, "nid002")
    assert name_here(NAMES) == "nid002"


def test_the_batch_system_is_asked_before_the_hostname(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "nid[001-002]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_CPUS_PER_NODE": "8(x2)",
        "SLURMD_NODENAME": "nid002",
    }.items():
        monkeypatch.setenv(name, value)
    assert name_here(NAMES) == "nid002"


@pytest.mark.parametrize(("hostname", "name"), [("nid001", "nid001"), ("nid002.cluster.example", "nid002")])
def test_else_it_goes_by_its_hostname_short_or_full(monkeypatch: pytest.MonkeyPatch, hostname: str, name: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: hostname)
    assert name_here(NAMES) == name


def test_variables_of_a_job_that_cannot_be_read_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "nid[")
    monkeypatch.setattr(socket, "gethostname", lambda: "nid001")
    assert name_here(NAMES) == "nid001"


def test_a_machine_that_is_no_node_is_told_what_to_set() -> None:
    with pytest.raises(BackendError, match=f"this is login7, which is no node of the pilot; set {NODE_NAME}"):
        name_here(NAMES)
