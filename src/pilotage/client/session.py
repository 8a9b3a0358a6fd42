"""``Session``: the root object, which owns the folder, the lease, the log, and everything that was started.

It brings its parts together, and is where the user and the managers find them: the engine, submissions, the files of pilots
and what they need to begin. Its folder is drawn in ``pilotage.client.session_folder``.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from pilotage.agent.settings import LOG_FOLDER
from pilotage.client.checks import UID_BYTES, is_short, length_of
from pilotage.client.engine import Engine
from pilotage.client.inside import session_name
from pilotage.client.interrupts import Uninterrupted
from pilotage.client.pilot_description import PilotDescription
from pilotage.client.pilot_files import PilotFiles
from pilotage.client.pilot_preparation import PilotPreparation
from pilotage.client.recovery import recover_state
from pilotage.client.session_files import fetch, note_metadata
from pilotage.client.session_folder import (
    BLOB_FOLDER,
    CLIENT_FOLDER,
    CLIENT_KEY_FILE,
    HANDED_OVER_FILE,
    METADATA_FILE,
    has_client,
    sessions_folder,
    unusable,
)
from pilotage.client.submission import Submissions
from pilotage.core.client import events
from pilotage.core.client.state import ClientState, PilotRecord, TaskRecord
from pilotage.errors import InvalidRequest, nearest
from pilotage.log.blobs import BlobStore
from pilotage.log.files import make_folder, replace_file
from pilotage.log.lease import Lease, holder_of
from pilotage.log.writer import LogWriter
from pilotage.model.ids import SessionUid
from pilotage.model.states import FINAL
from pilotage.platforms import platform

if TYPE_CHECKING:
    from typing_extensions import Self

    from pilotage.client.managers import Manager

log = logging.getLogger("pilotage")

END_PATIENCE_S = 30.0
HAND_OVER_S = 330.0
"""A little longer than a submission is tried again and again."""


class Session:
    """One campaign, from the first pilot to the last result. Use it as a context manager, or call ``close``.

    ``uid`` names a new session (by default after the time); ``base`` is the folder that holds the sessions. ``trace`` keeps
    every record of the logs, for profiles.

    Raises:
        InvalidRequest: there is a session of this name already, or the name cannot be one.
        BackendError: the folder cannot be made or written.
    """

    def __init__(
        self, uid: str | None = None, base: str | os.PathLike[str] | None = None, *, trace: bool = True, cfg: Any = None
    ) -> None:
        del cfg  # RADICAL-Pilot's configuration of its components has no counterpart
        if uid is None:
            uid = session_name(sessions_folder(base), CLIENT_FOLDER) or None
        if uid is None:
            uid = f"session.{time.strftime('%Y%m%d-%H%M%S')}.{secrets.token_hex(3)}"
        elif not isinstance(uid, str):
            raise InvalidRequest(f"uid={uid!r:.60} ({type(uid).__name__}): a session is named by text (str), or not at all")
        elif not uid or uid.startswith(".") or "/" in uid or not is_short(uid):
            raise InvalidRequest(
                f"uid={uid!r:.60} cannot name a session; {length_of(uid)}"
                f"use 1 to {UID_BYTES} bytes without '/', not beginning with '.'"
            )
        folder = sessions_folder(base) / uid
        if has_client(folder):
            holder = holder_of(folder / CLIENT_FOLDER)
            if holder is not None and not holder.released:
                Lease.acquire(folder / CLIENT_FOLDER).release()
            raise InvalidRequest(f"there is a session {uid!r} in {folder.parent}; Session.resume({uid!r}) goes on with it")
        self._open(SessionUid(uid), folder, trace)

    @classmethod
    def resume(cls, uid: str, base: str | os.PathLike[str] | None = None, *, trace: bool = True) -> Self:
        """Go on with a session whose program ended or died: its pilots, tasks and results, by their uids.

        Raises:
            InvalidRequest: there is no such session; names the nearest one.
            SessionInUse: another process has it.
            LogCorrupted: its history cannot be trusted.
        """
        if not isinstance(uid, str):
            raise InvalidRequest(f"uid={uid!r:.60} ({type(uid).__name__}): give the uid of a session (str)")
        folder = sessions_folder(base) / uid
        if not has_client(folder):
            known = os.listdir(folder.parent) if folder.parent.is_dir() else []
            raise InvalidRequest(f"there is no session {uid!r} in {folder.parent}{nearest(uid, known)}")
        session = cls.__new__(cls)
        session._open(SessionUid(uid), folder, trace)
        session._engine.reconnect()
        session._complete_pilots()
        return session

    def _open(self, uid: SessionUid, folder: Path, trace: bool) -> None:
        self._uid = uid
        self._folder = folder
        self._managers: dict[str, Manager] = {}
        self._listening: dict[str, Manager] = {}
        self._pid = os.getpid()
        client_folder = folder / CLIENT_FOLDER
        try:
            make_folder(client_folder)
            lease = Lease.acquire(client_folder)
        except OSError as error:
            raise unusable(folder, error) from error
        try:
            state = recover_state(client_folder)
            self.blobs = BlobStore(folder / BLOB_FOLDER)
            writer = LogWriter.open(
                client_folder, writer=f"client.{lease.epoch}", keep_history=trace, sync_before=[self.blobs.sync]
            )
        except BaseException:
            lease.release()
            raise
        self.pilot_files = PilotFiles(uid, folder, state)
        starter = PilotPreparation(uid, folder, state, self.pilot_files, trace=trace)
        key_file = client_folder / CLIENT_KEY_FILE
        self._engine = Engine(uid, lease, state, writer, listener=self, starter=starter, key_file=key_file)
        self.submissions = Submissions(self)
        self._engine.resolve = self.submissions.resolve
        self.step(events.SessionOpened(time.time(), lease.epoch))
        self._closed = False
        atexit.register(self._close_at_exit)

    def _complete_pilots(self) -> None:
        """Give pilots what the program before this one did not come to ask for, as it died while it submitted them."""
        for record in list(self.state.pilots.values()):
            if record.state in FINAL or record.ending:
                continue
            environments = PilotDescription(msgspec.msgpack.decode(record.description)).get("prepare_env", {})
            if environments.keys() > record.environments.keys() or any(uid not in self.state.tasks for uid in record.awaited):
                self.get_pilot_managers(record.manager).complete(record)

    # what it is

    @property
    def uid(self) -> str:
        """The session's name."""
        return self._uid

    @property
    def path(self) -> str:
        """The session's folder."""
        return os.fspath(self._folder)

    @property
    def cfg(self) -> dict[str, Any]:
        """What the session was made with."""
        return {"sid": self._uid, "path": self.path, "base": os.fspath(self._folder.parent)}

    @property
    def engine(self) -> Engine:
        """The engine, for managers."""
        return self._engine

    @property
    def state(self) -> ClientState:
        """What the session knows, for managers; only to be read."""
        return self._engine.state

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def __repr__(self) -> str:
        return f"<Session {self._uid}{' closed' if self._closed else ''}>"

    # managers

    def register(self, uid: str, manager: Manager) -> None:
        """Note a manager that was made."""
        if uid in self._managers:
            raise InvalidRequest(
                f"session {self._uid} has a manager {uid!r} already; get it from the session, or leave uid out"
            )
        self._managers[uid] = manager

    def listen(self, uid: str) -> None:
        """This manager has callbacks from now on."""
        self._listening[uid] = self._managers[uid]

    def list_pilot_managers(self) -> list[str]:
        """Return the uids of all managers of pilots."""
        return [uid for uid, record in self.state.managers.items() if record.kind == "pilots"]

    def list_task_managers(self) -> list[str]:
        """Return the uids of all managers of tasks."""
        return [uid for uid, record in self.state.managers.items() if record.kind == "tasks"]

    def get_pilot_managers(self, pmgr_uids: str | Iterable[str] | None = None) -> Any:
        """Return the managers of pilots: one for a uid, else a list (None: all)."""
        from pilotage.client.pilot_manager import PilotManager

        return self._get_managers(pmgr_uids, self.list_pilot_managers(), PilotManager)

    def get_task_managers(self, tmgr_uids: str | Iterable[str] | None = None) -> Any:
        """Return the managers of tasks: one for a uid, else a list (None: all)."""
        from pilotage.client.task_manager import TaskManager

        return self._get_managers(tmgr_uids, self.list_task_managers(), TaskManager)

    def _get_managers(self, uids: str | Iterable[str] | None, known: Sequence[str], kind: Any) -> Any:
        wanted = known if uids is None else [uids] if isinstance(uids, str) else list(uids)
        for uid in wanted:
            if uid not in known:
                raise InvalidRequest(f"there is no manager {uid!r} in session {self._uid}{nearest(uid, known)}")
        # Those of an earlier process are there again as soon as they are asked for.
        found = [self._managers[uid] if uid in self._managers else kind(self, uid=uid) for uid in wanted]
        return found[0] if isinstance(uids, str) else found

    # platforms

    def list_resources(self) -> list[str]:
        """Return the names of all platforms."""
        from pilotage.platforms import load_platforms

        return sorted(load_platforms())

    def get_resource_config(self, resource: str, schema: str | None = None) -> dict[str, Any]:
        """Return the description of a platform. Raises ``UnknownPlatform``, with the nearest name."""
        del schema
        return dict(msgspec.structs.asdict(platform(resource)))

    # files

    def fetch_profiles(self, tgt: str | os.PathLike[str] | None = None) -> list[str]:
        """Return the paths of the logs, from which traces are made; with ``tgt`` of copies in that folder."""
        folders = [self._folder / CLIENT_FOLDER, *(folder / LOG_FOLDER for folder in self.pilot_files.agent_folders())]
        return fetch((path for folder in folders for path in folder.glob("*") if path.suffix != ".json"), self._uid, tgt)

    def fetch_logfiles(self, tgt: str | os.PathLike[str] | None = None) -> list[str]:
        """Return the paths of what the pilots' processes printed; with ``tgt`` of copies in that folder."""
        folders = self.pilot_files.agent_folders()
        return fetch(
            (path for folder in folders for path in folder.glob("*") if path.suffix in (".err", ".out")), self._uid, tgt
        )

    def inject_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Note something down about the session, in ``metadata.json`` of its folder; earlier notes stay unless named again.

        Raises:
            InvalidRequest: it is not a dict of what JSON can hold.
        """
        note_metadata(self._folder / METADATA_FILE, metadata)

    # what the engine tells its listener

    def tasks_changed(self, records: Sequence[TaskRecord]) -> None:
        """Pass the news to the managers that have callbacks."""
        if not self._listening:
            return
        for uid, manager in self._listening.items():
            manager.tasks_changed([record for record in records if record.manager == uid])

    def pilot_changed(self, record: PilotRecord) -> None:
        """Pass the news to the pilot's manager."""
        manager = self._listening.get(record.manager)
        if manager is not None:
            manager.pilot_changed(record)

    def waiting_changed(self, manager: str, count: int) -> None:
        """Pass the news to the manager of tasks."""
        listening = self._listening.get(manager)
        if listening is not None:
            listening.waiting_changed(count)

    # steps and waits, for managers

    def step(self, event: events.Event) -> None:
        """Let the engine handle an event of the user's."""
        self._engine.require_owner()
        with Uninterrupted(), self._engine.lock:
            self._engine.handle(event)

    def wait(self, records: Sequence[Any], over: frozenset[str], timeout_s: float | None) -> bool:
        """Wait for records; see ``Engine.wait``."""
        return self._engine.wait(records, over, timeout_s)

    # the end

    def hand_over(self) -> int:
        """Leave the pilots to themselves, and close the session here: what they were not sent they find in their folders.

        Pilots that are jobs need not have begun. Return how many tasks no pilot has, as they wait for other tasks, for
        services, or for a pilot that is active: these wait until somebody comes back with ``Session.resume``. For how long a
        pilot goes on without a client its ``on_client_loss`` says. Pilots that are jobs have their ``successors`` submitted
        from there when their time is over.

        Raises:
            BackendError: a job is not submitted yet, a pilot that runs does not answer, or its folder cannot be written; the
                session is still open.
            WaitInCallback, SessionForked: as ``close``.
        """
        self._engine.require_owner()
        self._engine.check()
        self._engine.hand_over(HAND_OVER_S)
        try:
            replace_file(self._folder / HANDED_OVER_FILE, [])
        except OSError as error:
            raise unusable(self._folder, error) from error
        self.close(terminate=False)
        return len(self.state.held) + sum(len(manager.waiting) for manager in self.state.managers.values())

    def close(self, cleanup: bool | None = None, terminate: bool | None = None, download: bool = False) -> None:
        """End the session: its pilots (unless ``terminate=False``), callbacks, threads and files. Again does nothing.

        With ``terminate=False`` the pilots go on, and ``Session.resume`` comes back to them. ``cleanup`` and ``download`` are
        accepted for older scripts: files of local pilots are where they are.

        Raises:
            WaitInCallback: called inside a callback.
            SessionForked: called in a forked child.
        """
        del cleanup, download
        if self._closed:
            return
        self._engine.require_owner()
        self._engine.dispatcher.refuse_here("closing")
        self._closed = True
        atexit.unregister(self._close_at_exit)
        left = self._engine.close(terminate=terminate is not False, timeout_s=END_PATIENCE_S)
        self.blobs.close()
        if terminate is not False:
            self.pilot_files.stage_out()
            self.pilot_files.clean_up()
        if left:
            log.warning("pilots that have not ended in time are left behind: %s; see %s", ", ".join(left), self.path)

    def _close_at_exit(self) -> None:
        if self._closed or os.getpid() != self._pid:
            return
        log.warning("session %s was not closed; ending its pilots. Call close(), or use `with`", self._uid)
        self.close()

    def __enter__(self) -> Self:
        self._engine.require_owner()
        self._engine.check()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # A forked child that leaves the block, by sys.exit() or an error of its own, has nothing of its parent's to close.
        if os.getpid() == self._pid:
            self.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, self.close)
