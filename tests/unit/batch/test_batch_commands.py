"""Commands of batch systems, run: limits of time, errors, many jobs."""

from __future__ import annotations

import os
import pickle
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pilotage.batch.commands import BatchCommands, CommandResult, LocalRunner, write_script
from pilotage.batch.job import NOT_LISTED, JobSpec, JobState
from pilotage.batch.lgi import LGI
from pilotage.batch.registry import BATCH_SYSTEMS
from pilotage.batch.slurm import SLURM
from pilotage.batch.system import BatchError, FailureKind


class Said:
    """A runner that says what it is told to."""

    def __init__(self, *results: CommandResult | TimeoutError) -> None:
        self.results = list(results)
        self.ran: list[list[str]] = []

    def run(self, arguments: Sequence[str], timeout_s: float) -> CommandResult:
        self.ran.append(list(arguments))
        result = self.results.pop(0)
        if isinstance(result, TimeoutError):
            raise result
        return result


def failed(stderr: str, exit_code: int = 1) -> CommandResult:
    return CommandResult(exit_code, "", stderr)


@pytest.mark.parametrize(
    "result",
    [failed("sbatch: error: Socket timed out on send/recv operation"), TimeoutError("sbatch had not ended after 60 s")],
)
def test_a_submission_without_an_answer_is_not_tried_again(result: CommandResult | TimeoutError) -> None:
    with pytest.raises(BatchError, match=r"look whether the job of /f is in the queue before") as caught:
        BatchCommands(SLURM, Said(result)).submit("/f")
    assert (caught.value.kind, caught.value.transient) == (FailureKind.UNANSWERED, False)


@pytest.mark.parametrize("result", [failed("Socket timed out on send/recv operation"), TimeoutError("squeue had not ended")])
def test_a_question_without_an_answer_is(result: CommandResult | TimeoutError) -> None:
    with pytest.raises(BatchError) as caught:
        BatchCommands(SLURM, Said(result)).statuses(["1"])
    assert (caught.value.kind, caught.value.transient) == (FailureKind.UNANSWERED, True)


def test_an_error_shows_the_command_and_what_it_said() -> None:
    with pytest.raises(BatchError, match=r"slurm: sbatch --parsable /f ended with exit code 1 \(account\): .*Invalid account"):
        BatchCommands(SLURM, Said(failed("sbatch: error: Invalid account"))).submit("/f")
    with pytest.raises(BatchError, match=r"signal 9 \(other\): it printed nothing"):
        BatchCommands(SLURM, Said(failed("", -9))).submit("/f")


def test_many_jobs_are_few_commands() -> None:
    runner = Said(*[CommandResult(0, "", "")] * 3)
    jobs = [str(number) for number in range(500)]
    assert BatchCommands(SLURM, runner).statuses(jobs) == dict.fromkeys(jobs, NOT_LISTED)
    assert [arguments[5].count(",") + 1 for arguments in runner.ran] == [200, 200, 100]


def test_a_job_that_is_gone_hides_no_other() -> None:
    listed = "Job Id: 1.pbs\n    job_state = R\n"
    runner = Said(CommandResult(153, listed, "qstat: Unknown Job Id 2.pbs\n"))
    told = BatchCommands(BATCH_SYSTEMS["pbspro"], runner).statuses(["1.pbs", "2.pbs"])
    assert [status.state for status in told.values()] == [JobState.RUNNING, JobState.UNKNOWN]


def test_an_error_beside_a_job_that_is_gone_is_an_error() -> None:
    runner = Said(failed("qstat: Unknown Job Id 2.pbs\nqstat: cannot connect to server pbs"))
    with pytest.raises(BatchError):
        BatchCommands(BATCH_SYSTEMS["pbspro"], runner).statuses(["2.pbs"])


def test_cancelling_what_is_gone_is_no_error() -> None:
    commands = BatchCommands(BATCH_SYSTEMS["lsf"], Said(failed("Job <12>: Job has already finished"), CommandResult(0, "", "")))
    assert not commands.cancel("12")
    assert commands.cancel("12")


@pytest.mark.parametrize("name", BATCH_SYSTEMS)
def test_where_there_is_no_batch_system_it_is_said(name: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("#!/bin/sh\n")
    # A shell and its tools are there, and no batch system.
    for tool in ("sh", "env", "sed"):
        (tmp_path / tool).symlink_to(next(path for path in (Path("/bin", tool), Path("/usr/bin", tool)) if path.exists()))
    commands = BatchCommands(BATCH_SYSTEMS[name], LocalRunner({"PATH": str(tmp_path)}))
    with pytest.raises(BatchError, match=f"no batch system {name} here: .*not found") as caught:
        commands.submit(str(tmp_path / "f"))
    assert (caught.value.kind, caught.value.transient) == (FailureKind.NO_SYSTEM, False)


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    held = tmp_path / "held"
    os.mkfifo(held)
    end = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(TimeoutError, match="sh had not ended after 1 s"):
            LocalRunner().run(["sh", "-c", f"sleep 1000 > {held} & exec sleep 1000"], 1.0)
        # As long as one of them lives, the read would block.
        deadline = time.monotonic() + 60
        while would_block(end):
            assert time.monotonic() < deadline
    finally:
        os.close(end)


def test_a_command_that_hangs_is_named_with_what_it_had_printed(tmp_path: Path) -> None:
    (tmp_path / "hangs").write_text("#!/bin/sh\necho 'no answer yet' >&2\nexec sleep 1000\n")
    (tmp_path / "hangs").chmod(0o755)
    runner = LocalRunner({"PATH": f"{tmp_path}:/usr/bin:/bin"})
    with pytest.raises(TimeoutError, match=r"^hangs had not ended after 5 s, and had printed: no answer yet$"):
        runner.run(["env", "A=1", "hangs"], 5.0)


def test_commands_that_would_wait_for_a_missing_file_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "squeue").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(BatchError, match=rf"SLURM_CONF={tmp_path}/slurm.conf: there is no such file") as caught:
        BatchCommands.here("slurm").statuses(["1"])
    assert (caught.value.kind, (tmp_path / "ran").exists()) == (FailureKind.NO_SYSTEM, False)
    (tmp_path / "slurm.conf").touch()
    BatchCommands.here("slurm").statuses(["1"])
    assert (tmp_path / "ran").exists()


def would_block(end: int) -> bool:
    try:
        return os.read(end, 1) != b""
    except BlockingIOError:
        return True


def test_a_file_that_is_no_program_is_an_error(tmp_path: Path) -> None:
    assert LocalRunner().run([str(tmp_path)], 10).exit_code == 126


@pytest.mark.parametrize(("name", "mode"), [("slurm", 0o600), ("cobalt", 0o700)])
def test_scripts_are_the_users_alone(name: str, mode: int, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    path.chmod(0o644)
    write_script(BATCH_SYSTEMS[name], JobSpec(name="a", folder="/", command=("true",), walltime_s=60), path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_text().startswith("#!/bin/sh\n")


@pytest.mark.parametrize(("queue", "target"), [("", ""), ("cluster", "-t cluster ")])
def test_lgi_is_told_application_and_target(queue: str, target: str, tmp_path: Path) -> None:
    (tmp_path / "LGI_qsub").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "LGI_qsub").chmod(0o755)
    path = tmp_path / "a script"
    write_script(LGI, JobSpec(name="a", folder="/", command=("true",), walltime_s=60, queue=queue), path)

    said = LocalRunner({"PATH": f"{tmp_path}:/usr/bin:/bin"}).run(LGI.submit_command(str(path)), 60)

    assert said.stdout == f"-x -a shell {target}-i {path}\n"


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(BatchError("slurm: no", FailureKind.LIMIT, transient=True)))
    assert (str(error), error.kind, error.transient) == ("slurm: no", FailureKind.LIMIT, True)
