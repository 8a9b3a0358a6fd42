"""Runs tasks on many nodes: each has a host, which runs a ``LocalExecutor`` and does there what it is told over the network.

Nothing is decided here. Calls become orders, which go to each host in one message per flush; what hosts report becomes calls of
the listener (``wire.host_messages`` tells how the rules of ``executors.base`` hold over the distance). All hosts together are
one descriptor.

A connection that breaks is no loss. The host looks for its agent, its runners go on, and the next connection begins as the life
of another agent does, with the runners that are known. A host that does not come back soon is started again, by another step
(``host_starts``); the new one finds the runners of the one before. A host is given up when it is gone for certain: it has said
so; or each step that has started it is over, and the batch system has ended all that was left of it; or it has had no
connection for so long that its runners and itself have ended by their own rule (``orphan_timeout_s``). Then its runners are
told as lost, and after them its nodes. Should it come yet, it is told to end.

A host that others tell to end asks whether the whole job ends, in which it has to stay (``hosts.EndInquiry``).

Nodes of a partition come and go, and so do their hosts, which are *on demand*: those that are given runners at the same time
are started by one step, and a host whose last runner was told to go is told to end. Its step lasts until all hosts have ended
that it had started, here or there.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Iterable, Mapping, Sequence

from pilotage.errors import InvariantViolated, unreachable
from pilotage.executors.base import RunnerListener, RunnerProcess
from pilotage.executors.host_starts import HostStarts
from pilotage.executors.hosts import EndInquiry, HostsEnded, HostSettings, HostStarter
from pilotage.executors.left_steps import end_steps_of
from pilotage.executors.lobby import HostLobby
from pilotage.executors.remote_host import RemoteHost, definition
from pilotage.model.environments import EnvironmentDifference
from pilotage.model.execution import Execution, LaneTasks
from pilotage.model.ids import RunnerId, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.workload import Template
from pilotage.wire import host_messages as wire

MARGIN_S = 60.0
"""How much longer than their own time-out without an agent it may take until a host, and its runners, are gone for certain:
either side may notice the loss of a connection half a minute later than the other, and ending tasks takes its time."""

AWAY_S = 10.0
"""A host that has had no connection for so long is started again."""

PING_S = 5.0
"""How often it is tried whether hosts are still there; one whose process is gone is noticed that soon."""

_CLOSE_S = 8.0
_STEPS_S = 10.0
"""The agent itself ends what spawners of a lost host have started on others, and does nothing else meanwhile."""
_LAST_WORDS = 400
_UNWANTED = "the pilot goes on without this node"
_GIVEN_BACK = "its node is another partition's"

_PING = wire.encode(wire.HostPing())
_STAY = wire.encode(wire.HostStay())
_HEED = wire.encode(wire.HostHeed())


class ClusterExecutor:
    """The ``Executor`` of all ``hosts``, whose numbers are their places in the sequence.

    ``lobby`` is open, and ``starter`` has been told to start the hosts, by this agent or an earlier one. ``incarnation`` is the
    agent's. ``margin_s`` and ``away_s``: see ``MARGIN_S`` and ``AWAY_S``. ``on_demand``: only those hosts were
    started whose runners are known, and each is to be there while it has runners. ``inquiry``: None if there is no job.
    """

    def __init__(
        self,
        lobby: HostLobby,
        starter: HostStarter,
        hosts: Sequence[HostSettings],
        incarnation: int,
        *,
        margin_s: float = MARGIN_S,
        away_s: float = AWAY_S,
        on_demand: bool = False,
        inquiry: EndInquiry | None = None,
    ) -> None:
        self._inquiry = inquiry
        self._signalled: dict[str, None] = {}
        """Hosts that want to know whether the job ends."""
        self._lobby = lobby
        self._starter = starter
        self._incarnation = incarnation
        now = time.time()
        # Of steps that an earlier agent had started nobody may tell the end.
        steps = (0 if on_demand else 1) if incarnation == 1 else math.inf
        self._on_demand = on_demand
        self._hosts = [RemoteHost(settings, now, steps) for settings in hosts]
        self._by_name = {host.name: host for host in self._hosts}
        self._host_of: dict[RunnerId, RemoteHost] = {}
        self._environments: dict[str, EnvironmentDifference] = {}
        self._listener: RunnerListener | None = None
        self._to_flush: dict[str, None] = {}
        """Hosts that have something to hear."""
        self._idle: dict[str, None] = {}
        """Hosts on demand that have no runner any more."""
        self._doomed: dict[str, None] = {}
        """Hosts that were given up, and have been told to start runners."""
        self._ping_at = now + PING_S
        self._poll = select.epoll()
        self._poll.register(lobby.fileno(), select.EPOLLIN)
        self._starts = HostStarts(starter, self._poll, margin_s=margin_s, away_s=away_s)

    # -------------------------------------------------------------------------------------------------------- the contract

    def start(self, listener: RunnerListener, known: Mapping[RunnerId, RunnerProcess]) -> None:
        """Welcome the hosts that are there, and wait for the others; they adopt what is ``known``."""
        self._listener = listener
        of_node = {node: host for host in self._hosts for node in host.nodes}
        for name, process in known.items():
            host = of_node.get(process.node)
            if host is None:
                raise InvariantViolated(f"{name} was on node {process.node}, which no host has")
            host.runners[name] = wire.KnownRunner(
                process.beside, process.node, process.pid, process.started_ticks, process.boot_id, process.released
            )
            self._host_of[name] = host
        now = time.time()
        for host in self._hosts:
            host.is_wanted = bool(host.runners) or not self._on_demand
            if host.is_wanted:
                # The first agent has only just had them started.
                self._starts.expect_first(host, now, is_started=self._incarnation == 1)
        self._hear(now)
        self._starts.watch()

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._poll.fileno()

    def next_deadline(self) -> float | None:
        """Return when ``turn`` is due without anything arriving."""
        if self._to_flush or self._doomed or self._idle:
            return 0.0
        due = self._starts.next_deadline()
        return self._ping_at if due is None else min(self._ping_at, due)

    def turn(self, now: float) -> None:
        """Take in what hosts have reported, look after those that are away, and send what is queued."""
        # All that was told before is in the log by now.
        self.flush()
        for name in list(self._doomed):
            host = self._by_name[name]
            self._lose_runners(host, host.lost)
        self._doomed.clear()
        self._dismiss_idle(now)
        self._hear(now)
        if self._signalled:
            self._answer_signalled()
        for end in self._starts.ended():
            # What its hosts said last comes first.
            self._hear(now)
            self._step_ended(end, now)
        if now >= self._ping_at:
            self._ping_at = now + PING_S
            for host in self._hosts:
                self._ping(host, now)
        if self._starts.away:
            self._look_after(now)

    def flush(self) -> None:
        """Send what is queued. What was told in the last turn must be in the log."""
        names, self._to_flush = self._to_flush, {}
        for name in names:
            host = self._by_name[name]
            self._send(host, host.frames())

    def start_runner(self, runner: RunnerId, beside: RunnerId | None, environment: Mapping[str, str], host: int = 0) -> None:
        """Have the host start a runner; on one that was given up it is told as lost in the next turn."""
        where = self._host_of.get(beside, self._hosts[host]) if beside is not None else self._hosts[host]
        self._host_of[runner] = where
        where.start_runner(runner, beside, environment)
        if not where.is_wanted:
            self._starts.want(where, time.time())
        self._to_flush[where.name] = None
        if where.lost:
            self._doomed[where.name] = None

    def stop_runner(self, runner: RunnerId) -> None:
        """Let an idle runner exit, and forget it."""
        host = self._host_of.pop(runner, None)
        if host is not None:
            host.forget([runner])
            self._order(host, wire.StopRunner(runner))
            if self._on_demand and not host.runners:
                self._idle[host.name] = None

    def launch(self, runner: RunnerId, lanes: Sequence[LaneTasks], templates: Mapping[TemplateId, Template]) -> None:
        """Send tasks to their runner's host, and the templates that it has not seen."""
        host = self._host_of.get(runner)
        # If there is none it was told as lost in the turn in which these were launched.
        if host is not None:
            host.launch(runner, lanes, templates)
            self._to_flush[host.name] = None

    def recall(self, runner: RunnerId, executions: Sequence[Execution]) -> None:
        """Ask back what has not begun."""
        host = self._host_of.get(runner)
        if host is not None:
            self._order(host, wire.RecallExecutions(runner, list(executions)))

    def end(self, runner: RunnerId, executions: Sequence[Execution], ending: Ending, message: str) -> None:
        """End these on their host."""
        host = self._host_of.get(runner)
        if host is not None:
            self._order(host, wire.EndExecutions(runner, list(executions), ending, message))

    def signal(self, runner: RunnerId, executions: Sequence[Execution], number: int) -> None:
        """Signal these on their host."""
        host = self._host_of.get(runner)
        if host is not None:
            self._order(host, wire.SignalExecutions(runner, list(executions), number))

    def define_environment(self, name: str, difference: EnvironmentDifference) -> None:
        """Tell all hosts, and those that connect later."""
        self._environments[name] = difference
        for host in self._hosts:
            if host.is_connected:
                self._order(host, definition(name, difference))

    def release(self, runner: RunnerId, through: int) -> None:
        """Let the runner forget."""
        host = self._host_of.get(runner)
        if host is not None:
            known = host.runners[runner]
            known.released = max(known.released, through)
            self._order(host, wire.ReleaseRunner(runner, through))

    def close(self, grace_s: float) -> None:
        """End all hosts and what they run, within the grace and a little more."""
        waited = {host.name: None for host in self._hosts if host.is_connected}
        last = wire.encode(wire.HostClose(grace_s))
        for name in list(waited):
            # Not ``flush``: what was told last may not be in the log if the agent ends because of that.
            for frame in (*self._by_name[name].frames(is_logged=False), last):
                if not self._lobby.send(name, frame):
                    waited.pop(name, None)
        until = time.monotonic() + grace_s + _CLOSE_S
        while waited and (left_s := until - time.monotonic()) > 0:
            self._poll.poll(left_s)
            for name, message in self._lobby.receive():
                if isinstance(message, wire.HostGone):
                    waited.pop(name, None)
                elif isinstance(message, wire.HostHello):
                    self._lobby.send(name, last)
            for end in self._starts.ended():
                for name in end.nodes:
                    waited.pop(name, None)
        self._starter.end()
        self._lobby.close()
        self._poll.close()

    def leave(self) -> None:
        """Let go of all connections. Hosts and runners go on, and look for the next agent."""
        self._starter.leave()
        self._lobby.leave()
        self._poll.close()

    # --------------------------------------------------------------------------------------------------------- connections

    @property
    def _told(self) -> RunnerListener:
        if self._listener is None:
            raise InvariantViolated("the executor was used before it was started")
        return self._listener

    def _order(self, host: RemoteHost, order: wire.Order) -> None:
        host.order(order)
        self._to_flush[host.name] = None

    def _send(self, host: RemoteHost, frames: Iterable[bytes]) -> None:
        for frame in frames:
            if not self._lobby.send(host.name, frame):
                self._miss(host, time.time())
                return

    def _hear(self, now: float) -> None:
        for name, message in self._lobby.receive():
            host = self._by_name.get(name)
            if host is None or host.lost or not host.is_wanted:
                self._lobby.dismiss(name, _UNWANTED if host is None else host.lost or _GIVEN_BACK)
                continue
            match message:
                case wire.HostHello():
                    self._welcome(host, now)
                case wire.HostReport():
                    self._take(host, message, now)
                case wire.HostWord():
                    self._told.service_spoke(message.task, message.attempt, message.lines)
                case wire.HostGone():
                    self._lose(host, f"the host of node {name} ended: {message.reason}")
                case wire.HostSignalled():
                    self._signalled[name] = None
                    if self._inquiry is not None:
                        self._inquiry.ask()
                case _:
                    unreachable(message)

    def _answer_signalled(self) -> None:
        """Tell hosts that were told to end whether they are to, if it is known."""
        answer = False if self._inquiry is None else self._inquiry.answer
        if answer is None:
            return
        signalled, self._signalled = self._signalled, {}
        for name in signalled:
            host = self._by_name[name]
            if host.is_connected:
                self._send(host, [_STAY if answer else _HEED])

    def _welcome(self, host: RemoteHost, now: float) -> None:
        if host.is_connected:
            host.disconnected(now)
        self._starts.over(host)
        self._send(host, host.welcome(now, self._incarnation, self._environments))
        self._to_flush[host.name] = None

    def _ping(self, host: RemoteHost, now: float) -> None:
        if host.is_connected and not self._lobby.send(host.name, _PING):
            self._miss(host, now)

    def _miss(self, host: RemoteHost, now: float) -> None:
        """The host has no connection."""
        if host.is_connected:
            self._starts.connection_lost(host, now)
        self._lobby.forget(host.name)
        self._starts.expect(host, now)

    def _dismiss_idle(self, now: float) -> None:
        """Have hosts end that have no runner any more; those have been told to go."""
        idle, self._idle = self._idle, {}
        for name in idle:
            host = self._by_name[name]
            if host.runners or host.lost:
                continue
            host.is_wanted = False
            self._lobby.dismiss(name, _GIVEN_BACK)
            host.disconnected(now)
            self._starts.over(host)

    def _take(self, host: RemoteHost, report: wire.HostReport, now: float) -> None:
        """Tell what a host has reported."""
        told = self._told
        must_confirm = any(isinstance(each, (wire.RunnerConnected, wire.RunnerLost)) for each in report.told)
        host.heard(report, must_confirm=must_confirm)
        if must_confirm:
            self._to_flush[host.name] = None
        for each in report.told:
            name = each.runner
            known = host.runners.get(name)
            if known is None:
                # It was told to go while this was under way.
                continue
            match each:
                case wire.TasksEnded():
                    told.tasks_ended(name, each.number, each.ends)
                case wire.TasksStarted():
                    ahead_s = now - report.sent
                    told.tasks_started(name, [(task, attempt, started + ahead_s) for task, attempt, started in each.started])
                case wire.TasksReturned():
                    told.tasks_returned(name, each.executions)
                case wire.RunnerConnected():
                    known.pid, known.started_ticks, known.boot_id = each.pid, each.started_ticks, each.boot_id
                    told.runner_connected(name, each.pid, each.started_ticks, each.boot_id)
                case wire.RunnerReconciled():
                    told.runner_reconciled(name, [*each.holds, *host.not_heard_of(name)])
                case wire.RunnerLost():
                    not_begun = [*each.not_begun, *host.not_heard_of(name)]
                    self._forget(host, name)
                    told.runner_lost(name, each.reason, each.exit_code, each.running, not_begun)
                case wire.StorageFull():
                    told.storage_full(name, each.reason)
                case _:
                    unreachable(each)

    def _forget(self, host: RemoteHost, runner: RunnerId) -> None:
        host.forget([runner])
        self._host_of.pop(runner, None)

    # ----------------------------------------------------------------------------------------------------------- lost hosts

    def _look_after(self, now: float) -> None:
        for host in self._starts.gone(now):
            silent_s = now - host.changed_at
            self._lose(host, f"nothing was heard of the host of node {host.name} for {silent_s:.0f} s{host.last_words}")
        self._starts.start_due(now)

    def _step_ended(self, end: HostsEnded, now: float) -> None:
        for name in end.nodes:
            host = self._by_name.get(name)
            if host is None or host.lost:
                continue
            host.steps -= 1
            if not host.is_wanted:
                continue
            said = end.output.strip()[-_LAST_WORDS:]
            host.last_words = f"; its step exited with {end.exit_code}{f': {said}' if said else ''}"
            if host.steps:
                self._starts.other_step_runs(host, now)
            elif end.all_gone:
                self._miss(host, now)
                self._lose_runners(host, f"the host of node {name} is gone{host.last_words}")
                if host.start_at is None:
                    self._lose(host, f"the host of node {name} is gone{host.last_words}")
            elif host.is_connected:
                # A connection that is still there is noticed to be broken when something is sent.
                self._ping(host, now)
            else:
                self._starts.expect(host, now)

    def _lose(self, host: RemoteHost, reason: str) -> None:
        """Give a host up: it is gone for certain, and all that ran there."""
        host.lost = reason
        self._lobby.dismiss(host.name, reason)
        host.disconnected(time.time())
        self._starts.over(host)
        self._lose_runners(host, reason)
        self._told.nodes_lost(host.nodes, reason)

    def _lose_runners(self, host: RemoteHost, reason: str) -> None:
        for name in list(host.runners):
            not_begun = host.not_heard_of(name)
            left = end_steps_of(host.settings.settings, name, _STEPS_S) if host.runners[name].beside is None else ""
            self._forget(host, name)
            self._told.runner_lost(name, reason + left, None, None, not_begun)
