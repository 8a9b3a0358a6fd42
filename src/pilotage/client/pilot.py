"""The handle of a pilot: a view of its record, like the handle of a task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pilotage.client.awaited import unknown_attribute
from pilotage.client.job_words import outcome_of, reason_of
from pilotage.client.pilot_description import PilotDescription, decoded
from pilotage.client.task import Task
from pilotage.core.client.state import PilotRecord
from pilotage.model.partitions import PartitionSpec, PartitionStatus
from pilotage.model.resources import Node

if TYPE_CHECKING:
    from pilotage.client.node_list import NodeList
    from pilotage.client.pilot_manager import PilotManager
    from pilotage.client.resources import Resources
    from pilotage.client.session import Session
    from pilotage.client.task_description import TaskDescription


class Pilot:
    """A pilot that was submitted. Equal to every other handle of the same pilot."""

    __slots__ = ("__weakref__", "_manager", "_record")

    def __init__(self, manager: PilotManager, record: PilotRecord) -> None:
        self._manager = manager
        self._record = record

    @property
    def uid(self) -> str:
        """The pilot's name in its session."""
        return self._record.uid

    @property
    def state(self) -> str:
        """The present state."""
        return self._record.state

    @property
    def reason(self) -> str:
        """Why it ended. Of one that waits for its job to begin: what the batch system says of that. Else empty."""
        return reason_of(self._record)

    @property
    def job(self) -> str:
        """Its job's id in the batch system; empty before it has one, and where there is no batch system."""
        return self._record.job.id if self._record.job is not None else ""

    @property
    def job_state(self) -> str:
        """What the batch system says of its job: ``queued``, ``running``, ...; empty before it does."""
        return self._record.job.state if self._record.job is not None else ""

    @property
    def job_outcome(self) -> str:
        """How its job ended, in one word: ``DONE``, ``FAILED``, ``CANCELLED``, ``TIMED_OUT``, ``PREEMPTED``, ``NODE_FAILED`` or
        ``OUT_OF_MEMORY``; empty before that is known, and where there is no batch system."""
        return outcome_of(self._record)

    @property
    def pmgr(self) -> PilotManager:
        """The manager that it was submitted to."""
        return self._manager

    @property
    def description(self) -> PilotDescription:
        """A copy of the description that it was submitted with."""
        return decoded(self._record.description)

    @property
    def resource(self) -> str:
        """The platform that it runs on."""
        return str(self.description.resource)

    @property
    def nodes(self) -> list[Node]:
        """Its nodes."""
        return list(self._record.nodes)

    @property
    def nodelist(self) -> NodeList:
        """Its nodes, to be divided by the user: slots that are found here can be given to tasks."""
        return self._manager.node_list(self._record)

    def resources(self) -> Resources:
        """Return what it has, what of that is free, and what waits in it; it is asked. All 0 while it is not active.

        Raises:
            SessionClosed: the session is over.
        """
        return self._manager.resources_of(self._record)

    @property
    def sandbox(self) -> str:
        """The folder of the pilot, in which its tasks have theirs."""
        return self._manager.pilot_folder(self._record.uid)

    pilot_sandbox = sandbox

    @property
    def session(self) -> Session:
        """The session that it belongs to."""
        return self._manager.session

    @property
    def session_sandbox(self) -> str:
        """The folder of its session."""
        return self.session.path

    def wait(self, state: str | Collection[str] | None = None, timeout: float | None = None) -> str:
        """Wait until it is in (or past) one of these states, or final; at most ``timeout`` seconds. Return its state."""
        self._manager.wait_for([self._record], state, timeout)
        return self.state

    def cancel(self) -> None:
        """End the pilot, cancelling its tasks. Does not wait."""
        self._manager.cancel_pilots(self.uid)

    def submit_tasks(
        self, descriptions: TaskDescription | dict[str, Any] | Iterable[TaskDescription | dict[str, Any]]
    ) -> Task | list[Task]:
        """Submit tasks to this very pilot; as ``TaskManager.submit_tasks``."""
        return self._manager.submit_tasks_to(self, descriptions)

    # files

    def stage_in(self, sds: Any) -> list[str]:
        """Bring files into the pilot's folder, and return the URLs of the targets; ``sds`` as in ``input_staging`` of a task.

        Relative sources are relative to the folder of this program, targets to the pilot's.

        Raises:
            InvalidRequest: a directive is wrong; names it, the value and the remedy.
            StagingFailed: it cannot be carried out; those after it were not.
        """
        return self._manager.stage(self._record, sds, "stage_in")

    def stage_out(self, sds: Any = None) -> list[str]:
        """Fetch files from the pilot's folder (None: its ``output_staging``), and return the URLs of the targets.

        Relative sources are relative to the pilot's folder, targets to that of this program.

        Raises:
            InvalidRequest, StagingFailed: as ``stage_in``.
        """
        return self._manager.stage(self._record, sds, "stage_out")

    # environments and services

    @property
    def services(self) -> list[Task]:
        """The services that its description asked for."""
        return self._manager.services_of(self._record)

    def prepare_env(self, env_name: str, env_spec: Mapping[str, Any]) -> None:
        """Have an environment prepared; tasks that name it (``named_env``) wait until it is there. Does not wait.

        ``env_spec``: ``{"type": "shell", "pre_exec": [...]}``, ``{"type": "modules", "modules": [...]}``,
        ``{"type": "venv", "version": "3.11", "setup": ["numpy"], "path": ...}``, ``"conda"`` alike, or ``"spack"`` with the
        path of its activation script. Again with the same does nothing.

        Raises:
            InvalidRequest: names the key, its value and what is allowed, or the pilot has another environment of this name.
            PilotFailed: the pilot has ended.
        """
        self._manager.prepare_env(self._record, env_name, env_spec)

    def register_service(self, uid: str, info: str) -> None:
        """Let tasks name a service that runs elsewhere: those with ``services=[uid]`` are told ``info`` by their environment.

        It is known in this session and in this program: after a resume it has to be registered again.

        Raises:
            InvalidRequest: there is a task of this uid, or one of the two is not text.
        """
        self.session.submissions.dependencies.register_service(uid, info)

    # partitions

    def partitions(self) -> list[PartitionStatus]:
        """Return how its partitions are, those that are over and those to come among them; the pilot is asked.

        Empty if it has none: then all of its nodes are one.

        Raises:
            SessionClosed: the session is over.
            BackendError: the pilot does not answer.
        """
        from pilotage.client.plan_changes import statuses

        return statuses(self.session, self._record)

    def add_partition(self, partition: PartitionSpec | Mapping[str, Any]) -> None:
        """Have a partition more. Does not wait until it is there, and again with the same does nothing.

        It begins with nodes that no other has (``nodes``, or all of them), or when enough can be had: of partitions that are
        retired, or that may shrink and have idle nodes. Tasks that only it could run wait for it.

        Raises:
            InvalidRequest: the pilot has no partitions, or cannot have this one; says why, and what to do.
            PilotFailed: the pilot has ended.
        """
        from pilotage.client.plan_changes import add

        add(self.session, self._record, partition)

    def retire_partition(self, name: str, *, drain: bool = True) -> None:
        """Have a partition ended for good, and its nodes freed: when its tasks are done (``drain``), or now. Does not wait.

        What it has not begun goes elsewhere. What runs in one that is ended now is ended: it runs again elsewhere, or is LOST,
        like tasks of a partition that died. Again, or for one that is over, it does nothing.

        Raises:
            InvalidRequest: there is none of this name, or tasks wait that could run nowhere else; says what to do.
            PilotFailed: the pilot has ended.
        """
        from pilotage.client.plan_changes import retire

        retire(self.session, self._record, name, drain)

    # callbacks

    def register_callback(self, cb: Callable[..., Any], metric: str | None = None, cb_data: Any = None) -> None:
        """Have ``cb(pilot, state)``, or ``cb(pilot, state, cb_data)``, called for each state that this pilot comes to."""
        self._manager.register_pilot_callback(self, cb, cb_data, metric)

    def unregister_callback(self, cb: Callable[..., Any] | None = None, metric: str | None = None) -> None:
        """Have ``cb`` (or all of this pilot's callbacks) called no more."""
        self._manager.unregister_pilot_callback(self, cb)

    def as_dict(self) -> dict[str, Any]:
        """Return what is known of the pilot, as plain values."""
        record = self._record
        return {
            "type": "pilot",
            "uid": self.uid,
            "pmgr": record.manager,
            "state": self.state,
            "reason": self.reason,
            "resource": self.resource,
            "job": self.job,
            "job_state": self.job_state,
            "nodes": [node.name for node in record.nodes],
            "cores": record.cores,
            "submitted": record.submitted,
            "active_since": record.active_since,
            "ended": record.ended,
            "pilot_sandbox": self.sandbox,
            "description": self.description.as_dict(),
        }

    @property
    def info(self) -> dict[str, Any]:
        """The same as ``as_dict()``."""
        return self.as_dict()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pilot) and other._record is self._record

    def __hash__(self) -> int:
        return hash(self._record.uid)

    def __repr__(self) -> str:
        return f"<Pilot {self.uid} {self.state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"pilot {self.uid!r} is a handle and belongs to this process; pass its uid instead")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise unknown_attribute(self, name)
