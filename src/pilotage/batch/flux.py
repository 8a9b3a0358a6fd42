"""Flux as the system's manager. A job's script runs in a Flux instance of its own, over the nodes of the job.

Jobs have ids in several writings. ``flux batch`` prints one in base 58 (``ƒ2oKw...`` or ``f2oKw...``); all else here uses the
decimal one, which ``flux jobs`` can print and every command takes. Ended jobs stay listed for as long as the site keeps them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pilotage.batch.job import JobSpec, JobState, JobStatus
from pilotage.batch.scripts import check_spec, exit_of_shell, parse_local_time, render_script, word_of
from pilotage.batch.system import FailureKind, SystemFacts, WithoutEstimate, ids_alone, unreadable

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

_FIELDS = {
    "id": "{id.dec}",
    "state": "{state}",
    "result": "{result}",
    "urgency": "{urgency}",
    "returncode": "{returncode}",
    "exception": "{exception.type}",
    "note": "{exception.note}",
    "nodes": "{nodelist}",
    "estimate": "{annotations.sched.t_estimate}",
    "started": "{t_run}",
    "ended": "{t_cleanup}",
    "expiration": "{expiration}",
}
_SEPARATOR = "|"

_CLEAN = ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG")
"""What a job keeps of the submitter's environment, as Flux starts no login shell."""

_STATES = {
    "DEPEND": JobState.QUEUED,
    "PRIORITY": JobState.QUEUED,
    "SCHED": JobState.QUEUED,
    "RUN": JobState.RUNNING,
    "CLEANUP": JobState.ENDING,
}
_RESULTS = {
    "COMPLETED": JobState.DONE,
    "FAILED": JobState.FAILED,
    "CANCELED": JobState.CANCELLED,
    "TIMEOUT": JobState.TIMED_OUT,
}
_EXCEPTIONS = {"timeout": JobState.TIMED_OUT, "preempt": JobState.PREEMPTED, "node-failure": JobState.NODE_FAILED}

_FAILURES = (
    (FailureKind.UNKNOWN_JOB, r"unknown (job ?id|job)|job.*not found|job is inactive|no such job|jobid .* unknown"),
    (FailureKind.NO_SYSTEM, r"unable to connect to flux|flux_open|no flux instance|is not a flux command"),
    (FailureKind.UNREACHABLE, r"submission is disabled|service.*not available|function not implemented|broken pipe"),
    (FailureKind.ACCOUNT, r"bank|user/bank|no valid user|not a member|association"),
    (FailureKind.QUEUE, r"queue.*(disabled|invalid|not|unknown)|invalid queue"),
    (FailureKind.LIMIT, r"unsatisfiable|exceeds|limit|infeasible|constraint"),
)


class Flux(WithoutEstimate):
    """See the module."""

    facts = SystemFacts(
        name="flux",
        commands=("flux",),
        summary="Flux as the system's manager",
        lacks={
            "qos": "a queue stands for it",
            "reservation": "give the properties of its nodes as constraints",
            "licenses": "leave them out: Flux knows none",
            "filesystems": "name what the site uses for them in extra_options",
            "memory_mib_per_node": "leave it out: Flux does not divide memory",
            "mail_to": "leave it out, or give what the site takes in extra_options",
            "requeue": "leave it out: a job of Flux is not begun again; submit a follow-up",
        },
        dependencies=("after", "afterok", "afternotok", "afterany"),
        failures=_FAILURES,
    )

    def script(self, spec: JobSpec) -> str:
        """Return the script of a job. Slots are nodes."""
        check_spec(self.facts, spec)
        ahead = spec.signal_before_end
        options = [
            f"--job-name={spec.name}",
            f"--nodes={spec.nodes}",
            f"--nslots={spec.nodes}",
            f"--cores-per-slot={spec.cores_per_node}" if spec.cores_per_node else "",
            f"--gpus-per-slot={spec.gpus_per_node}" if spec.gpus_per_node else "",
            f"--time-limit={spec.walltime_s}s",
            f"--queue={spec.queue}" if spec.queue else "",
            f"--bank={spec.project}" if spec.project else "",
            *(f"--requires={each}" for each in spec.constraints),
            "--exclusive" if spec.exclusive or not spec.cores_per_node else "",
            f"--dependency=begin-time:{spec.begin_s:.0f}" if spec.begin_s is not None else "",
            *(f"--dependency={each.kind}:{each.job}" for each in spec.dependencies),
            f"--output={spec.output}" if spec.output else "",
            f"--error={spec.error}" if spec.error else "",
            f"--signal=SIG{ahead.signal}@{ahead.seconds}s" if ahead else "",
            "--urgency=hold" if spec.hold else "",
            *(["--env-remove=*", *(f"--env={name}" for name in _CLEAN)] if spec.environment == "clean" else []),
        ]
        # Directives are split like words of a shell.
        return render_script(spec, "#flux:", (_quoted(option) for option in options if option))

    def submit_command(self, path: str) -> list[str]:
        """Return the command that submits a script."""
        return ["flux", "batch", path]

    def parse_submitted(self, output: str) -> str:
        """Return the job's id, in decimal."""
        for line in reversed(output.splitlines()):
            word = line.strip()
            if word.isascii() and word.isdigit():
                return word
            if re.fullmatch(rf"[ƒf][{_ALPHABET}]+", word):
                number = 0
                for letter in word[1:]:
                    number = number * 58 + _ALPHABET.index(letter)
                return str(number)
        raise unreadable(self.facts.name, "job id", output)

    def status_command(self, jobs: Sequence[str]) -> list[str]:
        """Return the command that tells of jobs."""
        return ["flux", "jobs", "--no-header", f"--format={_SEPARATOR.join(_FIELDS.values())}", *jobs]

    def parse_status(self, output: str) -> dict[str, JobStatus]:
        """Return what that command printed."""
        told = {}
        for line in output.splitlines():
            if not line.strip():
                continue
            parts = line.split(_SEPARATOR)
            if len(parts) < len(_FIELDS) or not parts[0].strip().isdigit():
                raise unreadable(self.facts.name, "job", line)
            # A note may have the separator in it.
            surplus = len(parts) - len(_FIELDS)
            note = list(_FIELDS).index("note")
            parts[note : note + surplus + 1] = [_SEPARATOR.join(parts[note : note + surplus + 1])]
            values = dict(zip(_FIELDS, parts, strict=True))
            told[values["id"].strip()] = _status(values)
        return told

    def find_command(self, name: str) -> list[str]:
        """Return the command that lists the jobs of a name, ended ones, too."""
        return ["flux", "jobs", "-a", "--no-header", f"--name={name}", "--format={id.dec}"]

    def parse_found(self, output: str, name: str) -> list[str]:
        """Return their ids."""
        return ids_alone(self.facts.name, output, r"\d+")

    def cancel_command(self, job: str) -> list[str]:
        """Return the command that cancels a job."""
        return ["flux", "cancel", job]


def _quoted(option: str) -> str:
    return f"'{option}'" if re.search(r"[*@]", option) else option


def _status(values: Mapping[str, str]) -> JobStatus:
    word = values["state"].strip()
    exception = word_of(values, "exception")
    state = _STATES.get(word, JobState.UNKNOWN)
    if word == "INACTIVE":
        state = _EXCEPTIONS.get(exception) or _RESULTS.get(word_of(values, "result"), JobState.UNKNOWN)
    elif state is JobState.QUEUED and word_of(values, "urgency") == "0":
        state = JobState.HELD
    code, signal = None, None
    text = word_of(values, "returncode")
    if state.is_final and re.fullmatch(r"-?\d+", text):
        # A job that no process was started for has -128.
        number = int(text)
        code, signal = exit_of_shell(number) if number >= 0 else (None, -number if number > -65 else None)
    waits = state in (JobState.QUEUED, JobState.HELD)
    reason = ": ".join(filter(None, (exception, word_of(values, "note")))) or (word if word == "DEPEND" else "")
    return JobStatus(
        state,
        reason,
        exit_code=code,
        signal=signal,
        nodes=word_of(values, "nodes"),
        start_estimate_s=_time(values, "estimate") if waits else None,
        started_s=_time(values, "started"),
        end_s=_time(values, "ended" if state.is_final else "expiration"),
    )


def _time(values: Mapping[str, str], name: str) -> float | None:
    return parse_local_time(word_of(values, name).partition(".")[0])


FLUX = Flux()
