"""Running the commands of batch systems: the one place that does, with a limit of time, and with what they print in every
error.

A ``CommandRunner`` runs a command line somewhere; ``LocalRunner`` here. A command that ends badly becomes a ``BatchError`` of
a kind. A submission that got no answer is never transient: the job may be there, and a second one would be one too many.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

from pilotage.batch.job import NOT_LISTED, JobSpec, JobStatus
from pilotage.batch.system import BatchError, BatchSystem, FailureKind, classify, only_unknown_jobs

TIMEOUT_S = 60.0
"""How long a command may take; those of a busy batch system take tens of seconds."""

_CONFIGURED_BY = {"slurm": ("SLURM_CONF",)}
"""By batch system: variables that name a file which its commands wait for, a minute long, if it is not there."""
_MOST_JOBS = 200
_SHOWN = 500
_END_S = 5.0


class CommandResult(NamedTuple):
    """How a command ended, and what it printed. ``exit_code``: below 0 for a signal."""

    exit_code: int
    stdout: str
    stderr: str


class CommandRunner(Protocol):
    """Where commands run."""

    def run(self, arguments: Sequence[str], timeout_s: float) -> CommandResult:
        """Run a command to its end; a command that is not there ends with 127, as in a shell.

        Raises:
            TimeoutError: it had not ended after ``timeout_s``, and was ended.
        """


class LocalRunner:
    """Runs commands on this machine, in sessions of their own, without input. ``environment``: theirs; None: this process's.

    ``files``: variables that name files; where one of these is not there no command is run.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, *, files: Sequence[str] = ()) -> None:
        self._environment = environment
        self._files = files

    def run(self, arguments: Sequence[str], timeout_s: float) -> CommandResult:
        """Run a command. See ``CommandRunner``."""
        known = os.environ if self._environment is None else self._environment
        for variable in self._files:
            if (path := known.get(variable)) and not os.path.exists(path):
                return CommandResult(127, "", f"{variable}={path}: there is no such file")
        try:
            process = subprocess.Popen(
                list(arguments),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError:
            return CommandResult(127, "", f"{arguments[0]}: not found")
        except OSError as error:
            return CommandResult(126, "", f"{arguments[0]}: {error.strerror}")
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            _end(process)
            said = (error.stderr or error.stdout or b"").decode(errors="replace").strip()[-_SHOWN:]
            printed = f", and had printed: {said}" if said else ""
            raise TimeoutError(f"{_program(arguments)} had not ended after {timeout_s:.0f} s{printed}") from None
        except BaseException:
            _end(process)
            raise
        return CommandResult(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def _program(arguments: Sequence[str]) -> str:
    """Return the name of the program that a command line runs, by ``env`` or not."""
    if arguments[0] != "env":
        return arguments[0]
    return next((word for word in arguments[1:] if "=" not in word), arguments[0])


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    try:
        process.communicate(timeout=_END_S)
    except subprocess.TimeoutExpired:
        # Something that left the session holds the pipes, or the process hangs in a file system: it is not waited for.
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def write_script(system: BatchSystem, spec: JobSpec, path: Path) -> None:
    """Write the script of a job, readable by its user alone.

    Raises:
        InvalidPilot: the system cannot say the spec.
    """
    text = system.script(spec)
    mode = 0o700 if system.facts.executable_script else 0o600
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


class BatchCommands:
    """The commands of a batch system, run. May be used by several threads at a time."""

    def __init__(self, system: BatchSystem, runner: CommandRunner, *, timeout_s: float = TIMEOUT_S) -> None:
        self.system = system
        self._runner = runner
        self._timeout_s = timeout_s

    @classmethod
    def here(cls, name: str, *, timeout_s: float = TIMEOUT_S) -> BatchCommands:
        """Return the commands of a batch system, by its name, on this machine.

        Raises:
            InvalidRequest: there is no such system.
        """
        # Most of the systems are of no use to anybody here.
        from pilotage.batch.registry import batch_system

        return cls(batch_system(name), LocalRunner(files=_CONFIGURED_BY.get(name, ())), timeout_s=timeout_s)

    def submit(self, path: str) -> str:
        """Submit the script at ``path``, absolute where the commands run, and return the job's id.

        Raises:
            BatchError: it was refused, or the system cannot be reached; of kind ``UNANSWERED`` when it may have been submitted.
        """
        arguments = self.system.submit_command(path)
        remedy = f"look whether the job of {path} is in the queue before you submit it again"
        try:
            result = self._run(arguments, submits=True)
        except BatchError as error:
            if error.kind is FailureKind.UNANSWERED:
                raise BatchError(f"{error}; {remedy}", error.kind) from None
            raise
        try:
            return self.system.parse_submitted(result.stdout)
        except BatchError as error:
            if error.kind is not FailureKind.OTHER:
                raise
            # It ended well, so there may be a job, whatever it printed.
            raise BatchError(f"{error}; {remedy}", FailureKind.UNANSWERED) from None

    def statuses(self, jobs: Sequence[str]) -> dict[str, JobStatus]:
        """Return what the system tells of each of these jobs; of one that it does not list, ``NOT_LISTED``.

        Raises:
            BatchError: it cannot be asked.
        """
        told: dict[str, JobStatus] = {}
        for some in _chunks(jobs):
            result = self._run(self.system.status_command(some), unknown_jobs=True)
            told.update(self.system.parse_status(result.stdout) if result.stdout.strip() else {})
        return {job: told.get(job, NOT_LISTED) for job in jobs}

    def find(self, name: str) -> list[str] | None:
        """Return the ids of this user's jobs of a name, ended ones among them where they are still listed.

        None: the system cannot be asked for names.

        Raises:
            BatchError: it cannot be asked now.
        """
        arguments = self.system.find_command(name)
        if not arguments:
            return None
        result = self._run(arguments, unknown_jobs=True)
        return self.system.parse_found(result.stdout, name) if result.stdout.strip() else []

    def cancel(self, job: str) -> bool:
        """Cancel a job. False: the system says that there is no such job, or no longer.

        Raises:
            BatchError: it was refused, or the system cannot be reached.
        """
        result = self._run(self.system.cancel_command(job), unknown_jobs=True)
        return not only_unknown_jobs(self.system.facts, result.stderr)

    def estimate(self, path: str) -> float | None:
        """Return the Unix time when the script at ``path`` would start; None where the system does not tell.

        Raises:
            BatchError: the script would be refused, or the system cannot be reached.
        """
        arguments = self.system.estimate_command(path)
        if not arguments:
            return None
        result = self._run(arguments)
        return self.system.parse_estimate(result.stdout + result.stderr)

    def _run(self, arguments: Sequence[str], *, unknown_jobs: bool = False, submits: bool = False) -> CommandResult:
        """Run a command, and return what came of it if it ended well, or told of unknown jobs alone where these may be."""
        facts = self.system.facts
        try:
            result = self._runner.run(arguments, self._timeout_s)
        except TimeoutError as error:
            told = f"{facts.name}: {error}; its server may be busy or down"
            raise BatchError(told, FailureKind.UNANSWERED, transient=not submits) from None
        if result.exit_code == 0 or (unknown_jobs and only_unknown_jobs(facts, result.stderr)):
            return result
        said = result.stderr.strip() or result.stdout.strip()
        kind = classify(facts, result.exit_code, said)
        shown = said[-_SHOWN:] or "it printed nothing"
        if kind is FailureKind.NO_SYSTEM:
            raise BatchError(
                f"no batch system {facts.name} here: {shown}; work where {facts.commands[0]} is, load the module that has it, "
                "or take a platform without a batch system",
                kind,
            )
        line = shlex.join(arguments if arguments[0] != "sh" else (facts.commands[0], arguments[-1]))
        # A submission may have been heard though it got no answer.
        transient = kind is FailureKind.UNREACHABLE or (kind is FailureKind.UNANSWERED and not submits)
        raise BatchError(
            f"{facts.name}: {line} ended with {_ended(result.exit_code)} ({kind.value}): {shown}", kind, transient=transient
        )


def _ended(exit_code: int) -> str:
    return f"exit code {exit_code}" if exit_code >= 0 else f"signal {-exit_code}"


def _chunks(jobs: Sequence[str]) -> Iterator[list[str]]:
    left = iter(jobs)
    while some := list(islice(left, _MOST_JOBS)):
        yield some
