"""Making sure that nothing of a partition runs on any node of a cluster any more, when its agent is gone.

Hosts look for their agent where they have found it before, and find this in its place: who comes is told to end all, and says
so when it has. One that does not come, as its node is down or it died before, has ended by its own rule after a while without
an agent, and so has all that it ran. But of one that did come, and does not say that it has ended, that is not so: it lives, or
lived just now.
"""

from __future__ import annotations

from pathlib import Path

from pilotage.agent.found_nodes import read_found
from pilotage.agent.on_cluster import launchers_of, open_lobby, runner_settings, starter_of
from pilotage.agent.recovery import recover_state
from pilotage.agent.settings import LOG_FOLDER, PilotSettings
from pilotage.errors import BackendError, LogCorrupted
from pilotage.executors.cluster import MARGIN_S
from pilotage.executors.left_steps import end_steps_of
from pilotage.executors.lobby import ORPHAN_TIMEOUT_S

GONE_S = ORPHAN_TIMEOUT_S + MARGIN_S
"""Hosts that nobody has let in for so long are gone, and so are their runners."""

_GRACE_S = 5.0
_STEPS_S = 10.0


def end_partition_hosts(settings: PilotSettings, patience_s: float = GONE_S) -> None:
    """End the hosts of a partition, and what they run; ``settings`` are those of its agent, which is gone and comes no more.

    Raises:
        BackendError: hosts are not known to be gone: they have come and did not end, or not come while ``patience_s`` is less
            than ``GONE_S``.
    """
    found = read_found(Path(settings.pilot_folder))
    if found is None or found.alone:
        return
    try:
        state, _ = recover_state(settings.agent_folder / LOG_FOLDER)
        spawners = {name: runner.node for name, runner in state.runners.items() if runner.beside is None}
        names = {found.nodes[runner.node].node.name for runner in state.runners.values()}
    except LogCorrupted:
        spawners, names = {}, {shaped.node.name for shaped in found.nodes}
    lobby = open_lobby(settings, [shaped.node.name for shaped in found.nodes])
    try:
        left = lobby.end_hosts(names, _GRACE_S, patience_s)
    finally:
        lobby.close()
    starter_of(settings, found.job, found.gpus_per_node).end()
    launchers = launchers_of(settings)
    for name, node in spawners.items():
        end_steps_of(runner_settings(settings, found.nodes, node, launchers, 0.0), name, _STEPS_S)
    unsure = left.ending | (left.silent if patience_s < GONE_S else frozenset())
    if unsure:
        raise BackendError(f"hosts of partition {settings.partition} are not known to be gone: {', '.join(sorted(unsure))}")
