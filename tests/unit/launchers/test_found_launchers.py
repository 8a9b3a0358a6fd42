"""Which launchers are found on a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotage.errors import BackendError
from pilotage.launchers.found import found_host_launcher, found_launchers


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with an srun and an mpiexec of OpenMPI, as far as they tell their versions."""
    for name, said in (("srun", "slurm 22.05.8"), ("mpiexec", "mpiexec (OpenRTE) 4.1.4"), ("jsrun", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{said}'\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_the_preferred_ones_that_are_there_in_their_order(programs: Path) -> None:
    found = found_launchers(["mpiexec", "aprun", "srun"], "slurm", {}, {"srun": {"mpi": "pmix"}}, str(programs))
    assert list(found) == ["mpiexec", "srun"]
    assert (found["srun"].path, found["srun"].version) == (str(programs / "srun"), "22.05.8")
    assert found["srun"].option("mpi") == "pmix"
    assert (found["mpiexec"].kind, found["mpiexec"].version) == ("openmpi", "4.1.4")


@pytest.mark.parametrize(
    ("batch", "names"), [("slurm", ["srun", "mpiexec"]), ("lsf", ["jsrun", "mpiexec"]), ("local", ["mpiexec"])]
)
def test_without_a_preference_those_of_the_batch_system(programs: Path, batch: str, names: list[str]) -> None:
    assert list(found_launchers([], batch, {}, {}, str(programs))) == names


def test_none_is_none_unless_one_is_preferred(tmp_path: Path) -> None:
    assert found_launchers([], "slurm", {}, {}, str(tmp_path)) == {}
    with pytest.raises(BackendError, match=r"launch_methods=srun, ibrun: none of these is in PATH"):
        found_launchers(["srun", "ibrun"], "slurm", {}, {}, str(tmp_path))


def test_paths_come_before_what_is_in_path(programs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "srun"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho slurm 23.11.1\n")
    other.chmod(0o755)
    found = found_launchers([], "slurm", {"srun": str(other)}, {}, str(programs))
    assert (found["srun"].path, found["srun"].version) == (str(other), "23.11.1")
    with pytest.raises(BackendError, match="srun='/no/such/srun' is no program"):
        found_launchers([], "slurm", {"srun": "/no/such/srun"}, {}, str(programs))


def test_options_that_a_method_does_not_have_are_refused(programs: Path) -> None:
    with pytest.raises(BackendError, match="has no option 'mpy'"):
        found_launchers([], "slurm", {}, {"srun": {"mpy": "pmix"}}, str(programs))


@pytest.mark.parametrize(
    ("preferred", "batch", "method"),
    [
        ([], "slurm", "srun"),
        (["ibrun"], "slurm", "srun"),
        (["mpiexec", "srun"], "slurm", "mpiexec"),
        (["aprun"], "lsf", None),
    ],
)
def test_hosts_are_started_by_the_first_that_can_and_is_there(
    programs: Path, preferred: list[str], batch: str, method: str | None
) -> None:
    if method is None:
        with pytest.raises(BackendError, match=r"nothing can start processes on the pilot's nodes: ssh are not in PATH"):
            found_host_launcher(preferred, batch, {}, {}, str(programs))
        return
    name, installed = found_host_launcher(preferred, batch, {}, {}, str(programs))
    assert (name, installed.path) == (method, str(programs / method))


def test_hosts_are_started_where_a_platform_says_the_launcher_is(programs: Path, tmp_path: Path) -> None:
    for name in ("pbsdsh", "mysrun"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    paths = {"srun": str(tmp_path / "mysrun")}
    assert found_host_launcher([], "slurm", paths, {}, "")[1].path == paths["srun"]
    assert found_host_launcher([], "pbspro", {}, {}, str(tmp_path))[0] == "pbsdsh"


@pytest.mark.parametrize(("batch", "daemons"), [("slurm", "slurm"), ("pbspro", "")])
def test_an_mpiexec_of_mpich_calls_srun_where_there_is_slurm_and_is_told_so(tmp_path: Path, batch: str, daemons: str) -> None:
    (tmp_path / "mpiexec").write_text("#!/bin/sh\nprintf 'HYDRA build details:\\n    Version:    4.2.0\\n'\n")
    (tmp_path / "mpiexec").chmod(0o755)

    assert found_launchers([], batch, {}, {}, str(tmp_path))["mpiexec"].option("daemons") == daemons
    named = found_launchers([], batch, {}, {"mpiexec": {"daemons": "ssh"}}, str(tmp_path))
    assert named["mpiexec"].option("daemons") == "ssh"


def test_a_platform_says_how_many_launches_its_launcher_bears(programs: Path) -> None:
    found = found_launchers(["srun"], "slurm", {}, {"srun": {"ceiling": "20", "mpi": "pmix"}}, str(programs))
    assert (found["srun"].ceiling, found["srun"].options) == (20, {"mpi": "pmix"})

    for value in ("0", "-1", "many"):
        with pytest.raises(BackendError, match=rf"srun\.ceiling='{value}': it takes how many launches may be under way"):
            found_launchers(["srun"], "slurm", {}, {"srun": {"ceiling": value}}, str(programs))
