"""Lines over several hosts, run: by MPICH, and as plain processes, through a stand-in for the login on other hosts.

The stand-in runs the command here, in an environment as bare as that of a login, and tells it in ``STAND_IN_HOST`` on which
host it would be.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from launch_shapes import NAMES, slots_on, variables_of

from mpi_installations import MpiInstallation
from pilotage.launchers.method import Installed, LaunchRequest
from pilotage.launchers.outer import without_outer_launch
from pilotage.launchers.registry import launch_method

PATIENCE_S = 60.0
TELL = 'echo "$PILOTAGE_RANK|$PILOTAGE_NODE|$STAND_IN_HOST|$1"'
STAND_IN = """\
#!/bin/sh
while case $1 in -o) shift;; -*) ;; *) false;; esac; do shift; done
host=$1; shift
exec env -i PATH="$PATH" STAND_IN_HOST="$host" sh -c "$*"
"""


@pytest.fixture
def login(tmp_path: Path) -> str:
    path = tmp_path / "stand-in"
    path.write_text(STAND_IN)
    path.chmod(0o755)
    return str(path)


def start(
    folder: Path, method: str, installed: Installed, nodes: Sequence[int], script: str, **more: bytes
) -> subprocess.Popen[str]:
    """Render a line, write its files, and start it."""
    slots = slots_on(nodes)
    environment = {b"PATH": os.environb[b"PATH"], **{name.encode(): value for name, value in more.items()}}
    folder.mkdir(exist_ok=True)
    line = launch_method(method).render(
        installed,
        LaunchRequest(
            slots,
            ["/bin/sh", "-c", script, "sh", "it's  a"],
            variables_of(slots),
            NAMES,
            name="pilotage:task.1:1",
            folder=str(folder),
            environment=environment,
            working_folder=str(folder),
        ),
    )
    for name, text in line.files.items():
        (folder / name).write_text(text)
    return subprocess.Popen(
        line.arguments,
        env={**without_outer_launch(os.environb), **line.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("nodes", [[3, 3], [3, 3, 4], [4, 3, 3, 5]], ids=str)
def test_mpich_starts_each_rank_on_its_host(mpich: MpiInstallation, login: str, tmp_path: Path, nodes: list[int]) -> None:
    installed = Installed(mpich.mpiexec, "mpich", "", ("-launcher-exec", login), {"daemons": "ssh"})
    process = start(tmp_path / "files", "mpiexec", installed, nodes, TELL)
    out, err = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, err
    assert sorted(out.splitlines()) == [f"{rank}|{NAMES[node]}|{NAMES[node]}|it's  a" for rank, node in enumerate(nodes)]


@pytest.mark.parametrize("method", ["ssh", "rsh"])
@pytest.mark.parametrize("nodes", [[3], [3, 3, 4], [4, 3, 4, 5]], ids=str)
def test_a_login_on_each_node_starts_its_ranks(login: str, tmp_path: Path, method: str, nodes: list[int]) -> None:
    folder = tmp_path / "a folder's $name"
    process = start(folder, method, Installed(login), nodes, f'{TELL}"|$MINE|$PWD"', MINE=b"my  'own'")
    out, err = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, err
    assert not err
    assert sorted(out.splitlines()) == [
        f"{rank}|{NAMES[node]}|{NAMES[node]}|it's  a|my  'own'|{folder}" for rank, node in enumerate(nodes)
    ]


@pytest.mark.parametrize(("method", "nodes"), [("ssh", [3, 3, 4]), ("rsh", [3, 3, 4]), ("fork", [3, 3, 3])])
def test_the_exit_code_is_the_first_that_is_not_0(login: str, tmp_path: Path, method: str, nodes: list[int]) -> None:
    script = 'case $PILOTAGE_RANK in 1) exit 7;; *) echo "$PILOTAGE_RANK";; esac'
    process = start(tmp_path / "files", method, Installed(login), nodes, script)
    out, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 7
    assert sorted(out.split()) == ["0", "2"]


@pytest.mark.parametrize(("method", "nodes"), [("ssh", [3, 3, 4]), ("rsh", [3, 4]), ("fork", [3, 3]), ("fork", [3])])
def test_term_to_the_launcher_ends_all_ranks(login: str, tmp_path: Path, method: str, nodes: list[int]) -> None:
    process = start(tmp_path / "files", method, Installed(login), nodes, "echo $$; exec sleep 600")
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in nodes]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)

    assert process.returncode in (143, -signal.SIGTERM)
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}/cmdline") and b"sleep" in _command_line(pid)]


def test_a_host_that_cannot_be_reached_fails_the_task(tmp_path: Path) -> None:
    process = start(tmp_path / "files", "ssh", Installed("/nonexistent/ssh"), [3, 4], TELL)
    out, err = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 127
    assert not out
    assert "/nonexistent/ssh" in err


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
