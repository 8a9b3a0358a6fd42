"""A session to ask questions of: what happened, when, how fast, how much of the machine it used.

The names are those that users of RADICAL-Analytics know, where there is such a name: ``filter``, ``ranges``, ``durations``,
``timestamps``, ``concurrency``, ``rate``, ``utilization``, ``consistency``. Answers are polars frames. Times are seconds since
the epoch in the client's time; subtract ``begin`` to count from the start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Literal

import polars as pl

from pilotage.analytics import consistency, frames, parts
from pilotage.analytics.components import components
from pilotage.analytics.failures import failures
from pilotage.analytics.figures import Figures, Overhead, StageTimes, figures, overheads, stage_times
from pilotage.analytics.idle_tail import IdleTail, idle_tail
from pilotage.analytics.printed import printed_lines
from pilotage.analytics.spans import (
    STAGES,
    Stage,
    collapse,
    edges,
    mean_concurrency,
    nice_interval,
    per_second,
    spans,
    stage_named,
    station_named,
)
from pilotage.client.session_folder import sessions_folder
from pilotage.errors import InvalidRequest, nearest
from pilotage.trace.clocks import ClockOffset, synchronise
from pilotage.trace.events import read_events
from pilotage.trace.reader import read_session
from pilotage.trace.run import Run
from pilotage.trace.usage import RUNNING, CoreTime, Resource, core_time

CHOSEN = "chosen"
OTHERS = "others"
"""How running time is labelled where a filter divides the tasks."""

BINS = 240
"""Equal intervals into which core-time is divided, unless told otherwise."""

PER = ("pilot", "runner", "node", "kind", "group")
"""By what figures over time can be told apart."""

Weight = Literal["tasks", "cores", "gpus"]


class _Frames:
    """The frames of a run, each made when it is first asked for."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def tasks(self) -> pl.DataFrame:
        return frames.task_frame(self.run)

    @cached_property
    def attempts(self) -> pl.DataFrame:
        return frames.attempt_frame(self.run, self.tasks)

    @cached_property
    def waits(self) -> pl.DataFrame:
        return frames.wait_frame(self.run, self.tasks)

    @cached_property
    def lanes(self) -> pl.DataFrame:
        return frames.all_lanes(self.run)

    @cached_property
    def pilots(self) -> pl.DataFrame:
        return frames.pilot_frame(self.run)

    @cached_property
    def runners(self) -> pl.DataFrame:
        return frames.runner_frame(self.run)

    @cached_property
    def nodes(self) -> pl.DataFrame:
        return frames.node_frame(self.run)


class Session:
    """The trace of a session, or of those of its tasks that ``filter`` chose.

    ``offsets`` are those by which clocks were brought together, if they were.
    """

    def __init__(self, run: Run, offsets: Sequence[ClockOffset] = ()) -> None:
        self.run = run
        self.offsets = list(offsets)
        self._frames = _Frames(run)
        self._chosen: pl.DataFrame | None = None
        self._pilots = list(run.pilots)
        self._books: dict[tuple[object, ...], CoreTime] = {}

    @classmethod
    def read(cls, source: str | os.PathLike[str]) -> Session:
        """Read what the logs tell of a session, as of now: ``source`` is its folder, or its uid in the folder of sessions.

        Never raises for what the logs lack: ``remarks`` tells of it.

        Raises:
            InvalidRequest: there is no such session.
        """
        folder = Path(source).expanduser()
        if not folder.is_dir():
            base = sessions_folder()
            folder = base / os.fspath(source)
            if not folder.is_dir():
                known = [entry.name for entry in base.iterdir()] if base.is_dir() else []
                hint = nearest(os.fspath(source), known)
                raise InvalidRequest(f"there is no folder {os.fspath(source)!r} and no session of this uid in {base}{hint}")
        run = read_session(folder.absolute())
        return cls(run, synchronise(run))

    # ------------------------------------------------------------------------------------------------- what there is

    @property
    def uid(self) -> str:
        """The session's uid: the name of its folder."""
        return self.run.folder.name

    @property
    def remarks(self) -> list[str]:
        """What could not be read, or was not as it should be."""
        return self.run.remarks

    @cached_property
    def begin(self) -> float:
        """When the first pilot took its resources, or the first task was submitted; 0.0 if nothing ever was."""
        tasks = self._frames.tasks
        known = [self.run.pilots[uid].begin for uid in self._pilots if self.run.pilots[uid].begin]
        known += [time for time in (tasks["submitted"].min(), tasks["accepted"].min()) if isinstance(time, float)]
        return min(known, default=self.run.opened)

    @cached_property
    def end(self) -> float:
        """The last time that the logs tell of pilots and tasks: for what is not over, it is now."""
        tasks = self._frames.tasks
        known = [self.run.pilots[uid].end for uid in self._pilots]
        known += [time for name in ("submitted", "ended", "final") if isinstance(time := tasks[name].max(), float)]
        return max(known, default=self.begin)

    @property
    def has_gpus(self) -> bool:
        """Whether there are GPUs in any of the pilots."""
        return any(self.run.pilots[uid].gpus for uid in self._pilots)

    @property
    def tasks(self) -> pl.DataFrame:
        """One row a task."""
        return self._frames.tasks if self._chosen is None else self._chosen

    @cached_property
    def attempts(self) -> pl.DataFrame:
        """One row a launch of a task, with where it was launched; a repeated one has the ending ``REPEATED``."""
        return self._of_chosen(self._frames.attempts)

    @cached_property
    def waits(self) -> pl.DataFrame:
        """One row a wait of a task for resources."""
        return self._of_chosen(self._frames.waits)

    @property
    def lanes(self) -> pl.DataFrame:
        """One row a placement, of one task or of a chain of short ones; of all tasks, whatever was chosen."""
        return self._frames.lanes.filter(pl.col("pilot").is_in(self._pilots))

    @property
    def pilots(self) -> pl.DataFrame:
        """One row a pilot."""
        return self._frames.pilots.filter(pl.col("pilot").is_in(self._pilots))

    @property
    def runners(self) -> pl.DataFrame:
        """One row a spawner or function worker."""
        return self._frames.runners.filter(pl.col("pilot").is_in(self._pilots))

    @property
    def nodes(self) -> pl.DataFrame:
        """One row a node of a pilot."""
        return self._frames.nodes.filter(pl.col("pilot").is_in(self._pilots))

    def events(self) -> pl.DataFrame:
        """Return all events of the session: ``time`` (by the clock that wrote it), ``name`` and ``entity``."""
        rows = [(event.time, event.name, event.entity) for event in read_events(self.run.folder)]
        return pl.DataFrame(rows, schema={"time": pl.Float64, "name": pl.String, "entity": pl.String}, orient="row")

    def filter(
        self,
        *,
        uid: str | Collection[str] | None = None,
        name: str | Collection[str] | None = None,
        group: str | Collection[str] | None = None,
        kind: str | Collection[str] | None = None,
        state: str | Collection[str] | None = None,
        ending: str | Collection[str] | None = None,
        pilot: str | Collection[str] | None = None,
    ) -> Session:
        """Return the session with those tasks alone that meet all conditions; of each, any value will do.

        Values of ``uid``, ``name`` and ``group`` are shell patterns. ``pilot`` also leaves out the other pilots' resources.
        """
        tasks = self.tasks
        for column, wanted in (("uid", uid), ("name", name), ("group", group)):
            if wanted is not None:
                patterns = _values(wanted)
                matching = [each for each in tasks[column].unique() if any(fnmatchcase(each, one) for one in patterns)]
                tasks = tasks.filter(pl.col(column).is_in(matching))
        for column, wanted in (("kind", kind), ("state", state), ("ending", ending), ("pilot", pilot)):
            if wanted is not None:
                tasks = tasks.filter(pl.col(column).is_in(_values(wanted)))
        found = Session(self.run, self.offsets)
        found._frames, found._chosen = self._frames, tasks
        found._pilots = [each for each in self._pilots if pilot is None or each in _values(pilot)]
        return found

    # ------------------------------------------------------------------------------------------------- times and lengths

    def timestamps(self, station: str) -> pl.Series:
        """Return when tasks passed a station, in order; each launch, start and end counts where a task ran again."""
        name = station_named(station)
        table = self.attempts if name in ("launched", "started", "ended") else self.tasks
        times: pl.Series = table[name].drop_nulls().sort()
        return times

    def durations(self, source: str, target: str) -> pl.Series:
        """Return how long tasks took from one station to another, in seconds, for those that passed both."""
        first, last = station_named(source), station_named(target)
        both = self.tasks.select(source=first, target=last).drop_nulls()
        lengths: pl.Series = (both["target"] - both["source"]).alias("duration")
        return lengths

    def ranges(self, stage: str, *, collapsed: bool = False) -> pl.DataFrame:
        """Return when tasks were in a stage: one row a stay, with ``begin`` and ``end``; what is not over ends at ``end``.

        ``collapsed``: only when there was at least one, without saying which.
        """
        found = self._spans(stage_named(stage))
        return collapse(found) if collapsed else found

    def duration(self, stage: str) -> float:
        """Return for how many seconds at least one task was in a stage."""
        merged = self.ranges(stage, collapsed=True)
        return float((merged["end"] - merged["begin"]).sum())

    def stages(self) -> list[StageTimes]:
        """Return how long tasks were in each stage, of the stays that are over."""
        return stage_times({stage.name: self.over(stage.name) for stage in STAGES})

    def over(self, stage: str) -> pl.DataFrame:
        """Return the ranges of a stage that are over."""
        return self._spans(stage_named(stage), over=True)

    # ------------------------------------------------------------------------------------------------- over time

    def concurrency(
        self, stage: str = "running", interval_s: float | None = None, *, per: str | None = None, weight: Weight = "tasks"
    ) -> pl.DataFrame:
        """Return how many tasks were in a stage, as the mean of each interval: ``time`` (its begin) and ``count``.

        ``per``: for each pilot, runner, node, kind or group apart, in a column of this name. ``weight``: count their cores or
        GPUs. ``interval_s``: by default some 200 intervals.
        """
        at = self.intervals(interval_s)
        weighs = None if weight == "tasks" else weight

        def count(found: pl.DataFrame) -> list[float]:
            return mean_concurrency(found["begin"], found["end"], at, found[weighs] if weighs else None)

        found = self.ranges(stage)
        if per is not None and per not in PER:
            raise InvalidRequest(f"concurrency is not known per {per!r}; give one of {', '.join(PER)}")
        return _over_time(found, at, per, "count", count)

    def rate(self, station: str = "ended", interval_s: float | None = None, *, per: str | None = None) -> pl.DataFrame:
        """Return how many tasks passed a station per second in each interval: ``time`` (its begin) and ``rate``.

        ``per`` and ``interval_s`` as in ``concurrency``; by runner only what runners do: launched, started, ended.
        """
        at = self.intervals(interval_s)
        name = station_named(station)
        table = self.attempts if name in ("launched", "started", "ended") else self.tasks
        known = [each for each in PER if each in table.columns]
        if per is not None and per not in known:
            raise InvalidRequest(f"the rate of {name!r} is not known per {per!r}; give one of {', '.join(known)}")
        passed = table.filter(pl.col(name).is_not_null())
        return _over_time(passed, at, per, "rate", lambda found: per_second(found[name], at))

    def intervals(self, interval_s: float | None = None) -> list[float]:
        """Return the edges of the intervals that cover the session.

        Raises:
            InvalidRequest: they have no length, or there would be more than a million.
        """
        length = self.end - self.begin
        interval_s = nice_interval(length) if interval_s is None else interval_s
        if interval_s <= 0 or length / interval_s > 1e6:
            raise InvalidRequest(f"interval_s={interval_s:g} for a session of {length:g} s; give at least {length / 1e6:g}")
        return edges(self.begin, self.end, interval_s)

    # ------------------------------------------------------------------------------------------------- resources

    def utilization(
        self, of: Resource = "cores", *, scheme: str = parts.STATES_SCHEME, by: str | None = None, per_pilot: bool = False
    ) -> pl.DataFrame:
        """Return where core-time (or GPU-time) went: ``part``, ``core_s`` (``gpu_s``) and ``share`` of what pilots held.

        ``scheme``: into which parts it is divided, see ``analytics.parts``. ``by``: divide the running part further, by a
        column of tasks such as kind or group. Where tasks were filtered it is divided into theirs and that of others.
        """
        table = parts.scheme_named(scheme)
        if not per_pilot:
            return parts.totals(self.core_time(of, by=by), of, table)
        each = [
            parts.totals(self.core_time(of, by=by, pilot=uid), of, table).select(pl.lit(uid).alias("pilot"), pl.all())
            for uid in self._pilots
        ]
        return pl.concat(each, how="vertical")

    def utilization_over_time(
        self, of: Resource = "cores", *, scheme: str = parts.STATES_SCHEME, by: str | None = None, bins: int = BINS
    ) -> pl.DataFrame:
        """Return how many cores (GPUs) were in which part in each of ``bins`` equal intervals: ``time`` and a column a part."""
        return parts.over_time(self.core_time(of, by=by, bins=bins), of, parts.scheme_named(scheme))

    def core_time(
        self, of: Resource = "cores", *, by: str | None = None, pilot: str | None = None, bins: int = BINS
    ) -> CoreTime:
        """Return the books of core-time (GPU-time in 64ths), which are exact to the microsecond; they are kept for later."""
        key = (of, by, pilot, bins)
        if key not in self._books:
            pilots = self._pilots if pilot is None else [pilot]
            self._books[key] = core_time(self.run, pilots, of=of, labels=self._labels(by), bins=bins)
        return self._books[key]

    def _labels(self, by: str | None) -> list[str] | None:
        if self._chosen is None:
            return self.tasks[by].to_list() if by is not None else None
        labels = [OTHERS] * len(self.run.tasks)
        for row, label in self.tasks.select("row", by if by is not None else pl.lit(CHOSEN)).iter_rows():
            labels[row] = label
        return labels

    # ------------------------------------------------------------------------------------------------- in a few numbers

    def figures(self) -> Figures:
        """Return the figures that papers report."""
        # GPUs that nobody asked for are unused without looking.
        asked = float(self.tasks["gpus"].sum()) > 0
        gpus = None if not self.has_gpus else _used(self.core_time("gpus")) if asked else 0.0
        cores = self.core_time()
        return figures(self.tasks, self.attempts, cores, _used(cores), gpus, self.idle_tail().core_s, self.end)

    def idle_tail(self) -> IdleTail:
        """Return what nodes were held for after their last use: what could have been given back sooner."""
        return idle_tail(self.run.pilots.values())

    def overheads(self) -> list[Overhead]:
        """Return what is paid besides the tasks, by kind; of a session of null tasks that is all of it."""
        return overheads(self.pilots, self.runners, {stage.name: self.over(stage.name) for stage in STAGES})

    def components(self) -> pl.DataFrame:
        """Return throughput and concurrency of each instance of each component: per pilot, per runner."""
        return components(self.ranges)

    def failures(self) -> pl.DataFrame:
        """Return the failed tasks by cause, the most frequent first, with the first message of each and a task to look at."""
        return failures(self.tasks)

    def consistency(self) -> pl.DataFrame:
        """Return what must hold of every trace, and how often it does not here."""
        return consistency.check(self.tasks, self.attempts, self.lanes, self.pilots)

    def printed(self, *, about: str | None = None, near: float | None = None, within_s: float = 5.0) -> pl.DataFrame:
        """Return lines that agents, spawners and workers printed: all, or those that belong to something.

        ``about``: lines that name this task, pilot or runner, and all lines of its own process. ``near``: only lines of this
        time, ``within_s`` seconds before or after. A task's own output is not among them.
        """
        lines = printed_lines(self.run.folder)
        if about is not None:
            names = pl.col("text").str.contains(about, literal=True)
            lines = lines.filter(names | (pl.col("pilot") == about) | (pl.col("process") == about))
        if near is not None:
            lines = lines.filter((pl.col("time") - near).abs() <= within_s)
        return lines

    def _of_chosen(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame if self._chosen is None else frame.join(self._chosen.select("row"), on="row", how="semi")

    def _spans(self, stage: Stage, *, over: bool = False) -> pl.DataFrame:
        return spans(stage, self.tasks, self.attempts, self.waits, None if over else self.end)


def _used(spent: CoreTime) -> float:
    """Return the share in which the tasks ran that were chosen."""
    return sum(spent.share(state) for state in spent.running if state != f"{RUNNING}: {OTHERS}")


def _values(wanted: str | Collection[str]) -> list[str]:
    return [wanted] if isinstance(wanted, str) else list(wanted)


def _over_time(
    found: pl.DataFrame, at: list[float], per: str | None, name: str, measure: Callable[[pl.DataFrame], list[float]]
) -> pl.DataFrame:
    if per is None:
        return pl.DataFrame({"time": at[:-1], name: pl.Series(measure(found), dtype=pl.Float64)})
    parts_of = found.sort(per, maintain_order=True).partition_by(per, maintain_order=True)
    each = [pl.DataFrame({"time": at[:-1], per: part[per][0], name: measure(part)}) for part in parts_of]
    return pl.concat(each or [pl.DataFrame(schema={"time": pl.Float64, per: found.schema[per], name: pl.Float64})])
