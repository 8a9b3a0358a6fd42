"""Submits clients: a program, or a campaign that needs a client, gets a job of its own, and its pilot the nodes of that.

What lies where, and what becomes of it later: see ``submitted`` and ``submitted_life``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pilotage.cli.renderers import Format, note, print_one, span
from pilotage.cli.submitted import LOCAL, OUTPUT_FILE, SubmittedProgram, start_here, write_program
from pilotage.errors import InvalidRequest, nearest
from pilotage.log.files import make_folder

if TYPE_CHECKING:
    from pilotage.batch.job import JobSpec
    from pilotage.cli.campaign_file import CampaignFile
    from pilotage.client.pilot_description import PilotDescription
    from pilotage.platforms import Platform

_FAILED = 1


def submit_program(
    program: Path, arguments: list[str], attributes: dict[str, Any], uid: str, dry_run: bool, format: Format
) -> int:
    """Submit a job that runs a program, and say how to go on; return the exit code.

    ``program`` is its absolute path, ``attributes`` are those of a pilot that its job is asked for by.
    """
    from pilotage.client.job_specs import check_job
    from pilotage.client.pilot_description import PilotDescription
    from pilotage.platforms import platform

    description = PilotDescription(attributes)
    on = platform(description.resource or "")
    if on.batch == LOCAL:
        raise InvalidRequest(f"platform {on.name} has no batch system; run the program: python {program}")
    description.verify()
    check_job("program", on, description)
    job = _Job(on, description, uid, program.stem)
    if dry_run:
        print(job.dry_run(), end="")
        return 0
    submitted = job.noted(program=str(program), arguments=arguments)
    if not job.submit(submitted):
        return _FAILED
    _tell(submitted, job.folder, {"output": str(job.folder / OUTPUT_FILE)}, {}, format)
    return 0


def submit_client_of(campaign: CampaignFile, uid: str, dry_run: bool, format: Format) -> int:
    """Submit a job that runs a campaign with a client of its own, and say how to go on; return the exit code."""
    from pilotage.cli.campaign_client import keep_campaign
    from pilotage.cli.campaign_order import FIRST_PILOT
    from pilotage.platforms import platform

    [description] = campaign.pilots
    on = platform(description.resource or "")
    job = _Job(on, description, uid or campaign.session, campaign.path.stem)
    if dry_run:
        print(job.dry_run(), end="")
        return 0
    tasks = campaign.total + len(description.get("services"))
    submitted = job.noted(campaign=str(campaign.path.absolute()), tasks=tasks)
    if not job.submit(submitted, lambda: keep_campaign(job.folder, campaign)):
        return _FAILED
    nodes = f"{job.spec.nodes} node{'s' if job.spec.nodes > 1 else ''}, " if job.spec is not None else ""
    pilot = f"{description.uid or FIRST_PILOT}: {submitted.shown_job} on {on.name}, {nodes}{span(description.runtime * 60)}"
    _tell(submitted, job.folder, {"tasks": tasks, "jobs": [submitted.job]}, {"pilots": [pilot]}, format)
    return 0


def found_program(program: Path) -> Path:
    """Return the absolute path of a program.

    Raises:
        InvalidRequest: there is none, or it is not one that can be submitted; says what to do.
    """
    if not program.is_file():
        there = [path.name for path in program.absolute().parent.glob("*") if path.suffix in (".py", ".toml")]
        raise InvalidRequest(f"there is no program {program}{nearest(program.name, there)}")
    if program.suffix != ".py":
        raise InvalidRequest(
            f"{program} is neither a campaign (.toml) nor a Python program (.py); run other programs as tasks of a campaign"
        )
    return program.absolute()


class _Job:
    """The job of a client, which a pilot's description asks for. ``spec`` is None where there is no batch system."""

    def __init__(self, on: Platform, description: PilotDescription, uid: str, label: str) -> None:
        from pilotage.client.job_specs import JOB_OUTPUT, job_name, job_spec, module_command
        from pilotage.client.session_folder import sessions_folder

        self._on = on
        self._description = description
        self._uid = uid or f"session.{time.strftime('%Y%m%d-%H%M%S')}.{secrets.token_hex(3)}"
        self.folder = sessions_folder() / self._uid
        self._name = job_name(self._uid, label, secrets.token_hex(4), description.job_name or "")
        self._command = module_command(on, "pilotage.cli.inside_job", str(self.folder))
        self._output = self.folder / JOB_OUTPUT
        self.spec: JobSpec | None = None
        if on.batch != LOCAL:
            self.spec = msgspec.structs.replace(
                job_spec(self._name, on, description, self.folder),
                command=self._command,
                output=str(self._output),
                # What a client has done once it may not do twice.
                requeue=False,
            )

    def dry_run(self) -> str:
        """Return what submitting it would come to, for people."""
        from pilotage.client.dry_run import dry_run, dry_run_of_job

        if self.spec is None:
            return dry_run(self._on, self._description, session=self._uid).text()
        return dry_run_of_job(self._on, self.spec, self.folder).text()

    def noted(self, **what: Any) -> SubmittedProgram:
        """Return what is to be noted of it. ``what``: the program, or the campaign."""
        empty: dict[str, Any] = {"program": "", "arguments": []}
        return SubmittedProgram(
            uid=self._uid,
            python=self._on.python or sys.executable,
            working_folder=os.getcwd(),
            environment=dict(os.environ),
            platform=self._on.name,
            system=self._on.batch,
            job_name=self._name,
            **(empty | what),
        )

    def submit(self, submitted: SubmittedProgram, furnish: Callable[[], None] = lambda: None) -> bool:
        """Note and submit it; ``furnish`` brings what else it needs into its folder. False: it was refused, which is said.

        Raises:
            InvalidRequest: there is a session of this name.
        """
        from pilotage.batch.commands import BatchCommands, write_script
        from pilotage.batch.registry import batch_system
        from pilotage.batch.system import BatchError, FailureKind
        from pilotage.client.job_specs import JOB_SCRIPT
        from pilotage.client.job_words import refusal

        folder = self.folder
        if folder.exists():
            raise InvalidRequest(f"there is a session {self._uid!r} in {folder.parent}; choose another name")
        make_folder(folder)
        write_program(folder, submitted)
        furnish()
        if self.spec is None:
            submitted.job = start_here(self._command, self._output)
        else:
            system = batch_system(self._on.batch)
            write_script(system, self.spec, folder / JOB_SCRIPT)
            try:
                submitted.job = BatchCommands.here(submitted.system).submit(str(folder / JOB_SCRIPT))
            except BatchError as error:
                note(refusal(error))
                if error.kind is not FailureKind.UNANSWERED:
                    shutil.rmtree(folder)
                return False
        write_program(folder, submitted)
        return True


def _tell(submitted: SubmittedProgram, folder: Path, row: dict[str, Any], lists: dict[str, list[str]], format: Format) -> None:
    from pilotage.cli.submit import FIELDS, next_commands
    from pilotage.client.job_specs import JOB_SCRIPT

    script = str(folder / JOB_SCRIPT) if submitted.system != LOCAL else ""
    lists = {**lists, "next": next_commands(submitted.uid)}
    row = {"uid": submitted.uid, "path": str(folder), "job": submitted.job, "script": script, **row, **lists}
    if format is not Format.JSON:
        row |= {name: "\n".join(lines) for name, lines in lists.items()}
        if "pilots" in lists:
            # There it stands already.
            del row["job"]
    print_one("submission", row, FIELDS, format)
