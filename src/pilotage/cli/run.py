"""``pilotage run``: many copies of one program on a pilot of this machine."""

from __future__ import annotations

import os
import warnings
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from pilotage.cli import campaign
from pilotage.cli.after import wait_for_session
from pilotage.cli.execution import Campaign
from pilotage.cli.items import Items, Placeholders, check_used, counted, missing, parse_array, read_table
from pilotage.cli.options import (
    ConstraintsOption,
    ExclusiveOption,
    ExtraOptionsOption,
    FilesystemsOption,
    ProjectOption,
    QosOption,
    QueueOption,
    ReservationOption,
    UsageError,
    job_attributes,
    megabytes,
    seconds,
)
from pilotage.cli.renderers import note, plural
from pilotage.errors import InvalidRequest

LOCALHOST = "local.localhost"
NO_LIMIT_MINUTES = 20 * 24 * 60.0
"""Runtime of a pilot of this machine, which costs nothing to hold. Linux can't wait for more than 24 days at a time."""

HELP = (
    "Run a program many times: pilotage run -n 1000 -- ./prog {i}\n\n"
    "The program and its arguments stand after '--'. In them, and in --stdout, --stderr, --sandbox, --name and --env, {i} is "
    "replaced by the number of the task, from 0 on; {i:04} has four digits. With --from-csv {column} is replaced by what the "
    "row of the task says. Each task runs in a folder of its own unless --sandbox is given ('--sandbox .' is this folder).\n\n"
    "Again after a failure: --only-missing 'out{i}.dat' runs what has no output yet; `pilotage task retry --failed` what "
    "failed.\n\n"
    "Exit code: 0 if all tasks are done, 1 if some failed, 130 after Ctrl-C."
)
EXAMPLE = "pilotage run -n 1000 --cores 1 -- ./prog {i}"


class ProgramCommand(TyperCommand):
    """A command whose line ends with ``--`` and another command line, which is left as it is."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the program away, and parse what is left."""
        end = args.index("--") if "--" in args else len(args)
        ctx.meta["program"] = args[end + 1 :]
        try:
            return list(super().parse_args(ctx, args[:end]))
        except UsageError as error:
            if end == len(args) and any(not argument.startswith("-") for argument in args):
                raise UsageError(f"{getattr(error, 'message', error)}\n{_missing_separator()}", ctx) from error
            raise


def _missing_separator() -> str:
    return f"The program and its arguments stand after '--', as in: {EXAMPLE}"


def run(
    context: typer.Context,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Number of tasks.")] = 1,
    array: Annotated[str, typer.Option(metavar="RANGES", help="Numbers of the tasks: 0-999, 1,5,7-9, 0-99:10, 0-999%50.")] = "",
    from_csv: Annotated[str, typer.Option(metavar="FILE", help="A task for each row; {column} stands for its value.")] = "",
    only_missing: Annotated[str, typer.Option(metavar="FILE", help="Only tasks whose output is not there; with {i}.")] = "",
    after: Annotated[list[str] | None, typer.Option(metavar="SESSION[:TASKS]", help="Begin when these have ended.")] = None,
    after_policy: Annotated[str, typer.Option(metavar="ok|any|notok", help="How those must have ended. Default: ok.")] = "",
    cores: Annotated[int, typer.Option(min=1, help="Cores of each rank.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, show_default=False, help="GPUs of each rank; may be a fraction.")] = 0,
    ranks: Annotated[int, typer.Option(min=1, help="Processes of each task.")] = 1,
    memory: Annotated[str, typer.Option(metavar="MB", help="Memory of each rank: 512, 512M, 2G.")] = "",
    timeout: Annotated[str, typer.Option(metavar="TIME", help="End tasks that run longer: 90, 15m, 2h.")] = "",
    retries: Annotated[int, typer.Option(min=0, show_default=False, help="Further attempts at a task that failed.")] = 0,
    retry_on: Annotated[list[str] | None, typer.Option(metavar="CAUSE", help="Only after: signal, 75, memory.")] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Environment; may be repeated.")] = None,
    sandbox: Annotated[str, typer.Option(metavar="DIR", help="Where tasks run. Default: a folder for each.")] = "",
    stdout: Annotated[str, typer.Option(metavar="FILE", help="File of each task's output; with {i}.")] = "",
    stderr: Annotated[str, typer.Option(metavar="FILE", help="File of each task's errors; with {i}.")] = "",
    name: Annotated[str, typer.Option(help="Name of the tasks. Default: the program's.")] = "",
    session: Annotated[str, typer.Option(metavar="UID", help="Name of the new session.")] = "",
    platform: Annotated[str, typer.Option(help="Where the pilot runs; see `pilotage platforms`.")] = LOCALHOST,
    pilot_cores: Annotated[int, typer.Option(min=0, show_default=False, help="Cores of the pilot. Default: all.")] = 0,
    pilot_gpus: Annotated[int, typer.Option(min=0, show_default=False, help="GPUs of the pilot. Default: all.")] = 0,
    nodes: Annotated[int, typer.Option(min=0, show_default=False, help="Nodes of the pilot, instead of cores.")] = 0,
    cores_per_node: Annotated[int, typer.Option(min=0, show_default=False, help="Cores of an emulated node.")] = 0,
    gpus_per_node: Annotated[int, typer.Option(min=0, show_default=False, help="GPUs of an emulated node.")] = 0,
    runtime: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="End the pilot after this time. Default: 20 days; to be given where pilots are jobs."
        ),
    ] = "",
    queue: QueueOption = "",
    project: ProjectOption = "",
    qos: QosOption = "",
    constraints: ConstraintsOption = None,
    reservation: ReservationOption = "",
    filesystems: FilesystemsOption = None,
    exclusive: ExclusiveOption = False,
    extra_options: ExtraOptionsOption = None,
    output: Annotated[str, typer.Option(metavar="MODE", help="files, aggregate (few large files), tail or discard.")] = "",
    show_output: Annotated[bool, typer.Option("--show-output", help="Print outputs in order of i.")] = False,
    on_completion: Annotated[str, typer.Option(metavar="COMMAND", help="Run at the end, by the shell.")] = "",
) -> int:
    """Run a program many times, and return the exit code; see ``HELP``."""
    given = list(context.meta.get("program") or ())
    if not given:
        raise UsageError(f"No program is given. {_missing_separator()}", context)
    if after_policy and not after:
        raise UsageError(
            f"--after-policy {after_policy} says how tasks of another session must have ended, and there is no --after; "
            "name that session with --after, or leave --after-policy out",
            context,
        )
    folder = os.getcwd()
    items = _items(context, count, array, from_csv)
    names = Placeholders(items.names)
    program = campaign.checked_program(given, folder, names, items.values[0])
    check_used(names, [*given, stdout, stderr, sandbox, name, *(env or ())], items)
    place = Path(folder, sandbox)
    left = missing(items, only_missing, names, place) if only_missing else items
    if only_missing and not names.occur(only_missing):
        raise UsageError(f"--only-missing {only_missing} is one file for all tasks; put {{i}} into its name", context)
    shared: dict[str, Any] = {"cores_per_rank": cores}
    for field, value in (
        ("ranks", ranks if ranks > 1 else 0),
        ("gpus_per_rank", gpus),
        ("mem_per_rank", megabytes(memory, "--memory") if memory else 0),
        ("timeout", seconds(timeout, "--timeout") if timeout else 0),
        ("retries", retries),
        ("sandbox", os.path.normpath(os.path.join(folder, sandbox)) if sandbox else ""),
        ("stdout", campaign.checked_output("--stdout", stdout, len(items.values), folder, names)),
        ("stderr", campaign.checked_output("--stderr", stderr, len(items.values), folder, names)),
        ("output", output),
        ("retry_on", [int(cause) if cause.isdigit() else cause for cause in retry_on or ()]),
    ):
        if value:
            shared[field] = value
    environment = campaign.checked_environment(env or ())
    pilot = {
        "resource": platform,
        "runtime": seconds(runtime, "--runtime") / 60 if runtime else NO_LIMIT_MINUTES,
        **_pilot_size(pilot_cores, pilot_gpus, nodes, cores_per_node, gpus_per_node),
    }
    of_job = job_attributes(queue, project, qos, constraints, reservation, filesystems, exclusive, extra_options)
    _require_possible(pilot | of_job, bool(runtime), of_job)
    pilot |= of_job
    if not left.values:
        note(f"all {len(items.values):,} outputs are there; nothing to do")
        return 0
    if left is not items:
        note(f"{len(items.values) - len(left.values):,} of {plural(len(items.values), 'output')} are there; running the rest")
    if not sandbox:
        missed = campaign.files_of_folder(program, folder, names, left.values[0])
        if missed:
            note(
                f"{missed[0]!r} is a file of this folder, and each task runs in a folder of its own; "
                "give its full path, or run with --sandbox ."
            )
    label = name or Path(given[0]).name
    described = campaign.descriptions(left, program, label, shared, environment)
    for task in islice(described, 1):
        # What is wrong with all tasks is said before there is a session.
        task.verify()
        described = chain([task], described)
    for session_and_tasks in after or ():
        status = wait_for_session(session_and_tasks, after_policy or "ok")
        if status:
            return status
    return Campaign(session, pilot, show_output, on_completion).run(described, len(left.values), left.limit)


def _require_possible(pilot: dict[str, Any], is_runtime_given: bool, of_job: dict[str, Any]) -> None:
    """Refuse a pilot that its platform cannot give before there is a session. ``of_job``: what options of jobs say of it."""
    from pilotage.client.inside import is_inside
    from pilotage.client.job_specs import check_job, check_script, nodes_for, require_commands
    from pilotage.client.pilot_description import PilotDescription
    from pilotage.platforms import platform

    on = platform(pilot["resource"])
    if on.batch == "local" and of_job:
        option = next(iter(of_job))
        raise InvalidRequest(
            f"--{option.replace('_', '-')} is given, and platform {on.name} has no batch system; leave it out, or name a "
            "platform that has one with --platform"
        )
    if on.batch != "local" and not is_runtime_given:
        raise InvalidRequest(
            f"--runtime is not given; on {on.name} it is the walltime of the pilot's job. Give what your tasks need, as in "
            "--runtime 30m"
        )
    description = PilotDescription(pilot)
    # The size that is more than this machine has is warned about once, when the pilot is submitted.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes_for(on, description)
    check_job("pilot", on, description)
    if on.batch != "local":
        check_script("pilot", on, description, Path("/"))
        if not is_inside(on.name):
            require_commands("pilot", on)


def _pilot_size(cores: int, gpus: int, nodes: int, cores_per_node: int, gpus_per_node: int) -> dict[str, int | None]:
    size: dict[str, int | None] = {}
    if cores_per_node:
        size["cores_per_node"] = cores_per_node
    if gpus_per_node:
        size["gpus_per_node"] = gpus_per_node
    if nodes and (cores or gpus):
        raise InvalidRequest("--nodes and --pilot-cores (or --pilot-gpus) are both given; give one of them")
    if cores or gpus:
        size |= {"cores": cores, "gpus": gpus}
    else:
        # Of this machine one node is all that it has.
        size["nodes"] = nodes or 1
    return size


def _items(context: typer.Context, count: int, array: str, table: str) -> Items:
    given = [option for option, value in (("--count", count > 1), ("--array", array), ("--from-csv", table)) if value]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are both given; each says how many tasks there are", context)
    if array:
        return parse_array(array)
    return read_table(Path(table)) if table else counted(count)
