"""What a worker calls for a task whose payload is Python source: an expression that is evaluated, or statements.

The source sees nothing of ours. What ``before`` imports and defines is global to it; an expression, which cannot import,
finds the modules ``math``, ``os``, ``sys`` and ``time`` there. Statements are the body of a function: they may ``return``.
Its classes and functions are those of a main script, so that they travel by value if they are part of a result.

The client compiles the same source before it submits the task, so that a syntax error is told there.
"""

from __future__ import annotations

import ast
import functools
import linecache
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

CODE_FILE = "<code of the task>"
BEFORE_FILE = "<pre_exec of the task>"
"""What tracebacks call the sources."""

_BODY = "_task"
_MODULES = {"math": math, "os": os, "sys": sys, "time": time}


def evaluate(code: str, before: Sequence[str] = ()) -> Any:
    """Return the value of an expression."""
    return _evaluate(code, before, {})


def evaluate_with(comm: object, code: str, before: Sequence[str] = ()) -> Any:
    """Return the value of an expression in which ``comm`` is the communicator of the task's ranks."""
    return _evaluate(code, before, {"comm": comm})


def execute(code: str, before: Sequence[str] = ()) -> Any:
    """Run statements, and return what they return."""
    return _execute(code, before, {})


def execute_with(comm: object, code: str, before: Sequence[str] = ()) -> Any:
    """Run statements in which ``comm`` is the communicator of the task's ranks, and return what they return."""
    return _execute(code, before, {"comm": comm})


@functools.lru_cache(maxsize=256)
def compiled_expression(code: str) -> CodeType:
    """Return an expression, without blanks around it, compiled.

    Raises:
        SyntaxError; ValueError: it holds a NUL character (in some versions of Python).
    """
    return compile(code, CODE_FILE, "eval")


@functools.lru_cache(maxsize=256)
def compiled_body(code: str) -> CodeType:
    """Return statements compiled, as a module that defines one function. Raises as ``compiled_expression``."""
    # The body is put in as a tree: as indented text its lines would have other columns, and its long strings other contents.
    body = ast.parse(code, CODE_FILE).body
    module = ast.parse(f"def {_BODY}(): pass", CODE_FILE)
    function = module.body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = body or function.body
    return compile(module, CODE_FILE, "exec")


@functools.lru_cache(maxsize=256)
def compiled_before(before: str) -> CodeType:
    """Return statements that run first, compiled. Raises as ``compiled_expression``."""
    return compile(before, BEFORE_FILE, "exec")


def _evaluate(code: str, before: Sequence[str], names: dict[str, object]) -> Any:
    code = code.strip()
    space = _space(before, {**_MODULES, **names})
    _show_source(CODE_FILE, code)
    return eval(compiled_expression(code), space)


def _execute(code: str, before: Sequence[str], names: dict[str, object]) -> Any:
    space = _space(before, names)
    _show_source(CODE_FILE, code)
    exec(compiled_body(code), space)
    body: Callable[[], Any] = space[_BODY]
    return body()


def _space(before: Sequence[str], names: dict[str, object]) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "__main__", **names}
    if before:
        joined = "\n".join(before)
        _show_source(BEFORE_FILE, joined)
        exec(compiled_before(joined), space)
    return space


def _show_source(name: str, source: str) -> None:
    """Let tracebacks show the lines of a source that is in no file."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
