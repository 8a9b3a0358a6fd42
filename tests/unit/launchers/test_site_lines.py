"""Lines of the launchers of single sites and makers (Cray, IBM, TACC, Flux, PRRTE) beside the shapes of tasks."""

from __future__ import annotations

import pytest
from launch_shapes import FOLDER, NIDS, rendered, request_on, shown, slots_on

from pilotage.errors import BackendError
from pilotage.launchers.method import Installed, LaunchRequest, Step
from pilotage.launchers.prrte import dvm_line
from pilotage.launchers.registry import launch_method
from pilotage.model.ranks import RankSlot

AT = f"{FOLDER}/pilotage.task.000007.1"
FILE = "pilotage.task.000007.1"
ONE, EVEN, FILLED, UNEVEN, TURNED, MIXED = [3], [3, 3, 4, 4], [3, 3, 3, 4], [3, 4, 4], [4, 3, 3], [3, 4, 3]

APRUN = Installed("aprun")
JSRUN = Installed("jsrun")
SMT4 = Installed("jsrun", options={"threads_per_core": "4", "smpi": "-gpu"})
POE = Installed("poe")
RUNJOB = Installed("runjob", options={"block": "R00"})
PART = Installed("runjob", options={"block": "R00", "corner": "R00-M0-N00-J00", "shape": "1x1x1x1x2"})
IBRUN = Installed("ibrun", options={"cores_per_node": "56"})
ALONE = Installed("ibrun")
FLUX = Installed("flux")
PRTERUN = Installed("prterun")
PRUN = Installed("prun", options={"dvm_uri": "file:/tmp/dvm"})
ORTE = Installed("orte-submit", options={"dvm_uri": "file:/tmp/dvm"})


def nids(nodes: list[int], cores: int = 1, memory_mib: int = 0) -> LaunchRequest:
    return request_on(nodes, cores, names=NIDS, exclusive=True, memory_mib=memory_mib)


def at(*places: tuple[int, int], cores: int = 1) -> LaunchRequest:
    """Return a request for ranks on these nodes, each from this core on."""
    return request_on((), slots=[RankSlot(node, 0, tuple(range(first, first + cores)), ()) for node, first in places])


FLUX_RUN = "flux run --job-name=pilotage:task.000007:1"
UNBOUND = "-o cpu-affinity=off -o gpu-affinity=off"
JSRUN_ERF = f"jsrun --erf_input {AT}.erf"

LINES: dict[str, tuple[str, Installed, LaunchRequest, str]] = {
    "aprun, one": ("aprun", APRUN, nids(ONE), "aprun -n 1 -N 1 -d 1 -L 13 -cc none -b -q"),
    "aprun, threads": ("aprun", APRUN, nids(EVEN, cores=8), "aprun -n 4 -N 2 -d 8 -L 13-14 -cc none -b -q"),
    "aprun, fewer on the last": ("aprun", APRUN, nids(FILLED), "aprun -n 4 -N 3 -d 1 -L 13-14 -cc none -b -q"),
    "aprun, memory": ("aprun", APRUN, nids([3, 7], memory_mib=900), "aprun -n 2 -N 1 -d 1 -L 13,17 -cc none -m 900M -b -q"),
    "jsrun, one": ("jsrun", JSRUN, request_on(ONE), f"{JSRUN_ERF} --exit_on_error 1"),
    "jsrun, mixed, GPUs": ("jsrun", SMT4, request_on(MIXED, 2, 1), f"{JSRUN_ERF} --smpiargs -gpu --exit_on_error 1"),
    "jsrun, resource sets": (
        "jsrun",
        JSRUN,
        request_on((), slots=[RankSlot(3, 0, (), (0,)), RankSlot(3, 1, (), (1,)), RankSlot(4, 0, (), (0,))], memory_mib=100),
        "jsrun --nrs 3 --tasks_per_rs 1 --cpu_per_rs 1 --gpu_per_rs 1 --rs_per_host 2 --memory_per_rs 100 "
        "--launch_distribution packed --bind none --exit_on_error 1",
    ),
    "poe, mixed": ("poe", POE, request_on(MIXED), "poe"),
    "runjob, even": ("runjob", RUNJOB, request_on(EVEN), "runjob --block R00 --np 4 --ranks-per-node 2 --env-all : ./md -x"),
    "runjob, part of a block": (
        "runjob",
        PART,
        request_on([3, 4]),
        "runjob --block R00 --corner R00-M0-N00-J00 --shape 1x1x1x1x2 --np 2 --ranks-per-node 1 --env-all : ./md -x",
    ),
    "ibrun, one at the third node": ("ibrun", IBRUN, request_on([2]), "ibrun -n 1 -o 112"),
    "ibrun, threads behind others": ("ibrun", IBRUN, at((2, 14), (2, 21), cores=7), "ibrun -n 2 -o 18"),
    "ibrun, over the end of a node": ("ibrun", IBRUN, at((2, 42), (3, 0), cores=14), "ibrun -n 2 -o 11"),
    "ibrun, nodes of its own": ("ibrun", ALONE, request_on(EVEN), "ibrun -n 4 -o 6"),
    "flux, one": (
        "flux",
        FLUX,
        request_on(ONE, cores=4, gpus=1),
        f"{FLUX_RUN} --nodes=1 --ntasks=1 --cores-per-task=4 --gpus-per-task=1 --requires=host:n03 {UNBOUND}",
    ),
    "flux, even, exclusive": (
        "flux",
        FLUX,
        request_on(EVEN, exclusive=True),
        f"{FLUX_RUN} --nodes=2 --ntasks=4 --cores-per-task=1 --requires=host:n03,n04 --exclusive {UNBOUND}",
    ),
    "flux, mixed": (
        "flux",
        Installed("flux", options={"mpi": "none"}),
        request_on(MIXED),
        f"{FLUX_RUN} --nodes=2 --ntasks=3 --cores-per-task=1 --requires=host:n03,n04 --taskmap=hostfile:{AT}.hosts "
        f"{UNBOUND} -o mpi=none",
    ),
    "prterun, even": (
        "prrte",
        PRTERUN,
        request_on(EVEN),
        "prterun --bind-to none --map-by slot:OVERSUBSCRIBE --host n03:2,n04:2 --np 4",
    ),
    "prun, uneven": (
        "prrte",
        PRUN,
        request_on(UNEVEN),
        "prun --dvm-uri file:/tmp/dvm --bind-to none --map-by slot:OVERSUBSCRIBE --host n03:1,n04:2 --np 3",
    ),
    "prun, mixed": (
        "prrte",
        PRUN,
        request_on(MIXED),
        f"prun --dvm-uri file:/tmp/dvm --bind-to none --map-by seq:FILE={AT}.hosts:OVERSUBSCRIBE --host n03:2,n04:1 --np 3",
    ),
    "orte, uneven": (
        "orte",
        ORTE,
        request_on(UNEVEN),
        "orte-submit --hnp file:/tmp/dvm --bind-to none -host n03,n04,n04 -np 3",
    ),
}


@pytest.mark.parametrize(("method", "installed", "request_", "expected"), LINES.values(), ids=LINES.keys())
def test_lines(method: str, installed: Installed, request_: LaunchRequest, expected: str) -> None:
    assert shown(rendered(method, installed, request_)) == expected


ERF_HEAD = "cpu_index_using: logical\noverlapping_rs: allow\noversubscribe_gpu: allow\n"

FILES: dict[str, tuple[str, Installed, LaunchRequest, str, str]] = {
    "jsrun, one": ("jsrun", JSRUN, request_on(ONE), ".erf", f"{ERF_HEAD}rank: 0: {{ host: 4; cpu: {{0}} }}\n"),
    "jsrun, four threads a core": (
        "jsrun",
        SMT4,
        request_on(MIXED, cores=2, gpus=1),
        ".erf",
        f"{ERF_HEAD}"
        "rank: 0: { host: 4; cpu: {0,1,2,3,4,5,6,7} ; gpu: {0} }\n"
        "rank: 1: { host: 5; cpu: {0,1,2,3,4,5,6,7} ; gpu: {0} }\n"
        "rank: 2: { host: 4; cpu: {8,9,10,11,12,13,14,15} ; gpu: {1} }\n",
    ),
    "poe": ("poe", POE, request_on(MIXED), ".hosts", "n03\nn04\nn03\n"),
    "flux": ("flux", FLUX, request_on(MIXED), ".hosts", "n03\nn04\nn03\n"),
    "prun": ("prrte", PRUN, request_on(MIXED), ".hosts", "n03\nn04\nn03\n"),
}


@pytest.mark.parametrize(("method", "installed", "request_", "ending", "expected"), FILES.values(), ids=FILES.keys())
def test_files(method: str, installed: Installed, request_: LaunchRequest, ending: str, expected: str) -> None:
    assert rendered(method, installed, request_).files[f"{FILE}{ending}"] == expected


def test_jsrun_binds_so_no_script_does() -> None:
    assert "taskset" not in "".join(rendered("jsrun", JSRUN, request_on(EVEN)).arguments)


def test_poe_is_told_by_variables() -> None:
    environment = rendered("poe", POE, request_on(MIXED)).environment

    assert (
        environment.items()
        >= {
            b"MP_PROCS": b"3",
            b"MP_HOSTFILE": f"{AT}.hosts".encode(),
            b"LSB_MCPU_HOSTS": b"n03 1 n04 1 n03 1",
            b"MP_NOARGLIST": b"yes",
        }.items()
    )


def test_ibrun_is_told_by_a_variable_how_many_places_a_node_has() -> None:
    threads = rendered("ibrun", IBRUN, at((2, 14), (2, 21), cores=7))

    assert threads.environment[b"IBRUN_TASKS_PER_NODE"] == b"8"
    assert rendered("ibrun", ALONE, request_on(EVEN)).environment[b"IBRUN_TASKS_PER_NODE"] == b"2"
    assert threads.environment.items() >= {b"I_MPI_PIN": b"0", b"MV2_ENABLE_AFFINITY": b"0"}.items()


@pytest.mark.parametrize(("kind", "name"), [("intelmpi", "PMI_RANK"), ("mvapich", "MV2_COMM_WORLD_RANK")])
def test_ibruns_ranks_know_themselves_as_their_mpi_tells(kind: str, name: str) -> None:
    assert f"_rank=${name}\n" in "".join(rendered("ibrun", Installed("ibrun", kind), request_on(EVEN)).arguments)


def test_runjob_gives_ranks_what_all_have_in_common() -> None:
    slots = slots_on([3, 3])

    assert rendered("runjob", RUNJOB, request_on((), slots=slots)).environment == {b"PILOTAGE_NODE": b"n03"}


REFUSED: dict[str, tuple[str, Installed, LaunchRequest, str]] = {
    "aprun, shared nodes": ("aprun", APRUN, request_on(EVEN, names=NIDS), "one task on a node at a time.*exclusive=True"),
    "aprun, uneven": ("aprun", APRUN, nids(UNEVEN), "fewer only on the last; asked for are 1, 2"),
    "aprun, turned": ("aprun", APRUN, nids(TURNED), "in the order of the allocation"),
    "aprun, names": ("aprun", APRUN, request_on(ONE, names={3: "login1"}, exclusive=True), "by number, and 'login1' has none"),
    "runjob, three ranks": ("runjob", RUNJOB, request_on([3] * 3), "1, 2, 4, ... or 64 ranks on a node, and not 3"),
    "runjob, GPUs": ("runjob", RUNJOB, request_on(ONE, gpus=1), "without GPUs; ask for gpus_per_rank=0"),
    "runjob, variables": ("runjob", RUNJOB, request_on(ONE, words=[None, '"$X"']), "no shell on its nodes"),
    "runjob, block": ("runjob", Installed("runjob"), request_on(ONE), "set its option, block="),
    "ibrun, a gap": ("ibrun", IBRUN, at((2, 0), (3, 0)), "rank 1 is elsewhere: node 3, cores 0; ask for ranks that fill"),
    "ibrun, between places": ("ibrun", IBRUN, at((2, 3), cores=7), "places of 7 cores, and rank 0 is on cores 3, 4"),
    "ibrun, too large": ("ibrun", IBRUN, at((2, 0), cores=57), "56 cores on a node, and a rank is to have 57"),
    "ibrun, a wrong number": (
        "ibrun",
        Installed("ibrun", options={"cores_per_node": "many"}),
        request_on(ONE),
        "option cores_per_node='many' of ibrun: it takes a whole number",
    ),
    "ibrun, kind": ("ibrun", Installed("ibrun", "mvapitch"), request_on(ONE), "did you mean 'mvapich'"),
    "prun without a DVM": ("prrte", Installed("/opt/prun"), request_on(ONE), "needs a DVM for prun; set its option, dvm_uri="),
    "orte without a DVM": ("orte", Installed("orte-submit"), request_on(ONE), "set its option, dvm_uri="),
    "orte, turned": ("orte", ORTE, request_on(TURNED), "in the order of the allocation"),
    "orte_lib": ("orte_lib", ORTE, request_on(ONE), "no command line for one; use launch_method='orte'"),
    "mpirun_ccmrun here": (
        "mpirun_ccmrun",
        Installed("mpirun", "mpich"),
        request_on(ONE, here=True),
        "use launch_method='mpirun'",
    ),
}


@pytest.mark.parametrize(("method", "installed", "request_", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_a_method_cannot_do_is_refused(method: str, installed: Installed, request_: LaunchRequest, why: str) -> None:
    with pytest.raises(BackendError, match=f"{method}.*{why}" if method not in ("ibrun",) else why):
        rendered(method, installed, request_)


@pytest.mark.parametrize(("program", "own"), [("prte", ["--no-ready-msg"]), ("orte-dvm", [])])
def test_the_line_of_a_dvm(program: str, own: list[str]) -> None:
    line = dvm_line(Installed(program), {1: "n01", 0: "n00"}, 8, "dvm.0", "/scratch/pilot")

    assert line.arguments == [
        *(program, *own, "--report-uri", "/scratch/pilot/dvm.0.uri", "--hostfile", "/scratch/pilot/dvm.0.hosts")
    ]
    assert line.files == {"dvm.0.hosts": "n00 slots=8\nn01 slots=8\n"}


def test_steps_of_flux_and_jsrun() -> None:
    flux, jsrun = launch_method("flux").facts.steps, launch_method("jsrun").facts.steps
    assert flux is not None and jsrun is not None

    assert flux.parse_steps("f2BeWz pilotage:task.000007:1\nf3 sh\n") == [
        Step("f2BeWz", "pilotage:task.000007:1"),
        Step("f3", "sh"),
    ]
    assert flux.cancel_arguments("", "f3") == ["flux", "cancel", "f3"]
    assert jsrun.parse_steps("      parent     cpus\n  ID   ID  nrs status\n====\n   12    0    4 Running\n") == [
        Step("12", "")
    ]
    assert jsrun.cancel_arguments("", "12") == ["jskill", "12"]
