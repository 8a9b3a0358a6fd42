"""A session whose pilot waits in the queue of a batch system for ever: played by three small programs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pilotage import InvalidPilot, InvalidTask, Pilot, PilotDescription, PilotManager, Session, TaskDescription, TaskManager

PATIENCE_S = 60.0
PLATFORM = """
[machine]
batch = "slurm"
cores_per_node = 8
gpus_per_node = 2
memory_per_node_mib = 16000
"""
# The columns that the adapter asks for, by their widths.
ROW = "'%-40s%-24s%-200s%-16s%-16s%-32s%-32s%-4000s\\n' 12 $state $why 0 0 N/A N/A ''"
PROGRAMS = {
    "sbatch": "echo 12; echo x >> submitted",
    "squeue": f"state=PENDING why=Priority; [ ! -e cancelled ] || state=CANCELLED why=None; printf {ROW}",
    "scancel": "touch cancelled",
}


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the batch system, in which it notes what was done."""
    folder = tmp_path / "queue"
    folder.mkdir()
    for name, line in PROGRAMS.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\ncd {folder}\n{line}\n")
        path.chmod(0o755)
    (tmp_path / "site.toml").write_text(PLATFORM)
    monkeypatch.setenv("PILOTAGE_PLATFORMS", str(tmp_path / "site.toml"))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def session(queue: Path, tmp_path: Path) -> Iterator[Session]:
    with Session(base=tmp_path / "sessions") as session:
        yield session


def submit(session: Session, **attributes: Any) -> tuple[Pilot, TaskManager]:
    pilot = PilotManager(session).submit_pilots(PilotDescription({"resource": "site.machine", "nodes": 2, **attributes}))
    tasks = TaskManager(session)
    tasks.add_pilots(pilot)
    return pilot, tasks


def wait_until(there: Callable[[], object], shown: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < deadline, shown()
        time.sleep(0.02)


def test_a_queued_pilot_has_the_nodes_that_it_is_expected_to_have(session: Session) -> None:
    pilot, _ = submit(session)
    assert [(node.shape.cores, node.shape.gpus) for node in pilot.nodes] == [(8, 2)] * 2
    wait_until(lambda: pilot.job_state == "queued", lambda: pilot.reason)
    assert (pilot.state, pilot.reason) == ("PMGR_ACTIVE_PENDING", "its job 12 is queued: Priority")
    assert (pilot.as_dict()["job"], pilot.job_outcome) == ("12", "")


@pytest.mark.parametrize(
    "too_much", [{"cores_per_rank": 9}, {"gpus_per_rank": 3}, {"ranks": 100}, {"mem_per_rank": 20000}, {"tags": {"node": "n7"}}]
)
def test_no_task_is_refused_for_what_is_only_expected(session: Session, too_much: dict[str, Any]) -> None:
    _, tasks = submit(session)
    task = tasks.submit_tasks(TaskDescription(executable="/bin/true", use_mpi=False, **too_much))
    assert task.state not in ("FAILED", "CANCELED")


def test_nodes_have_no_names_yet(session: Session) -> None:
    _, tasks = submit(session)
    slots = [{"node_name": "node0", "cores": [0]}]
    with pytest.raises(InvalidTask, match="which nodes a pilot has is not known before it is active; wait for it"):
        tasks.submit_tasks(TaskDescription(executable="/bin/true", slots=slots))


def test_cancelling_takes_the_job_out_of_the_queue(session: Session, queue: Path) -> None:
    pilot, tasks = submit(session)
    task = tasks.submit_tasks(TaskDescription(executable="/bin/true"))
    wait_until(lambda: pilot.job_state == "queued", lambda: pilot.reason)
    pilot.cancel()
    assert (pilot.wait(timeout=PATIENCE_S), task.wait(timeout=PATIENCE_S)) == ("CANCELED", "CANCELED")
    assert (queue / "cancelled").exists()
    assert (pilot.reason, pilot.job_outcome) == ("its job 12 was cancelled before the pilot was active", "CANCELLED")


def test_closing_takes_the_job_out_of_the_queue(session: Session, queue: Path) -> None:
    pilot, _ = submit(session)
    session.close()
    assert (queue / "cancelled").exists()
    assert pilot.state == "CANCELED"


def test_leaving_keeps_it_there_and_who_comes_back_finds_it(session: Session, queue: Path, tmp_path: Path) -> None:
    pilot, _ = submit(session)
    session.close(terminate=False)
    # Who leaves right after submitting means the job to be in the queue.
    assert (pilot.job, (queue / "submitted").read_text()) == ("12", "x\n")
    with Session.resume(session.uid, base=tmp_path / "sessions") as resumed:
        again = resumed.get_pilot_managers(pilot.pmgr.uid).get_pilots(pilot.uid)
        wait_until(lambda: again.job_state == "queued", lambda: again.reason)
        assert (again.job, (queue / "submitted").read_text()) == ("12", "x\n")
    assert (queue / "cancelled").exists()


def test_states_are_told_in_order(session: Session) -> None:
    manager = PilotManager(session)
    seen: list[str] = []
    manager.register_callback(lambda pilot, state: seen.append(state))
    pilot = manager.submit_pilots(PilotDescription(resource="site.machine", nodes=1))
    wait_until(lambda: pilot.job_state == "queued", lambda: pilot.reason)
    pilot.cancel()
    pilot.wait(timeout=PATIENCE_S)
    session.close()
    assert seen == ["PMGR_LAUNCHING_PENDING", "PMGR_LAUNCHING", "PMGR_ACTIVE_PENDING", "CANCELED"]


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"queue": "a b"}, "pilot 'pilot.0000': slurm: queue='a b': a directive holds no blanks"),
        ({"extra_options": "-a\n-b"}, "pilot 'pilot.0000': slurm: extra_options='-a\\n-b': each is one line"),
        ({"filesystems": "home"}, "pilot: filesystems=['home']: slurm cannot say it"),
        ({"cores_per_node": 4}, "pilot: cores_per_node=4: the nodes of site.machine are what they are"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_at_the_call(
    session: Session, queue: Path, attributes: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidPilot) as refused:
        submit(session, **attributes)
    assert told in str(refused.value)
    assert not (queue / "submitted").exists()
    assert session.state.pilots == {}


def test_no_command_that_submits_is_said_at_the_call(session: Session, queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(queue / "nothing"))
    with pytest.raises(InvalidPilot, match=r"resource='site.machine': no batch system slurm here: there is no sbatch in PATH"):
        submit(session)
    assert not session.state.pilots


def test_tasks_that_come_after_a_refusal_are_told_of_it(
    session: Session, queue: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (queue / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: no lunch today' >&2; exit 7\n")
    pilot, tasks = submit(session)
    assert pilot.wait() == "FAILED"
    tasks.submit_tasks(TaskDescription(executable="/bin/true"))
    [said] = [record.getMessage() for record in caplog.records if "wait for a pilot" in record.getMessage()]
    assert f"it has none that can take them, as {pilot.uid} is FAILED: its job could not be submitted: " in said
    assert "no lunch today; submit one and pass it to add_pilots()" in said
