"""The contract between an agent and the executors that run its tasks.

An executor looks after *runners*: what takes tasks in lanes and reports their ends (a spawner, a function worker, a simulated
stand-in). It decides nothing about tasks; it says what happened, and keeps what happened until the agent has logged it. All
calls come from the agent's one thread; none blocks for longer than a message takes.

Runners are on *hosts*, which have numbers: what takes tasks is on the host of the task's first node. Most executors know one
host alone, number 0.

What an agent concludes rests on three rules. A runner is handed nothing before ``runner_connected`` was told *and* the agent
has called ``flush`` after that turn, so a runner that the log does not name has begun nothing. What ``runner_reconciled`` and
``runner_lost`` say is true of all that was launched before the call; the agent itself knows what it was just about to launch.
And what is launched on a runner that was told as lost is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pilotage.model.environments import EnvironmentDifference
from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import Attempt, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.workload import Template


class RunnerListener(Protocol):
    """Who is told what happened to runners and executions: the agent."""

    def runner_connected(self, runner: RunnerId, pid: int, started_ticks: int, boot_id: str) -> None:
        """The runner said hello, for the first time or again after the agent's death."""
        ...

    def runner_reconciled(self, runner: RunnerId, holds: list[Execution]) -> None:
        """All endings that the runner had kept were told; of the rest, it has what it ``holds`` and nothing else."""
        ...

    def runner_lost(
        self,
        runner: RunnerId,
        reason: str,
        exit_code: int | None,
        running: Execution | None,
        not_begun: list[Execution],
    ) -> None:
        """The runner's process, and all that it started, is gone. See ``core.agent.events.RunnerLost``.

        That of a spawner is told before that of function workers that it was to start and that never came up.
        """
        ...

    def tasks_started(self, runner: RunnerId, started: list[tuple[TaskUid, Attempt, float]]) -> None:
        """These began at these times (seconds since the epoch, by the clock of this process), and still run.

        After a reconnect it is told again of all that still run.
        """
        ...

    def tasks_ended(self, runner: RunnerId, number: int, ends: list[AttemptEnd]) -> None:
        """These are over. Told again under the same number until ``release``d."""
        ...

    def tasks_returned(self, runner: RunnerId, executions: list[Execution]) -> None:
        """These never began, and will not."""
        ...

    def service_spoke(self, service: TaskUid, attempt: Attempt, lines: dict[str, str]) -> None:
        """A service on another node said this of itself (see ``executors.notify``); it may be told again."""
        ...

    def storage_full(self, runner: RunnerId, reason: str) -> None:
        """The runner found no room for sandboxes or output; what it was to begin is told as returned."""
        ...

    def nodes_lost(self, nodes: list[int], reason: str) -> None:
        """These nodes, by index, are gone for good, with all that ran there; their runners were told as lost before."""
        ...


class RunnerProcess(Protocol):
    """What is known of a runner from before the agent was restarted."""

    beside: RunnerId | None
    node: int
    """A node of its host: the first one if it is a spawner."""
    pid: int
    started_ticks: int
    boot_id: str
    released: int


class Executor(Protocol):
    """Runs placed tasks. ``fileno`` is readable while ``turn`` has something to do; ``next_deadline`` likewise in time."""

    def start(self, listener: RunnerListener, known: Mapping[RunnerId, RunnerProcess]) -> None:
        """Begin; ``known`` runners of an earlier agent are adopted when they say hello, or reported lost."""
        ...

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        ...

    def turn(self, now: float) -> None:
        """Take in what has arrived and send what is queued; calls the listener."""
        ...

    def flush(self) -> None:
        """Send what was asked for since the last turn."""
        ...

    def next_deadline(self) -> float | None:
        """Return when ``turn`` is due even if nothing arrives (seconds since the epoch)."""
        ...

    def start_runner(self, runner: RunnerId, beside: RunnerId | None, environment: Mapping[str, str], host: int = 0) -> None:
        """Start a runner on this host, which is that of ``beside``; tasks may be launched on it at once and wait until it is
        up."""
        ...

    def stop_runner(self, runner: RunnerId) -> None:
        """Let a runner that holds nothing exit."""
        ...

    def launch(self, runner: RunnerId, lanes: Sequence[LaneTasks], templates: Mapping[TemplateId, Template]) -> None:
        """Hand tasks to a runner, or drop them if it was told as lost. ``templates`` has those that they follow."""
        ...

    def recall(self, runner: RunnerId, executions: Sequence[Execution]) -> None:
        """Ask back what of these has not begun."""
        ...

    def end(self, runner: RunnerId, executions: Sequence[Execution], ending: Ending, message: str) -> None:
        """End these: each is told as ended in this way, or as returned, or was over before."""
        ...

    def signal(self, runner: RunnerId, executions: Sequence[Execution], number: int) -> None:
        """Send a signal to what has begun of these executables, to each once; one that fails from then on was cut short, and is
        told as ended ``OUT_OF_WALLTIME``."""
        ...

    def define_environment(self, name: str, difference: EnvironmentDifference) -> None:
        """Let all spawners, those of later too, run tasks of this ``named_env``; a name means the same for ever."""
        ...

    def release(self, runner: RunnerId, through: int) -> None:
        """The agent has logged all endings of this runner up to ``through``."""
        ...

    def close(self, grace_s: float) -> None:
        """End everything that still runs, and all runners, within the grace and a little more."""
        ...

    def leave(self) -> None:
        """In place of ``close``: let go of all descriptors as the death of the agent's process does. What runs, and can go on
        without an agent, goes on until the next one adopts it."""
        ...
