"""Lines of srun beside the shapes of tasks."""

from __future__ import annotations

import pytest
from launch_shapes import FOLDER, rendered, request_on, shown

from pilotage.errors import BackendError
from pilotage.launchers.method import Installed, LaunchRequest, Step, parse_step_name
from pilotage.launchers.registry import launch_method

SRUN = Installed("srun")
NAMED = "srun --job-name=pilotage:task.000007:1"
REST = "--quiet --export=ALL --kill-on-bad-exit=1"
OURS = "--overlap --cpu-bind=none"
ARBITRARY = "--distribution=arbitrary"

BOUND_BY_US = {
    "one rank": (request_on([3]), f"--nodes=1 --ntasks=1 --nodelist=n03 --mem=0 {OURS} --gres=none"),
    "four on a node": (request_on([3] * 4), f"--nodes=1 --ntasks=4 --nodelist=n03 --mem=0 {OURS} --gres=none"),
    "two on each of two": (
        request_on([3, 3, 4, 4]),
        f"--nodes=2 --ntasks=4 --nodelist=n03,n04 --ntasks-per-node=2 --distribution=block --mem=0 {OURS} --gres=none",
    ),
    "threads": (request_on([3, 3], cores=7), f"--nodes=1 --ntasks=2 --nodelist=n03 --mem=0 {OURS} --gres=none"),
    "memory": (
        request_on([3, 3, 4, 4], memory_mib=500),
        f"--nodes=2 --ntasks=4 --nodelist=n03,n04 --ntasks-per-node=2 --distribution=block --mem=1000M {OURS} --gres=none",
    ),
    "GPUs": (request_on([3, 3], gpus=2), f"--nodes=1 --ntasks=2 --nodelist=n03 --mem=0 {OURS} --gpu-bind=none"),
    "uneven": (
        request_on([3, 3, 3, 4], memory_mib=500),
        f"--nodes=2 --ntasks=4 {ARBITRARY} --mem=1500M {OURS} --gres=none",
    ),
    "nodes in another order": (request_on([4, 3]), f"--nodes=2 --ntasks=2 {ARBITRARY} --mem=0 {OURS} --gres=none"),
    "back to a node": (
        request_on([3, 4, 3], memory_mib=500),
        f"--nodes=2 --ntasks=3 {ARBITRARY} --mem=1000M {OURS} --gres=none",
    ),
    "exclusive": (
        request_on([3, 4], cores=64, exclusive=True),
        f"--nodes=2 --ntasks=2 --nodelist=n03,n04 --ntasks-per-node=1 --distribution=block --mem=0 {OURS} --gres=none",
    ),
}

PLACED_BY_SLURM = {
    "threads": (
        request_on([3, 3], cores=7, bound=False),
        "--nodes=1 --ntasks=2 --nodelist=n03 --mem=0 --exact --cpus-per-task=7 --cpu-bind=cores --gres=none",
    ),
    "GPUs": (
        request_on([3, 3, 4, 4], gpus=2, bound=False),
        "--nodes=2 --ntasks=4 --nodelist=n03,n04 --ntasks-per-node=2 --distribution=block --mem=0 "
        "--exact --cpus-per-task=1 --cpu-bind=cores --gres=gpu:4",
    ),
}


@pytest.mark.parametrize(("request_", "expected"), BOUND_BY_US.values(), ids=BOUND_BY_US.keys())
def test_our_placement_holds_as_the_step_has_all_of_the_job(request_: LaunchRequest, expected: str) -> None:
    assert shown(rendered("srun", SRUN, request_)) == f"{NAMED} {expected} {REST}"


@pytest.mark.parametrize(("request_", "expected"), PLACED_BY_SLURM.values(), ids=PLACED_BY_SLURM.keys())
def test_where_we_do_not_bind_slurm_places(request_: LaunchRequest, expected: str) -> None:
    assert shown(rendered("srun", SRUN, request_)) == f"{NAMED} {expected} {REST}"


@pytest.mark.parametrize(
    ("version", "ours", "slurms"),
    [
        ("20.02.7", "--cpu-bind=none", "--exclusive"),
        ("20.11.0", "--overlap --cpu-bind=none", "--exact"),
        ("24.05.1", "--overlap --cpu-bind=none", "--exact"),
        ("", "--overlap --cpu-bind=none", "--exact"),
    ],
)
def test_words_of_each_version(version: str, ours: str, slurms: str) -> None:
    installed = Installed("srun", version=version)

    assert f"--mem=0 {ours} --gres=none" in shown(rendered("srun", installed, request_on([3])))
    assert f"--mem=0 {slurms} --cpus-per-task=1" in shown(rendered("srun", installed, request_on([3], bound=False)))


def test_an_uneven_spread_is_said_by_a_file() -> None:
    line = rendered("srun", SRUN, request_on([3, 3, 3, 4]))

    assert line.files == {"pilotage.task.000007.1.hosts": "n03\nn03\nn03\nn04\n"}
    assert line.environment[b"SLURM_HOSTFILE"] == f"{FOLDER}/pilotage.task.000007.1.hosts".encode()
    assert not rendered("srun", SRUN, request_on([3, 3, 4, 4])).files


def test_what_the_platform_tells() -> None:
    installed = Installed("/opt/srun", "", "", ("--unbuffered",), {"mpi": "pmix", "gpus_per_node": "8", "job": "77"})
    said = shown(rendered("srun", installed, request_on([3], gpus=1))).split()

    assert said[:3] == ["/opt/srun", "--unbuffered", "--jobid=77"]
    assert {"--gres=gpu:8", "--gpu-bind=none", "--mpi=pmix"} <= set(said)


def test_variables_that_srun_would_take_for_options_are_unset_and_the_job_is_not() -> None:
    unset = rendered("srun", SRUN, request_on([3])).unset

    assert {b"SLURM_CPUS_PER_TASK", b"SLURM_MEM_PER_NODE", b"SLURM_GRES", b"SLURM_NTASKS_PER_NODE"} <= set(unset)
    assert not {b"SLURM_JOB_ID", b"SLURM_JOBID", b"SLURM_CONF", b"SLURM_JOB_NODELIST"} & set(unset)


def test_an_uneven_spread_without_a_folder_is_refused() -> None:
    with pytest.raises(BackendError, match=r"launch_method='srun' needs a file .* give a folder that all nodes see"):
        rendered("srun", SRUN, request_on([3, 3, 4], folder=""))


def test_left_steps_are_found_by_their_names_and_cancelled() -> None:
    steps = launch_method("srun").facts.steps
    assert steps is not None
    printed = "  1.extern extern\n1.0 sleep\n1.12 pilotage:task.000007:1\n"
    found = steps.parse_steps(printed)

    assert found == [Step("1.extern", "extern"), Step("1.0", "sleep"), Step("1.12", "pilotage:task.000007:1")]
    assert [parse_step_name(step.name) for step in found] == [None, None, ("task.000007", 1)]
    assert steps.list_arguments("1") == ["squeue", "--steps", "--noheader", "--jobs=1", "--format=%i %j"]
    assert steps.cancel_arguments("1", "1.12") == steps.cancel_arguments("1", "12") == ["scancel", "1.12"]
