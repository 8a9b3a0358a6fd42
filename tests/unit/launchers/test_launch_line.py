"""Command lines of MPI tasks: each kind of mpiexec beside the shapes of tasks, and what a rank's script does by itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pilotage.errors import BackendError
from pilotage.launchers.launch_line import render
from pilotage.launchers.method import LaunchLine
from pilotage.launchers.mpi_methods import RANK_VARIABLES
from pilotage.launchers.rank_script import core_list
from pilotage.model.ranks import RankSlot
from pilotage.model.workload import MpiKind, MpiLauncher

LOCAL_MPICH = ["-launcher", "fork", "-hosts", "localhost", "-bind-to", "none"]
LOCAL_INTEL = ["-launcher", "fork", "-hosts", "localhost"]
LOCAL_OPENMPI = ["--bind-to", "none", "--map-by", "slot:OVERSUBSCRIBE"]


def launcher(kind: MpiKind, version: str = "5.0") -> MpiLauncher:
    return MpiLauncher(kind, "/opt/mpi/bin/mpiexec", version)


def variables(slots: list[RankSlot]) -> list[dict[bytes, bytes]]:
    return [
        {
            b"PILOTAGE_RANK": b"%d" % rank,
            b"RP_RANK": b"%d" % rank,
            b"PILOTAGE_LOCAL_RANK": b"%d" % slot.local_rank,
            b"PILOTAGE_NODE": b"node%d" % slot.node,
            **({b"CUDA_VISIBLE_DEVICES": b",".join(b"%d" % gpu for gpu in slot.gpus)} if slot.gpus else {}),
        }
        for rank, slot in enumerate(slots)
    ]


def slots_of(ranks: int, per_node: int, cores: int = 1, gpus: int = 0) -> list[RankSlot]:
    return [
        RankSlot(
            rank // per_node,
            rank % per_node,
            tuple(range(rank % per_node * cores, (rank % per_node + 1) * cores)),
            tuple(range(rank % per_node * gpus, (rank % per_node + 1) * gpus)),
        )
        for rank in range(ranks)
    ]


def line_of(
    kind: MpiKind, slots: list[RankSlot], *, bound: bool = False, command: tuple[str, ...] = ("./md", "-x")
) -> LaunchLine:
    bind = [frozenset(slot.cores) for slot in slots] if bound else None
    return render(launcher(kind), slots, command, variables(slots), bind)


@pytest.mark.parametrize(
    ("kind", "ranks", "options"),
    [
        ("mpich", 1, LOCAL_MPICH),
        ("mpich", 48, LOCAL_MPICH),
        ("intelmpi", 4, LOCAL_INTEL),
        ("openmpi", 4, LOCAL_OPENMPI),
        ("pals", 4, ["--ppn", "4", "--cpu-bind", "none"]),
    ],
)
def test_each_kind_starts_all_ranks_here_and_binds_none(kind: MpiKind, ranks: int, options: list[str]) -> None:
    arguments = line_of(kind, slots_of(ranks, 16)).arguments

    assert arguments[:1] == ["/opt/mpi/bin/mpiexec"]
    script = arguments.index("-c") + 1
    assert arguments[1 : script - 1] == [*options, "-n", str(ranks), "/bin/sh"]
    assert arguments[script + 1 :] == ["sh", "./md", "-x"]


@pytest.mark.parametrize(
    ("kind", "version", "expected"),
    [
        ("mpich", "4.2", {b"MV2_ENABLE_AFFINITY": b"0", b"MVP_ENABLE_AFFINITY": b"0"}),
        ("intelmpi", "2021.9", {b"I_MPI_PIN": b"0"}),
        ("openmpi", "4.1.4", {b"OMPI_MCA_plm": b"isolated", b"OMPI_ALLOW_RUN_AS_ROOT": b"1"}),
        ("openmpi", "5.0.11", {b"PRTE_MCA_plm": b"ssh", b"PRTE_ALLOW_RUN_AS_ROOT": b"1", b"OMPI_ALLOW_RUN_AS_ROOT": b"1"}),
    ],
)
def test_what_each_kind_is_told_by_variables(kind: MpiKind, version: str, expected: dict[bytes, bytes]) -> None:
    slots = slots_of(2, 2)

    assert render(launcher(kind, version), slots, ["x"], variables(slots)).environment.items() >= expected.items()


def test_what_all_ranks_have_in_common_is_in_the_environment_alone() -> None:
    line = line_of("mpich", slots_of(2, 2))

    assert line.environment[b"PILOTAGE_NODE"] == b"node0"
    assert not [argument for argument in line.arguments if "NODE" in argument]


def test_ranks_that_differ_in_their_number_alone_need_no_table() -> None:
    script = line_of("mpich", slots_of(8, 8)).arguments[-4]

    assert "case" not in script


def test_so_many_different_ranks_that_no_line_can_say_it() -> None:
    slots = slots_of(20_000, 100, cores=2)

    with pytest.raises(BackendError, match=r"20000 ranks .* 120000 bytes; ask for fewer ranks"):
        line_of("mpich", slots, bound=True)


def test_a_large_task_fits_on_the_line() -> None:
    assert len(line_of("mpich", slots_of(3000, 100, cores=2, gpus=1), bound=True).arguments[-4]) < 120_000


def test_lists_of_cores() -> None:
    assert [core_list(cores) for cores in ((3,), (0, 1, 2), (9, 1, 2, 5), range(128))] == ["3", "0-2", "1-2,5,9", "0-127"]


PRINT = """\
printf '%s|' "$PILOTAGE_RANK" "$RP_RANK" "$PILOTAGE_LOCAL_RANK" "$PILOTAGE_NODE" "${CUDA_VISIBLE_DEVICES-none}" \
"$(taskset -cp $$ | sed 's/.*: //')" "$@"
"""


def as_rank(line: LaunchLine, kind: MpiKind, rank: int, **more: str) -> list[str]:
    """Run the script as the mpiexec would run it for this rank, and return what its program prints."""
    begin = line.arguments.index("/bin/sh")
    environment = {b"PATH": os.environb[b"PATH"], **line.environment, os.fsencode(RANK_VARIABLES[kind]): b"%d" % rank}
    environment.update({name.encode(): value.encode() for name, value in more.items()})
    done = subprocess.run(line.arguments[begin:], env=environment, capture_output=True, text=True)
    assert not done.stderr
    return done.stdout.split("|")[:-1]


@pytest.mark.parametrize("kind", ["mpich", "intelmpi", "openmpi", "pals"])
def test_each_rank_gets_what_is_its_own(kind: MpiKind) -> None:
    core = min(os.sched_getaffinity(0))
    slots = [slot._replace(cores=(core,)) for slot in slots_of(4, 2, gpus=1)]
    line = line_of(kind, slots, bound=True, command=("/bin/sh", "-c", PRINT, "sh", "a  b"))

    assert [as_rank(line, kind, rank) for rank in range(4)] == [
        ["0", "0", "0", "node0", "0", str(core), "a  b"],
        ["1", "1", "1", "node0", "1", str(core), "a  b"],
        ["2", "2", "0", "node1", "0", str(core), "a  b"],
        ["3", "3", "1", "node1", "1", str(core), "a  b"],
    ]


def test_each_rank_is_bound_to_its_own_cores() -> None:
    cores = sorted(os.sched_getaffinity(0))
    slots = [RankSlot(0, rank, (core,), ()) for rank, core in enumerate(cores)]
    line = line_of("mpich", slots, bound=True, command=("/bin/sh", "-c", PRINT, "sh"))

    assert [as_rank(line, "mpich", rank)[5] for rank in range(len(cores))] == [str(core) for core in cores]


def test_a_colon_among_the_arguments_does_not_begin_another_program() -> None:
    line = line_of("mpich", slots_of(2, 2), command=("/bin/sh", "-c", PRINT, "sh", ":", "it's"))

    assert ":" not in line.arguments
    assert as_rank(line, "mpich", 1)[6:] == [":", "it's"]


def test_a_variable_that_only_some_ranks_have_leaves_the_others_what_they_had() -> None:
    slots = slots_of(3, 3)
    given = variables(slots)
    given[1][b"CUDA_VISIBLE_DEVICES"] = b"7"
    line = render(launcher("mpich"), slots, ["/bin/sh", "-c", PRINT, "sh"], given)

    assert [as_rank(line, "mpich", rank, CUDA_VISIBLE_DEVICES="users")[4] for rank in range(3)] == ["users", "7", "users"]


def test_a_rank_that_does_not_know_its_number_says_so(tmp_path: Path) -> None:
    line = line_of("openmpi", slots_of(4, 2), command=("/bin/touch", str(tmp_path / "ran")))
    script = line.arguments[line.arguments.index("/bin/sh") :]
    done = subprocess.run(script, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)

    assert done.returncode == 127
    assert done.stderr == "pilotage: OMPI_COMM_WORLD_RANK='' is no rank of this task\n"
    assert not (tmp_path / "ran").exists()


def test_without_taskset_a_rank_runs_unbound_and_says_so(tmp_path: Path) -> None:
    slots = slots_of(2, 2)
    line = line_of("mpich", slots, bound=True, command=("/bin/echo", "here"))
    script = line.arguments[line.arguments.index("/bin/sh") :]
    done = subprocess.run(script, env={"PATH": str(tmp_path), "PMI_RANK": "1"}, capture_output=True, text=True)

    assert done.stdout == "here\n"
    assert done.stderr == (
        "pilotage: there is no taskset (package util-linux) in PATH: rank 1 is not bound to cores of its own\n"
    )
