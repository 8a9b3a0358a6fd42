"""``pilotage run``: many copies of one program on a pilot of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from pilotage.cli import campaign
from pilotage.cli.options import UsageError, megabytes, seconds
from pilotage.cli.progress import Interrupts, Tally, display, follow, is_final
from pilotage.cli.renderers import note, span
from pilotage.errors import InvalidRequest
from pilotage.model.states import FINAL

if TYPE_CHECKING:
    from pilotage.client.pilot import Pilot
    from pilotage.client.task import Task

FAILURES_SHOWN = 5
DETAIL_LINES_SHOWN = 3
LOCALHOST = "local.localhost"
NO_LIMIT_MINUTES = 20 * 24 * 60.0
"""Runtime of a pilot of this machine, which costs nothing to hold. Linux can't wait for more than 24 days at a time."""

HELP = (
    "Run a program many times: pilotage run -n 1000 -- ./prog {i}\n\n"
    "The program and its arguments stand after '--'. In them, and in --stdout, --stderr, --sandbox, --name and --env, {i} is "
    "replaced by the number of the task, from 0 on; {i:04} has four digits. Each task runs in a folder of its own unless "
    "--sandbox is given ('--sandbox .' is this folder).\n\n"
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
    cores: Annotated[int, typer.Option(min=1, help="Cores of each rank.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, show_default=False, help="GPUs of each rank; may be a fraction.")] = 0,
    ranks: Annotated[int, typer.Option(min=1, help="Processes of each task.")] = 1,
    memory: Annotated[str, typer.Option(metavar="MB", help="Memory of each rank: 512, 512M, 2G.")] = "",
    timeout: Annotated[str, typer.Option(metavar="TIME", help="End tasks that run longer: 90, 15m, 2h.")] = "",
    retries: Annotated[int, typer.Option(min=0, show_default=False, help="Further attempts at a task that failed.")] = 0,
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
    runtime: Annotated[str, typer.Option(metavar="TIME", help="End the pilot after this time. Default: 20 days.")] = "",
    show_output: Annotated[bool, typer.Option("--show-output", help="Print outputs in order of i.")] = False,
) -> int:
    """Run a program many times, and return the exit code; see ``HELP``."""
    given = list(context.meta.get("program") or ())
    if not given:
        raise UsageError(f"No program is given. {_missing_separator()}", context)
    folder = os.getcwd()
    program = campaign.checked_program(given, folder)
    shared: dict[str, Any] = {"cores_per_rank": cores}
    for field, value in (
        ("ranks", ranks if ranks > 1 else 0),
        ("gpus_per_rank", gpus),
        ("mem_per_rank", megabytes(memory, "--memory") if memory else 0),
        ("timeout", seconds(timeout, "--timeout") if timeout else 0),
        ("retries", retries),
        ("sandbox", os.path.normpath(os.path.join(folder, sandbox)) if sandbox else ""),
        ("stdout", campaign.checked_output("--stdout", stdout, count, folder)),
        ("stderr", campaign.checked_output("--stderr", stderr, count, folder)),
    ):
        if value:
            shared[field] = value
    environment = campaign.checked_environment(env or ())
    pilot = {
        "resource": platform,
        "runtime": seconds(runtime, "--runtime") / 60 if runtime else NO_LIMIT_MINUTES,
        **_pilot_size(pilot_cores, pilot_gpus, nodes, cores_per_node, gpus_per_node),
    }
    _require_possible(pilot)
    if not sandbox:
        missed = campaign.files_of_folder(program, folder)
        if missed:
            note(
                f"{missed[0]!r} is a file of this folder, and each task runs in a folder of its own; "
                "give its full path, or run with --sandbox ."
            )
    label = name or Path(given[0]).name
    return _Campaign(session, pilot, show_output).run(count, program, label, shared, environment)


def _require_possible(pilot: dict[str, Any]) -> None:
    """Refuse a pilot that no platform can give before there is a session."""
    from pilotage.client.pilot_description import PilotDescription
    from pilotage.platforms import nodes_of, platform

    # The size that is more than this machine has is warned about once, when the pilot is submitted.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes_of(platform(pilot["resource"]), PilotDescription(pilot))


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


class _Campaign:
    """One session with one pilot, and the tasks that it runs."""

    def __init__(self, uid: str, pilot: dict[str, Any], show_output: bool) -> None:
        self._uid = uid
        self._pilot = pilot
        self._show_output = show_output
        self._shown = 0
        self._tasks: list[Task] = []

    def run(self, count: int, program: Sequence[str], name: str, shared: dict[str, Any], environment: dict[str, str]) -> int:
        """Run all tasks, say what became of them, and return the exit code."""
        from pilotage.client.pilot_manager import PilotManager
        from pilotage.client.session import Session
        from pilotage.client.task_manager import TaskManager

        began = time.monotonic()
        with Interrupts() as interrupts, Session(self._uid or None) as session:
            pilot = PilotManager(session).submit_pilots(self._pilot)
            manager = TaskManager(session)
            manager.add_pilots(pilot)
            submitted = manager.submit_tasks(campaign.descriptions(count, program, name, shared, environment))
            self._tasks = submitted if isinstance(submitted, list) else [submitted]
            tally = Tally(self._tasks)
            follow(
                tally,
                wait=lambda tasks, timeout_s: manager.wait_for(tasks, None, timeout_s),
                cancel=manager.cancel_tasks,
                interrupts=interrupts,
                show=display(count, wanted=not (self._show_output and sys.stdout.isatty())),
                still_possible=lambda: pilot.state not in FINAL,
                each_pass=self._print_outputs,
            )
            took_s = time.monotonic() - began
            if self._show_output:
                self._print_outputs(to_end=True)
            self._report(tally, pilot, session.uid, took_s)
        if interrupts.count:
            return 128 + (interrupts.number or signal.SIGINT)
        return 0 if tally.done == tally.total else 1

    def _print_outputs(self, *, to_end: bool = False) -> None:
        """Print the outputs of the tasks from the first on that have ended, as far as there is no gap."""
        if not self._show_output:
            return
        while self._shown < len(self._tasks) and (to_end or is_final(self._tasks[self._shown])):
            path = self._tasks[self._shown].stdout_path
            self._shown += 1
            try:
                with open(path or os.devnull, "rb") as file:
                    shutil.copyfileobj(file, sys.stdout.buffer)
            except FileNotFoundError:
                continue
        sys.stdout.flush()

    def _report(self, tally: Tally, pilot: Pilot, session: str, took_s: float) -> None:
        failed = sorted(tally.failed, key=lambda task: task.uid)
        for task in failed[:FAILURES_SHOWN]:
            note(f"{task.uid} ({task.name}) failed: {task.exception}")
            detail = [line for line in (task.exception_detail or "").splitlines() if line.strip()]
            for line in detail[-DETAIL_LINES_SHOWN:]:
                print(f"    {line}", file=sys.stderr)
            if task.stderr_path is not None and _has_content(task.stderr_path):
                print(f"    all of it: {task.stderr_path}", file=sys.stderr)
        if len(failed) > FAILURES_SHOWN:
            more = len(failed) - FAILURES_SHOWN
            note(f"{more:,} more failed; see: pilotage task list -s {session} --state FAILED")
        if tally.left and pilot.state in FINAL:
            note(f"the pilot ended before its tasks: {pilot.reason or pilot.state}")
        rate = tally.final / took_s if took_s else 0.0
        pace = f" ({rate:,.0f}/s)" if rate >= 10 else ""
        note(f"{tally.summary()} in {span(took_s)}{pace}; output in {self._output_place(pilot)}; session {session}")

    def _output_place(self, pilot: Pilot) -> str:
        first = self._tasks[0]
        stdout = first.stdout_path
        own = Path(pilot.sandbox) / "tasks"
        if stdout is None or stdout.is_relative_to(own):
            return f"{own}/"
        return f"{stdout.parent}/"


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
