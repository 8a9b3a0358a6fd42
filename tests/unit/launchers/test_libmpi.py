"""Which MPI library a file needs: by names and search paths, as the loader would find it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from elf_files import write_elf

from pilotage.launchers.libmpi import MpiLibrary, family_of, library_of, read_dynamic


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("libmpi.so.12", "mpich"),
        ("libmpi.so.12.5.1", "mpich"),
        ("libmpich.so.12", "mpich"),
        ("libmpich.so.10", "mpich"),
        ("libmpifort.so.12", "mpich"),
        ("libmpicxx.so.12", "mpich"),
        ("libmpi_gnu_123.so.12", "mpich"),
        ("libmpi_cray.so.12", "mpich"),
        ("libmpi-1a2b3c4d.so.12.2.0", "mpich"),
        ("libmpi.so.40", "openmpi"),
        ("libmpi.so.40.30.4", "openmpi"),
        ("libmpi.so.20", "openmpi"),
        ("libmpi_mpifh.so.40", "openmpi"),
        ("libmpi_usempif08.so.40", "openmpi"),
        ("libmpi_cxx.so.40", "openmpi"),
        ("libmpi-9f8e7d6c.so.40.40.1", "openmpi"),
        ("libopen-pal.so.80", "openmpi"),
        ("libopen-rte.so.40", "openmpi"),
        ("libmpi.so", None),
        ("libmpi_abi.so.1", None),
        ("libmpir.so.12", None),
        ("libm.so.6", None),
        ("MPI.mpich.cpython-311-x86_64-linux-gnu.so", None),
    ],
)
def test_families_by_name(name: str, family: str | None) -> None:
    assert family_of(name) == family


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("big_endian", [True, False])
def test_files_of_any_machine_are_read(tmp_path: Path, wide: bool, big_endian: bool) -> None:
    path = write_elf(tmp_path / "md", ["libmpi.so.40", "libc.so.6"], runpath="/opt/a:/opt/b", wide=wide, big_endian=big_endian)

    assert read_dynamic(path) == ("", ["libmpi.so.40", "libc.so.6"], [], ["/opt/a", "/opt/b"])


def test_a_program_that_is_linked_itself(tmp_path: Path) -> None:
    program = write_elf(tmp_path / "bin" / "md", ["libmpi.so.40", "libc.so.6"], runpath="$ORIGIN/../lib")
    library = write_elf(tmp_path / "lib" / "libmpi.so.40", ["libopen-pal.so.80"], name="libmpi.so.40")

    assert library_of(program) == MpiLibrary("openmpi", str(tmp_path / "bin" / ".." / "lib" / "libmpi.so.40"))
    assert os.path.samefile(library, tmp_path / "bin" / ".." / "lib" / "libmpi.so.40")


def test_a_program_that_is_linked_through_another_library(tmp_path: Path) -> None:
    program = write_elf(tmp_path / "md", ["libsolver.so"])
    write_elf(tmp_path / "lib" / "libsolver.so", ["libmpi_cray.so.12"], name="libsolver.so")
    write_elf(tmp_path / "cray" / "libmpi_cray.so.12", name="libmpi_cray.so.12")
    search = f"{tmp_path}/lib:{tmp_path}/cray"

    assert library_of(program) is None
    assert library_of(program, search) == MpiLibrary("mpich", f"{tmp_path}/cray/libmpi_cray.so.12")


def test_what_is_searched_first(tmp_path: Path) -> None:
    for folder in ("rpath", "environment", "runpath"):
        write_elf(tmp_path / folder / "libmpi.so.12", name="libmpi.so.12")
    old = write_elf(tmp_path / "old", ["libmpi.so.12"], rpath=f"{tmp_path}/rpath")
    new = write_elf(tmp_path / "new", ["libmpi.so.12"], rpath=f"{tmp_path}/rpath", runpath=f"{tmp_path}/runpath")
    search = f"{tmp_path}/environment"

    assert [library_of(path, search) for path in (old, new)] == [
        MpiLibrary("mpich", f"{tmp_path}/rpath/libmpi.so.12"),
        MpiLibrary("mpich", f"{tmp_path}/environment/libmpi.so.12"),
    ]
    assert library_of(new) == MpiLibrary("mpich", f"{tmp_path}/runpath/libmpi.so.12")


def test_a_library_that_is_not_found_is_known_by_name(tmp_path: Path) -> None:
    assert library_of(write_elf(tmp_path / "md", ["libmpi.so.40"])) == MpiLibrary("openmpi", "libmpi.so.40")


def test_the_first_openmpi_had_the_number_of_mpich(tmp_path: Path) -> None:
    program = write_elf(tmp_path / "md", ["libmpi.so.12"])
    write_elf(tmp_path / "libmpi.so.12", ["libopen-pal.so.13"], name="libmpi.so.12")

    assert library_of(program, str(tmp_path)) == MpiLibrary("openmpi", f"{tmp_path}/libmpi.so.12")


@pytest.mark.parametrize(("behind", "family"), [([], "mpich"), (["libopen-pal.so.80"], "openmpi")])
def test_the_interface_of_both_families(tmp_path: Path, behind: list[str], family: str) -> None:
    program = write_elf(tmp_path / "md", ["libmpi_abi.so.1"])
    write_elf(tmp_path / "libmpi_abi.so.1", behind, name="libmpi_abi.so.1")

    assert library_of(program, str(tmp_path)) == (family, f"{tmp_path}/libmpi_abi.so.1", False)


def test_a_library_built_with_pmix(tmp_path: Path) -> None:
    library = write_elf(tmp_path / "libmpi.so.12", ["libpmix.so.2"], name="libmpi.so.12")

    assert library_of(library) == MpiLibrary("mpich", library, pmix=True)


def test_libraries_that_need_each_other(tmp_path: Path) -> None:
    program = write_elf(tmp_path / "md", ["liba.so"])
    write_elf(tmp_path / "liba.so", ["libb.so"], name="liba.so")
    write_elf(tmp_path / "libb.so", ["liba.so"], name="libb.so")

    assert library_of(program, str(tmp_path)) is None


def test_a_program_that_is_built_anew_is_read_again(tmp_path: Path) -> None:
    path = write_elf(tmp_path / "md", ["libmpi.so.40"])
    assert library_of(path) == MpiLibrary("openmpi", "libmpi.so.40")
    write_elf(tmp_path / "md", ["libmpich.so.12", "libm.so.6"])

    assert library_of(path) == MpiLibrary("mpich", "libmpich.so.12")


def test_what_is_no_program_needs_no_mpi(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    whole = Path(write_elf(tmp_path / "md", ["libmpi.so.40"])).read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    assert [library_of(str(path)) for path in (script, tmp_path, tmp_path / "missing", pipe, "/bin/sh")] == [None] * 5
    for length in range(len(whole)):
        cut = tmp_path / "cut"
        cut.write_bytes(whole[:length])
        read_dynamic(str(cut))
