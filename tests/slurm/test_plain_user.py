"""Slurm, pilots and clients of a plain user: nothing takes root, and a client is content with what login nodes grant.

Where the tests run as root they run these programs as ``nobody``; see ``plain_user``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from plain_user import as_plain_user, plain_user, why_no_count_of_its_own
from slurm_cluster import PATIENCE_S, missing_slurm
from slurm_processes import processes_of

REPOSITORY = Path(__file__).resolve().parents[2]
PROCESSES = 100
MEMORY_MIB = 1024
"""What the clients below are granted: processes and threads, and address space."""
FEW_THREADS = 8
"""How many a client has at most, two of which are ZeroMQ's."""

HELD = "import json, os, sys; print(json.dumps(dict(os.environ)), flush=True); sys.stdin.read()"


class PlainShell:
    """A shell of a plain user, in a folder of their own. ``more``: variables beside this process's."""

    def __init__(self, home: Path, more: Mapping[str, str]) -> None:
        self.home = home
        own = {"HOME": str(home), "TMPDIR": str(home), "PILOTAGE_HOME": str(home / "pilotage"), "PYTHONDONTWRITEBYTECODE": "1"}
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "PILOTAGE", "XDG"))}
        self.environment = {**ours, **own, **more}

    def start(self, *command: str, limited: bool = False) -> subprocess.Popen[str]:
        """Start a command; ``limited``: on what login nodes grant."""
        limits = {"processes": PROCESSES, "memory_mib": MEMORY_MIB} if limited else {}
        return subprocess.Popen(
            as_plain_user(*command, **limits),
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str, limited: bool = False) -> str:
        """Return what a command has printed that has to succeed, both streams together."""
        process = self.start(*command, limited=limited)
        try:
            output, errors = process.communicate(timeout=3 * PATIENCE_S)
        finally:
            process.kill()
        assert process.returncode == 0, f"{process.returncode}\n{output}\n{errors}"
        return output + errors

    def told_by(self, program: str, *command: str, limited: bool = False) -> dict[str, object]:
        """Return the object of JSON that is the last line of a program of Python; ``command``: what runs it."""
        path = self.home / "program.py"
        path.write_text(program)
        told: dict[str, object] = json.loads(self.run(*command, sys.executable, str(path), limited=limited).splitlines()[-1])
        return told


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of the plain user, whose path is short and passes no folder that is closed to them, as pytest's are."""
    folder = Path(tempfile.mkdtemp(prefix="plain-"))
    user = plain_user()
    os.chown(folder, user.pw_uid, user.pw_gid)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def shell(home: Path) -> PlainShell:
    return PlainShell(home, {})


@pytest.fixture
def need_slurm() -> None:
    """A Slurm that is installed; fails on CI, where no part may be missing."""
    if reason := missing_slurm():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture
def need_count() -> None:
    """A kernel that tells a client's processes from the other ones of its user; no package brings that to a container."""
    if reason := why_no_count_of_its_own():
        pytest.skip(reason)


@pytest.fixture
def login(shell: PlainShell, need_slurm: None, need_count: None) -> Iterator[PlainShell]:
    """A shell of the plain user beside a cluster that they have started."""
    process = shell.start(*slurm_cluster("--nodes", "2"), sys.executable, "-c", HELD)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        pytest.fail(process.communicate()[1])
    theirs = {name: value for name, value in json.loads(line).items() if name in ("SLURM_CONF", "PILOTAGE_PLATFORMS")}
    yield PlainShell(shell.home, theirs)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


def slurm_cluster(*options: str) -> list[str]:
    """Return the start of a command line that runs what follows beside a cluster."""
    return [sys.executable, str(REPOSITORY / "scripts" / "slurm-cluster"), *options]


# ----- a cluster of a plain user ------------------------------------------------------------------------------------------

PILOT = """
import json, time
import pilotage as rp

def wait_until(there, shown):
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline, shown()
        time.sleep(0.05)

with rp.Session() as session:
    pilots = rp.PilotManager(session)
    pilot = pilots.submit_pilots(rp.PilotDescription({"resource": "test.cluster", "nodes": 3, "runtime": 5}))
    assert pilot.wait("PMGR_ACTIVE", timeout=60) == "PMGR_ACTIVE", pilot.reason
    tasks = rp.TaskManager(session)
    tasks.add_pilots(pilot)

    def sh(line, **more):
        return tasks.submit_tasks(rp.TaskDescription(executable="/bin/sh", arguments=["-c", line], **more))

    over = sh("echo $SLURMD_NODENAME $(id -un)", ranks=3, ranks_per_node=1, launch_method="srun")
    meet = "touch ~/at.$PILOTAGE_NODE; until [ $(ls ~/at.* | wc -l) = 3 ]; do sleep 0.05; done"
    alone = [sh(f"{meet}; echo $PILOTAGE_NODE $(id -un)", cores_per_rank=8) for _ in range(3)]
    ended = [task.wait(timeout=60) for task in [over, *alone]]
    stay = "echo up; exec sleep infinity"
    stays = [sh(stay, ranks=3, ranks_per_node=1, launch_method="srun"), sh(stay)]
    up = [3, 1]
    wait_until(lambda: [(task.stdout or "").count("up") for task in stays] == up, lambda: [task.state for task in stays])
    stays[0].cancel()
    cancelled = stays[0].wait(timeout=60)
    pilot.cancel()
    pilot.wait(timeout=60)
    wait_until(lambda: pilot.job_outcome, lambda: pilot.job_state)
    print(json.dumps({
        "over": sorted(over.stdout.splitlines()),
        "alone": sorted({task.stdout.strip() for task in alone}),
        "ended": ended,
        "cancelled": cancelled,
        "with the pilot": stays[1].wait(timeout=60),
        "job": pilot.job_outcome,
    }))
"""


def test_a_plain_user_starts_a_cluster_runs_a_pilot_on_it_and_leaves_nothing(shell: PlainShell, need_slurm: None) -> None:
    told = shell.told_by(PILOT, *slurm_cluster("--nodes", "3"))

    lines = [f"node{number} {plain_user().pw_name}" for number in (1, 2, 3)]
    assert (told["over"], told["alone"]) == (lines, lines)
    assert told["ended"] == ["DONE"] * 4
    assert (told["cancelled"], told["with the pilot"], told["job"]) == ("CANCELED", "CANCELED", "DONE")
    assert processes_of(shell.home) == {}
    assert [path.name for path in shell.home.iterdir() if path.name.startswith("slurm-")] == []


# ----- clients on what a login node grants --------------------------------------------------------------------------------

LIMITS = "ulimit -S -u; ulimit -S -v"
CAMPAIGN = f"""
session = "lake"

[pilot]
resource = "test.cluster"
nodes = 2
runtime = 10
idle_timeout_s = 20

[[tasks]]
executable = "/bin/bash"
arguments = ["-c", "{LIMITS}"]
count = 20
"""

CLIENT = """
import json, resource
import pilotage as rp

resource_name = "{resource}"
granted = resource.getrlimit(resource.RLIMIT_NPROC), resource.getrlimit(resource.RLIMIT_AS)
with rp.Session() as session:
    size = {size}
    pilots = rp.PilotManager(session).submit_pilots(
        [rp.PilotDescription({{"resource": resource_name, "runtime": 10, **size}}) for _ in range(2)]
    )
    for pilot in pilots:
        assert pilot.wait("PMGR_ACTIVE", timeout=60) == "PMGR_ACTIVE", pilot.reason
    tasks = rp.TaskManager(session)
    tasks.add_pilots(pilots)
    ran = tasks.submit_tasks([rp.TaskDescription(executable="/bin/true") for _ in range(1000)])
    tasks.wait_tasks(timeout=100)
    states = [task.state for task in ran]
    [threads] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("Threads")]
    print(json.dumps({{
        "granted": granted,
        "done": states.count("DONE"),
        "pilots": len({{task.pilot for task in ran}}),
        "threads": int(threads),
    }}))
"""

THREADS = """
import json, threading
leave = threading.Event()
threads = [threading.Thread(target=leave.wait, daemon=True) for _ in range(200)]
started = 0
try:
    for thread in threads:
        thread.start()
        started += 1
except RuntimeError:
    pass
leave.set()
print(json.dumps({"started": started}))
"""


def test_what_the_clients_are_granted_is_all_that_they_get(shell: PlainShell, need_count: None) -> None:
    # Their stacks are small, or it would be the memory that is too little.
    told = shell.told_by(f"import threading; threading.stack_size(1 << 18)\n{THREADS}", limited=True)

    assert told["started"] == PROCESSES - 1


def test_a_client_with_two_pilots_of_the_same_machine_is_content_with_it(shell: PlainShell, need_count: None) -> None:
    program = CLIENT.format(resource="local.emulated", size={"nodes": 1, "cores_per_node": 2})

    told = shell.told_by(program, limited=True)

    assert told["granted"] == [[PROCESSES] * 2, [MEMORY_MIB << 20] * 2]
    assert (told["done"], told["pilots"]) == (1000, 2)
    assert told["threads"] <= FEW_THREADS


def test_a_client_with_two_pilots_on_a_cluster_is_content_with_it(login: PlainShell) -> None:
    told = login.told_by(CLIENT.format(resource="test.cluster", size={"nodes": 1}), limited=True)

    assert told["granted"] == [[PROCESSES] * 2, [MEMORY_MIB << 20] * 2]
    assert (told["done"], told["pilots"]) == (1000, 2)
    assert told["threads"] <= FEW_THREADS


def test_a_campaign_is_submitted_from_there_and_its_tasks_get_what_their_nodes_grant(login: PlainShell) -> None:
    (login.home / "campaign.toml").write_text(CAMPAIGN)
    client = (sys.executable, "-m", "pilotage.cli")

    assert "pilotage wait lake" in login.run(*client, "submit", "campaign.toml", limited=True)
    login.run(*client, "status", "lake", limited=True)
    assert "20 tasks: 20 done" in login.run(*client, "wait", "lake", limited=True)
    login.run(*client, "status", "lake", limited=True)

    outputs = {path.read_text() for path in login.home.glob("pilotage/sessions/lake/*/tasks/**/*.out")}
    assert outputs == {login.run("/bin/bash", "-c", LIMITS.replace("-S", "-H"))}


def test_a_program_is_submitted_from_there_and_gets_what_its_node_grants(login: PlainShell) -> None:
    (login.home / "program.py").write_text(f"import subprocess; subprocess.run(['/bin/bash', '-c', {LIMITS!r}])")
    client = (sys.executable, "-m", "pilotage.cli")
    words = ("--resource", "test.cluster", "--nodes", "1", "--runtime", "5m", "--session", "lake")

    login.run(*client, "submit", "program.py", *words, limited=True)
    assert "the program ended with exit code 0" in login.run(*client, "wait", "lake", limited=True)

    found = json.loads(login.run(*client, "status", "lake", "--format", "json", limited=True))["program"]
    assert Path(found["output"]).read_text() == login.run("/bin/bash", "-c", LIMITS.replace("-S", "-H"))
