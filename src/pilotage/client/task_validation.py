"""What a task description must hold to be accepted, and the template that it amounts to.

The checks are in three parts, by how often they are needed: ``template_of`` for what many tasks share, done once for all of
them; ``text_arguments`` and ``checked_uid`` for what is a task's own; ``validate`` does all for one description.
Whether any node is large enough is not asked here: the scheduler of the pilot knows its nodes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pilotage.client.constants import TASK_EXECUTABLE, TASK_FUNCTION, TASK_MODES
from pilotage.client.fields import shown
from pilotage.client.task_fields import TASK_FIELDS
from pilotage.errors import InvalidTask, nearest
from pilotage.model.payload import Payload
from pilotage.model.resources import Request, blocks, gpu_shares
from pilotage.model.workload import Mode, Template

if TYPE_CHECKING:
    from pilotage.client.task_description import TaskDescription

COUNT_LIMIT = 1_000_000_000
"""No count or size in a description may be larger: such a value is a slip, and all of these travel as 64-bit integers."""

_TAGS = {"colocate": (str, "a name (str)"), "exclusive": (bool, "True or False (bool)")}
_TEXTS = ("executable", "sandbox", "stdout", "stderr", "gpu_type", "threading_type")
_DEFAULTS = {name: field.default for name, field in TASK_FIELDS.items()}
# A uid names files and folders, and is written in lists and messages.
_UID = re.compile(r"(?![.\s])[^/\x00-\x1f\x7f]{1,200}(?<!\s)\Z")


def label(description: TaskDescription) -> str:
    """Return how messages name the task: by uid, else by name."""
    named = description.get("uid") or description.get("name")
    return f"task {named!r}" if named else "task"


def validate(description: TaskDescription) -> None:
    """Check all of one description.

    Raises:
        InvalidTask: names the value, the limit and the remedy.
    """
    task = label(description)
    if description.uid:
        checked_uid(description.uid)
    template = template_of(description, None)
    checked_own(task, template.mode, description.as_dict())


def checked_uid(uid: str) -> str:
    """Return ``uid`` if it can name a task and its folder."""
    if not _UID.match(uid) or not _is_unicode(uid):
        raise InvalidTask(
            f"uid={shown(uid)} cannot name a task: use 1 to 200 characters, not beginning with '.', "
            "without '/', control characters, and blanks at either end"
        )
    return uid


def checked_own(task: str, mode: Mode, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Check what is a task's own, by its mode, and return the arguments of its command line."""
    if "name" in values:
        text_of(task, "name", values["name"])
    if mode == "function":
        if values.get("arguments"):
            raise InvalidTask(f"{task}: arguments are for executables; give a function its args (list) and kwargs (dict)")
        kwargs = values.get("kwargs")
        if kwargs:
            for name in kwargs:
                if type(name) is not str:
                    raise InvalidTask(f"{task}: kwargs has the key {shown(name)}; names of arguments are text (str)")
        return ()
    for name in ("args", "kwargs"):
        if values.get(name):
            raise InvalidTask(f"{task}: {name} are for functions; give an executable its arguments (list)")
    arguments = values.get("arguments")
    return text_arguments(task, arguments) if arguments else ()


def text_arguments(task: str, arguments: Iterable[Any]) -> tuple[str, ...]:
    """Return the arguments of a command line as text: texts, numbers and paths are accepted."""
    found = []
    for index, argument in enumerate(arguments):
        # Plain ASCII, which nearly all is, without a NUL can be handed over as it stands.
        if type(argument) is str and argument.isascii() and "\0" not in argument:
            found.append(argument)
        else:
            found.append(text_of(task, f"arguments[{index}]", argument))
    return tuple(found)


def text_of(task: str, what: str, value: Any) -> str:
    """Return a value that goes to the operating system as text."""
    if isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        text = str(value)
    else:
        text = None
    if not isinstance(text, str):
        raise InvalidTask(f"{task}: {what} is {shown(value)}; only text, numbers and paths can be handed over")
    if "\0" in text:
        raise InvalidTask(f"{task}: {what} is {shown(value)}; it holds a NUL character, which ends a text there: leave it out")
    if not _is_unicode(text):
        raise InvalidTask(f"{task}: {what} is {shown(value)}; it is not valid Unicode and cannot be sent: rename it")
    return str(text)


def template_of(description: TaskDescription, function: Payload | None) -> Template:
    """Return what the task has in common with others like it, checked. ``function`` is the pickled function, if any.

    Raises:
        InvalidTask: names the value, the limit and the remedy.
    """
    task = label(description)
    for name, value in description.differing().items():
        awaits = TASK_FIELDS[name].awaits
        # Without MPI a task's ranks are plain processes: use_mpi=False asks for what happens anyway.
        if awaits and not (name == "use_mpi" and value is False):
            raise InvalidTask(
                f"{task}: attribute {name!r} is not supported yet by this version; it comes with {awaits}. Leave it out"
            )
    # A plain dict with everything in it: attribute by attribute this would take as long as all the checks together.
    said = {**_DEFAULTS, **description._values, "mode": description.mode}
    mode = _mode(task, said)
    timeout, grace = said["timeout"], said["grace"]
    for name, seconds in (("timeout", timeout), ("grace", grace)):
        if not 0 <= seconds < math.inf:
            none = "; 0 means no limit" if name == "timeout" else ""
            raise InvalidTask(f"{task}: {name}={seconds}: it is in seconds and must be 0 or more{none}")
    texts = {name: text_of(task, name, said[name]) if said[name] else "" for name in _TEXTS}
    return Template(
        mode=mode,
        function=function,
        request=_request(task, mode, said),
        priority=_count(task, "priority", said["priority"], -COUNT_LIMIT),
        environment=_environment(task, said["environment"]),
        timeout_s=float(timeout),
        grace_s=float(grace),
        retries=_count(task, "retries", said["retries"], 0),
        restartable=said["restartable"],
        executable=texts["executable"],
        sandbox=texts["sandbox"],
        stdout=texts["stdout"],
        stderr=texts["stderr"],
        gpu_type=texts["gpu_type"],
        threading_type=texts["threading_type"],
    )


def mode_of(values: Mapping[str, Any]) -> str:
    """Return the mode: the one given or, without one, that of what is to be run."""
    mode: str = values.get("mode") or (TASK_FUNCTION if "function" in values else TASK_EXECUTABLE)
    return mode


def _mode(task: str, said: Mapping[str, Any]) -> Mode:
    mode = said["mode"]
    if mode not in TASK_MODES:
        raise InvalidTask(f"{task}: mode={mode!r} is none of {', '.join(TASK_MODES)}{nearest(mode, TASK_MODES)}")
    executable, function = said["executable"], said["function"]
    if mode == TASK_EXECUTABLE:
        if function is not None:
            given = f"mode={mode!r}" if not executable else f"executable={executable!r}"
            raise InvalidTask(f"{task}: both {given} and a function are given; a task runs one of them: leave the other out")
        if not executable:
            raise InvalidTask(f"{task}: nothing to run is given; set executable (and arguments), or function (args, kwargs)")
        return "executable"
    if mode == TASK_FUNCTION:
        if executable:
            raise InvalidTask(
                f"{task}: both executable={executable!r} and a function are given; a task runs one of them: leave the other out"
                if function is not None
                else f"{task}: mode={mode!r} needs a function, not executable={executable!r}"
            )
        if function is None:
            raise InvalidTask(f"{task}: mode={mode!r} needs a function; set function (and args, kwargs)")
        return "function"
    raise InvalidTask(
        f"{task}: mode={mode!r} is not supported yet by this version; use {TASK_EXECUTABLE!r} or {TASK_FUNCTION!r}"
    )


def _request(task: str, mode: Mode, said: Mapping[str, Any]) -> Request:
    ranks = _count(task, "ranks", said["ranks"], 1)
    if mode == "function" and ranks != 1:
        raise InvalidTask(
            f"{task}: ranks={ranks}: a function runs as one rank in this version; submit one task per rank, "
            "or give it more cores_per_rank"
        )
    ranks_per_node = _count(task, "ranks_per_node", said["ranks_per_node"] or 0, 0)
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
    colocate, exclusive = _tags(task, said["tags"])
    return Request(
        ranks=ranks,
        cores=_count(task, "cores_per_rank", said["cores_per_rank"], 1),
        gpu_shares=gpu_shares(gpus),
        memory=blocks(_size(task, "mem_per_rank", said["mem_per_rank"])),
        disk=blocks(_size(task, "lfs_per_rank", said["lfs_per_rank"])),
        ranks_per_node=ranks_per_node,
        colocate=colocate,
        exclusive=exclusive,
    )


def _tags(task: str, tags: Mapping[Any, Any]) -> tuple[str, bool]:
    for name, value in tags.items():
        if name not in _TAGS:
            raise InvalidTask(f"{task}: unknown tag {name!r}; known are {', '.join(_TAGS)}{nearest(str(name), _TAGS)}")
        wanted, words = _TAGS[name]
        if type(value) is not wanted:
            raise InvalidTask(f"{task}: tag {name!r} takes {words}, not {shown(value)}")
    return text_of(task, "tag 'colocate'", tags.get("colocate", "")), tags.get("exclusive", False)


def _environment(task: str, environment: Mapping[Any, Any]) -> dict[str, str]:
    """Return the variables as text, sorted, so that equal environments are equal bytes."""
    found = {}
    for name, value in environment.items():
        if type(name) is not str or not name or "=" in name:
            raise InvalidTask(f"{task}: environment has the name {shown(name)}; it must be text, not empty and without '='")
        found[text_of(task, "a name in environment", name)] = text_of(task, f"environment[{name!r}]", value)
    return dict(sorted(found.items()))


def _count(task: str, name: str, value: int, least: int) -> int:
    if not least <= value <= COUNT_LIMIT:
        raise InvalidTask(f"{task}: {name}={value}: it must be {least} or more, and {COUNT_LIMIT} at most")
    return value


def _size(task: str, name: str, value: float) -> float:
    if not 0 <= value <= COUNT_LIMIT:
        raise InvalidTask(f"{task}: {name}={value}: it is in MB and must be 0 or more, and {COUNT_LIMIT} at most")
    return value


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
