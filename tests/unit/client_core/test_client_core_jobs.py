"""Pilots that are jobs of a batch system: from the queue to the end of the job, whatever comes between."""

from __future__ import annotations

from client_builders import Session, kinds, nodes, raw, told

from pilotage.core.client import actions, events, facts
from pilotage.core.client.core import Decision
from pilotage.core.client.state import PilotRecord
from pilotage.model.ids import PilotUid
from pilotage.model.outcome import Ending
from pilotage.model.states import CANCELED, FAILED, PMGR_ACTIVE, PMGR_ACTIVE_PENDING, PMGR_LAUNCHING

PILOT = PilotUid("p")


class Queue(Session):
    """A session with one pilot, ``p``, that is a job."""

    def __init__(self, *, job: str = "") -> None:
        super().__init__("p", active=False)
        self.prepared = self.do(events.JobPrepared(self.tick(), PILOT, "slurm", "pilotage.s.p.1"))
        if job:
            self.submitted(job)

    @property
    def pilot(self) -> PilotRecord:
        return self.state.pilots[PILOT]

    def submitted(self, job: str) -> Decision:
        return self.do(events.JobSubmitted(self.tick(), PILOT, job))

    def job_told(self, state: str, reason: str = "", over: bool = False) -> Decision:
        return self.do(events.JobTold(self.tick(), PILOT, state, reason, 0.0, over))


def test_a_job_is_submitted_and_watched() -> None:
    session = Queue()
    assert kinds(session.prepared) == ["JobSubmitting"]
    assert session.prepared.actions == [actions.TellPilot(session.pilot), actions.SubmitJob(PILOT)]
    assert session.pilot.state == PMGR_LAUNCHING

    decision = session.submitted("12")

    assert decision.facts == [facts.JobSubmitted(session.time, PILOT, "12")]
    assert decision.actions == [actions.TellPilot(session.pilot), actions.WatchJob(PILOT)]
    assert session.pilot.state == PMGR_ACTIVE_PENDING
    session.check()


def test_a_job_has_one_id() -> None:
    session = Queue(job="12")
    decision = session.submitted("13")
    assert (decision.facts, decision.actions) == ([], [])


def test_what_is_told_again_is_no_news() -> None:
    session = Queue(job="12")
    assert kinds(session.job_told("queued", "Priority")) == ["JobTold"]
    assert kinds(session.job_told("queued", "Priority")) == []
    assert kinds(session.job_told("queued", "Resources")) == ["JobTold"]
    assert session.pilot.job is not None and (session.pilot.job.state, session.pilot.job.reason) == ("queued", "Resources")
    session.check()


def test_a_running_job_is_no_active_pilot() -> None:
    session = Queue(job="12")
    session.job_told("running")
    assert session.pilot.state == PMGR_ACTIVE_PENDING
    session.greet("p")
    assert session.pilot.state == PMGR_ACTIVE


def test_an_agent_may_say_hello_before_the_queue_says_that_its_job_runs() -> None:
    session = Queue()
    session.greet("p")
    session.submitted("12")
    assert session.pilot.state == PMGR_ACTIVE
    session.job_told("queued")
    assert session.pilot.state == PMGR_ACTIVE


def test_nodes_are_known_when_the_agent_has_said_them() -> None:
    session = Session()
    session.do(events.PilotSubmitted(session.tick(), "pmgr.0000", PILOT, raw({}), nodes(8), estimated=True))
    assert session.state.pilots[PILOT].known_nodes == []
    session.check()
    session.greet("p")
    assert session.state.pilots[PILOT].known_nodes == nodes(8)
    session.check()


# ----- ends -----------------------------------------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_at_once() -> None:
    session = Queue(job="12")
    assert actions.CancelJob(PILOT, at_once=True) in session.end_pilot("p").actions


def test_a_pilot_that_drains_waits_in_the_queue_for_its_tasks() -> None:
    session = Queue(job="12")
    session.submit("a")
    assert not cancels(session.end_pilot("p", drain=True))
    # Now at once.
    assert cancels(session.end_pilot("p")) == [True]


def test_a_pilot_that_drains_without_tasks_is_cancelled() -> None:
    session = Queue(job="12")
    assert cancels(session.end_pilot("p", drain=True)) == [True]


def test_an_agent_is_told_to_end_before_its_job_is_cancelled() -> None:
    session = Queue(job="12")
    session.greet("p")
    decision = session.end_pilot("p")
    assert actions.OfferMessages(PILOT) in decision.actions
    assert cancels(decision) == [False]
    assert not cancels(session.end_pilot("p", drain=True))


def test_a_pilot_that_was_cancelled_while_it_was_submitted_is_cancelled_when_it_has_an_id() -> None:
    session = Queue()
    assert cancels(session.end_pilot("p")) == [True]
    decision = session.submitted("12")
    assert cancels(decision) == [True]
    assert actions.WatchJob(PILOT) in decision.actions


def test_one_that_drains_is_not() -> None:
    session = Queue()
    session.submit("a")
    session.end_pilot("p", drain=True)
    assert not cancels(session.submitted("12"))


def test_a_job_that_turns_up_after_its_pilot_was_given_up_is_cancelled() -> None:
    session = Queue()
    session.lose("p")
    decision = session.submitted("12")
    assert cancels(decision) == [True]
    assert session.pilot.state == FAILED
    session.check()


def test_the_end_of_a_job_is_told_and_then_its_log_has_the_last_word() -> None:
    session = Queue(job="12")
    session.greet("p")
    session.submit("a")
    decision = session.job_told("timed_out", "TimeLimit", over=True)
    assert kinds(decision) == ["JobTold"]
    assert decision.actions == [actions.FencePilot(PILOT)]
    assert session.pilot.state == PMGR_ACTIVE

    session.lose("p")

    assert session.pilot.state == FAILED
    assert session.pilot.job is not None and session.pilot.job.state == "timed_out"
    assert session.ending_of("a") is Ending.LAUNCH_FAILED
    session.check()


def test_a_job_that_is_not_listed_any_more_is_over_when_that_is_said_again() -> None:
    session = Queue(job="12")
    assert session.job_told("unknown", "not listed").actions == []
    decision = session.job_told("unknown", "not listed", over=True)
    assert (decision.facts, decision.actions) == ([], [actions.FencePilot(PILOT)])


def test_a_job_that_is_refused_fails_its_pilot_and_its_tasks_say_why() -> None:
    session = Queue()
    session.submit("a")
    decision = session.do(events.PilotLost(session.tick(), PILOT, "its job could not be submitted: no", received=0))
    assert session.pilot.state == FAILED
    assert told(decision) == ["a"]
    outcome = session.state.tasks[next(iter(session.state.tasks))].outcome
    assert outcome is not None and outcome.ending is Ending.LAUNCH_FAILED
    assert "its job could not be submitted: no" in outcome.message


def test_a_cancelled_job_is_a_canceled_pilot() -> None:
    session = Queue(job="12")
    session.end_pilot("p")
    session.job_told("cancelled", over=True)
    session.lose("p")
    assert session.pilot.state == CANCELED


def test_closing_the_session_cancels_waiting_jobs() -> None:
    session = Queue(job="12")
    assert cancels(session.do(events.SessionClosing(session.tick()))) == [True]


def test_a_pilot_may_be_told_to_end_as_one_that_failed() -> None:
    session = Queue(job="12")
    session.greet("p")
    session.do(events.PilotCancelRequested(session.tick(), [PILOT], drain=False, failure="its job is over"))
    session.goodbye("p", CANCELED, "told to end")
    assert (session.pilot.state, session.pilot.reason) == (FAILED, "its job is over; told to end")


def test_all_of_it_comes_back_from_the_log() -> None:
    session = Queue(job="12")
    session.job_told("queued", "Priority")
    session.crash()
    assert session.pilot.job is not None
    assert (session.pilot.job.id, session.pilot.job.name, session.pilot.job.reason) == ("12", "pilotage.s.p.1", "Priority")
    session.check()


def cancels(decision: Decision) -> list[bool]:
    """Return for each job that is to be cancelled whether that is at once."""
    return [action.at_once for action in decision.actions if isinstance(action, actions.CancelJob)]
