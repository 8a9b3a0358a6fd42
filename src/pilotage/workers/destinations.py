"""Where a call's output goes: the task's own files, the aggregate of the node, or nowhere.

One is made when a call first writes something out, and is of use until that call is over. Streams are numbered 1 and 2.
"""

from __future__ import annotations

import os
from typing import Protocol

from pilotage.errors import unreachable
from pilotage.model.ids import Attempt
from pilotage.model.sandboxes import sandbox_of
from pilotage.model.workload import Row, Template
from pilotage.outputs.aggregate import Aggregate
from pilotage.outputs.files import file_names
from pilotage.outputs.limits import give_back, limit_of, shorten
from pilotage.wire.runner_settings import RunnerSettings

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
_MODE = 0o666


class Destination(Protocol):
    """Where one call's output goes. Each method may raise ``OSError``: the output could not be written."""

    def write(self, number: int, content: bytes) -> None:
        """Write what the call has printed so far to a stream."""
        ...

    def look(self) -> None:
        """The call runs for long: let others see what it prints, and give back what is not kept."""
        ...

    def before_fork(self) -> None:
        """Make that a child of the call can write, too, with nothing left to do that both would do."""
        ...

    def end(self, stdout: bytes, stderr: bytes) -> None:
        """The call is over, and this is what it printed that was not written before."""
        ...


class OwnFiles:
    """The files that an executable of this template would have, emptied by the first write of an attempt."""

    def __init__(self, template: Template, row: Row, attempt: Attempt, settings: RunnerSettings) -> None:
        sandbox = sandbox_of(template, row)
        folder = settings.working_folder if sandbox is None else os.path.join(settings.pilot_folder, sandbox)
        self._paths = [os.path.join(folder, name) for name in file_names(template, row.uid)]
        self._limit = limit_of(template)
        self._attempt = attempt
        self._begun: dict[str, int] = {}
        """Files that this attempt has written to, and how far room in them was given back."""

    def write(self, number: int, content: bytes) -> None:
        """Append to the file; make it if there is none, and its folder."""
        path = self._paths[number - 1]
        flags = _FLAGS if path in self._begun else _FLAGS | os.O_TRUNC
        try:
            _append(path, flags, content)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _append(path, flags, content)
        self._begun.setdefault(path, 0)

    def look(self) -> None:
        """Give back what is not kept."""
        if self._limit is not None:
            for path, before in self._begun.items():
                self._begun[path] = give_back(path, self._limit, before)

    def before_fork(self) -> None:
        """Have the files empty that were not written to, lest parent and child both do it."""
        self._empty_unwritten()

    def end(self, stdout: bytes, stderr: bytes) -> None:
        """Write the rest, and bring the files to their final form."""
        try:
            if stdout:
                self.write(1, stdout)
        finally:
            if stderr:
                self.write(2, stderr)
        if self._attempt > 1:
            self._empty_unwritten()
        if self._limit is not None:
            for path in self._begun:
                shorten(path, self._limit)

    def _empty_unwritten(self) -> None:
        """Empty the files that this attempt has not written to, if they are there from an earlier one."""
        for path in self._paths:
            if path not in self._begun:
                try:
                    os.truncate(path, 0)
                except OSError:
                    # There is none; or it is not ours to write, which a print will tell.
                    pass
                self._begun[path] = 0


class Aggregated:
    """The aggregate of this node; a pair of files beside it for what a call writes before it is over."""

    def __init__(self, template: Template, row: Row, attempt: Attempt, aggregate: Aggregate) -> None:
        self._aggregate = aggregate
        self._limit = limit_of(template)
        self._uid = row.uid
        self._attempt = attempt
        self._pair = ""
        self._announced = self._forked = False
        self._given_back = [0, 0]

    def write(self, number: int, content: bytes) -> None:
        """Append to a file of the pair."""
        if not self._pair:
            self._pair = self._aggregate.take_pair()
        _append(self._aggregate.paths(self._pair)[number - 1], _FLAGS, content)

    def look(self) -> None:
        """Let others know of the pair, and give back what is not kept."""
        if not self._pair:
            return
        if not self._announced:
            self._announced = True
            self._aggregate.announce(self._uid, self._attempt, self._pair)
        if self._limit is not None:
            for number, path in enumerate(self._aggregate.paths(self._pair)):
                self._given_back[number] = give_back(path, self._limit, self._given_back[number])

    def before_fork(self) -> None:
        """Have a pair of files, which a child writes to as well."""
        self._forked = True
        if not self._pair:
            self._pair = self._aggregate.take_pair()

    def end(self, stdout: bytes, stderr: bytes) -> None:
        """Append what was printed to the aggregate."""
        if not self._pair:
            if stdout or stderr or self._attempt > 1:
                self._aggregate.append(self._uid, self._attempt, stdout, stderr, self._limit)
            return
        for number, content in ((1, stdout), (2, stderr)):
            if content:
                self.write(number, content)
        self._aggregate.end(self._uid, self._attempt, self._pair, self._limit, announced=self._announced, shared=self._forked)


class Nowhere:
    """Output that nobody wants."""

    def write(self, number: int, content: bytes) -> None:
        """Do nothing."""

    def look(self) -> None:
        """Do nothing."""

    def before_fork(self) -> None:
        """Do nothing."""

    def end(self, stdout: bytes, stderr: bytes) -> None:
        """Do nothing."""


def destination_of(
    template: Template, row: Row, attempt: Attempt, settings: RunnerSettings, aggregate: Aggregate
) -> Destination:
    """Return where the output of a call goes."""
    match template.output:
        case "files":
            return OwnFiles(template, row, attempt, settings)
        case "aggregate" | "tail":
            return Aggregated(template, row, attempt, aggregate)
        case "discard":
            return Nowhere()
        case _:
            return unreachable(template.output)


def _append(path: str, flags: int, content: bytes) -> None:
    descriptor = os.open(path, flags, _MODE)
    try:
        write_all(descriptor, content)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of the content."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
