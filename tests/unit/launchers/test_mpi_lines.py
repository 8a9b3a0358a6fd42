"""Lines of mpirun and mpiexec over hosts, and of the launchers of single MPI libraries, beside the shapes of tasks."""

from __future__ import annotations

import pytest
from launch_shapes import FOLDER, rendered, request_on, shown

from pilotage.errors import BackendError
from pilotage.launchers.method import Installed, LaunchRequest

HOSTS = f"{FOLDER}/pilotage.task.000007.1.hosts"
MPICH = Installed("mpiexec", "mpich", "4.2")
INTEL = Installed("mpiexec", "intelmpi", "2021.9")
OPENMPI = Installed("mpiexec", "openmpi", "5.0.3")
OPENMPI_4 = Installed("mpiexec", "openmpi", "4.1.4")
PALS = Installed("mpiexec", "pals", "1.2")
UNBOUND = "--bind-to none --map-by"

ONE, EVEN, UNEVEN, TURNED, MIXED = [3], [3, 3, 4, 4], [3, 3, 3, 4], [4, 3, 3], [3, 4, 3]

SHAPES = {
    "MPICH, one rank": (MPICH, ONE, "-bind-to none -hosts n03:1 -n 1", ""),
    "MPICH, even": (MPICH, EVEN, "-bind-to none -hosts n03:2,n04:2 -n 4", ""),
    "MPICH, uneven": (MPICH, UNEVEN, "-bind-to none -hosts n03:3,n04:1 -n 4", ""),
    "MPICH, turned": (MPICH, TURNED, "-bind-to none -hosts n04:1,n03:2 -n 3", ""),
    "Intel MPI, even": (INTEL, EVEN, f"-genvall -machinefile {HOSTS} -n 4", "n03:2\nn04:2\n"),
    "Intel MPI, uneven": (INTEL, UNEVEN, f"-genvall -machinefile {HOSTS} -n 4", "n03:3\nn04:1\n"),
    "OpenMPI 5, even": (OPENMPI, EVEN, f"{UNBOUND} slot:OVERSUBSCRIBE --host n03:2,n04:2 -n 4", ""),
    "OpenMPI 5, uneven": (OPENMPI, UNEVEN, f"{UNBOUND} slot:OVERSUBSCRIBE --host n03:3,n04:1 -n 4", ""),
    "OpenMPI 5, turned": (OPENMPI, TURNED, f"{UNBOUND} slot:OVERSUBSCRIBE --host n04:1,n03:2 -n 3", ""),
    "OpenMPI 5, mixed": (
        OPENMPI,
        MIXED,
        f"{UNBOUND} seq:FILE={HOSTS}:OVERSUBSCRIBE --hostfile {HOSTS} -n 3",
        "n03\nn04\nn03\n",
    ),
    "OpenMPI 4, uneven": (
        OPENMPI_4,
        UNEVEN,
        f"{UNBOUND} seq:OVERSUBSCRIBE --default-hostfile {HOSTS} -n 4",
        "n03\n" * 3 + "n04\n",
    ),
    "PALS, even": (PALS, EVEN, "--ppn 2 --hosts n03,n04 --cpu-bind none -n 4", ""),
    "PALS, fewer on the last": (PALS, UNEVEN, "--ppn 3 --hosts n03,n04 --cpu-bind none -n 4", ""),
}


@pytest.mark.parametrize(("installed", "nodes", "expected", "file"), SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("method", ["mpiexec", "mpirun", "mpirun_ccmrun"])
def test_hosts_as_each_kind_takes_them(method: str, installed: Installed, nodes: list[int], expected: str, file: str) -> None:
    line = rendered(method, installed, request_on(nodes))

    assert shown(line) == f"{'ccmrun ' * (method == 'mpirun_ccmrun')}mpiexec {expected}"
    assert line.files.get("pilotage.task.000007.1.hosts", "") == file


@pytest.mark.parametrize(
    ("installed", "nodes", "why"),
    [
        (MPICH, MIXED, "starts the ranks of a node one after the other"),
        (INTEL, MIXED, "starts the ranks of a node one after the other"),
        (PALS, MIXED, "numbers ranks by the nodes in the order of the allocation"),
        (PALS, TURNED, "numbers ranks by the nodes in the order of the allocation"),
        (PALS, [3, 4, 4], r"the same number of ranks on each node, and fewer only on the last; asked for are 1, 2"),
    ],
)
def test_spreads_that_a_kind_cannot_say_are_refused(installed: Installed, nodes: list[int], why: str) -> None:
    with pytest.raises(BackendError, match=why):
        rendered("mpiexec", installed, request_on(nodes))


def test_hosts_of_many_nodes_are_in_a_file() -> None:
    request = request_on([node for node in range(40) for _ in range(2)])
    mpich, openmpi = rendered("mpiexec", MPICH, request), rendered("mpiexec", OPENMPI, request)

    assert shown(mpich) == f"mpiexec -bind-to none -f {HOSTS} -n 80"
    assert mpich.files["pilotage.task.000007.1.hosts"].splitlines()[:2] == ["n00:2", "n01:2"]
    assert shown(openmpi) == f"mpiexec {UNBOUND} slot:OVERSUBSCRIBE --hostfile {HOSTS} -n 80"
    assert openmpi.files["pilotage.task.000007.1.hosts"].splitlines()[:2] == ["n00 slots=2", "n01 slots=2"]


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        (MPICH, ["-launcher", "slurm"]),
        (INTEL, ["-bootstrap", "slurm"]),
    ],
)
def test_who_starts_daemons_on_other_hosts(installed: Installed, expected: list[str]) -> None:
    told = Installed("mpiexec", installed.kind, installed.version, (), {"daemons": "slurm"})

    assert rendered("mpiexec", told, request_on(EVEN)).arguments[1:3] == expected


@pytest.mark.parametrize("kind", ["mpich", "intelmpi", "openmpi"])
def test_daemons_by_srun_share_their_nodes_and_hold_no_memory(kind: str) -> None:
    line = rendered("mpiexec", Installed("mpiexec", kind, "5.0", options={"daemons": "slurm"}), request_on(ONE))
    alone = rendered("mpiexec", Installed("mpiexec", kind, "5.0", options={"daemons": "ssh"}), request_on(ONE))

    shared = {b"SLURM_OVERLAP": b"1", b"SLURM_MEM_PER_NODE": b"0", b"SLURM_CPU_BIND": b"none"}
    assert shared.items() <= line.environment.items()
    assert b"SLURM_CPUS_PER_TASK" in line.unset
    assert not shared.keys() & alone.environment.keys()
    assert alone.unset == ()


def test_openmpi_is_told_by_variables_who_starts_its_daemons() -> None:
    new = Installed("mpiexec", "openmpi", "5.0.3", (), {"daemons": "ssh"})
    old = Installed("mpiexec", "openmpi", "4.1.4", (), {"daemons": "slurm"})
    environment = rendered("mpiexec", new, request_on(EVEN)).environment

    assert (environment[b"PRTE_MCA_plm"], environment[b"PRTE_MCA_plm_ssh_agent"]) == (b"ssh", b"ssh")
    assert rendered("mpiexec", old, request_on(EVEN)).environment[b"OMPI_MCA_plm"] == b"slurm"


def test_openmpi_passes_no_environment_to_other_hosts_so_a_file_brings_it() -> None:
    request = request_on(EVEN, environment={b"TOKEN": b"it's secret", b"BASH_FUNC_x%%": b"() { :; }"})
    line = rendered("mpiexec", OPENMPI, request)
    script = line.files["pilotage.task.000007.1.ranks.sh"]

    assert line.arguments[-4:] == ["/bin/sh", f"{FOLDER}/pilotage.task.000007.1.ranks.sh", "./md", "-x"]
    assert """export TOKEN='it'"'"'s secret'""" in script
    assert "BASH_FUNC" not in script
    assert not [argument for argument in line.arguments if "secret" in argument]
    assert "secret" not in str(rendered("mpiexec", MPICH, request))


def test_ranks_that_no_line_can_say_are_said_by_a_file() -> None:
    slots = request_on([node for node in range(100) for _ in range(100)], cores=3)
    line = rendered("mpiexec", MPICH, slots)

    assert line.arguments[-4:] == ["/bin/sh", f"{FOLDER}/pilotage.task.000007.1.ranks.sh", "./md", "-x"]
    assert "\n9999)" in line.files["pilotage.task.000007.1.ranks.sh"]


def test_a_kind_that_is_not_known() -> None:
    with pytest.raises(
        BackendError, match=r"kind 'mpch' of MPI is not known; did you mean 'mpich'\?; known are mpich, intelmpi"
    ):
        rendered("mpirun", Installed("mpirun", "mpch"), request_on(ONE))


VENDORS: dict[str, tuple[str, Installed, LaunchRequest, str]] = {
    "MPT, one": ("mpirun_mpt", Installed("mpirun"), request_on(ONE), "mpirun n03 -np 1"),
    "MPT, even": ("mpirun_mpt", Installed("mpirun"), request_on(EVEN), "mpirun n03,n04 -np 2"),
    "MPT, uneven": ("mpirun_mpt", Installed("mpirun"), request_on(UNEVEN), "mpirun n03,n03,n03,n04 -np 1"),
    "MPT, here": ("mpirun_mpt", Installed("mpirun"), request_on(EVEN, here=True), "mpirun -np 4"),
    "mpirun_rsh, even": (
        "mpirun_rsh",
        Installed("mpirun_rsh"),
        request_on(EVEN),
        f"mpirun_rsh -ssh -np 4 -hostfile {HOSTS} MV2_ENABLE_AFFINITY=0",
    ),
    "mpirun_rsh by rsh": (
        "mpirun_rsh",
        Installed("mpirun_rsh", options={"daemons": "rsh"}),
        request_on(MIXED),
        f"mpirun_rsh -rsh -np 3 -hostfile {HOSTS} MV2_ENABLE_AFFINITY=0",
    ),
    "mpirun_dplace of MPT": ("mpirun_dplace", Installed("mpirun"), request_on(EVEN, cores=4), "mpirun n03,n04 -np 2"),
    "mpirun_dplace of MPICH": (
        "mpirun_dplace",
        MPICH,
        request_on(EVEN, cores=4),
        "mpiexec -bind-to none -hosts n03:2,n04:2 -n 4",
    ),
    "dplace": ("dplace", Installed("dplace"), request_on(ONE, cores=4), ""),
}


@pytest.mark.parametrize(("method", "installed", "request_", "expected"), VENDORS.values(), ids=VENDORS.keys())
def test_launchers_of_single_libraries(method: str, installed: Installed, request_: LaunchRequest, expected: str) -> None:
    assert shown(rendered(method, installed, request_)) == expected


def test_a_line_of_mpirun_rsh_for_each_block() -> None:
    assert rendered("mpirun_rsh", Installed("mpirun_rsh"), request_on(MIXED)).files["pilotage.task.000007.1.hosts"] == (
        "n03:1\nn04:1\nn03:1\n"
    )


@pytest.mark.parametrize("method", ["dplace", "mpirun_dplace"])
def test_dplace_stands_where_taskset_would(method: str) -> None:
    installed = Installed("dplace") if method == "dplace" else MPICH
    line = rendered(method, installed, request_on(ONE, cores=4))

    assert '_bind="dplace -c 0-3"' in "".join(line.arguments)
    assert "taskset" not in "".join(line.arguments)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (request_on(EVEN), "dplace' starts one rank, and asked for are 4; use launch_method='mpirun_dplace'"),
        (request_on(ONE, bound=False), "dplace' binds to cores, and there are none to bind to; use launch_method='fork'"),
    ],
)
def test_what_dplace_alone_cannot_do(request_: LaunchRequest, why: str) -> None:
    with pytest.raises(BackendError, match=why):
        rendered("dplace", Installed("dplace"), request_)


def test_mpirun_rsh_knows_two_ways_to_other_hosts() -> None:
    with pytest.raises(BackendError, match="by ssh or rsh, not by 'slurm'"):
        rendered("mpirun_rsh", Installed("mpirun_rsh", options={"daemons": "slurm"}), request_on(ONE))
