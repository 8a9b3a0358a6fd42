"""What a task description must hold to be accepted, and the template that it amounts to.

The checks are in three parts, by how often they are needed: ``template_of`` for what many tasks share, done once for all of
them; ``modes.own_payload`` and ``checked_uid`` for what is a task's own; ``validate`` does all for one description.
Whether any node is large enough is not asked here: the scheduler of the pilot knows its nodes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from pilotage.client.checks import COUNT_LIMIT, UID_BYTES, count_of, is_short, length_of, one_of, seconds_of, size_of, text_of
from pilotage.client.constants import TASK_SHELL
from pilotage.client.fields import shown
from pilotage.client.modes import CODES, SERVICES, SHELL, mode_of, own_payload, shared_mode
from pilotage.client.requests import request_of
from pilotage.client.surroundings import Surroundings, ThisMachine, launcher_of
from pilotage.client.task_after import held_of
from pilotage.client.task_fields import TASK_FIELDS
from pilotage.client.task_hooks import hooks_of
from pilotage.client.task_service import RESTARTS_OF_TASKS, require_no_service, service_of
from pilotage.core.agent.retry import ENDINGS
from pilotage.environments.own import OWN_NAMES
from pilotage.environments.spec import check_name
from pilotage.errors import InvalidRequest, InvalidTask
from pilotage.model.sandboxes import is_folder_of_others
from pilotage.model.workload import NO_SANDBOX, OWN_SANDBOX, Extra, Output, Template

if TYPE_CHECKING:
    from pilotage.client.task_description import TaskDescription

GPU_TYPES = ("CUDA", "NVIDIA", "ROCm", "AMD", "Intel", "ZE")
THREADING_TYPES = ("OpenMP", "POSIX")

MIB = 1 << 20

_LAST_EXIT_CODE = 255
_LAST_SIGNAL = 64

_TEXTS = ("executable", "named_env", "sandbox", "stdout", "stderr")
_DEFAULTS = {name: field.default for name, field in TASK_FIELDS.items()}
# A uid names files and folders, and is written in lists and messages.
_UID = re.compile(r"(?![.\s])[^/\x00-\x1f\x7f]+(?<!\s)\Z")


def label(description: TaskDescription) -> str:
    """Return how messages name the task: by uid, else by name."""
    named = description.get("uid") or description.get("name")
    return f"task {named!r}" if named else "task"


def validate(description: TaskDescription) -> None:
    """Check all of one description but what depends on the session: its pilots, and the tasks that it names.

    Raises:
        InvalidTask: names the value, the limit and the remedy.
    """
    task = label(description)
    if description.uid:
        checked_uid(description.uid)
    template = template_of(description, ThisMachine())
    if description.uid and template.request.beside == description.uid:
        refuse_beside_itself(description.uid)
    own_payload(task, template, description._values)
    extra_of(task, description._values)
    held_of(task, description._values)


def checked_uid(uid: str) -> str:
    """Return ``uid`` if it can name a task and its folder."""
    if not _UID.match(uid) or not is_short(uid):
        raise InvalidTask(
            f"uid={shown(uid)} cannot name a task: {length_of(uid)}use 1 to {UID_BYTES} bytes (one for a letter of English, "
            "2 to 4 for others), not beginning with '.', without '/', control characters, and blanks at either end"
        )
    if is_folder_of_others(uid):
        raise InvalidTask(
            f"uid={shown(uid)} cannot name a task: beside the sandboxes of tasks, a folder of this name holds those of others; "
            "choose another that is not 'shared' and does not begin with 'shard.'"
        )
    return uid


def refuse_beside_itself(uid: str) -> NoReturn:
    """Say that a task can't run where it ran itself."""
    raise InvalidTask(
        f"task {uid!r}: tag 'task'={uid!r} is to say on which node it runs, and names the task itself; name an earlier one, or "
        "leave the tag out"
    )


def extra_of(task: str, values: Mapping[str, Any]) -> Extra | None:
    """Return the staging that a task asks for; None if it asks for none.

    Raises:
        InvalidTask: names the directive, the value and the remedy.
    """
    entries = values.get("input_staging"), values.get("output_staging")
    if not any(entries):
        return None
    from pilotage.client.staging import parse_directives  # few tasks have files to stage

    extra = Extra(
        input_staging=parse_directives(entries[0], task, "input") if entries[0] else (),
        output_staging=parse_directives(entries[1], task, "output") if entries[1] else (),
    )
    return None if extra == Extra() else extra


def template_of(description: TaskDescription, surroundings: Surroundings) -> Template:
    """Return what the task has in common with others like it, checked; without its function.

    Raises:
        InvalidTask: names the value, the limit and the remedy.
    """
    task = label(description)
    given = description.differing()
    for name in given:
        awaits = TASK_FIELDS[name].awaits
        if awaits:
            raise InvalidTask(
                f"{task}: attribute {name!r} is not supported yet by this version; it comes with {awaits}. Leave it out"
            )
    # A plain dict with everything in it: attribute by attribute this would take as long as all the checks together.
    said = {**_DEFAULTS, **description._values, "mode": mode_of(description._values)}
    mode, form = shared_mode(task, said)
    texts = {name: text_of(task, name, said[name]) if said[name] else "" for name in _TEXTS}
    sandbox = OWN_SANDBOX if texts["sandbox"] == "own" else texts["sandbox"]
    if form not in SERVICES:
        require_no_service(task, given)
    if said["cleanup"] and sandbox != OWN_SANDBOX:
        raise InvalidTask(
            f"{task}: cleanup=True removes a task's own sandbox, but sandbox={said['sandbox']!r} is not its own alone; "
            "leave one of them out"
        )
    launcher, launch_method = launcher_of(task, mode, said, surroundings)
    return Template(
        mode=mode,
        form=form,
        executable=SHELL if form == TASK_SHELL else texts["executable"],
        request=request_of(task, said, description._values, surroundings.node_index),
        priority=count_of(task, "priority", said["priority"], -COUNT_LIMIT),
        environment=_environment(task, said["environment"]),
        named_env=_named_env(task, texts["named_env"]),
        hooks=hooks_of(task, said, pre_exec=form not in CODES),
        launcher=launcher,
        launch_method=launch_method,
        sandbox=sandbox,
        stdout=texts["stdout"],
        stderr=texts["stderr"],
        output=_output(task, said["output"], sandbox, texts),
        output_limit_bytes=int(size_of(task, "output_limit_mb", said["output_limit_mb"]) * MIB),
        cleanup=said["cleanup"],
        stage_on_error=said["stage_on_error"],
        service=service_of(task, said) if form in SERVICES else None,
        timeout_s=seconds_of(task, "timeout", said["timeout"], zero="; 0 means no limit"),
        duration_s=seconds_of(task, "duration_s", said["duration_s"], zero="; 0 means that it is not known"),
        grace_s=seconds_of(task, "grace", said["grace"]),
        retries=count_of(task, "retries", said["retries"], 0),
        retry_on=_retry_on(task, said),
        restartable=said["restartable"],
        restart=said["restart"] if said["restart"] in RESTARTS_OF_TASKS and form not in SERVICES else "",
        gpu_type=one_of(task, "gpu_type", said["gpu_type"], GPU_TYPES) if said["gpu_type"] else "",
        threading_type=one_of(task, "threading_type", said["threading_type"], THREADING_TYPES)
        if said["threading_type"]
        else "",
        partition=_partition(task, said["partition"]),
    )


def _partition(task: str, said: object) -> str:
    if said is None:
        return ""
    if type(said) is int and said >= 0:
        return str(said)
    if isinstance(said, str):
        return text_of(task, "partition", said)
    raise InvalidTask(f"{task}: partition={shown(said)}: name a partition of the pilot, or a tag of one (str or int)")


def _named_env(task: str, name: str) -> str:
    if name and name not in OWN_NAMES:
        try:
            check_name(name)
        except InvalidRequest as error:
            raise InvalidTask(f"{task}: named_env={name!r}: {error}") from None
    return name


def _output(task: str, said: str, sandbox: str, texts: Mapping[str, str]) -> Output:
    file = next((name for name in ("stdout", "stderr") if texts[name]), "")
    if not said:
        # Where tasks run in the user's own folder, files of each would be in the way.
        return "aggregate" if sandbox == NO_SANDBOX and not file else "files"
    output = one_of(task, "output", said, get_args(Output))
    if output != "files" and file:
        raise InvalidTask(
            f"{task}: {file}={texts[file]!r} names a file, but output={output!r} writes none for a task; leave one of them out"
        )
    return output  # type: ignore[return-value]


def _retry_on(task: str, said: Mapping[str, Any]) -> tuple[str | int, ...]:
    found: list[str | int] = []
    for index, entry in enumerate(said["retry_on"]):
        if isinstance(entry, str):
            found.append(one_of(task, f"retry_on[{index}]", entry, ENDINGS))
        elif type(entry) is int and entry and -_LAST_SIGNAL <= entry <= _LAST_EXIT_CODE:
            found.append(entry)
        else:
            raise InvalidTask(
                f"{task}: retry_on[{index}] is {shown(entry)}; give an exit code from 1 to {_LAST_EXIT_CODE}, "
                f"a signal's number as -1 to -{_LAST_SIGNAL}, or a word: {', '.join(ENDINGS)}"
            )
    if found and not said["retries"] and said["restart"] in ("never", *RESTARTS_OF_TASKS):
        raise InvalidTask(f"{task}: retry_on={said['retry_on']!r} says what retries are for, and there are none; set retries")
    return tuple(dict.fromkeys(found))


def _environment(task: str, environment: Mapping[Any, Any]) -> dict[str, str]:
    """Return the variables as text, sorted, so that equal environments are equal bytes."""
    found = {}
    for name, value in environment.items():
        if type(name) is not str or not name or "=" in name:
            raise InvalidTask(f"{task}: environment has the name {shown(name)}; it must be text, not empty and without '='")
        found[text_of(task, "a name in environment", name)] = text_of(task, f"environment[{name!r}]", value)
    return dict(sorted(found.items()))
