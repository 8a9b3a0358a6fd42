"""A task that is nothing but its shape: ``python -m pilotage.testing.synthetic --seconds 10 --threads 4 --memory 500``.

It stands for a real one in trials of a workload, in benchmarks and in the documentation: it keeps so many threads busy for so
long, holds so much memory, writes so many lines and so large a file, looks whether it has the GPUs that it was promised, and
fails now and then. With ``--mpi`` every rank does that, and in between all ranks add up a number and look that it is right.

The threads hash, which keeps a core busy without the interpreter's lock. Whether a task fails, and when, follows from its seed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any, TextIO

EXIT_FAILED = 1
EXIT_NO_GPUS = 3
EXIT_RANKS_DISAGREE = 4

STEP_S = 0.5
"""How often ranks meet, and lines are written."""

_BLOCK = bytes(1 << 20)
_PAGE_BYTES = 4096
_VISIBLE_DEVICES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")


def main(arguments: Sequence[str] | None = None) -> int:
    """Be the task, and return its exit code."""
    options = _parser().parse_args(arguments)
    comm = _communicator() if options.mpi else None
    rank, ranks = (0, 1) if comm is None else (comm.rank, comm.size)
    missing = _missing_gpus(options.gpus)
    if missing:
        _say(missing, sys.stderr)
        return EXIT_NO_GPUS
    chance = random.Random(options.seed)
    fails = chance.random() < options.fail and chance.randrange(ranks) == rank
    fails_after_s = chance.uniform(0.0, options.seconds) if fails else None
    held = _hold(options.memory)
    stop = threading.Event()
    threads = [threading.Thread(target=_work, args=(stop,), daemon=True) for _ in range(options.threads)]
    for thread in threads:
        thread.start()
    try:
        status = _run(options, comm, fails_after_s)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if status == 0 and options.write:
        _write(options.write)
    if rank == 0:
        size = f"ranks: {ranks}, threads of each: {options.threads}, MB of each: {len(held) >> 20}"
        _say(f"synthetic: {options.seconds:g} s, {size}, exit code {status}")
    if status and comm is not None:
        comm.Abort(status)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pilotage.testing.synthetic", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seconds", type=_amount, default=1.0, help="how long it takes; default: %(default)s")
    parser.add_argument("--threads", type=_count, default=1, help="threads that are busy meanwhile; 0: it sleeps; default: 1")
    parser.add_argument("--memory", type=_count, default=0, metavar="MB", help="memory that it holds, in MB")
    parser.add_argument("--write", type=_count, default=0, metavar="MB", help="a file that it writes and removes, in MB")
    parser.add_argument("--lines", type=_count, default=0, help="lines that it prints, spread over its time")
    parser.add_argument("--gpus", type=_count, default=0, help="GPUs that must be visible to it")
    parser.add_argument("--fail", type=_probability, default=0.0, metavar="P", help="probability with which it fails")
    own = "{}.{}".format(os.environ.get("PILOTAGE_TASK_ID", "0"), os.environ.get("PILOTAGE_ATTEMPT", "1"))
    parser.add_argument("--seed", default=own, help="what decides on failure; default: the task's uid and attempt")
    parser.add_argument("--mpi", action="store_true", help="be a rank of an MPI program (needs mpi4py)")
    return parser


def _say(line: str, stream: TextIO | None = None) -> None:
    (stream or sys.stdout).write(f"{line}\n")
    (stream or sys.stdout).flush()


def _amount(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def _probability(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _communicator() -> Any:
    try:
        from mpi4py import MPI
    except ImportError as error:
        sys.exit(f"synthetic: --mpi needs mpi4py: {error}; install it: {sys.executable} -m pip install mpi4py")
    return MPI.COMM_WORLD


def _missing_gpus(wanted: int) -> str:
    """Return what is said if fewer GPUs are visible than were promised."""
    visible = next((os.environ[name] for name in _VISIBLE_DEVICES if os.environ.get(name)), "")
    found = len([device for device in visible.split(",") if device])
    if found >= wanted:
        return ""
    names = ", ".join(_VISIBLE_DEVICES)
    return f"synthetic: {wanted} GPUs were promised, {found} are visible (by {names}); ask for gpus_per_rank={wanted}"


def _hold(megabytes: int) -> bytearray:
    """Return memory that is really there: each of its pages has been written to."""
    held = bytearray(megabytes << 20)
    for place in range(0, len(held), _PAGE_BYTES):
        held[place] = 1
    return held


def _work(stop: threading.Event) -> None:
    while not stop.is_set():
        hashlib.blake2b(_BLOCK).digest()


def _run(options: argparse.Namespace, comm: Any, fails_after_s: float | None) -> int:
    """Let the time pass, and return the exit code."""
    begin = time.monotonic()
    printed = 0
    while True:
        passed_s = time.monotonic() - begin
        share = min(1.0, passed_s / options.seconds) if options.seconds else 1.0
        for number in range(printed, int(options.lines * share)):
            _say(f"line {number} of {options.lines}")
        printed = int(options.lines * share)
        if fails_after_s is not None and passed_s >= fails_after_s:
            _say(f"synthetic: fails after {passed_s:.2f} s, as its seed {options.seed!r} has it", sys.stderr)
            return EXIT_FAILED
        # All ranks go on until the slowest clock says that it is over.
        over = passed_s >= options.seconds
        if comm is not None:
            total, finished = comm.allreduce(comm.rank), comm.allreduce(int(over))
            if total != comm.size * (comm.size - 1) // 2:
                _say(f"synthetic: the ranks' sum is {total}", sys.stderr)
                return EXIT_RANKS_DISAGREE
            over = finished == comm.size
        if over:
            return 0
        rest_s = max(0.0, options.seconds - passed_s)
        time.sleep(min(STEP_S, rest_s, fails_after_s - passed_s if fails_after_s is not None else rest_s))


def _write(megabytes: int) -> None:
    """Write a file in the current folder, and remove it."""
    with tempfile.TemporaryFile(dir=".") as file:
        for _ in range(megabytes):
            file.write(_BLOCK)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    sys.exit(main())
