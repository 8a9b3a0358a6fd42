"""Slurm. Tells by ``squeue``, as every site has it; ended jobs are there for ``MinJobAge`` (300 s unless a site says
otherwise).

Columns have fixed widths, which every version understands; ``SLURM_TIME_FORMAT=%s`` makes all times Unix times. The exit code
is a wait status: 768 is code 3, 9 is signal 9. ``sbatch --test-only`` tells when a job would start.

The clean environment is ``--export=NONE``: what a login shell has there, which Slurm starts for it (a second or so).
Variables of the submitter (``SBATCH_*``) rank above a script's lines; what a site's users set there is meant so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pilotage.batch.job import JobSpec, JobState, JobStatus
from pilotage.batch.scripts import check_spec, hours_minutes_seconds, local_time, parse_local_time, render_script, word_of
from pilotage.batch.system import FailureKind, SystemFacts, ids_alone, unreadable

_STATES = {
    "PENDING": JobState.QUEUED,
    "CONFIGURING": JobState.QUEUED,
    "REQUEUED": JobState.REQUEUED,
    "REQUEUE_FED": JobState.REQUEUED,
    "REQUEUE_HOLD": JobState.HELD,
    "RESV_DEL_HOLD": JobState.HELD,
    "SPECIAL_EXIT": JobState.HELD,
    "RUNNING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SUSPENDED": JobState.RUNNING,
    "STOPPED": JobState.RUNNING,
    "COMPLETING": JobState.ENDING,
    "SIGNALING": JobState.ENDING,
    "STAGE_OUT": JobState.ENDING,
    "COMPLETED": JobState.DONE,
    "FAILED": JobState.FAILED,
    "DEADLINE": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "REVOKED": JobState.CANCELLED,
    "TIMEOUT": JobState.TIMED_OUT,
    "PREEMPTED": JobState.PREEMPTED,
    "NODE_FAIL": JobState.NODE_FAILED,
    "BOOT_FAIL": JobState.NODE_FAILED,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
}

_COLUMNS = {
    "JobID": 40,
    "State": 24,
    "Reason": 200,
    "exit_code": 16,
    "RestartCnt": 16,
    "StartTime": 32,
    "EndTime": 32,
    "BatchHost": 256,
    "NodeList": 4000,
}
_OUT_OF_MEMORY = 253
"""In the place of a wait status, of jobs whose programs the kernel killed for memory."""
_LAYOUT = "%Y-%m-%dT%H:%M:%S"

_FAILURES = (
    (FailureKind.UNKNOWN_JOB, r"invalid job id"),
    (
        FailureKind.UNREACHABLE,
        r"unable to contact slurm controller|slurm backup controller in standby|temporarily unable to accept",
    ),
    (FailureKind.UNREACHABLE, r"resource temporarily unavailable|zero bytes were transmitted"),
    (FailureKind.UNANSWERED, r"socket timed out"),
    (FailureKind.NO_SYSTEM, r"could not establish a configuration source|unable to process configuration file"),
    (FailureKind.ACCOUNT, r"invalid account|account/partition combination"),
    (
        FailureKind.QUEUE,
        r"invalid partition|invalid qos|reservation is (invalid|not usable)|requested reservation|access/permission denied",
    ),
    (FailureKind.QUEUE, r"not permitted to use|user's group not permitted|required partition not available"),
    (FailureKind.LIMIT, r"node configuration is not available|more processors requested than permitted|time limit is invalid"),
    (FailureKind.LIMIT, r"job violates accounting/qos policy|node count specification invalid|qos.*limit|assoc.*limit"),
    (
        FailureKind.LIMIT,
        r"invalid (feature|license|generic resource)|memory specification can not|too many jobs|requested time limit",
    ),
)

_FIRST = (
    # With it, steps would be given no more of the environment than the job was.
    "unset SLURM_EXPORT_ENV",
    # A job has no PATH when Slurm could not come by the environment of a login (in time). The shell has one then.
    "export PATH",
)
"""Lines of shell."""


class Slurm:
    """See the module."""

    facts = SystemFacts(
        name="slurm",
        commands=("sbatch", "squeue", "scancel"),
        summary="Slurm",
        lacks={"filesystems": "name what the site uses for them in constraints or licenses"},
        failures=_FAILURES,
        asks_gpus=True,
        clean_is_login=True,
        never=(
            "PartitionNodeLimit",
            "PartitionTimeLimit",
            "BadConstraints",
            "DependencyNeverSatisfied",
            "InvalidAccount",
            "InvalidQOS",
            "QOSMaxNodePerJobLimit",
            "QOSMaxCpuPerJobLimit",
            "QOSMaxWallDurationPerJobLimit",
            "AssocMaxNodePerJobLimit",
            "AssocMaxCpuPerJobLimit",
            "AssocMaxWallDurationPerJobLimit",
        ),
        tried="Slurm 22.05",
    )

    def script(self, spec: JobSpec) -> str:
        """Return the script of a job."""
        check_spec(self.facts, spec)
        ahead = spec.signal_before_end
        options = [
            f"--job-name={spec.name}",
            f"--nodes={spec.nodes}",
            "--ntasks-per-node=1" if spec.cores_per_node else "",
            f"--cpus-per-task={spec.cores_per_node}" if spec.cores_per_node else "",
            f"--gres=gpu:{spec.gpus_per_node}" if spec.gpus_per_node else "",
            f"--mem={spec.memory_mib_per_node}M" if spec.memory_mib_per_node else "",
            f"--time={hours_minutes_seconds(spec.walltime_s)}",
            f"--partition={spec.queue}" if spec.queue else "",
            f"--account={spec.project}" if spec.project else "",
            f"--qos={spec.qos}" if spec.qos else "",
            f"--constraint={'&'.join(spec.constraints)}" if spec.constraints else "",
            f"--reservation={spec.reservation}" if spec.reservation else "",
            f"--licenses={','.join(spec.licenses)}" if spec.licenses else "",
            "--exclusive" if spec.exclusive else "",
            f"--begin={local_time(_LAYOUT, spec.begin_s)}" if spec.begin_s is not None else "",
            f"--dependency={','.join(f'{each.kind}:{each.job}' for each in spec.dependencies)}" if spec.dependencies else "",
            f"--mail-user={spec.mail_to}" if spec.mail_to else "",
            "--mail-type=BEGIN,END,FAIL" if spec.mail_to else "",
            f"--output={_literal(spec.output)}" if spec.output else "",
            f"--error={_literal(spec.error)}" if spec.error else "",
            "--open-mode=append",
            f"--signal=B:{ahead.signal}@{ahead.seconds}" if ahead else "",
            "--requeue" if spec.requeue else "--no-requeue",
            # What ran on a node that fails is for the command to see to; its own node is another matter.
            "--no-kill" if spec.nodes > 1 else "",
            "--hold" if spec.hold else "",
            f"--export={'NONE' if spec.environment == 'clean' else 'ALL'}",
        ]
        return render_script(spec, "#SBATCH", filter(None, options), first=_FIRST)

    def submit_command(self, path: str) -> list[str]:
        """Return the command that submits a script."""
        return ["sbatch", "--parsable", path]

    def parse_submitted(self, output: str) -> str:
        """Return the job's id: what stands before the name of a cluster, if there is one."""
        for line in output.splitlines():
            found = re.fullmatch(r"(\d+)(;\S+)?", line.strip())
            if found:
                return found[1]
        raise unreadable(self.facts.name, "job id", output)

    def status_command(self, jobs: Sequence[str]) -> list[str]:
        """Return the command that tells of jobs."""
        columns = ",".join(f"{name}:{width}" for name, width in _COLUMNS.items())
        listed = f"--jobs={','.join(jobs)}"
        return ["env", "SLURM_TIME_FORMAT=%s", "squeue", "--noheader", "--states=all", listed, f"--Format={columns}"]

    def parse_status(self, output: str) -> dict[str, JobStatus]:
        """Return what that command printed."""
        told = {}
        for line in output.splitlines():
            if not line.strip():
                continue
            values, at = {}, 0
            for name, width in _COLUMNS.items():
                values[name] = line[at : at + width].strip()
                at += width
            if not re.match(r"\d", values["JobID"]) or not values["exit_code"].isdigit():
                raise unreadable(self.facts.name, "job", line)
            told[values["JobID"]] = _status(values)
        return told

    def find_command(self, name: str) -> list[str]:
        """Return the command that lists the jobs of a name, ended ones, too."""
        return ["squeue", "--noheader", "--states=all", f"--name={name}", "--format=%i"]

    def parse_found(self, output: str, name: str) -> list[str]:
        """Return their ids."""
        return ids_alone(self.facts.name, output, r"\d+")

    def cancel_command(self, job: str) -> list[str]:
        """Return the command that cancels a job."""
        return ["scancel", job]

    def estimate_command(self, path: str) -> list[str]:
        """Return the command that tells when a script would start."""
        return ["env", "SLURM_TIME_FORMAT=%s", "sbatch", "--test-only", path]

    def parse_estimate(self, output: str) -> float | None:
        """Return when."""
        found = re.search(r"to start at (\S+)", output)
        return parse_local_time(found[1], _LAYOUT) if found else None


def _literal(path: str) -> str:
    """Return a path in which nothing stands for the job's number or the like."""
    return path.replace("%", "%%")


def _status(values: dict[str, str]) -> JobStatus:
    state = _STATES.get(values["State"], JobState.UNKNOWN)
    reason = word_of(values, "Reason")
    restarts = int(values["RestartCnt"]) if values["RestartCnt"].isdigit() else None
    if values["State"] in ("SUSPENDED", "STOPPED", "CONFIGURING") or state is JobState.UNKNOWN:
        reason = values["State"] if not reason else f"{values['State']}: {reason}"
    if state is JobState.QUEUED and reason.startswith("JobHeld"):
        state = JobState.HELD
    elif state is JobState.QUEUED and restarts:
        state = JobState.REQUEUED
    wait_status = int(values["exit_code"])
    start, end = parse_local_time(values["StartTime"], _LAYOUT), parse_local_time(values["EndTime"], _LAYOUT)
    waits = state in (JobState.QUEUED, JobState.HELD, JobState.REQUEUED)
    # One that was cancelled while it waited has no exit code, though Slurm tells of a 0; one that ran out of memory has a mark.
    ended = state.is_final and (state is not JobState.CANCELLED or bool(word_of(values, "NodeList")))
    ended = ended and wait_status != _OUT_OF_MEMORY
    return JobStatus(
        state,
        reason,
        exit_code=wait_status >> 8 if ended and not wait_status & 127 else None,
        signal=(wait_status & 127) or None if ended else None,
        nodes=word_of(values, "NodeList"),
        start_estimate_s=start if waits else None,
        started_s=None if waits else start,
        end_s=None if waits else end,
        restarts=restarts,
        first_node="" if waits else word_of(values, "BatchHost"),
    )


SLURM = Slurm()
