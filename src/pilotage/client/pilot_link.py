"""The client's link to one pilot: an ``AgentLink``, and the processes that the pilot stands on.

Until a pilot that was just started is ready its link waits; from then on only the death of the pilot's processes ends it. Of a
pilot that is a job no process can be seen from here: its link looks for the agent's address, often while the job runs and the
agent is not up, else now and then, and the end of the job ends it. All calls are made with the engine's lock.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
from pathlib import Path

from pilotage.agent.outbox import message_of
from pilotage.agent.settings import CONNECTION_FILE
from pilotage.batch.job import JobState
from pilotage.client.launcher import claimed_by
from pilotage.core.client.state import PilotRecord, Queued
from pilotage.errors import PilotageError
from pilotage.model.ids import SessionUid
from pilotage.model.states import FINAL
from pilotage.system.processes import boot_id, is_alive
from pilotage.wire.agent_link import AgentLink
from pilotage.wire.codec import encode
from pilotage.wire.keys import read_connection

_WAITING = ("", JobState.QUEUED.value, JobState.HELD.value, JobState.REQUEUED.value)
JOB_LOOK_S = 0.2
"""How long to wait before the address of an agent is looked for again that is about to come up."""
OFTEN = 150
"""How often it is looked for at that pace; from then on as often as one connects again."""
QUEUE_LOOK_S = 10.0
"""The same while the agent's job waits, as far as is known: what the batch system tells may be late."""
AT_FIRST = 50
"""So often it is looked for at the former pace all the same: on an idle machine it is up before its job is told to run."""


class PilotLink(AgentLink):
    """The link to one pilot. ``ready_fd``: of a pilot that was just started; -1 for one that may run already.

    ``key_file`` holds the key pair for pilots that are reached over the network.
    """

    def __init__(
        self,
        session: SessionUid,
        epoch: int,
        pilot: PilotRecord,
        folder: Path,
        poll: select.epoll,
        ready_fd: int,
        now: float,
        key_file: Path | None = None,
    ) -> None:
        super().__init__(
            session,
            epoch,
            folder / CONNECTION_FILE,
            poll,
            self._frame,
            last=pilot.numbered,
            unacknowledged=pilot.unacknowledged,
            durable=pilot.received,
            retry_at=None if ready_fd >= 0 else now,
            key_file=key_file,
        )
        self.pilot = pilot
        self.folder = folder
        self.process_fd = -1
        self.ready_fd = ready_fd
        self._looks = 0
        if ready_fd >= 0:
            poll.register(ready_fd, select.EPOLLIN)

    # the job

    def tick(self, now: float) -> bool:
        """Do what is due, and return True when it is time to connect; to a job that is when its agent has told its address."""
        is_time = super().tick(now)
        if is_time and self.pilot.job is not None and not self._has_address():
            self._retry_later(now)
            return False
        return is_time

    def hurry(self, now: float) -> None:
        """The agent may be up any moment."""
        if self.retry_at is not None:
            self.retry_at = now

    def _has_address(self) -> bool:
        # Opening a folder has a network file system ask for what is new in it; a name that was not there it may remember.
        try:
            return CONNECTION_FILE in os.listdir(self.folder)
        except OSError:
            return False

    def _retry_later(self, now: float) -> None:
        super()._retry_later(now)
        job = self.pilot.job
        if job is not None and self.retry_at is not None:
            waits = job.state in _WAITING
            if not self.pilot.incarnation and self._looks < (AT_FIRST if waits else OFTEN):
                self._looks += 1
                self.retry_at = now + JOB_LOOK_S
            elif waits:
                self.retry_at = now + QUEUE_LOOK_S

    # the processes

    def watch_process(self) -> bool:
        """Watch the process that the pilot stands on, its bootstrap or else its agent; return False if both are gone."""
        pilot = self.pilot
        # Of a process on another machine nothing can be seen from here, and unreachable is not dead.
        names = [(pilot.pid, pilot.started_ticks, pilot.boot_id)] if pilot.pid else []
        claimed = claimed_by(self.folder)
        if claimed is not None:
            names.append(claimed)
        try:
            connection = read_connection(self.folder / CONNECTION_FILE)
            if connection.host != socket.gethostname():
                return True
            names.append((connection.pid, connection.started_ticks, connection.boot_id))
        except (FileNotFoundError, PilotageError):
            pass
        for pid, ticks, boot in names:
            if is_alive(pid, ticks, boot):
                try:
                    self.process_fd = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue
                self._poll.register(self.process_fd, select.EPOLLIN)
                return True
        return False

    def remove_private_folder(self) -> None:
        """Remove what the agents of a pilot that was killed left where they listened; it need not be in our TMPDIR."""
        try:
            connection = read_connection(self.folder / CONNECTION_FILE)
        except (FileNotFoundError, PilotageError):
            return
        socket_path = connection.socket
        # The folders of jobs are on their nodes, which may be this machine.
        if socket_path and (self.pilot.job is None or connection.boot_id == boot_id()):
            shutil.rmtree(Path(socket_path).parent, ignore_errors=True)

    def process_ended(self) -> bool:
        """The watched process is gone; return True if the pilot is."""
        self._unwatch_process()
        return not self.watch_process()

    def agent_ready(self, now: float) -> None:
        """The pipe says that the agent is ready, or that nobody holds it any more."""
        self._forget_ready()
        self.retry_at = now

    # messages

    @property
    def was_begun(self) -> bool:
        """Whether an agent of the pilot may have taken messages."""
        return bool(self.pilot.incarnation) or self._has_address()

    def frame_of(self, number: int) -> bytes:
        """Return the frame of a message that is not known to have arrived."""
        return self._frame(number)

    def number(self, number: int, queued: Queued) -> bytes:
        """Take note of a message that is sent for the first time, and return its frame, to be sent once it is logged."""
        frame = encode(message_of(number, queued))
        self.outgoing.send(number, frame, number)
        return frame

    @property
    def takes_messages(self) -> bool:
        """Whether the pilot has not ended: then its record has no messages any more."""
        return self.pilot.state not in FINAL

    def _frame(self, number: int) -> bytes:
        return encode(message_of(number, self.pilot.unacknowledged[number]))

    # the end

    def close(self) -> None:
        """Release all descriptors; the link is over."""
        super().close()
        self._unwatch_process()
        self._forget_ready()

    def _unwatch_process(self) -> None:
        if self.process_fd >= 0:
            self._poll.unregister(self.process_fd)
            os.close(self.process_fd)
            self.process_fd = -1

    def _forget_ready(self) -> None:
        if self.ready_fd >= 0:
            self._poll.unregister(self.ready_fd)
            os.close(self.ready_fd)
            self.ready_fd = -1
