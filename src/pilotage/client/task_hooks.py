"""The commands around a task, from attributes to ``Hooks`` and back.

``pre_exec`` and ``post_exec`` are texts, for all ranks, and dicts ``{rank: text or list}``, in any mixture; ``pre_launch`` and
``post_launch`` run once, so they are texts. In a task whose payload is Python source ``pre_exec`` holds Python statements.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pilotage.client.checks import text_of
from pilotage.client.fields import shown
from pilotage.errors import InvalidTask
from pilotage.model.workload import ALL_RANKS, Hooks

_NAMES = ("pre_launch", "post_launch", "pre_exec", "post_exec")


def hooks_of(task: str, said: Mapping[str, Any], *, pre_exec: bool = True) -> Hooks | None:
    """Return the commands around a task; None if there are none. ``pre_exec=False``: that attribute means something else.

    Raises:
        InvalidTask: names the entry, and what it may be.
    """
    if not any(said[name] for name in _NAMES):
        return None
    hooks = Hooks(
        pre_launch=texts_of(task, "pre_launch", said["pre_launch"]),
        post_launch=texts_of(task, "post_launch", said["post_launch"]),
        pre_exec=tuple(_of_ranks(task, "pre_exec", said["pre_exec"], said["ranks"])) if pre_exec else (),
        post_exec=tuple(_of_ranks(task, "post_exec", said["post_exec"], said["ranks"])),
    )
    if hooks == Hooks():
        return None
    if said["pre_exec_sync"] and hooks.pre_exec:
        return Hooks(hooks.pre_launch, hooks.post_launch, hooks.pre_exec, hooks.post_exec, sync=True)
    return hooks


def texts_of(
    task: str, name: str, entries: Iterable[Any], what: str = "it runs once, where the task is launched"
) -> tuple[str, ...]:
    """Return the entries of an attribute that holds texts only; empty ones are left out."""
    found = []
    for index, entry in enumerate(entries):
        if isinstance(entry, Mapping):
            raise InvalidTask(f"{task}: {name}[{index}] is {shown(entry)}; {what}: give text (str)")
        found.append(_command(task, f"{name}[{index}]", entry))
    return tuple(command for command in found if command)


def attributes_of(hooks: Hooks | None) -> dict[str, Any]:
    """Return the attributes that say this."""
    if hooks is None:
        return {}
    return {
        "pre_launch": list(hooks.pre_launch),
        "post_launch": list(hooks.post_launch),
        "pre_exec": _entries(hooks.pre_exec),
        "post_exec": _entries(hooks.post_exec),
        "pre_exec_sync": hooks.sync,
    }


def _of_ranks(task: str, name: str, entries: Iterable[Any], ranks: int) -> Iterator[tuple[int, str]]:
    for index, entry in enumerate(entries):
        place = f"{name}[{index}]"
        if not isinstance(entry, Mapping):
            command = _command(task, place, entry)
            if command:
                yield ALL_RANKS, command
            continue
        for key, commands in entry.items():
            rank = _rank(task, place, key, ranks)
            several = commands if isinstance(commands, (list, tuple)) else [commands]
            for command in (_command(task, f"{place}[{key!r}]", one) for one in several):
                if command:
                    yield rank, command


def _rank(task: str, place: str, key: object, ranks: int) -> int:
    # JSON and YAML make the numbers texts.
    rank = int(key) if isinstance(key, str) and key.isdecimal() else key
    if type(rank) is not int or not 0 <= rank < ranks:
        known = f"0 to {ranks - 1}" if ranks > 1 else "0"
        raise InvalidTask(f"{task}: {place} is for rank {shown(key)}; the ranks of this task are {known} (ranks={ranks})")
    return rank


def _command(task: str, place: str, entry: object) -> str:
    if not isinstance(entry, str):
        raise InvalidTask(f"{task}: {place} is {shown(entry)}; a command is text (str)")
    return text_of(task, place, entry).strip()


def _entries(commands: tuple[tuple[int, str], ...]) -> list[Any]:
    return [command if rank == ALL_RANKS else {rank: command} for rank, command in commands]
