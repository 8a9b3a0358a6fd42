"""Tasks in bulk, as they travel and as they are logged.

What many tasks have in common is written once, as a ``Template``; what differs from task to task is a ``Row``. A user's
``TaskDescription`` is split into the two at submission, so that validating, encoding, logging and matching a thousand alike
tasks costs about as much as one of each.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.payload import Payload
from pilotage.model.resources import Request
from pilotage.model.services import Service
from pilotage.model.staging import Directive

Restart = Literal["", "continue", "fresh"]
"""Of a task that is no service: where an attempt begins that follows one of another pilot."""

Mode = Literal["executable", "function"]
Output = Literal["files", "aggregate", "tail", "discard"]
MpiKind = Literal["mpich", "openmpi", "intelmpi", "pals"]

ALL_RANKS = -1

OWN_SANDBOX = ""
SHARED_SANDBOX = "shared"
NO_SANDBOX = "none"

ANY_MPI = "mpi"
"""As a launch method: any of the pilot's that starts MPI."""


class Hooks(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Shell commands around a task, in order.

    ``pre_launch`` and ``post_launch`` run once, where the task is launched; ``pre_exec`` and ``post_exec`` in each rank that
    they name (``(ALL_RANKS, command)``, ``(rank, command)``), in the very shell that starts the program, so that they may
    change its environment. ``sync``: no rank begins its program before all have finished their ``pre_exec``.
    """

    pre_launch: tuple[str, ...] = ()
    post_launch: tuple[str, ...] = ()
    pre_exec: tuple[tuple[int, str], ...] = ()
    post_exec: tuple[tuple[int, str], ...] = ()
    sync: bool = False


class MpiLauncher(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The mpiexec that starts the ranks of a task: which kind it is, where it is, and what it says of its version."""

    kind: MpiKind
    path: str
    version: str = ""


class Template(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a group of tasks has in common. Field names and meanings are those of ``TaskDescription``.

    ``function`` is the pickled callable. Times in seconds; 0.0 means no limit.
    """

    mode: Mode = "executable"
    form: str = ""
    """The mode that the user named, where it is another word for what ``mode`` says: ``task.shell``, ``task.eval``, ..."""
    executable: str = ""
    expands: bool = False
    """Whether arguments refer to variables, of which the tasks' own are put in (see ``model.own_variables``)."""
    function: Payload | None = None
    request: Request = Request()
    priority: int = 0
    environment: dict[str, str] = {}
    named_env: str = ""
    """Environment of the pilot that the task runs in; it waits until that is prepared."""
    hooks: Hooks | None = None
    launcher: MpiLauncher | None = None
    """Starts the ranks on pilots that have no launch methods of their own, as on one machine. None: if no ``launch_method`` is
    named either, each is a process of its own, without MPI."""
    launch_method: str = ""
    """Which of the pilot's launch methods starts the ranks: its name, the kind or path of an mpiexec, or ``ANY_MPI``. Empty:
    as ``launcher`` says, and where ranks without MPI are on several nodes, any."""
    sandbox: str = OWN_SANDBOX
    """A folder (relative: to the pilot's); or a folder of the task's own, one that is shared by all such tasks of the pilot,
    or none: the task runs in the folder of the user's program."""
    stdout: str = ""
    stderr: str = ""
    """Where output goes, relative to the sandbox; empty: ``<uid>.out`` and ``<uid>.err``."""
    output: Output = "files"
    output_limit_bytes: int = 0
    """What is kept of each of stdout and stderr, half from the beginning and half from the end; 0: all."""
    cleanup: bool = False
    """Remove the task's own sandbox when it is final and its output is staged."""
    stage_on_error: bool = False
    service: Service | None = None
    timeout_s: float = 0.0
    duration_s: float = 0.0
    """How long the user says that a task takes; 0.0: not known. Schedulers plan with it, nobody ends a task for it."""
    partition: str = ""
    """The partition that it goes to, by name; empty: the metascheduler chooses."""
    grace_s: float = 5.0
    """Time between TERM and KILL when the task is ended."""
    retries: int = 0
    """How often a failed or lost attempt is followed by another."""
    retry_on: tuple[str | int, ...] = ()
    """What ``retries`` are for: exit codes, and endings by name (see ``core.agent.retry``); empty: any failure."""
    restartable: bool = False
    """Whether a lost attempt that may have run is followed by another."""
    restart: Restart = ""
    """The same, and where the next attempt begins if it is another pilot's: in the sandbox that there was, or in a new one."""
    gpu_type: str = ""
    threading_type: str = ""

    @property
    def in_worker(self) -> bool:
        """Whether it is a function that a function worker calls; what wants a process of its own is started by a spawner."""
        return self.mode == "function" and self.hooks is None and not self.uses_mpi and not self.named_env

    @property
    def uses_mpi(self) -> bool:
        """Whether its ranks are started by a launcher, be it on one node."""
        return self.launcher is not None or bool(self.launch_method)


class Extra(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What few tasks have of their own: files to stage, environment variables (addresses of services), a past."""

    input_staging: tuple[Directive, ...] = ()
    output_staging: tuple[Directive, ...] = ()
    variables: dict[str, str] = {}
    attempts: int = 0
    """The number of the last attempt that was made in another pilot or partition; the next one follows it."""
    services: dict[str, TaskUid] = {}
    """The services that it needs, by the variables that tell of them; ``variables`` has what they held when it was bound."""
    failures: int = 0
    """Attempts elsewhere that failed or were lost: its retries are less by as many."""
    sandbox: str = ""
    """Where it began in another pilot, and goes on in this one (absolute): its input is there."""


class Row(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is a task's own: its uid, the template it follows, and its arguments.

    ``arguments``: of an executable. ``payload``: the pickled ``(args, kwargs)`` of a function. ``shard`` numbers the folder
    that holds its sandbox, see ``model.sandboxes``.
    """

    uid: TaskUid
    template: TemplateId
    arguments: tuple[str, ...] = ()
    payload: Payload | None = None
    name: str = ""
    shard: int = 0
    extra: Extra | None = None


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Tasks submitted together. ``templates`` brings those that the rows use and that the receiver has not seen."""

    templates: dict[TemplateId, Template]
    rows: list[Row]
