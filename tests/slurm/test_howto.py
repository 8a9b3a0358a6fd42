"""The page on clusters works as written, on the tests' cluster: a newcomer has its files in a home of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster

from documentation_pages import PAGES, ROOT, Page, newcomers_environment, place_of, run_commands, run_program

PATHS = [path for path in PAGES if Page(path).needs == "slurm"]


@pytest.fixture
def environment(slurm: SlurmCluster, tmp_path: Path) -> dict[str, str]:
    made = newcomers_environment(tmp_path)
    made = {name: value for name, value in made.items() if not name.startswith(("SLURM", "XDG_"))}
    return {**made, **slurm.variables, "HOME": str(tmp_path / "here")}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_newcomer_can_follow_the_page(path: Path, slurm: SlurmCluster, tmp_path: Path, environment: dict[str, str]) -> None:
    page = Page(path)
    place = place_of(page, tmp_path)
    run_commands(page, place, environment)
    if page.program:
        run_program(page, place, environment)
    slurm.wait_until(lambda: not slurm.jobs(), "no job is left")
