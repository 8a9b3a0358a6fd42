"""Setup lines in shells: what they do is what they did, and the one that ends the job is named."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from pilotage.batch.setup_lines import is_complete, setup_lines

SHELLS = [shell for shell in ("sh", "dash", "bash") if shutil.which(shell)]


def run(shell: str, *setup: str) -> tuple[int, str, str]:
    script = "\n".join([*setup_lines(setup), "exec echo begun"])
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("setup", "code", "line"),
    [
        (["exit 3"], 3, "exit 3"),
        (["A=1", "test $A = 2 || exit 4", "exit 5"], 4, "test $A = 2 || exit 4"),
        (["set -e", "[ -e /nonexistent ] && true", "false"], 1, "false"),
        (["set -u", "echo $NO_SUCH_VARIABLE"], None, "echo $NO_SUCH_VARIABLE"),
        (["if true", "then exit 6", "fi"], 6, "if true; then exit 6; fi"),
        (["echo 'it is", "so'; exit 7"], 7, "echo 'it is; so'; exit 7"),
    ],
)
def test_the_line_that_ends_the_job_is_named(shell: str, setup: list[str], code: int | None, line: str) -> None:
    ended, printed, errors = run(shell, *setup)
    assert "begun" not in printed
    assert ended == code if code is not None else ended > 0, errors
    assert errors.splitlines()[-1] == f"the platform's setup ended the job with exit status {ended}: {line}"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("setup", "printed"),
    [
        ([], ""),
        (["false", "echo $?"], "1\n"),
        (["set -e", "[ -e /nonexistent ] && true", "echo on"], "on\n"),
        (["for a in 1 2", "do", "echo $a", "done"], "1\n2\n"),
        (["case x in", "x) echo case ;;", "esac"], "case\n"),
        (["cat <<END", "text", "END"], "text\n"),
        (["echo a \\", "b"], "a b\n"),
        (["false &&", "echo never"], ""),
        (["trap 'echo theirs' EXIT"], ""),
    ],
)
def test_what_lines_do_is_what_they_did(shell: str, setup: list[str], printed: str) -> None:
    assert run(shell, *setup) == (0, f"{printed}begun\n", "")


@pytest.mark.parametrize(
    "line",
    [
        "module load mpi",
        "export A='b c'",
        "if [ -e /opt ]; then . /opt/env; else exit 1; fi",
        "for a in 1 2; do echo $a; done",
        "case $A in x) echo 1 ;; esac || true",
        "f() { echo 1; }",
        "(cd /; ls)",
        "echo $(date)  # the time",
    ],
)
def test_a_whole_line_is_surely_whole_or_it_is_not_cut(line: str) -> None:
    # A pattern's bracket alone makes a line one that is hard to tell.
    assert is_complete(line) is ("case" not in line)


@pytest.mark.parametrize(
    "line",
    ["if true", "then", "fi", "do", "done", "for a in 1 2", "while true", "else", "x) echo ;;", "{", "a() {", "(", "cat <<E"],
)
def test_a_part_is_not_whole(line: str) -> None:
    assert not is_complete(line)
