"""The executors that ship keep the contract of all executors: simulated tasks, and real ones of real spawners, here or on the
hosts of nodes."""

from __future__ import annotations

from pathlib import Path

from cluster_support import Cluster, cluster_of

from pilotage.executors.base import Executor
from pilotage.executors.local import LocalExecutor
from pilotage.executors.simulated import SimulatedExecutor
from pilotage.model.workload import Template
from pilotage.testing.contracts.executors import ExecutorContract
from pilotage.testing.runner_driver import default_settings
from pilotage.wire.runner_settings import write_settings


class TestSimulated(ExecutorContract):
    short = Template(executable="/bin/true")
    long = Template(executable="/bin/true")

    def make_executor(self, folder: Path) -> Executor:
        return SimulatedExecutor(0.002)


class TestLocal(ExecutorContract):
    short = Template(executable="/bin/true")
    long = Template(executable="/bin/sleep", grace_s=0.2)
    long_arguments = ("1000",)
    outlives_agent = True

    def make_executor(self, folder: Path) -> Executor:
        settings = default_settings(folder)
        Path(settings.pilot_folder).mkdir(exist_ok=True)
        Path(settings.blob_folder).mkdir(exist_ok=True)
        write_settings(folder, settings)
        return LocalExecutor(folder, settings.session, settings.pilot, folder, 1)


class TestOneHost(ExecutorContract):
    short = Template(executable="/bin/true")
    long = Template(executable="/bin/sleep", grace_s=0.2)
    long_arguments = ("1000",)
    outlives_agent = True
    hosts = 1
    made: dict[Path, Cluster] = {}

    def make_executor(self, folder: Path) -> Executor:
        return cluster_of(self.made, folder, self.hosts)


class TestThreeHosts(TestOneHost):
    hosts = 3
