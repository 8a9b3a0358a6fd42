"""``pilotage experiment``: the experiments that were published of RADICAL-Pilot, made again."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pilotage.cli.options import FormatOption
from pilotage.cli.renderers import Column, Format, is_terminal, note, print_json, print_rows
from pilotage.cli.simulation_line import SimulationLine
from pilotage.errors import InvalidRequest

app = typer.Typer(
    help="Make the experiments again that were published of RADICAL-Pilot: on this machine, or in simulation.",
    no_args_is_help=True,
)

_COLUMNS = (
    Column("uid", "EXPERIMENT"),
    Column("title", "TITLE"),
    Column("paper", "PAPER"),
    Column("place", "WHERE"),
    Column("kind", "KIND"),
    Column("takes", "TAKES", right=True),
)


@app.command("list")
def list_experiments(format: FormatOption = Format.TABLE) -> None:
    """List them: title, paper, whether on this machine (real) or in simulation, and how long all of it takes on two cores."""
    from pilotage.experiments.registry import EXPERIMENTS

    rows: list[dict[str, Any]] = [
        {column.key: getattr(experiment, column.key) for column in _COLUMNS} for experiment in EXPERIMENTS.values()
    ]
    print_rows("experiments", rows, _COLUMNS, format)


@app.command("run")
def run(
    experiments: Annotated[
        list[str] | None, typer.Argument(metavar="[EXPERIMENT]...", help="Which: `pilotage experiment list`. Or give --all.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small, in a few seconds; figures are rough.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write a page, tables (text, CSV, JSON) and a plot of each here, and index.md."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was found and published as JSON.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Run all of them, one after another.")] = False,
) -> None:
    """Run experiments, and print what comes out beside what was published, and how near that is."""
    from pilotage.experiments import running
    from pilotage.experiments.plots import can_plot
    from pilotage.experiments.registry import EXPERIMENTS, find
    from pilotage.experiments.tables import as_values

    if bool(experiments) == everything:
        raise InvalidRequest("say which experiments to run (see `pilotage experiment list`), or --all")
    chosen = list(EXPERIMENTS.values()) if everything else [find(uid) for uid in experiments or ()]
    if out is not None:
        _make(out)
        if not can_plot():
            note("no plots: matplotlib is missing; install the extra: pip install 'pilotage[analytics]'")
    documents = []
    with SimulationLine() as line:
        for number, experiment in enumerate(chosen):
            report = running.run(experiment, quick=quick, say=_say(experiment.uid, line), show=line.begin)
            line.erase()
            files = running.write(report, out) if out is not None else []
            if json:
                documents.append({"made": report.made, **as_values(experiment, report.findings)})
                continue
            if number:
                print()
            print(report.text, end="")
            if files:
                print(f"\nwritten: {', '.join(map(str, files))}")
    if out is not None:
        running.write_index(out)
    if json:
        print_json({"experiments": documents})


def _say(uid: str, line: SimulationLine) -> Callable[[str], None]:
    """Return what says how far an experiment is, to a person."""

    def say(text: str) -> None:
        if is_terminal(sys.stderr):
            line.erase()
            note(f"{uid}: {text} ...")

    return say


def _make(folder: Path) -> None:
    """Make the folder, and try that files can be written there: before a long run, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"--out {folder}: this folder cannot be made: {error.strerror}; name another one") from error
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InvalidRequest(
            f"--out {folder}: nothing can be written in this folder: {error.strerror}; name another one"
        ) from error
