"""Tables of the page, and the words in its cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from pilotage.analytics import words


class Html(str):
    """Text that is HTML already; any other is escaped."""


class Heading(NamedTuple):
    """The head of a column. ``right``: numbers, which are aligned; ``meaning`` is shown when pointed at."""

    title: str
    right: bool = True
    meaning: str = ""


Cell = str | int | float | None


def name(title: str, meaning: str = "") -> Heading:
    """Return the head of a column of text."""
    return Heading(title, False, meaning)


def table(headings: Sequence[Heading], rows: Iterable[Sequence[Cell]], caption: str, kind: str = "") -> Html:
    """Return a table; the first cell of each row is its head."""
    heads = "".join(_head(heading) for heading in headings)
    body = "".join(f"<tr>{_cells(headings, row)}</tr>" for row in rows)
    called = f"<caption>{escape(caption)}</caption>" if caption else ""
    return Html(
        f'<div class="scroll"><table class="{kind}">{called}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def folded(summary: str, inner: str) -> Html:
    """Return something that is shown when asked for."""
    return Html(f"<details><summary>{escape(summary)}</summary>{inner}</details>")


def swatch(colour: str, label: str) -> Html:
    """Return a patch of a colour of the style sheet, and what it stands for."""
    return Html(f'<span class="swatch" style="--c:var(--{colour})"></span>{escape(label)}')


def seconds(value: float | None) -> Html:
    """Return a time as people read it, with the exact one to be pointed at."""
    return Html("") if value is None else Html(f'<span title="{value:.9g} s">{escape(words.time(value))}</span>')


def core_seconds(value: float, unit: str = "core") -> Html:
    """Return an amount of core-time as people read it, with the exact one to be pointed at."""
    return Html(f'<span title="{value:.9g} {unit}-s">{escape(words.core_time(value, unit))}</span>')


def share(value: float) -> Html:
    """Return a share in percent with a bar as long."""
    return Html(f'<span class="meter" style="--v:{100 * min(max(value, 0.0), 1.0):.2f}%">{escape(words.percent(value))}</span>')


def _head(heading: Heading) -> str:
    meaning = f' title="{escape(heading.meaning, quote=True)}"' if heading.meaning else ""
    kind = ' class="n"' if heading.right else ""
    return f'<th scope="col"{kind}{meaning}>{escape(heading.title)}</th>'


def _cells(headings: Sequence[Heading], row: Sequence[Cell]) -> str:
    cells = []
    for place, (heading, value) in enumerate(zip(headings, row, strict=True)):
        kind = ' class="n"' if heading.right else ""
        content = value if isinstance(value, Html) else escape(_shown(value))
        cells.append(f'<th scope="row"{kind}>{content}</th>' if place == 0 else f"<td{kind}>{content}</td>")
    return "".join(cells)


def _shown(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return words.number(value) if isinstance(value, float) else value
