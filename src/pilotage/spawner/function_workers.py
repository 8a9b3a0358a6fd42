"""The function workers beside this spawner: started, ended, and told when their processes are gone."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pilotage.model.ids import RunnerId
from pilotage.spawner.failures import LaunchFailed
from pilotage.spawner.forest import Forest
from pilotage.spawner.lanes import WorkerTree, signal_name
from pilotage.spawner.launching import Launcher
from pilotage.spawner.memory import MemoryKills
from pilotage.spawner.outbox import Outbox
from pilotage.spawner.termination import Termination
from pilotage.system.python import installation_path
from pilotage.wire.runner_messages import WorkerExited
from pilotage.wire.runner_settings import RunnerSettings


class FunctionWorkers:
    """All workers of a spawner. Times are of ``time.monotonic``."""

    def __init__(
        self,
        folder: Path,
        settings: RunnerSettings,
        launcher: Launcher,
        forest: Forest,
        termination: Termination,
        outbox: Outbox,
        memory_kills: MemoryKills,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._launcher = launcher
        self._forest = forest
        self._termination = termination
        self._outbox = outbox
        self._memory_kills = memory_kills
        self._trees: dict[RunnerId, WorkerTree] = {}
        self._exited: dict[RunnerId, WorkerExited] = {}
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
        self._tell(WorkerExited(tree.worker, tree.pid, tree.status, message), now)

    def tell_exits(self, now: float) -> None:
        """Tell all exits again: what was told to an agent that died may never have been read."""
        for exited in self._exited.values():
            self._outbox.add(exited, now)

    def stop(self, grace_s: float, now: float) -> None:
        """End all workers, and start none any more."""
        self._stopping = True
        for tree in self._trees.values():
            self._termination.end(tree, grace_s, now)

    def _tell(self, exited: WorkerExited, now: float) -> None:
        self._exited[exited.worker] = exited
        self._outbox.add(exited, now)
