"""One directive, carried out.

* COPY and TRANSFER copy: on one machine, or one file system, they are the same. A source that is a web address is fetched.
* LINK gives the file another name, MOVE brings it away from where it was, DOWNLOAD fetches it.
* TARBALL brings what is named to where it is wanted, as COPY does: that it travels in a tar file shows only where there is
  a way to travel. A folder, or what matches a pattern, is packed if the target is called ``.tar``, ``.tgz`` and the like.

A target that ends with a slash, or is a folder's root (``task:///``), or a folder that a file is brought to, is the folder of
a copy that has the source's name; so is the target of a pattern. Folders brought to folders that exist are merged into them.
What a target means thus does not change by what is brought there, and doing it all again gives the same end.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from pilotage.model.staging import Directive, StagingAction, StagingFlag
from pilotage.staging.failures import explained, missing, no_folder, no_match, special_file
from pilotage.staging.files import Files, Identity, identity, real_name, remove
from pilotage.staging.notes import Errand, Move, Notes
from pilotage.staging.shared import Appearance, Delivery, Shared, Validators, appearance, copy_appearance
from pilotage.staging.urls import ARCHIVES, HTTP, BadUrl, Places, Url, literal, locate, matches, parse_url, plain

_EMPTY = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

_Do = Callable[[str, str], None]


class Work(msgspec.Struct, frozen=True):
    """The staging of one task before or after an attempt.

    ``share``: what goes to places that are not the task's ``own`` folder is brought there once, for all tasks that want it
    there; ``arrived``: when this one was heard of, by the monotonic clock. ``printed``: files of the task that are removed
    when they are empty; missing, they are empty. ``go_on``: what cannot be staged does not keep the rest from being staged.
    ``ground``: a folder; where there is no room in it all stops, to be done again when there is. Empty: that is a failure.
    """

    errand: Errand
    directives: Sequence[Directive]
    places: Places
    own: str = ""
    share: bool = False
    arrived: float = 0.0
    printed: frozenset[str] = frozenset()
    go_on: bool = False
    ground: str = ""


class Receipt(msgspec.Struct, frozen=True):
    """What a source and its copy looked like when the copy was made."""

    source: Appearance | Validators
    copy: Appearance


class Tools:
    """What all directives of a pilot are carried out with, by any number of threads."""

    def __init__(
        self, files: Files, stopped: Callable[[], bool], notes: Notes | None, over: Callable[[Delivery[Any]], None]
    ) -> None:
        self.files = files
        self.stopped = stopped
        self.notes = notes
        self.shared: Shared[Receipt] = Shared(over)


class Step:
    """The directive ``index`` of a task. ``moves`` are those that were noted by whoever did the same before.

    Raises:
        BadUrl: source or target cannot be staged from or to.
    """

    def __init__(self, tools: Tools, work: Work, index: int, directive: Directive, moves: Sequence[Move]) -> None:
        self._tools = tools
        self._files = tools.files
        self._work = work
        self._index = index
        self._moves = moves
        self._action = directive.action
        self._create_parents = bool(directive.flags & StagingFlag.CREATE_PARENTS)
        self._source = _resolved(directive.source)
        folder, path = locate(_resolved(directive.target), work.places)
        self._target = os.path.join(folder, path).rstrip("/")
        self._into = not path or path.endswith("/")

    def run(self) -> None:
        """Carry it out.

        Raises:
            SourceMissing, Unstageable: why it cannot be done.
            Stopped
            Busy: another task is having the same done.
        """
        source = self._source
        if source.schema in HTTP:
            self._place(source.path, self._goal(source.name), self._fetch)
            return
        folder, pattern = locate(source, self._work.places)
        pattern = pattern.rstrip("/")
        path = os.path.join(folder, plain(pattern)).rstrip("/")
        if literal(pattern) is not None or os.path.lexists(path):
            self._run_one(path)
        else:
            self._run_pattern(folder, pattern)

    def _run_one(self, path: str) -> None:
        if self._moved_before(path):
            return
        name = os.path.basename(path)
        try:
            mode = os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            if path in self._work.printed:
                self._place(path, self._goal(name), self._make_empty)
                return
            raise missing(path) from None
        except OSError as error:
            raise explained(error, path, self._target) from error
        if not stat.S_ISDIR(mode):
            if not stat.S_ISREG(mode):
                raise special_file(path)
            self._place(path, self._goal(name), self._act)
            return
        goal = os.path.join(self._target, name) if self._into else self._target
        if self._action is StagingAction.TARBALL and goal.endswith(ARCHIVES):
            self._pack([(path, name)], path, goal)
        else:
            self._place(path, goal, self._act)

    def _run_pattern(self, folder: str, pattern: str) -> None:
        found = matches(folder, pattern)
        if not found and not self._moves:
            raise no_match(os.path.join(folder, pattern))
        if self._action is StagingAction.TARBALL and self._target.endswith(ARCHIVES) and not self._into:
            self._pack(found, folder, self._target)
            return
        for path in dict.fromkeys(move.source for move in self._moves):
            # What was moved matches no more, but what is left of it may have to be removed.
            self._moved_before(path)
        for path, name in found:
            if not self._moved_before(path):
                self._place(path, os.path.join(self._target, name).rstrip("/"), self._act)

    def _goal(self, name: str) -> str:
        """Return what the copy of a file of this name is called."""
        return os.path.join(self._target, name) if self._into or os.path.isdir(self._target) else self._target

    def _place(self, source: str, goal: str, do: _Do) -> None:
        """Do something that makes ``goal``, in a folder that may have to be made first."""
        try:
            try:
                do(source, goal)
            except FileNotFoundError:
                folder = os.path.dirname(goal)
                if os.path.isdir(folder):
                    raise
                if not self._create_parents:
                    raise no_folder(folder) from None
                os.makedirs(folder, exist_ok=True)
                do(source, goal)
        except OSError as error:
            raise explained(error, source, goal) from error

    # the actions

    def _act(self, source: str, goal: str) -> None:
        there = identity(goal)
        if there is not None and there == identity(source) and real_name(source) == real_name(goal):
            return  # it is there already: a task may run in the folder that its input lies in
        match self._action:
            case StagingAction.LINK:
                self._files.link(source, goal)
            case StagingAction.MOVE:
                self._files.move(source, goal, lambda *seen: self._note(source, goal, *seen))
            case _:
                self._copy(source, goal)

    def _copy(self, source: str, goal: str) -> None:
        if not self._is_shared(goal):
            self._files.copy(source, goal)
            return

        def bring() -> Receipt:
            # Looked at before: what changes meanwhile is to be seen as changed later.
            before = appearance(source)
            self._files.copy(source, goal)
            return Receipt(before, copy_appearance(goal))

        self._once(source, goal, lambda receipt: appearance(source) == receipt.source, bring)

    def _fetch(self, url: str, goal: str) -> None:
        from pilotage.staging.download import download, is_unchanged

        def bring() -> Receipt:
            with self._files.placing(goal) as temporary:
                validators = download(url, temporary, self._tools.stopped)
            return Receipt(validators, copy_appearance(goal))

        def unchanged(receipt: Receipt) -> bool:
            return isinstance(receipt.source, Validators) and is_unchanged(url, receipt.source)

        if self._is_shared(goal):
            self._once(url, goal, unchanged, bring)
        else:
            bring()

    def _pack(self, members: Sequence[tuple[str, str]], source: str, goal: str) -> None:
        from pilotage.staging.archives import pack

        def make(_: str, goal: str) -> None:
            with self._files.placing(goal) as temporary:
                pack(members, os.path.basename(goal), temporary, self._tools.stopped)

        self._place(source, goal, make)

    def _make_empty(self, _: str, goal: str) -> None:
        with self._files.placing(goal) as temporary:
            os.close(os.open(temporary, _EMPTY, 0o666))

    # what tasks share

    def _is_shared(self, goal: str) -> bool:
        return self._work.share and not (self._work.own and goal.startswith(f"{self._work.own}/"))

    def _once(self, source: str, goal: str, unchanged: Callable[[Receipt], bool], bring: Callable[[], Receipt]) -> None:
        def holds(receipt: Receipt) -> bool:
            try:
                return copy_appearance(goal) == receipt.copy
            except OSError:
                return False

        self._tools.shared.once((source, goal), self._work.arrived, holds, unchanged, bring)

    # moves that may have been made already

    def _note(self, source: str, goal: str, was: Identity, becomes: Identity, whole: bool) -> None:
        if self._tools.notes is not None:
            self._tools.notes.add(Move(self._work.errand, self._index, source, goal, was, becomes, whole))

    def _moved_before(self, path: str) -> bool:
        """Tell whether an agent before this one moved ``path``; if it was about to remove it then, do that."""
        for move in self._moves:
            if move.source != path or identity(move.target) != move.becomes:
                continue
            here = identity(path)
            if move.whole and here == move.was:
                remove(path)
                return True
            if move.whole or here is None:
                return True
        return False


@lru_cache(maxsize=1024)  # tasks differ in their sources, and seldom in the names that these get
def _resolved(text: str) -> Url:
    url = parse_url(text)
    if url is None:
        raise BadUrl(f"{text!r} is a plain path; whoever describes a task has to say in which folder: task:///..., file:///...")
    return url
