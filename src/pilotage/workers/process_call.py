"""A call in a process of its own, from the file that describes it to the one that tells its end.

Of the standard library, and few modules of ours that are, too. What is a call's semantics is ``calling``, as in workers. With
several ranks each is such a process. An MPI function gets its communicator as first argument; the result of rank 0 is the
task's, and a rank that raises tells it and ends all others.

The end is told in ``<file>.<rank>``, written whole or not at all: by rank 0, and by each rank that fails. A process that
ends without has been ended by something else, which its exit code tells.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from pilotage.errors import SerializationError
from pilotage.wire.pickles import open_value
from pilotage.wire.single_calls import Call, End, Stored, write_end
from pilotage.workers.calling import cannot_open, leave, message_of, pickled_result, raised, synchronous

FAILED = 1
"""Exit status of a process whose function raised."""


def make_call(path: str, call: Call) -> None:
    """Make the call, tell its end, and end this process."""
    os.chdir(call["folder"])
    process = os.getpid()
    comm: Any = None
    rank = int(os.environ.get("PILOTAGE_RANK", "0"))
    if call["mpi"]:
        try:
            from mpi4py import MPI
        except Exception as error:  # it looks for an MPI library, and loads it
            _tell(path, rank, {"refused": _no_mpi4py(error)})
            leave(FAILED)
        comm = MPI.COMM_WORLD
        if comm.size != call["ranks"]:
            _tell(path, rank, {"alone": (comm.size, _loaded_mpi())})
            leave(FAILED)
    end = _called(call, comm)
    if os.getpid() != process:
        # A child that the function has forked has returned from it as well.
        os._exit(0)
    failed = "raised" in end
    if failed or rank == 0:
        _tell(path, rank, end)
    if failed and call["mpi"]:
        sys.stdout.flush()
        sys.stderr.flush()
        comm.Abort(FAILED)
    if call["mpi"] and not MPI.Is_finalized():
        # Waits for the other ranks, as long as they take; those who leave without are taken for dead.
        MPI.Finalize()
    leave(FAILED if failed else 0)


def _called(call: Call, comm: Any) -> End:
    try:
        function = synchronous(open_value(_loaded(call["function"])))
    except BaseException as error:  # importing a user's module runs the user's code, which may raise anything
        return {"raised": _told(cannot_open("the function", error, sys.executable))}
    try:
        args, kwargs = ((), {}) if call["payload"] is None else open_value(_loaded(call["payload"]))
    except BaseException as error:  # opening arguments runs the user's code, which may raise anything
        return {"raised": _told(cannot_open("the arguments", error, sys.executable))}
    try:
        result = function(*args, **kwargs) if comm is None else function(comm, *args, **kwargs)
    except BaseException as error:  # whatever a user's function raises, SystemExit included, is its own failure
        return {"raised": _told(error)}
    if comm is not None and comm.rank != 0:
        return {}
    try:
        pickled = pickled_result(call["task"], result)
        return {"result": pickled} if len(pickled) <= call["inline_bytes"] else {"stored": _stored(call, pickled)}
    except SerializationError as error:
        return {"raised": _told(error)}
    except OSError as error:
        return {"raised": _told(SerializationError(f"the result of task {call['task']!r} cannot be kept: {error}"))}


def _told(error: BaseException) -> tuple[bytes | None, str, str]:
    # Marshal writes no subclass of tuple.
    pickled, message, detail = raised(error)
    return (pickled, message, detail)


def _loaded(value: bytes | tuple[str, int, int, str]) -> bytes:
    if isinstance(value, bytes):
        return value
    stored = Stored(*value)
    with open(stored.path, "rb") as file:
        file.seek(stored.offset)
        content = file.read(stored.size)
    if digest_like(stored.digest, content) != stored.digest:
        raise SerializationError(f"{stored.size} bytes at {stored.offset} of {stored.path} have changed; submit the task again")
    return content


def digest_like(digest: str, content: bytes) -> str:
    """Return the digest of ``content`` of the same kind."""
    # Only here: most calls have no large values.
    import hashlib
    import zlib

    return f"crc32:{zlib.crc32(content):08x}" if digest.startswith("crc32:") else hashlib.sha256(content).hexdigest()


def _stored(call: Call, pickled: bytes) -> tuple[str, int, int, str]:
    """Write a result as a pack of blobs of its own."""
    name = os.urandom(8).hex()
    os.makedirs(call["packs"], mode=0o700, exist_ok=True)
    path = os.path.join(call["packs"], name)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(pickled)
    return (name, 0, len(pickled), digest_like("", pickled))


def _tell(path: str, rank: int, end: End) -> None:
    end["ended"] = time.time()
    write_end(path, rank, end)


def _no_mpi4py(error: Exception) -> str:
    if isinstance(error, ImportError) and error.name == "mpi4py":
        said, remedy = "does not have it", f"install it there: {sys.executable} -m pip install mpi4py"
    else:
        one_line = message_of(error).replace("\n", "; ")
        said, remedy = f"cannot load it: {one_line}", "try it with 'pilotage check mpi'"
    return f"an MPI function needs mpi4py, and {sys.executable} {said}; {remedy}"


def _loaded_mpi() -> str:
    with open("/proc/self/maps") as file:
        return next((path for line in file if "/libmpi" in (path := line.split()[-1])), "")
