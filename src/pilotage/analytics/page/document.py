"""The page as a whole: its head, what it says first, and its sections."""

from __future__ import annotations

from datetime import datetime, timezone
from html import escape
from importlib.resources import files

from pilotage.analytics import words
from pilotage.analytics.page import sections
from pilotage.analytics.page.tables import Html
from pilotage.analytics.report import Report, verdict
from pilotage.version import __version__

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What the page may load: nothing. It says so to the browser, which holds it to that."""

_SECTIONS = (
    ("advice", "Advice", sections.advice),
    ("failures", "Failures", sections.failures),
    ("ran", "What ran", sections.what_ran),
    ("utilisation", "Utilisation", sections.utilisation),
    ("concurrency", "Concurrency", sections.concurrency),
    ("rates", "Rates", sections.rates),
    ("stages", "Stages", sections.stages),
    ("machine", "Machine", sections.machine),
    ("notes", "Notes", sections.notes),
)


def render_page(report: Report) -> str:
    """Return the report as one HTML document."""
    home = files("pilotage.analytics.page")
    style, script = ((home / name).read_text("utf-8") for name in ("style.css", "script.js"))
    made = [(identity, title, make(report)) for identity, title, make in _SECTIONS]
    links = "".join(f'<a href="#{identity}">{escape(title)}</a>' for identity, title, content in made if content)
    body = "\n".join(content for _, _, content in made if content)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><title>{escape(report.uid)} · Pilotage report</title><style>{style}</style></head>\n'
        f"<body>{_header(report)}<nav>{links}</nav>\n<main>\n{body}\n</main>\n{_footer(report)}"
        f'<div id="tip" role="status" hidden></div><script>{script}</script></body></html>\n'
    )


def _header(report: Report) -> Html:
    found = report.figures
    state = {"open": "running now", "crashed": "crashed", "closed": "closed"}.get(report.state, "")
    badge = f'<span class="state {report.state}">{state}</span>' if state else ""
    when = f"{_moment(report.begin)}, for {words.time(report.end - report.begin)}" if report.begin else "not begun"
    resources = f"{words.count(len(report.pilots), 'pilot')}, {words.number(report.cores.capacity)} cores"
    if report.gpus is not None:
        resources += f", {words.number(report.gpus.capacity)} GPUs"
    tiles = (
        ("Done", f"{found.done:,}", f"of {found.tasks:,}", "good" if found.done and found.done == found.tasks else ""),
        (
            "Failed",
            f"{found.failed:,}",
            words.percent(found.failed / found.tasks) if found.tasks else "",
            "bad" if found.failed else "",
        ),
        (
            "Completed in",
            words.time(found.makespan_s or found.ttx_agent_s),
            f"{words.time(found.ideal_ttx_s)} at best",
            "",
        ),
        ("Utilisation", words.percent(found.utilisation), f"of {words.core_time(found.core_s)}", ""),
        ("Overhead", words.percent(found.overhead), f"{words.time(found.overhead_s)} of the machine", ""),
        ("Running at once", f"{found.peak_concurrency:,}", f"{words.number(found.mean_concurrency)} on average", ""),
        (
            "Completion rate",
            f"{words.number(found.mean_completion_rate)}/s",
            f"{found.peak_completion_rate:,}/s at the most",
            "",
        ),
    )
    shown = "".join(
        f'<div class="tile {kind}"><dt>{escape(title)}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>'
        for title, value, more, kind in tiles
    )
    return Html(
        f'<header><p class="over">Pilotage report · <code>{escape(report.uid)}</code> {badge}</p>'
        f"<h1>{escape(verdict(report))}</h1>"
        f'<p class="muted">{escape(when)} · {escape(resources)}</p><dl class="tiles">{shown}</dl></header>'
    )


def _footer(report: Report) -> Html:
    made = f"Made by Pilotage {escape(__version__)} on {escape(_moment(report.read_at))}"
    units = "Times are in seconds from the begin of the session unless a unit is given."
    return Html(f"<footer><p>{made} from the logs in <code>{escape(report.folder)}</code>. {units}</p></footer>")


def _moment(time: float) -> str:
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
