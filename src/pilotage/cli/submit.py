"""``pilotage submit``: hands a campaign, or a program, over to the batch system, and leaves.

A campaign (``.toml``) becomes a session whose pilots find all their tasks in their folders. One in which somebody has to decide
what comes next, as tasks wait for others, becomes a job in which its client runs, on the first node. So does a program
(``.py``); the pilot that it asks for takes the nodes of that very job.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilotage.cli.campaign_file import CampaignFile
from pilotage.cli.options import (
    ConstraintsOption,
    ExclusiveOption,
    ExtraOptionsOption,
    FilesystemsOption,
    FormatOption,
    ProjectOption,
    QosOption,
    QueueOption,
    ReservationOption,
    UsageError,
    job_attributes,
    seconds,
)
from pilotage.cli.renderers import Column, Format, note, plural, print_one, span
from pilotage.errors import InvalidRequest

if TYPE_CHECKING:
    from pilotage.client.pilot import Pilot
    from pilotage.client.pilot_description import PilotDescription
    from pilotage.client.session import Session

HELP = (
    "Hand a campaign or a program over to the batch system, and leave.\n\n"
    "A campaign is a TOML file with a [pilot] and [[tasks]]; it needs nobody who stays. A program is a Python script "
    "that runs inside its job, on the first node; its arguments stand after '--', and its pilot takes the nodes of the "
    "job.\n\n"
    "Afterwards, on any machine that sees the files: pilotage status, attach, wait and cancel.\n\n"
    "Exit code: 0 if it was handed over, 1 if the batch system refused it."
)
FIELDS = (
    Column("uid", "session"),
    Column("tasks", "tasks"),
    Column("pilots", "pilots"),
    Column("job", "job"),
    Column("script", "script"),
    Column("output", "output"),
    Column("next", "next"),
)


def submit(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="CAMPAIGN.toml|PROGRAM.py", help="What to submit.")],
    session: Annotated[str, typer.Option(metavar="UID", help="Name of the new session.")] = "",
    platform: Annotated[
        str, typer.Option("--platform", "--resource", help="Of a program: where it runs; see `pilotage platforms`.")
    ] = "",
    nodes: Annotated[int, typer.Option(min=0, show_default=False, help="Of a program: nodes of its job.")] = 0,
    runtime: Annotated[str, typer.Option(metavar="TIME", help="Of a program: walltime of its job, such as 30m.")] = "",
    queue: QueueOption = "",
    project: ProjectOption = "",
    qos: QosOption = "",
    constraints: ConstraintsOption = None,
    reservation: ReservationOption = "",
    filesystems: FilesystemsOption = None,
    exclusive: ExclusiveOption = False,
    extra_options: ExtraOptionsOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the jobs' scripts, node-hours and expected starts, and submit nothing.")
    ] = False,
    format: FormatOption = Format.TABLE,
) -> int:
    """Hand over a campaign or a program; see ``HELP``."""
    arguments = list(context.meta.get("program") or ())
    of_job = job_attributes(queue, project, qos, constraints, reservation, filesystems, exclusive, extra_options)
    options = {"platform": platform, "nodes": nodes, "runtime": runtime}
    if file.suffix == ".toml":
        given = [*(name for name, value in options.items() if value), *of_job]
        if given or arguments:
            said = f"--{given[0].replace('_', '-')}" if given else f"the arguments {' '.join(arguments)}"
            raise UsageError(f"{said}: a campaign says all of this in its file; leave it out, and change {file}", context)
        return submit_campaign(file, session, dry_run, format)
    from pilotage.cli.submit_program import found_program, submit_program

    program = found_program(file)
    if not platform or not nodes or not runtime:
        missing = next(name for name in ("platform", "nodes", "runtime") if not options[name])
        raise UsageError(
            f"--{missing} is not given; a program needs a job, as in: pilotage submit {file} --platform NAME --nodes 2 "
            "--runtime 30m",
            context,
        )
    description: dict[str, Any] = {"resource": platform, "nodes": nodes, "runtime": seconds(runtime, "--runtime") / 60}
    description |= of_job
    return submit_program(program, arguments, description, session, dry_run, format)


# campaigns


def submit_campaign(path: Path, uid: str, dry_run: bool, format: Format) -> int:
    """Hand a campaign over, and say how to go on; return the exit code."""
    campaign = CampaignFile(path)
    if campaign.needs_client:
        from pilotage.cli.submit_program import submit_client_of

        return submit_client_of(campaign, uid, dry_run, format)
    uid = uid or campaign.session
    if dry_run:
        for description in campaign.pilots:
            print(dry_run_of(description, uid), end="")
        return 0
    from pilotage.cli.session import remove_session
    from pilotage.client.session import Session
    from pilotage.model.states import FAILED

    session = Session(uid or None)
    try:
        pilots = _start(session, campaign)
    except BaseException as error:
        session.close()
        if isinstance(error, InvalidRequest):
            # Who mends the slip and submits it again under the same name must not be told that there is such a session.
            remove_session(Path(session.path), force=True)
        raise
    refused = [pilot for pilot in pilots if pilot.state == FAILED]
    for pilot in refused:
        note(f"{pilot.uid} was refused: {pilot.reason}")
    if len(refused) == len(pilots):
        remove_session(Path(session.path), force=True)
        return 1
    for pilot in pilots:
        if pilot.description.get("successors") and not pilot.job:
            note(
                f"{pilot.uid}: a follow-up is submitted by who is there when its time is over; leave this running, or run it "
                f"then: pilotage wait {session.uid}"
            )
    _tell(session, campaign.total, [pilot for pilot in pilots if pilot not in refused], format)
    return 1 if refused else 0


def _start(session: Session, campaign: CampaignFile) -> list[Pilot]:
    """Have the pilots submitted, hand their tasks over, and close the session."""
    from pilotage.client.pilot_manager import PilotManager
    from pilotage.client.task_manager import TaskManager

    pilots: list[Pilot] = PilotManager(session).submit_pilots(campaign.pilots)
    # With several, each task goes to one of them at once: nobody is there who would deal them out as pilots come up.
    manager = TaskManager(session, scheduler="round_robin") if len(pilots) > 1 else TaskManager(session)
    manager.add_pilots(pilots)
    manager.submit_tasks(campaign.tasks())
    unbound = session.hand_over()
    if unbound:
        note(f"{plural(unbound, 'task')} could not be given to a pilot; go on with them: pilotage attach {session.uid}")
    return pilots


def dry_run_of(pilot: PilotDescription, session: str) -> str:
    """Return what submitting a pilot would come to, for people."""
    from pilotage.client.dry_run import dry_run
    from pilotage.platforms import platform

    return dry_run(platform(pilot.resource or ""), pilot, session=session or "SESSION").text()


def _tell(session: Session, total: int, pilots: list[Pilot], format: Format) -> None:
    from pilotage.client.job_specs import JOB_SCRIPT

    row = {
        "uid": session.uid,
        "path": session.path,
        "tasks": total,
        "pilots": [_shown(pilot) for pilot in pilots],
        "jobs": [pilot.job for pilot in pilots],
        "script": [os.path.join(pilot.sandbox, JOB_SCRIPT) for pilot in pilots if pilot.job],
        "next": next_commands(session.uid),
    }
    lines = {name: "\n".join(row[name]) for name in ("pilots", "script", "next")}  # type: ignore[arg-type]
    print_one("submission", row if format is Format.JSON else row | lines, FIELDS, format)


def _shown(pilot: Pilot) -> str:
    description = pilot.description
    nodes = f"{plural(len(pilot.nodes), 'node')}, " if pilot.nodes else ""
    job = f"job {pilot.job}" if pilot.job else "no job"
    return f"{pilot.uid}: {job} on {pilot.resource}, {nodes}{span(description.runtime * 60)}"


def next_commands(uid: str) -> list[str]:
    """Return the commands with which one comes back."""
    return [f"pilotage {command} {uid}" for command in ("status", "attach", "wait", "cancel")]
