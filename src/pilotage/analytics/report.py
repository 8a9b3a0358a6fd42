"""A session in one document: what ran, what failed and why, where the core-time went, how fast it was, and what to do better.

``build_report`` takes all numbers from a ``Session``; text, JSON and the HTML page are made from what it returns and compute
nothing themselves. Times are seconds from the begin of the session, unless they are said to be since the epoch.
"""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import polars as pl

from pilotage.analytics import words
from pilotage.analytics.advice import Advice, advise
from pilotage.analytics.figures import Figures, Overhead, StageTimes
from pilotage.analytics.parts import SCHEMES, STATES_SCHEME, scale
from pilotage.analytics.session import Session
from pilotage.analytics.spans import STAGES
from pilotage.analytics.timeline import Timeline, timeline
from pilotage.model.states import CANCELED, DONE, FAILED
from pilotage.trace.usage import TICKS_PER_S, Resource

SCHEMA = 1
"""Version of the JSON document; raised if a key changes its meaning or goes away."""

GROUPS_SHOWN = 25
CAUSES_SHOWN = 25
NODES_SHOWN = 64
COMPONENTS_SHOWN = 64
LINES_SHOWN = 40
LINE_CHARACTERS = 300
PER_DECADE = 6
"""Intervals of a tenfold in the distributions of stages."""
CONCURRENT_STAGES = ("waiting", "launching", "running", "collecting")
RATED_STATIONS = ("launched", "started", "ended")


class PilotFacts(msgspec.Struct, frozen=True):
    """A pilot and what it did; ``ready_s`` and ``end_s`` None if it never was."""

    uid: str
    resource: str
    state: str
    reason: str
    nodes: int
    cores: int
    gpus: int
    begin_s: float | None
    ready_s: float | None
    end_s: float | None
    tasks: int
    failed: int
    utilisation: float


class Counts(msgspec.Struct, frozen=True):
    """How tasks of one kind ended."""

    kind: str
    tasks: int
    done: int
    failed: int
    cancelled: int
    unfinished: int


class GroupFacts(msgspec.Struct, frozen=True):
    """Tasks whose names differ in numbers only. Times of their last attempts; ``cores`` the most that one asked for."""

    group: str
    tasks: int
    done: int
    failed: int
    cores: int
    gpus: float
    median_s: float | None
    longest_s: float | None
    core_s: float


class Cause(msgspec.Struct, frozen=True):
    """Failures with one cause; see ``analytics.failures``."""

    cause: str
    ending: str
    exit_code: int | None
    count: int
    share: float
    first_s: float | None
    message: str
    error_line: str
    task: str
    group: str
    groups: int
    nodes: int
    core_s: float


class NodeFacts(msgspec.Struct, frozen=True):
    """What tasks made of a node, by their last attempts."""

    pilot: str
    node: str
    cores: int
    tasks: int
    failed: int


class Part(msgspec.Struct, frozen=True):
    """A part of core-time: its sum, its share, and over time how many cores were in it."""

    name: str
    seconds: float
    share: float
    values: list[float]


class Usage(msgspec.Struct, frozen=True):
    """Where the time of ``capacity`` cores (GPUs) went. ``at``: edges of the intervals of the parts' values."""

    unit: Resource
    capacity: float
    seconds: float
    at: list[float]
    parts: list[Part]


class Series(msgspec.Struct, frozen=True):
    """Values over time, one for each interval between the edges ``at`` of its chart."""

    name: str
    values: list[float]


class Chart(msgspec.Struct, frozen=True):
    """Several series over the same intervals."""

    at: list[float]
    series: list[Series]


class Distribution(msgspec.Struct, frozen=True):
    """How many stays in a stage had which length: ``counts`` between ``edges_s``, the first one from zero on."""

    stage: str
    edges_s: list[float]
    counts: list[int]


class Report(msgspec.Struct, frozen=True):
    """A session in one document. ``begin``, ``end`` and ``read_at``: seconds since the epoch."""

    schema: int
    uid: str
    folder: str
    state: str
    """``open`` (a program has it), ``closed``, ``crashed``, or empty: not known."""
    read_at: float
    begin: float
    end: float
    remarks: list[str]
    figures: Figures
    advice: list[Advice]
    pilots: list[PilotFacts]
    kinds: list[Counts]
    endings: dict[str, int]
    groups: list[GroupFacts]
    groups_left_out: int
    causes: list[Cause]
    causes_left_out: int
    nodes: list[NodeFacts]
    cores: Usage
    gpus: Usage | None
    schemes: dict[str, list[Part]]
    concurrency: Chart
    rates: Chart
    stages: list[StageTimes]
    distributions: list[Distribution]
    overheads: list[Overhead]
    components: list[dict[str, str | int | float]]
    timeline: Timeline
    printed: list[dict[str, str | int | float]]
    printed_left_out: int
    consistency: list[dict[str, str | int]]


def build_report(session: Session, *, state: str = "", read_at: float) -> Report:
    """Return the report of a session. ``state`` as in ``Report``; ``read_at``: now, since the epoch."""
    begin = session.begin
    groups, groups_left_out = _groups(session)
    causes, causes_left_out = _causes(session)
    printed = session.printed()
    broken = [dict(row) for row in session.consistency().iter_rows(named=True)]
    return Report(
        schema=SCHEMA,
        uid=session.uid,
        folder=str(session.run.folder),
        state=state,
        read_at=read_at,
        begin=begin,
        end=session.end,
        remarks=list(session.remarks),
        figures=session.figures(),
        advice=advise(session, live=state == "open"),
        pilots=_pilots(session),
        kinds=_kinds(session.tasks),
        endings=dict(session.tasks["ending"].drop_nulls().value_counts(sort=True).iter_rows()),
        groups=groups,
        groups_left_out=groups_left_out,
        causes=causes,
        causes_left_out=causes_left_out,
        nodes=_nodes(session),
        cores=_usage(session, "cores"),
        gpus=_usage(session, "gpus") if session.has_gpus and float(session.tasks["gpus"].sum()) > 0 else None,
        schemes={name: _scheme(session, name) for name in SCHEMES if name != STATES_SCHEME},
        concurrency=_concurrency(session),
        rates=_rates(session),
        stages=session.stages(),
        distributions=_distributions(session),
        overheads=session.overheads(),
        components=[dict(row) for row in session.components().head(COMPONENTS_SHOWN).iter_rows(named=True)],
        timeline=timeline(session),
        printed=_printed(printed, begin),
        printed_left_out=max(0, printed.height - LINES_SHOWN),
        consistency=broken,
    )


def verdict(report: Report) -> str:
    """Return how the session went, in a sentence."""
    found = report.figures
    if not found.tasks:
        return "No tasks yet"
    ended = [
        f"{words.number(found.done) if found.done < 1000 else f'{found.done:,}'} of {words.count(found.tasks, 'task')} done"
    ]
    ended += [f"{found.failed:,} failed"] if found.failed else []
    ended += [f"{found.cancelled:,} cancelled"] if found.cancelled else []
    ended += [f"{found.unfinished:,} {'to go' if report.state == 'open' else 'unfinished'}"] if found.unfinished else []
    took = found.makespan_s or found.ttx_agent_s
    return ", ".join(ended) + (f" in {words.time(took)}" if took else "")


def _pilots(session: Session) -> list[PilotFacts]:
    found = []
    tasks = dict(session.tasks["pilot"].value_counts().iter_rows())
    failed = dict(session.tasks.filter(pl.col("state") == FAILED)["pilot"].value_counts().iter_rows())
    for row in session.pilots.iter_rows(named=True):
        uid = row["pilot"]

        def since(time: float | None) -> float | None:
            return None if time is None else time - session.begin

        found.append(
            PilotFacts(
                uid,
                row["resource"],
                row["state"],
                row["reason"],
                row["nodes"],
                row["cores"],
                row["gpus"],
                since(row["begin"]),
                since(row["active"] or row["ready"]),
                since(row["final"] or row["ended"]),
                tasks.get(uid, 0),
                failed.get(uid, 0),
                session.core_time(pilot=uid).utilisation if len(session.pilots) > 1 else session.core_time().utilisation,
            )
        )
    return found


def _kinds(tasks: pl.DataFrame) -> list[Counts]:
    found = []
    for kind in tasks["kind"].value_counts(sort=True)["kind"]:
        states = dict(tasks.filter(pl.col("kind") == kind)["state"].value_counts().iter_rows())
        done, failed, cancelled = (states.get(state, 0) for state in (DONE, FAILED, CANCELED))
        total = sum(states.values())
        found.append(Counts(kind or "unknown", total, done, failed, cancelled, total - done - failed - cancelled))
    return found


def _groups(session: Session) -> tuple[list[GroupFacts], int]:
    ran = pl.col("ended") - pl.col("started")
    grouped = session.tasks.group_by("group", maintain_order=True).agg(
        tasks=pl.len(),
        done=(pl.col("state") == DONE).sum(),
        failed=(pl.col("state") == FAILED).sum(),
        cores=pl.col("cores").max(),
        gpus=pl.col("gpus").max(),
        median_s=ran.median(),
        longest_s=ran.max(),
        core_s=(ran * pl.col("cores")).sum(),
    )
    ordered = grouped.sort("core_s", "tasks", descending=True, maintain_order=True)
    return [GroupFacts(*row) for row in ordered.head(GROUPS_SHOWN).iter_rows()], max(0, ordered.height - GROUPS_SHOWN)


def _causes(session: Session) -> tuple[list[Cause], int]:
    found = session.failures()
    shown = [
        Cause(
            row["cause"],
            row["ending"],
            row["exit_code"],
            row["count"],
            row["share"],
            None if row["first"] is None else row["first"] - session.begin,
            row["message"],
            row["error_line"],
            row["task"],
            row["group"],
            row["groups"],
            row["nodes"],
            row["core_s"],
        )
        for row in found.head(CAUSES_SHOWN).iter_rows(named=True)
    ]
    return shown, max(0, found.height - CAUSES_SHOWN)


def _nodes(session: Session) -> list[NodeFacts]:
    ran = session.tasks.filter(pl.col("node") >= 0)
    seen = ran.group_by("pilot", "node").agg(tasks=pl.len(), failed=(pl.col("state") == FAILED).sum())
    known = session.nodes.join(seen, on=["pilot", "node"], how="left").with_columns(pl.col("tasks", "failed").fill_null(0))
    # Those on which most failed come first, as long as not all can be shown.
    chosen = known.sort("failed", "tasks", descending=True, maintain_order=True).head(NODES_SHOWN).sort("pilot", "node")
    return [NodeFacts(*row) for row in chosen.select("pilot", "name", "cores", "tasks", "failed").iter_rows()]


def _usage(session: Session, of: Resource) -> Usage:
    by = "kind" if session.tasks["kind"].n_unique() > 1 else None
    spent = session.core_time(of, by=by)
    table = session.utilization_over_time(of, by=by)
    held = spent.held_ticks or 1
    # The last interval may reach beyond the end; what is drawn ends with it, and its means are those of what there was.
    length = (spent.end - spent.begin) * TICKS_PER_S
    edges = [min(place * spent.bin_ticks, length) for place in range(spent.bins + 1)]
    stretch = [spent.bin_ticks / (right - left) if right > left else 0.0 for left, right in pairwise(edges)]
    shift = spent.begin - session.begin if spent.begin else 0.0
    parts_found = [
        Part(
            state,
            ticks / TICKS_PER_S / scale(of),
            ticks / held,
            [round(value * more, 4) for value, more in zip(table[state].to_list(), stretch, strict=True)],
        )
        for state, ticks in spent.ticks.items()
        if ticks
    ]
    at = [shift + edge / TICKS_PER_S for edge in edges]
    return Usage(of, spent.capacity / scale(of), spent.held_ticks / TICKS_PER_S / scale(of), at, parts_found)


def _scheme(session: Session, name: str) -> list[Part]:
    return [Part(part, seconds, share, []) for part, seconds, share in session.utilization(scheme=name).iter_rows()]


def _at(session: Session) -> list[float]:
    return [edge - session.begin for edge in session.intervals()]


def _concurrency(session: Session) -> Chart:
    found = [Series(stage, session.concurrency(stage)["count"].to_list()) for stage in CONCURRENT_STAGES]
    others = [stage.name for stage in STAGES if stage.name in ("held", "staging in", "staging out")]
    found += [Series(stage, session.concurrency(stage)["count"].to_list()) for stage in others if session.ranges(stage).height]
    return Chart(_at(session), found)


def _rates(session: Session) -> Chart:
    return Chart(_at(session), [Series(station, session.rate(station)["rate"].to_list()) for station in RATED_STATIONS])


def _distributions(session: Session) -> list[Distribution]:
    found = []
    for stage in STAGES:
        over = session.over(stage.name)
        if over.is_empty():
            continue
        length = over["end"] - over["begin"]
        most = length.max()
        # From a microsecond on: what is shorter is in the first interval.
        decades = math.log10(max(float(most) if isinstance(most, float) else 0.0, 1e-5) / 1e-6)
        edges = [1e-6 * 10 ** (place / PER_DECADE) for place in range(math.ceil(decades * PER_DECADE) + 1)]
        below = length.sort().search_sorted(pl.Series(edges[1:-1], dtype=pl.Float64)).cast(pl.Int64).to_list()
        counts = [right - left for left, right in zip([0, *below], [*below, len(length)], strict=True)]
        found.append(Distribution(stage.name, [0.0, *edges[1:]], counts))
    return found


def _printed(lines: pl.DataFrame, begin: float) -> list[dict[str, str | int | float]]:
    # The last lines of each process: that is where a traceback ends.
    last = lines.group_by("pilot", "process", "stream", maintain_order=True).tail(LINES_SHOWN).sort("time", maintain_order=True)
    return [
        {
            "process": f"{row['pilot']}/{row['process']}",
            "line": row["line"],
            "time_s": row["time"] - begin,
            "text": row["text"][:LINE_CHARACTERS],
        }
        for row in last.tail(LINES_SHOWN).iter_rows(named=True)
    ]
