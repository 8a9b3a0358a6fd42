"""Every snippet of the documentation runs; see ``documentation_pages``. What needs a Slurm runs in ``tests/slurm``."""

from __future__ import annotations

from pathlib import Path

import pytest

from documentation_pages import PAGES, ROOT, Page, newcomers_environment, place_of, run_commands, run_program

HERE = [path for path in PAGES if not Page(path).needs]
PROGRAMS = [path for path in HERE if Page(path).program]
SHELLS = [path for path in HERE if Page(path).shell]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return newcomers_environment(tmp_path)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_python_of_a_page_runs(path: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    page = Page(path)
    run_program(page, place_of(page, tmp_path), environment)


@pytest.mark.parametrize("path", SHELLS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_of_a_page_run(path: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    page = Page(path)
    run_commands(page, place_of(page, tmp_path), environment)
