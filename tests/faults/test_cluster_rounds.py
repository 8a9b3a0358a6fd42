"""A few of the random rounds on a cluster with fixed seeds; ``python -m tests.faults.cluster_rounds`` plays any number."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .stage import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests" / "slurm"))

from slurm_cluster import SlurmCluster, missing_slurm

from .cluster_rounds import cluster_in, play

TASKS = 100


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A cluster for all rounds."""
    if reason := missing_slurm():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    folder: Path = tmp_path_factory.mktemp("slurm")
    with cluster_in(folder) as cluster:
        yield cluster


@pytest.mark.parametrize("seed", [5, 6])
def test_a_round_of_random_strokes_is_survived(cluster: SlurmCluster, seed: int) -> None:
    play(seed, cluster, TASKS)
