"""What a job has, by system. These samples are made after what the manuals of the systems say; they are not recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import pytest

from pilotage.errors import BackendError, InvalidRequest
from pilotage.platforms.allocations import ALLOCATION_SYSTEMS, AllocatedNode, Allocation, discover, set_agent_nodes_apart
from pilotage.platforms.allocations.allocation import place_here

Files = Mapping[str, str]


def reader(files: Files) -> Callable[[str], str]:
    def read(path: str) -> str:
        try:
            return files[path]
        except KeyError:
            raise FileNotFoundError(2, "No such file or directory") from None

    return read


def allocation(
    environment: Mapping[str, str], files: Files | None = None, *, says: str | None = None, hostname: str = ""
) -> Allocation:
    def ask(command: Sequence[str]) -> str:
        assert says is not None
        return says

    found = discover(environment, reader(files or {}), None if says is None else ask, hostname=hostname)
    assert found is not None
    return found


PBS = {"PBS_JOBID": "1234.pbs01", "PBS_NODEFILE": "/var/spool/pbs/aux/1234.pbs01", "NCPUS": "64", "OMP_NUM_THREADS": "64"}
PBS_FILE = {PBS["PBS_NODEFILE"]: "x3001c0.hsn.example\n" * 4 + "x3002c0.hsn.example\n" * 4}
QSTAT = """Job Id: 1234.pbs01
    Job_Name = STDIN
    job_state = R
    exec_host = x3001c0/0*64+x3002c0/0*32
    exec_vnode = (x3001c0:ncpus=64:ngpus=4:mem=536870912kb)+(x3002c0[0]:ncpus=16:m
\tem=16gb:ngpus=1+x3002c0[1]:ncpus=16:mem=16gb)
    Resource_List.select = 1:ncpus=64:mpiprocs=4:ngpus=4+1:ncpus=32:mpiprocs=4
    Resource_List.walltime = 01:30:00
    stime = Sat Nov 21 21:00:00 2026
"""


def test_pbs_names_nodes_and_places_for_processes_and_leaves_cores_to_others() -> None:
    found = allocation(PBS, PBS_FILE, hostname="x3002c0")
    assert found == Allocation(
        system="pbs",
        job="1234.pbs01",
        nodes=(AllocatedNode(name="x3001c0.hsn.example", slots=4), AllocatedNode(name="x3002c0.hsn.example", slots=4)),
        here="x3002c0.hsn.example",
    )


def test_qstat_tells_cores_gpus_memory_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.mktime", lambda moment: 1_000_000.0)
    found = allocation(PBS, PBS_FILE, says=QSTAT)
    assert found.nodes == (
        AllocatedNode(name="x3001c0.hsn.example", cores=64, slots=4, gpus=4, memory_mib=524_288),
        AllocatedNode(name="x3002c0.hsn.example", cores=32, slots=4, gpus=1, memory_mib=32_768),
    )
    assert found.end_s == 1_005_400
    assert found.notes == ()


def test_qstat_that_names_other_nodes_is_not_believed() -> None:
    found = allocation(PBS, PBS_FILE, says=QSTAT.replace("x3002c0", "vnode7"))
    assert [node.cores for node in found.nodes] == [None, None]
    assert "'vnode7[0]'" in found.notes[0]


TORQUE = {
    "PBS_VERSION": "TORQUE-6.1.2",
    "PBS_JOBID": "77.head",
    "PBS_NODEFILE": "/aux/77",
    "PBS_GPUFILE": "/aux/77gpu",
    "PBS_NP": "12",
    "PBS_NUM_NODES": "1",
    "PBS_NUM_PPN": "4",
}


def test_torque_has_a_line_for_each_core() -> None:
    files = {"/aux/77": "n1\n" * 4 + "n2\n" * 8, "/aux/77gpu": "n1-gpu0\nn1-gpu1\n"}
    found = allocation(TORQUE, files, says=QSTAT.replace("stime", "start_time"))
    assert (found.system, found.job) == ("torque", "77.head")
    assert found.nodes == (
        AllocatedNode(name="n1", cores=4, slots=4, gpus=2, gpu_ids=("0", "1")),
        AllocatedNode(name="n2", cores=8, slots=8, gpus=0, gpu_ids=()),
    )
    assert found.end_s is not None


def test_torque_on_a_cray_has_a_line_for_each_node() -> None:
    found = allocation({**TORQUE, "PBS_NP": "64"}, {"/aux/77": "101\n102\n"})
    assert [(node.name, node.cores) for node in found.nodes] == [("101", 32), ("102", 32)]
    assert "PBS_GPUFILE='/aux/77gpu' cannot be read" in found.notes[0]


SUMMIT = {
    "LSB_JOBID": "331",
    "LSB_JOBINDEX": "0",
    "LSB_DJOB_HOSTFILE": "/lsf/331.hosts",
    "LSB_DJOB_RANKFILE": "/lsf/331.ranks",
    "LSB_MCPU_HOSTS": "batch2 1 a01n01 42 a01n02 42 ",
    "LSB_DJOB_NUMPROC": "85",
    "LSB_SUB_RES_REQ": "1*{select[LN]span[hosts=1]} + 84*{select[CN]order[!-slots]span[ptile=42]rusage[ngpus_physical=6.00]}",
    "CSM_ALLOCATION_ID": "5512",
}
SUMMIT_FILES = {"/lsf/331.hosts": "batch2\n" + "a01n01\n" * 42 + "a01n02\n" * 42}


def test_the_batch_node_of_summit_runs_no_tasks() -> None:
    found = allocation(SUMMIT, SUMMIT_FILES, hostname="batch2")
    assert found == Allocation(
        system="lsf",
        job="331",
        nodes=tuple(AllocatedNode(name=name, cores=42, slots=42, gpus=6) for name in ("a01n01", "a01n02")),
        launch_node="batch2",
    )


def test_a_launch_node_by_another_name_is_known_by_its_one_slot() -> None:
    lassen = {"LSB_JOBID": "9", "LSB_MCPU_HOSTS": "lassen710 1 lassen2 40 lassen3 40", "CSM_ALLOCATION_ID": "1"}
    assert allocation(lassen).launch_node == "lassen710"
    assert allocation({**lassen, "CSM_ALLOCATION_ID": ""}).launch_node is None
    assert allocation({"LSB_JOBID": "9", "LSB_MCPU_HOSTS": "batch1 1"}).launch_node is None


def test_the_rank_file_serves_where_nothing_else_is_there() -> None:
    found = allocation({"LSB_JOBID": "9", "LSB_JOBINDEX": "3", "LSB_DJOB_RANKFILE": "/r"}, {"/r": "n1\nn1\nn2\n"})
    assert (found.job, [(node.name, node.slots) for node in found.nodes]) == ("9[3]", [("n1", 2), ("n2", 1)])


def test_lsf_tells_the_numbers_of_cores_where_it_binds() -> None:
    environment = {"LSB_JOBID": "9", "LSB_MCPU_HOSTS": "n1 2 n2 1", "LSB_AFFINITY_HOSTFILE": "/a"}
    found = allocation(environment, {"/a": "n1 0,4 0\nn1 1,5 0\nn2 8-9 1 1\n"})
    assert [(node.cores, node.core_ids) for node in found.nodes] == [(4, (0, 1, 4, 5)), (2, (8, 9))]


def test_cobalt_on_theta_has_numbers_for_nodes() -> None:
    environment = {"COBALT_JOBID": "4", "COBALT_PARTNAME": "0-2,3834", "COBALT_PARTSIZE": "4", "COBALT_ENDTIME": "1565892131"}
    found = allocation(environment, hostname="thetamom1")
    assert [node.name for node in found.nodes] == ["nid00000", "nid00001", "nid00002", "nid03834"]
    assert (found.system, found.end_s, found.here) == ("cobalt", 1565892131, None)


def test_cobalt_with_a_node_file_or_a_list_in_brackets() -> None:
    assert [n.name for n in allocation({"COBALT_JOBID": "4", "COBALT_NODEFILE": "/n"}, {"/n": "cc001\ncc002\n"}).nodes] == [
        "cc001",
        "cc002",
    ]
    assert [n.name for n in allocation({"COBALT_JOBID": "4", "COBALT_PARTNAME": "cc[008-010]"}).nodes] == [
        "cc008",
        "cc009",
        "cc010",
    ]


def test_grid_engine_has_slots_and_a_host_in_two_queues_once() -> None:
    environment = {
        "JOB_ID": "12",
        "SGE_TASK_ID": "3",
        "PE_HOSTFILE": "/pe",
        "NSLOTS": "14",
        "NHOSTS": "2",
        "SGE_HGR_gpu": "0 1",
    }
    lines = (
        "n1.cluster 4 all.q@n1.cluster 0,0:0,1:0,2:0,3\n"
        "n2.cluster 8 all.q@n2.cluster UNDEFINED\n"
        "n2.cluster 2 fast.q@n2.cluster <NULL>\n"
    )
    found = allocation(environment, {"/pe": lines}, hostname="n1")
    assert (found.system, found.job, found.here) == ("grid_engine", "12.3", "n1.cluster")
    assert found.nodes == (
        AllocatedNode(name="n1.cluster", cores=4, slots=4, gpus=2, gpu_ids=("0", "1")),
        AllocatedNode(name="n2.cluster", cores=10, slots=10),
    )


def test_grid_engine_without_a_parallel_environment_is_on_one_host() -> None:
    found = allocation({"JOB_ID": "12", "SGE_TASK_ID": "undefined", "NSLOTS": "1", "HOSTNAME": "n7"})
    assert (found.job, found.nodes) == ("12", (AllocatedNode(name="n7", cores=1, slots=1),))


def test_a_variable_that_anything_may_set_is_no_job_of_grid_engine() -> None:
    assert discover({"JOB_ID": "12", "HOSTNAME": "laptop"}, reader({})) is None


def test_loadleveler_by_its_list_and_by_its_file() -> None:
    listed = {"LOADL_STEP_ID": "fr1.7.0", "LOADL_PROCESSOR_LIST": "n1 n1 n2 ", "LOADL_TOTAL_TASKS": "3"}
    nodes = (AllocatedNode(name="n1", slots=2), AllocatedNode(name="n2", slots=1))
    assert allocation(listed, hostname="n2") == Allocation(system="loadleveler", job="fr1.7.0", nodes=nodes, here="n2")
    assert allocation({**listed, "LOADL_HOSTFILE": "/h"}, {"/h": "n1\nn1\nn2\n"}).nodes == nodes


def flux_resources(**changed: object) -> str:
    execution = {
        "R_lite": [
            {"rank": "0-1", "children": {"core": "0-47", "gpu": "0-3"}},
            {"rank": "5", "children": {"core": "0-3,8"}},
        ],
        "nodelist": ["tuo[1001-1002]", "tuo1090"],
        "starttime": 1795296791.0,
        "expiration": 1795300391.0,
    }
    return json.dumps({"version": 1, "execution": {**execution, **changed}})


def test_flux_tells_the_resources_of_the_job() -> None:
    found = allocation({"FLUX_JOB_ID": "f2pBTmZcv", "FLUX_URI": "local:///run/flux"}, says=flux_resources(), hostname="tuo1002")
    assert found == Allocation(
        system="flux",
        job="f2pBTmZcv",
        nodes=(
            AllocatedNode(name="tuo1001", cores=48, gpus=4, gpu_ids=("0", "1", "2", "3")),
            AllocatedNode(name="tuo1002", cores=48, gpus=4, gpu_ids=("0", "1", "2", "3")),
            AllocatedNode(name="tuo1090", cores=5, gpus=0, gpu_ids=()),
        ),
        end_s=1795300391.0,
        here="tuo1002",
    )


def test_an_instance_of_flux_in_a_job_of_slurm_is_what_counts() -> None:
    asked: list[Sequence[str]] = []

    def ask(command: Sequence[str]) -> str:
        asked.append(command)
        return flux_resources(expiration=0)

    environment = {"FLUX_URI": "local:///tmp/flux", "SLURM_JOB_ID": "8", "SLURM_JOB_NODELIST": "tuo[1001-1003]"}
    found = discover(environment, reader({}), ask)
    assert found is not None
    assert (found.system, found.job, found.end_s, asked) == ("flux", "", None, [["flux", "resource", "R"]])


def test_the_users_own_file_is_believed_before_all_else() -> None:
    text = "# mine\nbig[1-2] cores=56 gpus=8 memory_mib=512000  # alike\n\nsmall1\nsmall1\nsmall2\n"
    found = allocation({"PILOTAGE_NODE_FILE": "/mine", "SLURM_JOB_ID": "8"}, {"/mine": text}, hostname="small2")
    assert found == Allocation(
        system="node_file",
        job="",
        nodes=(
            AllocatedNode(name="big1", cores=56, gpus=8, memory_mib=512_000),
            AllocatedNode(name="big2", cores=56, gpus=8, memory_mib=512_000),
            AllocatedNode(name="small1", cores=2, slots=2),
            AllocatedNode(name="small2"),
        ),
        here="small2",
    )


def test_outside_of_any_allocation_there_is_none() -> None:
    assert discover({"HOME": "/home/user", "PATH": "/bin"}, reader({})) is None


@pytest.mark.parametrize(
    ("environment", "files", "said"),
    [
        (PBS, {}, "PBS_NODEFILE='/var/spool/pbs/aux/1234.pbs01': the file cannot be read: No such file"),
        (PBS, {PBS["PBS_NODEFILE"]: "\n\n"}, "PBS_NODEFILE='/var/spool/pbs/aux/1234.pbs01': the file names no node"),
        ({"PBS_JOBID": "1"}, {}, "PBS_JOBID='1': this is a job of PBS, and PBS_NODEFILE"),
        (TORQUE, {"/aux/77": "n1\nn1\nn2\n"}, "PBS_NP='12': PBS_NODEFILE has 3 lines for 2 nodes"),
        (
            {**TORQUE, "PBS_NP": "2"},
            {"/aux/77": "n1\nn2\n", "/aux/77gpu": "n9-gpu0"},
            "PBS_GPUFILE='/aux/77gpu': line 1, 'n9-gpu0'",
        ),
        (
            {**SUMMIT, "LSB_DJOB_NUMPROC": "84"},
            SUMMIT_FILES,
            "LSB_DJOB_NUMPROC='84': LSB_DJOB_HOSTFILE has 85 slots on 3 nodes",
        ),
        (
            {**SUMMIT, "LSB_MCPU_HOSTS": "a 1"},
            SUMMIT_FILES,
            "LSB_MCPU_HOSTS='a 1': 1 slots on 1 nodes, and LSB_DJOB_HOSTFILE has 85 on 3",
        ),
        ({"LSB_JOBID": "9", "LSB_MCPU_HOSTS": "n1 2 n2"}, {}, "LSB_MCPU_HOSTS='n1 2 n2': 'n2' has no number of slots"),
        ({"LSB_JOBID": "9"}, {}, "LSB_JOBID='9': this is a job of LSF"),
        (
            {"LSB_JOBID": "9", "LSB_MCPU_HOSTS": "n1 2", "LSB_AFFINITY_HOSTFILE": "/a"},
            {"/a": "n1 0\nn3 1\n"},
            "LSB_AFFINITY_HOSTFILE='/a': line 2: there is no node 'n3' in the job",
        ),
        ({"COBALT_JOBID": "4"}, {}, "COBALT_JOBID='4': this is a job of Cobalt"),
        ({"COBALT_JOBID": "4", "COBALT_PARTNAME": "9-1"}, {}, "COBALT_PARTNAME='9-1': the nodes cannot be told"),
        (
            {"COBALT_JOBID": "4", "COBALT_PARTNAME": "MIR-00000-33331-512"},
            {},
            "COBALT_PARTNAME='MIR-00000-33331-512': this is the name of a block",
        ),
        (
            {"COBALT_JOBID": "4", "COBALT_PARTNAME": "0-3", "COBALT_PARTSIZE": "8"},
            {},
            "COBALT_PARTSIZE='8': COBALT_PARTNAME names 4 nodes",
        ),
        (
            {"COBALT_JOBID": "4", "COBALT_PARTNAME": "0", "COBALT_ENDTIME": "soon"},
            {},
            "COBALT_ENDTIME='soon': it must be the seconds",
        ),
        (
            {"JOB_ID": "1", "PE_HOSTFILE": "/pe"},
            {"/pe": "n1 many\n"},
            "PE_HOSTFILE='/pe': line 1, 'n1 many', has no number of slots",
        ),
        (
            {"JOB_ID": "1", "PE_HOSTFILE": "/pe", "NSLOTS": "3"},
            {"/pe": "n1 2\n"},
            "NSLOTS='3': PE_HOSTFILE has 2 slots on 1 nodes",
        ),
        ({"JOB_ID": "1", "PE_HOSTFILE": "/pe", "NHOSTS": "2"}, {"/pe": "n1 2\n"}, "NHOSTS='2': PE_HOSTFILE has 1 nodes"),
        ({"JOB_ID": "1", "SGE_TASK_ID": "1"}, {}, "JOB_ID='1': this is a job of Grid Engine"),
        ({"LOADL_STEP_ID": "s"}, {}, "LOADL_STEP_ID='s': this is a job of LoadLeveler"),
        (
            {"LOADL_STEP_ID": "s", "LOADL_PROCESSOR_LIST": "a b", "LOADL_TOTAL_TASKS": "3"},
            {},
            "LOADL_TOTAL_TASKS='3': LOADL_PROCESSOR_LIST has 2",
        ),
        ({"FLUX_JOB_ID": "f1"}, {}, "FLUX_JOB_ID='f1': Flux tells the nodes of a job by a command alone"),
        ({"PILOTAGE_NODE_FILE": "/m"}, {"/m": "n1 core=3\n"}, "PILOTAGE_NODE_FILE='/m': line 1: 'core=3' is not one of cores"),
        ({"PILOTAGE_NODE_FILE": "/m"}, {"/m": "n[1\n"}, "PILOTAGE_NODE_FILE='/m': line 1: there is a bracket"),
        ({"PILOTAGE_NODE_FILE": "/m"}, {"/m": "n1 cores=3\nn1\n"}, "PILOTAGE_NODE_FILE='/m': line 2: 'n1' is there before"),
    ],
)
def test_what_cannot_be_understood_is_named_with_its_value_and_the_remedy(
    environment: Mapping[str, str], files: Files, said: str
) -> None:
    with pytest.raises(BackendError) as raised:
        discover(environment, reader(files))
    assert str(raised.value).startswith(said)
    assert "name the nodes in a file and the file in PILOTAGE_NODE_FILE" in str(raised.value)


@pytest.mark.parametrize(
    ("says", "said"),
    [
        ("flux-job: No such job", "its resource set cannot be read"),
        (flux_resources(nodelist=["a"]), "it has 3 ranks, and 1 hosts"),
        (flux_resources(nodelist=["a,a,b"]), "a host twice"),
        (flux_resources(nodelist=["a[1-"]), "a bracket without its other one"),
    ],
)
def test_resources_of_flux_that_cannot_be_read(says: str, said: str) -> None:
    with pytest.raises(BackendError) as raised:
        allocation({"FLUX_JOB_ID": "f1"}, says=says)
    assert str(raised.value).startswith("FLUX_JOB_ID='f1': ")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("names", "host", "found"),
    [
        (("n1.a", "n2.a"), "n2", "n2.a"),
        (("n1", "n2"), "n2.a", "n2"),
        (("n1.a", "n1.b"), "n1.b", "n1.b"),
        (("n1.a", "n1.b"), "n1", None),
        (("n1.a", "n1"), "n1", "n1"),
        (("n1", "n1.a"), "n1", "n1"),
        (("n1", "n1.a"), "n1.a", "n1.a"),
        (("n1",), "", None),
        (("n1",), "login", None),
    ],
)
def test_a_host_is_known_by_its_short_and_its_full_name(names: tuple[str, ...], host: str, found: str | None) -> None:
    assert place_here(names, host) == found


def test_the_agent_has_nodes_of_its_own() -> None:
    nodes = tuple(AllocatedNode(name=f"n{index}") for index in range(4097))
    agent, tasks = set_agent_nodes_apart(nodes, 1)
    assert ([node.name for node in agent], len(tasks), tasks[0].name) == (["n0"], 4096, "n1")
    assert set_agent_nodes_apart(nodes, 0) == ((), nodes)
    for count in (4097, -1):
        with pytest.raises(InvalidRequest, match=f"agent_nodes={count} of the 4097 nodes"):
            set_agent_nodes_apart(nodes, count)


def test_systems_have_names_of_their_own_and_say_what_they_read() -> None:
    assert list(ALLOCATION_SYSTEMS) == [
        "node_file", "flux", "slurm", "lsf", "cobalt", "torque", "pbs", "grid_engine", "loadleveler"
    ]  # fmt: skip
    assert all(system.reads for system in ALLOCATION_SYSTEMS.values())
