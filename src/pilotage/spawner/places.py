"""Where the spawner itself is: the folder and the cores that what it spawns next begins with.

A child needs nothing but ``posix_spawn`` then. Names of sandboxes are relative to the pilot's folder, which is held open: one
look-up each instead of one per folder of a long path.
"""

from __future__ import annotations

import os

from pilotage.model.sandboxes import TASKS_FOLDER, own_sandbox, sandbox_of
from pilotage.model.workload import OWN_SANDBOX, Row, Template
from pilotage.spawner.environment import ENCODING
from pilotage.spawner.failures import unusable_cores, unusable_sandbox
from pilotage.wire.runner_settings import RunnerSettings


class Place:
    """Moves this process. ``open`` before use."""

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings
        self._pilot_folder = settings.pilot_folder
        self._prefix = (settings.pilot_folder + "/").encode(*ENCODING)
        self._descriptor = -1
        self._all_cores: set[int] = set()
        self._cores: tuple[int, ...] = ()

    def open(self) -> None:
        """Open the pilot's folder, and see which cores are ours."""
        os.makedirs(os.path.join(self._pilot_folder, TASKS_FOLDER), exist_ok=True)
        self._descriptor = os.open(self._pilot_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._all_cores = os.sched_getaffinity(0)

    def enter_sandbox(self, template: Template, row: Row) -> bytes:
        """Go to a task's sandbox, made if it is not there, and return its path.

        Raises:
            LaunchFailed: it cannot be made or entered.
        """
        if template.sandbox == OWN_SANDBOX and (row.extra is None or not row.extra.sandbox):
            own = own_sandbox(row.uid, row.shard)
            self._enter_own(own)
            return self._prefix + own.encode(*ENCODING)
        shared = sandbox_of(template, row)
        folder = self._settings.working_folder if shared is None else os.path.join(self._pilot_folder, shared)
        self._enter(folder, make=shared is not None)
        return folder.encode(*ENCODING)

    def enter_working_folder(self) -> str:
        """Go to the folder of the user's program, or where that is gone to the pilot's, and return which."""
        folder = self._settings.working_folder
        if not os.path.isdir(folder):
            folder = self._pilot_folder
        self._enter(folder, make=False)
        return folder

    def take_cores(self, cores: tuple[int, ...]) -> None:
        """Be on these cores of the node and no others; none: on all. Does nothing where nodes are emulated.

        Raises:
            LaunchFailed: they are not there.
        """
        if not self._settings.bind or cores == self._cores:
            return
        if not cores:
            self.release_cores()
            return
        try:
            os.sched_setaffinity(0, self._settings.machine_cores(cores))
        except OSError as error:
            raise unusable_cores(cores, error, self._all_cores) from error
        self._cores = cores

    @property
    def has_cores(self) -> bool:
        """Whether the spawner itself is on the cores of a task."""
        return bool(self._cores)

    def release_cores(self) -> None:
        """Be on all cores again."""
        if self._cores:
            os.sched_setaffinity(0, self._all_cores)
            self._cores = ()

    def _enter_own(self, sandbox: str) -> None:
        try:
            os.fchdir(self._descriptor)
            try:
                os.mkdir(sandbox)
            except FileExistsError:
                pass
            except FileNotFoundError:
                # The first of its shard.
                os.makedirs(sandbox, exist_ok=True)
            os.chdir(sandbox)
        except OSError as error:
            raise unusable_sandbox(os.path.join(self._pilot_folder, sandbox), error) from error

    def _enter(self, folder: str, *, make: bool) -> None:
        try:
            try:
                os.chdir(folder)
            except FileNotFoundError:
                if not make:
                    raise
                os.makedirs(folder, exist_ok=True)
                os.chdir(folder)
        except OSError as error:
            raise unusable_sandbox(folder, error) from error
