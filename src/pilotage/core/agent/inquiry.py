"""What can be asked of the core: what a task waits for or does, and how the pilot is."""

from __future__ import annotations

from pilotage.core.agent.dispatch import Dispatch
from pilotage.core.agent.endings import Endings
from pilotage.core.agent.losses import NODE_LOST
from pilotage.core.agent.state import AgentState, TaskRecord
from pilotage.core.agent.waiting import Waiting
from pilotage.core.scheduling.policy import Policy
from pilotage.model.ids import TaskUid


class Inquiry:
    """Answers from the state, and from what is derived from it; changes nothing."""

    def __init__(self, state: AgentState, policy: Policy, waiting: Waiting, dispatch: Dispatch, endings: Endings) -> None:
        self._state = state
        self._policy = policy
        self._waiting = waiting
        self._dispatch = dispatch
        self._endings = endings

    def summary(self) -> dict[str, str | int | float | list[str]]:
        """Return counts: tasks by what becomes of them, lanes, runners; and why nothing is placed, or the pilot ends."""
        state = self._state
        answer: dict[str, str | int | float | list[str]] = {
            "waiting": self._policy.waiting(),
            "behind the barrier": len(self._waiting.barred),
            "staging input": len(state.inputs),
            "awaiting environment": sum(map(len, self._waiting.held.values())),
            "awaiting service": len(self._waiting.unserved),
            "awaiting launch": len(self._waiting.launches.waiting),
            "launched": sum(len(lane.tasks) for lane in state.lanes.values()),
            "staging output": len(state.outputs),
            "lanes": len(state.lanes),
            "runners": list(state.runners),
            "services": list(state.services),
            "final": state.outcomes,
            "undelivered": len(state.unsent) + sum(len(outcomes) for outcomes in state.undelivered.values()),
            "ending": state.ending.reason if state.ending is not None else "",
            "paused": self._dispatch.paused,
        }
        for words, indices in (("nodes that are not up", self._policy.suspended()), ("lost nodes", state.lost_nodes)):
            if indices:
                answer[words] = [self._policy.name_of(index) for index in indices]
        for name, environment in state.environments.items():
            answer[f"environment {name}"] = environment.error or ("prepared" if environment.prepared else "in preparation")
        return answer

    def doing(self, uid: TaskUid) -> str:
        """Return in a word or two what the task does."""
        state = self._state
        task = state.tasks.get(uid)
        if task is None:
            return "unknown"
        if task.lane:
            return "running" if task.started else "launched"
        if uid in state.inputs:
            return "staging input"
        if uid in state.outputs:
            return "staging output"
        if uid in self._waiting.unserved:
            return "awaiting service"
        return "waiting" if self._awaited(task) is None else "awaiting environment"

    def why(self, uid: TaskUid) -> str:
        """Return in a sentence what the task waits for, or does."""
        task = self._state.tasks.get(uid)
        if task is None:
            return "is not known to this pilot: it ended and was delivered, or it was never submitted here"
        if task.lane:
            return self._why_in_lane(uid, task)
        if uid in self._state.inputs or uid in self._state.outputs:
            return self._why_staged(uid, task)
        if uid in self._waiting.barred:
            arrived, barrier = self._waiting.arrived, self._waiting.barrier
            return f"waits until {barrier:,} tasks have arrived, as startup_barrier says; {arrived:,} have so far"
        name = self._awaited(task)
        if name is not None:
            if name in self._state.environments:
                return f"waits for the environment {name!r}, which is being prepared"
            return f"waits for the environment {name!r}, which nobody has asked for yet: Pilot.prepare_env prepares one"
        service = self._waiting.unserved.get(uid)
        if service is not None:
            return f"waits for service {service!r}, which it needs, to be ready again"
        if uid in self._waiting.for_successor:
            return f"waits for the pilot that follows this one: {self._waiting.for_successor[uid]}"
        if uid in self._waiting.launches.waiting:
            return self._waiting.launches.why(uid)
        reason = self._policy.why(uid)
        if self._dispatch.closed:
            return f"waits, and will not begin here: {self._dispatch.closed}"
        if self._dispatch.paused:
            return f"waits as nothing is started for now: {self._dispatch.paused}; {reason}"
        lanes, templates = self._state.lanes.values(), self._state.templates
        if lanes and all(templates[lane.template].service is not None for lane in lanes):
            reason += "; nothing but services runs, and they keep what they have until they end or are cancelled"
        return reason

    def _awaited(self, task: TaskRecord) -> str | None:
        """Return the environment that the task is held for, if it is."""
        name = self._state.templates[task.row.template].named_env
        return name if task.row.uid in self._waiting.held.get(name, ()) else None

    def _why_in_lane(self, uid: TaskUid, task: TaskRecord) -> str:
        lane = self._state.lanes[task.lane]
        runner = lane.runner
        if task.ending is not None:
            return f"is being ended on {runner}: {task.ending_message}"
        lost = [share.node for share in lane.placement if share.node in self._state.lost_nodes]
        if lost:
            return f"is being ended on {runner}: {NODE_LOST}, {self._policy.name_of(lost[0])}"
        words = f"was handed to {runner}, attempt {task.attempt}"
        if not task.started:
            record = self._state.runners.get(runner)
            place = self._policy.name_of(lane.placement[0].node)
            return words if record is None or record.pid else f"{words}; {runner} is not up yet on {place}"
        if self._state.templates[task.row.template].service is None:
            return f"{words}, and runs"
        if uid not in self._state.services:
            return f"{words}, and runs; it is not ready yet"
        info = self._state.services[uid]
        return f"{words}, and is ready" + (f": {info}" if info else "")

    def _why_staged(self, uid: TaskUid, task: TaskRecord) -> str:
        extra, outcome = task.row.extra, self._state.outputs.get(uid)
        if uid in self._endings.put_off:
            what = (
                "its input is"
                if outcome is None
                else f"attempt {outcome.attempt} is over ({outcome.ending.name}); its output is"
            )
            return f"{what} not staged for now, as storage is full: {self._dispatch.paused}"
        if outcome is None:
            words = f"its input is being staged ({len(extra.input_staging) if extra is not None else 0} directives)"
        else:
            count = len(extra.output_staging) if extra is not None else 0
            words = f"attempt {outcome.attempt} is over ({outcome.ending.name}); "
            words += f"its output is being staged ({count} directives)" if count else "its sandbox is being removed"
        return words if task.ending is None else f"{words}, after which it ends: {task.ending_message}"
