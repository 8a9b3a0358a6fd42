"""``pilotage report``: a session in one text, one page, one document, plots, or files for other tools.

The logs are read without locks, so a session may be reported on while it runs, and after it crashed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pilotage.cli.options import FormatOption
from pilotage.cli.renderers import Format, note, print_json
from pilotage.errors import BackendError, InvalidRequest

if TYPE_CHECKING:
    from pilotage.analytics import Session
    from pilotage.analytics.report import Report

EXPORTS = {
    "tasks.csv": "one line a task, with all its times",
    "events.csv": "one line an event",
    "events.jsonl": "one JSON document an event",
    "prof.csv": "events in the columns of RADICAL-Pilot's profiles",
    "trace.json": "a timeline for Perfetto and Chrome's about:tracing",
}
"""How the name of an exported file ends, and what is in it then."""

_EXPORT_HELP = "Write the trace to this file; what is in it follows from how its name ends: " + ", ".join(EXPORTS) + "."


def report(
    name: Annotated[
        str,
        typer.Argument(metavar="SESSION", help="The session: its folder, or how its uid begins or ends. Default: the newest."),
    ] = "",
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one page that needs no network to this file.")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all numbers to this file.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write plots as PNG files into this folder.")] = None,
    export: Annotated[list[Path] | None, typer.Option(metavar="FILE", help=_EXPORT_HELP)] = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Report on a session: what ran, what failed and why, where the core-time went, and what to do better."""
    exports = export or []
    for option, path in (("--html", html), ("--json", json), ("--plots", plots), *(("--export", path) for path in exports)):
        if path is not None and not path.absolute().parent.is_dir():
            raise InvalidRequest(f"{option} {path}: there is no folder {path.absolute().parent}; make it first")
    for path in exports:
        _kind_of(path)
    folder = _folder(name)
    session, made = _read(folder)
    if format is Format.JSON:
        print_json({"report": made})
    elif format is Format.QUIET:
        print(made.uid)
    else:
        from pilotage.cli.report_text import print_report

        print_report(made)
    if json is not None:
        import msgspec

        json.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
        note(f"wrote {json}")
    if html is not None:
        from pilotage.analytics.page.document import render_page

        html.write_text(render_page(made), "utf-8")
        note(f"wrote {html}; open it in a browser")
    if plots is not None:
        _plot(session, plots)
    for path in exports:
        _export(session, path)


def _folder(name: str) -> Path:
    from pilotage.cli.lookup import find_session

    # A folder is meant when it is written as one: a session's uid has no slash in it.
    if os.sep in name or name in (".", ".."):
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise InvalidRequest(f"there is no folder {name!r}; give that of a session, or its uid")
        return folder.absolute()
    return find_session(name)


def _read(folder: Path) -> tuple[Session, Report]:
    from pilotage.cli.lookup import session_state

    try:
        from pilotage.analytics import Session
        from pilotage.analytics.report import build_report
    except ImportError as error:
        raise BackendError(str(error)) from error
    session = Session.read(folder)
    return session, build_report(session, state=session_state(folder), read_at=time.time())


def _kind_of(path: Path) -> str:
    """Return which of ``EXPORTS`` a file's name asks for."""
    for ending in EXPORTS:
        if path.name.endswith(ending):
            return ending
    known = "; ".join(f"{ending}: {content}" for ending, content in EXPORTS.items())
    raise InvalidRequest(f"--export {path}: its name does not say what to write; let it end in one of these ({known})")


def _export(session: Session, path: Path) -> None:
    from pilotage.trace import export

    run, folder = session.run, session.run.folder
    match _kind_of(path):
        case "tasks.csv":
            export.write_tasks_csv(run, path)
        case "events.csv":
            export.write_events_csv(folder, path)
        case "events.jsonl":
            export.write_events_jsonl(folder, path)
        case "prof.csv":
            export.write_prof_csv(folder, path)
        case _:
            export.write_chrome_trace(run, path)
    note(f"wrote {path}")


def _plot(session: Session, folder: Path) -> None:
    from pilotage.analytics.plots import plot_rates, plot_utilisation
    from pilotage.model.resources import GPU_SHARES

    try:
        folder.mkdir(exist_ok=True)
        plot_utilisation(session.core_time(), folder / "utilisation.png")
        if session.has_gpus:
            plot_utilisation(session.core_time("gpus"), folder / "utilisation-gpus.png", unit="GPUs", scale=GPU_SHARES)
        plot_rates(session, folder / "rates.png")
    except ImportError as error:
        raise BackendError(str(error)) from error
    note(f"wrote plots into {folder}")
