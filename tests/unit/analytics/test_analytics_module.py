"""The module itself: what it needs is imported when it is asked for, and its examples hold."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import pilotage.analytics

MODULES = [each.name for each in pkgutil.walk_packages(pilotage.analytics.__path__, "pilotage.analytics.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True).stdout


def test_polars_is_imported_when_it_is_needed() -> None:
    program = "import sys, pilotage, pilotage.analytics, pilotage.cli.main; print('polars' in sys.modules)"
    assert run(program).strip() == "False"


def test_without_polars_the_error_names_the_extra() -> None:
    told = run(
        """
import sys
sys.modules["polars"] = None
import pilotage.analytics
try:
    pilotage.analytics.Session
except ImportError as error:
    print(error)
"""
    )
    assert "pip install 'pilotage[analytics]'" in told


def test_without_polars_the_command_says_so_in_one_line(session_folder: object) -> None:
    told = run(
        f"""
import os, sys
sys.modules["polars"] = None
from pilotage.cli.main import run_command
sys.stderr = sys.stdout
print(run_command(["report", {str(session_folder)!r}]))
"""
    )
    assert told.splitlines()[-1] == "1"
    assert "pip install 'pilotage[analytics]'" in told


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sessoin'"):
        _ = pilotage.analytics.Sessoin
