"""What submitting a pilot would come to: its job's script, its cost at most, its start. Nothing is submitted."""

from __future__ import annotations

import shlex
import tempfile
import time
from pathlib import Path

import msgspec

from pilotage.batch.commands import BatchCommands, CommandRunner, write_script
from pilotage.batch.job import JobSpec
from pilotage.batch.registry import batch_system
from pilotage.batch.system import BatchError
from pilotage.client.job_specs import JOB_SCRIPT, check_job, job_name, job_spec
from pilotage.client.pilot_description import PilotDescription
from pilotage.client.session_folder import sessions_folder
from pilotage.errors import InvalidPilot
from pilotage.platforms.platform import Platform, sandbox_of

ANSWER_S = 25.0
"""How long the batch system may think about an estimate."""


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """What submitting a pilot would come to.

    ``script``: of its job. ``command``: that which would submit it. ``node_hours``: what it takes if it runs to its end.
    ``start_s``: when it would start (Unix time), if the batch system tells that. ``refused``: why the batch system would not
    take it, in its words; empty if it would, or does not tell.
    """

    platform: str
    batch: str
    script: str
    command: tuple[str, ...]
    nodes: int
    walltime_s: int
    start_s: float | None = None
    refused: str = ""

    @property
    def node_hours(self) -> float:
        """Nodes times walltime."""
        return self.nodes * self.walltime_s / 3600

    def text(self, now_s: float | None = None) -> str:
        """Return all of it for people; ``now_s``: Unix time, now unless given."""
        rule = "-" * 60
        lines = [rule, self.script.rstrip(), rule, f"would be submitted by: {shlex.join(self.command)}"]
        hours = f"{self.walltime_s / 3600:.4g}"
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes:,} nodes"
        lines.append(f"{nodes} for up to {hours} h on {self.platform}: {self.node_hours:,.4g} node-hours at most")
        if self.refused:
            lines.append(f"{self.batch} would refuse it: {self.refused}")
        elif self.start_s is None:
            lines.append(f"{self.batch} does not tell when it would start")
        else:
            wait_s = max(0.0, self.start_s - (time.time() if now_s is None else now_s))
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.start_s))
            lines.append(f"would start at {at}, {wait_s / 60:.0f} min from now, as {self.batch} sees it")
        return "\n".join(lines) + "\n"


def dry_run(
    on: Platform, description: PilotDescription, *, session: str = "SESSION", runner: CommandRunner | None = None
) -> DryRun:
    """Return what submitting a pilot would come to. ``runner``: where the batch system is asked; this machine unless given.

    Raises:
        InvalidPilot: the platform has no batch system, or cannot have such a pilot; names the value, the limit and the remedy.
        InvalidRequest: a variable in the platform's sandbox is not set.
    """
    pilot = description.uid or "pilot.0000"
    if on.batch == "local":
        raise InvalidPilot(f"pilot {pilot!r}: platform {on.name} has no batch system, so there is no job to look at; submit it")
    description.verify()
    check_job(f"pilot {pilot!r}", on, description)
    base = description.sandbox or sandbox_of(on)
    folder = (Path(base).expanduser().absolute() if base else sessions_folder().absolute()) / session / pilot
    spec = job_spec(job_name(session, pilot, "0000", description.job_name or ""), on, description, folder)
    return dry_run_of_job(on, spec, folder, runner=runner)


def dry_run_of_job(on: Platform, spec: JobSpec, folder: Path, *, runner: CommandRunner | None = None) -> DryRun:
    """Return what submitting a job would come to, whose script would stand in ``folder``. ``runner``: as ``dry_run``."""
    system = batch_system(on.batch)
    made = DryRun(
        platform=on.name,
        batch=on.batch,
        script=system.script(spec),
        command=tuple(system.submit_command(str(folder / JOB_SCRIPT))),
        nodes=spec.nodes,
        walltime_s=spec.walltime_s,
    )
    with tempfile.TemporaryDirectory(prefix="pilotage-dry-run-") as place:
        path = Path(place) / JOB_SCRIPT
        write_script(system, spec, path)
        try:
            here = BatchCommands.here(on.batch, timeout_s=ANSWER_S)
            commands = here if runner is None else BatchCommands(system, runner, timeout_s=ANSWER_S)
            start_s = commands.estimate(str(path))
        except BatchError as error:
            return msgspec.structs.replace(made, refused=" ".join(str(error).split()))
    return msgspec.structs.replace(made, start_s=start_s)
