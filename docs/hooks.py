"""What pages have from the code itself: state diagrams, tables of attributes, the catalogue of events, the command line.

A line ``<!-- generated: NAME -->`` in a page is replaced by what the function of that name below returns, so that such a page
cannot say anything else than the code does.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

_PLACE = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the generated parts of a page; called by mkdocs."""
    return _PLACE.sub(lambda found: GENERATED[found[1]](), markdown)


def pilot_states() -> str:
    """Return the diagram of a pilot's states."""
    from pilotage.model.states import FINAL, PILOT_STATES, pilot_may_go

    return _diagram("States of a pilot", PILOT_STATES, FINAL, pilot_may_go)


def task_states() -> str:
    """Return the diagram of a task's states."""
    from pilotage.model.states import FINAL, TASK_STATES, task_may_go

    return _diagram("States of a task", TASK_STATES, FINAL, task_may_go)


def _diagram(title: str, states: Sequence[str], final: Sequence[str], may_go: Any) -> str:
    """Return an SVG: the states below each other, arrows to the next one, and to the right the final ones."""
    width, height, gap, left = 270, 26, 14, 10
    step = height + gap
    right = left + width + 130
    total = len(states) * step + 10
    parts = [
        f'<svg role="img" viewBox="0 0 {right + 130} {total}" style="max-width:{right + 130}px" xmlns="http://www.w3.org/2000/svg">',
        f"<title>{html.escape(title)}</title>",
        '<g font-family="monospace" font-size="12" fill="currentColor" stroke="none">',
    ]
    for number, state in enumerate(states):
        y = 5 + number * step
        parts.append(_box(left, y, width, height, state))
        if number + 1 < len(states) and may_go(state, states[number + 1]):
            parts.append(_arrow(left + width / 2, y + height, left + width / 2, y + step))
    middle = total / 2
    rail = left + width + 50
    tops = [middle + (number - (len(final) - 1) / 2) * 2 * step - height / 2 for number in range(len(final))]
    for number, state in enumerate(states):
        y = 5 + number * step + height / 2
        if all(may_go(state, end) for end in final):
            parts.append(f'<path d="M{left + width} {y} H{rail}" fill="none" stroke="currentColor" opacity="0.4"/>')
    last = 5 + (len(states) - 1) * step + height / 2
    parts.append(f'<path d="M{rail} {5 + height / 2} V{last}" fill="none" stroke="currentColor" opacity="0.4"/>')
    for top, state in zip(tops, final, strict=True):
        parts.append(_arrow(rail, top + height / 2, right, top + height / 2))
        parts.append(_box(right, top, 120, height, state))
    parts.append("</g></svg>")
    table = "\n".join(f"{number}. `{state}`" for number, state in enumerate(states, 1))
    return "".join(parts) + f"\n\nIn order:\n\n{table}\n\nThen one of {', '.join(f'`{state}`' for state in final)}."


def _box(x: float, y: float, width: float, height: float, text: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="none" stroke="currentColor"/>'
        f'<text x="{x + width / 2}" y="{y + height / 2 + 4}" text-anchor="middle">{html.escape(text)}</text>'
    )


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    head = (
        f"M{x2 - 4} {y2 - 6} L{x2} {y2} L{x2 + 4} {y2 - 6}" if x1 == x2 else f"M{x2 - 6} {y2 - 4} L{x2} {y2} L{x2 - 6} {y2 + 4}"
    )
    return f'<path d="M{x1} {y1} L{x2} {y2} {head}" fill="none" stroke="currentColor"/>'


def task_attributes() -> str:
    """Return the table of a task description's attributes."""
    from pilotage.client.task_fields import OLDER_TASK_NAMES, TASK_FIELDS

    return _attributes(TASK_FIELDS) + _older(OLDER_TASK_NAMES)


def pilot_attributes() -> str:
    """Return the table of a pilot description's attributes."""
    from pilotage.client.pilot_description import PILOT_FIELDS

    return _attributes(PILOT_FIELDS)


def _attributes(fields: Any) -> str:
    lines = ["| attribute | type | default | |", "|---|---|---|---|"]
    for name, field in fields.items():
        note = f"comes with {field.awaits}" if field.awaits else ""
        lines.append(f"| `{name}` | {field.kind.value} | `{field.default!r}` | {note} |")
    return "\n".join(lines)


def _older(names: Any) -> str:
    lines = ["", "", "| older name | now |", "|---|---|"]
    lines += [
        f"| `{older}` | {f'`{name}`' if name else 'has no counterpart; accepted and ignored'} |"
        for older, name in names.items()
    ]
    return "\n".join(lines)


def events() -> str:
    """Return the catalogue of events."""
    from pilotage.trace.catalogue import CATALOGUE

    lines = ["| event | of | from the record | meaning |", "|---|---|---|---|"]
    lines += [f"| `{kind.name}` | {kind.entity} | `{kind.fact}` | {kind.meaning} |" for kind in CATALOGUE]
    return "\n".join(lines)


def endings() -> str:
    """Return how an attempt can end."""
    from pilotage.model.outcome import Ending, state_of

    source = _enum_notes(Ending)
    lines = ["| ending | state | meaning |", "|---|---|---|"]
    lines += [f"| `{ending.name}` | `{state_of(ending)}` | {source.get(ending.name, '')} |" for ending in Ending]
    return "\n".join(lines)


def launch_methods() -> str:
    """Return what is known of each launch method."""
    from pilotage.launchers.registry import LAUNCH_METHODS

    lines = ["| method | what | its programs | ranks read their number from | tried |", "|---|---|---|---|---|"]
    for name, method in LAUNCH_METHODS.items():
        facts = method.facts
        numbers = ", ".join(dict.fromkeys(f"`{variable}`" for variable in facts.rank_variables.values()))
        programs = ", ".join(f"`{command}`" for command in facts.commands)
        lines.append(f"| `{name}` | {facts.summary} | {programs} | {numbers or '-'} | {facts.tried} |")
    return "\n".join(lines)


def launch_limits() -> str:
    """Return what each launch method can say, and what it bears."""
    from pilotage.launchers.registry import LAUNCH_METHODS

    head = "| method | MPI | nodes | ranks on nodes | who binds | at once | limits |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for name, method in LAUNCH_METHODS.items():
        facts = method.facts
        nodes = ("several" if facts.several_nodes else "one") + (", whole ones" if facts.whole_nodes else "")
        spread = "any number" if facts.uneven else "as many on each"
        order = "any order" if facts.any_order else "in the order of the allocation"
        spreads = f"{spread}, {order}" if facts.several_nodes else "-"
        ceiling = f"{facts.ceiling} a {facts.ceiling_per}: {facts.ceiling_why}" if facts.ceiling else "-"
        mpi = "yes" if facts.starts_mpi else "no"
        lines.append(f"| `{name}` | {mpi} | {nodes} | {spreads} | {facts.binds} | {ceiling} | {facts.limits or '-'} |")
    return "\n".join(lines)


def launch_options() -> str:
    """Return the options of launch methods."""
    from pilotage.launchers.registry import LAUNCH_METHODS

    lines = ["| method | option | meaning |", "|---|---|---|"]
    for name, method in LAUNCH_METHODS.items():
        lines += [f"| `{name}` | `{option}` | {meaning} |" for option, meaning in method.facts.options.items()]
    return "\n".join(lines)


def allocation_systems() -> str:
    """Return what is read of each batch system inside a job."""
    from pilotage.platforms.allocations import ALLOCATION_SYSTEMS

    parts = []
    for name, system in ALLOCATION_SYSTEMS.items():
        lines = [f"### `{name}`", "", f"Tried: {system.tried}.", "", "| variable | what it tells |", "|---|---|"]
        lines += [f"| `{variable}` | {meaning} |" for variable, meaning in system.reads.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _enum_notes(enumeration: type) -> dict[str, str]:
    """Return the text that stands below each member in the source."""
    import inspect

    found = re.findall(r'^    (\w+) = \d+\n    """(.*?)"""', inspect.getsource(enumeration), re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in found}


def errors() -> str:
    """Return the tree of exceptions, as the module draws it."""
    import inspect

    from pilotage import errors as module

    return f"```text\n{inspect.getdoc(module)}\n```"


def command_line() -> str:
    """Return all commands with their options."""
    import typer

    from pilotage.cli.main import app

    return "\n\n".join(_command(typer.main.get_command(app), "pilotage"))


def _command(command: Any, name: str) -> list[str]:
    if hasattr(command, "commands"):
        return [part for child, one in sorted(command.commands.items()) for part in _command(one, f"{name} {child}")]
    lines = [f"## `{name}`", re.sub(r"\s*\n\s*", "\n", (command.help or "").strip())]
    rows = []
    for parameter in command.params:
        said = ", ".join(f"`{option}`" for option in parameter.opts) if parameter.param_type_name == "option" else "argument"
        rows.append(f"| {said} | {html.escape(getattr(parameter, 'help', '') or '').replace('|', chr(92) + '|')} |")
    if rows:
        lines.append("\n".join(["| option | |", "|---|---|", *rows]))
    return lines


GENERATED = {
    "pilot-states": pilot_states,
    "task-states": task_states,
    "task-attributes": task_attributes,
    "pilot-attributes": pilot_attributes,
    "events": events,
    "endings": endings,
    "launch-methods": launch_methods,
    "launch-limits": launch_limits,
    "launch-options": launch_options,
    "allocation-systems": allocation_systems,
    "errors": errors,
    "command-line": command_line,
}
