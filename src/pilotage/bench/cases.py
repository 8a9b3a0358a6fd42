"""The cases by name, in the order in which they are run."""

from __future__ import annotations

from collections.abc import Callable

from pilotage.bench import cluster, metascheduler, packing, scheduler
from pilotage.bench.components import components
from pilotage.bench.durability import durability
from pilotage.bench.environments import environments
from pilotage.bench.executables import executables
from pilotage.bench.functions import arguments, busy_client, functions, round_trip
from pilotage.bench.hooks import hooks
from pilotage.bench.launch_lines import launch_lines
from pilotage.bench.lifecycle import idle, start_and_close
from pilotage.bench.measure import Row
from pilotage.bench.mpi import mpi
from pilotage.bench.outputs import outputs
from pilotage.bench.partitions import partitions
from pilotage.bench.report import report
from pilotage.bench.scale import million, sleepers
from pilotage.bench.simulation import simulation
from pilotage.bench.staging import staging

CASES: dict[str, Callable[[bool], list[Row]]] = {
    "start": start_and_close,
    "idle": idle,
    "round-trip": round_trip,
    "functions": functions,
    "busy-client": busy_client,
    "arguments": arguments,
    "executables": executables,
    "outputs": outputs,
    "hooks": hooks,
    "environments": environments,
    "mpi": mpi,
    "launch-lines": launch_lines,
    "staging": staging,
    "components": components,
    "durability": durability,
    "report": report,
    "scheduler": scheduler.run,
    "packing": packing.run,
    "simulation": simulation,
    "metascheduler": metascheduler.run,
    "million": million,
    "sleepers": sleepers,
    "partitions": partitions,
}

CLUSTER_CASES: dict[str, Callable[[bool, str], list[Row]]] = {
    "cluster-start": cluster.start,
    "cluster-rates": cluster.rates,
    "cluster-launches": cluster.launches,
    "cluster-drain": cluster.drain,
}
"""Cases that need a platform with a batch system; its name is what they are given besides."""
