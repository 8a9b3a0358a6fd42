"""What a job of Slurm has: samples recorded in a real one, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pilotage.errors import BackendError
from pilotage.platforms.allocations import AllocatedNode, Allocation, discover

SAMPLES = Path(__file__).parent / "samples"


def sample(name: str, **changed: str | None) -> dict[str, str]:
    """Return a recorded environment, with some variables changed, or left out where they are None."""
    lines = (SAMPLES / f"{name}.env").read_text().splitlines()
    recorded = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    return {key: value for key, value in {**recorded, **changed}.items() if value is not None}


def no_file(path: str) -> str:
    raise AssertionError(f"Slurm has no file, and {path} is read")


def allocation(name: str, **changed: str | None) -> Allocation:
    found = discover(sample(name, **changed), no_file)
    assert found is not None
    assert found.system == "slurm"
    return found


def test_mixed_nodes_have_their_own_cores_and_gpus_are_known_of_this_node_alone() -> None:
    found = allocation("slurm_mixed")
    assert (found.job, found.here, found.end_s) == ("8", "node1", None)
    assert found.nodes == (
        AllocatedNode(name="node1", cores=8, gpus=4, gpu_ids=("0", "1", "2", "3")),
        AllocatedNode(name="node2", cores=8),
        AllocatedNode(name="node3", cores=8),
        AllocatedNode(name="node4", cores=2),
    )


def test_scontrol_tells_the_gpus_and_memory_of_all_nodes_and_the_end() -> None:
    asked: list[Sequence[str]] = []

    def ask(command: Sequence[str]) -> str:
        asked.append(command)
        return (SAMPLES / "slurm_mixed.scontrol").read_text()

    found = discover(sample("slurm_mixed"), no_file, ask)
    assert found is not None
    assert asked == [["env", "SLURM_TIME_FORMAT=%s", "scontrol", "show", "job", "--details", "--oneliner", "8"]]
    four = {"cores": 8, "gpus": 4, "gpu_ids": ("0", "1", "2", "3"), "memory_mib": 16000}
    assert found.nodes == (
        *(AllocatedNode(name=f"node{index}", **four) for index in (1, 2, 3)),  # type: ignore[arg-type]
        AllocatedNode(name="node4", cores=2, gpus=0, gpu_ids=(), memory_mib=8000),
    )
    assert found.end_s == 1795297391
    assert found.summary() == "slurm job 8: node[1-3] (8 cores, 4 GPUs, 16000 MiB); node4 (2 cores, 0 GPUs, 8000 MiB)"


def test_a_job_that_scontrol_no_longer_lists_as_running_tells_nothing_of_its_nodes() -> None:
    said = (SAMPLES / "slurm_mixed.scontrol").read_text().replace("JobState=RUNNING", "JobState=COMPLETING")
    found = discover(sample("slurm_mixed"), no_file, lambda command: said)
    assert found is not None
    assert found.nodes == allocation("slurm_mixed").nodes


def test_a_command_that_fails_leaves_a_note() -> None:
    def ask(command: Sequence[str]) -> str:
        raise BackendError("scontrol: slurm_load_jobs error: Unable to contact slurm controller")

    found = discover(sample("slurm_mixed"), no_file, ask)
    assert found is not None
    assert found.nodes == allocation("slurm_mixed").nodes
    assert "Unable to contact slurm controller" in found.notes[0]


def test_uneven_cores_and_memory_for_each_core() -> None:
    nodes = allocation("slurm_uneven").nodes
    assert [(node.name, node.cores, node.memory_mib) for node in nodes] == [
        ("node1", 8, 800),
        ("node2", 8, 800),
        ("node3", 4, 400),
    ]


def test_a_part_of_a_node() -> None:
    (node,) = allocation("slurm_shared").nodes
    assert node == AllocatedNode(name="node1", cores=2, gpus=1, gpu_ids=("0",), memory_mib=1000)


def test_gpus_for_each_node() -> None:
    assert [(node.gpus, node.gpu_ids) for node in allocation("slurm_gpus_per_node").nodes] == [(2, ("0", "1")), (2, None)]
    typed = allocation("slurm_gpus_per_node", SLURM_GPUS_PER_NODE="a100:1,v100:2")
    assert typed.nodes[1].gpus == 3


def test_an_exclusive_job_has_all_gpus_of_its_node_whatever_it_asked_for() -> None:
    found = allocation("slurm_holes")
    assert [node.name for node in found.nodes] == ["node1", "node3"]
    assert found.nodes[0] == AllocatedNode(name="node1", cores=4, threads_per_core=1, gpus=4, gpu_ids=("0", "1", "2", "3"))


def test_the_parts_of_a_heterogeneous_job_are_one_allocation() -> None:
    said = (SAMPLES / "slurm_heterogeneous.scontrol").read_text()
    found = discover(sample("slurm_heterogeneous"), no_file, lambda command: said)
    assert found is not None
    assert found.nodes == (
        AllocatedNode(name="node1", cores=4, gpus=2, gpu_ids=("0", "1"), memory_mib=16000),
        AllocatedNode(name="node4", cores=2, gpus=0, gpu_ids=(), memory_mib=8000),
    )


def test_inside_a_step_it_is_still_the_job() -> None:
    found = allocation("slurm_step")
    assert [(node.name, node.cores, node.memory_mib) for node in found.nodes] == [("node1", 2, 300), ("node2", 2, 300)]


def test_before_slurm_named_them_after_jobs() -> None:
    old = {"SLURM_JOBID": "7", "SLURM_NODELIST": "n[1-2]", "SLURM_JOB_CPUS_PER_NODE": "4(x2)"}
    found = discover(old, no_file)
    assert found is not None
    assert (found.job, [node.name for node in found.nodes]) == ("7", ["n1", "n2"])


def test_on_a_login_node_no_node_is_here() -> None:
    found = allocation("slurm_mixed", SLURMD_NODENAME=None)
    assert found.here is None
    assert all(node.gpus is None for node in found.nodes)


def test_the_end_where_the_version_tells_it() -> None:
    assert allocation("slurm_mixed", SLURM_JOB_END_TIME="1795297391").end_s == 1795297391


def test_all_memory_of_a_node_is_for_the_node_to_say() -> None:
    assert allocation("slurm_mixed", SLURM_MEM_PER_NODE="0").nodes[0].memory_mib is None


@pytest.mark.parametrize(
    ("gres", "gpus", "ids"),
    [
        ("gpu:a100:2(IDX:0,3)", 2, ("0", "3")),
        ("gpu:a:2(IDX:0-1),nvme:1,gpu:b:1(IDX:2)", 3, ("0", "1", "2")),
        ("gpu(IDX:0-1)", 2, ("0", "1")),
        ("gpu:4", 4, None),
        ("nvme:1", 0, ()),
    ],
)
def test_gpus_as_scontrol_writes_them(gres: str, gpus: int, ids: tuple[str, ...] | None) -> None:
    said = f"JobId=8 JobState=RUNNING EndTime=Unknown   Nodes=node4 CPU_IDs=0-1 Mem=8000 GRES={gres} MinCPUsNode=1"
    found = discover(sample("slurm_mixed"), no_file, lambda command: said)
    assert found is not None
    assert (found.nodes[3].gpus, found.nodes[3].gpu_ids, found.end_s) == (gpus, ids, None)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"SLURM_JOB_NUM_NODES": "3"}, "SLURM_JOB_NUM_NODES='3': SLURM_JOB_NODELIST has 4 nodes (node[1-4])"),
        ({"SLURM_JOB_NODELIST": "node[1-"}, "SLURM_JOB_NODELIST='node[1-': the nodes cannot be told"),
        ({"SLURM_JOB_NODELIST": ","}, "SLURM_JOB_NODELIST=',': it names no node"),
        (
            {"SLURM_JOB_NODELIST": None, "SLURM_NODELIST": None},
            "SLURM_JOB_ID='8': this is a job of Slurm, and SLURM_JOB_NODELIST",
        ),
        (
            {"SLURM_JOB_CPUS_PER_NODE": "8(x3)"},
            "SLURM_JOB_CPUS_PER_NODE='8(x3)': it is for 3 nodes, and SLURM_JOB_NODELIST has 4",
        ),
        ({"SLURM_JOB_CPUS_PER_NODE": "many"}, "SLURM_JOB_CPUS_PER_NODE='many': 'many' is neither a number"),
        ({"SLURM_MEM_PER_NODE": "lots"}, "SLURM_MEM_PER_NODE='lots': it must be a whole number"),
        ({"SLURM_GPUS_PER_NODE": "a100:"}, "SLURM_GPUS_PER_NODE='a100:': it must be a number of GPUs"),
    ],
)
def test_what_cannot_be_understood_is_named_with_its_value_and_the_remedy(changed: dict[str, str | None], said: str) -> None:
    with pytest.raises(BackendError) as raised:
        allocation("slurm_mixed", **changed)
    assert str(raised.value).startswith(said)
    assert "PILOTAGE_NODE_FILE" in str(raised.value)
