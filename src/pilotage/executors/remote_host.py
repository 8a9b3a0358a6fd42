"""What the agent knows of one host of its nodes: its runners, what it is still to be told, and what it cannot have heard yet.

Orders wait here until the next flush, or while there is no connection. They are counted over the agent's life. What was sent on
a connection that broke may have been lost: what became of it is told by the runners themselves, when they say hello to the
executor that the next connection begins with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from pilotage.executors.hosts import HostSettings
from pilotage.model.environments import EnvironmentDifference
from pilotage.model.execution import Execution, LaneTasks
from pilotage.model.ids import RunnerId, TemplateId
from pilotage.model.workload import Template
from pilotage.wire import host_messages as wire


class RemoteHost:
    """One host. It begins without a connection, since ``now`` (seconds since the epoch).

    ``steps``: how many steps may have started it.
    """

    def __init__(self, settings: HostSettings, now: float, steps: float = 1) -> None:
        self.settings = settings
        self.name = settings.name
        self.nodes = settings.nodes
        self.runners: dict[RunnerId, wire.KnownRunner] = {}
        self.is_connected = False
        self.changed_at = now
        """When the connection was made, or lost."""
        self.is_wanted = True
        """Whether it is to be there; else it is told to end if it comes."""
        self.lost = ""
        """Why it was given up; empty while it was not."""
        self.steps = steps
        """How many steps there are that have started this host and are not over; infinite where that is not known."""
        self.starts = 0
        """How often it was started again."""
        self.start_at: float | None = None
        """When it is to be started again."""
        self.last_words = ""
        """What was last heard of a step, or of an attempt to start one, that failed."""
        self._pending: list[bytes] = []
        self._ordered = 0
        self._reported = 0
        """Number of the connection's last report."""
        self._logged = 0
        """Number of the last report that the host knows to be in the log."""
        self._must_confirm = False
        self._to_start: set[RunnerId] = set()
        """Runners that no host was told of yet."""
        self._templates: dict[TemplateId, Template] = {}
        """What the host has been told of, or will have been when ``_pending`` is sent."""
        self._under_way: deque[tuple[int, RunnerId, Sequence[LaneTasks]]] = deque()
        """Launches of which the host is not known to have heard, with the number of the order."""

    # ------------------------------------------------------------------------------------------------------ what it is to do

    def start_runner(self, runner: RunnerId, beside: RunnerId | None, environment: Mapping[str, str]) -> None:
        """Have it start a runner."""
        self.runners[runner] = wire.KnownRunner(beside, self.nodes[0])
        self._to_start.add(runner)
        self.order(wire.StartRunner(runner, beside, dict(environment)))

    def launch(self, runner: RunnerId, lanes: Sequence[LaneTasks], templates: Mapping[TemplateId, Template]) -> None:
        """Have it launch these, and tell it of the templates that it has not seen."""
        new = {row.template for lane in lanes for _, row in lane.tasks}.difference(self._templates)
        if new:
            defined = {template: templates[template] for template in new}
            self._templates.update(defined)
            self._add(wire.template_orders(defined))
        self._add(wire.launch_orders(runner, list(lanes)))
        self._under_way.append((self._ordered, runner, lanes))

    def order(self, order: wire.Order) -> None:
        """Have it do this."""
        self._add([wire.encode(order)])

    def _add(self, orders: list[bytes]) -> None:
        self._pending += orders
        self._ordered += len(orders)

    # ----------------------------------------------------------------------------------------------------------- connection

    def welcome(self, now: float, incarnation: int, environments: Mapping[str, EnvironmentDifference]) -> list[bytes]:
        """The host has connected: return the frames that it is to have before all others."""
        self.is_connected = True
        self.changed_at = now
        self.start_at = None
        known = {name: runner for name, runner in self.runners.items() if name not in self._to_start}
        first = [wire.encode(definition(name, difference)) for name, difference in environments.items()]
        if self._templates:
            first += wire.template_orders(self._templates)
        sent = self._ordered - len(self._pending)
        frames = [wire.encode(wire.HostWelcome(incarnation, known, self.settings.settings))]
        # These are not counted: they are told to each connection anew.
        return frames + [wire.orders_frame(sent, 0, bundle) for bundle in wire.bundles(first) if bundle]

    def frames(self, *, is_logged: bool = True) -> list[bytes]:
        """Return what to send now; ``is_logged``: all that the host has reported is in the log."""
        if not self.is_connected or not (self._pending or (self._must_confirm and is_logged)):
            return []
        if is_logged:
            self._logged = self._reported
            self._must_confirm = False
        pending, self._pending = self._pending, []
        self._to_start.clear()
        through = self._ordered - len(pending)
        frames = []
        for bundle in wire.bundles(pending):
            through += len(bundle)
            frames.append(wire.orders_frame(through, self._logged, bundle))
        return frames

    def heard(self, report: wire.HostReport, *, must_confirm: bool) -> None:
        """It has reported; ``must_confirm``: it waits to hear that this is in the log."""
        self._reported = report.number
        self._must_confirm |= must_confirm
        under_way = self._under_way
        while under_way and under_way[0][0] <= report.heard:
            under_way.popleft()

    def disconnected(self, now: float) -> None:
        """The connection is lost."""
        self.is_connected = False
        self.changed_at = now
        self._reported = self._logged = 0
        self._must_confirm = False
        sent = self._ordered - len(self._pending)
        self._under_way = deque(launch for launch in self._under_way if launch[0] > sent)
        needed = {row.template for _, _, lanes in self._under_way for lane in lanes for _, row in lane.tasks}
        self._templates = {template: self._templates[template] for template in needed}

    # --------------------------------------------------------------------------------------------------------------- runners

    def not_heard_of(self, runner: RunnerId) -> list[Execution]:
        """Return what was launched on a runner behind the last order of which the host is known to have heard."""
        return [
            (row.uid, attempt)
            for _, name, lanes in self._under_way
            if name == runner
            for lane in lanes
            for attempt, row in lane.tasks
        ]

    def forget(self, runners: Iterable[RunnerId]) -> None:
        """These are gone, or were told to go."""
        names = set(runners)
        for name in names:
            self.runners.pop(name, None)
        self._under_way = deque(launch for launch in self._under_way if launch[1] not in names)


def definition(name: str, difference: EnvironmentDifference) -> wire.DefineEnvironment:
    """Return the order that makes an environment known."""
    return wire.DefineEnvironment(name, difference.variables, list(difference.unset))
