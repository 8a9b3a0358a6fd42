"""What the scripts of all batch systems have in common: checks of what goes into them, and all below the directives.

A directive is one line of words that each system splits by rules of its own. So what goes into one has no blanks, quotes or
control characters: it means the same everywhere, and nothing in it can become a second directive. The part below is a plain
POSIX script; the command replaces the shell, so that signals for the job's first process reach it.
"""

from __future__ import annotations

import re
import shlex
import signal
import time
from collections.abc import Iterable, Mapping

import msgspec

from pilotage.batch.job import JobSpec
from pilotage.batch.own_options import own_option
from pilotage.batch.setup_lines import setup_lines
from pilotage.batch.system import SystemFacts
from pilotage.errors import InvalidPilot, nearest

_WORD = re.compile(r"[^\s\"'`\\#;&|<>$\x00-\x1f\x7f]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"password|passwd|passphrase|secret|token|credential|(api|private|access)_?key", re.IGNORECASE)
_WORDS = ("name", "queue", "project", "qos", "reservation", "mail_to", "output", "error")
_LISTS = ("constraints", "licenses", "filesystems")
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(JobSpec)}


def check_spec(facts: SystemFacts, spec: JobSpec) -> None:
    """Raise unless a system can say all of a spec.

    Raises:
        InvalidPilot: it cannot, or a value means nothing; names field, value and remedy.
    """
    _check_amounts(facts, spec)
    _check_words(facts, spec)
    _check_texts(facts, spec)
    for field, remedy in facts.lacks.items():
        value = getattr(spec, field)
        if value != _DEFAULTS[field] and value:
            _refuse(facts, field, value, f"{facts.name} cannot say it", remedy)
    for dependency in spec.dependencies:
        if dependency.kind not in facts.dependencies:
            known = ", ".join(facts.dependencies) or "none at all"
            _refuse(facts, "dependencies", dependency.kind, f"{facts.name} knows {known}", "use one that it knows")
        if not _WORD.fullmatch(dependency.job):
            _refuse(facts, "dependencies", dependency.job, "is no job id", "give the id that submission returned")
    for option in spec.options:
        if option not in facts.options:
            known = ", ".join(facts.options) or "none"
            _refuse(facts, "options", option, f"{facts.name} has {known}{nearest(option, facts.options)}", "use one of these")


def _check_amounts(facts: SystemFacts, spec: JobSpec) -> None:
    for field, least in {
        "nodes": 1,
        "walltime_s": 1,
        "cores_per_node": 0,
        "gpus_per_node": 0,
        "memory_mib_per_node": 0,
    }.items():
        value = getattr(spec, field)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            _refuse(facts, field, value, f"it is a whole number of at least {least}", "give one")
    if not spec.command:
        _refuse(facts, "command", spec.command, "there is nothing to run", "give a program and its arguments")
    ahead = spec.signal_before_end
    if ahead is not None:
        if not hasattr(signal, f"SIG{ahead.signal}"):
            _refuse(facts, "signal_before_end", ahead.signal, "no signal has this name", "give one such as TERM or USR1")
        if not 0 < ahead.seconds < min(spec.walltime_s, 65536):
            _refuse(
                facts,
                "signal_before_end",
                ahead.seconds,
                f"walltime_s={spec.walltime_s}",
                "give seconds below both it and 65536",
            )


def _check_words(facts: SystemFacts, spec: JobSpec) -> None:
    words = [(field, getattr(spec, field)) for field in _WORDS]
    words += [(field, value) for field in _LISTS for value in getattr(spec, field)]
    words += [("options", value) for value in spec.options.values()]
    for field, value in words:
        if value and not _WORD.fullmatch(value):
            _refuse(
                facts,
                field,
                value,
                "a directive holds no blanks, quotes or shell characters",
                "use a name or path without them",
            )
    if not spec.name:
        _refuse(facts, "name", spec.name, "a job needs one", "give a word")
    for field in ("folder", "output", "error"):
        path = getattr(spec, field)
        if (path or field == "folder") and not path.startswith("/"):
            _refuse(facts, field, path, "it is no absolute path", "begin it with /")


def _check_texts(facts: SystemFacts, spec: JobSpec) -> None:
    texts = [("extra_options", text) for text in spec.extra_options] + [("setup", text) for text in spec.setup]
    for field, text in texts:
        if not text.strip() or "\n" in text or "\r" in text or "\0" in text:
            _refuse(facts, field, text, "each is one line", "give several, one for each line")
    for text in spec.extra_options:
        own = own_option(facts.name, text)
        if own is not None:
            _refuse(facts, "extra_options", text, own.why, own.remedy)
    for text in (spec.folder, *spec.command, *spec.variables.values()):
        if "\0" in text:
            _refuse(facts, "command, folder or variables", text, "a null character ends a string", "leave it out")
    for variable in spec.variables:
        if not _VARIABLE.fullmatch(variable):
            _refuse(facts, "variables", variable, "is no name of a variable", "use letters, digits and _")
        if _SECRET.search(variable):
            _refuse(facts, "variables", variable, "others can read a job's script", "put secrets into a file of mode 0600")


def _refuse(facts: SystemFacts, field: str, value: object, why: str, remedy: str) -> None:
    raise InvalidPilot(f"{facts.name}: {field}={value!r}: {why}; {remedy}")


def render_script(
    spec: JobSpec, prefix: str, options: Iterable[str], last: str = "", first: Iterable[str] = (), shell: str = "/bin/sh"
) -> str:
    """Return a script: ``options``, each behind ``prefix`` on its line, the user's own, ``last``, and the command.

    ``first``: lines of shell ahead of all others.
    """
    lines = [f"#!{shell}"]
    lines += [f"{prefix} {option}" for option in (*options, *spec.extra_options)]
    if last:
        lines.append(f"{prefix} {last}")
    lines += first
    lines.append(f"cd {shlex.quote(spec.folder)} || exit 1")
    lines += [f"export {name}={shlex.quote(value)}" for name, value in spec.variables.items()]
    lines += setup_lines(spec.setup)
    lines.append("exec " + shlex.join(spec.command))
    return "\n".join(lines) + "\n"


def hours_minutes_seconds(seconds: int) -> str:
    """Return a length of time as batch systems write it.

    >>> hours_minutes_seconds(93784)
    '26:03:04'
    """
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def minutes(seconds: int) -> int:
    """Return a length of time in whole minutes, no shorter than it is."""
    return -(-seconds // 60)


def local_time(layout: str, moment_s: float) -> str:
    """Return a Unix time as this machine's clock shows it."""
    return time.strftime(layout, time.localtime(moment_s))


def parse_local_time(text: str, *layouts: str) -> float | None:
    """Return the Unix time of what a batch system printed: seconds, or this machine's time in one of the layouts."""
    text = text.strip()
    if re.fullmatch(r"\d{9,11}(\.\d+)?", text):
        return float(text)
    for layout in layouts:
        try:
            return time.mktime(time.strptime(text, layout))
        except ValueError:
            continue
    return None


def exit_of_shell(code: int) -> tuple[int | None, int | None]:
    """Return exit code and signal from a number in which 128 or 256 and more stand for a signal.

    >>> exit_of_shell(3), exit_of_shell(143), exit_of_shell(271)
    ((3, None), (None, 15), (None, 15))
    """
    for base in (256, 128):
        if base < code <= base + 64:
            return None, code - base
    return code, None


def word_of(values: Mapping[str, str], name: str) -> str:
    """Return a value without blanks around it; empty where there is none, or a system's sign for none."""
    value = values.get(name, "").strip()
    return "" if value in ("-", "N/A", "n/a", "None", "(null)", "Unknown") else value
