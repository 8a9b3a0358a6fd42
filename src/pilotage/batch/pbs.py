"""The PBS family: PBS Pro and OpenPBS here, Torque in its own file; both are read by what is in this one.

``qstat -f`` prints ``name = value`` lines, and continues long ones after a tab. The JSON of newer versions is not used: values
with quotes or backslashes made it unreadable for years, and Torque has none. Ended jobs need ``-x``, and are listed where the
site keeps a history.

Substate 91 is a job that was deleted. Negative exit codes are the system's own words. A signal is 128 or 256 and more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pilotage.batch.job import JobSpec, JobState, JobStatus
from pilotage.batch.scripts import check_spec, exit_of_shell, hours_minutes_seconds, local_time, parse_local_time, render_script
from pilotage.batch.system import FailureKind, SystemFacts, WithoutEstimate, ids_alone, last_job_id, unreadable

FAILURES = (
    (FailureKind.UNKNOWN_JOB, r"unknown job id|job has finished|invalid state for job|request invalid for state of job"),
    (
        FailureKind.UNREACHABLE,
        r"cannot connect to server|connection refused|end of file|pbs_iff|no route to host|server.*shutting down",
    ),
    (FailureKind.UNANSWERED, r"timed? ?out|premature end of message"),
    (FailureKind.ACCOUNT, r"invalid account|account.*(not|invalid|denied|expired)|project.*(not|invalid|denied|expired)"),
    (FailureKind.QUEUE, r"unknown queue|queue is not enabled|no default queue|unauthorized request|access to queue is denied"),
    (FailureKind.QUEUE, r"reservation|not authorized to use queue"),
    (
        FailureKind.LIMIT,
        r"job (exceeds|violates) queue|would exceed|exceeds.*(limit|maximum)|cannot be satisfied|max.*jobs|limit",
    ),
    (FailureKind.LIMIT, r"unknown resource|illegal attribute or resource value|resource .*not available"),
)

_STATES = {
    "Q": JobState.QUEUED,
    "T": JobState.QUEUED,
    "W": JobState.QUEUED,
    "M": JobState.QUEUED,
    "H": JobState.HELD,
    "R": JobState.RUNNING,
    "B": JobState.RUNNING,
    "S": JobState.RUNNING,
    "U": JobState.RUNNING,
    "E": JobState.ENDING,
}
_ENDED = frozenset("FCX")
_ASCTIME = "%a %b %d %H:%M:%S %Y"

_PRO_EXITS = {-29: JobState.TIMED_OUT, -28: JobState.TIMED_OUT, -27: JobState.OUT_OF_MEMORY, -26: JobState.OUT_OF_MEMORY}
_DELETED = "91"


JOB_ID = r"\d+(\[\])?(\.\S+)?"
_NAME_CHARACTERS = 15


class PbsCommands(WithoutEstimate):
    """What is said in the same words to all of the family, and how it names jobs."""

    facts: SystemFacts

    def submit_command(self, path: str) -> list[str]:
        """Return the command that submits a script."""
        return ["qsub", path]

    def parse_submitted(self, output: str) -> str:
        """Return the job's id: sequence number and server."""
        return parse_job_id(self.facts.name, output)

    def parse_found(self, output: str, name: str) -> list[str]:
        """Return their ids."""
        return ids_alone(self.facts.name, output, JOB_ID)

    def cancel_command(self, job: str) -> list[str]:
        """Return the command that cancels a job."""
        return ["qdel", job]


class PbsPro(PbsCommands):
    """PBS Pro and OpenPBS. See the module."""

    facts = SystemFacts(
        name="pbspro",
        commands=("qsub", "qstat", "qdel", "qselect"),
        summary="PBS Professional and OpenPBS",
        lacks={
            "qos": "a queue stands for it; sites with a resource of that name take it in extra_options",
            "signal_before_end": "leave it out: the agent knows the end of its job",
        },
        failures=FAILURES,
    )

    def script(self, spec: JobSpec) -> str:
        """Return the script of a job."""
        check_spec(self.facts, spec)
        chunk = [
            f"ncpus={spec.cores_per_node}" if spec.cores_per_node else "",
            f"ngpus={spec.gpus_per_node}" if spec.gpus_per_node else "",
            f"mem={spec.memory_mib_per_node}mb" if spec.memory_mib_per_node else "",
            *(each if "=" in each else f"{each}=True" for each in spec.constraints),
        ]
        options = [
            *common_options(spec),
            f"-l select={':'.join([str(spec.nodes), *filter(None, chunk)])}",
            f"-l place=scatter{':excl' if spec.exclusive else ''}",
            f"-l filesystems={':'.join(spec.filesystems)}" if spec.filesystems else "",
            *(f"-l {each if '=' in each else f'{each}=1'}" for each in spec.licenses),
        ]
        return render_script(spec, "#PBS", filter(None, options))

    def status_command(self, jobs: Sequence[str]) -> list[str]:
        """Return the command that tells of jobs, ended ones, too."""
        return ["qstat", "-x", "-f", *jobs]

    def parse_status(self, output: str) -> dict[str, JobStatus]:
        """Return what that command printed."""
        return {job: _pro_status(values) for job, values in parse_full(self.facts.name, output).items()}

    def find_command(self, name: str) -> list[str]:
        """Return the command that lists the jobs of a name, ended ones, too."""
        return ["qselect", "-x", "-N", short_name(name)]


def common_options(spec: JobSpec) -> list[str]:
    """Return the options that all of the family have."""
    queue = spec.reservation or spec.queue
    waits_for = ",".join(f"{each.kind}:{each.job}" for each in spec.dependencies)
    return [
        f"-N {short_name(spec.name)}",
        "-S /bin/sh",
        f"-l walltime={hours_minutes_seconds(spec.walltime_s)}",
        f"-q {queue}" if queue else "",
        f"-A {spec.project}" if spec.project else "",
        f"-a {local_time('%Y%m%d%H%M.%S', spec.begin_s)}" if spec.begin_s is not None else "",
        f"-W depend={waits_for}" if waits_for else "",
        f"-M {spec.mail_to}" if spec.mail_to else "",
        "-m abe" if spec.mail_to else "-m n",
        f"-o {spec.output}" if spec.output else "",
        f"-e {spec.error}" if spec.error else "-j oe",
        f"-r {'y' if spec.requeue else 'n'}",
        "-h" if spec.hold else "",
        "-V" if spec.environment == "all" else "",
    ]


def short_name(name: str) -> str:
    """Return a name of at most 15 characters, as more are refused by some versions; what sets names apart is at their ends.

    >>> short_name("pilotage.water.pilot.0000.3f9a2b1c")
    'pilota.3f9a2b1c'
    """
    return name if len(name) <= _NAME_CHARACTERS else name[:6] + name[6 - _NAME_CHARACTERS :]


def parse_job_id(system: str, output: str) -> str:
    """Return the id in what ``qsub`` printed; sites print more above it.

    Raises:
        BatchError: there is none.
    """
    return last_job_id(system, output, JOB_ID)


def parse_full(system: str, output: str) -> dict[str, dict[str, str]]:
    """Return the attributes of each job in what ``qstat -f`` printed.

    Raises:
        BatchError: a line stands where no job is.
    """
    jobs: dict[str, dict[str, str]] = {}
    values: dict[str, str] | None = None
    name = ""
    for line in output.splitlines():
        if line.startswith("Job Id:"):
            values = jobs.setdefault(line.partition(":")[2].strip(), {})
            name = ""
        elif values is None:
            if line.strip():
                raise unreadable(system, "job", line)
        elif line.startswith("\t") and name:
            values[name] += line.strip()
        elif " = " in line and line.startswith("    "):
            name, _, value = line.strip().partition(" = ")
            values[name] = value
    for job, told in jobs.items():
        if "job_state" not in told:
            raise unreadable(system, f"state of job {job}", output)
    return jobs


def told_of(values: Mapping[str, str], state: JobState, exit_code: int | None, signal: int | None) -> JobStatus:
    """Return the status of a job whose state is decided."""
    restarts = int(values["run_count"]) - 1 if values.get("run_count", "").isdigit() and values["run_count"] != "0" else None
    waits = state in (JobState.QUEUED, JobState.HELD)
    begun = waits and int(values.get("run_count", "0") or 0) > 0
    if state is JobState.QUEUED and begun:
        state, restarts = JobState.REQUEUED, int(values["run_count"])
    started = None if waits else parse_local_time(values.get("stime", values.get("start_time", "")), _ASCTIME)
    ended = parse_local_time(values.get("obittime", values.get("comp_time", values.get("mtime", ""))), _ASCTIME)
    limit_s = seconds_of(values.get("Resource_List.walltime", ""))
    planned = started + limit_s if started is not None and limit_s is not None else None
    suspended = "suspended: " if values["job_state"] in "SU" else ""
    return JobStatus(
        state,
        suspended + values.get("comment", ""),
        exit_code=exit_code,
        signal=signal,
        nodes=values.get("exec_host", ""),
        start_estimate_s=parse_local_time(values.get("estimated.start_time", ""), _ASCTIME) if waits else None,
        started_s=started,
        end_s=ended if state.is_final else planned,
        restarts=restarts,
    )


def state_of(values: Mapping[str, str]) -> JobState | None:
    """Return the state of a job that has not ended; None: it has."""
    letter = values["job_state"]
    return None if letter in _ENDED else _STATES.get(letter, JobState.UNKNOWN)


def seconds_of(text: str) -> int | None:
    """Return a length of time that is written with colons, in seconds.

    >>> seconds_of("26:03:04"), seconds_of("")
    (93784, None)
    """
    if not re.fullmatch(r"\d+(:\d+){0,3}", text):
        return None
    total = 0
    for part in text.split(":"):
        total = total * 60 + int(part)
    return total


def _pro_status(values: Mapping[str, str]) -> JobStatus:
    state = state_of(values)
    if state is not None:
        return told_of(values, state, None, None)
    text = values.get("Exit_status", "")
    if values.get("substate") == _DELETED or not text:
        code, signal = exit_of_shell(int(text)) if text else (None, None)
        return told_of(values, JobState.CANCELLED if values.get("substate") == _DELETED else JobState.UNKNOWN, code, signal)
    status = int(text)
    if status < 0:
        return told_of(values, _PRO_EXITS.get(status, JobState.FAILED), None, None)
    code, signal = exit_of_shell(status)
    return told_of(values, JobState.DONE if code == 0 else JobState.FAILED, code, signal)


PBSPRO = PbsPro()
