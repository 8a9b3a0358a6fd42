"""Functions for workers to import: a module of the user's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Scale:
    """A class whose objects, methods and instances are called by tasks."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def apply(self, value: float, offset: float = 0) -> float:
        """Scale a value."""
        return self.factor * value + offset

    @classmethod
    def double(cls, value: float) -> float:
        """Scale by two."""
        return cls(2).apply(value)

    @staticmethod
    def negate(value: float) -> float:
        """Change the sign."""
        return -value

    def __call__(self, value: float) -> float:
        return self.apply(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scale) and other.factor == self.factor

    __hash__ = None  # type: ignore[assignment]


class FussyError(Exception):
    """An exception that plain pickle cannot rebuild: it takes two arguments and keeps one."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")
        self.where = where


def add(left: Any, right: Any = 1) -> Any:
    """Add two values."""
    return left + right


def fail_deeply(depth: int) -> None:
    """Raise below ``depth`` calls."""
    if depth:
        fail_deeply(depth - 1)
    raise LookupError(f"no water in replica {os.getpid() > 0}")


def fail_with_cause() -> None:
    """Raise an exception from another."""
    try:
        Path("/no/such/file").read_text()
    except OSError as error:
        raise RuntimeError("the input is missing") from error


def fail_while_handling() -> None:
    """Raise while handling an exception."""
    try:
        _ = {}["first"]
    except KeyError:
        _ = int("second")


def fail_fussily() -> None:
    """Raise what plain pickle cannot rebuild."""
    raise FussyError("overflow", "step 3")


def whoami() -> tuple[int, str]:
    """Return the worker's pid and folder."""
    return os.getpid(), os.getcwd()


def append_line(path: str, line: str) -> None:
    """Append a line to a file, for witnesses outside."""
    with Path(path).open("a") as file:
        file.write(line + "\n")


def size_of(content: bytes) -> int:
    """Return the length."""
    return len(content)


def make_bytes(count: int) -> bytes:
    """Return so many bytes."""
    return b"x" * count


def square(value: float) -> float:
    """Square a value."""
    return value * value


def fail_on(bad: Any, value: Any) -> Any:
    """Return ``value``, or raise if it is ``bad``."""
    if value == bad:
        raise ValueError(f"value {value} is bad")
    return value


def wait_for_file(path: str) -> str:
    """Return when a file exists."""
    import time

    until = time.monotonic() + 60
    while not os.path.exists(path) and time.monotonic() < until:
        time.sleep(0.005)
    return path


def environment_of(name: str) -> str | None:
    """Return an environment variable."""
    return os.environ.get(name)


def read_text(path: str) -> str:
    """Return what a file holds."""
    return Path(path).read_text()


def copy_text(source: str, target: str) -> None:
    """Write what one file holds to another."""
    Path(target).write_text(Path(source).read_text())


def sum_of_ranks(comm: Any, offset: int) -> int:
    """Return the sum over the ranks of their number and an offset."""
    return int(comm.allreduce(comm.rank + offset))
