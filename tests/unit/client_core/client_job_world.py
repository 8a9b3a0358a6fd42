"""A batch system for walks over the client's core: it keeps its own books of jobs, and does what the core wants of it.

Between a wish and its fulfilment anything may happen: the program dies before it has noted the id of a job, a job begins before
its submission is answered, or is cancelled while its agent says goodbye. ``resume`` is what a program does that comes back.
"""

from __future__ import annotations

import random
from typing import Protocol

from client_builders import Session

from pilotage.core.client import actions, events
from pilotage.core.client.core import Decision
from pilotage.model.ids import PilotUid
from pilotage.model.states import FINAL


class Agent(Protocol):
    """The agent of a pilot."""

    dead: bool
    goodbye: int

    def cut_off(self) -> None:
        """It is gone, with all that it runs."""


class Job:
    """A job. ``told``: its id was told to the session; ``stands``: waiting, running or over."""

    def __init__(self, name: str, number: int, pilot: str) -> None:
        self.name = name
        self.id = str(number)
        self.pilot = PilotUid(pilot)
        self.stands = "waiting"


class JobWorld:
    """The batch system, and the threads of the client that talk to it."""

    def __init__(self, session: Session, chance: random.Random, agents: dict[str, Agent]) -> None:
        self._session = session
        self._chance = chance
        self._agents = agents
        self.jobs: list[Job] = []
        self.wanted: dict[PilotUid, str] = {}
        """Submissions that are to be done, by their pilots: names of jobs."""
        self.cancels: set[PilotUid] = set()
        self._perform, session.do = session.do, self._do  # type: ignore[method-assign]

    def _do(self, event: events.Event) -> Decision:
        decision = self._perform(event)
        for action in decision.actions:
            if isinstance(action, actions.SubmitJob):
                record = self._session.state.pilots[action.pilot]
                assert record.job is not None
                self.wanted[action.pilot] = record.job.name
            elif isinstance(action, actions.CancelJob):
                self.cancels.add(action.pilot)
            elif isinstance(action, actions.FencePilot) and self._session.state.pilots[action.pilot].state not in FINAL:
                self._session.lose(action.pilot)
        return decision

    def begin(self, pilot: str) -> None:
        """A pilot is to be a job."""
        name = f"pilotage.{pilot}.{len(self.jobs)}.{self._chance.randrange(1000)}"
        self._session.do(events.JobPrepared(self._session.tick(), PilotUid(pilot), "slurm", name))

    def is_up(self, pilot: str) -> bool:
        """Tell whether an agent can be there: its job runs, or it is none."""
        record = self._session.state.pilots[PilotUid(pilot)]
        return record.job is None or any(job.pilot == pilot and job.stands == "running" for job in self.jobs)

    # what may happen

    def submit(self) -> None:
        """A job comes into the queue, or is refused; or its pilot was cancelled before, and it is not even tried."""
        for pilot in list(self.wanted)[:1]:
            name = self.wanted.pop(pilot)
            record = self._session.state.pilots[pilot]
            if (record.ending and not (record.drains and record.load)) or self._chance.random() < 0.1:
                self._agents[pilot].dead = True
                self._session.do(events.PilotLost(self._session.tick(), pilot, "refused", received=0))
                continue
            self.jobs.append(Job(name, 100 + len(self.jobs), pilot))
            if self._chance.random() < 0.8:
                self.answer(pilot)

    def answer(self, pilot: PilotUid) -> None:
        """The id of a job is told."""
        for job in self.jobs:
            if job.pilot == pilot:
                self._session.do(events.JobSubmitted(self._session.tick(), pilot, job.id))

    def start(self) -> None:
        """A job begins."""
        for job in self._some("waiting"):
            job.stands = "running"

    def tell(self) -> None:
        """The batch system tells how a job stands."""
        for job in self._some("waiting", "running"):
            state = {"waiting": "queued", "running": "running"}[job.stands]
            self._session.do(events.JobTold(self._session.tick(), job.pilot, state, self._chance.choice(["", "Priority"])))

    def end(self) -> None:
        """A job ends, and nothing of it is left; one that was cancelled, or whose agent has said goodbye, before others."""
        over = [job for job in self.jobs if job.stands != "over" and self._is_ending(job)]
        if not over and self._chance.random() < 0.2:
            over = self._some("running")
        for job in over[:1]:
            self._end(job)

    def _is_ending(self, job: Job) -> bool:
        return job.pilot in self.cancels or bool(self._agents[job.pilot].goodbye)

    def _end(self, job: Job) -> None:
        agent = self._agents[job.pilot]
        job.stands = "over"
        if not agent.goodbye:
            agent.cut_off()
        state = "cancelled" if job.pilot in self.cancels else "done" if agent.goodbye else "timed_out"
        self._session.do(events.JobTold(self._session.tick(), job.pilot, state, over=True))

    def resume(self) -> None:
        """The program died; another looks for its jobs by their names, submits what is not there, and cancels again."""
        self.wanted.clear()
        self.cancels.clear()
        for uid, record in list(self._session.state.pilots.items()):
            if record.state in FINAL or record.job is None:
                continue
            found = [job for job in self.jobs if job.name == record.job.name]
            if not found:
                self.wanted[uid] = record.job.name
            elif not record.job.id:
                self.answer(uid)
            if record.ending and record.job.id and not (record.drains and record.load):
                self.cancels.add(uid)
            for job in found:
                if job.stands == "over":
                    self._session.do(events.JobTold(self._session.tick(), uid, "unknown", over=True))

    def settle(self) -> None:
        """All submissions are done and answered, all jobs begin, and those end that are to."""
        while self.wanted:
            self.submit()
        for job in self.jobs:
            self.answer(job.pilot)
        for job in self.jobs:
            if job.stands != "over" and self._is_ending(job):
                self._end(job)
            elif job.stands == "waiting":
                job.stands = "running"

    def look(self) -> None:
        """No job waits for its turn that nobody wants."""
        for job in self.jobs:
            record = self._session.state.pilots[job.pilot]
            if job.stands == "waiting" and record.job is not None and record.job.id and record.ending and not record.drains:
                assert job.pilot in self.cancels, f"job {job.id} of {job.pilot} waits for nothing"

    def check(self) -> None:
        """No pilot had two jobs, and no job is left of a pilot that is over."""
        pilots = [job.pilot for job in self.jobs]
        assert len(pilots) == len(set(pilots)), f"pilots with several jobs: {pilots}"
        for job in self.jobs:
            record = self._session.state.pilots[job.pilot]
            assert job.stands == "over" or record.state not in FINAL, f"job {job.id} of {job.pilot} is {job.stands}"

    def _some(self, *stands: str) -> list[Job]:
        there = [job for job in self.jobs if job.stands in stands]
        return [self._chance.choice(there)] if there else []
