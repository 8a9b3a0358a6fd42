"""Kinds of mpiexec, told apart by what they print."""

from __future__ import annotations

import pytest
from recorded_versions import (
    GFORKER,
    INTEL,
    INTEL_2018,
    MPICH_3,
    MPICH_5,
    OPENMPI_4,
    OPENMPI_4_AMID_WARNINGS,
    OPENMPI_5,
    PALS,
    TRUE,
)

from pilotage.launchers.mpiexec import identify


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        (MPICH_5, ("mpich", "5.0.2")),
        (MPICH_3, ("mpich", "3.4.2")),
        (OPENMPI_5, ("openmpi", "5.0.11")),
        (OPENMPI_4, ("openmpi", "4.1.4")),
        (OPENMPI_4_AMID_WARNINGS, ("openmpi", "4.1.5rc2")),
        (INTEL, ("intelmpi", "2021.18.1")),
        (INTEL_2018, ("intelmpi", "2018 Update 3")),
        (PALS, ("pals", "1.8.0")),
        (GFORKER, None),
        (TRUE, None),
        ("", None),
    ],
    ids=[
        "mpich5",
        "mpich3",
        "openmpi5",
        "openmpi4",
        "openmpi4-warnings",
        "intel",
        "intel2018",
        "pals",
        "gforker",
        "true",
        "nothing",
    ],
)
def test_each_kind_is_known_by_what_it_prints(printed: str, found: tuple[str, str] | None) -> None:
    assert identify(printed) == found
