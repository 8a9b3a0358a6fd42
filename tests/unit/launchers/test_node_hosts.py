"""The command lines that start a host on each node."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from pilotage.errors import BackendError
from pilotage.launchers.method import LaunchLine
from pilotage.launchers.node_hosts import HOST_METHODS, PBSDSH, USUAL, host_line
from pilotage.model.installed import Installed

COMMAND = ("/usr/bin/python3", "-c", "import this", "/shared/pilot")


def line_of(
    method: str,
    nodes: Sequence[str],
    installed: Installed | None = None,
    folder: str = "/shared/hosts",
    gpus: int | None = None,
) -> LaunchLine:
    return host_line(
        method,
        installed or Installed(method),
        nodes,
        COMMAND,
        name="pilotage-hosts:pilot.0",
        folder=folder,
        node_variable="NODE",
        environment={b"PATH": b"/usr/bin:/bin"},
        gpus_per_node=gpus,
    )


def test_srun_starts_one_step_beside_all_others() -> None:
    line = line_of("srun", ["n1", "n2", "n3"], Installed("/opt/srun", version="23.02.1"), gpus=0)
    for option in (
        "--nodes=3",
        "--ntasks=3",
        "--ntasks-per-node=1",
        "--nodelist=n1,n2,n3",
        "--overlap",
        "--mem=0",
        "--gres=none",
        "--cpu-bind=none",
        "--kill-on-bad-exit=0",
        "--no-kill",
        "--mpi=none",
    ):
        assert option in line.arguments
    assert line.arguments[0] == "/opt/srun"
    assert line.arguments[-len(COMMAND) :] == list(COMMAND)
    assert not [option for option in line.arguments if option.startswith(("--exact", "--cpus-per-task", "--exclusive"))]
    assert {b"SLURM_CPUS_PER_TASK", b"SLURM_GRES", b"SLURM_MEM_PER_NODE"} <= set(line.unset)
    assert (line.environment, line.files) == ({}, {})


@pytest.mark.parametrize(("gpus", "options"), [(0, ["--gres=none"]), (4, ["--gres=gpu:4"]), (None, [])])
def test_a_step_of_srun_holds_the_gpus_that_its_processes_are_to_see(gpus: int | None, options: list[str]) -> None:
    line = line_of("srun", ["n1", "n2"], gpus=gpus)
    assert [option for option in line.arguments if option.startswith("--gres")] == options


def test_old_versions_of_slurm_know_no_overlap() -> None:
    assert "--overlap" not in line_of("srun", ["n1"], Installed("srun", version="20.02.7")).arguments


def test_nodes_are_told_their_names_where_the_launcher_does_not() -> None:
    line = line_of("mpiexec", ["n1", "n2"], Installed("mpiexec", "mpich", "4.2"))
    assert line.arguments[:2] == ["mpiexec", "-disable-auto-cleanup"]
    script = next(argument for argument in line.arguments if "NODE" in argument)
    assert "n1" in script and "n2" in script


def test_what_keeps_cores_for_itself_cannot_start_hosts() -> None:
    for method in ("aprun", "jsrun", "flux"):
        with pytest.raises(BackendError, match=f"{method} cannot start hosts on nodes; name one of srun, mpiexec"):
            line_of(method, ["n1"])
    assert {method for usual in USUAL.values() for method in usual} <= set(HOST_METHODS)


def played(tmp_path: Path, line: LaunchLine, hosts: Sequence[str]) -> list[str]:
    """Return what the processes print that a launcher starts which runs the command on these hosts, one after the other."""
    command = line.arguments[line.arguments.index("--") + 1 :]
    stand_in = tmp_path / "bin"
    stand_in.mkdir()
    (stand_in / "uname").write_text("#!/bin/sh\necho $HOST_HERE\n")
    (stand_in / "uname").chmod(0o755)
    printed = []
    for host in hosts:
        environment = {"PATH": f"{stand_in}:{os.environ['PATH']}", "HOST_HERE": host}
        printed.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip())
    return printed


def test_of_what_pbsdsh_starts_one_goes_on_on_each_wanted_node(tmp_path: Path) -> None:
    line = host_line(
        PBSDSH,
        Installed("/opt/pbs/bin/pbsdsh"),
        ["n1.site.org", "n3"],
        ["/bin/sh", "-c", "echo here"],
        name="hosts.0",
        folder=str(tmp_path),
        node_variable="NODE",
        environment={},
    )
    assert line.arguments[:2] == ["/opt/pbs/bin/pbsdsh", "--"]
    hosts = ["n1", "n1", "n2", "n3.site.org", "n3.site.org"]
    assert played(tmp_path, line, hosts) == ["here", "", "", "here", ""]
