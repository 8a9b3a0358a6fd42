"""A session's report as text, for a terminal or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from textwrap import fill

from pilotage.analytics import words
from pilotage.analytics.report import Report, verdict
from pilotage.cli.renderers import Column, Format, print_rows

_GROUPS = 12
_CAUSES = 10
_LINES = 8
_WIDTH = 100
_BAR_CHARACTERS = 30


def print_report(report: Report) -> None:
    """Print what ran, figures, where the core-time went, stages, failures, advice and remarks."""
    state = {"open": " (running now)", "crashed": " (crashed)"}.get(report.state, "")
    size = f"{words.count(len(report.pilots), 'pilot')}, {words.count(round(report.cores.capacity), 'core')}"
    print(f"{verdict(report)}{state}")
    print(f"{report.uid}: {size}, {words.time(report.end - report.begin)} long")
    if report.figures.tasks:
        _print_what_ran(report)
        _print_figures(report)
    if report.cores.parts:
        _print_core_time(report)
    _print_stages(report)
    _print_failures(report)
    _print_advice(report)
    _print_notes(report)


def _print_what_ran(report: Report) -> None:
    counts = ("TASKS", "DONE", "FAILED", "CANCELED", "UNFINISHED")
    kinds = [(kind.kind, kind.tasks, kind.done, kind.failed, kind.cancelled, kind.unfinished) for kind in report.kinds]
    _print_table(("KIND",), counts, kinds)
    groups = report.groups
    if len(groups) == 1 and groups[0].group == report.kinds[0].kind:
        return  # nobody gave them names
    columns = ("TASKS", "FAILED", "CORES", "MEDIAN", "LONGEST", "CORE-TIME")
    rows = [
        (
            each.group,
            each.tasks,
            each.failed,
            each.cores,
            _time(each.median_s),
            _time(each.longest_s),
            words.core_time(each.core_s),
        )
        for each in groups[:_GROUPS]
    ]
    _print_table(("NAME",), columns, rows)
    _print_left_out(len(groups) - len(rows) + report.groups_left_out, "more name")


def _print_figures(report: Report) -> None:
    found = report.figures
    took = found.makespan_s or found.ttx_agent_s
    lines = {
        "completed in": f"{words.time(took)}, {words.time(found.ideal_ttx_s)} at best on these cores",
        "utilisation": f"{words.percent(found.utilisation)} of {words.core_time(found.core_s)}",
        "overhead": f"{words.percent(found.overhead)}, {words.time(found.overhead_s)} of the machine",
        "running": f"{found.peak_concurrency:,} at a time at the most, {words.number(found.mean_concurrency)} on average",
        "started": f"{words.number(found.mean_start_rate)} per second, {found.peak_start_rate:,} in the busiest",
        "ended": f"{words.number(found.mean_completion_rate)} per second, {found.peak_completion_rate:,} in the busiest",
    }
    if report.gpus is not None and found.gpu_utilisation is not None:
        lines["GPUs used"] = f"{words.percent(found.gpu_utilisation)} of {words.core_time(report.gpus.seconds, 'GPU')}"
    if found.idle_tail_core_s and found.core_s:
        share = words.percent(found.idle_tail_core_s / found.core_s)
        lines["idle tail"] = f"{share}: {words.core_time(found.idle_tail_core_s)} of nodes after their last use"
    print()
    for title, line in lines.items():
        print(f"{title:<12}  {line}")


def _print_core_time(report: Report) -> None:
    full = "█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
    rows = [
        (part.name, full * round(part.share * _BAR_CHARACTERS), words.core_time(part.seconds), words.percent(part.share))
        for part in report.cores.parts
    ]
    _print_table(("CORES WERE", ""), ("CORE-TIME", "SHARE"), rows)


def _print_stages(report: Report) -> None:
    rows = [
        (stage.stage, stage.count, *map(words.time, (stage.median_s, stage.p95_s, stage.most_s, stage.total_s)), stage.meaning)
        for stage in report.stages
    ]
    if rows:
        _print_table(("STAGE",), ("STAYS", "MEDIAN", "95 %", "LONGEST", "SUM"), rows, ("A TASK IN IT",))


def _print_failures(report: Report) -> None:
    if not report.causes:
        return
    print(f"\nfailures by cause ({report.figures.failed:,} tasks)")
    for cause in report.causes[:_CAUSES]:
        print(f"{cause.count:>7,} x {cause.ending}, first in {cause.task}: {cause.message}")
        if cause.error_line and cause.error_line not in cause.message:
            print(f"{'':>10}{cause.error_line}")
    _print_left_out(len(report.causes) - _CAUSES + report.causes_left_out, "more cause")


def _print_advice(report: Report) -> None:
    print("\nadvice")
    for each in report.advice:
        print(f"  {each.headline}")
        for sentence in (each.reason, each.remedy):
            # What is to be copied must stay in one piece.
            print(
                fill(
                    sentence,
                    _WIDTH,
                    initial_indent="    ",
                    subsequent_indent="    ",
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )


def _print_notes(report: Report) -> None:
    broken = [each for each in report.consistency if each["violations"]]
    lines = [f"{line['process']}: {line['text']}" for line in report.printed[-_LINES:]]
    remarks = [f"{each['rule']}: {each['violations']} times not, for example {each['example']}" for each in broken]
    for title, content in (("printed by agents, spawners and workers", lines), ("remarks", [*report.remarks, *remarks])):
        if content:
            print(f"\n{title}")
            for line in content:
                print(f"  {line}")


def _print_table(
    heads: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[object]], last: Sequence[str] = ()
) -> None:
    """Print a table; the columns of ``numbers`` are aligned to the right, those before and after to the left."""
    columns = [Column(each, each) for each in heads]
    columns += [Column(each, each, right=True) for each in numbers]
    columns += [Column(each, each) for each in last]
    print()
    shown = [
        {column.key: f"{value:,}" if isinstance(value, int) else value for column, value in zip(columns, row, strict=True)}
        for row in rows
    ]
    print_rows("rows", shown, columns, Format.TABLE)


def _print_left_out(count: int, noun: str) -> None:
    if count > 0:
        print(f"and {words.count(count, noun)}")


def _time(seconds: float | None) -> str:
    return "" if seconds is None else words.time(seconds)
