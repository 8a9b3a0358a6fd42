"""Where the executables' stdout and stderr go.

``begin`` before a task's first process is spawned, ``Output.actions`` for each of its processes, ``end`` when all are gone:

* ``files``: a process opens the task's own files in its sandbox. One that is empty at the end is removed, unless the user has
  named it: who names a file wants to find it. When the last such task was over soon and printed nothing, the next opens a
  spare pair instead, and what it does print is moved to files of its own: at its end, or when it is looked at.
* ``aggregate`` and ``tail``: it opens a spare pair of files, which are appended to the node's aggregate at the end.
* ``discard``: it opens ``/dev/null``.

About once a second those that run are looked at: where their output goes is announced, so that it can be followed, and where
it is limited the middle of what they have written is given back.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from pilotage.model.ids import Attempt
from pilotage.model.workload import OWN_SANDBOX, Row, Template
from pilotage.outputs.aggregate import Aggregate
from pilotage.outputs.files import file_names, tail
from pilotage.outputs.limits import Limit, give_back, limit_of, shorten
from pilotage.outputs.pairs import remove_empty
from pilotage.outputs.spares import Spares
from pilotage.spawner.timers import Timers

Action = tuple[object, ...]

_LOOK_S = 1.0
_WRITE = os.O_WRONLY | os.O_CREAT
_MODE = 0o666
_NULL = os.devnull


class OutputPlan:
    """Where the output of a template's tasks goes. ``several``: more than one process of a task writes to it."""

    __slots__ = ("announce_at_once", "lends", "limit", "mode", "named", "several", "silent", "template")

    def __init__(self, template: Template, *, several: bool) -> None:
        self.template = template
        self.several = several
        self.mode = template.output
        self.limit = limit_of(template)
        self.named = bool(template.stdout), bool(template.stderr)
        self.announce_at_once = template.service is not None
        """Others look in the output of a service for what it says of itself."""
        alone = not several and template.hooks is None and template.launcher is None and template.sandbox == OWN_SANDBOX
        own = self.mode == "files" and not any(self.named) and self.limit is None
        self.lends = alone and own and not self.announce_at_once
        """Whether spare files may stand in for those of its tasks, as nobody looks for these within their first second."""
        self.silent = False
        """Whether the last of its tasks that is over was so within a second, and has printed nothing."""


class Output:
    """The output of one execution. ``names`` are its files as its processes open them, in their sandbox."""

    __slots__ = ("announced", "attempt", "begun", "given_back", "names", "pair", "plan", "row", "sandbox", "spare")

    def __init__(self, plan: OutputPlan, row: Row, attempt: Attempt, sandbox: str) -> None:
        self.plan = plan
        self.row = row
        self.attempt = attempt
        self.sandbox = sandbox
        self.names = (_NULL, _NULL)
        self.pair = ""
        """Of the aggregate."""
        self.spare = ""
        """Pair of files that stand in for its own."""
        self.begun = time.monotonic()
        self.announced = False
        self.given_back = [0, 0]

    def actions(self, *, first: bool) -> list[Action]:
        """Return what ``posix_spawn`` has to do for a process; the first one of a task begins with empty files."""
        stdout, stderr = self.names
        if self.pair:
            # They are empty. To say so once more would have the file system write them to disk when they are closed.
            flags = _WRITE | os.O_APPEND
        elif self.plan.mode == "files":
            flags = _WRITE | os.O_TRUNC if first and not self.spare else _WRITE
            if self.plan.several:
                # Or its processes would write over each other.
                flags |= os.O_APPEND
        else:
            flags = os.O_WRONLY
        return [
            (os.POSIX_SPAWN_OPEN, 1, stdout, flags, _MODE),
            (os.POSIX_SPAWN_DUP2, 1, 2) if stderr == stdout else (os.POSIX_SPAWN_OPEN, 2, stderr, flags, _MODE),
        ]

    def paths(self) -> tuple[str, str]:
        """Return the full paths of its files."""
        return os.path.join(self.sandbox, self.names[0]), os.path.join(self.sandbox, self.names[1])

    @property
    def own(self) -> str:
        """What the paths of its own files have in common if the user has not named them."""
        return os.path.join(self.sandbox, self.row.uid)


class Outputs:
    """The outputs of all tasks of a spawner. ``storage_full`` is called when there was no room for one in the aggregate."""

    def __init__(self, aggregate: Aggregate, spares: Spares, timers: Timers, storage_full: Callable[[OSError], None]) -> None:
        self._aggregate = aggregate
        self._spares = spares
        self._timers = timers
        self._storage_full = storage_full
        self._watched: dict[Output, None] = {}
        self._looking = False

    def begin(self, plan: OutputPlan, row: Row, attempt: Attempt, sandbox: str) -> Output:
        """Return where the output of a task goes that is about to be spawned in this folder.

        Raises:
            OSError: its files cannot be made.
        """
        output = Output(plan, row, attempt, sandbox)
        if plan.mode == "files":
            # Another attempt has left files, which are to be emptied.
            if plan.silent and plan.lends and attempt == 1 and self._borrow(output):
                return output
            output.names = file_names(plan.template, row.uid)
            if plan.limit is not None:
                self._watch(output)
        elif plan.mode != "discard":
            output.pair = self._aggregate.take_pair()
            output.names = self._aggregate.paths(output.pair)
            if plan.announce_at_once:
                self._announce(output)
            self._watch(output)
        return output

    def end(self, output: Output, detail_bytes: int) -> str:
        """Put the output of a task in its place, as none of its processes is left; return the end of its stderr."""
        plan, paths = output.plan, output.paths()
        self._watched.pop(output, None)
        detail = tail(paths[1], detail_bytes).decode(errors="replace") if detail_bytes else ""
        if output.pair:
            self._end_pair(output)
        elif plan.mode == "files":
            silent = self._end_spare(output) if output.spare else _end_files(paths, plan)
            plan.silent = silent and time.monotonic() - output.begun < _LOOK_S
        return detail

    def drop(self, output: Output) -> None:
        """Forget the output of a task of which no process was ever started, and that is to be begun elsewhere."""
        self._watched.pop(output, None)
        if output.announced:
            self._end_pair(output)
        elif output.pair:
            self._aggregate.return_pair(output.pair)
        elif output.spare:
            self._end_spare(output)

    def empty(self, output: Output) -> None:
        """Forget what was printed for a task of which nothing has begun, as it is tried again."""
        for path in {*output.paths()} - {_NULL}:
            try:
                os.truncate(path, 0)
            except OSError:
                # It is not there, or is no file: what follows comes after what was printed.
                continue

    def close(self) -> None:
        """Nothing runs any more: leave no file that is of no use."""
        self._aggregate.close()
        self._spares.close()

    def _borrow(self, output: Output) -> bool:
        try:
            output.spare = self._spares.lend(output.own)
        except OSError:
            # Its own files may be made yet; if not, that says why.
            return False
        output.names = self._spares.paths(output.spare)
        self._watch(output)
        return True

    def _end_spare(self, output: Output) -> bool:
        """Return whether nothing was printed, as far as that can be seen."""
        shown = output.names != self._spares.paths(output.spare)
        try:
            silent = self._spares.end(output.spare, output.own)
        except OSError as error:
            self._complain(output, error)
            return False
        return (not shown or _end_files(output.paths(), output.plan)) and silent

    def _end_pair(self, output: Output) -> None:
        uid = output.row.uid
        try:
            self._aggregate.end(uid, output.attempt, output.pair, output.plan.limit, announced=output.announced)
        except OSError as error:
            self._complain(output, error)
            self._look_again()

    def _complain(self, output: Output, error: OSError) -> None:
        sys.stderr.write(f"the output of {output.row.uid} stays in {output.names[0]} for now: {error}\n")
        self._storage_full(error)

    # what runs is looked at

    def _watch(self, output: Output) -> None:
        self._watched[output] = None
        self._look_again()

    def _look_again(self) -> None:
        if not self._looking:
            self._looking = True
            self._timers.at(time.monotonic() + _LOOK_S, self._look)

    def _look(self) -> None:
        self._looking = False
        old_enough = time.monotonic() - _LOOK_S / 2
        for output in list(self._watched):
            if output.pair and not output.announced:
                self._announce(output)
            if output.spare:
                if output.begun > old_enough:
                    # The shortest tasks may well be over before anybody looks.
                    continue
                output.names = self._spares.show(output.spare, output.own)
            if output.plan.limit is None:
                del self._watched[output]
                continue
            for number, path in enumerate(output.paths()):
                try:
                    output.given_back[number] = give_back(path, output.plan.limit, output.given_back[number])
                except OSError:
                    # It is not there yet, or no longer.
                    continue
        try:
            self._aggregate.settle()
        except OSError as error:
            self._storage_full(error)
        if self._watched or self._aggregate.unsettled:
            self._look_again()

    def _announce(self, output: Output) -> None:
        output.announced = True
        self._aggregate.announce(output.row.uid, output.attempt, output.pair)


def _end_files(paths: tuple[str, str], plan: OutputPlan) -> bool:
    """Leave a task's own files as they are to stay; return whether none is left of those that the user has not named."""
    silent = True
    for path, named in zip(paths, plan.named, strict=True):
        if not named and not remove_empty(path):
            silent = False
        if plan.limit is not None:
            _shorten(path, plan.limit)
    return silent


def _shorten(path: str, limit: Limit) -> None:
    try:
        shorten(path, limit)
    except OSError:
        # The task has removed it, or its folder; or it stays as long as it is.
        return
