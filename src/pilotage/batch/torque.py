"""Torque, with Moab or Maui above it. Its commands are those of PBS; nodes, properties and GPUs are asked for in another way.

Ended jobs are listed (state ``C``) for ``keep_completed`` seconds, which is 0 on some sites. A job over its walltime ends
with -11, or by a signal; then the time that it used decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from pilotage.batch.job import JobSpec, JobState, JobStatus
from pilotage.batch.pbs import (
    FAILURES,
    PbsCommands,
    common_options,
    parse_full,
    seconds_of,
    short_name,
    state_of,
    told_of,
)
from pilotage.batch.scripts import check_spec, exit_of_shell, render_script
from pilotage.batch.system import SystemFacts

_EXITS = {
    -10: JobState.OUT_OF_MEMORY,
    -11: JobState.TIMED_OUT,
    -12: JobState.TIMED_OUT,
}


class Torque(PbsCommands):
    """See the module."""

    facts = SystemFacts(
        name="torque",
        commands=("qsub", "qstat", "qdel", "qselect"),
        summary="Torque with Moab or Maui",
        lacks={
            "filesystems": "name what the site uses for them in extra_options",
            "signal_before_end": "leave it out: the agent knows the end of its job",
        },
        failures=FAILURES,
    )

    def script(self, spec: JobSpec) -> str:
        """Return the script of a job."""
        check_spec(self.facts, spec)
        place = [
            f"nodes={spec.nodes}",
            f"ppn={spec.cores_per_node}" if spec.cores_per_node else "",
            f"gpus={spec.gpus_per_node}" if spec.gpus_per_node else "",
            *spec.constraints,
        ]
        options = [
            # Moab's reservations are no queues.
            *common_options(replace(spec, reservation="")),
            f"-l {':'.join(filter(None, place))}",
            # Of the whole job, over its nodes.
            f"-l mem={spec.memory_mib_per_node * spec.nodes}mb" if spec.memory_mib_per_node else "",
            f"-l qos={spec.qos}" if spec.qos else "",
            f"-l advres={spec.reservation}" if spec.reservation else "",
            f"-l gres={'%'.join(spec.licenses)}" if spec.licenses else "",
            "-l naccesspolicy=singlejob" if spec.exclusive else "",
        ]
        return render_script(spec, "#PBS", filter(None, options))

    def status_command(self, jobs: Sequence[str]) -> list[str]:
        """Return the command that tells of jobs."""
        return ["qstat", "-f", *jobs]

    def parse_status(self, output: str) -> dict[str, JobStatus]:
        """Return what that command printed."""
        return {job: _status(values) for job, values in parse_full(self.facts.name, output).items()}

    def find_command(self, name: str) -> list[str]:
        """Return the command that lists the jobs of a name."""
        return ["qselect", "-N", short_name(name)]


def _status(values: Mapping[str, str]) -> JobStatus:
    state = state_of(values)
    if state is not None:
        return told_of(values, state, None, None)
    text = values.get("exit_status", "")
    if not text:
        # It never ran: it was deleted while it waited.
        return told_of(values, JobState.CANCELLED, None, None)
    status = int(text)
    if status < 0:
        return told_of(values, _EXITS.get(status, JobState.FAILED), None, None)
    code, signal = exit_of_shell(status)
    if signal is None:
        return told_of(values, JobState.DONE if code == 0 else JobState.FAILED, code, None)
    used, limit = seconds_of(values.get("resources_used.walltime", "")), seconds_of(values.get("Resource_List.walltime", ""))
    over = used is not None and limit is not None and used >= limit
    return told_of(values, JobState.TIMED_OUT if over else JobState.FAILED, None, signal)


TORQUE = Torque()
