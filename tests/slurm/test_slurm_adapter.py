"""Our adapter for Slurm on a real one: the contract, and what becomes of jobs that something happens to."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster

from pilotage.batch.commands import BatchCommands, LocalRunner, write_script
from pilotage.batch.job import Dependency, JobSpec, JobState, JobStatus, SignalBeforeEnd
from pilotage.batch.slurm import SLURM
from pilotage.batch.system import BatchError, FailureKind
from pilotage.batch.watcher import JobChange, JobWatcher
from pilotage.errors import BackendError
from pilotage.testing.contracts.batch_systems import BatchSite, BatchSystemContract

UNHEARD_PORT = 1
"""Nothing listens there."""


class SlurmSite:
    """A real Slurm as the contract wants it. See ``BatchSite``."""

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        self.folder = folder
        self._cluster = cluster
        self._configuration = folder / "slurm.conf"
        self._configuration.write_text(cluster.configuration.read_text())
        environment = {**cluster.environment, "SLURM_CONF": str(self._configuration), "MY_SECRET": "42"}
        self.commands = BatchCommands(SLURM, LocalRunner(environment), timeout_s=60)

    def command(self) -> tuple[str, ...]:
        return ("sh", "-c", "while [ ! -s release ]; do sleep 0.1; done; exit $(cat release)")

    def begin(self, job: str) -> None:
        self._cluster.wait_for_job(job, "RUNNING")

    def end(self, job: str, exit_code: int) -> None:
        part = self.folder / "release.part"
        part.write_text(str(exit_code))
        part.rename(self.folder / "release")

    def go_down(self) -> None:
        text = self._configuration.read_text()
        moved = f"SlurmctldPort={UNHEARD_PORT}\nMessageTimeout=2"
        self._configuration.write_text(re.sub(r"(?m)^SlurmctldPort=.*", moved, text))

    def submit(self, *command: str, **fields: object) -> str:
        told = {"name": "pilot", "folder": str(self.folder), "command": command or self.command(), "walltime_s": 600, **fields}
        path = self.folder / f"job-{time.monotonic_ns()}.sh"
        write_script(SLURM, JobSpec(**told), path)  # type: ignore[arg-type]
        return self.commands.submit(str(path))

    def wait_for(self, job: str, *states: JobState) -> JobStatus:
        status: JobStatus | None = None

        def there() -> bool:
            nonlocal status
            status = self.commands.statuses([job])[job]
            return status.state in states

        self._cluster.wait_until(there, lambda: f"job {job} is one of {states}; it is {status}")
        assert status is not None
        return status


@pytest.fixture(autouse=True)
def submitted_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What jobs print goes where they were submitted, unless they say where."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def site(slurm: SlurmCluster, tmp_path: Path) -> Iterator[SlurmSite]:
    yield SlurmSite(slurm, tmp_path)


class TestSlurm(BatchSystemContract):
    @pytest.fixture
    def site(self, slurm: SlurmCluster, tmp_path: Path) -> BatchSite:
        return SlurmSite(slurm, tmp_path)


def test_a_job_that_waits_tells_why_and_when_it_may_start(site: SlurmSite, slurm: SlurmCluster) -> None:
    holding = site.submit(nodes=4, exclusive=True)
    site.wait_for(holding, JobState.RUNNING)
    waiting = site.submit(nodes=4, exclusive=True)

    slurm.wait_until(lambda: site.commands.statuses([waiting])[waiting].start_estimate_s, "an estimate is there")
    status = site.commands.statuses([waiting])[waiting]

    end_s = site.commands.statuses([holding])[holding].end_s
    assert (status.state, status.reason) == (JobState.QUEUED, "Resources")
    assert status.start_estimate_s is not None and end_s is not None and status.start_estimate_s >= end_s


def test_the_start_is_estimated_without_submitting(site: SlurmSite, slurm: SlurmCluster) -> None:
    script = site.folder / "job.sh"
    write_script(SLURM, JobSpec(name="pilot", folder=str(site.folder), command=("true",), walltime_s=60), script)

    start_s = site.commands.estimate(str(script))

    assert start_s is not None and abs(start_s - time.time()) < 3600
    assert slurm.jobs() == {}


def test_what_can_never_be_is_refused_by_the_estimate(site: SlurmSite) -> None:
    script = site.folder / "job.sh"
    write_script(SLURM, JobSpec(name="pilot", folder=str(site.folder), command=("true",), walltime_s=60, nodes=40), script)

    with pytest.raises(BatchError, match="node configuration is not available") as caught:
        site.commands.estimate(str(script))

    assert (caught.value.kind, caught.value.transient) == (FailureKind.LIMIT, False)


def test_a_signal_that_ended_a_script_is_told(site: SlurmSite) -> None:
    status = site.wait_for(site.submit("sh", "-c", "kill -9 $$"), JobState.FAILED)
    assert (status.exit_code, status.signal) == (None, 9)


def test_a_requeued_job_says_so(site: SlurmSite, slurm: SlurmCluster) -> None:
    job = site.submit(requeue=True)
    assert site.wait_for(job, JobState.RUNNING).restarts == 0

    slurm.output("scontrol", "requeue", job)

    assert site.wait_for(job, JobState.REQUEUED).restarts == 1
    assert site.wait_for(job, JobState.RUNNING).restarts == 1


def test_a_job_whose_node_is_lost_says_so(site: SlurmSite, slurm: SlurmCluster) -> None:
    job = site.submit(extra_options=("--nodelist=node4",))
    site.wait_for(job, JobState.RUNNING)
    try:
        slurm.set_node("node4", "down")
        status = site.wait_for(job, JobState.NODE_FAILED)
    finally:
        slurm.set_node("node4", "resume")
    assert status.reason == "NodeDown"


@pytest.mark.parametrize(("requeue", "then"), [(False, JobState.PREEMPTED), (True, JobState.REQUEUED)])
def test_a_preempted_job_says_so(site: SlurmSite, requeue: bool, then: JobState) -> None:
    job = site.submit(queue="spare", nodes=4, exclusive=True, requeue=requeue)
    site.wait_for(job, JobState.RUNNING)

    other = site.submit(queue="whole", nodes=4)

    site.wait_for(job, then)
    site.wait_for(other, JobState.RUNNING)


def test_a_job_waits_for_another(site: SlurmSite) -> None:
    first = site.submit()
    second = site.submit("true", dependencies=(Dependency("afterok", first),))
    status = site.commands.statuses([second])[second]
    assert (status.state, status.reason) in [(JobState.QUEUED, "Dependency"), (JobState.QUEUED, "")]

    site.end(first, 0)

    site.wait_for(second, JobState.DONE)


def test_the_submitters_environment_stays_outside(site: SlurmSite) -> None:
    inside = site.folder / "inside"
    site.wait_for(site.submit("sh", "-c", f"env > {inside}"), JobState.DONE)
    assert "MY_SECRET" not in inside.read_text()
    site.wait_for(site.submit("sh", "-c", f"env > {inside}", environment="all", variables={"LEVEL": "a b"}), JobState.DONE)
    assert {"MY_SECRET=42", "LEVEL=a b"} < set(inside.read_text().splitlines())


def test_the_program_itself_gets_the_signal_before_the_end(site: SlurmSite) -> None:
    # Slurm may send it up to a minute early; a job that has less left than it asks for gets it at once.
    program = "trap 'touch told; exit 0' USR1; touch ready; while :; do sleep 0.1; done"
    job = site.submit("sh", "-c", program, walltime_s=60, signal_before_end=SignalBeforeEnd("USR1", 59))
    assert site.wait_for(job, JobState.DONE).exit_code == 0
    assert (site.folder / "told").exists()


def test_a_watcher_tells_each_change_once(site: SlurmSite) -> None:
    changes: list[JobChange] = []
    trouble: list[BackendError | None] = []
    watcher = JobWatcher(site.commands, changes.extend, trouble.append)
    watcher.start()
    try:
        job = site.submit()
        watcher.watch(job)
        wait_until(lambda: any(change.now.state is JobState.RUNNING for change in changes), changes)
        site.end(job, 0)
        wait_until(lambda: any(change.now.state is JobState.DONE for change in changes), changes)
    finally:
        watcher.stop()
    assert all(change.before != change.now for change in changes)
    assert [change.before for change in changes] == [None, *(change.now for change in changes[:-1])]
    assert trouble == []


def wait_until(there: Callable[[], bool], shown: object) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline, shown
        time.sleep(0.05)
