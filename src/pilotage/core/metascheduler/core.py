"""The metascheduler's state machine: one event in, facts and actions out.

It is the agent of a pilot that has a plan. To its client it speaks as any agent does: the same events come from the client's
messages, the same actions answer them. To each partition it speaks as a client does: the partition's agent is an ordinary one
(``AgentCore`` over all nodes of the pilot, with a policy that has the partition's own), a *lease* stands where its binding
would, and a partition's log is an agent's log. What is new between the two is that nodes move.

How it is driven. The shell writes the facts of a step to the log as one record, only then performs the actions, and tells what
comes of them:

* ``StartPartition``: start the partition's agent or find it again, say hello; then ``PartitionGreeted``, after each hello. The
  hello has the partition's ``received``, and of what is unacknowledged what its answer lacks is sent again.
* ``OfferMessages``: when its link takes a message, ``PartitionLinkOpened`` with the link's next number; ``SendMessage``
  follows, for what is then ``partitions[name].unacknowledged[number]``: tasks, cancels, the end, an environment (as a client
  sends them), or nodes (``GrantNodes``, ``ReclaimNodes``), or a request for tasks (``RecallTasks``).
* What arrives: ``OutcomesArrived``, ``NodesReturned``, ``TasksGivenBack`` and ``PartitionEndArrived`` for numbered messages (a
  gap breaks the connection, as in the client), ``PartitionAcknowledged``, ``ProgressTold``.
* ``DisconnectPartition``: the partition is over; its agent may exit.
* A partition whose agent is gone and does not come back is *fenced* first: its processes are known to be gone. Then
  ``PartitionLost``, with what ``aftermath`` reads from its log (``delivered``: the partition's ``received``).
* ``SendOutcomes``, ``SendPilotEnded``, ``TellService``: as of an agent. ``TellStarted``, ``TellUnloading``: progress.

The life of a task here::

    accepted -> waits -> leased to a partition -> final, numbered for the client -> delivered, forgotten
                  ^               |
                  +-- released ---+   (the partition is over, or gave it back: never began, or may run again)

The core's parts write what they decide to one ``Journal``: ``Tasks`` takes tasks in and gives them their outcomes, ``Queue``
has those that wait, ``Routing`` leases them, ``Partitions`` come and go, as the plan says or ``Changes`` of it, ``Balance``
moves nodes between them and ``Recalls`` what waits in one while another is idle, and ``Delivery``, an agent's, sees outcomes
to the client. ``JobEnd`` has all of that stand still when the batch system ends the pilot's job.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pilotage.core.agent.delivery import Delivery
from pilotage.core.agent.idleness import Idleness
from pilotage.core.agent.walltime import OVER
from pilotage.core.metascheduler import events, facts
from pilotage.core.metascheduler.backlogs import Backlog
from pilotage.core.metascheduler.balance import Balance
from pilotage.core.metascheduler.changes import Changes
from pilotage.core.metascheduler.fitting import Fitting
from pilotage.core.metascheduler.gangs import Gangs
from pilotage.core.metascheduler.inquiry import Inquiry
from pilotage.core.metascheduler.job_end import JobEnd
from pilotage.core.metascheduler.journal import Journal, Step
from pilotage.core.metascheduler.partitions import Partitions
from pilotage.core.metascheduler.plan import check_plan
from pilotage.core.metascheduler.queue import Queue
from pilotage.core.metascheduler.recalls import Recalls
from pilotage.core.metascheduler.routing import Routing
from pilotage.core.metascheduler.state import MetaschedulerState
from pilotage.core.metascheduler.tasks import STOPPED, Tasks
from pilotage.errors import unreachable
from pilotage.model.ids import Attempt, Binding, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.partitions import Load, PartitionSpec, PartitionStatus
from pilotage.model.resources import Node
from pilotage.model.states import CANCELED, DONE, FAILED

__all__ = ["MetaschedulerCore", "Step"]


class MetaschedulerCore:
    """Decides for one pilot with a plan. Drive it with ``handle``; read ``next_deadline`` to know when time is an event.

    ``plan`` is how the pilot begins; what a log holds counts more. ``nodes`` are all nodes of the pilot, beside which so many
    as are ``missing`` did not come: then it begins with a plan that is shrunk. ``deadline`` (seconds since the epoch, None for
    no limit) is when the pilot ends itself; it also does after ``idle_timeout_s`` without anything to do (0.0: never).
    ``release_idle_s``: a partition that had nothing to do for so long is let go (None: never); it is started again when tasks
    need it; a partition's own ``idle_timeout_s`` comes before it. ``barrier``: no tasks but services go to partitions before so
    many tasks have arrived, or the pilot is to end. ``drain_s``: for how long tasks may go on when the batch system ends the
    pilot's job.

    Raises:
        InvalidPilot: the plan cannot be had; see ``plan.check_plan``.
    """

    def __init__(
        self,
        plan: Sequence[PartitionSpec],
        nodes: Sequence[Node],
        *,
        deadline: float | None = None,
        idle_timeout_s: float = 0.0,
        release_idle_s: float | None = None,
        barrier: int = 0,
        drain_s: float = 0.0,
        missing: int = 0,
        state: MetaschedulerState | None = None,
    ) -> None:
        check_plan(plan, nodes, missing)
        self.state = state if state is not None else MetaschedulerState()
        self._plan = plan
        self._deadline = deadline
        self._out_of_time = False
        """Whether a partition has ended as its time was over: they drain, so that this may be before the deadline."""
        self._journal = journal = Journal(self.state)
        self._backlogs: dict[str, Backlog] = {}
        self._delivery = Delivery(journal)
        # What partitions prepare they prepare for tasks that are here, or soon will be.
        self._idleness = Idleness(self.state, idle_timeout_s, lambda: False)
        self._fitting = fitting = Fitting(self.state, nodes)
        self._queue = queue = Queue(self.state, fitting, self._backlogs)
        self._tasks = tasks = Tasks(journal, queue, self._backlogs, self._delivery)
        self._routing = Routing(journal, queue)
        self._partitions = Partitions(journal, nodes, fitting, queue, self._backlogs, tasks, missing)
        self._changes = Changes(journal, nodes, queue, self._partitions, tasks)
        self._balance = Balance(journal, fitting, queue, self._backlogs, self._partitions, self._changes, release_idle_s)
        self._gangs = Gangs(journal, tasks, self._partitions)
        self._recalls = Recalls(journal, queue, self._backlogs, self._partitions, tasks)
        self._job_end = JobEnd(self.state, drain_s)
        self._barrier = barrier
        self._inquiry = Inquiry(self.state, queue, self._backlogs, tasks, barrier)

    # ---------------------------------------------------------------------------------------------------- the surface

    def handle(self, event: events.Event) -> Step:
        """Decide what the event means, fold the facts into the state, and return them with the actions they call for."""
        now = event.time
        # The partitions' time is over, too; what they cancel for that is not to go elsewhere.
        if self._deadline is not None and now >= self._deadline and self._may_end_sooner:
            self._end_in_time(now)
        match event:
            case events.OutcomesArrived():
                self._partitions.outcomes_arrived(event)
            case events.TasksSubmitted():
                if self._is_new(event.number):
                    self._tasks.submitted(event)
            case events.OutcomesReceived():
                self._delivery.received(event.durable)
            case events.LinkOpened():
                self._delivery.number(now)
            case events.PartitionLinkOpened():
                self._partitions.link_opened(event)
            case events.PartitionAcknowledged():
                self._partitions.acknowledged(event)
            case events.ProgressTold():
                self._partitions.told_progress(event)
                if event.load is not None:
                    self._recalls.note_load()
            case events.CancelRequested():
                if not event.number or self._is_new(event.number):
                    self._tasks.cancel(event)
                    self._partitions.offer_all()
            case events.EndRequested():
                if not event.number or self._is_new(event.number):
                    self._end_requested(event)
            case events.EnvironmentAsked():
                if self._is_new(event.number):
                    self._environment_asked(event)
            case events.PartitionGreeted():
                self._partitions.greeted(event)
            case events.NodesReturned():
                self._partitions.nodes_returned(event)
            case events.TasksGivenBack():
                self._recalls.given_back(event)
            case events.PartitionEndArrived():
                self._out_of_time |= event.out_of_time
                self._partitions.said_goodbye(event)
            case events.PartitionLost():
                # Its agents may have gone with the job; what its log says is read again when that is over.
                if not self._job_end.came:
                    self._partitions.lost(event)
            case events.JobEnding():
                self._job_end.begin(now, event.reason, event.until)
            case events.PartitionAsked():
                if not event.number or self._is_new(event.number):
                    self._changes.partition_asked(event)
            case events.RetirementAsked():
                if not event.number or self._is_new(event.number):
                    self._changes.retirement_asked(event)
            case events.TimePassed():
                if self.idle_end is not None and now >= self.idle_end:
                    self._journal.emit(facts.PilotEnding(now, 0, True, DONE, self._idleness.reason, idle=True))
            case _:
                unreachable(event)
        self._follow_up(now)
        return self._journal.take()

    def _follow_up(self, now: float) -> None:
        """Do what the state as it is now calls for, whatever the event was."""
        if self._tasks.gang_of or self._tasks.gangs_ended:
            self._gangs.look(now)
        if self._job_end.came:
            self._tasks.serve(now)
            return
        if self.state.ending is not None:
            self._go_on_ending(now)
        elif self.state.is_bereft and self._out_of_time:
            self._end_in_time(now)
        elif self.state.is_bereft:
            self._give_up(now)
        self._tasks.serve(now)
        self._settle(now)
        self._changes.look(now)
        self._balance.look(now)
        self._recalls.look(now)
        if self._queue.is_stale:
            self._settle(now)
        self._idleness.look(now)

    def _settle(self, now: float) -> None:
        """Let tasks go where they can run, and refuse those that nowhere can any more."""
        while True:
            if self._queue.is_stale:
                for group, reason in self._queue.refile():
                    self._tasks.refuse(now, group, reason)
            self._routing.deal(now, services_only=self._barrier > 0 and self._is_barred())
            if not self._queue.is_stale:
                return

    def _is_barred(self) -> bool:
        """Tell whether tasks wait for others to arrive."""
        if self.state.ending is not None or self._inquiry.arrived >= self._barrier:
            self._barrier = 0
        return self._barrier > 0

    def performed(self) -> None:
        """All actions of all steps so far have been performed: nothing here depends on it."""

    def start(self, now: float) -> Step:
        """Begin, or begin again after a recovery: see to it that the agents of all partitions run."""
        self._partitions.begin(now, self._plan)
        return self.handle(events.TimePassed(now))

    def recover(self, now: float) -> None:
        """Rebuild from the state what is derived from it. Call once, after the log was applied and before ``start``."""
        self._partitions.recover(now)
        self._changes.recover()
        self._tasks.recover()
        self._delivery.recover()
        # Where tasks fit is found when all of them, and all partitions, are known.
        self._queue.is_stale = True

    def quarantine(self, now: float, uids: Iterable[TaskUid], message: str) -> None:
        """End these tasks as lost, whatever they do. Call it after ``recover``; what comes of it is part of the next step."""
        known = [uid for uid in dict.fromkeys(uids) if uid in self.state.tasks]
        self._tasks.ask(now, 0, known, Ending.LOST, message)

    def next_deadline(self) -> float | None:
        """Return the time (seconds since the epoch) at which ``TimePassed`` is due even if nothing else happens."""
        if self._job_end.came:
            return self._job_end.due
        end = self._deadline if self._may_end_sooner else None
        dues = (self._balance.next_look(), self._recalls.next_look(), self._idleness.due, end)
        return min((due for due in dues if due is not None), default=None)

    @property
    def idle_end(self) -> float | None:
        """When the pilot ends for having nothing to do (seconds since the epoch), if nothing happens; None: it does not."""
        return None if self._job_end.came else self._idleness.due

    @property
    def _may_end_sooner(self) -> bool:
        if self._job_end.came:
            return False
        return self.state.ending is None or (self.state.ending.drain and self.state.busy)

    @property
    def stale(self) -> int:
        """How many messages were ignored, as they name what is no longer, or not yet."""
        return self._journal.stale

    @property
    def finished(self) -> bool:
        """Whether the pilot was to end, holds no more tasks, and all partitions are over."""
        return self._delivery.finished

    def is_left(self, now: float) -> bool:
        """Tell whether the batch system ends the job, and partitions are not waited for any longer."""
        return self._job_end.is_left(now)

    @property
    def has_news(self) -> bool:
        """Whether ``LinkOpened`` would make a message for the client."""
        return self._delivery.has_news

    @property
    def told(self) -> bool:
        """Whether the client has on disk that the pilot ended, and all before."""
        return self._delivery.told

    def running(self) -> list[tuple[TaskUid, Binding, Attempt, float]]:
        """Return the tasks that are known to run, as the client is told: ``(task, binding, attempt, started)``."""
        tasks, unloading = self.state.tasks, self._tasks.unloading
        known = self._tasks.running.items()
        return [(uid, tasks[uid].binding, attempt, at) for uid, (attempt, at) in known if uid not in unloading]

    def unloading(self) -> list[tuple[TaskUid, Binding, Attempt]]:
        """Return the tasks whose output is known to be staged, as the client is told: ``(task, binding, attempt)``."""
        return [(uid, self.state.tasks[uid].binding, attempt) for uid, attempt in self._tasks.unloading.items()]

    def ready_services(self) -> list[tuple[TaskUid, Binding, Attempt, str]]:
        """Return the services that are ready, as the client is told: ``(task, binding, attempt, info)``."""
        state, known = self.state, self._tasks.running
        unknown = (Attempt(0), 0.0)
        return [
            (uid, state.tasks[uid].binding, known.get(uid, unknown)[0], info)
            for uid, info in state.services.items()
            if uid in state.tasks
        ]

    def load(self) -> Load:
        """Return how busy the pilot is: what its partitions told last, and what waits here."""
        return self._inquiry.load()

    def summary(self) -> dict[str, str | int | float | list[str]]:
        """Return counts for reports: tasks by what becomes of them, and how each partition is."""
        return self._inquiry.summary()

    def partitions(self) -> list[PartitionStatus]:
        """Return how each partition is that there is, was, or is to be."""
        return self._inquiry.partitions()

    def against_addition(self, spec: PartitionSpec) -> str:
        """Return why a partition cannot be added now; empty: it can."""
        return self._changes.against_addition(spec)

    def against_retirement(self, name: str, drain: bool) -> str:
        """Return why a partition cannot be retired now; empty: it can."""
        return self._changes.against_retirement(name, drain)

    def doing(self, uid: TaskUid) -> str:
        """Return in a word or two what the task does: "waiting", "leased", "running" ..."""
        return self._inquiry.doing(uid)

    def why(self, uid: TaskUid) -> str:
        """Return in a sentence what the task waits for, or does."""
        return self._inquiry.why(uid)

    # ------------------------------------------------------------------------------------------------------ from the client

    def _is_new(self, number: int) -> bool:
        """Tell whether the client's message of this number is not in the log yet."""
        if number > self.state.received:
            return True
        self._journal.stale += 1
        return False

    def _environment_asked(self, event: events.EnvironmentAsked) -> None:
        self._journal.emit(facts.EnvironmentAsked(event.time, event.number, event.name, event.spec))
        self._partitions.offer_all()
        self._queue.is_stale |= event.name in self._queue.held

    def _end_requested(self, event: events.EndRequested) -> None:
        # Only a client that ends the pilot early cancels it; a pilot whose time is over has done its work.
        state = FAILED if event.failed else CANCELED if event.number and not event.drain else DONE
        self._end(event.time, event.number, event.drain, state, event.reason)

    def _end(self, now: float, number: int, drain: bool, state: str, reason: str) -> None:
        before = self.state.ending
        if self.state.ended or (before is not None and (drain or not before.drain)):
            if number:
                self._tasks.note_number(now, number)
            return
        self._journal.emit(facts.PilotEnding(now, number, drain, state, reason))
        if not drain:
            waiting = [uid for uid, task in self.state.tasks.items() if not task.partition]
            self._tasks.end(now, waiting, Ending.CANCELLED, reason)
            self._partitions.retire_all(now, False, reason)

    def _end_in_time(self, now: float) -> None:
        """The pilot's time is over: what has no outcome is the client's again."""
        self._journal.emit(facts.PilotEnding(now, 0, False, DONE, OVER, idle=True, out_of_time=True))
        self._tasks.give_up(now, [uid for uid, task in self.state.tasks.items() if not task.partition], OVER)
        self._partitions.retire_all(now, False, OVER)

    def _go_on_ending(self, now: float) -> None:
        """Let a pilot that drains end its partitions once nothing but services is left in them."""
        state, ending = self.state, self.state.ending
        if ending is None or not ending.drain:
            return
        if state.is_bereft:
            self._tasks.give_up(now, [uid for uid, task in state.tasks.items() if not task.partition], "no partition is left")
            self._partitions.retire_all(now, True, ending.reason)
            return
        for name, groups in list(self._queue.held.items()):
            why = "nobody had asked for it when the pilot began to end; Pilot.prepare_env prepares one"
            for group in list(groups.values()):
                uids = self._queue.drop(group)
                self._tasks.end(now, uids, Ending.LAUNCH_FAILED, f"the environment {name!r} cannot be had: {why}")
        if len(self._tasks.services) == len(state.tasks):
            waiting = [uid for uid, task in state.tasks.items() if not task.partition]
            self._tasks.end(now, waiting, Ending.CANCELLED, f"{STOPPED}: {ending.reason}")
            self._partitions.retire_all(now, True, ending.reason)

    def _give_up(self, now: float) -> None:
        """No partition is left that could run anything: let others than this pilot have the tasks."""
        partitions = self.state.partitions
        if any(each.nodes for each in partitions.values()):
            # One of those that end still runs tasks.
            return
        lost = [f"{name} ({record.reason})" for name, record in partitions.items() if record.life == "lost"]
        reason = f"no partition is left; lost were {', '.join(lost)}" if lost else "no node is left; all were lost"
        self._journal.emit(facts.PilotEnding(now, 0, False, FAILED, reason, idle=True))
        self._tasks.give_up(now, [uid for uid, task in self.state.tasks.items() if not task.partition], reason)
        self._partitions.retire_all(now, False, reason)
