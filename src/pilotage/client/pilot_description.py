"""``PilotDescription``: which part of which machine a pilot takes, for how long, and what follows if its client is gone."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, get_args

import msgspec

from pilotage.batch.job import Dependency, DependencyKind
from pilotage.client.constants import AGENT_SERVICE, TASK_EXECUTABLE, TASK_SERVICE
from pilotage.client.descriptions import Description, Older
from pilotage.client.fields import Field, Kind, shown
from pilotage.client.pilot_walltime import verify_walltime
from pilotage.client.task_description import TaskDescription
from pilotage.client.task_validation import validate
from pilotage.environments.spec import parse_spec
from pilotage.errors import InvalidPilot, InvalidRequest, InvalidTask, UnknownAttribute, nearest
from pilotage.model.ids import PilotUid
from pilotage.model.partitions import PartitionSpec, PolicySpec
from pilotage.model.staging import Directive

ON_CLIENT_LOSS = ("continue", "drain", "terminate")
EXECUTORS = ("local", "simulated")
SUB_AGENTS = ("processes", "threads")
DEPENDENCIES = get_args(DependencyKind)
LATEST_BEGIN_S = 253_370_764_800.0
"""The beginning of the year 9999: no calendar goes much further."""

PILOT_FIELDS: Mapping[str, Field] = {
    "uid": Field(Kind.TEXT),
    "resource": Field(Kind.TEXT),
    "access_schema": Field(Kind.TEXT, awaits="remote platforms"),
    "runtime": Field(Kind.NUMBER, 10),
    "cores": Field(Kind.WHOLE, 0),
    "gpus": Field(Kind.WHOLE, 0),
    "nodes": Field(Kind.WHOLE, 0),
    "backup_nodes": Field(Kind.WHOLE, 0, awaits="replacement of lost nodes"),
    "memory": Field(Kind.NUMBER, 0),
    "queue": Field(Kind.TEXT),
    "project": Field(Kind.TEXT),
    "job_name": Field(Kind.TEXT),
    "qos": Field(Kind.TEXT),
    "constraints": Field(Kind.TEXTS, []),
    "reservation": Field(Kind.TEXT),
    "licenses": Field(Kind.TEXTS, []),
    "filesystems": Field(Kind.TEXTS, []),
    "exclusive": Field(Kind.FLAG),
    "begin": Field(Kind.MOMENT),
    "dependency": Field(Kind.TEXTS, []),
    "mail_to": Field(Kind.TEXT),
    "extra_options": Field(Kind.TEXTS, []),
    "sandbox": Field(Kind.PATH),
    "cleanup": Field(Kind.FLAG, False),
    "exit_on_error": Field(Kind.FLAG, True),
    "on_client_loss": Field(Kind.TEXT),
    "client_loss_timeout_s": Field(Kind.NUMBER, 300.0),
    "drain_s": Field(Kind.NUMBER, 0.0),
    "checkpoint_signal": Field(Kind.TEXT, ""),
    "successors": Field(Kind.ANY, 0),
    "idle_timeout_s": Field(Kind.NUMBER, 0.0),
    "startup_barrier": Field(Kind.WHOLE, 0),
    "cores_per_node": Field(Kind.WHOLE),
    "gpus_per_node": Field(Kind.WHOLE),
    "memory_per_node": Field(Kind.NUMBER),
    "disk_per_node": Field(Kind.NUMBER),
    "executor": Field(Kind.TEXT, "local"),
    "simulated_duration_s": Field(Kind.NUMBER, 0.0),
    "app_comm": Field(Kind.LIST, [], awaits="communication channels between tasks"),
    "candidate_hosts": Field(Kind.LIST, [], awaits="a choice of hosts"),
    "input_staging": Field(Kind.COMMANDS, []),
    "output_staging": Field(Kind.COMMANDS, []),
    "prepare_env": Field(Kind.TABLE, {}),
    "services": Field(Kind.LIST, []),
    "partitions": Field(Kind.LIST, []),
    "sub_agents": Field(Kind.TEXT, "processes"),
    "scheduler": Field(Kind.ANY),
    "enable_ep": Field(Kind.FLAG, False, awaits="an endpoint for other programs"),
    "reconfig_src": Field(Kind.PATH, awaits="reconfigurable schedulers"),
}


class PilotDescription(Description):
    """Which part of which machine a pilot takes, for how long, and what becomes of it when its client is gone.

    ``resource`` names the platform (``local.localhost``); ``nodes``, or ``cores`` and ``gpus``, say how much of it;
    ``runtime`` is in minutes, ``memory`` in MB over all nodes. ``on_client_loss`` is ``continue`` (to the end of the
    runtime), ``drain`` (finish what was submitted) or ``terminate``, ``client_loss_timeout_s`` after the client was heard
    last; not set, the platform decides. ``drain_s`` seconds before its time is over no task begins any more, and executables
    that run get the ``checkpoint_signal`` (such as ``'USR1'``; not set: none), so that they can save what they have.
    ``successors``: how many pilots of the same description may follow in a row when its time is over and tasks are left;
    ``'until_done'``: as many as it takes. ``idle_timeout_s``: when it has had no tasks but services, and has not heard from its
    client, for so long, the pilot ends itself (0: never; before anything was handed over to it not within 60 s).
    ``startup_barrier``: it starts no task but services before so many tasks have arrived, or it is to end. On emulated
    platforms ``cores_per_node``, ``gpus_per_node``, ``memory_per_node`` and ``disk_per_node`` (MB) give the shape of a node.
    ``executor='simulated'`` starts nothing: each task takes ``simulated_duration_s``. ``services`` (task descriptions) start
    first: other tasks wait until all are ready.
    On platforms with a batch system the pilot is a job there. ``queue``, ``project``, ``qos``, ``constraints`` (features of
    nodes), ``reservation``, ``licenses``, ``filesystems``, ``exclusive`` (whole nodes, shared with no other job), ``begin``
    (not before: Unix time, datetime or text), ``dependency`` (``'afterok:1234'``: on other jobs), ``mail_to`` and
    ``extra_options`` (whole options of the batch system) are what is asked of it; what it cannot say is refused. What is not
    set the platform decides.
    ``scheduler`` names a scheduling policy, or is a ``PolicySpec`` or a dict of the same.
    ``partitions`` (``PartitionSpec``, or dicts of the same) divide the nodes: each has an executor, a scheduler and processes
    of its own, and takes the tasks that fit what it says. ``sub_agents='threads'`` has the agents of all partitions in one
    process, which suits small runs. ``prepare_env`` names environments and says how to come by each.
    ``input_staging`` brings files into the pilot's folder before it starts, ``output_staging`` from there when the session is
    closed. ``cleanup`` removes the folders of its tasks when the session is closed. ``exit_on_error`` is accepted for older
    scripts: a pilot that fails ends its tasks, never the program.

    Raises:
        UnknownAttribute: no attribute has this name; names the nearest one.
        InvalidPilot: a value has the wrong type; names the value and the type wanted.

    >>> PilotDescription({"resource": "local.localhost", "cores": 4, "queue": None})
    PilotDescription(resource='local.localhost', cores=4)
    """

    __slots__ = ()

    FIELDS: ClassVar[Mapping[str, Field]] = PILOT_FIELDS
    OLDER_NAMES: ClassVar[Older] = {}
    _NOUN: ClassVar[str] = "pilot description"
    _ERROR: ClassVar[type[InvalidPilot]] = InvalidPilot

    uid: str | None
    resource: str | None
    access_schema: str | None
    runtime: float
    cores: int
    gpus: int
    nodes: int
    backup_nodes: int
    memory: float
    queue: str | None
    project: str | None
    job_name: str | None
    qos: str | None
    constraints: list[str]
    reservation: str | None
    licenses: list[str]
    filesystems: list[str]
    exclusive: bool | None
    begin: float | None
    dependency: list[str]
    mail_to: str | None
    extra_options: list[str]
    sandbox: str | None
    cleanup: bool
    exit_on_error: bool
    on_client_loss: str | None
    client_loss_timeout_s: float
    drain_s: float
    checkpoint_signal: str
    successors: int | str
    idle_timeout_s: float
    startup_barrier: int
    cores_per_node: int | None
    gpus_per_node: int | None
    memory_per_node: float | None
    disk_per_node: float | None
    executor: str
    simulated_duration_s: float
    app_comm: Any
    candidate_hosts: Any
    input_staging: Any
    output_staging: Any
    prepare_env: dict[str, Any]
    services: Any
    partitions: Any
    sub_agents: str
    scheduler: Any
    enable_ep: bool
    reconfig_src: str | None

    def verify(self) -> None:
        """Check all values that do not depend on the platform; submission does the same, and then looks at the platform.

        Raises:
            InvalidPilot: names the value, the limit and the remedy.
        """
        pilot = f"pilot {self.uid!r}" if self.uid else "pilot"
        given = self.differing()
        for name in given:
            awaits = PILOT_FIELDS[name].awaits
            if awaits:
                raise InvalidPilot(
                    f"{pilot}: attribute {name!r} is not supported yet by this version; it comes with {awaits}. Leave it out"
                )
        if not self.resource:
            raise InvalidPilot(f"{pilot}: no resource is given; name a platform, such as resource='local.localhost'")
        for name, value in given.items():
            if name in _LEAST:
                least = _LEAST[name]
                if not least <= value < math.inf:
                    raise InvalidPilot(f"{pilot}: {name}={value}: it must be {least} or more{_unit(name)}")
        if not 0 < self.runtime < math.inf:
            raise InvalidPilot(f"{pilot}: runtime={self.runtime}: it is in minutes and must be more than 0")
        if self.nodes and (self.cores or self.gpus):
            other = "cores" if self.cores else "gpus"
            raise InvalidPilot(
                f"{pilot}: both nodes={self.nodes} and {other}={self[other]} are given; "
                "give nodes alone, or cores and gpus without nodes"
            )
        if not self.nodes and not self.cores and not self.gpus:
            raise InvalidPilot(f"{pilot}: its size is missing; give nodes, or cores (and gpus)")
        if self.begin is not None and self.begin > LATEST_BEGIN_S:
            raise InvalidPilot(f"{pilot}: begin={self.begin}: it is in seconds since the epoch, and so after the year 9999")
        dependencies_of(pilot, self)
        verify_walltime(pilot, self)
        self._verify_contents(pilot)
        _one_of(pilot, "on_client_loss", self.on_client_loss, ON_CLIENT_LOSS)
        _one_of(pilot, "executor", self.executor, EXECUTORS)
        _one_of(pilot, "sub_agents", self.sub_agents, SUB_AGENTS)
        if "sub_agents" in given and not self.get("partitions"):
            raise InvalidPilot(f"{pilot}: sub_agents={self.sub_agents!r} needs partitions; leave it out, or give some")
        if self.simulated_duration_s and self.executor != "simulated":
            raise InvalidPilot(
                f"{pilot}: simulated_duration_s={self.simulated_duration_s} needs executor='simulated', "
                f"not executor={self.executor!r}"
            )

    def _verify_contents(self, pilot: str) -> None:
        for index, service in enumerate(self.get("services", [])):
            try:
                validate(service_of(service))
            except (InvalidTask, UnknownAttribute) as error:
                raise InvalidPilot(f"{pilot}: services[{index}]: {str(error).removeprefix('task: ')}") from error
        for name, spec in self.get("prepare_env", {}).items():
            try:
                parse_spec(name, spec)
            except InvalidRequest as error:
                raise InvalidPilot(f"{pilot}: prepare_env: {error}") from error
        if "input_staging" in self or "output_staging" in self:
            staging_of(pilot, self)
        if self.get("scheduler") is not None:
            scheduler_of(pilot, self)
            if self.get("partitions"):
                raise InvalidPilot(f"{pilot}: both scheduler and partitions are given; give each partition its scheduler")
        if self.get("partitions"):
            partitions_of(pilot, self)


def staging_of(pilot: str, description: PilotDescription) -> tuple[tuple[Directive, ...], tuple[Directive, ...]]:
    """Return what is to be staged into the pilot's folder, and from there. ``pilot`` is how messages name it.

    Raises:
        InvalidPilot: names the directive, the value and the remedy.
    """
    from pilotage.client.staging import parse_directives

    return (
        parse_directives(description.get("input_staging", []), f"{pilot}: input_staging", "stage_in", InvalidPilot),
        parse_directives(description.get("output_staging", []), f"{pilot}: output_staging", "stage_out", InvalidPilot),
    )


def scheduler_of(pilot: str, description: PilotDescription) -> PolicySpec:
    """Return the scheduling policy of a pilot. ``pilot`` is how messages name it.

    Raises:
        InvalidPilot: names the attribute, the value and the remedy.
    """
    given = description.get("scheduler")
    if given is None:
        return PolicySpec()
    from pilotage.client.policies import parse_policy

    return parse_policy(f"{pilot}: scheduler", given)


def dependencies_of(pilot: str, description: PilotDescription) -> tuple[Dependency, ...]:
    """Return the jobs that a pilot's job waits for. ``pilot`` is how messages name it.

    Raises:
        InvalidPilot: names the value and the remedy.
    """
    found = []
    for given in description.get("dependency", []):
        kind, colon, job = given.partition(":")
        if not colon or not job:
            raise InvalidPilot(f"{pilot}: dependency={given!r} names no job; give it as 'afterok:1234'")
        _one_of(pilot, "dependency", kind, DEPENDENCIES)
        found.append(Dependency(kind, job))
    return tuple(found)


def partitions_of(pilot: str, description: PilotDescription) -> list[PartitionSpec]:
    """Return the partitions of a pilot. ``pilot`` is how messages name it.

    Raises:
        InvalidPilot: names the partition, the attribute, the value and the remedy.
    """
    from pilotage.client.partitions import parse_partition

    return [parse_partition(f"{pilot}: partitions[{number}]", given) for number, given in enumerate(description.partitions)]


def service_of(given: object) -> TaskDescription:
    """Return the description of a pilot's service as that of a task that is one.

    Raises:
        InvalidTask: it is no description, or one of something that cannot be a service.
    """
    if not isinstance(given, (TaskDescription, Mapping)):
        raise InvalidTask(f"a service is described by a TaskDescription or a dict, not {shown(given)}")
    description = given.clone() if isinstance(given, TaskDescription) else TaskDescription(given)
    if description.mode == TASK_EXECUTABLE:
        description.mode = AGENT_SERVICE
    if description.mode not in (TASK_SERVICE, AGENT_SERVICE):
        raise InvalidTask(
            f"mode={description.mode!r}: a service is an executable; set executable, and mode=TASK_SERVICE or none"
        )
    return description


def pilot_services(pilot: PilotUid, description: PilotDescription) -> list[TaskDescription]:
    """Return the descriptions of a pilot's services, each with a uid and the name of the pilot."""
    services = [service_of(given) for given in description.get("services", [])]
    for number, service in enumerate(services):
        service.update({"uid": service.uid or f"{pilot}.service.{number:04d}", "pilot": pilot})
    return services


def require_new(pilot: str, services: Sequence[TaskDescription], taken: Collection[str]) -> None:
    """Raise ``InvalidPilot`` if a service has the uid of another task."""
    uids = [service.uid for service in services]
    for number, uid in enumerate(uids):
        if uid in taken or uid in uids[:number]:
            raise InvalidPilot(f"pilot {pilot!r}: services[{number}]: there is a task of uid {uid!r}; give it one of its own")


def encoded(description: PilotDescription) -> msgspec.Raw:
    """Return a description as it is logged."""
    return msgspec.Raw(msgspec.msgpack.encode(description.as_dict(), enc_hook=_plain))


def decoded(description: msgspec.Raw) -> PilotDescription:
    """Return a logged description."""
    found = PilotDescription(msgspec.msgpack.decode(description))
    if "services" in found:
        found.services = [TaskDescription(service) for service in found.services]
    return found


def _plain(value: object) -> object:
    if isinstance(value, TaskDescription):
        return value.as_dict()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return getattr(value, "uid", None) or repr(value)


_LEAST: Mapping[str, int] = {
    "cores": 0,
    "gpus": 0,
    "nodes": 0,
    "memory": 0,
    "begin": 0,
    "client_loss_timeout_s": 0,
    "drain_s": 0,
    "idle_timeout_s": 0,
    "startup_barrier": 0,
    "simulated_duration_s": 0,
    "cores_per_node": 1,
    "gpus_per_node": 0,
    "memory_per_node": 0,
    "disk_per_node": 0,
}


def _unit(name: str) -> str:
    if name in ("memory", "memory_per_node", "disk_per_node"):
        return " (MB)"
    if name == "begin":
        return " (seconds since the epoch)"
    return " (seconds)" if name.endswith("_s") else ""


def _one_of(pilot: str, name: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise InvalidPilot(f"{pilot}: {name}={value!r} is not one of {', '.join(known)}{nearest(value, known)}")
