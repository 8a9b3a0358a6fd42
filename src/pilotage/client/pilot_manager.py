"""``PilotManager``: submits pilots and looks after them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pilotage.client.callbacks import PilotNews
from pilotage.client.checks import UID_BYTES, is_short, length_of
from pilotage.client.constants import PILOT_STATE, PMGR_METRICS
from pilotage.client.inside import check_inside, is_inside
from pilotage.client.job_specs import check_job, check_script, nodes_for, require_commands, size_of_job
from pilotage.client.managers import Manager, chosen
from pilotage.client.pilot import Pilot
from pilotage.client.pilot_description import (
    PilotDescription,
    decoded,
    encoded,
    partitions_of,
    pilot_services,
    require_new,
    scheduler_of,
    staging_of,
)
from pilotage.client.resources import Resources, resources_of
from pilotage.client.task_description import TaskDescription
from pilotage.core.client import events
from pilotage.core.client.facts import ManagerKind
from pilotage.core.client.state import PilotRecord
from pilotage.environments.spec import parse_spec
from pilotage.errors import InvalidPilot, InvalidRequest, PilotFailed
from pilotage.log.files import make_folder
from pilotage.model.ids import PilotUid, TaskUid
from pilotage.model.resources import Node
from pilotage.model.states import FINAL, NEW
from pilotage.platforms import platform
from pilotage.platforms.platform import sandbox_of

if TYPE_CHECKING:
    from pilotage.client.node_list import NodeList
    from pilotage.client.session import Session
    from pilotage.client.submission import Descriptions
    from pilotage.client.task import Task
    from pilotage.client.task_manager import TaskManager

log = logging.getLogger("pilotage")


class PilotManager(Manager):
    """Submits pilots to platforms, waits for them, and ends them."""

    KIND: ManagerKind = "pilots"
    PREFIX = "pmgr"

    def __init__(self, session: Session, uid: str | None = None, cfg: Any = None) -> None:
        del cfg
        self._node_lists: dict[PilotUid, tuple[list[Node], NodeList]] = {}
        super().__init__(session, uid)

    def submit_pilots(
        self, descriptions: PilotDescription | Mapping[str, Any] | Iterable[PilotDescription | Mapping[str, Any]]
    ) -> Any:
        """Start pilots, and return at once: a handle for one description, a list for several.

        Raises:
            InvalidPilot: a description cannot be accepted, or its sandbox cannot be written.
            UnknownPlatform: there is no such platform; names the nearest one.
            SessionClosed: the session is over.
            SessionForked: called in a forked child.
        """
        self._require_open()
        if isinstance(descriptions, (PilotDescription, Mapping)):
            return self._submit([descriptions])[0]
        if not isinstance(descriptions, Iterable):
            raise InvalidPilot(
                "submit_pilots takes a PilotDescription, a dict, or several of them, "
                f"not {descriptions!r:.60} ({type(descriptions).__name__})"
            )
        return self._submit(list(descriptions))

    def _submit(self, given: list[PilotDescription | Mapping[str, Any]]) -> list[Pilot]:
        session = self._session
        described: list[tuple[PilotUid, PilotDescription, list[Node], list[TaskDescription]]] = []
        number = len(session.state.pilots)
        taken: set[str] = set(session.state.pilots)
        for one in given:
            if not isinstance(one, (PilotDescription, Mapping)):
                raise InvalidPilot(f"a pilot is described by a PilotDescription or a dict, not {one!r:.80}")
            description = one.clone() if isinstance(one, PilotDescription) else PilotDescription(one)
            plan_from = ""
            if description.resource:
                on = platform(description.resource)
                if on.partitions and "partitions" not in description and description.get("scheduler") is None:
                    description.partitions = list(on.partitions)
                    plan_from = f"{on.name!r}, {on.partitions_from}"
            description.verify()
            named = f"pilot {description.uid!r}" if description.uid else "pilot"
            check_job(named, on, description)
            is_job = on.batch != "local"
            nodes = nodes_for(on, description).nodes
            if is_job and is_inside(on.name):
                wanted = size_of_job(named, on, description).nodes + on.agent_nodes
                others = [*self._inside(), *(uid for uid, other, *_ in described if is_inside(other.resource or ""))]
                log.warning("%s", check_inside(named, on.name, wanted, others))
            elif is_job:
                require_commands(named, on)
            if is_job and not description.sandbox:
                # Who resumes the session may have other variables.
                description.sandbox = sandbox_of(on) or None
            # What the nodes of a job are called and have is known when it runs, and its agent says what it cannot have.
            if description.get("scheduler") is not None and not is_job:
                from pilotage.client.policies import check_policy

                check_policy(f"{named}: scheduler", scheduler_of(named, description), nodes)
            if description.get("partitions"):
                from pilotage.client.partitions import check_partitions, check_partitions_of_job

                plan = partitions_of(named, description)
                try:
                    if is_job:
                        check_partitions_of_job(named, plan, size_of_job(named, on, description).nodes)
                    else:
                        check_partitions(named, plan, nodes)
                except InvalidPilot as error:
                    if not plan_from:
                        raise
                    raise InvalidPilot(
                        f"{error}. That plan is the default of platform {plan_from}; give the pilot partitions of its own, or "
                        "partitions=[] for none"
                    ) from None
            uid = description.uid or ""
            if uid in taken:
                raise InvalidPilot(f"pilot {uid!r}: the session has a pilot of this uid; choose another one, or leave uid out")
            if "/" in uid or uid.startswith(".") or uid in ("client", "blobs") or not is_short(uid):
                raise InvalidPilot(
                    f"uid={uid!r:.60} cannot name a pilot and its folder; {length_of(uid)}"
                    f"use 1 to {UID_BYTES} bytes without '/'"
                )
            while not uid or uid in taken:
                uid = f"pilot.{number:04d}"
                number += 1
            taken.add(uid)
            if is_job:
                record = PilotRecord(PilotUid(uid), self._uid, encoded(description), nodes)
                check_script(f"pilot {uid!r}", on, description, session.pilot_files.folder(record))
            services = pilot_services(PilotUid(uid), description)
            require_new(uid, services, {*session.state.tasks, *(service.uid for *_, others in described for service in others)})
            if "output_staging" in description:
                from pilotage.client.staging import directive_dict

                # Relative to the folder of now, not to that when they are fetched.
                description.output_staging = [directive_dict(one) for one in staging_of(f"pilot {uid!r}", description)[1]]
            described.append((PilotUid(uid), description, nodes, services))
        for uid, description, nodes, services in described:
            self._start(uid, description, nodes, [TaskUid(service.uid) for service in services])
        return [self._handle(session.state.pilots[uid]) for uid, *_ in described]

    def _inside(self) -> list[str]:
        """Return the pilots that have the nodes of the job around this process."""
        pilots = self._session.state.pilots.values()
        return [
            pilot.uid for pilot in pilots if pilot.state not in FINAL and is_inside(decoded(pilot.description).resource or "")
        ]

    def _start(self, uid: PilotUid, description: PilotDescription, nodes: list[Node], services: list[TaskUid]) -> None:
        session = self._session
        description_bytes = encoded(description)
        folder = session.pilot_files.folder(PilotRecord(uid, self._uid, description_bytes, nodes))
        try:
            make_folder(folder)
        except OSError as error:
            raise InvalidPilot(
                f"pilot {uid!r}: its folder {folder} cannot be made: {error.strerror}; choose another sandbox"
            ) from error
        if "input_staging" in description:
            from pilotage.client.staging import stage

            stage(staging_of(f"pilot {uid!r}", description)[0], "stage_in", uid, os.fspath(folder))
        barrier = description.startup_barrier
        is_job = platform(description.resource or "").batch != "local"
        session.step(
            events.PilotSubmitted(
                time.time(), self._uid, uid, description_bytes, nodes, tuple(services), barrier, estimated=is_job
            )
        )
        try:
            self.complete(session.state.pilots[uid])
        except BaseException:
            # It would wait for its services for ever.
            self.cancel_pilots(uid)
            raise

    def complete(self, record: PilotRecord) -> None:
        """Give a pilot what its description asks for, as far as it has it not: environments and services."""
        description = decoded(record.description)
        for name, spec in description.get("prepare_env", {}).items():
            self.prepare_env(record, name, spec)
        missing = [
            service for service in pilot_services(record.uid, description) if service.uid not in self._session.state.tasks
        ]
        if missing:
            self.submit_tasks_to(self._handle(record), missing)

    def prepare_env(self, record: PilotRecord, name: str, spec: Mapping[str, Any]) -> None:
        """Ask a pilot for an environment, once."""
        asked = msgspec.Raw(msgspec.msgpack.encode(parse_spec(name, spec)))
        known = record.environments.get(name)
        if known == asked:
            return
        if known is not None:
            raise InvalidRequest(
                f"pilot {record.uid!r} has an environment {name!r} that is described differently; choose another name"
            )
        if record.state in FINAL or record.ending:
            raise PilotFailed(f"pilot {record.uid!r} has ended, or is about to; it prepares no environment {name!r}")
        self._session.step(events.EnvironmentAsked(time.time(), record.uid, name, asked))

    def stage(self, record: PilotRecord, entries: object, phase: Literal["stage_in", "stage_out"]) -> list[str]:
        """Stage into, or out of, a pilot's folder, and return the targets."""
        from pilotage.client.staging import parse_directives, stage

        if not entries and phase == "stage_out":
            entries = decoded(record.description).get("output_staging", [])
        directives = parse_directives(entries, f"pilot {record.uid!r}", phase, InvalidRequest)
        return stage(directives, phase, record.uid, self.pilot_folder(record.uid))

    def services_of(self, record: PilotRecord) -> list[Task]:
        """Return the services that a pilot's description asked for."""
        uids = [service.uid for service in pilot_services(record.uid, decoded(record.description))]
        return self._own_task_manager(self._handle(record)).get_tasks(uids) if uids else []

    def resources_of(self, record: PilotRecord) -> Resources:
        """Return what a pilot has, and what of that is free."""
        self._require_open()
        engine = self._session.engine
        engine.loads.ask([record.uid])
        with engine.lock:
            return resources_of(engine.state, [record], engine.loads.told)

    def node_list(self, record: PilotRecord) -> NodeList:
        """Return the user's book of a pilot's nodes."""
        from pilotage.client.node_list import node_list

        nodes, known = self._node_lists.get(record.uid, (None, None))
        if known is None or nodes != record.nodes:
            known = node_list(record.nodes)
            self._node_lists[record.uid] = (record.nodes, known)
        return known

    def _handle(self, record: PilotRecord) -> Pilot:
        return Pilot(self, record)

    def list_pilots(self) -> list[str]:
        """Return the uids of its pilots."""
        return [uid for uid, record in self._session.state.pilots.items() if record.manager == self._uid]

    def get_pilots(self, uids: str | Iterable[str] | None = None) -> Any:
        """Return handles: one for a uid, else a list (None: all of this manager)."""
        found = [self._handle(record) for record in self._records(uids)]
        return found[0] if isinstance(uids, str) else found

    def wait_pilots(
        self,
        uids: str | Iterable[str] | None = None,
        state: str | Collection[str] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Wait until pilots are in (or past) one of these states, or final; at most ``timeout`` seconds.

        Return their states then: one for a uid, else a list.

        Raises:
            WaitInCallback: called in a callback.
            SessionClosed: the session was closed meanwhile.
        """
        records = self._records(uids)
        self.wait_for(records, state, timeout)
        states = [record.state for record in records]
        return states[0] if isinstance(uids, str) else states

    def cancel_pilots(self, uids: str | Iterable[str] | None = None, _timeout: float | None = None) -> None:
        """Have pilots ended and their tasks cancelled. Does not wait."""
        self._end(uids, drain=False)

    def kill_pilots(self, uids: str | Iterable[str] | None = None, _timeout: float | None = None) -> None:
        """The same as ``cancel_pilots``."""
        self._end(uids, drain=False)

    def drain_pilots(self, uids: str | Iterable[str] | None = None) -> None:
        """Have pilots ended as soon as they have done the tasks they have. Does not wait."""
        self._end(uids, drain=True)

    def _end(self, uids: str | Iterable[str] | None, drain: bool) -> None:
        self._session.step(events.PilotCancelRequested(time.time(), [record.uid for record in self._records(uids)], drain))

    def _records(self, uids: str | Iterable[str] | None) -> list[PilotRecord]:
        pilots = self._session.state.pilots
        return [pilots[PilotUid(uid)] for uid in chosen(uids, self.list_pilots(), "pilot")]

    def pilot_folder(self, uid: str) -> str:
        """Return the folder of a pilot."""
        return str(self._session.pilot_files.folder(self._session.state.pilots[PilotUid(uid)]))

    def submit_tasks_to(self, pilot: Pilot, descriptions: Descriptions) -> Task | list[Task]:
        """Submit tasks to one pilot, through a manager of its own."""
        return self._own_task_manager(pilot).submit_tasks(descriptions)

    def _own_task_manager(self, pilot: Pilot) -> TaskManager:
        from pilotage.client.task_manager import TaskManager

        name = f"tmgr.{pilot.uid}"
        known = name in self._session.list_task_managers()
        manager: TaskManager = self._session.get_task_managers(name) if known else TaskManager(self._session, uid=name)
        manager.add_pilots(pilot)
        return manager

    # callbacks

    def register_callback(self, cb: Callable[..., Any], cb_data: Any = None, metric: str | None = None) -> None:
        """Have ``cb(pilot, state)``, or ``cb(pilot, state, cb_data)``, called for each state that a pilot comes to."""
        if metric is None and isinstance(cb_data, str) and cb_data in PMGR_METRICS:
            metric, cb_data = cb_data, None  # the order of 2018
        if metric not in (None, *PMGR_METRICS):
            raise InvalidRequest(f"there is no metric {metric!r}; known is {PILOT_STATE}")
        self._register(cb, cb_data, None)

    def unregister_callback(self, cb: Callable[..., Any] | None = None, metric: str | None = None) -> None:
        """Have ``cb`` (or all callbacks) called no more."""
        del metric
        self.callbacks.remove(cb)

    def register_pilot_callback(self, pilot: Pilot, cb: Callable[..., Any], cb_data: Any, metric: str | None) -> None:
        """Register for one pilot."""
        del metric
        self._register(cb, cb_data, pilot.uid)

    def unregister_pilot_callback(self, pilot: Pilot, cb: Callable[..., Any] | None) -> None:
        """Unregister for one pilot."""
        self.callbacks.remove(cb, pilot.uid)

    def _register(self, cb: Callable[..., Any], cb_data: Any, uid: str | None) -> None:
        self._require_open()
        engine = self._session.engine
        with engine.lock:
            engine.check()
            engine.dispatcher.start()
            if uid is None:
                self.callbacks.add(cb, cb_data)
            else:
                self.callbacks.add(cb, cb_data, [uid])
            self._session.listen(self._uid)
            # What has happened already is told at once, so that nobody misses the state for which he registers.
            for record in self._records(uid):
                self.pilot_changed(record)

    def pilot_changed(self, record: PilotRecord) -> None:
        """Tell the callbacks; called with the engine's lock."""
        if record.state != NEW:
            self._session.engine.dispatcher.put(PilotNews(self.callbacks, self._handle, record, record.state))
