"""What pilots print, as error messages show it."""

from __future__ import annotations

from pathlib import Path

from pilotage.client.launcher import AGENT_OUTPUT, BOOTSTRAP_OUTPUT, tail_of_output


def test_the_tail_of_what_a_pilot_printed_has_whole_lines(tmp_path: Path) -> None:
    assert tail_of_output(tmp_path) == ""
    (tmp_path / BOOTSTRAP_OUTPUT).write_text("agent 1 ended with status 1\n")
    (tmp_path / AGENT_OUTPUT).write_text("Traceback\n  in main\nImportError: no module\n")
    assert tail_of_output(tmp_path) == "agent 1 ended with status 1\nTraceback\n  in main\nImportError: no module"
    assert tail_of_output(tmp_path, limit=27) == "agent 1 ended with status 1\nImportError: no module"


def test_a_line_that_is_too_long_is_cut(tmp_path: Path) -> None:
    (tmp_path / AGENT_OUTPUT).write_text("x" * 50)
    assert tail_of_output(tmp_path, limit=10) == "x" * 10
