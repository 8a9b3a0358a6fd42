"""All our launch methods keep the contract."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from launch_shapes import NIDS, installed_of

from pilotage.launchers.method import Installed, LaunchMethod
from pilotage.launchers.registry import LAUNCH_METHODS
from pilotage.testing.contracts.launch_methods import LaunchMethodContract


class TestOurs(LaunchMethodContract):
    @pytest.fixture(params=LAUNCH_METHODS.values(), ids=LAUNCH_METHODS.keys())
    def method(self, request: pytest.FixtureRequest) -> LaunchMethod:
        chosen: LaunchMethod = request.param
        return chosen

    @pytest.fixture
    def installed(self, method: LaunchMethod) -> Installed:
        return installed_of(method.facts.name)

    @pytest.fixture
    def node_names(self, method: LaunchMethod) -> Mapping[int, str]:  # type: ignore[override]
        return NIDS
