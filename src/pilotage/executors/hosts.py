"""What a pilot on several nodes needs to have a host on each of them: how hosts are started, and what each has to know.

A *host* is a process on a node (``pilotage.nodehost.main``, whose one argument is the agent's folder) that runs the tasks of
that node by a ``LocalExecutor``, for an agent on another. A ``HostStarter`` starts hosts, ``executors.lobby.HostLobby`` is
where they say hello, ``executors.cluster.ClusterExecutor`` works with them. In an agent's first life::

    lobby = HostLobby.open(agent_folder, session, pilot, names, addresses_here())
    starter.start(names)
    found = lobby.gather(names, timeout_s, stop)         # NodeFound by name, of those that came
    hosts = [HostSettings(name, runner_settings_of(name)) for name in found]
    executor = ClusterExecutor(lobby, starter, hosts, incarnation)

The agent after it does the same but for ``start`` and ``gather``: hosts look for it by themselves, and those that are gone are
started again by the executor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from pilotage.wire.runner_settings import RunnerSettings

HOST_MODULE = "pilotage.nodehost.main"
"""What a host runs, with the agent's folder as the one argument (see ``system.python.python_command``)."""

NODE_NAME = "PILOTAGE_NODE_NAME"
"""Tells a host the name of its node, where neither the batch system nor the hostname does."""


class HostSettings(msgspec.Struct, frozen=True):
    """A host: the name of its node, and the settings of its runners, whose ``host_nodes`` are the nodes that it serves.

    The number of a host is its place among those that a ``ClusterExecutor`` is given.
    """

    name: str
    settings: RunnerSettings

    @property
    def nodes(self) -> list[int]:
        """The indices of the nodes that are this host."""
        return self.settings.host_nodes or [node.index for node in self.settings.nodes]


class HostsEnded(NamedTuple):
    """The end of one step: none of the hosts on its ``nodes`` that it had started runs any more.

    ``output``: the last that the step printed, for people. ``all_gone``: nor does anything that these hosts had started, as
    the batch system ends what is left of a step; else runners may live, which end themselves or are found by another host.
    """

    nodes: tuple[str, ...]
    exit_code: int
    output: str
    all_gone: bool = False


class EndInquiry(Protocol):
    """Finds out whether the batch system ends the job, as hosts were told to end by others. All calls come from one thread."""

    def ask(self) -> None:
        """Begin to find out, unless it is known that the job ends; returns at once."""
        ...

    @property
    def answer(self) -> bool | None:
        """What came of the last ``ask``: whether the job ends; False, too, if that cannot be learned. None: nothing yet."""
        ...


class HostStarter(Protocol):
    """Starts hosts by steps of the batch system, or by whatever else reaches the nodes. All calls come from one thread.

    Steps that an earlier agent had started, and that still run, count as those of its starter do: ``end`` ends their hosts,
    too, if that can be done. Nothing has to be known of their end, as the executor looks for silent hosts itself.
    """

    def start(self, nodes: Sequence[str]) -> None:
        """Start a host on each of these nodes, by one step for all; may be called again for nodes whose host is gone.

        Returns at once. A host must not end because another one does.

        Raises:
            BackendError: the step cannot be started.
        """
        ...

    def fileno(self) -> int:
        """Return a descriptor that is readable while ``ended`` has something to tell; -1: there is none now.

        It may be another one after each call of ``start`` and ``ended``.
        """
        ...

    def ended(self) -> HostsEnded | None:
        """Return the next step that is over and was not told yet; None if there is none."""
        ...

    def end(self) -> None:
        """End all steps and hosts, and let go of all descriptors; waits at most seconds."""
        ...

    def leave(self) -> None:
        """In place of ``end``: let go of all descriptors as the death of the agent's process does. Hosts go on."""
        ...
