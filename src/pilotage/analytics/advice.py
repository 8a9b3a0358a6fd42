"""What could be done better next time, with the numbers that say so.

Each rule looks at one thing, says nothing below its threshold, and otherwise gives what was found (``headline``), the numbers
behind it (``reason``) and what to do (``remedy``). Those about lost work come first, then the rest by the core-time at stake.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal

import msgspec
import polars as pl

from pilotage.analytics.session import Session
from pilotage.analytics.spans import peak_concurrency
from pilotage.analytics.words import core_time, count, number, percent, time
from pilotage.model.outcome import Ending
from pilotage.model.states import CANCELED, FAILED
from pilotage.trace.usage import COLLECTING, IDLE, LAUNCHING, SCHEDULING, STARTUP

DOMINANT = 0.5
"""Share of all failures from which on one cause is named."""
FEW_FAILURES = 3
WORSE_NODE = 3.0
"""How many times as often as elsewhere tasks must fail on a node for it to be named."""
TELLING = 0.10
"""Share of core-time from which on it is worth a word."""
SHORT_S = 1.0
"""Tasks that run for less are looked at for what it costs to launch them."""
SMALL_PART = 0.6
"""A pilot of which never more than this share was in use was too large."""


class Advice(msgspec.Struct, frozen=True):
    """One piece of advice. ``stake_s``: the core-seconds that it is about, 0.0 if it is not about core-time."""

    level: Literal["problem", "hint", "fine"]
    headline: str
    reason: str
    remedy: str
    stake_s: float = 0.0


def advise(session: Session, *, live: bool = False) -> list[Advice]:
    """Return the advice that the numbers of a session give; a single ``fine`` if nothing stands out."""
    found = list(_Rules(session, live).all())
    order = {"problem": 0, "hint": 1, "fine": 2}
    return sorted(found, key=lambda advice: (order[advice.level], -advice.stake_s))


class _Rules:
    def __init__(self, session: Session, live: bool) -> None:
        self._session = session
        self._live = live
        self._figures = session.figures()
        self._books = session.core_time()
        self._held_s = self._books.held_ticks / 1e6

    def all(self) -> Iterator[Advice]:
        if not self._session.tasks.height:
            yield Advice("fine", "There is nothing to advise on yet", "The session has no tasks.", "Submit some.")
            return
        rules = (
            self._dominant_cause,
            self._bad_node,
            self._memory,
            self._timeouts,
            self._unfinished,
            self._repeated,
            self._startup,
            self._short_tasks,
            self._fragmented,
            self._tail,
            self._late_end,
            self._too_large,
            self._unused_gpus,
        )
        found = [advice for rule in rules if (advice := rule()) is not None]
        yield from found
        if not found:
            used, overhead, idle = (
                percent(share) for share in (self._figures.utilisation, self._figures.overhead, self._figures.idle)
            )
            reason = f"Tasks ran on {used} of the core-time; Pilotage took {overhead}, and {idle} was idle."
            yield Advice("fine", "Nothing stands out", reason, "Carry on.")

    # ------------------------------------------------------------------------------------------------- lost work

    def _dominant_cause(self) -> Advice | None:
        causes = self._session.failures()
        if not causes.height or self._figures.failed < FEW_FAILURES:
            return None
        top = causes.row(0, named=True)
        if top["share"] < DOMINANT:
            return None
        said = top["message"] if top["error_line"] in top["message"] else f"{top['message']}: {top['error_line']}"
        where = f"all of them {top['group']!r}" if top["groups"] == 1 else f"most of them {top['group']!r}"
        return Advice(
            "problem",
            f"One cause is behind {top['count']:,} of {self._figures.failed:,} failures",
            f"{said} ({top['ending']}; {where}; they took {core_time(top['core_s'])} of core-time).",
            f"Look at the first of them (pilotage task show -s {self._session.uid} {top['task']}), and mend that first.",
            top["core_s"],
        )

    def _bad_node(self) -> Advice | None:
        ran = self._session.tasks.filter(pl.col("node") >= 0, pl.col("ending").is_not_null(), pl.col("state") != CANCELED)
        nodes = ran.group_by("pilot", "node").agg(tasks=pl.len(), failed=(pl.col("state") == FAILED).sum())
        if nodes.height < 2:
            return None
        worst = nodes.sort("failed", descending=True).row(0, named=True)
        others_tasks = int(nodes["tasks"].sum()) - worst["tasks"]
        others_failed = int(nodes["failed"].sum()) - worst["failed"]
        here, elsewhere = worst["failed"] / worst["tasks"], others_failed / max(1, others_tasks)
        if worst["failed"] < FEW_FAILURES or here < WORSE_NODE * elsewhere or here < TELLING:
            return None
        node = self._session.nodes.filter(pl.col("pilot") == worst["pilot"], pl.col("node") == worst["node"])
        name = node["name"][0] if node.height else f"node {worst['node']}"
        return Advice(
            "problem",
            f"Tasks fail on {name} more than elsewhere",
            f"{worst['failed']:,} of the {worst['tasks']:,} tasks there failed ({percent(here)}); on the other nodes "
            f"{others_failed:,} of {others_tasks:,} ({percent(elsewhere)}).",
            "Have the node looked at, and leave it out of the next pilot; retries go to another node only if this one is full.",
        )

    def _memory(self) -> Advice | None:
        killed = self._session.tasks.filter(pl.col("ending") == Ending.OUT_OF_MEMORY.name)
        if not killed.height:
            return None
        asked = max(killed["memory_mib"].to_list())
        said = f"they asked for {asked:,} MiB at the most" if asked else "they asked for none, so none was set aside for them"
        return Advice(
            "problem",
            f"{count(killed.height, 'task')} ended for memory",
            f"The kernel ended {killed.row(0, named=True)['uid']}{' and others' if killed.height > 1 else ''}; {said}.",
            "Ask for what they need (mem_per_rank, in MB): fewer will run at a time, and none will be ended.",
            _core_seconds(killed),
        )

    def _timeouts(self) -> Advice | None:
        late = self._session.tasks.filter(pl.col("ending") == Ending.TIMED_OUT.name)
        if not late.height:
            return None
        took = (late["ended"] - late["started"]).median()
        good = self._session.tasks.filter(pl.col("ending") == Ending.DONE.name)
        usual = (good["ended"] - good["started"]).quantile(0.95)
        compared = f"; of those that were done 95 % needed less than {time(usual)}" if isinstance(usual, float) else ""
        reason = f"They were ended after {time(took)} (median){compared}." if isinstance(took, float) else "They never began."
        return Advice(
            "problem",
            f"{count(late.height, 'task')} ran out of time",
            reason,
            "Raise their timeout, or find out what they wait for.",
            _core_seconds(late),
        )

    def _unfinished(self) -> Advice | None:
        if self._live or not self._figures.unfinished:
            return None
        states = self._session.tasks.filter(pl.col("ending").is_null())["state"].value_counts(sort=True)
        told = ", ".join(f"{count:,} {state}" for state, count in states.iter_rows())
        return Advice(
            "problem",
            f"{count(self._figures.unfinished, 'task')} did not come to an end",
            f"The logs end with them in these states: {told}.",
            f"Go on with them: pilotage session resume {self._session.uid}.",
        )

    def _repeated(self) -> Advice | None:
        again = self._session.attempts.filter(pl.col("ending") == "REPEATED", pl.col("started").is_not_null())
        took = float(((again["ended"] - again["started"]) * again["cores"]).sum())
        if not again.height or took < TELLING * self._held_s:
            return None
        return Advice(
            "hint",
            f"{percent(took / self._held_s)} of the core-time went into attempts that had to be repeated",
            f"{count(again.height, 'attempt')} came to nothing.",
            "Let tasks that cannot succeed fail at once (retry_on), and those that can save their state.",
            took,
        )

    # ------------------------------------------------------------------------------------------------- lost core-time

    def _startup(self) -> Advice | None:
        share = self._books.share(STARTUP)
        if self._live or share < TELLING:
            return None
        took = self._session.pilots.select(pl.coalesce("active", "ready", "end") - pl.col("begin")).to_series().max()
        return Advice(
            "hint",
            f"Starting the pilot took {percent(share)} of its core-time",
            f"It was {time(took if isinstance(took, float) else 0.0)} until it took tasks, "
            f"and it lived for {time(self._session.end - self._session.begin)}.",
            "The run is short for a pilot: give it more tasks, or keep one pilot for several runs.",
            share * self._held_s,
        )

    @cached_property
    def _median_run_s(self) -> float:
        ran = self._session.over("running")
        median = (ran["end"] - ran["begin"]).median()
        return float(median) if isinstance(median, (int, float)) else 0.0

    def _short_tasks(self) -> Advice | None:
        states = (LAUNCHING, COLLECTING, SCHEDULING)
        share = sum(self._books.share(state) for state in states)
        if share < TELLING or self._median_run_s >= SHORT_S or self._figures.attempts < 100:
            return None
        each_s = share * self._held_s / self._figures.attempts
        kinds = self._session.tasks["kind"].value_counts(sort=True)["kind"].to_list()
        if kinds[0] == "function":
            remedy = "Let each call do more, such as a slice of the work."
        else:
            remedy = (
                "Let each task do more, or call them as functions (mode=TASK_FUNCTION), which costs far less than a process."
            )
        return Advice(
            "hint",
            "Tasks are short for what it costs to launch them",
            f"Half of them run for less than {time(self._median_run_s)}, and it took {core_time(each_s)} to schedule, launch "
            f"and collect each: {percent(share)} of all core-time.",
            remedy,
            share * self._held_s,
        )

    def _fragmented(self) -> Advice | None:
        share = self._books.share(SCHEDULING)
        waits = self._session.ranges("waiting")
        if share < TELLING or self._median_run_s < SHORT_S or not waits.height:
            return None
        length = waits["end"] - waits["begin"]
        total = float(length.sum()) or 1.0
        mean_cores = float((length * waits["cores"]).sum()) / total
        memory = self._memory_bound()
        gpu_share = float((length * (waits["gpus"] > 0)).sum()) / total
        wall_s = self._session.duration("waiting")
        free = share * self._held_s / wall_s if wall_s else 0.0
        if memory is not None:
            why, remedy = memory, "Ask for less memory per rank, or for nodes with more; the cores beside it stay free."
        elif gpu_share > DOMINANT:
            why = f"{percent(gpu_share)} of the waiting was for GPUs"
            remedy = (
                "GPUs are what is short: give tasks that need none to the free cores, or let several share one (gpus_per_rank)."
            )
        else:
            why = f"the tasks that waited asked for {number(mean_cores)} cores on average"
            remedy = "Choose sizes that divide a node's cores, or submit small tasks beside the large ones to fill the gaps."
        return Advice(
            "hint",
            f"{percent(share)} of the core-time was free while tasks waited",
            f"While tasks waited {number(free)} cores stood free on average; {why}.",
            remedy,
            share * self._held_s,
        )

    def _memory_bound(self) -> str | None:
        """Say so when what tasks ask of memory fills a node before their cores do."""
        nodes = self._session.nodes.filter(pl.col("memory_mib") > 0)
        waits = self._session.waits.filter(pl.col("memory_mib") > 0)
        if not nodes.height or waits.height < DOMINANT * self._session.waits.height:
            return None
        per_core = float(waits.select((pl.col("memory_mib") / pl.col("cores")).median()).item())
        has = float(nodes.select((pl.col("memory_mib") / pl.col("cores")).median()).item())
        if per_core <= has:
            return None
        return f"they ask for {per_core:,.0f} MiB of memory per core, and a node has {has:,.0f} MiB per core"

    def _tail(self) -> Advice | None:
        ran = self._session.ranges("running")
        if not ran.height or self._live:
            return None
        # The tail begins with the first core that is given back when nothing is left to be put on it.
        settled = max(_last(self._session.ranges("waiting")["end"]), _last(ran["begin"]))
        late = ran.filter(pl.col("end") > settled)
        if late.is_empty():
            return None
        since = min(late["end"].to_list())
        tail_s = _last(ran["end"]) - since
        spent = (pl.col("end") - pl.max_horizontal("begin", pl.lit(since))).clip(lower_bound=0.0) * pl.col("cores")
        lost = max(0.0, self._books.capacity * tail_s - float(late.select(spent).to_series().sum()))
        if lost < TELLING * self._held_s:
            return None
        last = ran.sort("end").row(-1, named=True)
        reason = (
            f"In the last {time(tail_s)} nothing waited any more and {number(lost / tail_s)} of {self._books.capacity:,} cores "
            f"were idle on average; the last task, {last['task']}, ran for {time(last['end'] - last['begin'])}, "
            f"half of all for less than {time(self._median_run_s)}."
        )
        remedy = "Submit the longest tasks first, or give them a higher priority; divide them if that can be done."
        idle = self._session.idle_tail()
        if idle.beside_core_s > lost / 2:
            reason += f" {count(idle.nodes, 'node')} had nothing left to do: {core_time(idle.beside_core_s)} of core-time."
            remedy += " Several smaller pilots with idle_timeout_s give back what they need no longer."
        return Advice("hint", f"{percent(lost / self._held_s)} of the core-time was lost to the tail", reason, remedy, lost)

    def _late_end(self) -> Advice | None:
        if self._live:
            return None
        lost = 0.0
        longest = 0.0
        ends = self._session.attempts.group_by("pilot").agg(pl.col("ended").max()).drop_nulls()
        last = dict(ends.iter_rows())
        for uid, end, cores in self._session.pilots.select("pilot", "end", "cores").iter_rows():
            if uid in last and end is not None:
                gap = max(0.0, end - last[uid])
                longest, lost = max(longest, gap), lost + gap * cores
        if lost < TELLING * self._held_s:
            return None
        return Advice(
            "hint",
            f"The pilot was held for {time(longest)} after its last task",
            f"That is {percent(lost / self._held_s)} of its core-time, in which nothing was left to run: {core_time(lost)}.",
            "Close the session, or cancel the pilot, when the last result is in, or give it an idle_timeout_s, after which it "
            "ends by itself; submit what comes next before that.",
            lost,
        )

    def _too_large(self) -> Advice | None:
        idle = self._books.share(IDLE)
        ran = self._session.ranges("running")
        most = peak_concurrency(ran["begin"], ran["end"], ran["cores"])
        if self._live or idle < 2 * TELLING or not self._books.capacity or most > SMALL_PART * self._books.capacity:
            return None
        return Advice(
            "hint",
            "The pilot was larger than what was asked of it",
            f"Never more than {most:,.0f} of {self._books.capacity:,} cores were in use at a time, and {percent(idle)} of the "
            "core-time was idle with no task waiting.",
            f"Ask for {most:,.0f} cores, or submit more tasks at a time.",
            idle * self._held_s,
        )

    def _unused_gpus(self) -> Advice | None:
        # On a machine of one's own nobody pays for them, and one that waits in a queue holds none.
        held = self._session.pilots.filter(~pl.col("resource").str.starts_with("local."), pl.col("active").is_not_null())
        gpus = int(held["gpus"].sum())
        if not gpus or float(self._session.tasks["gpus"].sum()) > 0:
            return None
        return Advice(
            "hint",
            f"The pilot held {count(gpus, 'GPU')} and no task asked for one",
            "GPUs that are held are billed, used or not.",
            "Ask for nodes without GPUs, or say what tasks need (gpus_per_rank).",
        )


def _last(times: pl.Series) -> float:
    found = times.max()
    return found if isinstance(found, float) else 0.0


def _core_seconds(tasks: pl.DataFrame) -> float:
    return float(((tasks["ended"] - tasks["started"]) * tasks["cores"]).sum())
