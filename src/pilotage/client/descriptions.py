"""What task and pilot descriptions have in common: attributes by table, kept sparsely.

A description holds one dict of what was set, nothing for the rest: a hundred thousand of them are built, compared and split
into templates at the cost of the few attributes that the user gave. Attributes are reached by name (``task.ranks``), as
items (``task["ranks"]``) or all together (``as_dict()``). ``None`` stands for "not set": assigning it restores the default.

A list or dict is kept as it was given, not copied. Reading one that was not set makes an empty one that may be filled:
``task.environment["OMP_NUM_THREADS"] = "4"``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pilotage.client.fields import CONVERT, EXACT, Field, Kind, WrongType, shown
from pilotage.errors import InvalidRequest, UnknownAttribute, nearest
from pilotage.system.callers import warn_caller

if TYPE_CHECKING:
    from typing_extensions import Self

Older = Mapping[str, str]
"""Older names of attributes and the present ones; an empty name: it has no effect any more."""


class Description:
    """Base of the descriptions: a sparse record with checked attributes.

    Raises (on assignment and construction):
        UnknownAttribute: no attribute has this name; names the nearest one.
        InvalidTask, InvalidPilot: the value has the wrong type; names the value and the type wanted.
    """

    __slots__ = ("_values",)
    __hash__ = None  # type: ignore[assignment]

    FIELDS: ClassVar[Mapping[str, Field]] = {}
    OLDER_NAMES: ClassVar[Older] = {}
    _NOUN: ClassVar[str] = ""
    _ERROR: ClassVar[type[InvalidRequest]] = InvalidRequest
    # Name to the types accepted as they stand, for the loop of the constructor.
    _EXACT: ClassVar[dict[str, tuple[type, ...]]] = {}

    _values: dict[str, Any]

    def __init_subclass__(cls) -> None:
        cls._EXACT = {name: EXACT[field.kind] for name, field in cls.FIELDS.items()}

    def __init__(self, from_dict: Mapping[str, Any] | None = None, **attributes: Any) -> None:
        if from_dict is not None:
            attributes = {**_mapping(self, from_dict), **attributes}
        exact = self._EXACT
        for name, value in attributes.items():
            # Values of the very type, which is nearly all, need no conversion and stay where they are.
            if type(value) not in exact.get(name, ()):
                attributes = self._checked(attributes)
                break
        _set_values(self, attributes)

    @classmethod
    def from_dict(cls, attributes: Mapping[str, Any]) -> Self:
        """Return the description with these attributes."""
        return cls(attributes)

    def as_dict(self) -> dict[str, Any]:
        """Return what was set, as a new dict that ``from_dict`` takes; lists and dicts in it are copies."""
        return {name: _copied(value) for name, value in self._values.items()}

    def verify(self) -> None:
        """Check all values and how they go together; submission does the same.

        Raises:
            InvalidTask, InvalidPilot: names the value, the limit and the remedy.
        """
        raise NotImplementedError

    def clone(self, **changes: Any) -> Self:
        """Return a copy with these attributes changed. Lists and dicts are copied, what they hold is not."""
        twin = copy.copy(self)
        if changes:
            twin.update(changes)
        return twin

    def update(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes, all or none of them."""
        changed = self._checked(attributes)
        for name in attributes:
            # What None was given for is not among the checked ones: it is no longer set.
            self._values.pop(self.OLDER_NAMES.get(name, name), None)
        self._values.update(changed)

    # attributes

    if not TYPE_CHECKING:  # the type checker knows the attributes by their annotations, and tells misspelt ones

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.FIELDS})

    # items

    def __getitem__(self, name: str) -> Any:
        values = self._values
        if name in values:
            return values[name]
        field = self.FIELDS.get(name)
        if field is None:
            return self._read_older(name)
        default = field.default
        if isinstance(default, (list, dict)):
            default = values[name] = field.fresh_default()
        return default

    def __setitem__(self, name: str, value: Any) -> None:
        if type(value) in self._EXACT.get(name, ()):
            self._values[name] = value
        else:
            self.update({name: value})

    def __delitem__(self, name: str) -> None:
        self.update({name: None})

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def keys(self) -> list[str]:
        """Return the names of what was set."""
        return list(self._values)

    def items(self) -> list[tuple[str, Any]]:
        """Return the names and values of what was set."""
        return list(self._values.items())

    def get(self, name: str, default: Any = None) -> Any:
        """Return the attribute if it was set; else ``default`` or, without one, the attribute's own default."""
        if name in self._values or default is None:
            return self[name]
        return default

    # the whole

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.differing() == other.differing()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.differing().items())})"

    def __copy__(self) -> Self:
        twin = type(self).__new__(type(self))
        _set_values(twin, {name: _copied(value) for name, value in self._values.items()})
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = type(self).__new__(type(self))
        _set_values(twin, copy.deepcopy(self._values, memo))
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._values,)

    def differing(self) -> dict[str, Any]:
        """Return what differs from the defaults: what a description says, however it came to say it."""
        fields = self.FIELDS
        found = {}
        for name, value in self._values.items():
            default = fields[name].default
            if type(value) is tuple:
                value = list(value)
            # Only what is of the default's type, or as much a number, is compared: a numpy array has no plain equality.
            same_type = type(value) is type(default) or (type(value) is int and type(default) is float)
            if not (same_type and value == default):
                found[name] = value
        return found

    # checks

    def _checked(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``attributes`` under their present names and converted, without those that are None."""
        checked: dict[str, Any] = {}
        for given, value in attributes.items():
            name = self._present_name(given) if given in self.OLDER_NAMES else given
            field = self.FIELDS.get(name)
            if field is None:
                if given in self.OLDER_NAMES:
                    continue
                raise self._unknown(given)
            if value is None:
                continue
            if name != given:
                if not value:
                    continue  # zero and empty meant "not set" under the older names
                if name in attributes:
                    raise self._ERROR(
                        f"{self._NOUN}: both {name}={shown(attributes[name])} and its older name "
                        f"{given}={shown(value)} are given; leave {given} out"
                    )
            checked[name] = self._converted(name, field, value)
        return self._adjusted(checked)

    def _converted(self, name: str, field: Field, value: Any) -> Any:
        try:
            return CONVERT[field.kind](value)
        except WrongType:
            told = f"{self._NOUN}: {name} takes {field.kind.value}, not {shown(value)}{_hint(field, value)}"
            raise self._ERROR(told) from None

    def _adjusted(self, checked: dict[str, Any]) -> dict[str, Any]:
        """Return the attributes to keep for those that were given: a place for what one value says about several."""
        return checked

    def _present_name(self, older: str) -> str:
        name = self.OLDER_NAMES[older]
        use = f"use {name!r}" if name else "it has no effect, leave it out"
        warn_caller(f"{type(self).__name__}.{older} is an older name: {use}", DeprecationWarning)
        return name

    def _read_older(self, name: str) -> Any:
        if name not in self.OLDER_NAMES:
            raise self._unknown(name)
        present = self._present_name(name)
        return self[present] if present else None

    def _unknown(self, name: object) -> UnknownAttribute:
        known = (*self.FIELDS, *self.OLDER_NAMES)
        return UnknownAttribute(f"{type(self).__name__} has no attribute {name!r}{nearest(str(name), known)}")


_set_values: Callable[[Description, dict[str, Any]], None] = Description.__dict__["_values"].__set__


def _copied(value: Any) -> Any:
    return value.copy() if type(value) in (list, dict) else value


def _hint(field: Field, value: object) -> str:
    if isinstance(value, str) and field.kind is Kind.FUNCTION:
        return "; give the function or bound method itself, not its name"
    if isinstance(value, str) and isinstance(field.default, list):
        return f"; put it into a list: [{value!r}]"
    return ""


def _mapping(description: Description, attributes: object) -> Mapping[str, Any]:
    if isinstance(attributes, Mapping):
        return attributes
    if type(attributes) is type(description):
        return attributes.as_dict()
    raise description._ERROR(f"{description._NOUN}: a description is made from a dict or keywords, not {shown(attributes)}")
