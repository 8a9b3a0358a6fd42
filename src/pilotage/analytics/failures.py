"""Failures by cause: messages in which only numbers, paths and names differ are one cause.

What is folded: uids and whatever else has digits in it becomes ``#``, a path of several parts becomes its last one (a missing
``/data/in17.dat`` and ``/data/in18.dat`` are ``in#.dat``; a missing ``in17.dat`` and a missing ``gromacs`` are two causes).
Exit codes are kept apart, as are the endings.
"""

from __future__ import annotations

import polars as pl

from pilotage.model.outcome import Ending
from pilotage.model.states import FAILED

FOLDED = (
    (r"0x[0-9a-fA-F]+", "#"),
    (r"(?:[\w.+~@%-]*/)+([\w.+~@%-]+)", "$1"),
    (r"\b[0-9a-f]{8,}\b", "#"),
    (r"(?:\B-)?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", "#"),
    (r"#(?:[-.:,_ ]*#)+", "#"),
)
"""Patterns and what stands for them, applied in this order."""

FAILURE_COLUMNS = (
    "cause",
    "ending",
    "count",
    "share",
    "first",
    "message",
    "error_line",
    "task",
    "group",
    "groups",
    "node",
    "nodes",
    "exit_code",
    "core_s",
)


def failures(tasks: pl.DataFrame) -> pl.DataFrame:
    """Return one row a cause, the most frequent first.

    ``first``: when the first task failed of it, ``task`` which that was and ``message``, ``error_line``, ``exit_code`` what it
    said; ``share`` of all failures; ``group`` (and ``node``) where it was seen most, out of ``groups`` (``nodes``);
    ``core_s`` what the failed tasks took.
    """
    failed = tasks.filter(pl.col("state") == FAILED)
    said = pl.col("message").str.contains(pl.col("error_line"), literal=True)
    told = pl.when(said).then(pl.col("message")).otherwise(pl.col("message") + ": " + pl.col("error_line"))
    took = (pl.col("ended") - pl.col("started")) * pl.col("cores")
    found = failed.with_columns(cause=_folded(told), when=pl.coalesce("ended", "collected", "final"), took=took.fill_null(0.0))
    seen = pl.col("node").filter(pl.col("node") >= 0)
    grouped = found.sort("when", "row").group_by("cause", "ending", "exit_code", maintain_order=True)
    causes = grouped.agg(
        count=pl.len().cast(pl.Int64),
        first=pl.col("when").first(),
        message=pl.col("message").first(),
        error_line=pl.col("error_line").first(),
        task=pl.col("uid").first(),
        group=pl.col("group").mode(maintain_order=True).first(),
        groups=pl.col("group").n_unique().cast(pl.Int64),
        node=seen.mode(maintain_order=True).first(),
        nodes=seen.n_unique().cast(pl.Int64),
        core_s=pl.col("took").sum(),
    )
    shares = causes.with_columns(share=pl.col("count") / max(1, failed.height))
    return shares.sort("count", descending=True, maintain_order=True).select(FAILURE_COLUMNS)


def _folded(message: pl.Expr) -> pl.Expr:
    for pattern, instead in FOLDED:
        message = message.str.replace_all(pattern, instead)
    return message


def normalise(message: str) -> str:
    """Return a message with what differs from task to task folded.

    >>> normalise("cannot open /scratch/run.17/in0042.dat: no such file (task.000123)")
    'cannot open in#.dat: no such file (task.#)'
    """
    folded = pl.select(_folded(pl.lit(message))).item()
    return str(folded)


MEANINGS = {
    Ending.EXITED.name: "a non-zero exit code",
    Ending.SIGNALLED.name: "ended by a signal",
    Ending.TIMED_OUT.name: "ran longer than its timeout",
    Ending.OUT_OF_MEMORY.name: "ended by the kernel for memory",
    Ending.NODE_FAILED.name: "its node or spawner was lost",
    Ending.PREEMPTED.name: "the allocation was taken back",
    Ending.LAUNCH_FAILED.name: "could not be started",
    Ending.STAGING_FAILED.name: "files could not be staged",
    Ending.RAISED.name: "the function raised",
    Ending.INFEASIBLE.name: "no resources can ever satisfy it",
    Ending.LOST.name: "no proof of what became of it",
    Ending.OUT_OF_WALLTIME.name: "the pilot's time was over before",
}
"""The endings that are failures, in words."""
