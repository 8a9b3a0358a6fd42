"""What a batch job has been given, as its system tells the processes inside it.

A system is a pure reader: it looks at variables, at files that they name (through ``read``), and where that leaves something
open and the caller lets it, at what a command of the system says (through ``ask``). What nobody tells is None: the node itself
says, see ``pilotage.platforms.node_here``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from pilotage.errors import BackendError, InvalidRequest
from pilotage.platforms.allocations.host_lists import compress_hosts

SHOWN_LIMIT = 200

NODE_FILE = "PILOTAGE_NODE_FILE"
"""Names a file of nodes that is believed before all else."""

Read = Callable[[str], str]
"""Returns what is in the file of this path; raises OSError."""

Ask = Callable[[Sequence[str]], str]
"""Runs a command and returns what it prints; raises BackendError if it fails."""


class AllocatedNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node of an allocation. None is what the system does not tell.

    ``cores``: how many the job may use, as the system counts them, which may be hardware threads or whole cores.
    ``core_ids``: the operating system's numbers of these. ``slots``: how many processes the system would start there.
    ``gpus``, and ``gpu_ids`` as the system names them. ``memory_mib`` in MiB.
    """

    name: str
    cores: int | None = None
    core_ids: tuple[int, ...] | None = None
    threads_per_core: int | None = None
    slots: int | None = None
    gpus: int | None = None
    gpu_ids: tuple[str, ...] | None = None
    memory_mib: int | None = None


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """What a job has. ``end_s``: when it ends, in seconds since 1970. ``here``: the node of the process that looked, by the
    name that it has in ``nodes``. ``launch_node``: where the job's script runs if that is no node for tasks. ``notes``: what
    could not be found out, and why.
    """

    system: str
    job: str
    nodes: tuple[AllocatedNode, ...]
    end_s: float | None = None
    here: str | None = None
    launch_node: str | None = None
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return the allocation in a line: nodes that are alike are named together."""
        alike: dict[str, list[str]] = {}
        for node in self.nodes:
            told = ((node.cores, "cores"), (node.gpus, "GPUs"), (node.memory_mib, "MiB"))
            words = ", ".join(f"{value} {unit}" for value, unit in told if value is not None)
            alike.setdefault(words, []).append(node.name)
        parts = (compress_hosts(names) + (f" ({words})" if words else "") for words, names in alike.items())
        return f"{self.system}{f' job {self.job}' if self.job else ''}: {'; '.join(parts)}"


def set_agent_nodes_apart(
    nodes: Sequence[AllocatedNode], count: int
) -> tuple[tuple[AllocatedNode, ...], tuple[AllocatedNode, ...]]:
    """Return the first ``count`` nodes, which are kept for the agent, and those for tasks.

    Raises:
        InvalidRequest: no node would be left for tasks.
    """
    if not 0 <= count < len(nodes):
        raise InvalidRequest(
            f"agent_nodes={count} of the {len(nodes)} nodes of the allocation: it must be 0 or more, and leave one for tasks; "
            f"ask for {max(count, 0) + 1} nodes or more, or keep fewer for the agent"
        )
    return tuple(nodes[:count]), tuple(nodes[count:])


class Surroundings:
    """The variables of a process, what it can read, whom it can ask, and the name of its host (else ``HOSTNAME``)."""

    def __init__(self, environment: Mapping[str, str], read: Read, ask: Ask | None = None, hostname: str = "") -> None:
        self.environment = environment
        self.read = read
        self.ask = ask
        self.hostname = hostname or environment.get("HOSTNAME", "").strip()

    def get(self, *names: str) -> tuple[str, str]:
        """Return the first of these variables that is set and says something, with its value; empty strings if none is."""
        for name in names:
            value = self.environment.get(name, "").strip()
            if value and value != "(null)":
                return name, value
        return "", ""

    def number(self, *names: str, least: int = 0) -> int | None:
        """Return the first of these variables that is set as a whole number.

        Raises:
            BackendError: it is none, or less than ``least``.
        """
        name, value = self.get(*names)
        if not name:
            return None
        if not (value.isascii() and value.isdigit()) or int(value) < least:
            raise wrong(name, value, f"it must be a whole number of {least} or more")
        return int(value)

    def lines(self, name: str) -> list[tuple[int, list[str]]]:
        """Return the words of each line of the file that variable ``name`` names, with the line's number from 1.

        Empty lines, and what follows a ``#``, mean nothing.

        Raises:
            BackendError: the file cannot be read, or has no line.
        """
        path = self.environment[name].strip()
        try:
            text = self.read(path)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise wrong(
                name, path, f"the file cannot be read: {reason}", "it is on the node where the job's script runs"
            ) from error
        lines = [(number, line.partition("#")[0].split()) for number, line in enumerate(text.splitlines(), 1)]
        found = [(number, words) for number, words in lines if words]
        if not found:
            raise wrong(name, path, "the file names no node", "the system may have written it wrongly")
        return found


class AllocationSystem(Protocol):
    """A system, by ``name``, that tells its jobs what they have.

    ``reads``: the variables, and what is learned from each. ``tried``: where this has been seen to hold.
    """

    @property
    def name(self) -> str: ...

    @property
    def tried(self) -> str: ...

    @property
    def reads(self) -> Mapping[str, str]: ...

    def discover(self, surroundings: Surroundings) -> Allocation | None:
        """Return what the job has; None if this is no job of this system.

        Raises:
            BackendError: it cannot be told, or is contradictory; names the variable, its value and the remedy.
        """


def wrong(name: str, value: object, reason: str, more: str = "") -> BackendError:
    """Return the error that says what is wrong with the value of a variable."""
    shown = str(value)
    shown = shown if len(shown) <= SHOWN_LIMIT else f"{shown[: SHOWN_LIMIT - 3]}..."
    return BackendError(
        f"{name}={shown!r}: {reason}{f' ({more})' if more else ''}; "
        f"correct it, or name the nodes in a file and the file in {NODE_FILE}"
    )


def count_lines(lines: Sequence[tuple[int, list[str]]]) -> Counter[str]:
    """Return how often each host stands first in a line, in order of appearance."""
    return Counter(words[0] for _, words in lines)


class HostNames:
    """The names of the nodes of an allocation, by which a host is known that may go by its short or its full name."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names: dict[str, str] = {}
        twice: set[str] = set()
        for name in names:
            self._names[name] = name
            short = name.partition(".")[0]
            if self._names.setdefault(short, name) != name:
                twice.add(short)
        for short in twice:
            # A short name that is the whole name of a node is that one.
            if self._names[short] != short:
                del self._names[short]

    def find(self, host: str) -> str | None:
        """Return the name that a host has in the allocation; None if it is none of its nodes."""
        return self._names.get(host) or self._names.get(host.partition(".")[0])


def place_here(names: Iterable[str], host: str) -> str | None:
    """Return which of ``names`` a host is that may go by its short or its full name."""
    return HostNames(names).find(host)
