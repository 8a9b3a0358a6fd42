"""Fixtures: a fake agent, a worker that it drives, and a gate at which calls wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_bench import Bench, Gate

from pilotage.testing.runner_driver import RunnerDriver, default_settings


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[RunnerDriver]:
    with RunnerDriver(tmp_path / "agent") as driver:
        yield driver


@pytest.fixture
def bench(driver: RunnerDriver) -> Bench:
    bench = Bench(driver)
    bench.start()
    return bench


@pytest.fixture
def bench_with(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Make a bench whose runner settings differ from the usual ones."""
    drivers: list[RunnerDriver] = []

    def make(**settings: Any) -> Bench:
        folder = tmp_path / "agent"
        driver = RunnerDriver(folder, default_settings(folder, **settings))
        drivers.append(driver)
        driver.start()
        return Bench(driver)

    yield make
    for driver in drivers:
        driver.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()
