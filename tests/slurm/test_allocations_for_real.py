"""What jobs of a real Slurm find that they have been given."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from slurm_cluster import SlurmCluster

from pilotage.errors import BackendError
from pilotage.platforms.allocations import AllocatedNode, Allocation, discover


def found_in(slurm: SlurmCluster, *arguments: str, ask: bool = True) -> Allocation:
    """Start a job, and return what is found with the environment of its script while it runs."""
    told = slurm.folder / "jobs" / "allocation"
    told.unlink(missing_ok=True)
    script = f"env -0 >{told}.part && mv {told}.part {told} && exec sleep infinity"
    slurm.submit(*arguments, f"--wrap={script}")
    slurm.wait_until(told.exists, "the script of the job runs")
    environment = dict(line.split("=", 1) for line in told.read_text().rstrip("\0").split("\0"))

    def run(command: Sequence[str]) -> str:
        return slurm.output(*command)

    def read(path: str) -> str:
        raise AssertionError(f"Slurm has no file of nodes, and {path} is read")

    found = discover(environment, read, run if ask else None)
    assert found is not None
    assert (found.system, found.job) == ("slurm", environment["SLURM_JOB_ID"])
    return found


def test_whole_nodes_with_all_their_gpus(slurm: SlurmCluster) -> None:
    found = found_in(slurm, "--nodes=2", "--nodelist=node1,node3", "--gres=gpu:4", "--time=20")

    gpus = ("0", "1", "2", "3")
    assert found.nodes == tuple(
        AllocatedNode(name=name, cores=8, gpus=4, gpu_ids=gpus, memory_mib=16_000) for name in ("node1", "node3")
    )
    assert found.here == "node1"
    told = slurm.output("env", "SLURM_TIME_FORMAT=%s", "squeue", "--noheader", f"--jobs={found.job}", "--format=%e")
    assert found.end_s == float(told)


def test_parts_of_nodes_that_differ(slurm: SlurmCluster) -> None:
    found = found_in(slurm, "--partition=shared", "--nodes=2", "--ntasks=10", "--distribution=pack", "--mem-per-cpu=500")

    assert sorted((node.cores, node.memory_mib, node.gpus) for node in found.nodes) == [(2, 1_000, 0), (8, 4_000, 0)]


def test_variables_alone_tell_the_gpus_of_this_node_only(slurm: SlurmCluster) -> None:
    found = found_in(slurm, "--nodes=2", "--gres=gpu:2", ask=False)

    here, other = found.nodes
    assert found.here == here.name
    assert (here.gpus, other.gpus) == (len(here.gpu_ids or ()), None)
    assert (here.cores, other.cores) == (8, 8)


def test_parts_of_a_heterogeneous_job_are_one_allocation(slurm: SlurmCluster) -> None:
    found = found_in(slurm, "--nodes=1", "--gres=gpu:4", ":", "--nodes=2")

    assert [node.cores for node in found.nodes] == [8, 8, 8]
    assert len({node.name for node in found.nodes}) == 3
    assert found.nodes[0].gpu_ids == ("0", "1", "2", "3")
    assert all(node.memory_mib == 16_000 and node.gpus is not None for node in found.nodes)


def test_a_list_that_slurm_cannot_expand_either(slurm: SlurmCluster) -> None:
    names = "node[3-1]"
    assert "Invalid range: `3-1'" in slurm.run("scontrol", "show", "hostnames", names).stderr
    with pytest.raises(BackendError, match="'3-1' in 'node\\[3-1\\]' goes down"):
        discover({"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": names}, lambda path: "")


@pytest.mark.parametrize("names", ["a[1-2]b[03-04],c[008-010],d", "i[08-11,2]", "h[9-11]", "c[1-2],,d", "x[1-3][1-2],y"])
def test_lists_are_expanded_as_slurm_does(slurm: SlurmCluster, names: str) -> None:
    found = discover({"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": names}, lambda path: "")
    assert found is not None
    assert sorted(node.name for node in found.nodes) == sorted(slurm.output("scontrol", "show", "hostnames", names).split())
