"""What of a pilot is asked of a batch system: sizes, limits, and what is refused before anything is submitted."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from pilotage.batch.job import Dependency
from pilotage.batch.registry import BATCH_SYSTEMS
from pilotage.client.job_specs import ENDING_S, check_job, check_script, job_name, job_spec, nodes_for, size_of_job
from pilotage.client.pilot_description import PilotDescription
from pilotage.errors import InvalidPilot
from pilotage.model.resources import NodeShape
from pilotage.platforms import Platform
from pilotage.platforms.platform import QueueLimits

FOLDER = Path("/scratch/me/water/pilot.0000")
MACHINE = Platform(
    "site.machine",
    batch="slurm",
    transport="tcp",
    cores_per_node=32,
    gpus_per_node=4,
    memory_per_node_mib=256_000,
    queue="regular",
    project="abc",
    constraints=("gpu",),
    extra_options=("--switches=1",),
    setup=("module load x",),
    max_walltime_minutes=1440,
    max_nodes=1000,
    queues={
        "regular": QueueLimits(max_walltime_minutes=720, max_nodes=500),
        "debug": QueueLimits(max_walltime_minutes=30, max_nodes=8),
        "large": QueueLimits(min_nodes=100),
    },
    qos_limits={"urgent": QueueLimits(max_walltime_minutes=60, max_nodes=4), "wide": QueueLimits(min_nodes=50)},
)


def described(**attributes: Any) -> PilotDescription:
    return PilotDescription(resource="site.machine", **attributes)


def spec(on: Platform = MACHINE, **attributes: Any) -> dict[str, Any]:
    """Return the fields of the job of a pilot that differ from those of one of two nodes."""
    made = job_spec("job", on, described(**attributes), FOLDER)
    plain = job_spec("job", MACHINE, described(nodes=2), FOLDER)
    return {name: getattr(made, name) for name in made.__struct_fields__ if getattr(made, name) != getattr(plain, name)}


def with_platform(**changes: Any) -> Platform:
    return Platform(**{name: changes.get(name, getattr(MACHINE, name)) for name in MACHINE.__struct_fields__})


@pytest.mark.parametrize(
    ("batch", "setup", "variables", "environment"),
    [
        ("slurm", (), {}, "all"),
        # What it needs may be defined by a login shell alone.
        ("slurm", ("module load x",), {}, "clean"),
        # They would be taken for those of the job.
        ("slurm", (), {"TMPDIR": "/scratch/of/the/login/node"}, "clean"),
        ("slurm", (), {"PILOTAGE_TASK_ID": "task.1"}, "clean"),
        # No login shell is begun there.
        ("pbspro", (), {}, "clean"),
    ],
)
def test_a_login_shell_is_waited_for_where_it_is_needed_alone(
    batch: str, setup: tuple[str, ...], variables: dict[str, str], environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TMPDIR", "PILOTAGE_NODE_FILE", "PILOTAGE_NODE_NAME", "PILOTAGE_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert job_spec("job", with_platform(batch=batch, setup=setup), described(nodes=2), FOLDER).environment == environment


def test_what_the_description_leaves_open_the_platform_says() -> None:
    made = job_spec("job", MACHINE, described(nodes=2, runtime=10), FOLDER)
    assert (made.nodes, made.queue, made.project, made.constraints) == (2, "regular", "abc", ("gpu",))
    assert (made.extra_options, made.setup) == (("--switches=1",), ("module load x",))
    assert (made.walltime_s, made.requeue, made.environment) == (600 + ENDING_S, True, "clean")
    assert (made.folder, made.output) == (str(FOLDER), f"{FOLDER}/job.out")
    assert made.command[-2:] == (str(FOLDER), "-1")
    assert "pilotage.agent.bootstrap" in " ".join(made.command)


def test_what_the_description_says_counts() -> None:
    said = {
        "queue": "debug",
        "project": "xyz",
        "qos": "high",
        "reservation": "r",
        "mail_to": "me@example.org",
        "exclusive": True,
    }
    lists = {"constraints": ["cpu", "nvme"], "licenses": "cfs:2", "extra_options": "--comment=a", "dependency": "afterok:7"}
    assert spec(nodes=2, begin=1e9, **said, **lists) == {
        **said,
        "constraints": ("cpu", "nvme"),
        "licenses": ("cfs:2",),
        # Those of the platform first: the last of two counts.
        "extra_options": ("--switches=1", "--comment=a"),
        "begin_s": 1e9,
        "dependencies": (Dependency("afterok", "7"),),
    }


@pytest.mark.parametrize(
    ("asked", "nodes", "cores", "gpus", "memory"),
    [
        ({"nodes": 3}, 3, 0, 4, 0),
        ({"cores": 1}, 1, 1, 0, 0),
        ({"cores": 32}, 1, 32, 0, 0),
        ({"cores": 33}, 2, 17, 0, 0),
        ({"gpus": 9}, 3, 0, 3, 0),
        ({"cores": 4, "gpus": 8}, 2, 2, 4, 0),
        ({"cores": 4, "memory": 300_000}, 2, 2, 0, 150_000),
        ({"cores": 40, "exclusive": True}, 2, 0, 4, 0),
    ],
)
def test_cores_and_gpus_become_as_few_nodes_as_hold_them(
    asked: dict[str, Any], nodes: int, cores: int, gpus: int, memory: int
) -> None:
    size = size_of_job("pilot", MACHINE, described(**asked))
    assert (size.nodes, size.cores, size.gpus, size.memory_mib) == (nodes, cores, gpus, memory)


def test_nodes_for_the_agent_are_added() -> None:
    assert spec(with_platform(agent_nodes=1), nodes=2) == {"nodes": 3}


def test_nodes_are_an_estimate_of_what_the_platform_says() -> None:
    nodes = nodes_for(MACHINE, described(nodes=12)).nodes
    assert [node.name for node in nodes[:2]] == ["node00", "node01"]
    assert {node.shape for node in nodes} == {NodeShape(32, 4, 4000, 0)}
    assert nodes_for(MACHINE, described(cores=40)).nodes[0].shape == NodeShape(20, 0, 4000, 0)
    assert nodes_for(with_platform(cores_per_node=None), described(nodes=2)).nodes == []


def test_virtual_nodes_may_be_given_another_shape() -> None:
    found = nodes_for(with_platform(emulated=True), described(nodes=1, cores_per_node=8, gpus_per_node=0))
    assert (found.bind, found.nodes[0].shape) == (False, NodeShape(8, 0, 4000, 0))


@pytest.mark.parametrize("system", BATCH_SYSTEMS)
def test_every_batch_system_can_say_a_plain_pilot(system: str) -> None:
    options = {"parallel_environment": "mpi"} if system == "grid_engine" else {}
    on = Platform("site.machine", batch=system, cores_per_node=32, gpus_per_node=4, batch_options=options)  # type: ignore[arg-type]
    # The jobs of LGI have one node.
    for size in ({"nodes": 2 if system != "lgi" else 1}, {"cores": 20}, {"cores": 4, "gpus": 4}):
        description = described(**size)
        check_job("pilot", on, description)
        assert str(FOLDER) in BATCH_SYSTEMS[system].script(job_spec("job", on, description, FOLDER))


BATCH_ONLY: dict[str, Any] = {
    "qos": "high",
    "constraints": "gpu",
    "reservation": "r",
    "licenses": "a",
    "filesystems": "home",
    "exclusive": True,
    "begin": 1e9,
    "dependency": "afterok:7",
    "mail_to": "me@example.org",
    "extra_options": "-x",
}


@pytest.mark.parametrize("name", BATCH_ONLY)
def test_what_is_for_batch_systems_is_refused_where_there_is_none(name: str) -> None:
    here = Platform("local.localhost")
    check_job("pilot", here, described(cores=1, queue="debug", project="abc", job_name="water"))
    with pytest.raises(InvalidPilot, match=f"^pilot: {name}=.*: platform local.localhost has no batch system; leave it out"):
        check_job("pilot", here, described(cores=1, **{name: BATCH_ONLY[name]}))


@pytest.mark.parametrize("system", BATCH_SYSTEMS)
@pytest.mark.parametrize("name", BATCH_ONLY)
def test_what_a_batch_system_cannot_say_is_refused(system: str, name: str) -> None:
    on = Platform("site.machine", batch=system, cores_per_node=32)  # type: ignore[arg-type]
    facts = BATCH_SYSTEMS[system].facts
    field = {"begin": "begin_s", "dependency": "dependencies"}.get(name, name)
    description = described(nodes=1, **{name: BATCH_ONLY[name]})
    if field in facts.lacks:
        with pytest.raises(InvalidPilot, match=f"^pilot: {name}=.*: {facts.name} cannot say it; ") as refused:
            check_job("pilot", on, description)
        assert facts.lacks[field] in str(refused.value)
    else:
        check_job("pilot", on, description)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"nodes": 1, "runtime": 721},
            "runtime=721 exceeds the 720 minutes of queue 'regular' on site.machine; ask for less",
        ),
        ({"nodes": 100, "runtime": 721}, "ask for less, or use one of large"),
        (
            {"nodes": 9, "queue": "debug"},
            "9 nodes exceed the 8 of queue 'debug' on site.machine; ask for fewer, or use one of reg",
        ),
        ({"nodes": 9, "qos": "urgent"}, "9 nodes exceed the 4 of qos 'urgent' on site.machine; ask for fewer"),
        (
            {"nodes": 60, "qos": "urgent"},
            "60 nodes exceed the 4 of qos 'urgent' on site.machine; ask for fewer, or use one of w",
        ),
        ({"nodes": 1, "qos": "urgent", "runtime": 61}, "runtime=61 exceeds the 60 minutes of qos 'urgent' on site.machine"),
        ({"cores": 320, "queue": "large"}, "10 nodes are fewer than the 100 of queue 'large' on site.machine; ask for more"),
        ({"nodes": 1001, "queue": "large"}, "1001 nodes exceed the 1000 of any job on site.machine"),
        ({"nodes": 1, "queue": "x", "runtime": 1441}, "runtime=1441 exceeds the 1440 minutes of any job on site.machine"),
        ({"nodes": 1, "runtime": 1e300}, "runtime=1e+300 exceeds the 525600 minutes (a year) that a job may be asked for"),
        ({"nodes": 1, "cores_per_node": 8}, "cores_per_node=8: the nodes of site.machine are what they are; leave it out"),
        ({"nodes": 2, "memory": 600_000}, "memory=600000 exceeds the 512000 MB of 2 nodes with 256000 MB each"),
        ({"nodes": 100_001}, "100001 nodes exceed the 100000 that a pilot may have"),
        ({"nodes": 1, "executor": "simulated"}, "executor='simulated': a job on site.machine would run nothing"),
    ],
)
def test_what_the_platform_cannot_have_is_refused(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidPilot) as refused:
        check_job("pilot", MACHINE, described(**asked))
    assert told in str(refused.value)


@pytest.mark.parametrize("begin", [253_370_764_801.0, 1e20])
def test_a_begin_that_no_calendar_has_is_refused(begin: float) -> None:
    with pytest.raises(InvalidPilot, match=r"^pilot: begin=.*: it is in seconds since the epoch, and so after the year 9999"):
        described(nodes=1, begin=begin).verify()


@pytest.mark.parametrize("begin", [10**400, datetime.datetime(1, 1, 1)])
def test_a_begin_that_is_no_time_is_refused(begin: object) -> None:
    with pytest.raises(InvalidPilot, match=r"begin takes a time: seconds since the epoch, a datetime, or text such as"):
        described(nodes=1, begin=begin)


def test_a_folder_that_no_script_can_name_is_refused() -> None:
    check_script("pilot", MACHINE, described(nodes=1), FOLDER)
    with pytest.raises(InvalidPilot, match=r"^pilot: its folder would be '/a b/pilot.0000'; choose another sandbox, or ano"):
        check_script("pilot", MACHINE, described(nodes=1), Path("/a b/pilot.0000"))
    with pytest.raises(InvalidPilot, match=r"^pilot: slurm: queue='a b': a directive holds no blanks"):
        check_script("pilot", MACHINE, described(nodes=1, queue="a b"), Path("/a b/pilot.0000"))


def test_cores_and_gpus_need_a_platform_that_tells_what_nodes_have() -> None:
    with pytest.raises(
        InvalidPilot, match=r"cores=4: the description of site.machine does not say what its nodes have; give n"
    ):
        check_job("pilot", with_platform(cores_per_node=None), described(cores=4))
    with pytest.raises(InvalidPilot, match=r"gpus=4, but the nodes of site.machine have none; leave it out"):
        check_job("pilot", with_platform(gpus_per_node=0), described(gpus=4))


def test_who_counts_slots_is_told_the_cores_of_whole_nodes() -> None:
    assert job_spec("job", with_platform(batch="lsf"), described(nodes=2), FOLDER).cores_per_node == 32
    with pytest.raises(InvalidPilot, match=r"nodes=2: lsf counts cores, and the description of site.machine does not say how"):
        check_job("pilot", with_platform(batch="lsf", cores_per_node=None), described(nodes=2))


def test_the_walltime_stays_within_the_limit_of_the_queue() -> None:
    check_job("pilot", MACHINE, described(nodes=1, queue="debug", runtime=30))
    assert spec(nodes=2, queue="debug", runtime=30)["walltime_s"] == 1800
    assert spec(nodes=2, qos="urgent", runtime=60)["walltime_s"] == 3600
    assert spec(nodes=2, queue="debug", runtime=29.5)["walltime_s"] == 1800
    assert spec(nodes=2, queue="debug", runtime=29)["walltime_s"] == 1800
    assert spec(nodes=2, queue="debug", runtime=28)["walltime_s"] == 1680 + ENDING_S


def test_another_python_finds_its_own_packages() -> None:
    command = job_spec("job", with_platform(python="/opt/python"), described(nodes=1), FOLDER).command
    assert command[0] == "/opt/python"
    assert command[3] == "import site; site.main(); from pilotage.agent.bootstrap import main; main()"


def test_names_of_jobs_are_words_that_begin_with_a_letter_and_differ() -> None:
    assert job_name("7", "é", "t", given="9 a") == "p9_a.7._.t"
    first, second = (job_name("s" * 300, "pilot.0000", token) for token in ("a1", "a2"))
    assert first != second
    assert len(first) < 130
