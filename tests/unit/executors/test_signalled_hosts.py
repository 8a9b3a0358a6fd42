"""Hosts that others tell to end: they go on if the batch system ends the whole job, and end if it does not, or nobody knows.

Hosts are processes of this machine; the batch system is a function that tells of the job.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_support import Cluster

from pilotage.agent.job_watch import JobWatch, Look, Verdict
from pilotage.batch.job import JobState, JobStatus
from pilotage.batch.system import BatchError
from pilotage.executors import cluster as cluster_module
from pilotage.executors.orphans import end_orphans, end_runners, marks_of, orphans
from pilotage.model.ids import RunnerId
from pilotage.model.outcome import Ending
from pilotage.model.workload import Template
from pilotage.testing.contracts.executors import DEADLINE_S, LONG, Agent

SPAWNER = RunnerId("spawner.0")
END_S = 1_000_000.0


class Job:
    """A pilot of one host in a job, with a task that stays."""

    def __init__(self, folder: Path, look: Look | None, patience_s: float = 60.0) -> None:
        self.cluster = Cluster(folder, 1)
        self.watch = JobWatch(look, END_S, patience_s=patience_s) if look is not None else None
        templates = {LONG: Template(executable="/bin/sleep", grace_s=0.2)}
        self.agent = Agent(self.cluster.executor(inquiry=self.watch), templates, ("1000",))
        self.agent.start()
        self.agent.start_runner(SPAWNER)
        [self.task] = self.agent.launch("task", template=LONG, runner=SPAWNER)
        self.agent.until(lambda: self.task in self.agent.told.started)
        self.host = self.cluster.starter.host("node0").process
        self.verdicts: list[Verdict] = []

    def tell_host_to_end(self) -> None:
        self.host.send_signal(signal.SIGTERM)

    def until(self, condition: Callable[[], bool]) -> None:
        """Have the agent work until this is so."""

        def there() -> bool:
            verdict = self.watch.take(time.time()) if self.watch is not None else None
            if verdict is not None:
                self.verdicts.append(verdict)
            return condition()

        self.agent.until(there)

    @property
    def is_lost(self) -> bool:
        return "lost nodes [0]" in self.agent.told.story

    @property
    def runs(self) -> bool:
        settings = self.cluster.settings
        return bool(orphans(settings.session, settings.pilot, (), marked=marks_of("", "node0")))

    def close(self) -> None:
        if self.watch is not None:
            self.watch.close()
        for folder in self.cluster.agent_folder.parent.glob("node*/pilotage-*/*"):
            end_runners(folder, 0.0, DEADLINE_S)
        end_orphans(self.cluster.settings.session, self.cluster.settings.pilot, (), DEADLINE_S)


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Job]]:
    # So often the executor has its turn, too.
    monkeypatch.setattr(cluster_module, "PING_S", 0.1)
    folder = Path(tempfile.mkdtemp(prefix="pilotage-"))
    jobs: list[Job] = []

    def begin_one(look: Look | None, **more: float) -> Job:
        jobs.append(Job(folder, look, **more))
        return jobs[-1]

    yield begin_one
    for job in jobs:
        job.close()
    shutil.rmtree(folder, ignore_errors=True)


def ends_at(end_s: float, state: JobState = JobState.RUNNING) -> Look:
    return lambda _timeout_s: JobStatus(state, end_s=end_s)


def no_answer(_timeout_s: float) -> JobStatus:
    raise BatchError("slurm: squeue had not ended after 20 s", transient=True)


@pytest.mark.parametrize("look", [ends_at(END_S - 100), ends_at(END_S, JobState.ENDING)], ids=["nearer", "ending"])
def test_it_goes_on_while_the_job_ends(begin: Callable[..., Job], look: Look) -> None:
    job = begin(look)
    for _ in range(2):
        job.tell_host_to_end()
        job.until(lambda: job.watch is not None and job.watch.answer is True)
    assert len(job.verdicts) == 1 and job.verdicts[0].reason
    # It heard the answer before this, and follows it.
    job.agent.executor.end(SPAWNER, [job.task], Ending.CANCELLED, "the agent says so")
    job.until(lambda: job.task in job.agent.told.ended)
    assert job.agent.told.ended[job.task].message == "the agent says so"
    assert job.host.poll() is None and not job.is_lost
    job.agent.executor.close(0.2)
    assert job.host.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("look", [ends_at(END_S), ends_at(END_S + 100), no_answer, None])
def test_it_ends_when_the_job_does_not_or_nobody_knows(begin: Callable[..., Job], look: Look | None) -> None:
    job = begin(look, patience_s=0.5 if look is no_answer else 60.0)
    job.tell_host_to_end()
    job.until(lambda: job.is_lost)
    assert [verdict.reason for verdict in job.verdicts] == ([] if look is None else [""])
    assert job.host.wait(DEADLINE_S) == 0 and not job.runs
    assert job.agent.told.lost == {SPAWNER: []}
    said = (job.cluster.agent_folder / "host.node0.err").read_text()
    assert "it was told to end by a signal" in said
    job.agent.executor.close(0.2)


@pytest.mark.parametrize("first", ["agent", "signal"])
def test_without_an_agent_it_ends_at_once(begin: Callable[..., Job], first: str) -> None:
    job = begin(ends_at(END_S - 100))
    if first == "agent":
        job.agent.executor.leave()
    # The agent that is left alone here has no turn, and so says nothing.
    job.tell_host_to_end()
    if first == "signal":
        job.agent.executor.leave()
    assert job.host.wait(DEADLINE_S) == 0 and not job.runs
    assert "it was told to end by a signal" in (job.cluster.agent_folder / "host.node0.err").read_text()
    job.cluster.starter.end()
