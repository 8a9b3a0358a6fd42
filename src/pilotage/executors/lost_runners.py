"""Runners that may be gone: looked after, told as lost, and what they left behind.

A runner is lost when its process is gone, never because it is silent: its spawner tells (a worker), or the process table does
(a spawner, or a worker whose spawner is lost as well). What a dead worker had not sent is read from its outbox and told before
its loss is (see ``workers.outbox``); the next ``flush``, when all that is in the log, removes its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pilotage.executors.conversation import Conversation
from pilotage.executors.cut_short import end_of_running
from pilotage.executors.orphans import TASK_MARK, WORKER_MARK, end_orphans, end_spawners
from pilotage.executors.runner import Runner
from pilotage.executors.runner_table import RunnerTable
from pilotage.model.ids import PilotUid, RunnerId, SessionUid
from pilotage.outputs.spares import recover
from pilotage.wire.runner_settings import read_settings
from pilotage.workers.outbox import outbox_path, read_outbox
from pilotage.workers.progress import progress_path

_LOOK_S = 0.05
_ORPHANS_S = 5.0
_STEPS_S = 60.0
"""A batch system that does not answer may hold up for so long what is told of a lost spawner."""


class LostRunners:
    """Finds the losses among ``runners``, whose owner is named by ``session`` and ``pilot``, and whose processes by ``marks``.

    ``folder`` is the agent's private folder; in ``log_folder`` is what runners printed that did not come up.
    """

    def __init__(
        self,
        folder: Path,
        session: SessionUid,
        pilot: PilotUid,
        marks: Mapping[str, str],
        log_folder: Path,
        runners: RunnerTable,
        conversation: Conversation,
    ) -> None:
        self._folder = folder
        self._session = session
        self._pilot = pilot
        self._marks = marks
        self._log_folder = log_folder
        self._runners = runners
        self._conversation = conversation
        self._unheard: list[RunnerId] = []
        self._bequests: list[Path] = []
        """Files of dead workers that were read, to be removed when what they held is in the log."""

    # the processes

    def look_after(self, now: float) -> None:
        """Look at the processes of runners that are to say hello, or whose connection broke, if it is time."""
        runners = self._runners
        if not runners.expected or now < runners.look_at:
            return
        runners.look_at = now + _LOOK_S
        for runner in [runners.by_name[name] for name in runners.expected]:
            if runner.hello_by is not None and now >= runner.hello_by:
                if not runner.greeted and not runner.gone:
                    runner.gone = f"{runner.name} did not come up; see {runner.name}.err in {self._log_folder}"
                runner.kill()
                self._conversation.doom(runner)
            elif (runner.doubtful or runner.hello_by is not None) and runner.pid and runner.is_gone():
                beside = runners.by_name.get(runner.beside) if runner.beside is not None else None
                if beside is not None and beside.connection is not None and runner.started_ticks:
                    # Its spawner will tell with what status it ended, unless it does not know it (adopted, or long ago).
                    runner.hello_by = runner.hello_by or now + 1.0
                    runner.doubtful = False
                    continue
                self._conversation.doom(runner)

    def end_unheard(self, spawners: list[RunnerId]) -> None:
        """End spawners that an earlier agent started and never heard: if they live they look for an agent in vain."""
        self._unheard = spawners
        if spawners:
            end_spawners(self._folder, spawners)

    # the losses

    def tell(self) -> None:
        """Tell of all that are gone, after what they left running was ended."""
        for name in list(self._runners.dying):
            self._lose(self._runners.by_name[name])

    def tell_last_words(self) -> None:
        """Tell of what ended well and was not heard, when all runners are gone and the executor ends."""
        for runner in self._runners.by_name.values():
            kept = read_outbox(self._folder, runner.name, runner.released) if runner.is_worker else []
            self._conversation.tell_last_words(runner, kept)

    def _lose(self, runner: Runner) -> None:
        name, runners = runner.name, self._runners
        if runner.is_worker:
            outbox = read_outbox(self._folder, name, max(runner.received, runner.released))
            self._conversation.take_legacy(runner, outbox)
        running, not_begun = None, list(runner.unsent)
        if runner.calls is not None:
            running = runner.calls.running()
            if running is not None and runner.cut_short:
                self._conversation.take_legacy(runner, [end_of_running(runner, running)])
                running = None
            not_begun += runner.calls.not_begun()
        what = "function worker" if runner.is_worker else "spawner"
        if not runner.gone:
            how = "was lost"
            if runner.exit_code is not None:
                how = f"was killed by signal {-runner.exit_code}" if runner.exit_code < 0 else f"exited with {runner.exit_code}"
            runner.gone = f"the {what} {name} {how}"
        not_begun += runners.taken_back.pop(name, [])
        self.bequeath(runner)
        runners.forget(runner)
        if not runners.is_looked_after(runner):
            # Also when nothing is known of what it held: it may have died together with the last agent.
            living = {other.pid for other in runners.by_name.values() if other.pid}
            owners = (TASK_MARK, WORKER_MARK)
            end_orphans(self._session, self._pilot, living, _ORPHANS_S, owners, marked=self._marks)
        runner.gone += self._end_steps(runner, _STEPS_S)
        # Before it is told, and others begin with the same files.
        recover(self._folder, name)
        for other in list(runners.by_name.values()):
            if other.beside == name and not other.greeted and not other.pid:
                other.gone = f"the function worker {other.name} was not started: its spawner {name} was lost"
                self._conversation.doom(other)
        runners.told.runner_lost(name, runner.gone, runner.exit_code, running, not_begun)

    # what they left behind

    def _end_steps(self, runner: Runner, patience_s: float) -> str:
        """End what the launchers of a lost spawner have left on any node; return what is to be said of it."""
        if runner.is_worker:
            return ""
        # With it come all launch methods; there is a host on each node, and all begin at a time.
        from pilotage.executors.left_steps import end_steps_of

        try:
            return end_steps_of(read_settings(self._folder), runner.name, patience_s)
        except FileNotFoundError:
            # Without settings there was never a spawner.
            return ""

    def bequeath(self, runner: Runner) -> None:
        """Have a worker's files removed when all that it had told is in the log."""
        if runner.is_worker:
            self._bequests += [outbox_path(self._folder, runner.name), progress_path(self._folder, runner.name)]

    def remove_bequests(self) -> None:
        """Remove the files of dead workers: all that was told is in the log."""
        bequests, self._bequests = self._bequests, []
        for path in bequests:
            path.unlink(missing_ok=True)

    def end_all(self) -> None:
        """End whatever is left of any runner, as all have been told to stop."""
        if self._unheard:
            # One that was only just being started was not to be seen before.
            end_spawners(self._folder, self._unheard)
        # Spawners leave nothing behind; those that were killed may have, and workers of theirs.
        end_orphans(self._session, self._pilot, (), _ORPHANS_S, marked=self._marks)
        for runner in self._runners.by_name.values():
            self._end_steps(runner, _ORPHANS_S)
