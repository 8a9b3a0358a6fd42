"""The columns of a run as polars frames.

Times are seconds since the epoch, null where a station was not passed. ``row`` is the number of a task in the order of
submission, and joins attempts and waits to tasks.
"""

from __future__ import annotations

from array import array

import polars as pl

from pilotage.model.ids import PilotUid
from pilotage.model.resources import BLOCK_MIB, GPU_SHARES
from pilotage.trace.run import STATIONS, PilotTrace, Run

GROUP_DIGITS = r"\d+"
"""What is folded in the names of tasks, so that those that differ in a number are one group."""


def task_frame(run: Run) -> pl.DataFrame:
    """One row a task: who it is, what it asked for, its stations, and how it ended.

    ``state`` is the one it had reached when the logs were read; ``group`` its name with numbers folded, or its kind if it has
    no name.
    """
    tasks = run.tasks
    frame = pl.DataFrame(
        [
            pl.Series("row", range(len(tasks)), pl.UInt32),
            pl.Series("uid", tasks.uid, pl.String),
            pl.Series("name", tasks.name, pl.String),
            pl.Series("kind", tasks.kind, pl.String),
            pl.Series("state", [tasks.state(row) for row in range(len(tasks))], pl.String),
            pl.Series("aside", [tasks.aside.get(row) for row in range(len(tasks))], pl.String),
            pl.Series("pilot", tasks.pilot, pl.String),
            _integers("cores", tasks.cores),
            _numbers("gpus", tasks.gpus),
            _integers("ranks", tasks.ranks),
            _integers("memory_mib", tasks.memory_mib),
            _integers("node", tasks.node),
            _integers("attempt", tasks.attempt),
            *(_times(station, getattr(tasks, station)) for station in STATIONS),
            pl.Series("ending", [None if ending is None else ending.name for ending in tasks.ending], pl.String),
            pl.Series("exit_code", tasks.exit_code, pl.Int64),
            pl.Series("message", tasks.message, pl.String),
            pl.Series("error_line", tasks.error_line, pl.String),
        ]
    )
    named = pl.when(pl.col("name") == "").then(pl.col("kind")).otherwise(pl.col("name").str.replace_all(GROUP_DIGITS, "#"))
    return frame.with_columns(group=named)


def attempt_frame(run: Run, tasks: pl.DataFrame) -> pl.DataFrame:
    """One row an attempt, in the order of launches; ``ending`` is ``REPEATED`` for one that another followed.

    A task that began and of which no agent's log tells has one row from its outcome, with ``lane`` null and ``runner`` empty.
    """
    columns = {
        "row": pl.UInt32,
        "pilot": pl.String,
        "lane": pl.Int64,
        "runner": pl.String,
        "node": pl.Int64,
        "cores": pl.Int64,
        "gpus": pl.Float64,
        "launched": pl.Float64,
        "started": pl.Float64,
        "ended": pl.Float64,
    }
    parts = [pl.DataFrame(schema=columns)]
    for pilot in run.pilots.values():
        made = pilot.attempts
        frame = pl.DataFrame(
            [
                _integers("row", made.task).cast(pl.UInt32),
                _integers("lane", made.lane),
                _times("launched", made.launched),
                _times("started", made.started),
                _times("ended", made.ended),
            ]
        )
        where = lane_frame(pilot)[frame["lane"]].select("pilot", "runner", "node", "cores", "gpus")
        parts.append(frame.hstack(where).select(*columns))
    known = pl.concat(parts)
    untold = tasks.filter(pl.col("started").is_not_null()).join(known, on="row", how="anti")
    untold = untold.with_columns(lane=pl.lit(None, pl.Int64), runner=pl.lit("")).select(*columns)
    of_task = tasks.select("row", "kind", "group", "ending", task="uid")
    made_all = pl.concat([known, untold]).sort("launched", "started", maintain_order=True).join(of_task, on="row", how="left")
    last = pl.col("row").is_last_distinct()
    return made_all.with_columns(ending=pl.when(last).then(pl.col("ending")).otherwise(pl.lit("REPEATED")))


def lane_frame(pilot: PilotTrace) -> pl.DataFrame:
    """One row a lane of one pilot; ``lane`` is its number among them."""
    lanes = pilot.lanes
    return pl.DataFrame(
        [
            pl.Series("lane", range(len(lanes)), pl.Int64),
            pl.Series("pilot", [pilot.uid] * len(lanes), pl.String),
            pl.Series("runner", lanes.runner, pl.String),
            _integers("node", lanes.node),
            pl.Series("nodes", lanes.nodes, pl.Int64),
            _integers("cores", lanes.cores),
            _integers("gpus", lanes.gpu_shares) / GPU_SHARES,
            _times("opened", lanes.opened),
            _times("closed", lanes.closed),
        ]
    )


def all_lanes(run: Run) -> pl.DataFrame:
    """One row a lane, pilot by pilot."""
    return pl.concat([lane_frame(pilot) for pilot in (*run.pilots.values(), PilotTrace(PilotUid("")))])


def wait_frame(run: Run, tasks: pl.DataFrame) -> pl.DataFrame:
    """One row for each time that a task waited at a pilot for resources, with what it asked for."""
    parts = [pl.DataFrame(schema={"row": pl.UInt32, "pilot": pl.String, "since": pl.Float64, "until": pl.Float64})]
    for pilot in run.pilots.values():
        waits = pilot.waits
        frame = pl.DataFrame(
            [
                _integers("row", waits.task).cast(pl.UInt32),
                pl.Series("pilot", [pilot.uid] * len(waits), pl.String),
                _times("since", waits.since),
                _times("until", waits.until),
            ]
        )
        parts.append(frame)
    asked = tasks.select("row", "cores", "gpus", "ranks", "memory_mib", "kind", "group", task="uid")
    return pl.concat(parts).join(asked, on="row", how="left")


def pilot_frame(run: Run) -> pl.DataFrame:
    """One row a pilot. ``begin`` and ``end``: while it held its resources, as far as the logs know."""
    pilots = list(run.pilots.values())
    return pl.DataFrame(
        [
            pl.Series("pilot", [pilot.uid for pilot in pilots], pl.String),
            pl.Series("resource", [pilot.resource for pilot in pilots], pl.String),
            pl.Series("state", [pilot.state for pilot in pilots], pl.String),
            pl.Series("reason", [pilot.reason for pilot in pilots], pl.String),
            pl.Series("nodes", [len(pilot.nodes) for pilot in pilots], pl.Int64),
            pl.Series("cores", [pilot.cores for pilot in pilots], pl.Int64),
            pl.Series("gpus", [pilot.gpus for pilot in pilots], pl.Int64),
            *(
                _times(station, array("d", [getattr(pilot, station) for pilot in pilots]))
                for station in ("submitted", "launched", "ready", "active", "ending", "ended", "final", "begin", "end")
            ),
        ]
    )


def runner_frame(run: Run) -> pl.DataFrame:
    """One row a spawner or function worker. ``identified``: it had said hello."""
    rows = [(pilot.uid, runner) for pilot in run.pilots.values() for runner in pilot.runners.values()]
    return pl.DataFrame(
        [
            pl.Series("pilot", [uid for uid, _ in rows], pl.String),
            pl.Series("runner", [runner.uid for _, runner in rows], pl.String),
            pl.Series("node", [runner.node for _, runner in rows], pl.Int64),
            *(
                _times(station, array("d", [getattr(runner, station) for _, runner in rows]))
                for station in ("added", "identified", "removed")
            ),
            pl.Series("reason", [runner.reason for _, runner in rows], pl.String),
        ]
    )


def node_frame(run: Run) -> pl.DataFrame:
    """One row a node of a pilot; ``memory_mib`` is what tasks may ask for of it."""
    rows = [(pilot.uid, node) for pilot in run.pilots.values() for node in pilot.nodes]
    return pl.DataFrame(
        [
            pl.Series("pilot", [uid for uid, _ in rows], pl.String),
            pl.Series("node", [node.index for _, node in rows], pl.Int64),
            pl.Series("name", [node.name for _, node in rows], pl.String),
            pl.Series("cores", [node.shape.cores for _, node in rows], pl.Int64),
            pl.Series("gpus", [node.shape.gpus for _, node in rows], pl.Int64),
            pl.Series("memory_mib", [node.shape.memory * BLOCK_MIB for _, node in rows], pl.Int64),
        ]
    )


def _numbers(name: str, values: array[float]) -> pl.Series:
    return pl.Series(name, values, pl.Float64)


def _integers(name: str, values: array[int]) -> pl.Series:
    return pl.Series(name, values, pl.Int64)


def _times(name: str, values: array[float]) -> pl.Series:
    """A column of times, null where a station was not passed."""
    series = _numbers(name, values)
    return series.set(series == 0.0, None)
