"""Input that many tasks bring to the same place, brought there once.

The first task that wants it has it done; the others are put aside until that is over, so that they do not hold up those that
want something else. For a task that asks later it is looked at whether the source is still what it was: a copy that was begun
after the task had arrived needs no such look, as it is what the task would get from one of its own. So ten thousand tasks that
are submitted together cost one copy and no look at the source.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from pilotage.staging.failures import TEMPORARY

KEPT = 10_000
"""Places remembered; beyond that the oldest are forgotten, and brought once more if they are asked for."""

Receipt = TypeVar("Receipt")


class Delivery(Generic[Receipt]):
    """What was, or is being, brought to one place."""

    __slots__ = ("began", "lock", "receipt")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Held while it is brought."""
        self.began = 0.0
        self.receipt: Receipt | None = None


class Busy(Exception):
    """Somebody is bringing it; the task is to be gone on with, at its directive ``index``, when that is over."""

    def __init__(self, delivery: Delivery[Any]) -> None:
        super().__init__()
        self.delivery = delivery
        self.index = 0


class Shared(Generic[Receipt]):
    """What was brought where; for any number of threads. A receipt says what a source and its copy looked like.

    ``over`` is told when something was brought, or could not be.
    """

    def __init__(self, over: Callable[[Delivery[Any]], None]) -> None:
        self._over = over
        self._lock = threading.Lock()
        self._deliveries: dict[tuple[object, ...], Delivery[Receipt]] = {}

    def once(
        self,
        key: tuple[object, ...],
        arrived: float,
        holds: Callable[[Receipt], bool],
        unchanged: Callable[[Receipt], bool],
        bring: Callable[[], Receipt],
    ) -> None:
        """Do ``bring`` unless that was done for this key and serves a task that arrived at that time (monotonic clock).

        ``holds``: the copy is still there. ``unchanged``: the source is still the one that was copied. What ``bring`` raises
        is raised, and the next who asks tries again.

        Raises:
            Busy: another thread is at it.
        """
        delivery = self._delivery(key)
        if not delivery.lock.acquire(blocking=False):
            raise Busy(delivery)
        try:
            receipt = delivery.receipt
            if receipt is not None and holds(receipt) and (delivery.began >= arrived or unchanged(receipt)):
                return
            delivery.receipt = None
            began = time.monotonic()
            delivery.receipt = bring()
            delivery.began = began
        finally:
            delivery.lock.release()
            self._over(delivery)

    def _delivery(self, key: tuple[object, ...]) -> Delivery[Receipt]:
        with self._lock:
            delivery = self._deliveries.get(key)
            if delivery is None:
                delivery = self._deliveries[key] = Delivery()
                if len(self._deliveries) > KEPT:
                    del self._deliveries[next(iter(self._deliveries))]
            return delivery


Appearance = tuple[int, ...]
"""What tells whether a file or folder was changed."""


class Validators(msgspec.Struct, frozen=True):
    """What a server said by which it can tell later whether a file was changed; empty: it said nothing of the kind."""

    etag: str = ""
    modified: str = ""


def appearance(path: str) -> Appearance:
    """Return what tells whether the file, or anything in the folder, was changed since. ``path`` may be a link to it."""
    status = os.stat(path)
    seen = _look(status)
    if os.path.isdir(path):
        # Of a large folder only a digest is kept. Within one process hashes of the same values are the same.
        return *seen, hash(tuple(_inside(path)))
    return seen


def copy_appearance(path: str) -> Appearance:
    """Return what tells whether the copy is still there as it was made; what is in a folder is not looked at."""
    status = os.lstat(path)
    return (status.st_dev, status.st_ino) if os.path.isdir(path) else _look(status)


def _look(status: os.stat_result) -> Appearance:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode


def _inside(folder: str) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    folders = [folder]
    for each in folders:
        with os.scandir(each) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
        for entry in entries:
            if entry.name.startswith(TEMPORARY):
                continue
            found.append((entry.path, *_look(entry.stat(follow_symlinks=False))))
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
    return found
