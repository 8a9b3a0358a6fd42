"""Which processes belong to which task, how they are ended, and when all of them are gone.

The processes of a task form a ``Tree``. Its *roots* were spawned here, each as the leader of a session of its own. Because the
spawner is a subreaper, whatever loses its parent below a root becomes a child of the spawner before the death of a root is
told; such a *stray* is recognised by its session or process group, or by the variables in its environment, also when it has
called setsid and forked twice. So a tree is gone exactly when it has no roots and the spawner has no strays of it as children:
nothing else can hide below. That is looked up once per batch of deaths, by counting the spawner's children; only a count
that does not match is looked at more closely.

A tree is ended by TERM, and after its grace by KILL, to its groups and to all descendants. What comes to light later gets the
same signal. No step polls: each change that matters ends in the death of a child of ours. (A TERM can be lost, though, between
fork and exec, where the handlers of the parent still stand; so the caller repeats it to what a dead root left behind.)
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pilotage.spawner.environment import Environment, parse_environment

DEFAULT_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
"""Set back to their default in every child, whatever the spawner or its parents (``nohup``) ignore."""

_READ_BYTES = 1 << 16
_CHEAP_SCAN_S = 0.0002
_SCAN_SHARE = 20
"""A look at the children costs by their number; when it is not cheap, it may take one part in this many of our time."""
_UNDECIDED_TRIES = 3
_UNDECIDED_PAUSE_S = 0.005


class Tree:
    """The processes of one task or worker."""

    __slots__ = ("below", "growing", "killed", "roots", "sessions", "strays", "term_depth", "terminated")

    def __init__(self) -> None:
        self.roots: set[int] = set()
        """Spawned here and not yet reaped."""
        self.strays: set[int] = set()
        """Processes that it left behind and that are children of ours now."""
        self.sessions: list[int] = []
        """All roots there ever were."""
        self.below: set[int] = set()
        """Processes that were seen below it while it was ended."""
        self.growing = False
        """Whether more roots are to come, so that it is not over even if it has no process."""
        self.term_depth: int | None = None
        """How far below the roots TERM is sent while there are any: those who get it tell the others. None: to all."""
        self.terminated = False
        self.killed = False


class Exit(NamedTuple):
    """A root that was reaped. ``exit_code``: negative for a signal."""

    tree: Tree
    pid: int
    exit_code: int


class _Process(NamedTuple):
    parent: int
    group: int
    session: int
    gone: bool


class Forest:
    """All trees. ``recognise`` finds the tree that a stray's environment names. Times are of ``time.monotonic``."""

    def __init__(self, recognise: Callable[[Environment], Tree | None]) -> None:
        self._recognise = recognise
        self._trees: dict[int, Tree] = {}
        self._sessions: dict[int, Tree] = {}
        self._bare: set[Tree] = set()
        self._below: dict[int, Tree] = {}
        """Processes that were seen below a tree while it was ended; they may hide their environment."""
        self._unknown: dict[int, int] = {}
        self._children = -1
        self._next_scan = 0.0

    def open(self) -> None:
        """Open the kernel's list of our children."""
        try:
            self._children = os.open("/proc/thread-self/children", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            # A kernel without CONFIG_PROC_CHILDREN: all processes are looked at instead, at the same share of our time.
            self._children = -1

    def add(self, tree: Tree, pid: int) -> None:
        """Take in a root that was just spawned."""
        tree.roots.add(pid)
        tree.sessions.append(pid)
        self._trees[pid] = self._sessions[pid] = tree

    def settle(self, tree: Tree) -> None:
        """No more roots come to this tree."""
        tree.growing = False
        if not tree.roots:
            self._bare.add(tree)

    def reap(self) -> list[Exit]:
        """Reap all children that are dead, and return those that were roots."""
        exits = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            tree = self._trees.pop(pid, None)
            if tree is None:
                self._unknown.pop(pid, None)
                continue
            if pid in tree.roots:
                tree.roots.remove(pid)
                exits.append(Exit(tree, pid, os.waitstatus_to_exitcode(status)))
            else:
                tree.strays.discard(pid)
            if not tree.roots and not tree.growing:
                self._bare.add(tree)
        return exits

    def take_gone(self, now: float) -> tuple[list[Tree], list[Tree]]:
        """Return the trees that are gone, and those whose roots are gone but that left strays."""
        if not self._bare or now < self._next_scan:
            return [], []
        decided = self._scan(now)
        if not decided:
            return [], []
        gone, left = [], []
        for tree in self._bare:
            if tree.strays:
                left.append(tree)
                continue
            for session in tree.sessions:
                if self._sessions.get(session) is tree:
                    del self._sessions[session]
            for pid in tree.below:
                self._below.pop(pid, None)
            gone.append(tree)
        self._bare.clear()
        return gone, left

    def next_look(self) -> float | None:
        """Return when ``take_gone`` wants to be called although no child died; None: not at all."""
        return self._next_scan if self._bare else None

    def send(self, tree: Tree, number: signal.Signals) -> None:
        """Send TERM or KILL to all processes of a tree, and to those that come to light later."""
        if number is signal.SIGKILL:
            tree.killed = True
        tree.terminated = True
        if number is signal.SIGTERM:
            self.tell(tree, number)
        else:
            self._send_to_all(tree, number)

    def tell(self, tree: Tree, number: signal.Signals) -> None:
        """Send a signal to all processes that a tree has now, or to those who tell the others; it is not ended for that."""
        if tree.roots and tree.term_depth is not None:
            for pid in [*tree.roots, *(child for root in tree.roots for child in _children_of(root) if tree.term_depth)]:
                _signal_process(pid, number)
        else:
            self._send_to_all(tree, number)

    def _send_to_all(self, tree: Tree, number: signal.Signals) -> None:
        roots = tree.roots | tree.strays
        self._send(tree, roots, tree.roots | _groups(tree.strays), number)

    def _send(self, tree: Tree, roots: Iterable[int], groups: set[int], number: signal.Signals) -> None:
        # Listed first: those below a process that is dead are no longer below it.
        below = self._descendants(roots)
        for pid in below:
            self._below[pid] = tree
        tree.below.update(below)
        for group in groups:
            _signal_group(group, number)
        for pid in below:
            process = _look_at(pid)
            if process is not None and process.group not in groups:
                _signal_process(pid, number)

    def below(self, tree: Tree) -> list[int]:
        """Return all processes below the roots of a tree, as far as they stand still."""
        return self._descendants(tree.roots)

    def kill_unknown(self) -> None:
        """Kill the children of ours that cannot be attributed to any tree, and all below them."""
        for pid in _parse_children(self._read_children()):
            if pid not in self._trees:
                self._unknown.setdefault(pid, 0)
        for pid in self._descendants(self._unknown):
            _signal_process(pid, signal.SIGKILL)
        for pid in self._unknown:
            _signal_process(pid, signal.SIGKILL)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _descendants(self, pids: Iterable[int]) -> list[int]:
        """Return all processes below these, as far as they stand still."""
        listed = children_by_parent() if self._children < 0 else None
        found: list[int] = []
        queue = list(pids)
        while queue:
            pid = queue.pop()
            below = _children_of(pid) if listed is None else listed.get(pid, [])
            found += below
            queue += below
        return found

    def _scan(self, now: float) -> bool:
        """Find new strays. Return False when one of them could not be looked at yet."""
        begin = time.perf_counter()
        children = self._read_children()
        undecided = False
        if children.count(b" ") != len(self._trees) + len(self._unknown):
            for pid in _parse_children(children):
                if pid not in self._trees and self._unknown.get(pid, 0) < _UNDECIDED_TRIES:
                    undecided |= not self._attribute(pid)
        cost = time.perf_counter() - begin
        self._next_scan = now + _SCAN_SHARE * cost if cost > _CHEAP_SCAN_S else 0.0
        if undecided:
            self._next_scan = now + _UNDECIDED_PAUSE_S
        return not undecided

    def _read_children(self) -> bytes:
        """Return the process ids of our children, zombies included, each followed by a space."""
        if self._children < 0:
            return b"".join(b"%d " % pid for pid in children_by_parent().get(os.getpid(), []))
        os.lseek(self._children, 0, os.SEEK_SET)
        parts = []
        while part := os.read(self._children, _READ_BYTES):
            parts.append(part)
        return b"".join(parts)

    def _attribute(self, pid: int) -> bool:
        """Find the tree of a child of ours. Return False when it is just executing, so that a later look will tell more."""
        process = _look_at(pid)
        if process is None or process.gone:
            return True
        tree = self._sessions.get(process.session) or self._sessions.get(process.group) or self._below.get(pid)
        if tree is None:
            environment = _environment(pid)
            tree = self._recognise(environment)
            if tree is None:
                tries = self._unknown[pid] = self._unknown.get(pid, 0) + 1
                if environment:
                    self._unknown[pid] = _UNDECIDED_TRIES
                return bool(environment) or tries >= _UNDECIDED_TRIES
        self._unknown.pop(pid, None)
        self._trees[pid] = tree
        tree.strays.add(pid)
        if tree.terminated:
            self._send(tree, (pid,), {process.group}, signal.SIGKILL if tree.killed else signal.SIGTERM)
        return True


def _parse_children(children: bytes) -> list[int]:
    return [int(pid) for pid in children.split()]


def _groups(strays: Iterable[int]) -> set[int]:
    """Return the process groups of strays; as children of ours that are not reaped, they keep others from getting these."""
    return {process.group for stray in strays if (process := _look_at(stray))}


def _look_at(pid: int) -> _Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name, in parentheses, may hold anything; the fields after it do not.
    fields = stat[stat.rindex(b")") + 2 :].split()
    # The leader of a process may be a zombie while other threads of it still run.
    gone = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
    return _Process(int(fields[1]), int(fields[2]), int(fields[3]), gone)


def _environment(pid: int) -> Environment:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return parse_environment(file.read())
    except OSError:
        return {}


def _children_of(pid: int) -> list[int]:
    children: list[int] = []
    folder = f"/proc/{pid}/task"
    try:
        for thread in os.listdir(folder):
            with open(f"{folder}/{thread}/children", "rb") as file:
                children += _parse_children(file.read())
    except OSError:
        # Gone meanwhile, with its children handed on.
        pass
    return children


def children_by_parent() -> dict[int, list[int]]:
    """Return the children of each process on this machine; slow, for kernels that keep no lists to read."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := _look_at(int(name))):
            children.setdefault(process.parent, []).append(int(name))
    return children


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
        if number is not signal.SIGKILL:
            # A stopped process would see the signal only when it goes on.
            os.killpg(group, signal.SIGCONT)
    except (ProcessLookupError, PermissionError):
        return


def _signal_process(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
        if number is not signal.SIGKILL:
            os.kill(pid, signal.SIGCONT)
    except (ProcessLookupError, PermissionError):
        return
