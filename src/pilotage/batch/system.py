"""What a batch system is to us: pure functions that write scripts and command lines, and read what commands print.

::

    JobSpec --script--> file --submit_command--> output --parse_submitted--> job id
    job ids --status_command--> output --parse_status--> {job id: JobStatus}

Nothing here runs a command or looks at the machine; ``commands`` does. What a system cannot say is refused before anything is
submitted (``SystemFacts.lacks``), by a message that names the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

import msgspec

from pilotage.batch.job import DependencyKind, JobSpec, JobStatus
from pilotage.errors import BackendError


class FailureKind(str, Enum):
    """Why a command of a batch system failed."""

    ACCOUNT = "account"
    """The project or account is refused."""
    QUEUE = "queue"
    """The queue, quality of service or reservation is unknown, closed, or not this user's."""
    LIMIT = "limit"
    """More than the queue, the user or the machine may have: nodes, walltime, memory, jobs."""
    UNKNOWN_JOB = "unknown job"
    """There is no such job, or no longer."""
    UNREACHABLE = "unreachable"
    """The system's server could not be asked: trying again may help."""
    UNANSWERED = "unanswered"
    """The server was asked, and no answer came: what was asked for may have been done."""
    NO_SYSTEM = "no system"
    """The command is not there, or not set up."""
    OTHER = "other"


class BatchError(BackendError):
    """A command of a batch system failed. ``kind`` says why, ``transient`` whether the same may succeed later."""

    def __init__(self, message: str, kind: FailureKind = FailureKind.OTHER, *, transient: bool = False) -> None:
        super().__init__(message, transient=transient)
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        return _batch_error, (self.args[0], self.kind, self.transient)


def _batch_error(message: str, kind: FailureKind, transient: bool) -> BatchError:
    return BatchError(message, kind, transient=transient)


class SystemFacts(msgspec.Struct, frozen=True, gc=False):
    """What is known of a batch system, for the checks of a spec, for whoever reads errors, and for the reference.

    ``commands``: its programs, that which submits first. ``lacks``: fields of ``JobSpec`` that it cannot say, with what to do
    instead. ``failures``: regular expressions, in any case of letters, of what its commands print when they fail; the first
    that is found decides. ``keeps_ended``: whether ended jobs are listed for a while; else they are unknown from one poll to
    the next.
    """

    name: str
    commands: tuple[str, ...]
    summary: str
    lacks: Mapping[str, str] = {}
    dependencies: tuple[DependencyKind, ...] = ("after", "afterok", "afternotok", "afterany")
    options: Mapping[str, str] = {}
    failures: tuple[tuple[FailureKind, str], ...] = ()
    keeps_ended: bool = True
    executable_script: bool = False
    """Whether its scripts have to be executable."""
    asks_cores: bool = False
    """Whether the cores of whole nodes have to be told, as it counts slots and not nodes."""
    asks_gpus: bool = False
    """Whether a job on whole nodes gets their GPUs only if it asks for them."""
    clean_is_login: bool = False
    """Whether a clean environment is that of a login shell, which it starts for the job and waits for."""
    never: tuple[str, ...] = ()
    """Reasons for which a job waits that can never begin as it was submitted."""
    tried: str = "not tried on a real system"


class BatchSystem(Protocol):
    """A batch system. Systems are stateless, and their functions depend on their arguments (and the time zone) alone."""

    @property
    def facts(self) -> SystemFacts:
        """What is known of it."""

    def script(self, spec: JobSpec) -> str:
        """Return the script of a job.

        Raises:
            InvalidPilot: the spec has what this system cannot say; names it, and the remedy.
        """

    def submit_command(self, path: str) -> list[str]:
        """Return the command that submits the script at ``path``, an absolute path."""

    def parse_submitted(self, output: str) -> str:
        """Return the job's id from what that command printed.

        Raises:
            BatchError: it holds none.
        """

    def status_command(self, jobs: Sequence[str]) -> list[str]:
        """Return the command that tells of these jobs, one or more."""

    def parse_status(self, output: str) -> dict[str, JobStatus]:
        """Return what that command printed, by job id; jobs that are not listed are not in it.

        Raises:
            BatchError: the output cannot be read.
        """

    def cancel_command(self, job: str) -> list[str]:
        """Return the command that cancels a job, whether it waits or runs."""

    def find_command(self, name: str) -> list[str]:
        """Return the command that lists this user's jobs of a name, of others, too, if it must; empty: none does."""

    def parse_found(self, output: str, name: str) -> list[str]:
        """Return the ids of the jobs of this name in what that command printed.

        Raises:
            BatchError: the output cannot be read.
        """

    def estimate_command(self, path: str) -> list[str]:
        """Return the command that tells when the script at ``path`` would start, not submitting it; empty: none does."""

    def parse_estimate(self, output: str) -> float | None:
        """Return the Unix time in what that command printed (both streams); None: it tells none."""


class WithoutEstimate:
    """A system that does not tell when a script would start that is not submitted."""

    def estimate_command(self, path: str) -> list[str]:
        """Return nothing: there is none."""
        return []

    def parse_estimate(self, output: str) -> float | None:
        """Return nothing."""
        return None


def ids_alone(system: str, output: str, pattern: str) -> list[str]:
    """Return the job ids in an output that has one on each line, and nothing else.

    Raises:
        BatchError: a line is no job's id by this regular expression.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in lines:
        if not re.fullmatch(pattern, line):
            raise unreadable(system, "job id", line)
    return lines


_COMMON_FAILURES: tuple[tuple[FailureKind, str], ...] = (
    (FailureKind.NO_SYSTEM, r"command not found"),
    (
        FailureKind.UNREACHABLE,
        r"connection refused|cannot connect|could not connect|unable to (contact|connect)|host unreachable",
    ),
    (FailureKind.UNANSWERED, r"timed? ?out"),
)


def classify(facts: SystemFacts, exit_code: int, stderr: str) -> FailureKind:
    """Return why a command failed that ended with this code and printed this."""
    if exit_code == 127:
        return FailureKind.NO_SYSTEM
    for kind, pattern in (*facts.failures, *_COMMON_FAILURES):
        if re.search(pattern, stderr, re.IGNORECASE | re.MULTILINE):
            return kind
    return FailureKind.OTHER


def only_unknown_jobs(facts: SystemFacts, stderr: str) -> bool:
    """Tell whether every line of an error is about jobs that are not there."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    return bool(lines) and all(classify(facts, 1, line) is FailureKind.UNKNOWN_JOB for line in lines)


def last_job_id(system: str, output: str, pattern: str) -> str:
    """Return the last line of an output that is a job's id by this regular expression; sites print more above it.

    Raises:
        BatchError: there is none.
    """
    for line in reversed(output.splitlines()):
        if re.fullmatch(pattern, line.strip()):
            return line.strip()
    raise unreadable(system, "job id", output)


def unreadable(system: str, what: str, output: str) -> BatchError:
    """Return the error for output in which something is not found."""
    shown = output.strip()[:300] or "it printed nothing"
    return BatchError(f"{system}: there is no {what} in what its command printed: {shown!r}; is it another version?")
