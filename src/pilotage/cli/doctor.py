"""``pilotage doctor``: is this machine, and this installation, fit for pilots? Each problem comes with its remedy."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pilotage.cli.options import FormatOption
from pilotage.cli.renderers import Column, Format, is_terminal, plural, print_rows

if TYPE_CHECKING:
    from pilotage.cli.checks import Finding

_COLUMNS = (Column("check", "CHECK"), Column("status", "STATUS"), Column("found", "FOUND"))


def doctor(
    no_pilot: Annotated[bool, typer.Option("--no-pilot", help="Do not start a pilot to try it.")] = False,
    executable: Annotated[
        str, typer.Option("--executable", metavar="PATH", help="Tell which MPI library this program is linked with.")
    ] = "",
    format: FormatOption = Format.TABLE,
) -> int:
    """Check this machine and installation, and run one executable and one function on a real pilot.

    Exit code: 1 if something is broken; what is only worth knowing is a warning.
    """
    import msgspec

    from pilotage.cli import checks, leftovers, mpi_checks

    steps = [
        checks.check_python,
        checks.check_dependencies,
        checks.check_session_folder,
        checks.check_sandboxes,
        checks.check_temporary_folder,
        checks.check_process_limits,
        checks.check_unix_sockets,
        checks.check_encryption,
        checks.check_cores,
        checks.check_memory,
        mpi_checks.check_mpi,
        leftovers.check_sessions,
        leftovers.check_processes,
        leftovers.check_private_folders,
    ]
    if not no_pilot:
        steps.append(checks.check_pilot)
    findings: list[Finding] = mpi_checks.check_executable(executable) if executable else []
    for step in steps:
        if is_terminal(sys.stderr):
            print(f"\r\033[K{step.__name__.removeprefix('check_').replace('_', ' ')} ...", end="", file=sys.stderr, flush=True)
        findings += checks.run_check(step)
    if is_terminal(sys.stderr):
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    print_rows("checks", [msgspec.structs.asdict(finding) for finding in findings], _COLUMNS, format, uid="check")
    problems = [finding for finding in findings if finding.remedy]
    broken = sum(finding.status is checks.Status.BROKEN for finding in findings)
    if format is Format.TABLE:
        if problems:
            print()
        for finding in problems:
            print(f"{finding.check}: {finding.remedy}")
        print()
        warnings = sum(finding.status is checks.Status.WARNING for finding in findings)
        print(f"{plural(broken, 'problem')}, {plural(warnings, 'warning')}" if broken or warnings else "all is well")
    return 1 if broken else 0
