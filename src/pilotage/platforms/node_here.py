"""What the node itself says of what this process may use: cores, their threads and domains, GPUs, memory, limits.

Cores are those of the affinity mask, which cpusets and cgroups shape; memory is what the tightest of the cgroups around the
process allows. Where the kernel's files say nothing (containers, other systems), each hardware thread is a core of its own, and
there are no domains.
"""

from __future__ import annotations

import platform as operating_system
import resource
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from pilotage.platforms.allocations.host_lists import expand_numbers
from pilotage.platforms.gpus_here import GpuFound, gpus_here
from pilotage.platforms.machine import usable_cores, usable_disk_mib, usable_memory_mib


class NodeFound(msgspec.Struct, frozen=True, kw_only=True):
    """What this process may use of its node. Hardware threads go by the operating system's numbers.

    ``cores``: the threads of each core, cores in the order of their first thread. ``numa_domains`` and ``l3_domains``: the
    threads in each, empty where the kernel does not tell. ``memory_mib`` and ``disk_mib`` in MiB; 0 if it cannot be told.
    ``processes`` and ``open_files``: how many this user, and a process, may have; None: any number.
    """

    name: str
    cores: tuple[tuple[int, ...], ...]
    numa_domains: tuple[tuple[int, ...], ...] = ()
    l3_domains: tuple[tuple[int, ...], ...] = ()
    gpus: tuple[GpuFound, ...] = ()
    memory_mib: int = 0
    disk_mib: int = 0
    processes: int | None = None
    open_files: int | None = None

    @property
    def threads_per_core(self) -> int:
        """How many threads the cores have of which this process may use most."""
        return max((len(threads) for threads in self.cores), default=1)


def usable_here(
    folder: Path = Path("/tmp"),
    *,
    sys: Path = Path("/sys"),
    dev: Path = Path("/dev"),
    proc: Path = Path("/proc"),
    affinity: Callable[[], Sequence[int]] = usable_cores,
    limit_of: Callable[[int], tuple[int, int]] = resource.getrlimit,
    name: str = "",
) -> NodeFound:
    """Return what this process may use of its node; disk is what is free where ``folder`` lies.

    ``sys``, ``dev`` and ``proc`` are where the kernel's files are.
    """
    threads = sorted(affinity())
    cpus = sys / "devices/system/cpu"
    groups = _cgroups(proc / "self/cgroup", sys / "fs/cgroup")
    memory = [usable_memory_mib(proc / "meminfo", limit) for limit in groups.memory] or [usable_memory_mib(proc / "meminfo")]
    pids = [int(text) for text in map(_text, groups.pids) if text.isdigit()]
    processes = [limit for limit in (_soft(limit_of, resource.RLIMIT_NPROC), *pids) if limit is not None]
    return NodeFound(
        name=name or operating_system.node() or "localhost",
        cores=_domains(threads, (cpus / f"cpu{thread}/topology/thread_siblings_list" for thread in threads))
        or tuple((thread,) for thread in threads),
        numa_domains=_domains(threads, sorted((sys / "devices/system/node").glob("node[0-9]*/cpulist"), key=_numbered)),
        l3_domains=_domains(threads, (file for thread in threads for file in _level_3(cpus / f"cpu{thread}/cache"))),
        gpus=gpus_here(sys=sys, dev=dev, proc=proc),
        memory_mib=min(memory),
        disk_mib=usable_disk_mib(folder),
        processes=min(processes, default=None),
        open_files=_soft(limit_of, resource.RLIMIT_NOFILE),
    )


class _Cgroups(msgspec.Struct):
    memory: list[Path]
    pids: list[Path]


def _cgroups(memberships: Path, root: Path) -> _Cgroups:
    """Return the files with the limits of this process's cgroups and of those around them, of either version."""
    found = _Cgroups([], [])
    for line in _text(memberships).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            steps = _upwards(root, path)
            found.memory += [folder / "memory.max" for folder in steps]
            found.pids += [folder / "pids.max" for folder in steps]
        for controller in controllers.split(","):
            steps = _upwards(root / controller, path)
            if controller == "memory":
                found.memory += [folder / "memory.limit_in_bytes" for folder in steps]
            elif controller == "pids":
                found.pids += [folder / "pids.max" for folder in steps]
    return found


def _upwards(root: Path, path: str) -> list[Path]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _domains(threads: Sequence[int], files: Iterable[Path]) -> tuple[tuple[int, ...], ...]:
    """Return the usable threads in each of the sets that ``files`` tell; nothing unless these are parts of one whole."""
    usable = set(threads)
    sets: dict[tuple[int, ...], None] = {}
    for file in files:
        try:
            inside = tuple(number for number in expand_numbers(_text(file)) if number in usable)
        except ValueError:  # no such file, or an empty one: a domain that has memory alone
            continue
        if inside:
            sets[inside] = None
    told = [number for inside in sets for number in inside]
    return tuple(sets) if sorted(told) == sorted(usable) else ()


def _level_3(caches: Path) -> list[Path]:
    return [index / "shared_cpu_list" for index in sorted(caches.glob("index*")) if _text(index / "level") == "3"]


def _numbered(file: Path) -> int:
    return int(file.parent.name.removeprefix("node"))


def _soft(limit_of: Callable[[int], tuple[int, int]], kind: int) -> int | None:
    soft = limit_of(kind)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
