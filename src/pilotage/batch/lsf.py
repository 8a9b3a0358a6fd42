"""LSF. ``bsub`` reads a script's directives only from its standard input, so a shell hands the file over.

``bjobs -json`` tells of many jobs, those that ended within ``CLEAN_PERIOD`` (an hour), too; ``LSB_DISPLAY_YEAR`` adds the
year to times. The words of ``exit_reason`` (``TERM_RUNLIMIT``, ...) tell how a job ended.

Nodes are asked for as slots: ``-n`` of all nodes, ``span[ptile=...]`` of each. So ``cores_per_node`` has to be said. A signal
before the end is told in whole minutes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from pilotage.batch.job import DependencyKind, JobSpec, JobState, JobStatus
from pilotage.batch.scripts import check_spec, exit_of_shell, local_time, minutes, parse_local_time, render_script, word_of
from pilotage.batch.system import FailureKind, SystemFacts, WithoutEstimate, ids_alone, unreadable
from pilotage.errors import InvalidPilot

_STATES = {
    "PEND": JobState.QUEUED,
    "WAIT": JobState.QUEUED,
    "PROV": JobState.QUEUED,
    "PSUSP": JobState.HELD,
    "RUN": JobState.RUNNING,
    "USUSP": JobState.RUNNING,
    "SSUSP": JobState.RUNNING,
    "DONE": JobState.DONE,
    "EXIT": JobState.FAILED,
    "UNKWN": JobState.UNKNOWN,
    "ZOMBI": JobState.UNKNOWN,
}

_ENDS = {
    "TERM_RUNLIMIT": JobState.TIMED_OUT,
    "TERM_DEADLINE": JobState.TIMED_OUT,
    "TERM_MEMLIMIT": JobState.OUT_OF_MEMORY,
    "TERM_SWAP": JobState.OUT_OF_MEMORY,
    "TERM_OWNER": JobState.CANCELLED,
    "TERM_FORCE_OWNER": JobState.CANCELLED,
    "TERM_ADMIN": JobState.CANCELLED,
    "TERM_FORCE_ADMIN": JobState.CANCELLED,
    "TERM_REMOVE_HUNG_JOB": JobState.NODE_FAILED,
    "TERM_PREEMPT": JobState.PREEMPTED,
}

_WAITS_FOR: dict[DependencyKind, str] = {"after": "started", "afterok": "done", "afternotok": "exit", "afterany": "ended"}
_COLUMNS = "jobid stat exit_code exit_reason pend_reason suspend_reason exec_host start_time estimated_start_time finish_time"
_TIMES = ("%b %d %H:%M:%S %Y", "%b %d %H:%M %Y")

_FAILURES = (
    (
        FailureKind.UNKNOWN_JOB,
        r"job <\S+> is not found|no matching job|job <\S+>: job has already finished|no (unfinished )?job found",
    ),
    (FailureKind.UNREACHABLE, r"lsf is down|please wait|batch daemon not responding|lim is down|slave lim|server host.*not"),
    (FailureKind.ACCOUNT, r"project.*(invalid|not|denied)|account.*(invalid|not|denied)|allocation"),
    (
        FailureKind.QUEUE,
        r"no such queue|queue has been closed|cannot use the queue|not allowed to use|reservation|service class",
    ),
    (FailureKind.LIMIT, r"limit|too many processors|exceeds|bad resource requirement|user cannot submit|unknown resource"),
)


class _Answer(msgspec.Struct):
    records: list[dict[str, str]] = msgspec.field(default_factory=list, name="RECORDS")


class Lsf(WithoutEstimate):
    """See the module."""

    facts = SystemFacts(
        name="lsf",
        commands=("bsub", "bjobs", "bkill"),
        summary="IBM Spectrum LSF 10.1",
        lacks={"filesystems": "name what the site uses for them in constraints or extra_options"},
        failures=_FAILURES,
        asks_cores=True,
    )

    def script(self, spec: JobSpec) -> str:
        """Return the script of a job."""
        check_spec(self.facts, spec)
        if not spec.cores_per_node:
            raise InvalidPilot("lsf: cores_per_node=0: LSF counts slots, not nodes; say how many slots a node has")
        ahead = spec.signal_before_end
        needs = [
            f"select[{' && '.join(spec.constraints)}]" if spec.constraints else "",
            f"span[ptile={spec.cores_per_node}]",
            *_usage(spec),
        ]
        waits_for = " && ".join(f"{_WAITS_FOR[each.kind]}({each.job})" for each in spec.dependencies)
        options = [
            f"-J {spec.name}",
            f"-n {spec.nodes * spec.cores_per_node}",
            f'-R "{" ".join(filter(None, needs))}"',
            f'-gpu "num={spec.gpus_per_node}/host"' if spec.gpus_per_node else "",
            f"-W {minutes(spec.walltime_s) // 60}:{minutes(spec.walltime_s) % 60:02}",
            f"-q {spec.queue}" if spec.queue else "",
            f"-P {spec.project}" if spec.project else "",
            f"-sla {spec.qos}" if spec.qos else "",
            f"-U {spec.reservation}" if spec.reservation else "",
            "-x" if spec.exclusive else "",
            f"-b {local_time('%Y:%m:%d:%H:%M', spec.begin_s)}" if spec.begin_s is not None else "",
            f'-w "{waits_for}"' if waits_for else "",
            f"-u {spec.mail_to} -B -N" if spec.mail_to else "",
            f"-o {spec.output}" if spec.output else "",
            f"-e {spec.error}" if spec.error else "",
            f"-wa {ahead.signal} -wt {minutes(ahead.seconds)}" if ahead else "",
            "-r" if spec.requeue else "-rn",
            "-H" if spec.hold else "",
            "-env none" if spec.environment == "clean" else "-env all",
        ]
        return render_script(spec, "#BSUB", filter(None, options))

    def submit_command(self, path: str) -> list[str]:
        """Return the command that submits a script."""
        return ["sh", "-c", 'exec bsub < "$1"', "sh", path]

    def parse_submitted(self, output: str) -> str:
        """Return the job's id."""
        found = re.search(r"Job <(\d+)> is submitted", output)
        if not found:
            raise unreadable(self.facts.name, "job id", output)
        return found[1]

    def status_command(self, jobs: Sequence[str]) -> list[str]:
        """Return the command that tells of jobs."""
        return ["env", "LSB_DISPLAY_YEAR=Y", "bjobs", "-a", "-o", _COLUMNS, "-json", *jobs]

    def parse_status(self, output: str) -> dict[str, JobStatus]:
        """Return what that command printed; of jobs that are not there it has an ``ERROR``."""
        try:
            answer = msgspec.json.decode(output, type=_Answer)
        except msgspec.MsgspecError:
            raise unreadable(self.facts.name, "list of jobs", output) from None
        return {record["JOBID"]: _status(record) for record in answer.records if "STAT" in record}

    def find_command(self, name: str) -> list[str]:
        """Return the command that lists the jobs of a name, ended ones, too."""
        return ["bjobs", "-a", "-noheader", "-o", "jobid", "-J", name]

    def parse_found(self, output: str, name: str) -> list[str]:
        """Return their ids."""
        return ids_alone(self.facts.name, output, r"\d+")

    def cancel_command(self, job: str) -> list[str]:
        """Return the command that cancels a job."""
        return ["bkill", job]


def _usage(spec: JobSpec) -> list[str]:
    # Sites differ in whether memory is of a slot or of a host; of a host it is where this says so.
    wanted = [f"mem={spec.memory_mib_per_node}MB/host"] if spec.memory_mib_per_node else []
    wanted += [each if "=" in each else f"{each}=1" for each in spec.licenses]
    return [f"rusage[{':'.join(wanted)}]"] if wanted else []


def _status(record: Mapping[str, str]) -> JobStatus:
    word = record["STAT"]
    state = _STATES.get(word, JobState.UNKNOWN)
    ended = word_of(record, "EXIT_REASON")
    if state is JobState.FAILED:
        state = next((end for term, end in _ENDS.items() if re.match(rf"{term}\b", ended)), state)
    waits = state in (JobState.QUEUED, JobState.HELD)
    reason = ended or word_of(record, "PEND_REASON" if waits else "SUSPEND_REASON")
    if word in ("USUSP", "SSUSP", "UNKWN", "ZOMBI"):
        reason = f"{word}: {reason}" if reason else word
    code: int | None = 0 if state is JobState.DONE else None
    signal: int | None = None
    text = word_of(record, "EXIT_CODE")
    if text.isdigit() and state.is_final:
        code, signal = exit_of_shell(int(text))
    return JobStatus(
        state,
        reason,
        exit_code=code,
        signal=signal,
        nodes=word_of(record, "EXEC_HOST"),
        start_estimate_s=_time(record, "ESTIMATED_START_TIME") if waits else None,
        started_s=_time(record, "START_TIME"),
        end_s=_time(record, "FINISH_TIME"),
    )


def _time(record: Mapping[str, str], name: str) -> float | None:
    # A letter behind a time says whether it is an estimate or a limit.
    return parse_local_time(re.sub(r"\s+[A-Z]$", "", word_of(record, name)), *_TIMES)


LSF = Lsf()
