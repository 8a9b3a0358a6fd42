"""Functions, arguments, results and exceptions on their way: by reference or by value, and refused by name."""

from __future__ import annotations

import functools
import json
import math
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest

from pilotage.client.python_task import PythonTask
from pilotage.client.serialization import (
    RemoteTraceback,
    open_exception,
    open_result,
    pack_arguments,
    pack_function,
    pack_metadata,
    python_tag,
)
from pilotage.errors import InvalidTask, SerializationError, TaskFailed
from pilotage.wire.pickles import open_value, pickle_exception, pickle_value
from pilotage.workers.calling import pickled_otherwise

LOCK = threading.Lock()


def global_user() -> None:
    LOCK.acquire()


class Model:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def scale(self, value: int) -> int:
        return self.factor * value

    def __call__(self, value: int) -> int:
        return self.factor + value


class Held:
    def __init__(self) -> None:
        self.connection = threading.Lock()

    def method(self) -> None: ...


class PickyError(Exception):
    """Its ``args`` are not what ``__init__`` wants."""

    def __init__(self, code: int, place: str) -> None:
        super().__init__(f"code {code} at {place}")
        self.code = code


class WrappingError(Exception):
    """Opens without complaint, but says something else then."""

    def __init__(self, number: int | str) -> None:
        super().__init__(f"n={number}")


# -- functions ------------------------------------------------------------------------------------------------------------


def test_what_can_be_imported_travels_by_reference() -> None:
    for function in (math.sqrt, json.dumps, Model, Model(2).scale, functools.partial(math.pow, 2)):
        packed = pack_function(function)
        assert packed[:1] == b"\x80"
        assert len(packed) < 200


def test_lambdas_closures_methods_partials_and_objects_open_as_what_they_were() -> None:
    offset = 5

    def closure(value: int) -> int:
        return value + offset

    opened = [open_value(pack_function(function)) for function in (lambda value: value + 5, closure)]
    assert [function(1) for function in opened] == [6, 6]
    assert open_value(pack_function(Model(3).scale))(4) == 12
    assert open_value(pack_function(Model(3)))(4) == 7
    assert open_value(pack_function(functools.partial(closure, 2)))() == 7


def test_what_the_main_script_defines_travels_with_its_code() -> None:
    """Written by one main script, opened by another in which the names mean nothing."""
    write = (
        "import sys; from pilotage.client.serialization import *\n"
        "class Point:\n    x = 3\n"
        "def f(point, scale=2): return type(point).x * scale\n"
        "sys.stdout.write(pack_function(f).hex() + ' ' + pack_arguments((Point(),), {}).hex())"
    )
    function, arguments = _python(write).split()
    read = (
        "import sys; from pilotage.wire.pickles import open_value\n"
        f"args, kwargs = open_value(bytes.fromhex('{arguments}'))\n"
        f"print(open_value(bytes.fromhex('{function}'))(*args, **kwargs))"
    )
    assert _python(read).strip() == "6"


def _python(program: str) -> str:
    path = [entry for entry in sys.path if entry]
    start = f"import sys; sys.path[:] = {path!r}\n"
    return subprocess.run([sys.executable, "-c", start + program], check=True, capture_output=True, text=True).stdout


def test_a_function_that_cannot_be_pickled_is_refused_with_the_part_at_fault() -> None:
    lock = threading.Lock()

    def closure() -> None:
        lock.acquire()

    with pytest.raises(SerializationError, match=r"closure' cannot be pickled: its variable 'lock' from .*_thread.lock"):
        pack_function(closure)
    with pytest.raises(SerializationError, match=r"attribute 'connection' of its object, a _thread.lock"):
        pack_function(Held().method)
    with pytest.raises(SerializationError, match=r"argument 0, a _thread.lock"):
        pack_function(functools.partial(math.sqrt, lock))
    with pytest.raises(SerializationError, match=r"a str, not a callable"):
        pack_function("sqrt")  # type: ignore[arg-type]


def test_a_refusal_is_one_line_whose_parentheses_close() -> None:
    class Stubborn:
        def __reduce__(self) -> str:
            raise ValueError("no\n  way")

    told = []
    for pack in (lambda: pack_arguments((Stubborn(),), {}), lambda: pack_metadata(Stubborn())):
        with pytest.raises(SerializationError) as refused:
            pack()
        told.append(str(refused.value))
    with pytest.raises(SerializationError) as refused:
        pickled_otherwise("t", Stubborn())
    assert str(refused.value) == (
        f"task 't' returned a {__name__}.{Stubborn.__qualname__}, which cannot be pickled: ValueError: no way; "
        "return plain values, or write it to a file and return the name"
    )
    for message in told:
        assert "no way; " in message and "\n" not in message
        assert message.count("(") == message.count(")")


def test_a_global_at_fault_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a main script: the function travels by value and takes the globals that it uses along.
    monkeypatch.setattr(global_user, "__module__", "__main__")
    with pytest.raises(
        SerializationError, match=r"its global variable 'LOCK', a _thread.lock: .*; open it inside the function"
    ):
        pack_function(global_user)


# -- arguments ------------------------------------------------------------------------------------------------------------


def test_arguments_are_a_plain_pickle_of_a_pair() -> None:
    assert pickle.loads(pack_arguments([1, "two"], {"three": 3})) == ((1, "two"), {"three": 3})


def test_a_function_as_argument_travels_too() -> None:
    (function,), _ = open_value(pack_arguments((lambda: 7,), {}))
    assert function() == 7


def test_an_argument_that_cannot_be_pickled_is_named() -> None:
    with pytest.raises(SerializationError, match=r"cannot pickle argument 1, a _thread.lock"):
        pack_arguments((1, LOCK), {})
    with pytest.raises(SerializationError, match=r"cannot pickle argument 'guard', a _thread.lock"):
        pack_arguments((), {"guard": LOCK})


# -- results --------------------------------------------------------------------------------------------------------------


def test_a_result_opens() -> None:
    assert open_result(pickle_value({"energy": 1.5})) == {"energy": 1.5}


def test_a_result_that_cannot_be_opened_says_why() -> None:
    with pytest.raises(SerializationError, match=r"No module named 'nowhere'.*must be importable"):
        open_result(b"\x80\x05\x8c\x07nowhere\x94\x8c\x01f\x94\x93\x94.")


def test_code_of_another_python_is_refused_with_both_versions() -> None:
    packed = pack_function(lambda: 1).replace(python_tag().encode(), b"cpython-3.1")
    with pytest.raises(SerializationError, match=rf"under cpython-3.1, which {python_tag()} .* cannot run"):
        open_value(packed)


# -- exceptions -----------------------------------------------------------------------------------------------------------


def there_and_back(error: BaseException) -> BaseException:
    pickled = pickle_exception(error)
    assert pickled is not None
    return open_exception(pickled, f"{type(error).__name__}: {error}", "Traceback: in f")


def test_an_exception_keeps_class_arguments_attributes_and_causes() -> None:
    try:
        try:
            raise OSError(2, "No such file", "a.dat")
        except OSError as cause:
            raise PickyError(5, "home") from cause
    except PickyError as caught:
        error = there_and_back(caught)
    assert isinstance(error, PickyError)
    assert (str(error), error.code) == ("code 5 at home", 5)
    assert isinstance(error.__cause__, FileNotFoundError)
    assert error.__cause__.filename == "a.dat"


def test_an_exception_says_the_same_on_the_other_side() -> None:
    assert str(there_and_back(WrappingError(3))) == "n=3"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
def test_the_remote_traceback_is_a_note_beside_the_users_own() -> None:
    error = ValueError("x")
    error.add_note("while reading a.dat")
    assert there_and_back(error).__notes__ == ["while reading a.dat", "\nin the worker:\nTraceback: in f"]


def test_on_python_3_10_the_remote_traceback_is_the_last_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    error = open_exception(pickle_exception(ValueError("x")), "ValueError: x", "Traceback: in f")
    assert isinstance(error.__cause__, RemoteTraceback)
    assert str(error.__cause__) == "\nTraceback: in f"


def test_without_an_exception_that_opens_the_message_is_raised() -> None:
    for pickled in (None, b"\x80\x05damaged", pickle_value([(b"\x80\x05N.", False)])):
        error = open_exception(pickled, "Odd: cannot travel", "")
        assert isinstance(error, TaskFailed)
        assert str(error) == "Odd: cannot travel"


def test_what_would_end_this_program_does_not() -> None:
    error = there_and_back(SystemExit(3))
    assert isinstance(error, TaskFailed)
    assert isinstance(error.__cause__, SystemExit)


def test_an_exception_that_cannot_be_pickled_is_none() -> None:
    assert pickle_exception(RuntimeError(LOCK)) is None


# -- PythonTask -----------------------------------------------------------------------------------------------------------


@PythonTask.pythontask
def double(value: int, plus: int = 0) -> Any:
    """Twice the value."""
    return 2 * value + plus


def test_a_decorated_function_describes_its_call() -> None:
    task = double(21, plus=1)
    function, args, kwargs = PythonTask.get_func_attr(task)
    assert (args, kwargs, double.__doc__) == ((21,), {"plus": 1}, "Twice the value.")
    # The module's name now means the decorated one, so the function itself travels with its code.
    assert open_value(pack_function(function))(*args, **kwargs) == 43 == task()


def test_a_python_task_takes_function_arguments_and_names() -> None:
    task = PythonTask(math.pow, [2], None)
    assert (task.function, task.args, task.kwargs) == (math.pow, (2,), {})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sqrt",), "is a str"),
        ((math.sqrt, "ab"), "args='ab'"),
        ((math.sqrt, (), [1]), "kwargs"),
        ((math.sqrt, (), {1: 2}), "kwargs"),
    ],
)
def test_a_python_task_of_something_else_is_refused(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(InvalidTask, match=words):
        PythonTask(*arguments)
    with pytest.raises(InvalidTask, match="not a PythonTask"):
        PythonTask.get_func_attr("double")  # type: ignore[arg-type]
