"""Python source as a task: what it sees, what it returns, and what its errors show."""

from __future__ import annotations

import traceback

import pytest

from pilotage.wire.pickles import open_value, pickle_value
from pilotage.workers.code import compiled_body, evaluate, evaluate_with, execute, execute_with


def test_an_expression_has_a_value_and_the_modules_that_it_cannot_import() -> None:
    assert evaluate(" 1 + 1\n") == 2
    assert evaluate("math.floor(2.5), os.sep, sys.maxsize > 1, time.time() > 0") == (2, "/", True, True)
    assert evaluate("json.dumps([1])", ["import json"]) == "[1]"


def test_statements_return_their_result() -> None:
    assert execute("x = 2\nreturn x * 21") == 42
    assert execute("x = 2") is None
    assert execute("") is None
    assert execute("return twice(4)", ["def twice(x):", "    return 2 * x"]) == 8


def test_long_strings_and_line_numbers_are_as_written() -> None:
    assert execute('text = """a\n  b\nc"""\nreturn text') == "a\n  b\nc"
    with pytest.raises(ZeroDivisionError) as raised:
        execute("x = 1\ny = x / 0\nreturn y")
    shown = "".join(traceback.format_exception(raised.type, raised.value, raised.tb))
    assert 'File "<code of the task>", line 2' in shown
    assert "y = x / 0" in shown


def test_functions_in_it_may_call_themselves_and_each_other() -> None:
    assert execute("def f(n): return 1 if n < 2 else n * f(n - 1)\nreturn f(5)") == 120
    assert execute("global g\ndef g(n): return n + 1\nreturn [g(i) for i in range(3)]") == [1, 2, 3]


def test_nothing_of_ours_is_seen_and_nothing_is_left_behind() -> None:
    for name in ("linecache", "functools", "evaluate", "pilotage", "left"):
        with pytest.raises(NameError):
            evaluate(name)
        with pytest.raises(NameError):
            execute(f"return {name}")
    execute("global left\nleft = 1")
    with pytest.raises(NameError):
        execute("return left")


def test_its_classes_travel_by_value() -> None:
    thing = execute("class Thing:\n    def number(self): return 3\nreturn Thing()")
    assert open_value(pickle_value(thing)).number() == 3


def test_ranks_see_their_communicator() -> None:
    assert evaluate_with("communicator", "comm.upper()") == "COMMUNICATOR"
    assert execute_with("communicator", "return comm") == "communicator"


@pytest.mark.parametrize("wrong", ["return (", "from os import *", "await x", "x ="])
def test_what_is_not_the_body_of_a_function_does_not_compile(wrong: str) -> None:
    with pytest.raises(SyntaxError):
        compiled_body(wrong)
