"""All our batch systems keep the contract, over stand-ins of their commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_sites import StandInSite

from pilotage.batch.registry import BATCH_SYSTEMS
from pilotage.batch.system import BatchSystem
from pilotage.testing.contracts.batch_systems import BatchSite, BatchSystemContract


class TestPlayed(BatchSystemContract):
    @pytest.fixture(params=[name for name in BATCH_SYSTEMS if name != "grid_engine"])
    def system(self, request: pytest.FixtureRequest) -> BatchSystem:
        return BATCH_SYSTEMS[request.param]

    @pytest.fixture
    def site(self, system: BatchSystem, tmp_path: Path) -> BatchSite:
        return StandInSite(system, tmp_path)


class TestGridEngine(BatchSystemContract):
    options = {"parallel_environment": "mpi"}

    @pytest.fixture
    def site(self, tmp_path: Path) -> BatchSite:
        return StandInSite(BATCH_SYSTEMS["grid_engine"], tmp_path)
