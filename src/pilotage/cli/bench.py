"""``pilotage bench``: the figures of this machine beside their baselines of the same run."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pilotage.cli.options import FormatOption
from pilotage.cli.renderers import Column, Format, is_terminal, note, print_json, print_rows, span
from pilotage.errors import BackendError, InvalidRequest, nearest
from pilotage.version import __version__

Case = Callable[[bool], list[dict[str, Any]]]

_COLUMNS = (
    Column("case", "CASE"),
    Column("value", "VALUE", right=True),
    Column("unit", "UNIT"),
    Column("baseline", "BASELINE"),
    Column("ratio", "RATIO", right=True),
    Column("target", "TARGET"),
)


def bench(
    cases: Annotated[list[str] | None, typer.Argument(metavar="[CASE]...", help="Which cases. Default: all.")] = None,
    platform: Annotated[
        str, typer.Option(metavar="NAME", help="Measure pilots as jobs on this platform, which has a batch system.")
    ] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer tasks and rounds; figures are rough.")] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write figures and machine to this file, too.")] = None,
    show_cases: Annotated[bool, typer.Option("--list", help="List the cases.")] = False,
    format: FormatOption = Format.TABLE,
) -> int:
    """Measure this machine: each case prints our figure, the baseline's in the same run, and their ratio."""
    import msgspec

    known = load_cluster_cases(platform) if platform else load_cases()
    if show_cases:
        print(*known, sep="\n")
        return 0
    for name in cases or ():
        if name not in known:
            if not platform and name in load_cluster_cases(""):
                raise InvalidRequest(f"{name} measures pilots as jobs: say on which platform, with --platform NAME")
            raise InvalidRequest(f"there is no case {name!r}{nearest(name, known)}; known are {', '.join(known)}")
    if platform:
        from pilotage import platforms

        platforms.platform(platform)
    if json is not None and not json.absolute().parent.is_dir():
        raise InvalidRequest(f"--json {json}: there is no folder {json.absolute().parent}; make it first")
    rows: list[dict[str, Any]] = []
    broken = 0
    for name in cases or known:
        began = time.monotonic()
        if is_terminal(sys.stderr):
            note(f"{name} ...")
        try:
            rows += known[name](quick)
        except Exception as error:  # a case that breaks must not cost the figures of the others
            broken += 1
            note(f"case {name} broke after {span(time.monotonic() - began)}: {type(error).__name__}: {error}")
    document = {"version": __version__, "quick": quick, "time": time.time(), "machine": machine(), "rows": rows}
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode({"schema": 1, **document}, enc_hook=str)) + b"\n")
    if format is Format.JSON:
        print_json(document)
    else:
        print_rows("rows", rows, _COLUMNS, format, uid="case")
    return 1 if broken else 0


def load_cases() -> dict[str, Case]:
    """Return the cases by name.

    Raises:
        BackendError: this installation came without them.
    """
    if importlib.util.find_spec("pilotage.bench") is None:
        raise BackendError("the benchmark cases (package pilotage.bench) are not part of this installation; install it anew")
    from pilotage.bench.cases import CASES

    return CASES


def load_cluster_cases(platform: str) -> dict[str, Case]:
    """Return the cases of a platform with a batch system, by name.

    Raises:
        BackendError: this installation came without them.
    """
    load_cases()
    from pilotage.bench.cases import CLUSTER_CASES

    return {name: partial(_on, case, platform) for name, case in CLUSTER_CASES.items()}


def _on(case: Callable[[bool, str], list[dict[str, Any]]], platform: str, quick: bool) -> list[dict[str, Any]]:
    return case(quick, platform)


def machine() -> dict[str, Any]:
    """Return what figures depend on: cores, model, memory, kernel, Python."""
    from pilotage.platforms.machine import usable_cores, usable_gpus, usable_memory_mib

    try:
        models = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        models = []
    return {
        "host": platform.node(),
        "cores": len(usable_cores()),
        "cores_of_machine": os.cpu_count(),
        "model": models[0] if models else platform.machine(),
        "gpus": usable_gpus(),
        "memory_mib": usable_memory_mib(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
