"""The witness of ``agent_world``: what begins, ends, is staged and prepared over all lives of the agent, and what may be."""

from __future__ import annotations

from agent_world_client import ENVIRONMENTS, Client, retries_of
from agent_world_needs import Needs
from agent_world_runners import Process
from agent_world_surroundings import Surroundings

from pilotage.core.agent import facts
from pilotage.core.agent.core import AgentCore
from pilotage.core.agent.retry import ENDINGS
from pilotage.core.agent.state import AgentState
from pilotage.model.execution import Execution
from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.workload import SHARED_SANDBOX, Template


class Witness:
    """Stands outside of the agent. It reads each fact as it is written, and is told what happens where it happens."""

    now: float
    deaths: int
    idle_timeout_s: float
    barrier: int
    deadline: float | None
    drain_s: float
    client: Client
    core: AgentCore
    shadow: AgentState
    surroundings: Surroundings
    needs: Needs
    processes: dict[RunnerId, Process]

    def __init__(self) -> None:
        self.launched: set[Execution] = set()
        self.begun: dict[Execution, RunnerId] = {}
        self.begun_at: dict[Execution, float] = {}
        self.proven: set[Execution] = set()
        """Executions of which a dead runner left proof that they never began."""
        self.begins: dict[TaskUid, list[Execution]] = {}
        self.alive: dict[TaskUid, Execution] = {}
        self.endings: dict[Execution, Ending] = {}
        self.exit_codes: dict[Execution, int] = {}
        self.quarantined: set[TaskUid] = set()
        self.final: dict[TaskUid, Outcome] = {}
        self.cancel_logged: set[TaskUid] = set()
        self.end_asked: set[TaskUid] = set()
        """Tasks, not attempts, that were to be ended, according to the log."""
        self.ready: set[Execution] = set()
        self.staged_in: set[TaskUid] = set()
        self.staged_out: set[Execution] = set()
        self.cleaned: dict[TaskUid, Attempt] = {}
        self.failed: set[TaskUid] = set()
        """Tasks of which some file could not be staged."""
        self.prepared: set[str] = set()
        """Environments of which the log says that they are there."""
        self.unprepared: set[str] = set()
        """Environments that could not be had, at some time."""
        self.unwell: set[Execution] = set()
        self.late: set[TaskUid] = set()
        """Tasks that came when the pilot had begun to end, as it was idle: the client will bind them elsewhere."""
        self.left: set[TaskUid] = set()
        """Tasks of which an attempt was cut short as the pilot's time was over: the client's again, too."""
        self.signalled: set[Execution] = set()
        self.walltime_ends = self.early_ends = 0
        self.busy_at = 0.0
        """When the pilot had something to do, or heard of its client, last."""
        self.idle_ends = self.barriers = 0
        self.stagings = self.preparations = self.pauses = self.put_off = 0

    def read_fact(self, fact: facts.Fact) -> None:
        """Judge a fact as it is written."""
        if isinstance(fact, facts.TasksAccepted):
            if self.shadow.ending is not None and self.shadow.ending.idle:
                self.late.update(row.uid for row in fact.batch.rows)
        elif isinstance(fact, facts.DrainBegun):
            assert not self.shadow.draining and self.deadline is not None
            assert self.now >= self.deadline - self.drain_s, "the drain began too soon"
        elif isinstance(fact, facts.PilotEnding) and fact.out_of_time:
            self.judge_end_of_time()
        elif isinstance(fact, facts.TasksLeft):
            self.judge_left(fact)
        elif isinstance(fact, facts.PilotEnding) and fact.idle:
            self.idle_ends += 1
            assert self.is_idle(), f"the pilot ends as idle, and has {self.shadow.tasks}"
            assert self.now - self.busy_at > self.idle_timeout_s - 1e-6 > 0, f"idle for {self.now - self.busy_at} s"
        elif isinstance(fact, facts.LaunchRequested):
            assert not self.shadow.draining, "tasks are launched though the pilot's time is nearly over"
            arrived = self.shadow.outcomes + len(self.shadow.tasks)
            uids = [uid for launch in fact.lanes for uid, _ in launch.tasks]
            if self.barrier and any(self.client.tasks[uid].service is None for uid in uids):
                self.barriers += 1
                over = self.shadow.ending is not None
                assert arrived >= self.barrier or over, f"{uids} are launched, {arrived} of {self.barrier} have arrived"
            for launch in fact.lanes:
                for uid, attempt in launch.tasks:
                    assert uid not in self.final, f"{uid} is launched again after its outcome"
                    assert uid not in self.cancel_logged, f"{uid} is launched again after it was cancelled"
                    assert uid not in self.shadow.inputs, f"{uid} is launched before its input is staged"
                    assert uid not in self.shadow.outputs, f"{uid} is launched while its output is staged"
                    assert (uid, attempt) not in self.launched, f"attempt {attempt} of {uid} is launched twice"
                    self.needs.judge_launch(uid, self.shadow)
                    self.launched.add((uid, attempt))
        elif isinstance(fact, facts.EndAsked) and fact.ending in (Ending.CANCELLED, Ending.LOST):
            self.cancel_logged.update(fact.tasks)
            self.end_asked.update(fact.tasks)
        elif isinstance(fact, facts.EndAsked) and fact.ending is Ending.DONE:
            self.judge_stop(fact.tasks)
        elif isinstance(fact, facts.EndAsked) and fact.ending is Ending.EXITED:
            for uid in fact.tasks:
                assert (uid, self.shadow.tasks[uid].attempt) in self.unwell, f"{uid} was not unwell"
                assert uid in self.shadow.services, f"{uid} was never ready"
        elif isinstance(fact, facts.EndAsked) and fact.ending is Ending.TIMED_OUT:
            for uid in fact.tasks:
                if (uid, self.shadow.tasks[uid].attempt) in self.unwell and uid not in self.shadow.services:
                    continue
                execution = (uid, self.shadow.tasks[uid].attempt)
                lasted = self.now - self.begun_at[execution]
                assert lasted > self.client.tasks[uid].timeout_s - 1e-6, f"{execution} is out of time after {lasted} s"
        elif isinstance(fact, facts.EnvironmentPrepared) and not fact.error:
            self.prepared.add(fact.name)
        elif isinstance(fact, facts.ServiceReady):
            self.ready.add((fact.service, fact.attempt))
        elif isinstance(fact, facts.Repeated):
            for uid in fact.tasks:
                assert uid not in self.cancel_logged, f"{uid} is repeated after it was cancelled"
        elif isinstance(fact, facts.Ended):
            for outcome in fact.outcomes:
                assert outcome.task not in self.final, f"{outcome.task} has two outcomes in the log"
                self.final[outcome.task] = outcome
                extra = self.client.rows[outcome.task].extra
                if outcome.ending is Ending.DONE and extra is not None and extra.output_staging:
                    assert outcome.task not in self.end_asked, f"{outcome.task} was to end before its output was staged"
                jobs = self.surroundings.jobs
                assert not any((phase, outcome.task) in jobs for phase in ("input", "output")), (
                    f"{outcome.task} is staged still"
                )

    def judge_end_of_time(self) -> None:
        """The pilot's time is over; or it drains, and nothing but services is left to run or to stage."""
        assert self.deadline is not None and (self.shadow.ending is None or self.shadow.ending.drain)
        self.walltime_ends += 1
        if self.now >= self.deadline - 0.5 * self.drain_s:
            return
        self.early_ends += 1
        assert self.shadow.draining and not self.shadow.outputs, "the pilot ends before its time"
        lanes = self.shadow.lanes.values()
        held = [uid for lane in lanes for uid in lane.tasks if self.client.tasks[uid].service is None]
        assert not held, f"the pilot ends before its time, and has {held}"

    def judge_left(self, fact: facts.TasksLeft) -> None:
        """What waits is not under way, what was cut short may begin again, and nobody wanted these to end."""
        ending = self.shadow.ending
        over = ending is not None and ending.out_of_time
        for uid in (*fact.waiting, *(uid for uid, _ in fact.begun)):
            assert uid not in self.final and uid not in self.cancel_logged, f"{uid} is the client's again, which has it already"
            assert uid not in self.alive or not self.processes[self.begun[self.alive[uid]]].alive, f"{uid} is left, and runs"
        for uid in fact.waiting:
            assert over, f"{uid} is left before the pilot's time is over"
            self.late.add(uid)
        for uid, failures in fact.begun:
            assert over or self.shadow.draining, f"{uid} is left though there is time"
            template, task = self.client.tasks[uid], self.shadow.tasks[uid]
            assert template.restartable or task.failures < retries_of(template), f"{uid} may not begin again"
            assert failures - task.failures in ((0, 1) if template.restartable else (1,))
            self.left.add(uid)

    def is_idle(self) -> bool:
        return self.shadow.tasks.keys() <= self.shadow.services.keys()

    def judge_stop(self, services: list[TaskUid]) -> None:
        """Services are stopped with their pilot only, and a draining one must have nothing else to do."""
        ending = self.shadow.ending
        assert ending is not None, f"{services} are stopped, and the pilot goes on"
        others = [uid for uid in self.shadow.tasks if self.client.tasks[uid].service is None]
        for uid in services:
            assert self.client.tasks[uid].service is not None
            if ending.drain:
                assert not others, f"{uid} is stopped while {others} are there"
            else:
                assert uid in self.shadow.services, f"{uid} was not ready when the pilot ended at once"

    def note_begin(self, process: Process, execution: Execution) -> None:
        uid, _ = execution
        assert uid not in self.late and uid not in self.left, f"{uid} begins, though the pilot had begun to end"
        assert execution not in self.begun, f"{execution} begins twice, on {self.begun[execution]} and on {process.name}"
        assert uid not in self.alive, f"{execution} begins on {process.name} while {self.alive[uid]} still runs"
        assert uid not in self.final, f"{execution} begins on {process.name} after its outcome {self.final[uid]}"
        template, row = self.client.tasks[uid], self.client.rows[uid]
        earlier = self.begins.setdefault(uid, [])
        failed = [self.endings[before] for before in earlier]
        for before in earlier:
            # What died untold with its runner is known to nobody.
            if self.processes[self.begun[before]].alive:
                assert self.may_repeat(template, before), f"{execution} begins, but {before} ended as {self.endings[before]}"
        assert template.restartable or len(earlier) <= retries_of(template), f"{uid} begins again: {earlier} ended {failed}"
        if row.extra is not None and row.extra.input_staging:
            assert uid in self.staged_in, f"{execution} begins without its input"
        assert uid not in self.cleaned, f"{execution} begins after its sandbox was removed"
        if template.named_env in ENVIRONMENTS:
            assert template.named_env in self.prepared, f"{execution} begins without its environment"
        self.begun[execution] = process.name
        self.begun_at[execution] = self.now
        earlier.append(execution)
        self.alive[uid] = execution

    def may_repeat(self, template: Template, before: Execution) -> bool:
        """Tell whether an attempt of which the agent heard may be followed by another."""
        ending = self.endings[before]
        if ending is Ending.DONE:
            # Its output may have failed to be staged, which is a failure like others.
            if template.service is not None and template.service.restart == "always":
                return True
            return before[0] in self.failed and (not template.retry_on or "staging" in template.retry_on)
        if not template.retry_on or template.restartable:
            return True
        words = [ENDINGS[word] for word in template.retry_on if isinstance(word, str)]
        return ending in words or (ending is Ending.EXITED and self.exit_codes.get(before) in template.retry_on)

    def note_end(self, execution: Execution, ending: Ending) -> None:
        del self.alive[execution[0]]
        self.endings[execution] = ending

    def check_outcome(self, uid: TaskUid, outcome: Outcome) -> None:
        """Compare an outcome with what the witness saw."""
        client, template, extra = self.client, self.client.tasks[uid], self.client.rows[uid].extra
        execution = (uid, outcome.attempt)
        over = self.core.state.ending is not None
        if outcome.ending is Ending.DONE:
            if template.service is None:
                assert self.endings[execution] is Ending.DONE, f"{uid} is said to be done: {self.endings[execution]}"
            else:
                assert execution in self.begun and (over or self.endings[execution] is Ending.DONE)
                blamed = client.cancelled | self.quarantined | self.failed
                if template.service.restart == "always" and not over and uid not in blamed:
                    assert outcome.attempt > retries_of(template), f"{uid} is always to be started again, and was not"
            if extra is not None and extra.output_staging:
                assert execution in self.staged_out, f"{uid} is said to be done, but its output is not there"
        elif outcome.ending is Ending.CANCELLED:
            assert self.needs.may_be_cancelled(outcome) or uid in client.cancelled or over, f"nobody cancelled {uid}"
        elif outcome.ending is Ending.OUT_OF_WALLTIME:
            assert self.shadow.draining or (self.shadow.ending is not None and self.shadow.ending.out_of_time)
            assert execution in self.launched, f"{uid} was cut short, and was never launched"
            unwanted = uid in client.cancelled or uid in self.quarantined
            assert not template.restartable or unwanted, f"{uid} may begin again elsewhere"
        elif outcome.ending is Ending.TIMED_OUT:
            late = template.timeout_s or execution in self.unwell
            assert late and execution in self.begun, f"{uid} was not out of time"
        elif outcome.ending is Ending.INFEASIBLE:
            assert template.request.cores == 64 or (template.request.slots and template.request.slots[0].node == 2)
        elif outcome.ending in (Ending.EXITED, Ending.RAISED, Ending.OUT_OF_MEMORY, Ending.SIGNALLED):
            if outcome.ending is not Ending.SIGNALLED and execution not in self.unwell:
                # A worker that was lost at work counts as killed by a signal, a service lost while it was ended as ended.
                assert self.endings[execution] is outcome.ending
            assert len(self.begins[uid]) <= 1 + retries_of(template) or template.restartable
            blamed = client.cancelled | self.quarantined | self.failed
            if self.may_repeat(template, execution) and uid not in blamed and not over:
                assert outcome.attempt > retries_of(template), f"{uid} may be repeated, and was not"
        elif outcome.ending is Ending.STAGING_FAILED:
            assert uid in self.failed, f"all of {uid} was staged"
        elif outcome.ending is Ending.LAUNCH_FAILED and template.named_env in ENVIRONMENTS and "environment" in outcome.message:
            assert template.named_env in self.unprepared or over, f"{template.named_env} is there"
            assert uid not in self.begun
        elif outcome.ending in (Ending.LOST, Ending.NODE_FAILED) and uid not in self.quarantined:
            # A proof may have died with the agent that had it.
            assert self.deaths or execution not in self.proven, f"{execution} is lost, but it never began"
            if self.deaths == 0 and all(process.alive for process in self.processes.values()):
                assert outcome.ending is not Ending.LOST, f"{uid} is lost, but nothing was"
        has_sandbox = template.cleanup and template.sandbox != SHARED_SANDBOX
        # What was not brought away may be there still, also of a task that was ended meanwhile.
        ended = over or uid in client.cancelled or uid in self.quarantined
        given_up = uid in self.failed or (ended and extra is not None)
        if has_sandbox and (uid in self.begins or uid in self.staged_in) and not given_up:
            assert self.cleaned.get(uid) == outcome.attempt, f"the sandbox of {uid} is still there"
