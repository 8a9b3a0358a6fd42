"""What checks find, and how it is printed: a line for each finding, then the remedies of those that are not well."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

import msgspec

from pilotage.cli.renderers import Column, Format, is_terminal, plural, print_rows

_COLUMNS = (Column("check", "CHECK"), Column("status", "STATUS"), Column("found", "FOUND"))


class Status(str, Enum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


class Finding(msgspec.Struct, frozen=True):
    """What a check found, and, unless all is well, what to do about it."""

    check: str
    status: Status
    found: str
    remedy: str = ""


Check = Callable[[], list[Finding]]


def run_check(name: str, check: Check) -> list[Finding]:
    """Run a check; one that breaks is a finding, too."""
    try:
        return check()
    except Exception as error:  # one broken check must not hide what the others find
        return [Finding(name, Status.BROKEN, f"{type(error).__name__}: {error}", "mend what the message names, then try again")]


def judged(check: str, found: str, broken: bool, warning: bool, remedy: str) -> Finding:
    """Return a finding; the remedy is given only where there is a problem."""
    status = Status.BROKEN if broken else Status.WARNING if warning else Status.OK
    return Finding(check, status, found, remedy if status is not Status.OK else "")


def run_checks(checks: Mapping[str, Check]) -> list[Finding]:
    """Run checks, by name, one after the other, and say on a terminal which it is."""
    findings: list[Finding] = []
    for name, check in checks.items():
        if is_terminal(sys.stderr):
            print(f"\r\033[K{name} ...", end="", file=sys.stderr, flush=True)
        findings += run_check(name, check)
    if is_terminal(sys.stderr):
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return findings


def print_findings(findings: Sequence[Finding], format: Format) -> int:
    """Print findings, and return the exit code: 1 if something is broken."""
    print_rows("checks", [msgspec.structs.asdict(finding) for finding in findings], _COLUMNS, format, uid="check")
    problems = [finding for finding in findings if finding.remedy]
    broken = sum(finding.status is Status.BROKEN for finding in findings)
    if format is Format.TABLE:
        if problems:
            print()
        for finding in problems:
            print(f"{finding.check}: {finding.remedy}")
        print()
        warnings = sum(finding.status is Status.WARNING for finding in findings)
        print(f"{plural(broken, 'problem')}, {plural(warnings, 'warning')}" if broken or warnings else "all is well")
    return 1 if broken else 0
