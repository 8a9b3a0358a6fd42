"""Which MPI library a program needs, or a process has loaded.

There are two families. What is linked with a library of one runs with every other of it (they share an interface, named by
the number behind ``.so``), and is started by any mpiexec of it; nothing holds across them::

    libmpi.so.12   MPICH, Intel MPI, MVAPICH, Cray MPICH (libmpi_cray.so.12, ...)
    libmpi.so.40   OpenMPI

A program's libraries are found as the loader finds them: by the names and search paths in the files themselves, the
``LD_LIBRARY_PATH`` that it will have, and the system's folders. Nothing is executed for that, as ``ldd`` does.
"""

from __future__ import annotations

import glob
import os
import re
import struct
from collections import deque
from functools import lru_cache
from typing import Literal, NamedTuple

Family = Literal["mpich", "openmpi"]

FAMILY_NAMES: dict[Family, str] = {"mpich": "MPICH", "openmpi": "OpenMPI"}

# Wheels that carry a library along put a digest into its name.
_DIGEST = r"(?:-[0-9a-f]{6,})?"
_OPENMPI = re.compile(rf"lib(?:open-pal|open-rte|mpi(?:_cxx|_mpifh|_java|_usempi\w*)?{_DIGEST}\.so\.(?:20|40|80)(?:\.|$))")
_MPICH = re.compile(rf"libmpi(?:ch|fort|cxx|chf90|chcxx|_(?!abi)\w+)?{_DIGEST}\.so\.(?:10|12)(?:\.|$)")
_EITHER = re.compile(r"libmpi_abi\.so\.[01](?:\.|$)")
_PMIX = "libpmix.so"
_COMMON = re.compile(r"(?:lib(?:c|m|dl|rt|pthread|util|gcc_s|stdc\+\+)\.so|ld-linux)")
_OBJECTS_LIMIT = 300
_READ_LIMIT_BYTES = 1 << 20

_ELF = b"\x7fELF"
_PT_LOAD, _PT_DYNAMIC = 1, 2
_NEEDED, _STRTAB, _STRSZ, _SONAME, _RPATH, _RUNPATH = 1, 5, 10, 14, 15, 29


class MpiLibrary(NamedTuple):
    """A libmpi: its family, and its path, or only its name where no file of that name is found.

    ``pmix``: it can talk PMIx through a library of its own, as MPICH does where it was built with it.
    """

    family: Family
    path: str
    pmix: bool = False


def family_of(name: str) -> Family | None:
    """Return the family of an MPI library by its file's name; None if it is none, or one that both families have.

    >>> family_of("libmpi.so.40.30.4"), family_of("libmpi_cray.so.12"), family_of("libm.so.6")
    ('openmpi', 'mpich', None)
    """
    if _OPENMPI.match(name):
        return "openmpi"
    return "mpich" if _MPICH.match(name) else None


def library_of(path: str, library_path: str = "") -> MpiLibrary | None:
    """Return the MPI library that the program at ``path`` is linked with, itself or through other libraries, or that it is.

    None if it needs none: a script, a program without MPI, or one that loads it later, as Python does. ``library_path`` is the
    ``LD_LIBRARY_PATH`` that the program will have. The answer is remembered as long as the file is the same.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _library_of(path, library_path, status.st_mtime_ns, status.st_size)


def loaded_library(pid: int) -> MpiLibrary | None:
    """Return the MPI library that a running process has loaded; None if it has none (yet), or is gone."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            paths = {line[line.index(b"/") :].rstrip() for line in file if b"/" in line}
    except OSError:
        return None
    names = {_library_name(os.fsdecode(path)): os.fsdecode(path) for path in paths}
    families = {family for name in names if (family := family_of(name))}
    if not families:
        return None
    library = next((path for name, path in sorted(names.items()) if name.startswith("libmpi")), "libmpi")
    return MpiLibrary(_decided(families), library, any(name.startswith(_PMIX) for name in names))


def _library_name(path: str) -> str:
    name = os.path.basename(path)
    if name.startswith("libmpi") and name.endswith(".so") and (dynamic := read_dynamic(path)):
        return dynamic.name or name
    return name


@lru_cache(maxsize=256)
def _library_of(path: str, library_path: str, _changed: int, _size: int) -> MpiLibrary | None:
    library = ""
    families: set[Family] = set()
    seen: set[str] = set()

    def look_at(name: str, file: str) -> None:
        nonlocal library
        seen.add(name)
        if family := family_of(name):
            families.add(family)
        if not library and name.startswith("libmpi"):
            library = file or name

    queue = deque([path])
    while queue and len(seen) < _OBJECTS_LIMIT:
        here = queue.popleft()
        dynamic = read_dynamic(here)
        if dynamic is None:
            continue
        if here == path:
            look_at(dynamic.name, path)
        for name in dynamic.needed:
            if name not in seen and not _COMMON.match(name):
                file = _find(name, here, dynamic, library_path)
                look_at(name, file)
                if file:
                    queue.append(file)
    # What stands behind an interface of both families shows in what it needs: MPICH keeps all in one library.
    either = any(_EITHER.match(name) for name in seen)
    pmix = any(name.startswith(_PMIX) for name in seen)
    return MpiLibrary(_decided(families), library, pmix) if families or either else None


def _decided(families: set[Family]) -> Family:
    # OpenMPI 1 had a libmpi.so.12, too; its other libraries tell.
    return "openmpi" if "openmpi" in families else "mpich"


class Dynamic(NamedTuple):
    """What a program or library says of itself and of the libraries that it needs."""

    name: str
    """Of a library, by which others need it: ``libmpi.so.12``, also where its file is called ``libmpi.so``."""
    needed: list[str]
    rpath: list[str]
    """Searched before ``LD_LIBRARY_PATH``."""
    runpath: list[str]
    """Searched after it."""


def read_dynamic(path: str) -> Dynamic | None:
    """Return the dynamic section of an ELF file; None for any other file, and for a program that is linked statically."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return _read_dynamic(descriptor)
    except (OSError, struct.error, LookupError, StopIteration, ValueError):
        # Cut off or damaged: the loader says what is wrong with it.
        return None
    finally:
        os.close(descriptor)


def _read_dynamic(descriptor: int) -> Dynamic | None:
    head = os.pread(descriptor, 64, 0)
    if head[:4] != _ELF:
        return None
    wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
    table, size, count = (
        (*struct.unpack_from(order + "Q", head, 32), *struct.unpack_from(order + "2H", head, 54))
        if wide
        else (*struct.unpack_from(order + "I", head, 28), *struct.unpack_from(order + "2H", head, 42))
    )
    loads: list[tuple[int, int, int]] = []
    section = b""
    headers = os.pread(descriptor, size * count, table)
    for start in range(0, size * count, size):
        if wide:
            kind, _, offset, address, _, in_file = struct.unpack_from(order + "2I4Q", headers, start)
        else:
            kind, offset, address, _, in_file = struct.unpack_from(order + "5I", headers, start)
        if kind == _PT_LOAD:
            loads.append((address, offset, in_file))
        elif kind == _PT_DYNAMIC:
            section = os.pread(descriptor, min(in_file, _READ_LIMIT_BYTES), offset)
    entry = struct.Struct(order + ("2Q" if wide else "2I"))
    entries = [entry.unpack_from(section, start) for start in range(0, len(section) - entry.size + 1, entry.size)]
    values = dict(entries)
    if _STRTAB not in values:
        return None
    place = next(
        offset + values[_STRTAB] - address for address, offset, in_file in loads if 0 <= values[_STRTAB] - address < in_file
    )
    texts = os.pread(descriptor, min(values[_STRSZ], _READ_LIMIT_BYTES), place)

    def text(start: int) -> str:
        return os.fsdecode(texts[start : texts.index(b"\0", start)])

    def folders(tag: int) -> list[str]:
        return [folder for folder in text(values[tag]).split(":") if folder] if tag in values else []

    needed = [text(value) for tag, value in entries if tag == _NEEDED]
    own = text(values[_SONAME]) if _SONAME in values else ""
    return Dynamic(own, needed, [] if _RUNPATH in values else folders(_RPATH), folders(_RUNPATH))


def _find(name: str, needed_by: str, dynamic: Dynamic, library_path: str) -> str:
    if "/" in name:
        return name if os.path.isfile(name) else ""
    origin = os.path.dirname(os.path.realpath(needed_by))
    own = [
        [re.sub(r"\$(?:ORIGIN\b|\{ORIGIN\})", lambda _: origin, folder) for folder in part]
        for part in (dynamic.rpath, dynamic.runpath)
    ]
    for folder in (*own[0], *library_path.split(":"), *own[1], *_system_folders()):
        path = os.path.join(folder, name)
        if folder and os.path.isfile(path):
            return path
    return ""


@lru_cache(maxsize=1)
def _system_folders() -> tuple[str, ...]:
    """Return the folders that the loader searches on this system."""
    configured: list[str] = []
    files = deque(["/etc/ld.so.conf"])
    while files:
        try:
            with open(files.popleft(), encoding="utf-8", errors="replace") as file:
                lines = [line.partition("#")[0].split() for line in file]
        except OSError:
            continue
        for words in lines:
            if words[:1] == ["include"]:
                files += [path for pattern in words[1:] for path in sorted(glob.glob(os.path.join("/etc", pattern)))]
            else:
                configured += words
    return tuple(dict.fromkeys([*configured, "/lib64", "/usr/lib64", "/lib", "/usr/lib"]))
