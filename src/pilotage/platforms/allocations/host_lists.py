"""Lists of hosts as batch systems write them, ``node[001-003,7],login1``, and sets of numbers, ``0-3,7``.

A range has the padding of its first number: ``[08-10]`` is 08, 09, 10 and ``[8-10]`` is 8, 9, 10. A name may have several
ranges, the last of which runs fastest, and something after them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import product
from math import prod

HOSTS_LIMIT = 1_000_000
"""More hosts in one list than any machine has: a slip."""

_ITEM = re.compile(r"(?:[^\[\],\s]|\[[^\[\]]*\])+")
_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"\s*(\d+)(?:-(\d+))?\s*")
_NUMBERED = re.compile(r"(.*?)(\d+)")


def expand_hosts(text: str) -> list[str]:
    """Return the hosts of a list, in its order.

    >>> expand_hosts("node[08-10],login1,x[1-2]c[0,4]")
    ['node08', 'node09', 'node10', 'login1', 'x1c0', 'x1c4', 'x2c0', 'x2c4']

    Raises:
        ValueError: it cannot be expanded; says what is wrong with which part.
    """
    hosts: list[str] = []
    at = 0
    while at < len(text):
        if text[at] in ", \t\n":
            at += 1
            continue
        item = _ITEM.match(text, at)
        if item is None or (item.end() < len(text) and text[item.end()] not in ", \t\n"):
            raise ValueError(f"there is a bracket without its other one in {_shown(text[at:])}")
        at = item.end()
        if "[" not in item[0]:
            hosts.append(item[0])
            continue
        literals = _BRACKET.split(item[0])[::2]
        ranges = [_ranges(inside, item[0]) for inside in _BRACKET.findall(item[0])]
        count = prod(sum(last - first + 1 for first, last, _ in each) for each in ranges)
        if len(hosts) + count > HOSTS_LIMIT:
            raise ValueError(f"{_shown(item[0])} are {count} hosts, and no list has more than {HOSTS_LIMIT}")
        numbers = [[f"{n:0{width}d}" for first, last, width in each for n in range(first, last + 1)] for each in ranges]
        for chosen in product(*numbers):
            hosts.append(literals[0] + "".join(number + after for number, after in zip(chosen, literals[1:], strict=True)))
    return hosts


def compress_hosts(hosts: Sequence[str]) -> str:
    """Return a list that ``expand_hosts`` makes ``hosts`` of, in the same order.

    >>> compress_hosts(["node08", "node09", "node10", "login", "n1", "n3"])
    'node[08-10],login,n[1,3]'
    """
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    for host in hosts:
        numbered = _NUMBERED.fullmatch(host)
        if numbered is None:
            groups.append((host, []))
            continue
        prefix, number = numbered[1], numbered[2]
        if not groups or groups[-1][0] != prefix or not groups[-1][1]:
            groups.append((prefix, [(number, number)]))
            continue
        runs = groups[-1][1]
        first, last = runs[-1]
        if number == f"{int(last) + 1:0{len(first)}d}":
            runs[-1] = (first, number)
        else:
            runs.append((number, number))
    return ",".join(_group(prefix, runs) for prefix, runs in groups)


def expand_numbers(text: str) -> list[int]:
    """Return the numbers of a set, ascending.

    >>> expand_numbers("0-2,7,5")
    [0, 1, 2, 5, 7]

    Raises:
        ValueError: it is no set of numbers.
    """
    ranges = _ranges(text, text)
    if sum(last - first + 1 for first, last, _ in ranges) > HOSTS_LIMIT:
        raise ValueError(f"{_shown(text)} has more than {HOSTS_LIMIT} numbers")
    return sorted({number for first, last, _ in ranges for number in range(first, last + 1)})


def compress_numbers(numbers: Iterable[int]) -> str:
    """Return a set of numbers as text.

    >>> compress_numbers([5, 0, 1, 2, 7])
    '0-2,5,7'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def expand_counts(text: str) -> list[int]:
    """Return a number for each node of what Slurm writes short.

    >>> expand_counts("56(x3),28")
    [56, 56, 56, 28]

    Raises:
        ValueError: it is no such list.
    """
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:\(x(\d+)\))?\s*", part)
        if found is None:
            raise ValueError(f"{_shown(part)} is neither a number nor one with how often it comes, such as 56(x3)")
        times = int(found[2] or 1)
        if len(counts) + times > HOSTS_LIMIT:
            raise ValueError(f"{_shown(part)} is for {times} nodes, and no list has more than {HOSTS_LIMIT}")
        counts += [int(found[1])] * times
    return counts


def _ranges(inside: str, item: str) -> list[tuple[int, int, int]]:
    """Return the first and last number of each range and the padding."""
    ranges = []
    for part in inside.split(","):
        found = _RANGE.fullmatch(part)
        if found is None:
            raise ValueError(f"{_shown(part)} in {_shown(item)} is neither a number nor a range of numbers")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ValueError(f"the range {_shown(part)} in {_shown(item)} goes down")
        ranges.append((first, last, len(found[1])))
    return ranges


def _group(prefix: str, runs: list[tuple[str, str]]) -> str:
    if not runs:
        return prefix
    if len(runs) == 1 and runs[0][0] == runs[0][1]:
        return prefix + runs[0][0]
    return f"{prefix}[{','.join(first if first == last else f'{first}-{last}' for first, last in runs)}]"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
