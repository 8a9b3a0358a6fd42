"""Runs an experiment, and writes what came of it into a folder: a page, tables, a plot."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path

import msgspec

from pilotage.experiments.definition import Experiment, Findings, Say
from pilotage.experiments.page import Made, index, page
from pilotage.experiments.plots import can_plot, plot
from pilotage.experiments.simulations import shown
from pilotage.experiments.tables import (
    as_csv,
    as_text,
    as_values,
    compared,
    in_words,
    lines_as_csv,
    measures_table,
    shares_table,
)
from pilotage.sim.world import Show, watched_by_nobody
from pilotage.version import __version__


class Report(msgspec.Struct, frozen=True):
    """What came of an experiment, when and where it was made, and all of it as text."""

    experiment: Experiment
    findings: Findings
    made: Made
    text: str


def run(experiment: Experiment, *, quick: bool = False, say: Say = lambda line: None, show: Show = watched_by_nobody) -> Report:
    """Make an experiment again; ``say`` is told how far it is, and ``show`` may watch each of its simulations."""
    began, load = time.monotonic(), os.getloadavg()[0]
    with shown(show):
        findings = experiment.run(quick, say)
    made: Made = {
        "command": f"`pilotage experiment run {experiment.uid}{' --quick' if quick else ''} --out FOLDER`",
        "took": f"{time.monotonic() - began:.0f} s",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{machine()}, with a load of {load:.1f} at the begin",
        "version": f"Pilotage {__version__}, Python {platform.python_version()}",
    }
    if quick:
        made["note"] = "quick: small, and rough"
    return Report(experiment, findings, made, _text(experiment, findings))


def write(report: Report, folder: Path) -> list[Path]:
    """Write a report's files into a folder, and return them; there is a plot if matplotlib is there.

    They are ``E08.md``, ``.txt``, ``.csv`` and ``.json``, ``.over-time.csv`` if there are such curves, and ``.png``.

    Raises:
        OSError: they cannot be written.
    """
    experiment, findings, made = report.experiment, report.findings, report.made
    values = {"made": made, **as_values(experiment, findings)}
    files = {
        ".txt": report.text,
        ".csv": as_csv(experiment, findings),
        ".json": msgspec.json.format(msgspec.json.encode(values)).decode() + "\n",
    }
    written: list[Path] = []
    image = ""
    if can_plot():
        path = folder / f"{experiment.uid}.png"
        plot(experiment, findings, path)
        image = path.name
        written.append(path)
    files[".md"] = page(experiment, findings, made, image)
    if findings.lines:
        files[".over-time.csv"] = lines_as_csv(findings)
    for ending, content in files.items():
        path = folder / f"{experiment.uid}{ending}"
        path.write_text(content)
        written.append(path)
    return sorted(written)


def write_index(folder: Path) -> Path:
    """Write a page about all experiments whose files are in a folder, and return it.

    Raises:
        OSError: it cannot be written.
    """
    documents = [msgspec.json.decode(path.read_bytes()) for path in sorted(folder.glob("E[0-9][0-9].json"))]
    path = folder / "index.md"
    path.write_text(index(documents))
    return path


def machine() -> str:
    """Return what this machine is, in a few words."""
    try:
        models = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        models = []
    cores = len(os.sched_getaffinity(0))
    return f"{cores} core{'s' * (cores > 1)} of {models[0] if models else platform.machine()}"


def _text(experiment: Experiment, findings: Findings) -> str:
    parts = [f"{experiment.uid}: {experiment.title} ({experiment.paper}, {experiment.place})"]
    for measure in experiment.measures:
        table = measures_table(experiment, findings, measure.name)
        if table:
            parts.append(f"{measure.title} ({measure.unit})\n{as_text(table)}")
    for system in ("modelled", "measured", "ideal"):
        table = shares_table(findings, system)
        if table:
            parts.append(f"core-time, {system}\n{as_text(table)}")
    near = [
        f"{experiment.measure(each.measure).title}, {each.system}: {in_words(each)}" for each in compared(experiment, findings)
    ]
    if near:
        parts.append("how near to what was published\n" + "\n".join(near))
    return "\n\n".join(parts) + "\n"
