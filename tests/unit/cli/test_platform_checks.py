"""What ``pilotage platforms check`` finds and advises, with played commands of batch systems."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from pilotage.cli import allocation_checks, platform_checks
from pilotage.cli.findings import Finding, Status
from pilotage.cli.node_look import MARK, Look
from pilotage.model.node_rules import NodeRules
from pilotage.platforms.allocations import AllocatedNode
from pilotage.platforms.node_here import NodeFound
from pilotage.platforms.platform import Platform, QueueLimits
from pilotage.version import __version__

ASKED: dict[str, str | int] = {"queue": "", "project": "", "qos": "", "nodes": 0}
BLUE = Platform(name="lab.blue", batch="slurm", queue="long", cores_per_node=8)

Put = Callable[..., None]


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Make programs, shell scripts by name, the only ones in PATH beside the system's ``env`` and ``sh``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "env").symlink_to("/usr/bin/env")
    (folder / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(folder))

    def put_programs(**programs: str) -> None:
        for name, script in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)

    return put_programs


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_commands_that_are_not_here_are_named(put: Put) -> None:
    put(sbatch="exit 0")
    finding = only(platform_checks.check_batch_system(BLUE))
    assert finding.status is Status.BROKEN
    assert finding.found == "slurm: there is no squeue, scancel in PATH"
    assert "load the module" in finding.remedy


def test_a_system_that_knows_no_such_job_has_answered(put: Put) -> None:
    refused = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    put(sbatch="echo slurm 99.11.2", squeue=refused, scancel="exit 0")
    finding = only(platform_checks.check_batch_system(BLUE))
    assert finding.status is Status.OK
    assert finding.found.startswith(f"slurm 99.11.2, in {os.environ['PATH']}; answers after ")


def test_no_job_is_tried_where_nobody_answers(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(sbatch=f"touch {tmp_path}/tried; exit 0", squeue="exit 0", scancel="exit 0")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    asked, tried = platform_checks.check_batch(BLUE, ASKED)
    assert (asked.status, tried.status) == (Status.BROKEN, Status.WARNING)
    assert f"SLURM_CONF={tmp_path}/slurm.conf: there is no such file" in asked.found
    assert tried.found == "was not tried: there is no batch system to ask"
    assert not (tmp_path / "tried").exists()
    put(srun=f"touch {tmp_path}/tried; exit 0")
    launcher = platform_checks.check_launch_methods(BLUE, is_batch_broken=True)[0]
    assert (launcher.check, launcher.status, launcher.found) == ("srun", Status.WARNING, tried.found)
    assert not (tmp_path / "tried").exists()


@pytest.mark.parametrize(
    ("said", "status", "remedy"),
    [
        ("Unable to contact slurm controller", Status.BROKEN, "ask the site whether its batch system is down"),
        ("Socket timed out on send/recv operation", Status.BROKEN, "ask the site whether its batch system is down"),
        ("Could not establish a configuration source", Status.BROKEN, "work on a login node of the machine"),
        ("something that nobody has heard before", Status.WARNING, "see what it says"),
    ],
)
def test_a_system_that_does_not_answer_is_told_with_its_words(put: Put, said: str, status: Status, remedy: str) -> None:
    put(sbatch="exit 0", squeue=f"echo 'squeue: error: {said}' >&2; exit 1", scancel="exit 0")
    finding = only(platform_checks.check_batch_system(BLUE))
    assert finding.status is status
    assert said in finding.found
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("said", "kind", "remedy"),
    [
        ("Invalid account or account/partition combination specified", "account", "--project"),
        ("Invalid partition name specified", "queue", "name a queue"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "limit", "what the queue allows"),
    ],
)
def test_a_job_that_would_be_refused_is_told_with_what_helps(put: Put, said: str, kind: str, remedy: str) -> None:
    put(sbatch=f"echo 'sbatch: error: Batch job submission failed: {said}' >&2; exit 1")
    finding = only(platform_checks.check_a_job(BLUE, {**ASKED, "project": "abc"}))
    assert finding.status is Status.BROKEN
    assert finding.found.startswith("1 node, queue long, project abc: ")
    assert said in finding.found and f"({kind})" in finding.found
    assert remedy in finding.remedy


def test_a_busy_system_is_no_fault_of_the_job(put: Put) -> None:
    put(sbatch="echo 'Unable to contact slurm controller' >&2; exit 1")
    assert only(platform_checks.check_a_job(BLUE, ASKED)).status is Status.WARNING


def test_the_job_that_is_tried_keeps_to_the_limits_and_is_never_submitted(put: Put, tmp_path: Path) -> None:
    put(sbatch=f'echo "$@" >>{tmp_path}/run; while read -r line; do echo "$line"; done <"$2" >>{tmp_path}/script')
    on = Platform(
        name="lab.blue",
        batch="slurm",
        queue="wide",
        queues={"wide": QueueLimits(min_nodes=16, max_walltime_minutes=5)},
        agent_nodes=1,
    )
    finding = only(platform_checks.check_a_job(on, ASKED))
    assert (finding.status, finding.found) == (Status.OK, "15 nodes, queue wide: would be taken")
    script = (tmp_path / "script").read_text().splitlines()
    assert {"#SBATCH --nodes=16", "#SBATCH --time=00:05:00"} <= set(script)
    (run,) = (tmp_path / "run").read_text().splitlines()
    assert run.startswith("--test-only ")


def test_where_nothing_can_be_tried_without_submitting_that_is_said(put: Put) -> None:
    finding = only(platform_checks.check_a_job(Platform(name="lab.red", batch="pbspro", queue="prod"), ASKED))
    assert finding.status is Status.OK
    assert finding.found == "1 node, queue prod: pbspro tells only when a job is submitted whether it takes it"


def test_launchers_are_told_with_path_and_version(put: Put) -> None:
    put(srun="echo slurm 99.11.2")
    on = Platform(name="lab.blue", batch="slurm", launch_methods=("srun", "ibrun", "fork"))
    found, missing = platform_checks.check_launch_methods(on)
    assert (found.check, found.status, found.found) == ("srun", Status.OK, f"{os.environ['PATH']}/srun, 99.11.2")
    assert (missing.check, missing.status) == ("ibrun", Status.WARNING)
    assert "setup" in missing.remedy


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"launcher_paths": {"srun": "/no/srun"}}, "srun='/no/srun' is no program"),
        ({"launcher_options": {"srun": {"mpl": "pmix"}}}, "no option 'mpl'; did you mean 'mpi'?"),
    ],
)
def test_what_a_platform_says_wrongly_of_a_launcher_is_broken(put: Put, more: dict[str, object], message: str) -> None:
    put(srun="exit 0")
    on = Platform(name="lab.blue", batch="slurm", launch_methods=("srun",), **more)
    finding = only(platform_checks.check_launch_methods(on))
    assert finding.status is Status.BROKEN
    assert message in finding.found


def test_where_nothing_but_fork_is_wanted_no_launcher_is(put: Put) -> None:
    finding = only(platform_checks.check_launch_methods(Platform(name="lab.blue", launch_methods=("fork",))))
    assert (finding.status, finding.found) == (Status.OK, "none is needed")


def test_a_folder_that_cannot_be_written_to_is_broken() -> None:
    finding = only(platform_checks.check_sandbox(Platform(name="lab.blue", sandbox="/proc/self/pilots")))
    assert finding.status is Status.BROKEN
    assert "/proc/self cannot be written to" in finding.found


def test_a_folder_that_other_nodes_do_not_see_is_worth_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_checks, "FREE_BYTES_WARNING", 0)
    kinds = {"ext4": Status.WARNING, "lustre": Status.OK, "": Status.OK}
    for kind, status in kinds.items():
        monkeypatch.setattr(platform_checks, "file_system_of", lambda folder, kind=kind: kind)
        sandbox = str(tmp_path / "not" / "yet")
        assert only(platform_checks.check_sandbox(Platform(name="lab.blue", batch="slurm", sandbox=sandbox))).status is status
        assert only(platform_checks.check_sandbox(Platform(name="lab.here", sandbox=sandbox))).status is Status.OK
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("script", "status", "message"),
    [
        (f"echo {__version__}", Status.OK, f"with Pilotage {__version__}"),
        ("echo 0.0.1", Status.WARNING, f"with Pilotage 0.0.1; here is {__version__}"),
        ("echo 'No module named pilotage' >&2; exit 1", Status.BROKEN, "No module named pilotage"),
    ],
)
def test_the_python_of_nodes_is_asked_for_its_pilotage(tmp_path: Path, script: str, status: Status, message: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    finding = only(platform_checks.check_python(Platform(name="lab.blue", python=str(python))))
    assert finding.status is status
    assert message in finding.found


def test_the_real_python_has_it() -> None:
    assert only(platform_checks.check_python(Platform(name="lab.blue", python=sys.executable))).status is Status.OK


def test_a_retired_machine_is_worth_a_warning() -> None:
    finding = only(platform_checks.check_description(Platform(name="lab.blue", status="retired", note="see green")))
    assert (finding.status, finding.found) == (Status.WARNING, "lab.blue: retired; see green")


def look(name: str, cores: int, **more: object) -> Look:
    found = NodeFound(name=name, cores=tuple((core,) for core in range(cores)), memory_mib=1024)
    return Look(**{
        "node": name, "hostname": name, "found": found, "sees_folder": True, "reaches": "here:1", "python": "3.11", **more
    })  # fmt: skip


def test_nodes_that_are_alike_are_told_together() -> None:
    on = Platform(name="lab.blue", batch="slurm", cores_per_node=4, gpus_per_node=0, memory_per_node_mib=1024)
    nodes = {name: AllocatedNode(name=name) for name in ("n1", "n2", "n3")}
    looks = {"n1": look("n1", 4), "n2": look("n2", 2), "n3": look("n3", 4)}
    well, other = allocation_checks.check_shapes(on, nodes, looks)
    assert (well.check, well.status, well.found) == ("shape of n[1,3]", Status.OK, "4 cores, 0 GPUs, 1,024 MiB for tasks")
    assert (other.check, other.status) == ("shape of n2", Status.WARNING)
    assert other.found == "cores_per_node=4 in the platform's file, and tasks get 2 in this job"


def test_memory_that_the_system_keeps_for_itself_is_not_missed() -> None:
    nodes = {"n1": AllocatedNode(name="n1")}
    for claimed, status in ((1200, Status.OK), (1400, Status.WARNING)):
        on = Platform(name="lab.blue", batch="slurm", memory_per_node_mib=claimed)
        assert only(allocation_checks.check_shapes(on, nodes, {"n1": look("n1", 4)})).status is status


def test_rules_that_a_node_cannot_meet_are_broken() -> None:
    on = Platform(name="lab.blue", batch="slurm", node_rules=NodeRules(agent_cores=4))
    finding = only(allocation_checks.check_shapes(on, {"n1": AllocatedNode(name="n1")}, {"n1": look("n1", 4)}))
    assert finding.status is Status.BROKEN
    assert "agent_cores=4" in finding.found
    assert "node_rules" in finding.remedy


def test_outside_of_jobs_there_is_nothing_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith(("SLURM", "PBS", "FLUX", "LSB", "PILOTAGE_NODE")):
            monkeypatch.delenv(name)
    finding = only(allocation_checks.check_allocation(BLUE))
    assert (finding.status, finding.found.startswith("this is no job")) == (Status.OK, True)
    assert allocation_checks.check_allocation(Platform(name="local.localhost")) == []


def test_nodes_that_see_or_reach_nothing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = {
        "n1": look("n1", 4),
        "n2": look("n2", 4, sees_folder=False, python="3.12"),
        "n3": look("n3", 4, reaches=""),
    }
    folder, network, python = allocation_checks._together(looks)
    assert (folder.status, folder.found) == (Status.BROKEN, "n2 do not see it")
    assert (network.status, network.found) == (Status.BROKEN, "n3 do not reach this node")
    assert (python.status, python.found) == (Status.WARNING, "3.11; 3.12")


def test_nodes_are_known_by_short_and_full_names_among_what_else_is_printed() -> None:
    told = [look("n2.lab", 1), look("whatever", 1, hostname="n1"), look("stranger", 1)]
    lines = [f"{MARK}{msgspec.json.encode(each).decode()}" for each in told]
    looks = allocation_checks.parse_looks("\n".join(["Welcome!", *lines, "", "bye"]), ["n1", "n2", "n3"])
    assert {name: each.node for name, each in looks.items()} == {"n1": "whatever", "n2": "n2.lab"}


def test_a_node_looks_at_the_folder_and_back_over_the_network(tmp_path: Path) -> None:
    (tmp_path / "seen").touch()
    with socket.socket() as listening, socket.socket() as closed:
        for each in (listening, closed):
            each.bind(("127.0.0.1", 0))
        listening.listen()
        ports = [each.getsockname()[1] for each in (closed, listening)]
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
        program = "from pilotage.cli.node_look import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path), str(tmp_path / "seen"), addresses],
            env={**os.environ, "PILOTAGE_NODE_NAME": "n7"},
            capture_output=True,
            text=True,
            check=True,
        )
    found = allocation_checks.parse_looks(done.stdout, ["n7"])["n7"]
    assert (found.sees_folder, found.reaches) == (True, f"127.0.0.1:{ports[1]}")
    assert f"Pilotage {__version__}" in found.python
    assert found.found.cores
