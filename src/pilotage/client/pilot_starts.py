"""How pilots begin for the client: as processes here, or as jobs; and how those of an earlier program are found again.

Each pilot that is not known to have ended has a link from then on. Of a pilot that a dead program left between two steps the
log and the pilot's folder say how far it came: it is gone on from there, so that no pilot is started twice.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from pilotage.batch.job import JobState
from pilotage.client.background import Background
from pilotage.client.batch_jobs import BatchJobs
from pilotage.client.job_specs import JOB_SCRIPT
from pilotage.client.launcher import PreparedJob, StartedPilot, claimed_by
from pilotage.client.pilot_ends import PilotEnds
from pilotage.client.pilot_link import PilotLink
from pilotage.client.steps import Steps
from pilotage.core.client import events
from pilotage.core.client.state import PilotRecord
from pilotage.errors import PilotageError
from pilotage.model.ids import PilotUid
from pilotage.model.states import FINAL


class Starter(Protocol):
    """Who knows how a pilot is started, and where; called with the lock."""

    def start_pilot(self, record: PilotRecord) -> StartedPilot | PreparedJob:
        """Start this pilot, or write all that its job needs."""
        ...

    def pilot_folder(self, record: PilotRecord) -> Path:
        """Return the folder of this pilot."""
        ...


class PilotStarts:
    """The beginnings of the pilots of one session. All calls are made with the lock.

    ``epoch`` is the lease's; ``key_file`` holds the key pair for pilots that are reached over the network.
    """

    def __init__(
        self,
        steps: Steps,
        background: Background,
        jobs: BatchJobs,
        ends: PilotEnds,
        starter: Starter,
        epoch: int,
        key_file: Path | None,
    ) -> None:
        self._steps = steps
        self._background = background
        self._jobs = jobs
        self._ends = ends
        self._starter = starter
        self._epoch = epoch
        self._key_file = key_file

    def start(self, pilot: PilotUid) -> None:
        """Start a pilot's processes, or prepare its job."""
        steps = self._steps
        record = steps.state.pilots[pilot]
        try:
            started = self._starter.start_pilot(record)
        except PilotageError as error:
            steps.handle(events.PilotLost(time.time(), pilot, str(error), received=0))
            return
        if isinstance(started, PreparedJob):
            steps.handle(events.JobPrepared(time.time(), pilot, started.system, started.name))
            return
        steps.handle(events.PilotProcessStarted(time.time(), pilot, started.pid, started.started_ticks, started.boot_id))
        self._link(record, started.ready_fd)
        self._background.start()

    def submit_job(self, pilot: PilotUid) -> None:
        """Submit a pilot's job, which is prepared."""
        # Were the job's name lost with this machine, nobody would ever find the job.
        self._steps.log.sync()
        record = self._steps.state.pilots[pilot]
        self._link(record, -1)
        self._jobs.submit(record, self._script_of(record))
        self._background.start()

    def watch_job(self, pilot: PilotUid) -> None:
        """Ask for a pilot's job, which is submitted, from now on."""
        record = self._steps.state.pilots[pilot]
        self._jobs.watch(record, self._script_of(record))

    def find_all(self) -> None:
        """After a resume: look for the pilots that are not known to have ended."""
        for record in list(self._steps.state.pilots.values()):
            if record.state in FINAL:
                continue
            if record.job is not None:
                self._find_job(record)
                continue
            if not record.pid:
                # The program before this one died on its way from deciding on the pilot to noting its process.
                claimed = claimed_by(self._starter.pilot_folder(record))
                if claimed is None:
                    self.start(record.uid)
                    continue
                self._steps.handle(events.PilotProcessStarted(time.time(), record.uid, *claimed))
            self._link(record, -1)
        if self._steps.links:
            self._background.start()

    def _find_job(self, record: PilotRecord) -> None:
        """Go on with a pilot that is a job, wherever the program before this one left it."""
        self._link(record, -1)
        job, script = record.job, self._script_of(record)
        if job is None or not job.id:
            self._jobs.submit(record, script, anew=True)
            return
        if job.state and JobState(job.state).is_final:
            self._ends.job_over(record.uid)
            return
        self._jobs.watch(record, script)
        if record.ending and not (record.drains and record.load):
            self._jobs.cancel(record.uid, at_once=not record.incarnation)

    def _script_of(self, record: PilotRecord) -> Path:
        return self._starter.pilot_folder(record) / JOB_SCRIPT

    def _link(self, record: PilotRecord, ready_fd: int) -> None:
        now, poll = time.monotonic(), self._background.poll
        folder = self._starter.pilot_folder(record)
        link = PilotLink(self._steps.session, self._epoch, record, folder, poll, ready_fd, now, self._key_file)
        self._steps.links[record.uid] = link
        if record.job is not None or link.watch_process():
            self._background.poke()
        else:
            self._ends.gone(link)
