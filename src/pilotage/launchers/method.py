"""Launch methods: what each is given, what it returns, and what is known of it. See ``registry`` for those that there are.

A launch method turns the places of a task's ranks into a command line that starts them, on any hosts::

    request (slots, names of nodes, command, ...)  -->  render  -->  line (arguments, environment, files, unset)

It is a pure function: it looks at nothing, and writes nothing. Whoever starts the line writes its files before, readable by the
user alone, into the folder that the request names, and afterwards removes what is there under the request's name: some scripts
put marks beside their file.

Between launcher and program stands our rank script (see ``rank_script``), which gives each rank its variables and binds it, so
launchers are told to bind nothing. The script knows a rank by the number that its launcher gives it; so each method has to
start rank *n* on the node of slot *n*, and refuses spreads for which it cannot say that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, NoReturn, Protocol

import msgspec

from pilotage.errors import BackendError
from pilotage.model.installed import Installed as Installed
from pilotage.model.ranks import RankSlot

Variables = Mapping[bytes, bytes]

Words = Sequence[str | None]
"""Words of a POSIX shell for the parts of a command, its program first; None: the part as it is. Empty: all as they are."""

_STEP_PREFIX = "pilotage"


class LaunchLine(NamedTuple):
    """A command line, and what belongs to it.

    ``environment``: set for its process, beneath what the user sets for the task. ``files``: contents by names relative to the
    folder of the request. ``unset``: variables that its process must not have, as the launcher would take them for options.
    """

    arguments: list[str]
    environment: dict[bytes, bytes]
    files: Mapping[str, str] = {}
    unset: tuple[bytes, ...] = ()


class LaunchRequest(msgspec.Struct, frozen=True, gc=False):
    """What is to be launched: the ranks of one attempt of a task.

    ``slots``: of the ranks, in their order. ``rank_variables``: of each rank. ``node_names``: the names by which launchers know
    nodes, by index; indices ascend in the order of the allocation. ``bind``: the machine's numbers of the cores that each rank
    is bound to; None: not bound by us. ``words``: how the shell of a rank is to read the command, where that differs.
    ``name``: of the step and of files; see ``step_name``. ``folder``: where the files will be, an absolute path that all nodes
    see; empty: nowhere, so that what needs files is refused. ``here``: all nodes are this host (one host, or emulated nodes).
    ``memory_mib``: of each rank; 0: no limit. ``exclusive``: the task has its nodes to itself. ``environment`` and
    ``working_folder``: of the ranks, for methods that carry neither to other hosts (``MethodFacts.carries_environment``).
    """

    slots: Sequence[RankSlot]
    command: Sequence[str]
    rank_variables: Sequence[Variables]
    node_names: Mapping[int, str] = {}
    bind: Sequence[frozenset[int]] | None = None
    words: Words = ()
    name: str = "task"
    folder: str = ""
    here: bool = False
    memory_mib: int = 0
    exclusive: bool = False
    environment: Variables = {}
    working_folder: str = ""


class Step(NamedTuple):
    """What a launcher still runs: its id there, and the name that it was started with."""

    id: str
    name: str


class StepControl(Protocol):
    """How steps are found and ended, also those that outlived who started them: command lines, and the reading of output.

    ``job_variable``: where the environment has the id of the batch system's job; empty: commands need none. ``named``: steps
    have the names that they were started with.
    """

    job_variable: str
    named: bool

    def list_arguments(self, job: str) -> list[str]:
        """Return the command that lists the steps of a job of the batch system (``job``: its id there)."""

    def parse_steps(self, output: str) -> list[Step]:
        """Return the steps in what that command printed."""

    def cancel_arguments(self, job: str, step: str) -> list[str]:
        """Return the command that ends a step."""

    def signal_arguments(self, job: str, step: str, name: str) -> list[str]:
        """Return the command that sends a signal (``TERM``) to the ranks of a step; empty: the launcher hands it on."""


class MethodFacts(msgspec.Struct, frozen=True, gc=False):
    """What is known of a launch method, for admission, for ending tasks, and for the reference.

    ``commands``: its programs, the usual one first. ``rank_variables``: where ranks find their number; by kind of MPI (empty:
    any). ``ceiling``: launches that may be under way at once, for each ``ceiling_per``; 0: none is known. Platforms say
    otherwise where they know better.
    """

    name: str
    commands: tuple[str, ...]
    summary: str
    rank_variables: dict[str, str] = {}
    ceiling: int = 0
    ceiling_per: Literal["job", "node"] = "job"
    ceiling_why: str = ""
    several_nodes: bool = True
    uneven: bool = True
    """Whether nodes may hold different numbers of ranks."""
    any_order: bool = True
    """Whether ranks may go to nodes in any order; else in the order of the allocation, each node's in one go."""
    whole_nodes: bool = False
    """Whether no two of its launches may be on a node at a time: tasks have to be exclusive."""
    starts_mpi: bool = True
    places_unbound: bool = False
    """Whether ranks that we do not bind are placed by it, and told their GPUs by it, whatever our placement is."""
    binds: Literal["script", "launcher", "nobody"] = "script"
    """Who binds ranks to cores: our script, the launcher by what we tell it, or nobody."""
    carries_environment: bool = True
    """Whether ranks on other hosts get the environment of the launcher; else ours is written into the rank script."""
    ends_ranks: bool = True
    """Whether its ranks end with it when it gets TERM, which is always tried first."""
    steps: StepControl | None = None
    """How its left steps are found and ended; None: it keeps no list of them."""
    options: dict[str, str] = {}
    """The options of ``Installed``, and what they mean."""
    tried: str = "not tried on a real system"
    limits: str = ""


class LaunchMethod(Protocol):
    """A launch method. Methods are stateless, and ``render`` depends on its arguments alone."""

    @property
    def facts(self) -> MethodFacts:
        """What is known of it."""

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request, rank *n* on the node of slot *n*.

        Raises:
            BackendError: the method cannot say this; names what, and a remedy.
        """


def step_name(uid: str, attempt: int) -> str:
    """Return the name of the step of an attempt, by which recovery finds it.

    >>> step_name("task.000042", 1)
    'pilotage:task.000042:1'
    """
    return f"{_STEP_PREFIX}:{uid}:{attempt}"


def parse_step_name(name: str) -> tuple[str, int] | None:
    """Return uid and attempt from the name of a step; None if it is none of ours.

    >>> parse_step_name("pilotage:task.000042:1"), parse_step_name("bash")
    (('task.000042', 1), None)
    """
    prefix, _, rest = name.partition(":")
    uid, _, attempt = rest.rpartition(":")
    return (uid, int(attempt)) if prefix == _STEP_PREFIX and uid and attempt.isdecimal() else None


def refuse(method: str, what: str, remedy: str) -> NoReturn:
    """Raise that a method cannot say something.

    Raises:
        BackendError: always.
    """
    raise BackendError(f"launch_method={method!r} {what}; {remedy}")


def file_path(method: str, request: LaunchRequest, ending: str) -> tuple[str, str]:
    """Return name and path of a file of the request's line.

    Raises:
        BackendError: the request names no folder for files.
    """
    if not request.folder:
        refuse(method, "needs a file to say where ranks go, and there is no folder for it", "give a folder that all nodes see")
    # A colon would end the name of a file among the qualifiers that some launchers take.
    name = request.name.replace("/", "_").replace(":", ".") + ending
    return name, f"{request.folder}/{name}"
