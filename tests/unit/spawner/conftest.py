"""A real spawner, driven by a fake agent."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from spawner_driver import SpawnerDriver, StartDriver


@pytest.fixture
def start_driver(tmp_path: Path) -> Iterator[StartDriver]:
    """Start a driver, with these changes to the settings, and one spawner."""
    drivers: list[SpawnerDriver] = []

    def start(**changes: object) -> SpawnerDriver:
        driver = SpawnerDriver(tmp_path / f"agent{len(drivers)}", **changes)
        drivers.append(driver)
        driver.start()
        driver.start_spawner()
        return driver

    yield start
    for driver in drivers:
        driver.close()


@pytest.fixture
def driver(start_driver: StartDriver) -> SpawnerDriver:
    """A driver with one spawner, ``spawner.0``."""
    return start_driver()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB and 40 inodes of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = "size=1m,nr_inodes=40,mode=0700"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
