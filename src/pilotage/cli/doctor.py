"""``pilotage doctor``: is this machine, and this installation, fit for pilots? Each problem comes with its remedy."""

from __future__ import annotations

from typing import Annotated

import typer

from pilotage.cli.options import FormatOption
from pilotage.cli.renderers import Format


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
    from pilotage.cli import checks, leftovers, mpi_checks
    from pilotage.cli.findings import print_findings, run_checks

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
    findings = mpi_checks.check_executable(executable) if executable else []
    findings += run_checks({step.__name__.removeprefix("check_").replace("_", " "): step for step in steps})
    return print_findings(findings, format)
