"""LoadLeveler. A job's command file has ``# @ name = value`` lines and ends with ``# @ queue``; the job's steps begin there.

One step is submitted: job ``host.123`` has the step ``host.123.0``, by which it is asked for and cancelled. ``llq -r`` prints
the columns asked for with ``!`` between them. Steps that have ended are gone from it after a short while.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pilotage.batch.job import JobSpec, JobState, JobStatus
from pilotage.batch.scripts import check_spec, hours_minutes_seconds, local_time, render_script
from pilotage.batch.system import FailureKind, SystemFacts, WithoutEstimate, unreadable

_STATES = {
    "I": JobState.QUEUED,
    "P": JobState.QUEUED,
    "D": JobState.QUEUED,
    "NQ": JobState.QUEUED,
    "ST": JobState.QUEUED,
    "H": JobState.HELD,
    "S": JobState.HELD,
    "HS": JobState.HELD,
    "V": JobState.REQUEUED,
    "VP": JobState.ENDING,
    "R": JobState.RUNNING,
    "CK": JobState.RUNNING,
    "E": JobState.RUNNING,
    "EP": JobState.RUNNING,
    "MP": JobState.RUNNING,
    "CP": JobState.ENDING,
    "RP": JobState.ENDING,
    "XP": JobState.ENDING,
    # Completed: its script has ended, with any exit code.
    "C": JobState.UNKNOWN,
    "CA": JobState.CANCELLED,
    "RM": JobState.CANCELLED,
    "X": JobState.CANCELLED,
    "NR": JobState.FAILED,
    "SX": JobState.FAILED,
    "TX": JobState.FAILED,
}
_WORDS = {
    "D": "deferred: its start date is not there yet, or what it needs",
    "C": "completed, with an exit code that LoadLeveler tells by mail alone",
    "V": "vacated: it was preempted, or its node was lost",
    "E": "preempted: suspended",
    "NR": "it can never run: a step that it waits for did not end so",
    "SX": "its submission was refused",
    "TX": "it was terminated",
}

_FAILURES = (
    (
        FailureKind.UNKNOWN_JOB,
        r"there is currently no job status|no job step.*found|2512-301.*not found|job.*(not found|does not exist)",
    ),
    (FailureKind.UNREACHABLE, r"cannot (connect|contact)|unable to connect|central manager|schedd"),
    (FailureKind.ACCOUNT, r"account"),
    (FailureKind.QUEUE, r"class"),
    (FailureKind.LIMIT, r"limit|exceed|maximum|not satisfied"),
)


class LoadLeveler(WithoutEstimate):
    """See the module."""

    facts = SystemFacts(
        name="loadleveler",
        commands=("llsubmit", "llq", "llcancel"),
        summary="IBM LoadLeveler",
        lacks={
            "qos": "a class, given as queue, stands for it",
            "licenses": "give the site's consumable resources in extra_options",
            "filesystems": "name what the site uses for them in constraints",
            "dependencies": "submit after the other has ended: LoadLeveler orders steps of one job alone",
            "signal_before_end": "leave it out: the agent knows the end of its job",
        },
        dependencies=(),
        failures=_FAILURES,
    )

    def script(self, spec: JobSpec) -> str:
        """Return the script of a job."""
        check_spec(self.facts, spec)
        resources = [
            f"ConsumableCpus({spec.cores_per_node})" if spec.cores_per_node else "",
            f"ConsumableMemory({spec.memory_mib_per_node}mb)" if spec.memory_mib_per_node else "",
            f"ConsumableGpus({spec.gpus_per_node})" if spec.gpus_per_node else "",
        ]
        consumed = " ".join(filter(None, resources))
        features = " && ".join(f'(Feature == "{each}")' for each in spec.constraints)
        options = [
            f"job_name = {spec.name}",
            "job_type = parallel",
            f"node = {spec.nodes}",
            "tasks_per_node = 1",
            f"resources = {consumed}" if consumed else "",
            f"wall_clock_limit = {hours_minutes_seconds(spec.walltime_s)}",
            f"class = {spec.queue}" if spec.queue else "",
            f"account_no = {spec.project}" if spec.project else "",
            f"ll_res_id = {spec.reservation}" if spec.reservation else "",
            f"requirements = {features}" if features else "",
            f"node_usage = {'not_shared' if spec.exclusive else 'shared'}",
            f"startdate = {local_time('%m/%d/%Y %H:%M', spec.begin_s)}" if spec.begin_s is not None else "",
            f"notify_user = {spec.mail_to}" if spec.mail_to else "",
            f"notification = {'always' if spec.mail_to else 'never'}",
            f"initialdir = {spec.folder}",
            f"output = {spec.output}" if spec.output else "",
            f"error = {spec.error or spec.output}" if spec.error or spec.output else "",
            f"restart = {'yes' if spec.requeue else 'no'}",
            "hold = user" if spec.hold else "",
            "environment = COPY_ALL" if spec.environment == "all" else "",
        ]
        return render_script(spec, "# @", filter(None, options), last="queue")

    def submit_command(self, path: str) -> list[str]:
        """Return the command that submits a script."""
        return ["llsubmit", path]

    def parse_submitted(self, output: str) -> str:
        """Return the id of the job's step."""
        found = re.search(r'The job "([^"\s]+\.\d+)" has been submitted', output)
        if not found:
            raise unreadable(self.facts.name, "job id", output)
        return f"{found[1]}.0"

    def status_command(self, jobs: Sequence[str]) -> list[str]:
        """Return the command that tells of jobs."""
        return ["llq", "-r", "%id", "%st", "%h", *jobs]

    def parse_status(self, output: str) -> dict[str, JobStatus]:
        """Return what that command printed."""
        told = {}
        for line in output.splitlines():
            parts = line.strip().split("!")
            if len(parts) == 3 and re.fullmatch(r"\S+\.\d+\.\d+", parts[0]):
                job, word, host = parts
                state = _STATES.get(word, JobState.UNKNOWN)
                told[job] = JobStatus(state, _WORDS.get(word, "" if word in _STATES else word), nodes=host)
            elif line.strip() and "no job status" not in line:
                raise unreadable(self.facts.name, "job", line)
        return told

    def find_command(self, name: str) -> list[str]:
        """Return the command that lists all jobs with their names."""
        return ["llq", "-r", "%id", "%jn"]

    def parse_found(self, output: str, name: str) -> list[str]:
        """Return their ids."""
        return [job for job, _, named in (line.strip().partition("!") for line in output.splitlines()) if named == name]

    def cancel_command(self, job: str) -> list[str]:
        """Return the command that cancels a job."""
        return ["llcancel", job]


LOADLEVELER = LoadLeveler()
