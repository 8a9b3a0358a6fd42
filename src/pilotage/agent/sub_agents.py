"""The agents of a pilot's partitions, as their head has to do with them: started, watched, spoken to, ended, fenced.

A partition's agent is a child of its head, or of the bootstrap if that head is dead: then it goes on, and the next head finds
it by its claim (see ``agent.claim``). One that dies is started again, ``RESTARTS`` times; it recovers from its log and adopts
what its runners hold. If it cannot be had any more the partition is fenced: what is left of it is ended, on a thread as that
takes seconds, and its log is read for what became of its tasks. If the pilot wants it so, its agents are threads of their
head's process instead: then they die with it, which does not count as a death of their own.

One that is to end at once, and does not answer, is told by a signal, and then killed.

When the batch system ends the pilot's job all agents are told, whether the batch system tells them, too, or not, and go when
they have drained. None is started any more. One may have been told before the head is, and be gone: of a job, one that somebody
has told to end is followed by another only after ``DOUBT_S``.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import msgspec

from pilotage.agent.agent_process import AgentProcess
from pilotage.agent.claim import count_start, starts
from pilotage.agent.fencing import fence_partition
from pilotage.agent.partition_link import PartitionLink
from pilotage.agent.settings import SETTINGS_FILE, PilotSettings, partition_folder, write_settings
from pilotage.agent.sub_agent import AgentEnd, RunningAgent, SubAgent, aftermath_of, printed_last, settings_of
from pilotage.core.agent.job_end import DOUBT_S
from pilotage.core.client.state import QueuedEnd
from pilotage.core.metascheduler.events import PartitionLost
from pilotage.core.metascheduler.state import MetaschedulerState, PartitionRecord
from pilotage.errors import PilotageError
from pilotage.wire.messages import FromAgent

RESTARTS = 3
SILENT_S = 12.0
"""One that is to end and was not heard for so long hangs; agents that live are heard every five seconds."""
TERM_S = 5.0
STOP_S = 15.0
"""An agent whose partition is over has so long to end its runners."""
CLAIM_LOOK_S = 0.1
FENCE_PAUSE_S = 1.0


class SubAgents:
    """All of them. ``hear`` is called with what one says; ``sync`` makes the head's log durable now."""

    def __init__(
        self,
        settings: PilotSettings,
        incarnation: int,
        state: MetaschedulerState,
        poll: select.epoll,
        hear: Callable[[SubAgent, FromAgent], None],
        sync: Callable[[], object],
    ) -> None:
        self._settings = settings
        self._incarnation = incarnation
        self._state = state
        self._poll = poll
        self._hear = hear
        self._sync = sync
        self._agents: dict[str, SubAgent] = {}
        self._by_descriptor: dict[int, SubAgent] = {}
        self._heard: dict[SubAgent, None] = {}
        """Those whose messages are not in the log yet, or not acknowledged."""
        self._lost: deque[PartitionLost] = deque()
        self._fencers: list[threading.Thread] = []
        self._closing = threading.Event()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        poll.register(self._wakeup, select.EPOLLIN)
        self._tick_at: float | None = None
        self.hurry_since: float | None = None
        """Since when the head itself was told to end by a signal."""
        self._job_ends = False
        """Whether the batch system ends the pilot's job."""

    def __getitem__(self, name: str) -> SubAgent:
        return self._agents[name]

    def __iter__(self) -> Iterator[SubAgent]:
        return iter(self._agents.values())

    def get(self, name: str) -> SubAgent | None:
        """Return the agent of this partition, if there is one."""
        return self._agents.get(name)

    # -------------------------------------------------------------------------------------------------------- begin and end

    def start(self, name: str, now: float) -> None:
        """See to it that the partition's agent runs: start it, or find it; a later run of a job that ends starts it then."""
        if name in self._agents or self._job_ends:
            return
        record = self._state.partitions[name]
        folder = partition_folder(Path(self._settings.pilot_folder), name)
        link = PartitionLink(self._settings, self._incarnation, record, folder, self._poll)
        agent = self._agents[name] = SubAgent(name, folder, record, link, now)
        if not self._find(agent, now):
            self._launch(agent, now)

    def disconnect(self, name: str, now: float) -> None:
        """The partition is over: have its agent know that we know, and go."""
        agent = self._agents.get(name)
        if agent is None:
            return
        agent.is_over = True
        self._sync()
        agent.link.incoming.synced(agent.link.incoming.received)
        agent.link.acknowledge()
        if agent.running is None and agent.look_at is None:
            self._forget(agent)
        else:
            agent.must_end_since = now
            self._want_tick(now + STOP_S)

    def close(self) -> None:
        """Wait for the agents of partitions that are over to go; end those that do not."""
        going = select.poll()
        for agent in self._agents.values():
            # They were told all that they wait for.
            agent.link.close()
            if agent.running is not None:
                going.register(agent.running.ended_fd, select.POLLIN)
        until = time.monotonic() + STOP_S
        while any(agent.running is not None for agent in self._agents.values()) and (left_s := until - time.monotonic()) > 0:
            for descriptor, _ in going.poll(left_s * 1000):
                going.unregister(descriptor)
                agent = self._by_descriptor[descriptor]
                self._reap(agent)
                self._forget(agent)
        self._closing.set()
        for fencer in self._fencers:
            fencer.join()
        for agent in list(self._agents.values()):
            try:
                # What is left after that the batch system ends with the job.
                fence_partition(agent.folder, agent.record.received, hosts_end_s=TERM_S)
            except (PilotageError, OSError) as error:
                sys.stderr.write(f"what is left of partition {agent.name}: {error}\n")
            if agent.running is not None and agent.running.outlives_head:
                self._reap(agent)
            self._forget(agent)
        self._poll.unregister(self._wakeup)
        os.close(self._wakeup)

    def pass_job_end_on(self) -> None:
        """The batch system ends the pilot's job: have all agents drain and go, and let none come in their place."""
        self._job_ends = True
        for agent in self._agents.values():
            agent.look_at = None
            if agent.running is not None:
                agent.running.terminate()

    @property
    def living(self) -> int:
        """How many partitions there are of which something may run."""
        return sum(record.living for record in self._state.partitions.values())

    @property
    def are_gone(self) -> bool:
        """Whether no agent runs."""
        return all(agent.running is None for agent in self._agents.values())

    def abandon(self) -> None:
        """Have all agents end what they run, without a word on it; partitions may go on in a later run of the pilot's job."""
        going = select.poll()
        for agent in self._agents.values():
            agent.link.close()
            if agent.running is not None:
                agent.running.terminate()
                going.register(agent.running.ended_fd, select.POLLIN)
        until = time.monotonic() + STOP_S
        while any(agent.running is not None for agent in self._agents.values()) and (left_s := until - time.monotonic()) > 0:
            for descriptor, _ in going.poll(left_s * 1000):
                going.unregister(descriptor)
                self._reap(self._by_descriptor[descriptor])
        self._closing.set()

    # ----------------------------------------------------------------------------------------------------- what it runs in

    def _find(self, agent: SubAgent, now: float) -> bool:
        """Look for an agent that runs already."""
        running = AgentProcess.find(agent.folder)
        if running is None:
            return False
        self._watch(agent, running)
        agent.look_at = None
        agent.link.retry_at = now
        self._want_tick(now)
        return True

    def _launch(self, agent: SubAgent, now: float) -> None:
        """Start an agent, or give the partition up if enough have been."""
        threads = self._settings.sub_agents == "threads"
        heads_before = self._incarnation - 1 if threads else 0
        try:
            agent.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (agent.folder / SETTINGS_FILE).exists():
                write_settings(settings_of(self._settings, agent.name, agent.record, self.living))
            if starts(agent.folder) > RESTARTS + heads_before:
                self._give_up(agent, f"its agent ended {RESTARTS + 1} times")
                return
            number = count_start(agent.folder)
            if threads:
                from pilotage.agent.agent_thread import AgentThread

                self._watch(agent, AgentThread(agent.folder, number))
            else:
                self._watch(agent, AgentProcess.spawn(agent.folder, number))
        except OSError as error:
            self._give_up(agent, f"its agent could not be started: {error}")

    def _watch(self, agent: SubAgent, running: RunningAgent) -> None:
        agent.running = running
        agent.is_killed, agent.told_by_signal = False, None
        for descriptor in (running.ended_fd, running.ready_fd):
            if descriptor >= 0:
                os.set_blocking(descriptor, False)
                self._poll.register(descriptor, select.EPOLLIN)
                self._by_descriptor[descriptor] = agent

    def _ended(self, agent: SubAgent, now: float) -> None:
        """The agent is gone: there may be another, or there has to be."""
        # It may have said goodbye before it went.
        self._receive(agent, now)
        end = self._reap(agent)
        if agent.is_over or not agent.record.living:
            self._forget(agent)
        elif self._job_ends:
            agent.link.close()
        elif agent.must_end_since is not None:
            self._give_up(agent, "its agent hung, and was killed" if agent.is_killed else end.how)
        elif end.is_taken:
            if not self._find(agent, now):
                agent.look_at = now + CLAIM_LOOK_S
                self._want_tick(agent.look_at)
        else:
            sys.stderr.write(f"partition {agent.name}: {end.how}\n")
            if end.was_told and self._settings.batch != "local":
                agent.look_at = now + DOUBT_S
                self._want_tick(agent.look_at)
            else:
                self._launch(agent, now)

    def _reap(self, agent: SubAgent) -> AgentEnd:
        """Return how the agent ended, of which nothing runs any more."""
        assert agent.running is not None
        end = agent.running.reap()
        self._stop_watching(agent)
        return end

    def _stop_watching(self, agent: SubAgent) -> None:
        if agent.running is not None:
            self._drop_ready(agent.running)
            self._release(agent.running.ended_fd)
            agent.running = None

    def _drop_ready(self, running: RunningAgent) -> None:
        if running.ready_fd >= 0:
            self._release(running.ready_fd)
            running.ready_fd = -1

    def _release(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        self._by_descriptor.pop(descriptor, None)
        os.close(descriptor)

    def _forget(self, agent: SubAgent) -> None:
        agent.link.close()
        self._stop_watching(agent)
        self._heard.pop(agent, None)
        self._agents.pop(agent.name, None)

    # ------------------------------------------------------------------------------------------------------------- fencing

    def _give_up(self, agent: SubAgent, reason: str) -> None:
        agent.is_fencing = True
        agent.link.close()
        fencer = threading.Thread(target=self._fence, args=(agent, reason), name=f"fence-{agent.name}", daemon=True)
        self._fencers.append(fencer)
        fencer.start()

    def _fence(self, agent: SubAgent, reason: str) -> None:
        """End what is left of a partition, and take what its log says."""
        said = printed_last(agent.folder)
        if said:
            reason = f"{reason}; it printed: {said}"
        lost = aftermath_of(agent, reason)
        while lost is None and not self._closing.wait(FENCE_PAUSE_S):
            lost = aftermath_of(agent, reason)
        if lost is not None:
            self._lost.append(lost)
            os.eventfd_write(self._wakeup, 1)

    def take_lost(self, now: float) -> list[PartitionLost]:
        """Return what became of partitions that were fenced since the last call."""
        return [msgspec.structs.replace(self._lost.popleft(), time=now) for _ in range(len(self._lost))]

    # ------------------------------------------------------------------------------------------------------------ messages

    def serve(self, ready: Collection[int], now: float) -> None:
        """Take in what has arrived, and do what is due."""
        for descriptor in ready:
            if descriptor == self._wakeup:
                os.eventfd_read(self._wakeup)
                continue
            agent = self._by_descriptor.get(descriptor)
            if agent is None:
                continue
            running = agent.running
            if agent.link.owns(descriptor):
                self._receive(agent, now)
            elif running is not None and descriptor == running.ready_fd:
                self._drop_ready(running)
                agent.link.retry_at = now
                self._want_tick(now)
            elif running is not None and descriptor == running.ended_fd:
                self._ended(agent, now)
        if self._tick_at is not None and now >= self._tick_at:
            self._tick(now)

    def _receive(self, agent: SubAgent, now: float) -> None:
        messages = agent.link.receive(now)
        if messages:
            agent.heard_at = now
            self._heard[agent] = None
            for message in messages:
                self._hear(agent, message)
        if agent.link.retry_at is not None:
            self._want_tick(agent.link.retry_at)

    def logged(self, record: int) -> None:
        """All that was heard so far is in the log up to this record."""
        for agent in self._heard:
            agent.link.logged(record)

    def synced(self, record: int) -> None:
        """The log is on disk up to this record."""
        for agent in self._agents.values():
            agent.link.synced(record)
            agent.link.acknowledge()

    def acknowledge(self) -> None:
        """Tell those that were heard how far we are."""
        for agent in self._heard:
            agent.link.acknowledge()
        self._heard.clear()

    # ---------------------------------------------------------------------------------------------------------------- time

    def next_event(self) -> float | None:
        """Return when ``serve`` is due though nothing has arrived."""
        return self._tick_at

    def look_at_ends(self, now: float) -> None:
        """The state has changed: partitions may have to end at once."""
        self._want_tick(now)

    def _want_tick(self, at: float) -> None:
        if self._tick_at is None or at < self._tick_at:
            self._tick_at = at

    def _tick(self, now: float) -> None:
        self._tick_at = None
        for agent in list(self._agents.values()):
            if agent.is_fencing:
                continue
            if agent.look_at is not None and now >= agent.look_at:
                agent.look_at = None
                if not self._find(agent, now):
                    self._launch(agent, now)
            link = agent.link
            if link.tick(now) and agent.running is not None:
                self._sync()
                link.connect(now)
                if link.channel is not None:
                    self._by_descriptor[link.channel.fileno()] = agent
            if link.refusal:
                sys.stderr.write(f"partition {agent.name}: {link.refusal}\n")
                link.refusal = ""
            self._see_to_end(agent, now)
            for due in (link.next_event() if agent.running is not None else None, agent.look_at):
                if due is not None:
                    self._want_tick(due)

    def _see_to_end(self, agent: SubAgent, now: float) -> None:
        """Have an agent gone that has to be, and does not go by itself."""
        if agent.must_end_since is None and self._must_end(agent.record):
            agent.must_end_since = now
        since, running = agent.must_end_since, agent.running
        if since is None or running is None:
            return
        if agent.is_over and not running.outlives_head:
            # It has nothing left to do, and could be ended only with all others.
            return
        if agent.is_over:
            due = since + STOP_S
        else:
            due = max(since, agent.heard_at) + SILENT_S
            if self.hurry_since is not None:
                due = min(due, self.hurry_since + SILENT_S)
        if now < due:
            self._want_tick(due)
        elif agent.told_by_signal is None:
            agent.told_by_signal = now
            running.terminate()
            self._want_tick(now + TERM_S)
        elif now < agent.told_by_signal + TERM_S:
            self._want_tick(agent.told_by_signal + TERM_S)
        elif not agent.is_killed:
            agent.is_killed = True
            running.kill()

    def _must_end(self, record: PartitionRecord) -> bool:
        ending = self._state.ending
        if ending is not None and not ending.drain:
            return True
        told = (*record.outbox, *record.unacknowledged.values())
        return record.life == "retiring" and any(isinstance(queued, QueuedEnd) and not queued.drain for queued in told)
