"""When hosts are started, and started again: of those without a connection, and of the steps that have started them.

A host that is away is waited for. If it does not come back soon another step starts it; so does the end of its only step, and
those that are due at the same time share one. After a few such starts no more are tried, until a connection has lasted. Nothing
of a host can run any more, by its own rule, when it has had no connection for ``orphan_timeout_s`` and a margin.
"""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
from contextlib import suppress

from pilotage.errors import BackendError
from pilotage.executors.hosts import HostsEnded, HostStarter
from pilotage.executors.remote_host import RemoteHost

START_PAUSES_S = (0.0, 5.0, 20.0)
"""How long after the end of a host's step another is started, for the first time, the second and so on; then never again."""

_SETTLED_S = 600.0
"""After so long with a connection a host may be started again as often as in the beginning."""
_UP_S = 60.0
"""A host that was started has so long to come before it is once more."""


class HostStarts:
    """The hosts that are ``away``: without a connection, and not given up. ``starter`` starts them.

    ``poll`` is woken when a step ends. ``margin_s`` and ``away_s``: as the executor's. Times are seconds since the epoch.
    """

    def __init__(self, starter: HostStarter, poll: select.epoll, *, margin_s: float, away_s: float) -> None:
        self.away: dict[str, RemoteHost] = {}
        self._starter = starter
        self._poll = poll
        self._margin_s = margin_s
        self._away_s = away_s
        self._step_fd = -1

    # who is away

    def next_deadline(self) -> float | None:
        """Return when the next host is gone for certain, or is to be started again."""
        return min((self._due(host) for host in self.away.values()), default=None)

    def expect_first(self, host: RemoteHost, now: float, *, is_started: bool) -> None:
        """Wait for a host of which nothing was heard yet; ``is_started``: it was only just started."""
        self._expect(host, now, _UP_S if is_started else self._away_s)

    def expect(self, host: RemoteHost, now: float) -> None:
        """Have a host started again if it does not come soon; if none can come, as soon as may be."""
        self._expect(host, now, self._away_s)

    def _expect(self, host: RemoteHost, now: float, patience_s: float) -> None:
        self.away[host.name] = host
        if host.starts >= len(START_PAUSES_S):
            host.start_at = None
        elif host.steps:
            host.start_at = now + patience_s
        else:
            host.start_at = now + START_PAUSES_S[host.starts]

    def want(self, host: RemoteHost, now: float) -> None:
        """Have a host on demand started in the next turn, with all others that are wanted by then."""
        host.is_wanted = True
        host.changed_at = host.start_at = now
        # This start is not one more.
        host.starts = -1
        self.away[host.name] = host

    def over(self, host: RemoteHost) -> None:
        """A host has come, or is not waited for any longer."""
        self.away.pop(host.name, None)

    def connection_lost(self, host: RemoteHost, now: float) -> None:
        """A host is no longer connected."""
        if now - host.changed_at >= _SETTLED_S:
            host.starts = 0
        host.disconnected(now)

    def gone(self, now: float) -> list[RemoteHost]:
        """Return the hosts of which nothing can run any more."""
        return [host for host in self.away.values() if now >= self._gone_at(host)]

    def _gone_at(self, host: RemoteHost) -> float:
        return host.changed_at + host.settings.settings.orphan_timeout_s + self._margin_s

    def _due(self, host: RemoteHost) -> float:
        gone_at = self._gone_at(host)
        return gone_at if host.start_at is None else min(gone_at, host.start_at)

    # their steps

    def start_due(self, now: float) -> None:
        """Start the hosts again for which it is time."""
        hosts = [host for host in self.away.values() if host.start_at is not None and now >= host.start_at]
        if hosts:
            self._start_again(hosts, now)

    def _start_again(self, hosts: Sequence[RemoteHost], now: float) -> None:
        for host in hosts:
            host.starts += 1
            host.start_at = now + _UP_S if host.starts < len(START_PAUSES_S) else None
        try:
            self._starter.start([host.name for host in hosts])
        except BackendError as error:
            for host in hosts:
                host.last_words = f", and it could not be started again: {error}"
            return
        for host in hosts:
            host.steps += 1
        self.watch()

    def ended(self) -> Iterator[HostsEnded]:
        """Yield the ends of steps that were not told before."""
        while (end := self._starter.ended()) is not None:
            yield end
        self.watch()

    def other_step_runs(self, host: RemoteHost, now: float) -> None:
        """A step of a host is over, but another has started one there, too, and that one may be what runs."""
        if host.start_at is not None:
            host.start_at = min(host.start_at, now + max(self._away_s, START_PAUSES_S[host.starts]))

    def watch(self) -> None:
        """Wake when a step ends; the starter's descriptor may be another one by now, under the same number even."""
        if self._step_fd >= 0:
            with suppress(OSError, ValueError):
                self._poll.unregister(self._step_fd)
        self._step_fd = self._starter.fileno()
        if self._step_fd >= 0:
            self._poll.register(self._step_fd, select.EPOLLIN)
