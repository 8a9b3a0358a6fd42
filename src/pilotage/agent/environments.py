"""The agent's named environments: prepared one after another on a thread, kept in the pilot's folder, told to the executor.

What an environment amounts to is written beside the environments that are built, ``env/.<name>.difference``, and is durable
before anybody hears that it is prepared. So an agent that stands in for a dead one has all differences again at its start,
and a name means the same for the life of the pilot: to prepare it differently is refused.

The agents of a pilot's partitions prepare each environment once between them: who has ``env/.<name>.lock`` does it, and the
others find what it amounts to; or, in ``env/.<name>.failure``, why it cannot be had. That counts for who was asked before it
was known; who is asked later tries again.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from pilotage.agent.settings import PilotSettings
from pilotage.environments.own import ENVIRONMENTS_FOLDER
from pilotage.environments.preparation import Preparation
from pilotage.errors import BackendError
from pilotage.executors.orphans import ENVIRONMENT_MARK, end_orphans, marks_of
from pilotage.model.environments import EnvironmentDifference, EnvironmentSpec

_SUFFIX = ".difference"
_LOCK_SUFFIX = ".lock"
_FAILURE_SUFFIX = ".failure"
_ORPHANS_S = 5.0
_LOOK_S = 0.05


class Prepared(msgspec.Struct, frozen=True):
    """An environment of this pilot, as it is kept in the pilot's folder."""

    name: str
    spec: EnvironmentSpec
    difference: EnvironmentDifference


class Failure(msgspec.Struct, frozen=True):
    """Why an environment could not be had; ``attempt`` is another each time."""

    spec: EnvironmentSpec
    error: str
    attempt: str


class Environments:
    """Prepares the environments of one pilot; those that an agent before this one prepared are defined at once.

    ``define`` makes a difference known to the executor; it is called on the agent's own thread. ``tell`` is called on another
    with the name and, if it cannot be had, why; ``scratch`` is a private folder.
    """

    def __init__(
        self,
        settings: PilotSettings,
        scratch: Path,
        incarnation: int,
        define: Callable[[str, EnvironmentDifference], None],
        tell: Callable[[str, str], None],
    ) -> None:
        self._settings = settings
        self._scratch = scratch
        self._define = define
        self._tell = tell
        self._folder = Path(settings.pilot_folder) / ENVIRONMENTS_FOLDER
        self._has_heritage = incarnation > 1
        self._prepared: dict[str, Prepared] = {}
        self._lock = threading.Lock()
        """Guards all that follows."""
        self._queue: deque[tuple[str, EnvironmentSpec, Failure | None]] = deque()
        """What is to be prepared, and the failure that was known of when it was asked for."""
        self._thread: threading.Thread | None = None
        self._current: Preparation | None = None
        self._stopping = False
        for path in self._folder.glob(f".*{_SUFFIX}"):
            found = msgspec.json.decode(path.read_bytes(), type=Prepared)
            self._prepared[found.name] = found
            self._define(found.name, found.difference)

    def prepare(self, name: str, spec: msgspec.Raw) -> None:
        """Have this environment prepared; what was asked for before has precedence."""
        known = self._failure(name) if self._settings.partition else None
        with self._lock:
            self._queue.append((name, msgspec.msgpack.decode(spec, type=EnvironmentSpec), known))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="environments", daemon=True)
                self._thread.start()

    def define(self, name: str) -> None:
        """Make known what was told as prepared."""
        self._define(name, self._prepared[name].difference)

    def close(self) -> None:
        """End what is under way, and wait for that."""
        with self._lock:
            self._stopping = True
            thread, current = self._thread, self._current
        if current is not None:
            current.stop()
        if thread is not None:
            thread.join()

    # -------------------------------------------------------------------------------------------------------- on the thread

    def _work(self) -> None:
        if self._has_heritage:
            # What the last agent was preparing when it died, and holds what is to be built anew.
            self._end_preparations(marks_of(self._settings.partition))
            self._has_heritage = False
        while True:
            with self._lock:
                if self._stopping or not self._queue:
                    self._thread = None
                    return
                name, spec, known = self._queue.popleft()
                settings = self._settings
                marks = {
                    "PILOTAGE_SESSION_ID": settings.session,
                    "PILOTAGE_PILOT_ID": settings.pilot,
                    ENVIRONMENT_MARK.decode(): name,
                    **marks_of(settings.partition),
                }
                self._current = Preparation(
                    name,
                    spec,
                    settings.environment,
                    Path(settings.pilot_folder),
                    settings.working_folder,
                    marks,
                    self._scratch,
                )
            if settings.partition:
                error = self._prepare_alone(name, spec, self._current, known)
            else:
                error = self._prepare(name, spec, self._current)
            if not self._stopping:
                self._tell(name, error)

    def _end_preparations(self, marked: dict[str, str]) -> None:
        settings = self._settings
        end_orphans(settings.session, settings.pilot, (), _ORPHANS_S, (ENVIRONMENT_MARK,), marked=marked)

    def _prepare_alone(self, name: str, spec: EnvironmentSpec, preparation: Preparation, known: Failure | None) -> str:
        """Prepare what others may be preparing, too; ``known``: their failure that was known when this was asked for."""
        try:
            with self._alone_with(name):
                failure = self._failure(name)
                if failure is not None and failure != known and failure.spec == spec:
                    return failure.error
                error = self._prepare(name, spec, preparation)
                if error and not self._stopping:
                    # If that can't be written, the others try for themselves.
                    with suppress(OSError):
                        self._keep(f".{name}{_FAILURE_SUFFIX}", Failure(spec, error, secrets.token_hex(8)))
                return error
        except OSError as error:
            return f"{error.filename or self._folder} cannot be locked against other partitions: {error.strerror}"

    @contextmanager
    def _alone_with(self, name: str) -> Iterator[None]:
        """Keep the other agents of the pilot from preparing this environment; learn what they made of it before."""
        self._folder.mkdir(exist_ok=True)
        lock = os.open(self._folder / f".{name}{_LOCK_SUFFIX}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not self._stopping:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(_LOOK_S)
                    continue
                path = self._folder / f".{name}{_SUFFIX}"
                if path.exists():
                    self._prepared.setdefault(name, msgspec.json.decode(path.read_bytes(), type=Prepared))
                else:
                    # Who had the lock before may have died, and left running what was to prepare it.
                    self._end_preparations({ENVIRONMENT_MARK.decode(): name})
                break
            yield
        finally:
            os.close(lock)

    def _prepare(self, name: str, spec: EnvironmentSpec, preparation: Preparation) -> str:
        """Return why it cannot be had; nothing if all is well."""
        before = self._prepared.get(name)
        if before is not None:
            if before.spec == spec:
                return ""
            return (
                f"it was prepared before, and differently ({_changes(before.spec, spec)}); "
                "a name means the same for the life of a pilot: choose another one"
            )
        try:
            found = Prepared(name, spec, preparation.run())
            self._keep(f".{name}{_SUFFIX}", found)
        except BackendError as error:
            return str(error)
        except OSError as error:
            return f"what it amounts to cannot be written to {self._folder}: {error.strerror}; free space there"
        except Exception as error:  # tasks must not wait for ever because of a mistake here
            traceback.print_exc(file=sys.stderr)
            return f"its preparation broke: {type(error).__name__}: {error}; the agent's output (agent.err) has more"
        self._prepared[name] = found
        return ""

    def _failure(self, name: str) -> Failure | None:
        try:
            return msgspec.json.decode((self._folder / f".{name}{_FAILURE_SUFFIX}").read_bytes(), type=Failure)
        except OSError:
            return None

    def _keep(self, name: str, found: Prepared | Failure) -> None:
        self._folder.mkdir(exist_ok=True)
        path = self._folder / name
        new = path.with_suffix(".new")
        # Environments hold secrets.
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(found))
            file.flush()
            os.fsync(descriptor)
        new.replace(path)


def _changes(before: EnvironmentSpec, after: EnvironmentSpec) -> str:
    names = [name for name in EnvironmentSpec.__struct_fields__ if getattr(before, name) != getattr(after, name)]
    return ", ".join(f"{name} was {getattr(before, name)!r}" for name in names)
