"""Cobalt, of Argonne's machines until Polaris. Jobs that have ended are no longer listed: they are unknown at once.

A script's directives are the options of ``qsub``; the script has to be executable. ``qstat -l`` prints ``name : value`` lines
for each job, in the order of the columns asked for, of which the job's id is the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pilotage.batch.job import JobSpec, JobState, JobStatus
from pilotage.batch.scripts import check_spec, minutes, parse_local_time, render_script, word_of
from pilotage.batch.system import FailureKind, SystemFacts, WithoutEstimate, last_job_id, unreadable

_STATES = {
    "queued": JobState.QUEUED,
    "starting": JobState.QUEUED,
    "preempted": JobState.REQUEUED,
    "running": JobState.RUNNING,
    "killing": JobState.ENDING,
    "exiting": JobState.ENDING,
    "cleanup": JobState.ENDING,
    "user_hold": JobState.HELD,
    "admin_hold": JobState.HELD,
    "dep_hold": JobState.HELD,
    "dep_fail": JobState.HELD,
    "maxrun_hold": JobState.HELD,
    "hold": JobState.HELD,
}

_FAILURES = (
    (FailureKind.UNKNOWN_JOB, r"jobid.*not found|no jobs? found|job.*(not found|does not exist)|no match"),
    (FailureKind.UNREACHABLE, r"failed to connect|can't connect|cannot reach|component .*not (available|found)|communication"),
    (FailureKind.ACCOUNT, r"project.*(invalid|not|missing|required)|allocation|account"),
    (FailureKind.QUEUE, r"queue .*(does not exist|is not|unknown)|not allowed to run in|reservation"),
    (FailureKind.LIMIT, r"exceed|out of bounds|greater than|max|limit|walltime|node count"),
)


class Cobalt(WithoutEstimate):
    """See the module."""

    facts = SystemFacts(
        name="cobalt",
        commands=("qsub", "qstat", "qdel"),
        summary="Cobalt",
        lacks={
            "qos": "a queue stands for it",
            "reservation": "give its queue as queue",
            "licenses": "leave them out: Cobalt knows none",
            "begin_s": "submit later: Cobalt starts a job when it can",
            "memory_mib_per_node": "leave it out: nodes are whole",
            "cores_per_node": "leave it out: nodes are whole",
            "gpus_per_node": "leave it out: nodes are whole",
            "signal_before_end": "leave it out: the agent knows the end of its job",
            "requeue": "leave it out, and submit a follow-up",
        },
        dependencies=("afterany",),
        failures=_FAILURES,
        keeps_ended=False,
        executable_script=True,
    )

    def script(self, spec: JobSpec) -> str:
        """Return the script of a job; nodes are whole, ``exclusive`` or not."""
        check_spec(self.facts, spec)
        attributes = [
            f"filesystems={','.join(spec.filesystems)}" if spec.filesystems else "",
            *(each if "=" in each else f"{each}=true" for each in spec.constraints),
        ]
        attributes = [each for each in attributes if each]
        options = [
            f"--jobname {spec.name}",
            f"-n {spec.nodes}",
            f"-t {minutes(spec.walltime_s)}",
            f"-q {spec.queue}" if spec.queue else "",
            f"-A {spec.project}" if spec.project else "",
            f"--attrs {':'.join(attributes)}" if attributes else "",
            f"--dependencies {':'.join(each.job for each in spec.dependencies)}" if spec.dependencies else "",
            f"-M {spec.mail_to}" if spec.mail_to else "",
            f"-o {spec.output}" if spec.output else "",
            f"-e {spec.error or spec.output}" if spec.error or spec.output else "",
            "-h" if spec.hold else "",
        ]
        return render_script(spec, "#COBALT", filter(None, options))

    def submit_command(self, path: str) -> list[str]:
        """Return the command that submits a script."""
        return ["qsub", path]

    def parse_submitted(self, output: str) -> str:
        """Return the job's id: the last number that stands alone on a line."""
        return last_job_id(self.facts.name, output, r"\d+")

    def status_command(self, jobs: Sequence[str]) -> list[str]:
        """Return the command that tells of jobs."""
        return ["qstat", "-l", "--header", "JobID:State:Location:StartTime:RunTime:TimeRemaining", *jobs]

    def parse_status(self, output: str) -> dict[str, JobStatus]:
        """Return what that command printed."""
        jobs = _listed(self.facts.name, output)
        for job, told in jobs.items():
            if "state" not in told:
                raise unreadable(self.facts.name, f"state of job {job}", output)
        return {job: _status(told) for job, told in jobs.items()}

    def find_command(self, name: str) -> list[str]:
        """Return the command that lists all jobs with their names."""
        return ["qstat", "-l", "--header", "JobID:JobName"]

    def parse_found(self, output: str, name: str) -> list[str]:
        """Return their ids."""
        return [job for job, told in _listed(self.facts.name, output).items() if told.get("jobname") == name]

    def cancel_command(self, job: str) -> list[str]:
        """Return the command that cancels a job."""
        return ["qdel", job]


def _listed(system: str, output: str) -> dict[str, dict[str, str]]:
    """Return the columns of each job in a long list, by their names in small letters."""
    jobs: dict[str, dict[str, str]] = {}
    values: dict[str, str] | None = None
    for line in output.splitlines():
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            continue
        if name.lower() == "jobid":
            values = jobs.setdefault(value, {})
        elif values is None:
            raise unreadable(system, "job", line)
        else:
            values[name.lower()] = value
    return jobs


def _status(values: Mapping[str, str]) -> JobStatus:
    word = values["state"].lower()
    state = _STATES.get(word, JobState.UNKNOWN)
    return JobStatus(
        state,
        "" if state is JobState.RUNNING or word == "queued" else word,
        nodes=word_of(values, "location"),
        started_s=parse_local_time(word_of(values, "starttime"), "%a %b %d %H:%M:%S %Y"),
    )


COBALT = Cobalt()
