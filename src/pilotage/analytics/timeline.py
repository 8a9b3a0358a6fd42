"""Which task was on which core when; and how busy each part of the machine was, where there are too many to tell one by one.

A row is a core on a small machine, a node on a larger one, and several nodes on the largest, so that there are never more than
``MOST_ROWS``. On a small machine with few tasks each stay of a task is a bar; otherwise each row has its busy share in each of
``INTERVALS`` equal intervals. GPUs have rows of their own, told by their busy share, if any task asked for one.
"""

from __future__ import annotations

import msgspec
import polars as pl

from pilotage.analytics.session import Session
from pilotage.analytics.spans import mean_concurrency
from pilotage.model.resources import GPU_SHARES, NodeShare, core_indices
from pilotage.trace.run import PilotTrace
from pilotage.trace.usage import Resource

MOST_ROWS = 64
MOST_BARS = 2500
INTERVALS = 300


class Bar(msgspec.Struct, frozen=True, array_like=True):
    """A stay of a task on neighbouring cores: ``rows`` of them from ``row`` on. Seconds from the begin of the session."""

    row: int
    rows: int
    begin_s: float
    end_s: float
    task: str
    group: int
    """Place in ``Timeline.groups``."""
    ending: str


class TimelineRow(msgspec.Struct, frozen=True):
    """A core, a node or several nodes (or GPUs). ``size``: how many cores or GPUs it stands for.

    ``busy`` is the mean share in which tasks ran while its pilot held it, ``tasks`` how many launches it saw. ``shares`` the
    same in each interval; empty where bars tell it.
    """

    label: str
    pilot: str
    size: int
    busy: float
    tasks: int
    shares: list[float]


class Timeline(msgspec.Struct, frozen=True):
    """``cores`` and ``gpus`` rows from top to bottom; ``at`` the edges of the intervals in seconds from the begin.

    ``unit``: what a row of cores stands for: core, node or nodes.
    """

    unit: str
    at: list[float]
    groups: list[str]
    cores: list[TimelineRow]
    gpus: list[TimelineRow]
    bars: list[Bar]


def timeline(session: Session) -> Timeline:
    """Return the timeline of a session's pilots."""
    pilots = [pilot for uid in session.pilots["pilot"] if (pilot := session.run.pilots[uid]).nodes]
    length = max(session.end - session.begin, 1e-3)
    at = [length * place / INTERVALS for place in range(INTERVALS + 1)]
    begun = session.attempts.filter(pl.col("started").is_not_null(), pl.col("lane").is_not_null())
    begun = begun.with_columns(
        begin=pl.col("started") - session.begin,
        end=pl.max_horizontal(pl.col("ended").fill_null(session.end), "started") - session.begin,
    )
    groups = begun["group"].value_counts(sort=True)["group"].to_list()
    unit = _unit(sum(pilot.cores for pilot in pilots), sum(len(pilot.nodes) for pilot in pilots))
    as_bars = unit == "core" and begun.height <= MOST_BARS
    cores = _rows(session, pilots, begun, at, "cores", unit, told=not as_bars)
    # A pilot of which no task took a GPU needs no rows to say so.
    with_gpus = [pilot for pilot in pilots if any(pilot.lanes.gpu_shares)]
    gpu_unit = _unit(sum(pilot.gpus for pilot in with_gpus), sum(len(pilot.nodes) for pilot in with_gpus))
    gpus = _rows(session, with_gpus, begun, at, "gpus", gpu_unit, told=True)
    bars = _bars(pilots, begun, groups) if as_bars else []
    return Timeline(unit, at, groups, cores, gpus, bars)


def _unit(parts: int, nodes: int) -> str:
    return "core" if parts <= MOST_ROWS else "node" if nodes <= MOST_ROWS else "nodes"


def _rows(
    session: Session, pilots: list[PilotTrace], begun: pl.DataFrame, at: list[float], of: Resource, unit: str, *, told: bool
) -> list[TimelineRow]:
    made: list[TimelineRow] = []
    together = -(-sum(len(pilot.nodes) for pilot in pilots) // MOST_ROWS) if unit == "nodes" else 1
    for pilot in pilots:
        places = _Places(pilot, of, unit, together)
        shares = [(lane, *place) for lane, placement in enumerate(pilot.lanes.placement) for place in places.of(placement)]
        columns = {"lane": pl.Int64, "place": pl.Int64, "weight": pl.Float64}
        weights = pl.DataFrame(shares, schema=columns, orient="row").group_by("lane", "place").agg(pl.col("weight").sum())
        stays = begun.filter(pl.col("pilot") == pilot.uid).join(weights, on="lane", how="inner")
        by_place = {int(part["place"][0]): part for part in stays.partition_by("place")}
        for place, (label, size) in enumerate(places.labels):
            found = by_place.get(place, stays.clear())
            held = (pilot.end - pilot.begin) * size
            spent = float(((found["end"] - found["begin"]) * found["weight"]).sum())
            each = mean_concurrency(found["begin"], found["end"], at, found["weight"]) if told else []
            busy = [round(min(share / size, 1.0), 4) for share in each]
            name = label if session.pilots.height == 1 else f"{pilot.uid} {label}"
            made.append(TimelineRow(name, pilot.uid, size, min(spent / held, 1.0) if held else 0.0, found.height, busy))
    return made


class _Places:
    """The rows of one pilot, and where in them a placement lies. ``labels``: of each row, with how much it stands for."""

    def __init__(self, pilot: PilotTrace, of: Resource, unit: str, together: int) -> None:
        self._of = of
        self._single = unit == "core"
        self._first: dict[int, int] = {}
        """The row of the first core of a node, or of the node."""
        self.labels: list[tuple[str, int]] = []
        noun = "core" if of == "cores" else "GPU"
        for first in range(0, len(pilot.nodes), together):
            nodes = pilot.nodes[first : first + together]
            self._first.update({node.index: len(self.labels) for node in nodes})
            sizes = [node.shape.cores if of == "cores" else node.shape.gpus for node in nodes]
            name = nodes[0].name if len(nodes) == 1 else f"{nodes[0].name} to {nodes[-1].name}"
            if self._single:
                self.labels += [(f"{name} {noun} {place}", 1) for place in range(sizes[0])]
            elif sum(sizes):
                self.labels.append((name, sum(sizes)))

    def of(self, placement: tuple[NodeShare, ...]) -> list[tuple[int, float]]:
        """Return the rows that a placement takes of, with how much: cores, or GPUs."""
        found: list[tuple[int, float]] = []
        for share in placement:
            first = self._first.get(share.node)
            if first is None:
                continue
            if self._of == "gpus":
                found += [(first + gpu if self._single else first, taken / GPU_SHARES) for gpu, taken in share.gpus]
            elif self._single:
                found += [(first + core, 1.0) for core in core_indices(share.cores)]
            else:
                found.append((first, float(int.from_bytes(share.cores, "little").bit_count())))
        return found


def _bars(pilots: list[PilotTrace], begun: pl.DataFrame, groups: list[str]) -> list[Bar]:
    bars: list[Bar] = []
    number = {group: place for place, group in enumerate(groups)}
    above = 0
    for pilot in pilots:
        places = _Places(pilot, "cores", "core", 1)
        pieces = [_neighbours([row for row, _ in places.of(placement)]) for placement in pilot.lanes.placement]
        wanted = begun.filter(pl.col("pilot") == pilot.uid).select("lane", "begin", "end", "task", "group", "ending")
        for lane, begin, end, task, group, ending in wanted.iter_rows():
            for row, rows in pieces[lane]:
                bars.append(Bar(above + row, rows, round(begin, 6), round(end, 6), task, number[group], ending or ""))
        above += len(places.labels)
    return bars


def _neighbours(rows: list[int]) -> list[tuple[int, int]]:
    """Return runs of numbers that follow one another as (first, how many).

    >>> _neighbours([3, 4, 5, 9])
    [(3, 3), (9, 1)]
    """
    runs: list[tuple[int, int]] = []
    for row in sorted(rows):
        if runs and runs[-1][0] + runs[-1][1] == row:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((row, 1))
    return runs
