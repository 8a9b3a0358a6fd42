"""What a task asks for, from attributes to a ``Request``. Whether any node has that is the scheduler's to say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from pilotage.client.checks import COUNT_LIMIT, count_of, size_of, text_of
from pilotage.client.fields import shown
from pilotage.client.task_gang import gang_of
from pilotage.errors import InvalidTask, nearest
from pilotage.model.resources import Request, blocks, gpu_shares

if TYPE_CHECKING:
    from pilotage.client.task_slots import NodeIndex

_TAGS = ("colocate", "exclusive", "node", "group", "task")


def request_of(task: str, said: Mapping[str, Any], named: Collection[str], node_index: NodeIndex) -> Request:
    """Return what the attributes ask for. ``named`` are those that were set.

    Raises:
        InvalidTask: names the value, the limit and the remedy.
    """
    ranks = count_of(task, "ranks", said["ranks"], 1)
    ranks_per_node = count_of(task, "ranks_per_node", said["ranks_per_node"] or 0, 0)
    if ranks_per_node > ranks:
        raise InvalidTask(f"{task}: ranks_per_node={ranks_per_node} exceeds ranks={ranks}; ask for {ranks} or fewer")
    gpus = said["gpus_per_rank"]
    if not 0 <= gpus <= COUNT_LIMIT:
        raise InvalidTask(f"{task}: gpus_per_rank={gpus}: it must be 0 or more, and {COUNT_LIMIT} at most")
    if gpus > 1 and gpus != int(gpus):
        raise InvalidTask(
            f"{task}: gpus_per_rank={gpus}: a rank takes a part of one GPU (up to 1) or whole GPUs; "
            f"ask for {int(gpus)} or {int(gpus) + 1}"
        )
    tags = said["tags"]
    colocate, exclusive = _tags(task, tags)
    pinned, beside = _places(task, tags) if tags else ((), "")
    if beside and colocate:
        raise InvalidTask(f"{task}: tags 'task' and 'colocate' may name different nodes; leave one of them out")
    gang, gang_size = gang_of(task, said)
    request = Request(
        ranks=ranks,
        cores=count_of(task, "cores_per_rank", said["cores_per_rank"], 1),
        gpu_shares=gpu_shares(gpus),
        memory=blocks(size_of(task, "mem_per_rank", said["mem_per_rank"])),
        disk=blocks(size_of(task, "lfs_per_rank", said["lfs_per_rank"])),
        ranks_per_node=ranks_per_node,
        colocate=colocate,
        exclusive=exclusive,
        pinned=pinned,
        beside=beside,
        gang=gang,
        gang_size=gang_size,
    )
    if not said["slots"]:
        return request
    from pilotage.client.task_slots import placed  # few tasks have slots

    return placed(task, request, said["slots"], named, node_index)


def _tags(task: str, tags: Mapping[Any, Any]) -> tuple[str, bool]:
    for name in tags:
        if name not in _TAGS:
            raise InvalidTask(f"{task}: unknown tag {name!r}; known are {', '.join(_TAGS)}{nearest(str(name), _TAGS)}")
    group, exclusive = tags.get("colocate", ""), tags.get("exclusive", False)
    if isinstance(group, Mapping) and "bag" in group:
        group = group["bag"]  # as for RADICAL-Pilot's scheduler of bags; how many there are in one makes no difference here
    if not isinstance(group, (str, int)) or isinstance(group, bool):
        raise InvalidTask(f"{task}: tag 'colocate' takes a name (str or int), not {shown(group)}")
    if type(exclusive) is not bool:
        raise InvalidTask(f"{task}: tag 'exclusive' takes True or False (bool), not {shown(exclusive)}")
    return text_of(task, "tag 'colocate'", group), exclusive


def _places(task: str, tags: Mapping[Any, Any]) -> tuple[tuple[str, ...], str]:
    """Return the nodes and groups of nodes that the tags name, and the task beside which it is to run."""
    names: list[str] = []
    for tag in ("node", "group"):
        given = tags.get(tag, ())
        for name in given if isinstance(given, (list, tuple)) else (given,):
            if not isinstance(name, str) or not name:
                raise InvalidTask(f"{task}: tag {tag!r} takes a name (str) or a list of names, not {shown(given)}")
            names.append(text_of(task, f"tag {tag!r}", name))
    beside = getattr(tags.get("task", ""), "uid", tags.get("task", ""))
    if not isinstance(beside, str) or ("task" in tags and not beside):
        raise InvalidTask(f"{task}: tag 'task' takes the uid (str) of an earlier task, or that task, not {shown(tags['task'])}")
    return tuple(dict.fromkeys(names)), text_of(task, "tag 'task'", beside) if beside else ""
