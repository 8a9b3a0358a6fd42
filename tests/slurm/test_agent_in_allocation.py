"""Agents in jobs of a real Slurm: what they find, where their tasks run, and what they bear."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import SlurmCluster
from slurm_pilot import SlurmPilot, shell

from pilotage.agent.settings import CONNECTION_FILE
from pilotage.model.outcome import Ending
from pilotage.model.services import Probe, Service
from pilotage.wire.keys import read_connection

OpenPilot = Callable[..., SlurmPilot]


@pytest.fixture
def open_pilot(slurm: SlurmCluster, tmp_path: Path) -> Iterator[OpenPilot]:
    """Submit pilots; what is left of them is cancelled after the test."""
    opened: list[SlurmPilot] = []

    def open_one(*options: str, **settings: Any) -> SlurmPilot:
        opened.append(SlurmPilot(slurm, tmp_path / f"pilot.{len(opened)}", *options, **settings))
        return opened[-1]

    yield open_one
    for pilot in opened:
        pilot.close()


def test_a_pilot_on_one_node_needs_no_step(open_pilot: OpenPilot, slurm: SlurmCluster) -> None:
    pilot = open_pilot(nodes=1)
    assert [node.shape.cores for node in pilot.come_up()] == [8]
    uids = pilot.submit(*((f"task.{number}", shell(), ("echo $PILOTAGE_NODE",)) for number in range(20)))
    assert {outcome.ending for outcome in pilot.wait_for(uids)} == {Ending.DONE}
    assert set(slurm.steps(pilot.job).values()) <= {"batch"}
    assert pilot.end().state == "CANCELED"


def test_tasks_run_on_all_nodes_with_one_step(open_pilot: OpenPilot, slurm: SlurmCluster) -> None:
    pilot = open_pilot(nodes=4)
    nodes = pilot.come_up()
    assert [(node.name, node.shape.cores) for node in nodes] == [(f"node{number}", 8) for number in range(1, 5)]
    # As many as there are cores, so that each has to be used.
    script = 'echo $PILOTAGE_NODE; while [ ! -e "$1" ]; do sleep 0.05; done'
    go = pilot.folder / "go"
    uids = pilot.submit(*((f"task.{number}", shell(), (script, "sh", str(go))) for number in range(32)))
    pilot.wait(lambda: len(pilot.started) == 32, "32 tasks run")
    assert sorted(slurm.steps(pilot.job).values()) == ["batch", "pilotage-hosts:pilot.0.0"]
    go.touch()
    assert {outcome.ending for outcome in pilot.wait_for(uids)} == {Ending.DONE}
    on = sorted(pilot.output(uid).strip() for uid in uids)
    assert on == [f"node{number}" for number in range(1, 5) for _ in range(8)]
    assert pilot.end().state == "CANCELED"


def test_tasks_have_the_users_environment_without_the_job(open_pilot: OpenPilot) -> None:
    pilot = open_pilot(nodes=2)
    (uid,) = pilot.submit(("task.0", shell(), ("env",)))
    pilot.wait_for([uid])
    variables = dict(line.partition("=")[::2] for line in pilot.output(uid).splitlines())
    assert variables["USERS_OWN"] == "set"
    foreign = [name for name in variables if name.startswith(("SLURM", "PMI", "PALS")) and name != "SLURM_CONF"]
    assert not foreign
    assert "PILOTAGE_NODE_NAME" not in variables
    pilot.end()


def test_nodes_are_kept_for_the_agent(open_pilot: OpenPilot, slurm: SlurmCluster) -> None:
    pilot = open_pilot(nodes=3, agent_nodes=1)
    names = [node.name for node in pilot.come_up()]
    assert (names, pilot.found()["here"]) == (["node2", "node3"], None)
    uids = pilot.submit(*((f"task.{number}", shell(), ("echo $PILOTAGE_NODE",)) for number in range(16)))
    pilot.wait_for(uids)
    assert {pilot.output(uid).strip() for uid in uids} <= set(names)
    pilot.end()


def test_ranks_on_several_nodes(open_pilot: OpenPilot) -> None:
    pilot = open_pilot(nodes=4)
    ranks = shell(ranks=4, ranks_per_node=1, launch_method="srun")
    (uid,) = pilot.submit(("task.0", ranks, ("echo $PILOTAGE_RANK $PILOTAGE_NODE $SLURMD_NODENAME",)))
    (outcome,) = pilot.wait_for([uid])
    assert (outcome.ending, outcome.detail) == (Ending.DONE, "")
    assert sorted(pilot.output(uid).splitlines()) == [f"{rank} node{rank + 1} node{rank + 1}" for rank in range(4)]
    pilot.end()


def test_an_agent_that_dies_is_followed_by_one_that_finds_all_again(open_pilot: OpenPilot, slurm: SlurmCluster) -> None:
    pilot = open_pilot(nodes=3)
    go = pilot.folder / "go"
    script = 'echo $PILOTAGE_NODE; while [ ! -e "$1" ]; do sleep 0.05; done'
    uids = pilot.submit(*((f"task.{number}", shell(), (script, "sh", str(go))) for number in range(24)))
    pilot.wait(lambda: len(pilot.started) == 24, "24 tasks run")
    os.kill(read_connection(pilot.folder / CONNECTION_FILE).pid, signal.SIGKILL)
    pilot.wait(lambda: pilot.incarnation == 2, "another agent comes")
    assert sorted(slurm.steps(pilot.job).values()) == ["batch", "pilotage-hosts:pilot.0.0"]
    go.touch()
    outcomes = pilot.wait_for(uids)
    assert {(outcome.ending, outcome.attempt) for outcome in outcomes} == {(Ending.DONE, 1)}
    assert pilot.end().state == "CANCELED"


def test_nodes_are_what_hosts_find_there_and_tasks_are_bound(open_pilot: OpenPilot) -> None:
    pilot = open_pilot(nodes=2, emulated=None, bind=True)
    cores = sorted(os.sched_getaffinity(0))
    # Nodes of the tests say that they have more than the machine.
    assert [(node.name, node.shape.cores) for node in pilot.come_up()] == [("node1", len(cores)), ("node2", len(cores))]
    show = ("grep Cpus_allowed_list /proc/self/status; echo $PILOTAGE_NODE",)
    uids = pilot.submit(*((f"task.{number}", shell(), show) for number in range(8)))
    pilot.wait_for(uids)
    bound = {pilot.output(uid).split()[1] for uid in uids}
    assert bound <= {str(core) for core in cores}
    (wide,) = pilot.submit(("wide", shell(ranks=2, ranks_per_node=1, cores=len(cores), launch_method="srun"), show))
    assert pilot.wait_for([wide])[0].ending is Ending.DONE
    # The lines of two ranks may come in any order.
    assert sorted(line for line in pilot.output(wide).splitlines() if line.startswith("node")) == ["node1", "node2"]
    pilot.end()


def test_an_agent_that_dies_before_its_hosts_have_come_is_followed_by_one_that_meets_them(
    open_pilot: OpenPilot, slurm: SlurmCluster
) -> None:
    pilot = open_pilot(nodes=3)
    slurm.wait_until((pilot.folder / "hosts.0.err").exists, "the step of hosts is being started")
    agents = [pid for pid in pids_of(pilot.folder) if "pilotage.agent.main" in command_line(pid)]
    for pid in agents:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert [node.name for node in pilot.come_up()] == ["node1", "node2", "node3"]
    assert pilot.incarnation == 2
    uids = pilot.submit(*((f"task.{number}", shell(), ("true",)) for number in range(24)))
    assert {outcome.ending for outcome in pilot.wait_for(uids)} == {Ending.DONE}
    assert sorted(slurm.steps(pilot.job).values()) == ["batch", "pilotage-hosts:pilot.0.0"]
    pilot.end()


def test_services_on_all_nodes_say_that_they_are_ready(open_pilot: OpenPilot) -> None:
    pilot = open_pilot(nodes=3)
    service = shell(cores=8, service=Service(ready=Probe("notify")))
    say = (
        "import os, socket; speaker = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
        "speaker.sendto(b'READY=1\\nINFO=' + os.environ['PILOTAGE_NODE'].encode(), os.environ['NOTIFY_SOCKET'])"
    )
    uids = pilot.submit(
        *((f"service.{number}", service, (f'{sys.executable} -c "$1"; exec sleep 1000', "sh", say)) for number in range(3))
    )
    pilot.wait(lambda: len(pilot.services) == 3, "3 services are ready")
    assert sorted(pilot.services[uid] for uid in uids) == ["node1", "node2", "node3"]
    os.kill(read_connection(pilot.folder / CONNECTION_FILE).pid, signal.SIGKILL)
    pilot.wait(lambda: pilot.incarnation == 2, "another agent comes")
    assert not any(uid in pilot.outcomes for uid in uids)
    pilot.end()


def test_a_job_that_is_begun_again_goes_on_from_its_log(open_pilot: OpenPilot, slurm: SlurmCluster) -> None:
    pilot = open_pilot(nodes=2)
    go = pilot.folder / "go"
    script = 'echo $PILOTAGE_ATTEMPT >>"$1.$2"; while [ ! -e "$1" ]; do sleep 0.05; done'
    again, once = shell(restartable=True), shell()
    done = pilot.submit(("task.0", once, ("true",)))
    pilot.wait_for(done)
    uids = pilot.submit(
        *((f"again.{number}", again, (script, "sh", str(go), "again")) for number in range(4)),
        *((f"once.{number}", once, (script, "sh", str(go), "once")) for number in range(4)),
    )
    pilot.wait(lambda: len(pilot.started) >= 8, "8 tasks run")
    before = pilot.found()
    slurm.output("scontrol", "requeue", pilot.job)
    pilot.wait(lambda: pilot.incarnation > 4, "an agent of the later run says hello")
    assert (before["run"], pilot.found()["run"]) == (0, 1)
    go.touch()
    outcomes = {outcome.task: outcome for outcome in pilot.wait_for(uids)}
    assert {outcomes[uid].ending for uid in uids if uid.startswith("again")} == {Ending.DONE}
    assert {outcomes[uid].attempt for uid in uids if uid.startswith("again")} == {2}
    lost = [outcomes[uid] for uid in uids if uid.startswith("once")]
    assert {outcome.ending for outcome in lost} <= {Ending.NODE_FAILED, Ending.LOST}
    assert all("began it again" in outcome.message for outcome in lost)
    assert pilot.end().state == "CANCELED"


def test_a_pilot_ends_before_its_job_does(open_pilot: OpenPilot, slurm: SlurmCluster) -> None:
    pilot = open_pilot("--time=1", nodes=2, end_margin_s=50.0)
    (uid,) = pilot.submit(("task.0", shell(), ("exec sleep 1000",)))
    pilot.wait(lambda: pilot.ended, "the pilot ends")
    assert pilot.ended is not None
    assert (pilot.ended.state, pilot.outcomes[uid].ending) == ("DONE", Ending.OUT_OF_WALLTIME)
    told = slurm.wait_for_job(pilot.job, "COMPLETED", "TIMEOUT")
    assert (told["JobState"], told["ExitCode"]) == ("COMPLETED", "0:0")


def test_hosts_that_cannot_be_started_end_the_pilot_and_say_why(
    open_pilot: OpenPilot, slurm: SlurmCluster, tmp_path: Path
) -> None:
    broken = tmp_path / "srun"
    broken.write_text("#!/bin/sh\necho 'srun: error: no such plugin' >&2\nexit 3\n")
    broken.chmod(0o755)
    pilot = open_pilot(nodes=2, launcher_paths={"srun": str(broken)})
    told = slurm.wait_for_job(pilot.job, "FAILED", "COMPLETED")
    assert told["ExitCode"] == "1:0"
    said = (pilot.folder / "agent.err").read_text()
    assert "the hosts of 2 nodes ended 3 times" in said
    assert "exit code 3: srun: error: no such plugin" in said
    assert said.count("the hosts of 2 nodes") == 1, "no other agent tried"


def test_a_node_that_does_not_come_is_left_out_and_told(open_pilot: OpenPilot, tmp_path: Path) -> None:
    without = tmp_path / "srun"
    without.write_text(
        "#!/bin/bash\n"
        'arguments=("${@//--nodelist=node\\[1-3\\]/--nodelist=node[1-2]}")\n'
        'arguments=("${arguments[@]//--nodes=3/--nodes=2}")\n'
        'exec srun "${arguments[@]//--ntasks=3/--ntasks=2}"\n'
    )
    without.chmod(0o755)
    pilot = open_pilot(nodes=3, launcher_paths={"srun": str(without)}, hosts_timeout_s=8.0)
    assert [node.name for node in pilot.come_up()] == ["node1", "node2"]
    pilot.wait(lambda: pilot.notices, "the user is told")
    assert "1 of 3 nodes did not come within 8 s" in pilot.notices[0]
    assert "node3" in pilot.notices[0]
    uids = pilot.submit(*((f"task.{number}", shell(), ("true",)) for number in range(16)))
    assert {outcome.ending for outcome in pilot.wait_for(uids)} == {Ending.DONE}
    pilot.end()


def test_a_launcher_that_was_killed_leaves_no_step_and_hosts_come_again(open_pilot: OpenPilot, slurm: SlurmCluster) -> None:
    pilot = open_pilot(nodes=2)
    pilot.come_up()
    steps = [pid for pid in pids_of(pilot.folder) if "--job-name=pilotage-hosts:pilot.0.0" in command_line(pid)]
    for pid in steps:
        # It has a child, which goes with it.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    pilot.wait(lambda: "pilotage-hosts:pilot.0.1" in slurm.steps(pilot.job).values(), "another step starts hosts")
    uids = pilot.submit(*((f"task.{number}", shell(restartable=True), ("true",)) for number in range(16)))
    assert {outcome.ending for outcome in pilot.wait_for(uids)} == {Ending.DONE}
    assert sorted(slurm.steps(pilot.job).values()) == ["batch", "pilotage-hosts:pilot.0.1"]
    pilot.end()


@pytest.mark.parametrize("how", ["end", "scancel"])
def test_nothing_is_left_of_a_pilot(open_pilot: OpenPilot, slurm: SlurmCluster, how: str) -> None:
    pilot = open_pilot(nodes=3)
    uids = pilot.submit(*((f"task.{number}", shell(), ("exec sleep 1000",)) for number in range(24)))
    pilot.wait(lambda: len(pilot.started) == len(uids), "24 tasks run")
    private = [Path(read_connection(pilot.folder / CONNECTION_FILE).socket).parent]
    if how == "end":
        # Hosts of a job that is cancelled may be killed before they have tidied up.
        names = [hashlib.sha256(os.fsencode(pilot.folder / f"node{number}")).hexdigest()[:16] for number in (1, 2, 3)]
        private += [private[0].with_name(name) for name in names]
    assert all(folder.is_dir() for folder in private)
    assert len(pids_of(pilot.folder)) > 24
    if how == "end":
        pilot.end()
    else:
        slurm.output("scancel", pilot.job)
        slurm.wait_for_job(pilot.job, "CANCELLED")
    slurm.wait_until(
        lambda: not pids_of(pilot.folder), lambda: f"no process is left: {[*map(command_line, pids_of(pilot.folder))]}"
    )
    slurm.wait_until(lambda: not any(folder.exists() for folder in private), "no private folder is left")


def pids_of(folder: Path) -> list[int]:
    """Return the processes that have a pilot's folder among their arguments or in their environment."""
    mark = os.fsencode(folder)
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                told = Path(f"/proc/{entry}/cmdline").read_bytes() + Path(f"/proc/{entry}/environ").read_bytes()
            except OSError:
                continue
            if mark in told:
                found.append(int(entry))
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
