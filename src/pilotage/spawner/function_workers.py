"""The function workers beside this spawner: started, ended, and told when their processes are gone.

In a job one that failed is told a moment later, as a batch system that ends the job's step may have told it before the spawner
(see ``doubts``). When TERM comes to the spawner that is said first, and then what it did to the workers.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import msgspec

from pilotage.model.ids import RunnerId
from pilotage.spawner.failures import LaunchFailed
from pilotage.spawner.forest import Forest
from pilotage.spawner.lanes import WorkerTree, signal_name
from pilotage.spawner.launching import Launcher
from pilotage.spawner.memory import MemoryKills
from pilotage.spawner.outbox import Outbox
from pilotage.spawner.termination import Termination
from pilotage.spawner.timers import Timers
from pilotage.system.python import installation_path
from pilotage.wire.runner_messages import DOUBT_S, EndedByOthers, WorkerExited
from pilotage.wire.runner_settings import RunnerSettings


class FunctionWorkers:
    """All workers of a spawner. Times are of ``time.monotonic``."""

    def __init__(
        self,
        folder: Path,
        settings: RunnerSettings,
        timers: Timers,
        launcher: Launcher,
        forest: Forest,
        termination: Termination,
        outbox: Outbox,
        memory_kills: MemoryKills,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._timers = timers
        self._launcher = launcher
        self._forest = forest
        self._termination = termination
        self._outbox = outbox
        self._memory_kills = memory_kills
        self._trees: dict[RunnerId, WorkerTree] = {}
        self._exited: dict[RunnerId, WorkerExited] = {}
        self._unwanted: set[RunnerId] = set()
        """Workers that the agent wants to end."""
        self._doubtful: dict[RunnerId, WorkerExited] = {}
        self._ended_by_others: EndedByOthers | None = None
        self._stopping = False

    @property
    def running(self) -> bool:
        """Whether any runs."""
        return bool(self._trees)

    def tree(self, worker: RunnerId) -> WorkerTree | None:
        """Return the processes of this worker if it runs."""
        return self._trees.get(worker)

    def start(self, worker: RunnerId, environment: dict[str, str], now: float) -> None:
        """Start a worker with these variables on top of the tasks' own."""
        if worker in self._trees or self._stopping:
            return
        path = list(dict.fromkeys([*self._settings.python_path, *installation_path()]))
        program = f"import sys; sys.path[:] = {path!r}; from pilotage.workers.main import main; main()"
        variables = {
            **environment,
            **self._settings.marks(),
            **self._settings.limits(),
            "PILOTAGE_WORKER_ID": worker,
        }
        self._exited.pop(worker, None)
        try:
            pid = self._launcher.spawn_program(
                [sys.executable, "-c", program, str(self._folder), worker],
                variables,
                os.path.join(self._settings.printing_folder, worker),
            )
        except LaunchFailed as failure:
            self._tell(WorkerExited(worker, 0, 127, str(failure)), now)
            return
        tree = WorkerTree(worker, pid)
        self._trees[worker] = tree
        self._forest.add(tree, pid)

    def end(self, worker: RunnerId) -> None:
        """Kill a worker and what it started."""
        if (tree := self._trees.get(worker)) is not None:
            self._unwanted.add(worker)
            self._termination.kill(tree)

    def gone(self, tree: WorkerTree, now: float) -> None:
        """Nothing of a worker is left."""
        del self._trees[tree.worker]
        if tree.status >= 0:
            message = f"exited with code {tree.status}"
        elif tree.status == -signal.SIGKILL and not tree.killed and self._memory_kills.credit():
            message = "killed by the kernel for memory"
        else:
            message = f"ended by signal {signal_name(-tree.status)}"
        exited = WorkerExited(tree.worker, tree.pid, tree.status, message)
        if tree.worker in self._unwanted:
            self._unwanted.discard(tree.worker)
            self._tell(exited, now)
        elif self._ended_by_others is not None:
            self._tell(msgspec.structs.replace(exited, cut_short=True), now)
        elif tree.status and not self._stopping and self._settings.allocation_environment:
            self._doubtful[tree.worker] = exited
            self._timers.at(now + DOUBT_S, partial(self._believe, tree.worker))
        else:
            self._tell(exited, now)

    def _believe(self, worker: RunnerId) -> None:
        exited = self._doubtful.pop(worker, None)
        if exited is not None:
            self._tell(exited, time.monotonic())

    def tell_exits(self, now: float) -> None:
        """Tell all exits again: what was told to an agent that died may never have been read."""
        if self._ended_by_others is not None:
            self._outbox.add_warning(self._ended_by_others, now)
        for exited in self._exited.values():
            self._outbox.add(exited, now)

    def stop(self, grace_s: float, now: float, *, by_others: bool = False) -> None:
        """End all workers, and start none any more; ``by_others``: than the agent want it."""
        self._stopping = True
        if by_others and self._settings.allocation_environment:
            self._ended_by_others = EndedByOthers(time.time())
            self._outbox.add_warning(self._ended_by_others, now)
        doubtful, self._doubtful = self._doubtful, {}
        for exited in doubtful.values():
            self._tell(msgspec.structs.replace(exited, cut_short=self._ended_by_others is not None), now)
        for tree in self._trees.values():
            self._termination.end(tree, grace_s, now)

    def _tell(self, exited: WorkerExited, now: float) -> None:
        self._exited[exited.worker] = exited
        self._outbox.add(exited, now)
