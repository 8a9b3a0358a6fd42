"""From descriptions to what travels: templates for what tasks share, a row for each task.

This is the hot path of submission. Each description is reduced to a *key* of its shared attributes, from which a dictionary
gives the template: checks, unit conversions and the pickling of the function are done once per distinct key, not per task.

* The key holds the attributes as they were set. Descriptions that say the same in another way (another order, a default
  spelt out) have different keys but the same template, since templates are told apart by their encoded bytes.
* Arguments are no part of the key; but whether they refer to variables is, so that nobody looks for any in all others.
* Functions enter the key by identity (a bound method by object and function), and only within one call: between calls a
  function may have changed its closure or its globals, so it is pickled again; equal bytes then give the same template.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any

import msgspec

from pilotage.client.checks import text_arguments
from pilotage.client.modes import code_function, expands, own_payload, warn_of_variables
from pilotage.client.surroundings import Surroundings, ThisMachine
from pilotage.client.task_after import held_of
from pilotage.client.task_description import TaskDescription
from pilotage.client.task_fields import COMMON_OWN_ATTRIBUTES, RARE_OWN_ATTRIBUTES
from pilotage.client.task_validation import checked_uid, extra_of, label, refuse_beside_itself, template_of
from pilotage.core.client.facts import Held
from pilotage.errors import InvalidTask, SerializationError
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.payload import INLINE_LIMIT_BYTES, Blob, Payload
from pilotage.model.sandboxes import SHARD_ENTRIES
from pilotage.model.workload import Extra, MpiLauncher, Row, Template

PackFunction = Callable[[Callable[..., Any]], bytes]
PackArguments = Callable[[Sequence[Any], Mapping[str, Any]], Payload]
PackPayload = Callable[[bytes], Payload]

# What is not in the plain part of a key: a task's own attributes, and the function. Rare ones are looked for later.
_APART = COMMON_OWN_ATTRIBUTES | {"function"}
_RARE = RARE_OWN_ATTRIBUTES
_ALL_APART = _APART | _RARE
_EXPANDS = (("expands", True),)
_KEYS_KEPT = 4096
"""How many keys are remembered between calls; beyond that all are forgotten, and each costs its checks once more."""

_encode = msgspec.msgpack.Encoder().encode

Known = tuple[TemplateId, Template]


class Split(msgspec.Struct, frozen=True):
    """What descriptions amount to: the templates that the receiver does not know yet, and a row for each, in order.

    ``held``: by position, what is said of the tasks that wait for others.
    """

    templates: dict[TemplateId, Template]
    rows: list[Row]
    held: dict[int, Held]


class TemplateTable:
    """The templates of one stream of submissions (one receiver), and the numbers they travel under.

    ``known`` are the templates that the receiver has already, as read back from the log.
    """

    def __init__(self, known: Mapping[TemplateId, Template] | None = None, surroundings: Surroundings | None = None) -> None:
        self._ids: dict[bytes, TemplateId] = {}
        self._keys: dict[Any, Known] = {}
        self._last = 0
        self._surroundings = surroundings or ThisMachine()
        self._keep(known or {})

    def __len__(self) -> int:
        return len(self._ids)

    def split(
        self,
        descriptions: Sequence[TaskDescription],
        *,
        pack_function: PackFunction,
        pack_arguments: PackArguments,
        pack_payload: PackPayload,
        uid_of: Callable[[TaskDescription], TaskUid],
        first: int = 0,
    ) -> Split:
        """Return the templates and rows of these descriptions. ``first``: how many tasks there were before.

        ``pack_payload`` stores a function that is larger than 4 KiB and returns its name; arguments are left in the rows, as
        many large ones are stored better together. If this raises, no template was added: what
        was submitted before the call is all that the receiver needs to know. Otherwise the templates must be sent.

        Raises:
            InvalidTask: a description cannot be accepted; names the task, the value, the limit and the remedy.
            SerializationError: a function or an argument cannot be pickled.
        """
        new: dict[TemplateId, Template] = {}
        numbers: dict[bytes, TemplateId] = {}
        keys: dict[Any, Known] = {}
        known_keys = self._keys
        functions: dict[Any, Known] = {}
        rows: list[Row] = []
        held: dict[int, Held] = {}
        no_arguments: Payload | None = None
        shard, next_shard = first // SHARD_ENTRIES, SHARD_ENTRIES - first % SHARD_ENTRIES
        for index, description in enumerate(descriptions):
            if index == next_shard:
                shard, next_shard = shard + 1, next_shard + SHARD_ENTRIES
            values = description._values
            # The loop is written out, and looks into the description's own dict, for speed: it sees every task.
            shared: Any = tuple([item for item in values.items() if item[0] not in _APART])
            mark: tuple[tuple[str, bool], ...] = ()
            if "arguments" in values and expands(values.get("executable"), values["arguments"]):
                mark = _EXPANDS
                shared += mark
            function = values.get("function")
            identity = None if function is None else _identity(function)
            try:
                found = known_keys.get(shared) or keys.get(shared) if identity is None else functions.get((identity, shared))
            except TypeError:  # a list or dict among the values
                shared = tuple([(name, _hashable(value)) for name, value in shared])
                found = known_keys.get(shared) or keys.get(shared) if identity is None else functions.get((identity, shared))
            rare = False
            if found is None:
                # A key with rare attributes is in no table. They are left out here, so that tasks without any do not pay.
                rare = not _RARE.isdisjoint(values)
                if rare:
                    shared = tuple([(name, _hashable(value)) for name, value in values.items() if name not in _ALL_APART])
                    shared += mark
                    found = (
                        known_keys.get(shared) or keys.get(shared) if identity is None else functions.get((identity, shared))
                    )
                if found is None:
                    try:
                        found = self._found(description, bool(mark), function, pack_function, pack_payload, numbers, new)
                    except (InvalidTask, SerializationError) as error:
                        raise located(error, description, index, len(descriptions)) from error
                    if identity is None:
                        keys[shared] = found
                    else:
                        functions[identity, shared] = found
            number, template = found
            arguments: tuple[str, ...] = ()
            payload: Payload | None = None
            extra: Extra | None = None
            try:
                if values.get("uid"):
                    checked_uid(values["uid"])
                    if template.request.beside == values["uid"]:
                        refuse_beside_itself(values["uid"])
                if rare or template.form:
                    arguments, call = own_payload("task", template, values)
                    payload = None if call is None else pack_arguments(*call)
                    extra = extra_of("task", values)
                    if "after" in values or "services" in values or "after_policy" in values:
                        held[index] = held_of("task", values)
                elif template.mode == "function":
                    if "arguments" in values or "kwargs" in values or "name" in values:
                        own_payload("task", template, values)
                    args, kwargs = values.get("args", ()), values.get("kwargs")
                    if args or kwargs:
                        payload = pack_arguments(args, kwargs or {})
                    else:
                        if no_arguments is None:
                            no_arguments = pack_arguments((), {})
                        payload = no_arguments
                else:
                    if "args" in values or "kwargs" in values or "name" in values:
                        own_payload("task", template, values)
                    if "arguments" in values:
                        arguments = text_arguments("task", values["arguments"])
                rows.append(Row(uid_of(description), number, arguments, payload, values.get("name", ""), shard, extra))
            except (InvalidTask, SerializationError) as error:
                raise located(error, description, index, len(descriptions)) from error
        self._keep(new)
        if len(known_keys) + len(keys) > _KEYS_KEPT:
            known_keys.clear()
        if len(keys) <= _KEYS_KEPT:
            known_keys.update(keys)
        return Split(new, rows, held)

    def _found(
        self,
        description: TaskDescription,
        expands: bool,
        function: Callable[..., Any] | None,
        pack_function: PackFunction,
        pack_payload: PackPayload,
        numbers: dict[bytes, TemplateId],
        new: dict[TemplateId, Template],
    ) -> Known:
        """Return the template of a description whose key was not seen before; add it to ``new`` if it is."""
        template = template_of(description, self._surroundings)
        if expands and template.mode == "executable":
            template = msgspec.structs.replace(template, expands=True)
        called = function if function is not None else code_function(template)
        if called is not None:
            packed = pack_function(called)
            # After the checks, so that a refused task leaves nothing behind.
            payload = packed if len(packed) <= INLINE_LIMIT_BYTES else pack_payload(packed)
            template = msgspec.structs.replace(template, function=payload)
        digest = _digest(template)
        number = self._ids.get(digest) or numbers.get(digest)
        if number is None:
            number = numbers[digest] = TemplateId(self._last + len(new) + 1)
            new[number] = template
            warn_of_variables(template, description._values)
        return number, template

    def _keep(self, templates: Mapping[TemplateId, Template]) -> None:
        for number, template in templates.items():
            self._ids[_digest(template)] = number
            self._last = max(self._last, number)


def fingerprint(template: Template, row: Row, metadata: object = None, asked: Held | None = None) -> bytes:
    """Return 20 bytes that are the same for tasks that differ at most in their uid. ``asked``: what it is to wait for.

    A submission of a known uid with the same fingerprint means the known task. Payloads count by their bytes, whether they
    travel inline or as blobs; arguments as they were given; a launcher by its kind, as path and version are the machine's;
    staging by what is staged, and not by the services that a task is told of; what it waits for, in whatever order.
    """
    launcher = template.launcher
    said = msgspec.structs.replace(
        template,
        function=_content(template.function),
        launcher=None if launcher is None or template.launch_method else MpiLauncher(launcher.kind, ""),
        expands=False,
    )
    staging = () if row.extra is None else (row.extra.input_staging, row.extra.output_staging)
    parts = (
        msgspec.structs.astuple(said),
        row.arguments,
        _content(row.payload),
        row.name,
        staging if any(staging) else (),
        None if is_empty(metadata) else _said(metadata),
        None if asked is None or asked == Held() else (sorted(asked.after), asked.policy, sorted(asked.services)),
    )
    return hashlib.blake2b(_encode(parts), digest_size=20).digest()


def fingerprint_of(description: TaskDescription, *, pack_function: PackFunction, pack_arguments: PackArguments) -> bytes:
    """Return the fingerprint of a description: that of its template, row and metadata.

    Raises:
        InvalidTask, SerializationError: as ``TemplateTable.split`` does.
    """
    split = TemplateTable().split(
        [description],
        pack_function=pack_function,
        pack_arguments=pack_arguments,
        pack_payload=lambda packed: packed,
        uid_of=lambda _: TaskUid(""),
    )
    (row,) = split.rows
    return fingerprint(split.templates[row.template], row, description.get("metadata", {}), split.held.get(0))


def _identity(function: Callable[..., Any]) -> Any:
    # Each access to a bound method makes a new one; the object and its function are what lasts.
    if type(function) is MethodType:
        return id(function.__self__), id(function.__func__)
    return id(function)


def _hashable(value: Any) -> Any:
    """Return a hashable stand-in: equal stand-ins, equal values of equal types (1 is not True, nor 1.0)."""
    kind = type(value)
    if kind is str:
        return value
    if kind is dict:
        try:
            # What an environment is: flat.
            flat = (tuple(value.items()), tuple(map(type, value.values())))
            hash(flat)
            return flat
        except TypeError:
            return dict, tuple([(_hashable(key), _hashable(one)) for key, one in value.items()])
    if isinstance(value, (list, tuple)):
        return list, tuple([_hashable(one) for one in value])
    try:
        hash(value)
    except TypeError:
        return kind, repr(value)
    return kind, value


def _digest(template: Template) -> bytes:
    # As a tuple: a struct leaves out a default only where it is the very same object, so its bytes do not tell equality.
    return hashlib.blake2b(_encode(msgspec.structs.astuple(template)), digest_size=20).digest()


def _content(payload: Payload | None) -> Payload | None:
    if isinstance(payload, bytes):
        return Blob(hashlib.sha256(payload).hexdigest(), len(payload))
    return payload


def is_empty(value: object) -> bool:
    """Tell whether a value of an attribute says nothing. Of other types (an array, for one) that is not asked."""
    return value is None or (isinstance(value, (str, list, dict)) and not value)


def says_the_same(metadata: object, other: object) -> bool:
    """Tell whether two pieces of metadata say the same, also when they come from different processes."""
    return bool(_encode(_said(metadata)) == _encode(_said(other)))


def _said(metadata: object) -> object:
    """Return metadata in a form that encodes alike in every process: what MessagePack does not know, by its repr."""
    if isinstance(metadata, Mapping):
        return sorted(((repr(key), _said(value)) for key, value in metadata.items()), key=lambda entry: entry[0])
    if isinstance(metadata, (list, tuple)):
        return [_said(value) for value in metadata]
    return metadata if isinstance(metadata, (str, bytes, float, bool)) or metadata is None else repr(metadata)


def located(
    error: InvalidTask | SerializationError, description: TaskDescription, index: int, total: int
) -> InvalidTask | SerializationError:
    """Return ``error`` saying which task it is about: by uid or name, else by its place among the descriptions."""
    named = description.uid or description.name
    task = label(description) if named else f"task {index + 1} of {total}"
    message = str(error).removeprefix(f"{task}: ").removeprefix("task: ")
    return type(error)(f"{task}: {message}")
