"""``PythonTask``: a function together with its arguments, as RADICAL-Pilot's users write it.

::

    @rp.PythonTask.pythontask
    def double(x):
        return 2 * x

    description.function = double(21)
    description.function = rp.PythonTask(math.pow, (2, 10))

It stands where ``TaskDescription.function`` takes a callable, and brings the arguments along. It is pickled at submission,
like any function; calling it makes the call here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pilotage.errors import InvalidTask


class PythonTask:
    """The call ``function(*args, **kwargs)``, to be made by a task.

    Raises:
        InvalidTask: ``function`` is not callable, ``args`` is no list or tuple, or ``kwargs`` no dict with names as keys.
    """

    __slots__ = ("args", "function", "kwargs")

    def __init__(self, function: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        if not callable(function):
            raise InvalidTask(f"PythonTask: {function!r:.100} is a {type(function).__name__}; give a function")
        if not isinstance(args, (list, tuple)):
            raise InvalidTask(f"PythonTask: args={args!r:.100} is a {type(args).__name__}; give a list or tuple of arguments")
        if kwargs is not None and not (isinstance(kwargs, Mapping) and all(isinstance(name, str) for name in kwargs)):
            raise InvalidTask(f"PythonTask: kwargs={kwargs!r:.100} is not a dict with names as keys")
        self.function = function
        self.args = tuple(args)
        self.kwargs = dict(kwargs or {})

    def __call__(self) -> Any:
        """Make the call in this process."""
        return self.function(*self.args, **self.kwargs)

    def __repr__(self) -> str:
        return f"PythonTask({getattr(self.function, '__qualname__', self.function)}, {self.args!r}, {self.kwargs!r})"

    @staticmethod
    def pythontask(function: Callable[..., Any]) -> Callable[..., PythonTask]:
        """Decorate a function so that calling it makes a ``PythonTask`` of the call instead."""
        if not callable(function):
            raise InvalidTask(f"PythonTask.pythontask: {function!r:.100} is a {type(function).__name__}; decorate a function")

        @functools.wraps(function)
        def describe(*args: Any, **kwargs: Any) -> PythonTask:
            return PythonTask(function, args, kwargs)

        return describe

    @staticmethod
    def get_func_attr(task: PythonTask) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return function, arguments and keyword arguments of a ``PythonTask``.

        Raises:
            InvalidTask: it is none.
        """
        if not isinstance(task, PythonTask):
            raise InvalidTask(f"{task!r:.60} is a {type(task).__name__}, not a PythonTask")
        return task.function, task.args, task.kwargs
