"""One page for an experiment: what, how, what came out, how near that is to what was published, what differs and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pilotage.experiments.definition import PAPERS, Experiment, Findings, System
from pilotage.experiments.tables import as_markdown, compared, figures_table, in_words, measures_table, shares_table

SECTIONS = ("setup", "result", "differs")
"""What is said of an experiment in ``texts``: what was done there and how it is done here, what came out there, where and why
what comes out here differs."""

_TEXTS = Path(__file__).parent / "texts"

Made = dict[str, str]
"""When, where and with what it was made, by name."""

_OF: dict[System, str] = {
    "modelled": "published launcher and scheduler, simulated",
    "measured": "Pilotage, measured",
    "ideal": "Pilotage, simulated with an ideal launcher",
}


def page(experiment: Experiment, findings: Findings, made: Made, plot: str = "") -> str:
    """Return the page as Markdown. ``plot``: the name of the plot's file beside it, if there is one."""
    said = texts(experiment.uid)
    title = f"{experiment.uid}: {experiment.title}"
    parts = [
        f"# {title}",
        f"*{PAPERS[experiment.paper]}; {experiment.place}. Made again: {_kind(experiment)}.*",
        "## What was done, and how it is done here",
        said["setup"],
        "## What was published",
        said["result"],
        "## What comes out",
    ]
    if plot:
        parts.append(f"![{title}]({plot})")
    for measure in experiment.measures:
        table = measures_table(experiment, findings, measure.name)
        if table:
            source = f" Published: {measure.source}." if measure.source else ""
            parts.append(f"**{measure.title[0].upper()}{measure.title[1:]}** ({measure.unit}).{source}")
            parts.append(as_markdown(table))
    for system in ("modelled", "measured", "ideal"):
        shares = shares_table(findings, system)
        if shares:
            parts += [f"**How core-time was spent** ({_OF[system]}).", as_markdown(shares)]
    parts += ["## How near", _how_near(experiment, findings), "## What differs, and why", said["differs"]]
    parts.append("## How it was made")
    parts.append("\n".join(f"- {name}: {value}" for name, value in made.items()))
    return "\n\n".join(parts) + "\n"


def texts(uid: str) -> dict[str, str]:
    """Return what is said of an experiment, by section."""
    parts = re.split(r"^## (\w+)\n", (_TEXTS / f"{uid}.md").read_text(), flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def _kind(experiment: Experiment) -> str:
    return "measured on this machine" if experiment.kind == "real" else "in simulation"


def _how_near(experiment: Experiment, findings: Findings) -> str:
    lines = [
        f"- {experiment.measure(near.measure).title} ({_OF[near.system]}): {in_words(near)}."
        for near in compared(experiment, findings)
    ]
    return "\n".join(lines) or "No number was published that could be compared."


def index(documents: Sequence[Mapping[str, Any]]) -> str:
    """Return the page about all of them, as Markdown; ``documents`` are their JSON files."""
    rows = ["| | experiment | paper | made again | how near |", "|---|---|---|---|---|"]
    for document in documents:
        uid, made = document["experiment"], document["made"]
        near = "<br>".join(f"{_title_of(document, each['measure'])}: {each['in_words']}" for each in document["nearness"])
        how = "measured" if document["kind"] == "real" else "simulated"
        where = f"{document['paper']}, {document['place']}"
        rows.append(
            f"| [{uid}]({uid}.md) | {document['title']} | {where} | {how}, {made['date']} | {near or 'no number published'} |"
        )
    used = {document["paper"] for document in documents}
    papers = "\n".join(f"- {short}: {paper}" for short, paper in PAPERS.items() if short in used)
    said = texts("index")
    parts = [said["head"], papers, "\n".join(rows), said["figures"], as_markdown(figures_table(documents)), said["foot"]]
    return "\n\n".join(parts) + "\n"


def _title_of(document: Mapping[str, Any], measure: str) -> str:
    return next(str(each["title"]) for each in document["measures"] if each["name"] == measure)
