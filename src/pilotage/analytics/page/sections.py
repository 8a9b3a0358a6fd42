"""The sections of the page, each with a heading, a sentence that says what to see, and its plots and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from pilotage.analytics import words
from pilotage.analytics.failures import MEANINGS
from pilotage.analytics.page.charts import (
    RUN_COLOURS,
    STAGE_COLOURS,
    STATION_COLOURS,
    distributions_chart,
    lines_chart,
    part_colours,
    run_colour,
    timeline_chart,
    usage_chart,
)
from pilotage.analytics.page.tables import (
    Cell,
    Heading,
    Html,
    core_seconds,
    folded,
    name,
    seconds,
    share,
    swatch,
    table,
)
from pilotage.analytics.parts import SCHEMES
from pilotage.analytics.report import Chart, Part, Report, Series, Usage
from pilotage.trace.usage import RUNNING

PART_MEANINGS = {
    RUNNING: "a task runs",
    "startup": "the pilot holds its nodes and is not ready yet",
    "scheduling": "free, while tasks wait for resources",
    "launching": "a task was handed over and has not begun",
    "collecting": "the task is over, and its end is not yet dealt with",
    "teardown": "free, and the pilot is ending",
    "idle": "free, and no task waits",
}
SCHEME_TITLES = {
    "summary": "What was of use",
    "origin": "Whose doing it was",
    "phases": "In which phase the core was",
    "tasks": "What the task on the core was doing",
}
PART_COLOURS = {
    **dict.fromkeys(("workload", "exec cmd", "running"), "run-0"),
    **dict.fromkeys(("overhead", "launcher", "prepare exec", "launching"), "launching"),
    **dict.fromkeys(("pilot system", "pilot startup"), "startup"),
    **dict.fromkeys(("warmup", "scheduled"), "scheduling"),
    "drain": "collecting",
    "idle": "idle",
}
"""The colours of the parts of the other schemes."""

_AT_WORK = ("running", "launching", "collecting", "staging in", "staging out")


def section(identity: str, title: str, lead: str, *content: str) -> Html:
    """Return a section; ``lead`` is its sentence."""
    said = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return Html(f'<section id="{identity}"><h2>{escape(title)}</h2>{said}{"".join(content)}</section>')


def advice(report: Report) -> Html:
    """Return what could be done better, and why."""
    words_of = {"problem": "Problem", "hint": "Hint", "fine": "Fine"}
    cards = "".join(
        f'<li class="{each.level}"><strong><span class="badge">{words_of[each.level]}</span>{escape(each.headline)}</strong>'
        f"<p>{escape(each.reason)}</p><p>{escape(each.remedy)}</p></li>"
        for each in report.advice
    )
    return section("advice", "Advice", "", f'<ul class="advice">{cards}</ul>')


def failures(report: Report) -> Html:
    """Return the failures by cause."""
    if not report.causes:
        return Html("")
    cards = []
    for cause in report.causes:
        said = (
            cause.message
            if not cause.error_line or cause.error_line in cause.message
            else f"{cause.message}\n{cause.error_line}"
        )
        group = f"<code>{escape(cause.group or '(no name)')}</code>"
        where = f"all of them {group}" if cause.groups == 1 else f"{cause.groups:,} groups, most often {group}"
        first = f", the first after {words.time(cause.first_s)}" if cause.first_s is not None else ""
        cards.append(
            f'<li><div class="tally"><b>{cause.count:,}</b><span>{escape(words.percent(cause.share))}</span></div><div>'
            f"<p><strong>{escape(MEANINGS.get(cause.ending, cause.ending))}</strong> <code>{escape(cause.ending)}</code></p>"
            f"<pre>{escape(said)}</pre>"
            f'<p class="muted">{where}; on {words.count(cause.nodes, "node")}{escape(first)}; '
            f"took {escape(words.core_time(cause.core_s))}. First task: <code>{escape(cause.task)}</code></p></div></li>"
        )
    left = _left_out(report.causes_left_out, "cause")
    nodes = ""
    if len(report.nodes) > 1:
        headings = (name("Pilot"), name("Node"), Heading("Tasks"), Heading("Failed"), Heading("Share"))
        rows = [
            (node.pilot, node.node, node.tasks, node.failed, share(node.failed / max(1, node.tasks))) for node in report.nodes
        ]
        nodes = folded("Failures by node", table(headings, rows, "Tasks by the node of their last attempt"))
    causes = words.count(len(report.causes) + report.causes_left_out, "cause")
    lead = (
        f"{words.count(report.figures.failed, 'task')} failed, of {causes}. Messages that differ in numbers, paths and uids "
        "are one cause; shown is the first of each."
    )
    return section("failures", "Failures by cause", lead, f'<ol class="causes">{"".join(cards)}</ol>', left, nodes)


def what_ran(report: Report) -> Html:
    """Return tasks by kind and by name, and the pilots."""
    counts = [Heading(title) for title in ("Tasks", "Done", "Failed", "Cancelled", "Unfinished")]
    rows = [(kind.kind, kind.tasks, kind.done, kind.failed, kind.cancelled, kind.unfinished) for kind in report.kinds]
    kinds = table((name("Kind"), *counts), rows, "Tasks by kind and how they ended")
    headings = (
        name("Name", "numbers are folded: # stands for any"),
        Heading("Tasks"),
        Heading("Done"),
        Heading("Failed"),
        Heading("Cores", meaning="of one task, at the most"),
        Heading("GPUs", meaning="of one task, at the most"),
        Heading("Median run"),
        Heading("Longest run"),
        Heading("Core-time"),
    )
    of_groups = [
        (
            group.group or "(no name)",
            group.tasks,
            group.done,
            group.failed,
            group.cores,
            group.gpus,
            seconds(group.median_s),
            seconds(group.longest_s),
            core_seconds(group.core_s),
        )
        for group in report.groups
    ]
    groups = table(headings, of_groups, "Tasks by name") + _left_out(report.groups_left_out, "group")
    return section("ran", "What ran", "", kinds, groups, _pilots(report))


def _pilots(report: Report) -> str:
    headings = (
        name("Pilot"),
        name("Platform"),
        name("State"),
        *(Heading(title) for title in ("Nodes", "Cores", "GPUs", "Ready after", "Held for", "Tasks", "Failed", "Utilisation")),
    )
    rows: list[tuple[Cell, ...]] = []
    for pilot in report.pilots:
        end = pilot.end_s if pilot.end_s is not None else report.end - report.begin
        held = None if pilot.begin_s is None else end - pilot.begin_s
        ready = None if pilot.ready_s is None or pilot.begin_s is None else pilot.ready_s - pilot.begin_s
        state = Html(f'<span title="{escape(pilot.reason, quote=True)}">{escape(pilot.state)}</span>')
        of_tasks = (pilot.tasks, pilot.failed, share(pilot.utilisation))
        size = (pilot.nodes, pilot.cores, pilot.gpus)
        rows.append((pilot.uid, pilot.resource, state, *size, seconds(ready), seconds(held), *of_tasks))
    return table(headings, rows, "Pilots") if rows else ""


def utilisation(report: Report) -> Html:
    """Return where core-time and GPU-time went."""
    used = [report.cores, *([report.gpus] if report.gpus is not None else [])]
    if not report.cores.parts:
        return section("utilisation", "Utilisation", "No pilot has held any resources yet.")
    content = "".join(_usage(usage) for usage in used)
    schemes = "".join(_scheme(scheme, report.schemes[scheme]) for scheme in report.schemes)
    lead = (
        f"Tasks ran on {words.percent(report.figures.utilisation)} of {words.core_time(report.cores.seconds)}; "
        f"Pilotage took {words.percent(report.figures.overhead)}, and {words.percent(report.figures.idle)} was idle with no "
        "task waiting."
    )
    return section(
        "utilisation",
        "Utilisation over time",
        lead,
        content,
        f'<h3>The same core-time, divided otherwise</h3><div class="schemes">{schemes}</div>',
    )


def _usage(usage: Usage) -> str:
    noun = "core" if usage.unit == "cores" else "GPU"
    identity = f"plot-{usage.unit}"
    colours = part_colours(usage)
    phase = SCHEMES["phases"]
    rows = [
        (
            swatch(colours[part.name], part.name),
            PART_MEANINGS[part.name if part.name in PART_MEANINGS else RUNNING],
            phase[part.name if part.name in phase else RUNNING],
            core_seconds(part.seconds, noun),
            share(part.share),
        )
        for part in reversed(usage.parts)
    ]
    time = "Core-time" if noun == "core" else "GPU-time"
    headings = (name("State"), name("Meaning"), name("Phase"), Heading(time), Heading("Share"))
    caption = f"{words.core_time(usage.seconds, noun)} by state, as stacked from top to bottom"
    legend = _keyed(table(headings, rows, caption, "legend"), [part.name for part in reversed(usage.parts)])
    numbers = [
        [at, *values] for at, values in zip(usage.at, zip(*(part.values for part in usage.parts), strict=True), strict=False)
    ]
    over_time = table(
        (Heading("From (s)"), *(Heading(part.name) for part in usage.parts)), numbers, f"{noun}s in each state, as means"
    )
    drawn = usage_chart(usage, identity)
    return f"<figure>{drawn}{legend}{folded('Numbers of this plot', over_time)}</figure>"


def _scheme(scheme: str, parts: Sequence[Part]) -> str:
    pieces, rows = [], []
    # In the order of the strip, the workload first and what nobody used last.
    for part in sorted(parts, key=lambda one: (PART_COLOURS[one.name] == "idle", PART_COLOURS[one.name] != "run-0")):
        colour = PART_COLOURS[part.name]
        if part.share > 0:
            pieces.append(f'<span style="--c:var(--{colour});--v:{100 * part.share:.3f}%" title="{escape(part.name)}"></span>')
        rows.append((swatch(colour, part.name), core_seconds(part.seconds), share(part.share)))
    shares = table((name("Part"), Heading("Core-time"), Heading("Share")), rows, "")
    return f'<div><h4>{escape(SCHEME_TITLES[scheme])}</h4><div class="strip">{"".join(pieces)}</div>{shares}</div>'


def concurrency(report: Report) -> Html:
    """Return how many tasks were in which stage."""
    chart = report.concurrency
    working = [series for series in chart.series if series.name in _AT_WORK]
    waiting = [series for series in chart.series if series.name not in _AT_WORK]
    lead = (
        f"At the most {words.count(report.figures.peak_concurrency, 'task')} ran at a time, "
        f"{words.number(report.figures.mean_concurrency)} on average from the first start to the last end."
    )
    figures = [
        _lines(chart, some, STAGE_COLOURS, "tasks", f"plot-{label}", f"Tasks {label} over time", filled)
        for some, label, filled in ((working, "working", "running"), (waiting, "waiting", "waiting"))
        if any(any(series.values) for series in some)
    ]
    return section("concurrency", "Concurrency", lead, *(figures or ["<p>No task has been at a pilot yet.</p>"]))


def rates(report: Report) -> Html:
    """Return how many tasks were launched, started and ended per second."""
    found = report.figures
    rows = [
        ("launched", found.mean_launch_rate, found.peak_launch_rate, "from the first launch to the last"),
        ("started", found.mean_start_rate, found.peak_start_rate, "from the first start to the last"),
        ("ended", found.mean_completion_rate, found.peak_completion_rate, "from the first start to the last end"),
    ]
    headings = (name("Tasks per second"), Heading("Mean"), Heading("In the busiest second"), name("The mean is over the time"))
    interval = report.rates.at[1] - report.rates.at[0]
    lead = f"Each value of the plot is over {words.time(interval)}."
    drawn = _lines(report.rates, report.rates.series, STATION_COLOURS, "tasks/s", "plot-rates", "Tasks per second", "started")
    if not any(any(series.values) for series in report.rates.series):
        drawn = ""
    return section("rates", "Start and completion rates", lead, drawn, table(headings, rows, "Rates"))


def _lines(
    chart: Chart, series: Sequence[Series], colours: dict[str, str], unit: str, identity: str, label: str, filled: str
) -> str:
    drawn = lines_chart(chart.at, series, colours, unit, identity, label, filled)
    keys = "".join(f'<li data-key="{escape(each.name)}">{swatch(colours[each.name], each.name)}</li>' for each in series)
    numbers = [[at, *values] for at, values in zip(chart.at, zip(*(each.values for each in series), strict=True), strict=False)]
    headings = (Heading("From (s)"), *(Heading(each.name) for each in series))
    beside = folded("Numbers of this plot", table(headings, numbers, f"{label} ({unit})"))
    return f'<figure>{drawn}<ul class="keys">{keys}</ul>{beside}</figure>'


def stages(report: Report) -> Html:
    """Return how long tasks were in each stage, and the overheads."""
    if not report.stages:
        return Html("")
    headings = (
        name("Stage"),
        name("A task in it"),
        *(Heading(title) for title in ("Stays", "Mean", "Least", "5 %", "Median", "95 %", "Most", "Sum")),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            swatch(STAGE_COLOURS[one.stage], one.stage),
            one.meaning,
            one.count,
            *map(seconds, (one.mean_s, one.least_s, one.p05_s, one.median_s, one.p95_s, one.most_s, one.total_s)),
        )
        for one in report.stages
    ]
    drawn = distributions_chart(report.distributions, report.stages, "plot-stages")
    overheads = table(
        (
            name("Overhead"),
            name("What it is"),
            Heading("Wall time", meaning="with at least one in it"),
            Heading("Count"),
            Heading("Mean"),
        ),
        [(one.name, one.meaning, seconds(one.wall_s), one.count, seconds(one.mean_s)) for one in report.overheads],
        "What is paid besides the tasks",
    )
    lead = (
        "How many stays in a stage took how long, on one logarithmic scale; the mark is the median, the line reaches to 95 %."
    )
    return section(
        "stages", "Durations by stage", lead, f"<figure>{drawn}{table(headings, rows, 'Stages')}</figure>", overheads
    )


def machine(report: Report) -> Html:
    """Return the timeline of cores and GPUs, and what each component did."""
    found = report.timeline
    if not found.cores:
        return section("machine", "The machine over time", "No pilot has told of its nodes yet.")
    of_rows = {"core": "core", "node": "node", "nodes": "group of nodes"}[found.unit]
    if found.bars:
        lead = f"Each bar is a task on its {of_rows}s; point at one to see which."
        keys = [swatch(run_colour(place), group or "(no name)") for place, group in enumerate(found.groups[:RUN_COLOURS])]
        colours = [run_colour(place) for place in range(len(keys))]
        if any(cause.count for cause in report.causes):
            keys, colours = [*keys, swatch("bad", "failed")], [*colours, "bad"]
        listed = "".join(f'<li data-key="{colour}">{key}</li>' for key, colour in zip(keys, colours, strict=True))
        legend = f'<ul class="keys">{listed}</ul>'
    else:
        lead = (
            f"Each row is a {of_rows}: the darker, the busier with running tasks. There are too many tasks to tell them apart."
        )
        legend = '<ul class="keys"><li class="ramp"><span>idle</span><i></i><span>all of it busy</span></li></ul>'
    rows = [(row.label, row.size, row.tasks, share(row.busy)) for row in (*found.cores, *found.gpus)]
    headings = (
        name("Where"),
        Heading("Cores or GPUs"),
        Heading("Launches"),
        Heading("Busy", meaning="while its pilot held it"),
    )
    beside = folded("Numbers of this plot", table(headings, rows, "How busy each row was"))
    drawn = timeline_chart(found, "plot-machine")
    return section("machine", "The machine over time", lead, f"<figure>{drawn}{legend}{beside}</figure>", _components(report))


def _components(report: Report) -> str:
    headings = (
        name("Component"),
        name("Instance"),
        Heading("Handled", meaning="tasks, or attempts of a runner"),
        Heading("Per second", meaning="from its first to its last"),
        Heading("Busiest second"),
        Heading("In hand", meaning="tasks at a time, on average"),
        Heading("Most in hand"),
    )
    keys = ("component", "instance", "handled", "rate", "peak_rate", "concurrency", "peak_concurrency")
    rows = [[each[key] for key in keys] for each in report.components]
    made = table(headings, rows, "Throughput and concurrency of each component")
    return folded("Throughput and concurrency of each component", made) if rows else ""


def notes(report: Report) -> Html:
    """Return what processes printed, what the trace contradicts, and what could not be read."""
    content = []
    if report.printed:
        lines = "\n".join(f"{line['process']}:{line['line']}: {line['text']}" for line in report.printed)
        more = f"; {report.printed_left_out:,} lines before them are not shown" if report.printed_left_out else ""
        content.append(f"<h3>What agents, spawners and workers printed</h3><pre>{escape(lines)}</pre>")
        content.append(f'<p class="muted">The last lines{more}.</p>')
    headings = (name("What must hold"), Heading("Violations"), name("For example"))
    rules = [(str(each["rule"]), each["violations"], str(each["example"])) for each in report.consistency]
    broken = sum(1 for _, violations, _ in rules if violations)
    checked = table(headings, rules, "Whether the trace contradicts itself")
    content.append(checked if broken else folded("The trace does not contradict itself: what was checked", checked))
    if report.remarks:
        listed = "".join(f"<li>{escape(remark)}</li>" for remark in report.remarks)
        content.append(f"<h3>Remarks of the reader</h3><ul>{listed}</ul>")
    return section("notes", "Notes", "", *content)


def _keyed(made: Html, keys: Iterable[str]) -> Html:
    """Let the rows of a table name the series that they are the key of."""
    head, _, body = made.partition("<tbody>")
    for key in keys:
        body = body.replace("<tr>", f'<tr data-key="{escape(key, quote=True)}">', 1)
    return Html(f"{head}<tbody>{body}")


def _left_out(count: int, noun: str) -> str:
    return f'<p class="muted">{words.count(count, f"more {noun}")} not shown.</p>' if count else ""
