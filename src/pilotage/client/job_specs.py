"""A pilot as a job: what a description and a platform together ask of a batch system.

What the description leaves open the platform says. Nodes are whole where the description gives ``nodes``; ``cores``, ``gpus``
and ``memory`` become as few nodes of the platform as hold them, and no more of each than that, unless nodes are exclusive.
What the nodes really have is known when the agent has found them: until then their shape is an estimate. Limits that the
platform's file tells are checked here, before anything is submitted.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from pilotage.batch.job import JobSpec
from pilotage.batch.system import BatchSystem, SystemFacts
from pilotage.client.pilot_description import PilotDescription, dependencies_of
from pilotage.errors import InvalidPilot
from pilotage.model.resources import BLOCK_MIB, Node, NodeShape
from pilotage.platforms import PilotNodes, Platform, nodes_of
from pilotage.platforms.nodes import NODES_LIMIT
from pilotage.platforms.platform import QueueLimits
from pilotage.system.python import python_command

JOB_SCRIPT = "job.sh"
JOB_OUTPUT = "job.out"
"""In the pilot's folder: what its job runs, and what that printed."""

ENDING_S = 60
"""Added to the runtime of a pilot, for its agent to come up, and to end in good order."""

LONGEST_MINUTES = 365 * 24 * 60
"""No batch system lets a job run so long, and some read a longer time as none at all, or as another."""

Amount = TypeVar("Amount", int, float)

_NAME_CHARACTERS = 120
_SAID: Mapping[str, str] = {
    "qos": "qos",
    "constraints": "constraints",
    "reservation": "reservation",
    "licenses": "licenses",
    "filesystems": "filesystems",
    "exclusive": "exclusive",
    "begin": "begin_s",
    "dependency": "dependencies",
    "mail_to": "mail_to",
    "extra_options": "extra_options",
}
"""Attributes of pilots that mean something to batch systems alone, and the fields of ``JobSpec`` that say them."""
_OF_HERE = ("TMPDIR", "PILOTAGE_NODE_FILE", "PILOTAGE_NODE_NAME", "PILOTAGE_TASK_ID")
"""Variables that say something of this machine, or process, which an agent elsewhere would take for something of its own."""
_OF_NODES = ("cores_per_node", "gpus_per_node", "memory_per_node", "disk_per_node")


class JobSize(msgspec.Struct, frozen=True):
    """How many nodes a pilot's tasks get, and what is asked for of each; 0: what the batch system gives. Memory in MiB.

    ``shape``: what a node is expected to offer; None: the platform does not say.
    """

    nodes: int
    cores: int
    gpus: int
    memory_mib: int
    shape: NodeShape | None


def nodes_for(on: Platform, description: PilotDescription) -> PilotNodes:
    """Return the nodes of a pilot on this platform; of one that is a job an estimate, which is empty if nothing is known.

    Raises:
        InvalidPilot: as ``nodes_of`` and ``size_of_job``.
    """
    if on.batch == "local":
        return nodes_of(on, description)
    description.verify()
    size = size_of_job("pilot", on, description)
    if size.shape is None:
        return PilotNodes([], bind=not on.emulated)
    width = len(str(size.nodes - 1))
    nodes = [Node(index, f"node{index:0{width}}", size.shape) for index in range(size.nodes)]
    return PilotNodes(nodes, bind=not on.emulated)


def size_of_job(pilot: str, on: Platform, description: PilotDescription) -> JobSize:
    """Return how much of a platform a pilot takes. ``pilot`` is how messages name it.

    Raises:
        InvalidPilot: the platform cannot have it, or does not say enough; names the value and the remedy.
    """
    for name in _OF_NODES:
        if description.get(name) is not None and not on.emulated:
            raise InvalidPilot(f"{pilot}: {name}={description[name]}: the nodes of {on.name} are what they are; leave it out")
    cores = _first(description.cores_per_node, on.cores_per_node)
    gpus = _first(description.gpus_per_node, on.gpus_per_node)
    memory = _first(description.memory_per_node, on.memory_per_node_mib)
    disk = _first(description.disk_per_node, on.disk_per_node_mib)
    count = description.nodes or _fewest(pilot, on, description, {"cores": cores, "gpus": gpus, "memory": memory})
    if count > NODES_LIMIT:
        raise InvalidPilot(
            f"{pilot}: {count} nodes exceed the {NODES_LIMIT} that a pilot may have; ask for fewer or larger nodes"
        )
    if memory is not None and description.memory > count * memory:
        raise InvalidPilot(
            f"{pilot}: memory={description.memory} exceeds the {count * memory} MB of {count} nodes with {memory} MB each; "
            "ask for less, or for more nodes"
        )
    whole = bool(description.nodes) or is_exclusive(on, description)
    asked_cores, asked_gpus = _ceiling(description.cores, count), _ceiling(description.gpus, count)
    shape = None
    if cores is not None:
        shape = NodeShape(
            cores if whole or not asked_cores else asked_cores,
            (gpus or 0) if whole else asked_gpus,
            int(memory or 0) // BLOCK_MIB,
            int(disk or 0) // BLOCK_MIB,
        )
    facts = _system_of(on).facts
    if facts.asks_cores and not asked_cores and cores is None:
        raise InvalidPilot(
            f"{pilot}: nodes={count}: {facts.name} counts cores, and the description of {on.name} does not say how many a node "
            "has; say it in a platform file of your own"
        )
    return JobSize(
        count,
        (cores or 0) if whole and facts.asks_cores else 0 if whole else asked_cores,
        # Some systems keep the GPUs of a whole node back from a job that does not ask for them.
        asked_gpus or (gpus if gpus and whole and facts.asks_gpus else 0),
        _ceiling(description.memory, count),
        shape,
    )


def is_exclusive(on: Platform, description: PilotDescription) -> bool:
    """Tell whether a pilot wants its nodes for itself."""
    return on.exclusive if description.exclusive is None else description.exclusive


def check_job(pilot: str, on: Platform, description: PilotDescription) -> None:
    """See that a platform can have a pilot of this description, as far as its file tells.

    Raises:
        InvalidPilot: it cannot; names the attribute, the value, the limit and the remedy.
    """
    given = description.differing()
    if on.batch == "local":
        for name in _SAID:
            if name in given:
                raise InvalidPilot(
                    f"{pilot}: {name}={given[name]!r}: platform {on.name} has no batch system; leave it out, or name a "
                    "platform that has one"
                )
        return
    facts = _system_of(on).facts
    for name, field in _SAID.items():
        if given.get(name) and field in facts.lacks:
            raise InvalidPilot(f"{pilot}: {name}={given[name]!r}: {facts.name} cannot say it; {facts.lacks[field]}")
    if description.executor != "local":
        raise InvalidPilot(
            f"{pilot}: executor={description.executor!r}: a job on {on.name} would run nothing; use it with "
            "resource='local.emulated'"
        )
    _check_limits(pilot, on, description)


def require_commands(pilot: str, on: Platform) -> None:
    """See that the command is here that submits a pilot's job.

    Raises:
        InvalidPilot: it is not; names it, and the remedy.
    """
    facts = _system_of(on).facts
    command = facts.commands[0]
    if shutil.which(command) is None:
        raise InvalidPilot(
            f"{pilot}: resource={on.name!r}: no batch system {facts.name} here: there is no {command} in PATH; work where it "
            "is, load the module that has it, or take a platform without a batch system"
        )


def check_script(pilot: str, on: Platform, description: PilotDescription, folder: Path) -> None:
    """See that the batch system can say all of a pilot's job: values that mean nothing in a script are refused.

    ``folder`` is to be the pilot's.

    Raises:
        InvalidPilot: names the field, the value and the remedy.
    """
    try:
        _system_of(on).script(job_spec("job", on, description, Path("/")))
    except InvalidPilot as error:
        raise InvalidPilot(f"{pilot}: {error}") from None
    try:
        _system_of(on).script(job_spec("job", on, description, folder))
    except InvalidPilot as error:
        raise InvalidPilot(
            f"{pilot}: its folder would be {str(folder)!r}; choose another sandbox, or another uid: {error}"
        ) from None


def _check_limits(pilot: str, on: Platform, description: PilotDescription) -> None:
    if description.runtime > LONGEST_MINUTES:
        raise InvalidPilot(
            f"{pilot}: runtime={description.runtime} exceeds the {LONGEST_MINUTES} minutes (a year) that a job may be asked "
            "for; ask for less"
        )
    nodes = size_of_job(pilot, on, description).nodes + on.agent_nodes
    counted = "1 node" if nodes == 1 else f"{nodes} nodes"
    for whose, limit, beside in _limits(on, description):
        longest, most, least = limit.max_walltime_minutes, limit.max_nodes, limit.min_nodes
        if longest is not None and description.runtime > longest:
            told = f"runtime={description.runtime} exceeds the {longest:g} minutes {whose} on {on.name}; ask for less"
        elif most is not None and nodes > most:
            told = f"{counted} {'exceeds' if nodes == 1 else 'exceed'} the {most} {whose} on {on.name}; ask for fewer"
        elif nodes < least:
            told = f"{counted} {'is' if nodes == 1 else 'are'} fewer than the {least} {whose} on {on.name}; ask for more"
        else:
            continue
        others = [name for name, other in beside.items() if _allows(other, description.runtime, nodes)]
        instead = f", or use one of {', '.join(others)}" if others else ""
        raise InvalidPilot(f"{pilot}: {told}{instead}")


def _limits(on: Platform, description: PilotDescription) -> list[tuple[str, QueueLimits, Mapping[str, QueueLimits]]]:
    """Return the limits that a pilot has to keep to, each with whose they are, and with those that it could have instead."""
    named = (
        ("queue", description.queue or on.queue, on.queues),
        ("qos", description.qos or on.qos, on.qos_limits),
    )
    limits = [(f"of {what} {name!r}", known[name], known) for what, name, known in named if name in known]
    of_all = QueueLimits(max_walltime_minutes=on.max_walltime_minutes, max_nodes=on.max_nodes)
    return [*limits, ("of any job", of_all, {})]


def _allows(queue: QueueLimits, runtime: float, nodes: int) -> bool:
    return runtime <= (queue.max_walltime_minutes or math.inf) and queue.min_nodes <= nodes <= (queue.max_nodes or NODES_LIMIT)


def walltime_s(on: Platform, description: PilotDescription) -> int:
    """Return for how many seconds a pilot's job is to run: its runtime, and what its agent needs, as far as that is allowed."""
    wanted = math.ceil(description.runtime * 60) + ENDING_S
    longest = [limit.max_walltime_minutes for _, limit, _ in _limits(on, description)]
    return min([wanted, *(int(minutes * 60) for minutes in longest if minutes is not None)])


def job_spec(name: str, on: Platform, description: PilotDescription, folder: Path) -> JobSpec:
    """Return the job of a pilot, whose folder is ``folder``. ``name`` is the job's.

    Raises:
        InvalidPilot: as ``size_of_job``.
    """
    pilot = f"pilot {description.uid!r}" if description.uid else "pilot"
    size = size_of_job(pilot, on, description)
    facts = _system_of(on).facts
    lacks = facts.lacks
    return JobSpec(
        name=name,
        folder=str(folder),
        command=bootstrap_command(on, folder),
        walltime_s=walltime_s(on, description),
        nodes=size.nodes + on.agent_nodes,
        cores_per_node=0 if "cores_per_node" in lacks else size.cores,
        gpus_per_node=0 if "gpus_per_node" in lacks else size.gpus,
        memory_mib_per_node=0 if "memory_mib_per_node" in lacks else size.memory_mib,
        queue=description.queue or on.queue,
        project=description.project or on.project,
        qos=description.qos or on.qos,
        constraints=tuple(description.get("constraints") or on.constraints),
        reservation=description.reservation or "",
        licenses=tuple(description.get("licenses")),
        filesystems=tuple(description.get("filesystems") or on.filesystems),
        exclusive=is_exclusive(on, description),
        begin_s=description.begin,
        dependencies=dependencies_of(pilot, description),
        mail_to=description.mail_to or "",
        extra_options=(*on.extra_options, *description.get("extra_options")),
        environment=_environment(on, facts),
        setup=on.setup,
        output="" if "output" in lacks else str(folder / JOB_OUTPUT),
        requeue="requeue" not in lacks,
        options=on.batch_options,
    )


def _environment(on: Platform, facts: SystemFacts) -> Literal["clean", "all"]:
    """Return what environment a pilot's job begins with; that of its tasks is the user's in any case.

    A login shell takes a second and more, and batch systems have little patience with slow ones: lines of setup may need what
    it defines (``module``), the agent does not.
    """
    needs_clean = on.setup or any(name in os.environ for name in _OF_HERE)
    return "all" if facts.clean_is_login and not needs_clean else "clean"


def bootstrap_command(on: Platform, folder: Path) -> tuple[str, ...]:
    """Return the command line with which a pilot begins in its job."""
    return module_command(on, "pilotage.agent.bootstrap", str(folder), "-1")


def module_command(on: Platform, module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command line that runs the ``main`` of a module of Pilotage in a job."""
    if not on.python:
        return tuple(python_command(module, *arguments))
    # Another installation finds its packages itself; its agent is started with the same words, and without the site's.
    program = f"import site; site.main(); from {module} import main; main()"
    return on.python, "-I", "-c", program, *arguments


def job_name(session: str, pilot: str, token: str, given: str = "") -> str:
    """Return a name for a pilot's job that no other job has: ``token`` is drawn for it. ``given``: what it begins with.

    >>> job_name("water", "pilot.0000", "3f9a")
    'pilotage.water.pilot.0000.3f9a'
    >>> job_name("wet water", "pilot.0000", "3f9a", given="md")
    'md.wet_water.pilot.0000.3f9a'
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{given or 'pilotage'}.{session}.{pilot}")
    # Some systems want a letter first, and few take more than some hundred characters.
    return f"{name[:_NAME_CHARACTERS] if name[0].isalpha() else f'p{name[:_NAME_CHARACTERS]}'}.{token}"


def _fewest(pilot: str, on: Platform, description: PilotDescription, per_node: Mapping[str, float | None]) -> int:
    """Return how few nodes hold what a description asks for."""
    counts = []
    for name, of_each in per_node.items():
        asked = description[name]
        if not asked:
            continue
        if of_each is None and name == "memory":
            # The others say how many nodes there are; each is asked for its part.
            continue
        if of_each is None:
            raise InvalidPilot(
                f"{pilot}: {name}={asked}: the description of {on.name} does not say what its nodes have; give nodes, or say "
                "it in a platform file of your own"
            )
        if not of_each:
            raise InvalidPilot(f"{pilot}: {name}={asked}, but the nodes of {on.name} have none; leave it out")
        counts.append(_ceiling(asked, of_each))
    return max(counts)


def _system_of(on: Platform) -> BatchSystem:
    # Most sessions have no batch system, and need none of them.
    from pilotage.batch.registry import batch_system

    return batch_system(on.batch)


def _ceiling(asked: float, per_node: float) -> int:
    return int(-(-asked // per_node))


def _first(given: Amount | None, default: Amount | None) -> Amount | None:
    return default if given is None else given
