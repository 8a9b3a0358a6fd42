"""Fixtures: a Slurm cluster that tests share, and clusters of their own for those that break one. See ``slurm_cluster``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import OpenSlurm, SlurmCluster, missing_slurm
from slurm_platform import platform_variables
from slurm_shell import Shell

from pilotage.client.session import Session


@pytest.fixture(scope="session")
def _shared_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    _need_slurm()
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def slurm(_shared_slurm: SlurmCluster) -> Iterator[SlurmCluster]:
    """A cluster of 4 idle nodes with 8 cores, 4 GPUs and 16,000 MiB each; jobs that a test has left are cancelled after it."""
    yield _shared_slurm
    _shared_slurm.cancel_all()


@pytest.fixture
def session(slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A session on this machine, whose platform ``test.cluster`` is the cluster."""
    for name, value in platform_variables(slurm, tmp_path).items():
        monkeypatch.setenv(name, value)
    with Session(base=tmp_path / "sessions") as session:
        yield session


@pytest.fixture
def shell(slurm: SlurmCluster, tmp_path: Path) -> Shell:
    ours = {**platform_variables(slurm, tmp_path), "PILOTAGE_HOME": str(tmp_path / "home")}
    return Shell(tmp_path, {**os.environ, **ours})


@pytest.fixture
def open_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSlurm]:
    """Start clusters for one test; takes what ``SlurmCluster`` takes, but for the folder. They are ended after it."""
    _need_slurm()
    opened: list[SlurmCluster] = []

    def open_one(**shape: Any) -> SlurmCluster:
        cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"), **shape)
        opened.append(cluster)
        cluster.start()
        return cluster

    yield open_one
    for cluster in opened:
        cluster.stop()


def _need_slurm() -> None:
    """Skip a test where there is no Slurm, or fail it on CI, where no part may be missing."""
    reason = missing_slurm()
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
