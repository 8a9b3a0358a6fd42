"""Starting the processes of tasks, and of what runs beside them.

``posix_spawn`` shares memory with its parent until the child executes, and so costs the same whatever the spawner's size; what
it cannot do, the spawner does to itself before (see ``places``).
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Sequence

from pilotage.errors import BackendError
from pilotage.launchers.launch_line import render
from pilotage.model.ids import Attempt
from pilotage.model.ranks import RankSlot
from pilotage.model.workload import Row
from pilotage.spawner.environment import ENCODING, Environment, encoded, rank_variables, task_variables
from pilotage.spawner.failures import LaunchFailed, failed_spawn, missing_executable
from pilotage.spawner.hooks import Script
from pilotage.spawner.places import Place
from pilotage.spawner.recipes import Recipe
from pilotage.wire.runner_settings import RunnerSettings

_OUTPUT = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_SHARED_OUTPUT = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_OUTPUT_MODE = 0o666

DEFAULT_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
"""Set back to their default in every child, whatever the spawner or its parents (``nohup``) ignore."""

Actions = list[tuple[object, ...]]


class Launcher:
    """Starts processes of tasks and of function workers. ``open`` before use.

    Each method returns a process id, or raises ``LaunchFailed`` with why it could not be started. ``note`` is the beginning of
    the name of what the hooks' shells leave behind.
    """

    def __init__(self, settings: RunnerSettings, place: Place) -> None:
        self._settings = settings
        self._place = place
        self._node_names = {node.index: node.name for node in settings.nodes}
        self._null = -1

    def open(self) -> None:
        """Open ``/dev/null``."""
        self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def rank_environment(self, recipe: Recipe, slot: RankSlot, rank: int) -> Environment:
        """Return the environment of a rank without what is a task's own."""
        return {**recipe.environment, **self._rank_variables(recipe, slot, rank)}

    def spawn_rank(
        self,
        row: Row,
        attempt: Attempt,
        recipe: Recipe,
        slot: RankSlot,
        rank: int,
        rank_environment: Environment,
        note: str,
    ) -> int:
        """Start one rank of a task in its sandbox, on its cores."""
        sandbox = self._place.enter_sandbox(recipe.template, row)
        self._place.take_cores(slot.cores)
        environment = rank_environment.copy()
        _add_own(environment, row, attempt, sandbox)
        command = [recipe.executable, *row.arguments]
        added = rank > 0 or recipe.before_script is not None
        if recipe.rank_script is not None:
            command = recipe.scripted(recipe.rank_script, note, command)
            return self._spawn_task(command[0], command, environment, row, recipe, added, sandbox)
        path = recipe.path or _find(recipe, environment)
        try:
            return self._spawn_task(path, command, environment, row, recipe, added, sandbox)
        except _Vanished:
            # It was where it was found before, and is no longer; so it certainly did not start.
            recipe.path = ""
            return self._spawn_task(_find(recipe, environment), command, environment, row, recipe, added, sandbox)

    def spawn_launcher(self, row: Row, attempt: Attempt, recipe: Recipe, slots: Sequence[RankSlot], note: str) -> int:
        """Start the mpiexec that starts all ranks of a task."""
        mpiexec = recipe.template.launcher
        assert mpiexec is not None
        sandbox = self._place.enter_sandbox(recipe.template, row)
        self._place.take_cores(tuple(core for slot in slots for core in slot.cores))
        command = recipe.scripted(recipe.rank_script, note, [recipe.executable, *row.arguments])
        variables = [self._rank_variables(recipe, slot, rank) for rank, slot in enumerate(slots)]
        bind = None
        if self._settings.bind and all(slot.cores for slot in slots):
            bind = [self._settings.machine_cores(slot.cores) for slot in slots]
        try:
            line = render(mpiexec, slots, command, variables, bind)
        except BackendError as error:
            raise LaunchFailed(str(error)) from error
        environment = {**recipe.environment, **line.environment, **recipe.own_environment}
        _add_own(environment, row, attempt, sandbox)
        if recipe.launch_script is None and recipe.rank_script is None and not recipe.path:
            # A launcher says less clearly what is missing; only hooks could change where it is.
            _find(recipe, environment)
        arguments = recipe.scripted(recipe.launch_script, note, line.arguments)
        return self._spawn_task(arguments[0], arguments, environment, row, recipe, False, sandbox)

    def spawn_script(
        self, row: Row, attempt: Attempt, recipe: Recipe, script: Script, slots: Sequence[RankSlot], note: str, *, first: bool
    ) -> int:
        """Start a shell with hooks that run once, before or after the ranks, on the cores of all of them."""
        sandbox = self._place.enter_sandbox(recipe.template, row)
        self._place.take_cores(tuple(core for slot in slots for core in slot.cores))
        environment = recipe.environment.copy()
        _add_own(environment, row, attempt, sandbox)
        arguments = recipe.scripted(script, note, [])
        return self._spawn_task(arguments[0], arguments, environment, row, recipe, not first, sandbox)

    def spawn_program(self, command: list[str], environment: dict[str, str], output_path: str) -> int:
        """Start a program of our own in the folder of the user's program.

        Its stdout and stderr go to ``<output_path>.out`` and ``.err``.
        """
        folder = self._place.enter_working_folder()
        self._place.release_cores()
        outputs = (f"{output_path}.out", f"{output_path}.err")
        actions: Actions = [
            (os.POSIX_SPAWN_DUP2, self._null, 0),
            *((os.POSIX_SPAWN_OPEN, number, path, _SHARED_OUTPUT, _OUTPUT_MODE) for number, path in enumerate(outputs, 1)),
        ]
        variables = encoded({**self._settings.environment, **environment})
        try:
            return _spawn(command[0], command, variables, actions)
        except (OSError, ValueError) as error:
            raise failed_spawn(error, command[0], outputs, 0, folder) from error

    def output_paths(self, row: Row, recipe: Recipe) -> tuple[str, str]:
        """Return the full paths of a task's stdout and stderr."""
        sandbox = self._place.sandbox(recipe.template, row)
        stdout, stderr = recipe.stdout or f"{row.uid}.out", recipe.stderr or f"{row.uid}.err"
        return os.path.join(sandbox, stdout), os.path.join(sandbox, stderr)

    def _rank_variables(self, recipe: Recipe, slot: RankSlot, rank: int) -> Environment:
        return rank_variables(slot, rank, self._node_names.get(slot.node, ""), recipe.template.gpu_type)

    def _spawn_task(
        self,
        path: str,
        arguments: list[str],
        environment: Environment,
        row: Row,
        recipe: Recipe,
        added: bool,
        sandbox: bytes,
    ) -> int:
        """Spawn in the present folder; ``added``: what was written before by another process of the task is kept."""
        stdout, stderr = recipe.stdout or f"{row.uid}.out", recipe.stderr or f"{row.uid}.err"
        # The first process empties the file; all of them append, or they would write over each other.
        flags = _OUTPUT if not recipe.append else _SHARED_OUTPUT if added else _SHARED_OUTPUT | os.O_TRUNC
        actions: Actions = [
            (os.POSIX_SPAWN_DUP2, self._null, 0),
            (os.POSIX_SPAWN_OPEN, 1, stdout, flags, _OUTPUT_MODE),
            (os.POSIX_SPAWN_DUP2, 1, 2) if stderr == stdout else (os.POSIX_SPAWN_OPEN, 2, stderr, flags, _OUTPUT_MODE),
        ]
        try:
            return _spawn(path, arguments, environment, actions)
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and "/" not in recipe.executable and not os.path.exists(path):
                raise _Vanished from error
            size = sum(len(name) + len(value) + 2 for name, value in environment.items())
            size += sum(len(argument.encode(*ENCODING)) + 1 for argument in arguments)
            raise failed_spawn(error, path, (stdout, stderr), size, os.fsdecode(sandbox)) from error


class _Vanished(Exception):
    """An executable is no longer where it was found."""


def _spawn(path: str, arguments: list[str], environment: Environment, actions: Actions) -> int:
    return os.posix_spawn(
        path, arguments, environment, file_actions=actions, setsid=True, setsigmask=(), setsigdef=DEFAULT_SIGNALS
    )


def _add_own(environment: Environment, row: Row, attempt: Attempt, sandbox: bytes) -> None:
    environment.update(task_variables(row.uid.encode(*ENCODING), attempt, row.name.encode(*ENCODING), sandbox))
    if row.extra is not None:
        environment.update(encoded(row.extra.variables))


def _find(recipe: Recipe, environment: Environment) -> str:
    """Look the executable up in the task's PATH, and remember a hit that holds in every sandbox."""
    search = environment.get(b"PATH", os.defpath.encode()).decode(*ENCODING)
    for folder in search.split(os.pathsep):
        path = os.path.join(folder or ".", recipe.executable)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            if os.path.isabs(path):
                recipe.path = path
            return path
    raise missing_executable(recipe.executable, search)


def tail(path: str, limit_bytes: int) -> str:
    """Return the end of a regular file as text, whatever bytes it holds; empty if it cannot be read."""
    try:
        # O_NONBLOCK: a named pipe without a writer would hold the spawner up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return ""
        return os.pread(descriptor, limit_bytes, max(0, status.st_size - limit_bytes)).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)
