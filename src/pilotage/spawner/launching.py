"""Starting the processes of tasks.

What a template's tasks share is prepared once, as a ``Recipe``. The spawner itself goes to the sandbox and onto the cores, so
that the child needs nothing but ``posix_spawn`` (which shares memory with its parent until it executes, and so costs the same
whatever the spawner's size). Names in the sandbox are relative: one look-up instead of one per folder of a long path.
"""

from __future__ import annotations

import os
import signal
import stat

from pilotage.model.ids import Attempt
from pilotage.model.ranks import RankSlot
from pilotage.model.workload import Row, Template
from pilotage.spawner.environment import Environment, encoded, rank_variables, task_variables, template_environment
from pilotage.spawner.failures import failed_spawn, missing_executable, unusable_cores, unusable_sandbox
from pilotage.wire.runner_settings import RunnerSettings

TASKS_FOLDER = "tasks"
"""Folder in the pilot's folder that holds the default sandboxes."""

_OUTPUT = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_SHARED_OUTPUT = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_OUTPUT_MODE = 0o666
_ENCODING = ("utf-8", "surrogateescape")

DEFAULT_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
"""Set back to their default in every child, whatever the spawner or its parents (``nohup``) ignore."""


class Recipe:
    """A template, and what its tasks share, prepared."""

    __slots__ = ("append", "environment", "executable", "path", "sandbox", "stderr", "stdout", "template")

    def __init__(self, template: Template, settings: RunnerSettings) -> None:
        self.template = template
        self.environment = template_environment(settings, template)
        self.executable = os.path.expanduser(template.executable)
        self.path = self.executable if "/" in self.executable else ""
        """Where the executable is; empty until it is looked up."""
        self.sandbox = os.path.join(settings.pilot_folder, template.sandbox) if template.sandbox else ""
        """The folder shared by the template's tasks; empty when each has its own."""
        self.stdout = template.stdout
        self.stderr = template.stderr
        self.append = template.request.ranks > 1


class Launcher:
    """Starts processes of tasks and of function workers. ``open`` before use."""

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings
        self._node_names = {node.index: node.name for node in settings.nodes}
        self._tasks_folder = os.path.join(settings.pilot_folder, TASKS_FOLDER)
        self._tasks_prefix = (self._tasks_folder + "/").encode(*_ENCODING)
        self._tasks_descriptor = -1
        self._null = -1
        self._all_cores: set[int] = set()
        self._cores: tuple[int, ...] = ()

    def open(self) -> None:
        """Open the folder of the sandboxes, and ``/dev/null``."""
        os.makedirs(self._tasks_folder, exist_ok=True)
        self._tasks_descriptor = os.open(self._tasks_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._all_cores = os.sched_getaffinity(0)

    def rank_environment(self, recipe: Recipe, slot: RankSlot, rank: int) -> Environment:
        """Return the environment of a rank without what is a task's own."""
        name = self._node_names.get(slot.node, "")
        return {**recipe.environment, **rank_variables(slot, rank, name, recipe.template.gpu_type)}

    def spawn(
        self, row: Row, attempt: Attempt, recipe: Recipe, slot: RankSlot, rank: int, rank_environment: Environment
    ) -> int:
        """Start one rank of a task in its sandbox and return its process id.

        Raises:
            LaunchFailed: why it could not be started.
        """
        uid = row.uid
        name = uid.encode(*_ENCODING)
        if recipe.sandbox:
            self._enter_shared(recipe.sandbox)
            sandbox = recipe.sandbox.encode(*_ENCODING)
        else:
            self._enter_own(uid)
            sandbox = self._tasks_prefix + name
        if self._settings.bind and slot.cores != self._cores:
            self._take_cores(slot.cores)
        environment = rank_environment.copy()
        environment.update(task_variables(name, attempt, row.name.encode(*_ENCODING), sandbox))
        stdout, stderr = recipe.stdout or f"{uid}.out", recipe.stderr or f"{uid}.err"
        # The first rank empties the file; all of them append, or they would write over each other.
        flags = _OUTPUT if not recipe.append else _SHARED_OUTPUT if rank else _SHARED_OUTPUT | os.O_TRUNC
        actions: list[tuple[object, ...]] = [
            (os.POSIX_SPAWN_DUP2, self._null, 0),
            (os.POSIX_SPAWN_OPEN, 1, stdout, flags, _OUTPUT_MODE),
            (os.POSIX_SPAWN_DUP2, 1, 2) if stderr == stdout else (os.POSIX_SPAWN_OPEN, 2, stderr, flags, _OUTPUT_MODE),
        ]
        arguments = [recipe.executable, *row.arguments]
        path = recipe.path or self._find(recipe, environment)
        try:
            try:
                return self._spawn(path, arguments, environment, actions)
            except FileNotFoundError:
                if "/" in recipe.executable:
                    raise
                # It was where it was found before, and is no longer; so it certainly did not start.
                recipe.path = ""
                path = self._find(recipe, environment)
                return self._spawn(path, arguments, environment, actions)
        except (OSError, ValueError) as error:
            size = sum(len(name) + len(value) + 2 for name, value in environment.items())
            size += sum(len(argument.encode(*_ENCODING)) + 1 for argument in arguments)
            raise failed_spawn(error, path, (stdout, stderr), size, os.fsdecode(sandbox)) from error

    def _spawn(self, path: str, arguments: list[str], environment: Environment, actions: list[tuple[object, ...]]) -> int:
        return os.posix_spawn(
            path, arguments, environment, file_actions=actions, setsid=True, setsigmask=(), setsigdef=DEFAULT_SIGNALS
        )

    def spawn_program(self, command: list[str], environment: dict[str, str], output_path: str) -> int:
        """Start a program of our own in the folder of the user's program and return its process id.

        Its stdout and stderr go to ``<output_path>.out`` and ``.err``.

        Raises:
            LaunchFailed: why it could not be started.
        """
        folder = self._settings.working_folder
        if not os.path.isdir(folder):
            folder = self._settings.pilot_folder
        self._enter_shared(folder)
        self.release_cores()
        outputs = (f"{output_path}.out", f"{output_path}.err")
        actions: list[tuple[object, ...]] = [
            (os.POSIX_SPAWN_DUP2, self._null, 0),
            *((os.POSIX_SPAWN_OPEN, number, path, _SHARED_OUTPUT, _OUTPUT_MODE) for number, path in enumerate(outputs, 1)),
        ]
        variables = encoded({**self._settings.environment, **environment})
        try:
            return self._spawn(command[0], command, variables, actions)
        except (OSError, ValueError) as error:
            raise failed_spawn(error, command[0], outputs, 0, folder) from error

    @property
    def has_cores(self) -> bool:
        """Whether the spawner itself is on the cores of a task."""
        return bool(self._cores)

    def release_cores(self) -> None:
        """Let the spawner itself run on all cores again."""
        if self._cores:
            os.sched_setaffinity(0, self._all_cores)
            self._cores = ()

    def output_paths(self, row: Row, recipe: Recipe) -> tuple[str, str]:
        """Return the full paths of a task's stdout and stderr."""
        sandbox = recipe.sandbox or f"{self._tasks_folder}/{row.uid}"
        stdout, stderr = recipe.stdout or f"{row.uid}.out", recipe.stderr or f"{row.uid}.err"
        return os.path.join(sandbox, stdout), os.path.join(sandbox, stderr)

    def _enter_own(self, uid: str) -> None:
        try:
            os.fchdir(self._tasks_descriptor)
            try:
                os.mkdir(uid)
            except FileExistsError:
                pass
            os.chdir(uid)
        except OSError as error:
            raise unusable_sandbox(f"{self._tasks_folder}/{uid}", error) from error

    def _enter_shared(self, folder: str) -> None:
        try:
            try:
                os.chdir(folder)
            except FileNotFoundError:
                os.makedirs(folder, exist_ok=True)
                os.chdir(folder)
        except OSError as error:
            raise unusable_sandbox(folder, error) from error

    def _take_cores(self, cores: tuple[int, ...]) -> None:
        if not cores:
            self.release_cores()
            return
        try:
            os.sched_setaffinity(0, self._settings.machine_cores(cores))
        except OSError as error:
            raise unusable_cores(cores, error, self._all_cores) from error
        self._cores = cores

    def _find(self, recipe: Recipe, environment: Environment) -> str:
        """Look the executable up in the task's PATH, and remember a hit that holds in every sandbox."""
        search = environment.get(b"PATH", os.defpath.encode()).decode(*_ENCODING)
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
