"""What every batch system does: the contract of ``batch.system`` as a suite, over its functions and over commands that run.

Give your system's tests a subclass::

    class TestMysystem(BatchSystemContract):
        @pytest.fixture
        def site(self, tmp_path: Path) -> BatchSite:
            return MySite(tmp_path)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from msgspec.structs import replace

from pilotage.batch.commands import BatchCommands, write_script
from pilotage.batch.job import Dependency, JobSpec, JobState, JobStatus, SignalBeforeEnd
from pilotage.batch.system import BatchError, FailureKind
from pilotage.errors import InvalidPilot

PATIENCE_S = 60.0
_WAITING = (JobState.QUEUED, JobState.HELD)

OTHER_VALUES: dict[str, Any] = {
    "nodes": 3,
    "cores_per_node": 8,
    "gpus_per_node": 4,
    "memory_mib_per_node": 4096,
    "walltime_s": 7200,
    "queue": "long",
    "project": "science",
    "qos": "high",
    "constraints": ("fast",),
    "reservation": "R12",
    "licenses": ("solver",),
    "filesystems": ("home", "scratch"),
    "exclusive": True,
    "begin_s": 1.9e9,
    "dependencies": (Dependency("afterany", "12"),),
    "mail_to": "somebody@example.org",
    "extra_options": ("--an-option=1",),
    "environment": "all",
    "variables": {"LEVEL": "two words"},
    "setup": ("module load program",),
    "output": "/shared/out",
    "error": "/shared/err",
    "signal_before_end": SignalBeforeEnd("USR1", 300),
    "requeue": True,
    "hold": True,
}
"""For each field of a spec, a value that it does not have by default."""

_SAID_OTHERWISE = {
    ("cobalt", "environment"),  # its jobs get none in either case
    ("cobalt", "exclusive"),  # its nodes are whole in either case
    ("lgi", "environment"),
    ("lgi", "walltime_s"),
}
"""Where a field changes nothing, for a reason that is in the system's module."""


class BatchSite(Protocol):
    """A place with a batch system, real or played."""

    commands: BatchCommands
    folder: Path

    def command(self) -> tuple[str, ...]:
        """Return the command of a job that runs until ``end`` is called."""

    def begin(self, job: str) -> None:
        """Have a waiting job start, if it does not by itself."""

    def end(self, job: str, exit_code: int) -> None:
        """Have a running job end."""

    def go_down(self) -> None:
        """Have the system's server answer no more."""


class BatchSystemContract:
    """The suite."""

    options: dict[str, str] = {}
    """Options that the site needs in each spec."""

    cores_per_node = 4
    """What a spec asks for, where the system can say it."""

    @pytest.fixture
    def site(self) -> BatchSite:
        """Return the site."""
        raise NotImplementedError

    def spec(self, site: BatchSite, **fields: Any) -> JobSpec:
        """Return a spec that the site takes."""
        facts = site.commands.system.facts
        cores = 0 if "cores_per_node" in facts.lacks else self.cores_per_node
        told = {"cores_per_node": cores, "options": self.options, **fields}
        return JobSpec(**{"name": "pilot", "folder": str(site.folder), "command": site.command(), "walltime_s": 600, **told})

    def submit(self, site: BatchSite, **fields: Any) -> str:
        """Submit a job."""
        path = site.folder / f"job-{time.monotonic_ns()}.sh"
        write_script(site.commands.system, self.spec(site, **fields), path)
        return site.commands.submit(str(path))

    def wait(self, site: BatchSite, job: str, there: Callable[[JobStatus], bool]) -> JobStatus:
        """Ask for a job until ``there`` says yes of it."""
        deadline = time.monotonic() + PATIENCE_S
        while not there(status := site.commands.statuses([job])[job]):
            assert time.monotonic() < deadline, f"job {job} is still {status}"
        return status

    @pytest.mark.parametrize("field", OTHER_VALUES)
    def test_a_field_is_said_or_refused_by_name(self, site: BatchSite, field: str) -> None:
        """Nothing that a user asks for is dropped in silence."""
        system = site.commands.system
        value = OTHER_VALUES[field]
        plain = replace(self.spec(site), walltime_s=3600)
        wanted = replace(plain, **{field: value})
        assert wanted != plain
        if (system.facts.name, field) in _SAID_OTHERWISE:
            assert system.script(plain) == system.script(wanted)
            return
        try:
            text = system.script(wanted)
        except InvalidPilot as error:
            assert str(error).startswith(f"{system.facts.name}: {field}=") and ";" in str(error)
        else:
            assert text != system.script(plain)

    def test_a_script_runs_its_command_in_its_folder(self, site: BatchSite) -> None:
        """The shell is replaced, so that signals reach the program."""
        text = site.commands.system.script(self.spec(site))
        assert text.startswith("#!/bin/sh\n")
        assert text == site.commands.system.script(self.spec(site))
        assert f"\ncd {site.folder} || exit 1\n" in text
        assert text.splitlines()[-1].startswith("exec ")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", "a\n#SBATCH --uid=0"),
            ("queue", "a b"),
            ("project", "$(id)"),
            ("extra_options", ("-a\n-b",)),
            ("folder", "relative"),
            ("walltime_s", 0),
            ("nodes", 0),
            ("command", ()),
            ("variables", {"API_TOKEN": "x"}),
            ("variables", {"a b": "x"}),
            ("options", {"nonsense": "1"}),
        ],
    )
    def test_what_means_nothing_is_refused(self, site: BatchSite, field: str, value: Any) -> None:
        """By name of the field, before anything is submitted."""
        with pytest.raises(InvalidPilot, match=rf"^\w+: {field}=.*;"):
            site.commands.system.script(replace(self.spec(site), **{field: value}))

    def test_a_job_waits_runs_and_ends(self, site: BatchSite) -> None:
        """Where ended jobs are no longer listed, or not how they ended, it is unknown, never done."""
        job = self.submit(site)
        assert site.commands.statuses([job])[job].state in (JobState.QUEUED, JobState.RUNNING)
        site.begin(job)
        running = self.wait(site, job, lambda status: status.state is JobState.RUNNING)
        assert running.exit_code is None and running.signal is None
        site.end(job, 3)
        ended = self.wait(site, job, lambda status: status.state.is_final or status.state is JobState.UNKNOWN)
        if ended.state is not JobState.UNKNOWN:
            assert (ended.state, ended.exit_code, ended.signal) == (JobState.FAILED, 3, None)

    def test_a_job_that_ends_well_is_done_or_unknown(self, site: BatchSite) -> None:
        """Done where the system tells so."""
        job = self.submit(site)
        site.begin(job)
        self.wait(site, job, lambda status: status.state is JobState.RUNNING)
        site.end(job, 0)
        ended = self.wait(site, job, lambda status: status.state.is_final or status.state is JobState.UNKNOWN)
        assert (ended.state, ended.exit_code) in [(JobState.DONE, 0), (JobState.UNKNOWN, None)]
        assert ended.state is JobState.DONE or not site.commands.system.facts.keeps_ended or ended.reason

    def test_a_held_job_is_held(self, site: BatchSite) -> None:
        """And can be cancelled."""
        if "hold" in site.commands.system.facts.lacks:
            return
        job = self.submit(site, hold=True)
        assert site.commands.statuses([job])[job].state is JobState.HELD
        assert site.commands.cancel(job)
        self.wait(site, job, lambda status: status.state in (JobState.CANCELLED, JobState.UNKNOWN))

    def test_a_running_job_is_cancelled(self, site: BatchSite) -> None:
        """Systems that tell no more than a signal say failed."""
        job = self.submit(site)
        site.begin(job)
        self.wait(site, job, lambda status: status.state is JobState.RUNNING)
        assert site.commands.cancel(job)
        ended = self.wait(site, job, lambda status: status.state not in (JobState.RUNNING, JobState.ENDING))
        assert ended.state in (JobState.CANCELLED, JobState.UNKNOWN) or (ended.state, ended.signal) == (JobState.FAILED, 15)

    def test_many_jobs_are_asked_for_at_once(self, site: BatchSite) -> None:
        """Those that are not there are unknown; the others are told nonetheless."""
        jobs = [self.submit(site) for _ in range(3)]
        missing = jobs[0].replace(jobs[0].strip(".0pbslogin")[:3], "987654")
        told = site.commands.statuses([*jobs, missing])
        assert set(told) == {*jobs, missing}
        assert told[missing].state is JobState.UNKNOWN and told[missing].reason
        assert all(told[job].state in (*_WAITING, JobState.RUNNING, JobState.REQUEUED) for job in jobs)
        assert site.commands.statuses([missing])[missing].state is JobState.UNKNOWN

    def test_a_job_is_found_by_its_name(self, site: BatchSite) -> None:
        """However long that is, as long as its end is its own; where jobs have no names, that is said."""
        names = [f"pilotage.{'water' * 20}.pilot.0000.{token}" for token in ("3f9a2b1c", "77777777", "01234567")]
        jobs = [self.submit(site, name=name) for name in names[:2]]
        found = [site.commands.find(name) for name in names]
        named = bool(site.commands.system.find_command("a"))
        assert found == ([[jobs[0]], [jobs[1]], []] if named else [None, None, None])

    def test_an_unknown_queue_is_refused_for_good(self, site: BatchSite) -> None:
        """With what the system said."""
        with pytest.raises(BatchError) as caught:
            self.submit(site, queue="nope")
        assert (caught.value.kind, caught.value.transient) == (FailureKind.QUEUE, False)

    def test_a_server_that_is_down_is_worth_another_try(self, site: BatchSite) -> None:
        """Nothing was submitted, and no job is taken for gone."""
        job = self.submit(site)
        site.go_down()
        for attempt in (lambda: self.submit(site), lambda: site.commands.statuses([job]), lambda: site.commands.cancel(job)):
            with pytest.raises(BatchError) as caught:
                attempt()
            assert (caught.value.kind, caught.value.transient) == (FailureKind.UNREACHABLE, True)
