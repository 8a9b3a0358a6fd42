"""The host's loop: it hears the agent, lets its executor work, and tells the agent what that tells.

Whatever happens to connection, agent or host, it goes on in one way: the agent welcomes a host that said hello and names the
runners that it knows, and the host begins with another executor, which adopts them. While there is no agent there is no
executor: runners look for one in vain, and end themselves after their time-out as the host does, which sees to it that nothing
of the pilot is left on the node.

TERM from others may mean the whole job, whose tasks are to have the time that the batch system leaves them, or the step of the
hosts alone. A host cannot tell, and asks its agent. It ends at once if there is none, or no answer.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from pilotage.errors import unreachable
from pilotage.executors.local import LocalExecutor
from pilotage.executors.notify import NotifySocket
from pilotage.executors.orphans import end_orphans, end_runners, marks_of
from pilotage.model.ids import Attempt, TaskUid
from pilotage.nodehost.link import AgentLink
from pilotage.nodehost.relay import Relay
from pilotage.outputs.spares import recover
from pilotage.platforms.node_here import usable_here
from pilotage.system.processes import boot_id, started_ticks
from pilotage.wire import host_messages as wire
from pilotage.wire.keys import HostAccess
from pilotage.wire.runner_settings import HOSTS_FILE, NOTIFY_SOCKET, write_settings

_STOP_GRACE_S = 5.0
"""Tasks have so long after TERM, when the host is told to end by others than its agent."""
_ANSWER_S = 40.0
"""The agent has so long to find out what a TERM means; longer than it asks the batch system."""
_END_S = 8.0
_ORPHANS_S = 5.0
_BY_SIGNAL = "it was told to end by a signal"
_WORDS_KEPT = 1024
"""So many services' words are told again to the next agent."""


class NodeHost:
    """The host of the node of this name. ``folder`` is its private one; ``access`` what the agent wrote when the host began."""

    def __init__(self, agent_folder: Path, folder: Path, name: str, access: HostAccess) -> None:
        self._agent_folder = agent_folder
        self._folder = folder
        self._name = name
        self._access = access
        self._found = msgspec.Raw(msgspec.msgpack.encode(usable_here(name=name)))
        self._link = AgentLink(agent_folder / HOSTS_FILE, self._hello, time.monotonic())
        self._link_fd = -1
        self._relay: Relay | None = None
        self._notify = NotifySocket(folder / NOTIFY_SOCKET, access.session, access.pilot)
        self._words: dict[tuple[TaskUid, Attempt], wire.HostWord] = {}
        """What services have said, for agents that may not have heard it."""
        self._is_polled = False
        """Whether what the executor has to do wakes us."""
        self._poll = select.epoll()
        self._wakeup = -1
        self._terminated = False
        self._answer_until: float | None = None
        """Until when the agent may tell what TERM means; None: it was not asked."""
        self._reason: str | None = None
        """Why this host ends; None while it does not."""

    def run(self) -> str:
        """Work until nothing is left to be done; return why that is so. Nothing of the pilot is left on the node then."""
        self._heed_signals()
        self._notify.open()
        self._poll.register(self._notify, select.EPOLLIN)
        while self._reason is None:
            for descriptor, _ in self._poll.poll(self._patience_s()):
                if descriptor == self._wakeup:
                    os.read(self._wakeup, 65536)
                elif descriptor == self._notify.fileno():
                    self._hear_services()
            self._turn()
        self._notify.close()
        self._link.send(wire.HostGone(self._reason))
        self._link.finish()
        return self._reason

    def _turn(self) -> None:
        now = time.monotonic()
        messages, as_before = self._link.receive(now)
        if not as_before:
            self._let_go()
            self._watch_link()
        for message in messages:
            self._follow(message)
            if self._reason is not None:
                return
        if self._relay is not None:
            for frame in self._relay.turn(time.time()):
                self._link.send(frame)
        self._watch_relay()
        if self._terminated and self._is_alone(now):
            self._end(_STOP_GRACE_S, _BY_SIGNAL)
        elif self._link.away_since is not None and now - self._link.away_since >= self._access.orphan_timeout_s:
            self._end(_STOP_GRACE_S, f"there was no agent for {self._access.orphan_timeout_s:g} s")

    def _follow(self, message: wire.ToHost) -> None:
        match message:
            case wire.HostOrders():
                if self._relay is not None:
                    self._relay.follow(message)
            case wire.HostWelcome():
                self._begin(message)
            case wire.HostPing():
                pass
            case wire.HostClose():
                self._end(message.grace_s, "the pilot is over")
            case wire.HostRefused():
                self._end(0.0, f"its agent wants it to end: {message.reason}")
            case wire.HostStay():
                self._terminated, self._answer_until = False, None
            case wire.HostHeed():
                self._end(_STOP_GRACE_S, _BY_SIGNAL)
            case _:
                unreachable(message)

    def _is_alone(self, now: float) -> bool:
        """TERM came: ask the agent what it means; tell whether there is none, or no answer."""
        if self._link.away_since is not None:
            return True
        if self._answer_until is None:
            self._answer_until = now + _ANSWER_S
            self._link.send(wire.HostSignalled())
        return now >= self._answer_until

    def _begin(self, welcome: wire.HostWelcome) -> None:
        """Have an executor, which finds the runners of the one before."""
        self._let_go()
        settings = msgspec.structs.replace(welcome.settings, host=self._name, notify_socket=str(self._folder / NOTIFY_SOCKET))
        write_settings(self._folder, settings)
        executor = LocalExecutor(
            self._folder,
            settings.session,
            settings.pilot,
            Path(settings.printing_folder),
            welcome.incarnation,
            partition=settings.partition,
            host=self._name,
        )
        self._relay = Relay(executor)
        self._relay.start(welcome.known)
        self._poll.register(self._relay.fileno(), select.EPOLLIN)
        self._is_polled = True
        for word in self._words.values():
            self._link.send(word)

    def _hear_services(self) -> None:
        """Pass on what services say of themselves."""
        for task, attempt, lines in self._notify.receive():
            before = self._words.pop((task, attempt), None)
            word = wire.HostWord(task, attempt, {**before.lines, **lines} if before is not None else lines)
            self._words[task, attempt] = word
            if len(self._words) > _WORDS_KEPT:
                del self._words[next(iter(self._words))]
            if self._relay is not None:
                self._link.send(word)

    def _let_go(self) -> None:
        """Have no executor any more; runners go on."""
        if self._relay is not None:
            # With its descriptors goes what is polled of it.
            self._relay.leave()
            self._relay = None

    def _end(self, grace_s: float, reason: str) -> None:
        """End all that runs here, for good."""
        self._reason = reason
        if self._relay is not None:
            for frame in self._relay.close(grace_s):
                self._link.send(frame)
            self._relay = None
        # What no executor was told of: those of the host before, if it died, and all of them while there is no agent.
        end_runners(self._folder, grace_s + _END_S, _ORPHANS_S)
        marked = marks_of(self._access.partition, self._name)
        if not end_orphans(self._access.session, self._access.pilot, (), _ORPHANS_S, marked=marked):
            sys.stderr.write("processes of tasks cannot be ended\n")
        recover(self._folder)

    def _hello(self, connection: int) -> wire.HostHello:
        pid = os.getpid()
        return wire.HostHello(
            wire.HOST_PROTOCOL,
            self._access.pilot,
            self._name,
            pid,
            started_ticks(pid) or 0,
            boot_id(),
            connection,
            self._found,
        )

    # waiting

    def _heed_signals(self) -> None:
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = read_end
        self._poll.register(read_end, select.EPOLLIN)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, lambda _number, _frame: self._terminate())

    def _terminate(self) -> None:
        self._terminated = True

    def _watch_link(self) -> None:
        """Poll another connection than before, whatever its number is."""
        if self._link_fd >= 0:
            with suppress(OSError):
                self._poll.unregister(self._link_fd)
        self._link_fd = self._link.fileno()
        if self._link_fd >= 0:
            self._poll.register(self._link_fd, select.EPOLLIN)

    def _watch_relay(self) -> None:
        """Poll the executor, unless it has to wait."""
        if self._relay is not None and self._is_polled == self._relay.stands_still:
            self._is_polled = not self._is_polled
            self._poll.modify(self._relay.fileno(), select.EPOLLIN if self._is_polled else 0)

    def _patience_s(self) -> float:
        """Return how long nothing has to be done unless something arrives, in seconds (-1: for ever)."""
        now = time.monotonic()
        dues = []
        if (due := self._link.next_deadline()) is not None:
            dues.append(due - now)
        if self._link.away_since is not None:
            dues.append(self._link.away_since + self._access.orphan_timeout_s - now)
        if self._answer_until is not None:
            dues.append(self._answer_until - now)
        if self._relay is not None and (due := self._relay.next_deadline()) is not None:
            dues.append(due - time.time())
        return max(0.0, min(dues)) if dues else -1
