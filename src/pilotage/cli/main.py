"""The command line's root: finds the command, and turns what goes wrong into one line and an exit code.

Exit codes: 0, all is well; 1, something failed; 2, the command was not understood; 130, interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from pilotage.cli import (
    bench,
    check,
    detached,
    doctor,
    experiment,
    platforms,
    report,
    run,
    service,
    session,
    sim,
    submit,
    task,
    watch,
)
from pilotage.cli.options import ClickException, UsageError
from pilotage.errors import InvalidRequest, PilotageError
from pilotage.version import __version__

INTERRUPTED = 130

app = typer.Typer(name="pilotage", help="Run your own tasks on a block of a machine that was taken once: a pilot.")
app.command("run", cls=run.ProgramCommand, help=run.HELP, options_metavar="[OPTIONS] -- PROGRAM [ARGUMENT]...")(run.run)
app.command("submit", cls=run.ProgramCommand, help=submit.HELP)(submit.submit)
for command in (detached.status, detached.attach, detached.wait, detached.cancel):
    app.command()(command)
app.add_typer(session.app, name="session")
app.add_typer(task.app, name="task")
app.command("watch")(watch.watch)
app.command("service-ready")(service.service_ready)
app.command("report")(report.report)
app.add_typer(sim.app, name="sim")
app.add_typer(platforms.app, name="platforms")
app.add_typer(check.app, name="check")
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)
app.add_typer(experiment.app, name="experiment")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"pilotage {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks. Also: PILOTAGE_DEBUG=1.")] = False,
) -> None:
    """Run your own tasks on a block of a machine that was taken once: a pilot."""
    del version, debug
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command line of this process."""
    prepare_messages()
    status = run_command(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; problems are printed as one line on stderr."""
    arguments, debug = _without_debug(arguments)
    try:
        status = app(args=list(arguments), prog_name="pilotage", standalone_mode=False)
    except ClickException as error:
        _complain_of_usage(error)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return 0
    except PilotageError as error:
        if debug:
            traceback.print_exc()
        _complain(str(error))
        return 2 if isinstance(error, InvalidRequest) else 1
    except Exception as error:  # the root of this process: a person reads what comes out of it
        if debug:
            traceback.print_exc()
        _complain(f"{type(error).__name__}: {error}" + ("" if debug else " (pilotage --debug ... prints the traceback)"))
        return 1
    return status if isinstance(status, int) else 0


def _without_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Take ``--debug`` from anywhere before ``--``: it is thought of when the command is there already."""
    ours = list(arguments)
    end = ours.index("--") if "--" in ours else len(ours)
    left = [argument for argument in ours[:end] if argument != "--debug"]
    asked = len(left) < end or os.environ.get("PILOTAGE_DEBUG", "") not in ("", "0")
    return left + ours[end:], asked


def _complain_of_usage(error: BaseException) -> None:
    context = getattr(error, "ctx", None)
    _complain(error.format_message() if hasattr(error, "format_message") else str(error))
    if isinstance(error, UsageError) and context is not None:
        print(f"Try '{context.command_path} --help'.", file=sys.stderr)


def _complain(message: str) -> None:
    lines = message.strip().splitlines() or [""]
    print(f"pilotage: {lines[0]}", *lines[1:], sep="\n", file=sys.stderr)


def prepare_messages() -> None:
    """Have warnings and what is logged printed as one line each on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("pilotage: %(message)s"))
    logger = logging.getLogger("pilotage")
    logger.addHandler(handler)
    logger.propagate = False
    warnings.showwarning = lambda message, *place: _complain(f"warning: {message}")
