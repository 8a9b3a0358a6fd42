"""What a task runs: its mode, and the payload that belongs to it.

A pilot knows executables and functions. Every other mode is one of these in other words: a shell command is ``/bin/sh -c``,
Python source is the argument of a function of ours that evaluates or executes it, a service is an executable that is looked
after. The user's word is kept as the template's ``form``.

What is shared by many tasks (executable, function) is checked with the template; source and commands are a task's own.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pilotage.client.checks import text_arguments, text_of
from pilotage.client.constants import (
    AGENT_SERVICE,
    RAPTOR_MASTER,
    RAPTOR_WORKER,
    TASK_EVAL,
    TASK_EXEC,
    TASK_EXECUTABLE,
    TASK_FUNCTION,
    TASK_METHOD,
    TASK_MODES,
    TASK_PROC,
    TASK_SERVICE,
    TASK_SHELL,
)
from pilotage.client.fields import shown
from pilotage.client.task_hooks import texts_of
from pilotage.errors import InvalidTask, nearest
from pilotage.model.own_variables import OwnVariables, references
from pilotage.model.workload import Mode, Template
from pilotage.system.callers import warn_caller

SHELL = "/bin/sh"
_SHELLS = frozenset({"sh", "bash", "dash", "ksh", "zsh", "csh", "tcsh", "fish"})
_SHELL_OPTIONS_WITH_VALUE = frozenset({"-o", "+o", "-O", "+O", "--rcfile", "--init-file"})
_SCRIPT_OPTION = re.compile(r"-[A-Za-z]*c[A-Za-z]*\Z")
SERVICES = (TASK_SERVICE, AGENT_SERVICE)
CODES = (TASK_EVAL, TASK_EXEC)

_WHAT = {
    TASK_EXECUTABLE: "executable",
    TASK_PROC: "executable",
    TASK_SERVICE: "executable",
    AGENT_SERVICE: "executable",
    TASK_FUNCTION: "function",
    TASK_METHOD: "function",
    TASK_EVAL: "code",
    TASK_EXEC: "code",
    TASK_SHELL: "command",
}
"""The attribute that holds what a task of each mode runs."""

_ARGUMENTS = {"executable": ("arguments",), "function": ("args", "kwargs"), "code": (), "command": ()}
"""The attributes that may come with it."""

_REMEDIES = {
    "arguments": "are for executables; {given}",
    "args": "are for functions; {given}",
    "kwargs": "are for functions; {given}",
}
_INSTEAD = {
    "executable": "give an executable its arguments (list)",
    "function": "give a function its args (list) and kwargs (dict)",
    "code": "put the values into the code",
    "command": "put them into the command",
}

Call = tuple[tuple[Any, ...], Mapping[str, Any]]
"""The arguments of a function: those without and those with a name."""


def mode_of(values: Mapping[str, Any]) -> str:
    """Return the mode: the one given or, without one, that of what is to be run."""
    mode: str = values.get("mode") or ""
    if mode:
        return mode
    if "function" in values:
        return TASK_FUNCTION
    return TASK_SHELL if values.get("command") and not values.get("executable") else TASK_EXECUTABLE


def named_mode(template: Template) -> str:
    """Return the mode that the user named."""
    return template.form or f"task.{template.mode}"


def shared_mode(task: str, said: Mapping[str, Any]) -> tuple[Mode, str]:
    """Return the mode of the template and its form, once what is to be run agrees with the mode.

    Raises:
        InvalidTask: nothing to run, more than one thing, or another than the mode says.
    """
    mode = said["mode"]
    if mode in (RAPTOR_MASTER, RAPTOR_WORKER):
        raise InvalidTask(
            f"{task}: mode={mode!r} is not supported yet by this version; it comes with RAPTOR masters and workers. "
            "Functions run without them: submit them as tasks of mode TASK_FUNCTION"
        )
    if mode not in _WHAT:
        raise InvalidTask(f"{task}: mode={mode!r} is none of {', '.join(TASK_MODES)}{nearest(mode, TASK_MODES)}")
    what = _WHAT[mode]
    form = "" if mode in (TASK_EXECUTABLE, TASK_FUNCTION) else mode
    kind: Mode = "executable" if what in ("executable", "command") else "function"
    given = [name for name in ("executable", "function", "code", "command") if _is_given(said, name)]
    if given == [what]:
        return kind, form
    if not given:
        if mode == TASK_EXECUTABLE:
            raise InvalidTask(
                f"{task}: nothing to run is given; set executable (and arguments), function (args, kwargs), command, "
                "or code with its mode"
            )
        _require(task, mode, what)
    if given == ["code"] and mode == TASK_EXECUTABLE:
        raise InvalidTask(
            f"{task}: code needs a mode: TASK_EVAL for an expression, whose value is the result, or TASK_EXEC for statements, "
            "which may return it"
        )
    _require_alone(task, mode, what, given, said)
    return kind, form


def expands(executable: Any, arguments: Iterable[Any]) -> bool:
    """Tell whether arguments refer to variables, of which a task's own are to be put in.

    Those of a shell's script, ``sh -c SCRIPT``, are left to that shell: it has them, and knows what is quoted.
    """
    for argument in arguments:
        if "$" in (argument if type(argument) is str else str(argument)):
            break
    else:
        return False
    texts = [str(argument) for argument in arguments]
    return any(any(references(text)) for text in texts) and not _is_shell_script([str(executable), *texts])


def _is_shell_script(words: Sequence[str]) -> bool:
    for index, word in enumerate(words):
        if posixpath.basename(word) in _SHELLS:
            following = iter(words[index + 1 :])
            for option in following:
                if _SCRIPT_OPTION.match(option):
                    return True
                if option in _SHELL_OPTIONS_WITH_VALUE:
                    next(following, None)
                elif not option.startswith(("-", "+")):
                    break
    return False


def warn_of_variables(template: Template, values: Mapping[str, Any]) -> None:
    """Warn who hopes for variables in the arguments of a program that are not the task's own.

    They are told by being set here. What a named environment sets is not known here.
    """
    if not template.expands or template.named_env or posixpath.basename(template.executable) == "ssh":
        return
    own = OwnVariables(template)
    for argument in values.get("arguments") or ():
        for name in references(str(argument)):
            if name != "_" and name not in own and name in os.environ:
                warn_caller(
                    f"${name} in the argument {str(argument)!r:.60} goes to the program as it is: it starts without a shell, "
                    "and only the task's own variables are put in (RP_..., PILOTAGE_..., those in environment or named_env, "
                    "what its hooks export); for others use command='...', or executable='/bin/sh' with arguments=['-c', '...']"
                )
                return


def code_function(template: Template) -> Callable[..., Any] | None:
    """Return the function that takes a task's source; None for a task that has none."""
    if template.form not in CODES:
        return None
    from pilotage.workers import code as source

    if template.form == TASK_EVAL:
        return source.evaluate if not template.uses_mpi else source.evaluate_with
    return source.execute if not template.uses_mpi else source.execute_with


def own_payload(task: str, template: Template, values: Mapping[str, Any]) -> tuple[tuple[str, ...], Call | None]:
    """Check what is a task's own, and return the arguments of its command line, or those of its function.

    Raises:
        InvalidTask: names the value and the remedy.
    """
    mode = named_mode(template)
    what = _WHAT[mode]
    if "name" in values:
        text_of(task, "name", values["name"])
    _require_alone(task, mode, what, [name for name in ("code", "command") if values.get(name)], values)
    for name, told in _REMEDIES.items():
        if name not in _ARGUMENTS[what] and values.get(name):
            raise InvalidTask(f"{task}: {name} {told.format(given=_INSTEAD[what])}")
    if what == "code":
        return (), (_source(task, mode, values), {})
    if what == "command":
        return ("-c", text_of(task, "command", values.get("command") or _require(task, mode, what))), None
    if what == "function":
        kwargs = values.get("kwargs") or {}
        for name in kwargs:
            if type(name) is not str:
                raise InvalidTask(f"{task}: kwargs has the key {shown(name)}; names of arguments are text (str)")
        return (), (tuple(values.get("args") or ()), kwargs)
    arguments = values.get("arguments")
    return (text_arguments(task, arguments) if arguments else ()), None


def _source(task: str, mode: str, values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the source of a task, compiled once to see that it can be."""
    from pilotage.workers import code as source

    code = values.get("code") or _require(task, mode, "code")
    is_expression = mode == TASK_EVAL
    before = texts_of(task, "pre_exec", values.get("pre_exec") or (), "with Python code it holds statements that run before")
    # Only compiled once per text: the worker's functions remember.
    if before:
        _compiled(task, "pre_exec", "is not Python", source.compiled_before, "\n".join(before))
    if is_expression:
        _compiled(task, "code", "is no Python expression", source.compiled_expression, code.strip())
    else:
        _compiled(task, "code", "is not Python", source.compiled_body, code)
    return (code, before) if before else (code,)


def _compiled(task: str, name: str, told: str, compiled: Callable[[str], object], text: str) -> None:
    try:
        compiled(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        place = f", line {line}" if line else ""
        shown_line = (getattr(error, "text", None) or "").strip()
        reason = getattr(error, "msg", None) or str(error)
        excerpt = f": {shown_line!r}" if shown_line else ""
        hint = "; statements are for mode=TASK_EXEC" if name == "code" and "expression" in told else ""
        raise InvalidTask(f"{task}: {name} {told}{place}: {reason}{excerpt}{hint}") from None


def _require(task: str, mode: str, what: str) -> Any:
    more = {"executable": " (and arguments)", "function": " (and args, kwargs)"}.get(what, "")
    raise InvalidTask(f"{task}: mode={mode!r} needs {_named(what)}; set {what}{more}")


def _require_alone(task: str, mode: str, what: str, given: list[str], said: Mapping[str, Any]) -> None:
    other = next((name for name in given if name != what), None)
    if other is None:
        return
    if _is_given(said, what):
        first, second = (f"{name}={said[name]!r:.60}" if name != "function" else "a function" for name in sorted((what, other)))
        raise InvalidTask(f"{task}: both {first} and {second} are given; a task runs one of them: leave the other out")
    value = "a function" if other == "function" else f"{other}={said[other]!r:.60}"
    raise InvalidTask(f"{task}: mode={mode!r} needs {_named(what)}, not {value}")


def _is_given(said: Mapping[str, Any], name: str) -> bool:
    value = said.get(name)
    # A callable may be empty, and yet be there.
    return value is not None if name == "function" else bool(value)


def _named(what: str) -> str:
    return f"an {what}" if what == "executable" else what if what == "code" else f"a {what}"
