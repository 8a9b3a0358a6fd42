"""One environment, from what the user said of it to what it is: built if it is not there, then evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pilotage.environments.building import claimed
from pilotage.environments.evaluation import BUILDING_S, evaluate
from pilotage.environments.own import ENVIRONMENTS_FOLDER
from pilotage.environments.shell import Shell
from pilotage.errors import BackendError
from pilotage.model.environments import EnvironmentDifference, EnvironmentSpec


class Preparation:
    """Prepares the environment ``name`` for the pilot in ``pilot_folder``: ``run`` takes its time, ``stop`` ends it.

    It starts from ``environment``, the user's own, in ``working_folder``. ``marks`` are variables that name the processes of
    the preparation to who looks for them; ``scratch`` is a private folder for its files.
    """

    def __init__(
        self,
        name: str,
        spec: EnvironmentSpec,
        environment: Mapping[str, str],
        pilot_folder: Path,
        working_folder: str,
        marks: Mapping[str, str],
        scratch: Path,
    ) -> None:
        self._spec = spec
        self._path = pilot_folder / (spec.path or f"{ENVIRONMENTS_FOLDER}/{name}")
        self._shell = Shell({**environment, **marks}, working_folder, scratch)
        self._stopped = False

    def run(self) -> EnvironmentDifference:
        """Return what the environment is beside the user's own.

        Raises:
            BackendError: it cannot be had, and why.
        """
        try:
            return self._run()
        except OSError as error:
            raise BackendError(f"{error.filename or self._path}: {error.strerror or error}") from error

    def stop(self) -> None:
        """End it from another thread."""
        self._stopped = True
        self._shell.stop()

    def _run(self) -> EnvironmentDifference:
        spec, path = self._spec, str(self._path)
        if spec.kind not in ("venv", "conda"):
            return evaluate(spec, path, self._shell)
        with claimed(spec.kind, self._path, BUILDING_S, lambda: self._stopped) as lock:
            if lock is not None:
                return evaluate(spec, path, self._shell, build=True, keep_open=lock)
        return evaluate(spec, path, self._shell)
