"""The steps of launchers that keep a list of them: found by their names, told to end, and seen to be over.

A launcher is a process here, and its ranks may be anywhere. Usually they are gone when it is. But TERM to some launchers is
KILL to their ranks, and one that dies by KILL leaves its ranks behind. So TERM goes to the step itself; and a launcher's end
that is no proof of its ranks' is followed by a look at the list, until their step is no more.

The commands for that take as long as the batch system likes. They are children like others, whose output goes to memory and is
read when they are gone; one list serves all who have asked for it before it was begun.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pilotage.launchers.method import StepControl
from pilotage.model.ids import RunnerId
from pilotage.spawner.choosing import Chosen
from pilotage.spawner.environment import ENCODING, encoded
from pilotage.spawner.failures import unusable_notes
from pilotage.spawner.forest import DEFAULT_SIGNALS, Forest, Tree
from pilotage.spawner.timers import Timers
from pilotage.wire.runner_settings import RunnerSettings, launch_folder

COMMAND_TIMEOUT_S = 30.0
_PAUSE_FIRST_S = 0.1
_PAUSE_LAST_S = 2.0
_PATIENCE_S = 120.0
"""So long the end of a task waits for a batch system that does not answer."""

_OUTPUT_LIMIT_BYTES = 1 << 24

Found = Callable[[dict[str, list[str]] | None], None]
"""Takes the ids of all steps by their names; None: the list was not to be had."""


class StepName(NamedTuple):
    """The step of an attempt. ``launcher``: the path of what started it. ``job``: of the batch system; empty: none."""

    name: str
    control: StepControl
    launcher: str
    job: str


def step_notes(settings: RunnerSettings, runner: RunnerId) -> Path:
    """Return where a spawner notes the steps that may be under way: a folder that all nodes see, as its own may be lost."""
    return Path(launch_folder(settings, runner), "steps")


def step_of(chosen: Chosen, name: str, variables: Mapping[str, str]) -> StepName | None:
    """Return the step that a launcher makes of this name; None if it keeps no list of such. ``variables``: of the job."""
    control = chosen.method.facts.steps
    if control is None or not control.named:
        return None
    job = chosen.installed.option("job") or variables.get(control.job_variable, "")
    if control.job_variable and not job:
        return None
    return StepName(name, control, chosen.installed.path, job)


class CommandTree(Tree):
    """The processes of one command. ``done`` is called with its exit code and output when all are gone."""

    __slots__ = ("done", "output", "status")

    def __init__(self, output: int, done: Callable[[int, str], None]) -> None:
        super().__init__()
        self.output = output
        self.done = done
        self.status = -1


class Steps:
    """The steps of this spawner's tasks. ``variables``: the batch system's, of the job. Times are of ``time.monotonic``.

    ``notes``: a folder that has a file for each step that may be under way, for whoever ends what a dead spawner has left.
    """

    def __init__(self, forest: Forest, timers: Timers, variables: Mapping[str, str], notes: Path) -> None:
        self._notes = notes
        self._forest = forest
        self._timers = timers
        self._variables = encoded(variables)
        self._listing: set[str] = set()
        """Launchers whose list is under way."""
        self._asking: dict[str, list[Found]] = {}
        """By launcher, who waits for the next list."""

    def note(self, step: StepName) -> None:
        """Note that a step may be under way from now on.

        Raises:
            LaunchFailed: that cannot be noted.
        """
        note = self._notes / step.name
        try:
            try:
                note.touch(mode=0o600)
            except FileNotFoundError:
                # The first of this spawner.
                self._notes.mkdir(mode=0o700, parents=True, exist_ok=True)
                note.touch(mode=0o600)
        except OSError as error:
            raise unusable_notes(str(self._notes), error) from error

    def forget(self, step: StepName) -> None:
        """A step is over."""
        (self._notes / step.name).unlink(missing_ok=True)

    def reaches(self, step: StepName) -> bool:
        """Return whether the ranks of a step get signals as such; else their launcher hands them on."""
        return bool(step.control.signal_arguments(step.job, step.name, "TERM"))

    def signal(self, step: StepName, number: signal.Signals, otherwise: Callable[[], None]) -> None:
        """Send a signal to the ranks of a step that is reached; ``otherwise`` is called if its launcher has none yet."""
        name = number.name.removeprefix("SIG")

        def found(steps: dict[str, list[str]] | None) -> None:
            ids = (steps or {}).get(step.name, [])
            for id_ in ids:
                self._run(step, step.control.signal_arguments(step.job, id_, name), lambda _status, _output: None)
            if not ids:
                otherwise()

        self._ask(step, found)

    def end(self, step: StepName, over: Callable[[bool], None]) -> None:
        """End what may be left of a step, and call ``over`` with True when it is no more; False: nobody could tell in time."""
        self._end(step, over, time.monotonic() + _PATIENCE_S, _PAUSE_FIRST_S)

    def gone(self, tree: CommandTree) -> None:
        """A command is over."""
        os.lseek(tree.output, 0, os.SEEK_SET)
        with os.fdopen(tree.output, "rb") as file:
            said = file.read(_OUTPUT_LIMIT_BYTES).decode(errors="replace")
        tree.done(tree.status, said)

    def _end(self, step: StepName, over: Callable[[bool], None], until: float, pause_s: float) -> None:
        def found(steps: dict[str, list[str]] | None) -> None:
            now = time.monotonic()
            if steps is not None and step.name not in steps:
                over(True)
            elif now > until:
                sys.stderr.write(f"it is not known whether step {step.name} of {step.launcher} is over\n")
                over(False)
            else:
                for id_ in (steps or {}).get(step.name, []):
                    self._run(step, step.control.cancel_arguments(step.job, id_), lambda _status, _output: None)
                self._timers.at(now + pause_s, partial(self._end, step, over, until, min(2 * pause_s, _PAUSE_LAST_S)))

        self._ask(step, found)

    def _ask(self, step: StepName, found: Found) -> None:
        """Call ``found`` with the steps that there are from now on."""
        self._asking.setdefault(step.launcher, []).append(found)
        self._list(step)

    def _list(self, step: StepName) -> None:
        if step.launcher not in self._listing:
            self._listing.add(step.launcher)
            asking = self._asking.pop(step.launcher)
            self._run(step, step.control.list_arguments(step.job), partial(self._listed, step, asking))

    def _listed(
        self,
        step: StepName,
        asking: list[Found],
        status: int,
        output: str,
    ) -> None:
        self._listing.discard(step.launcher)
        steps: dict[str, list[str]] | None = None
        if status == 0:
            steps = {}
            for id_, name in step.control.parse_steps(output):
                steps.setdefault(name, []).append(id_)
        else:
            sys.stderr.write(f"{step.control.list_arguments(step.job)[0]} ended with {status}: {output.strip()[:500]}\n")
        for found in asking:
            found(steps)
        if step.launcher in self._asking:
            self._list(step)

    def _run(self, step: StepName, arguments: list[str], done: Callable[[int, str], None]) -> None:
        environment = {**os.environb, **self._variables}
        path = command_path(step.launcher, arguments[0], environment.get(b"PATH", os.defpath.encode()).decode(*ENCODING))
        output = os.memfd_create(arguments[0], os.MFD_CLOEXEC)
        tree = CommandTree(output, done)
        try:
            pid = os.posix_spawn(
                path,
                arguments,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=DEFAULT_SIGNALS,
            )
        except OSError as error:
            os.close(output)
            message = f"{path}: {error.strerror}"
            # Later, as if it had run: who asks is still busy with asking.
            self._timers.at(0.0, lambda: done(127, message))
            return
        self._forest.add(tree, pid)
        self._timers.at(time.monotonic() + COMMAND_TIMEOUT_S, partial(self._give_up, tree))

    def _give_up(self, tree: CommandTree) -> None:
        if tree.roots:
            self._forest.send(tree, signal.SIGKILL)


def command_path(launcher: str, command: str, search_path: str) -> str:
    """Return the path of a command of the batch system: where its launcher is, or else by PATH."""
    beside = os.path.join(os.path.dirname(launcher), command)
    return beside if os.access(beside, os.X_OK) else shutil.which(command, path=search_path) or command
