"""The end of a pilot's time on a real Slurm, and jobs that Slurm ends before: what tasks are told, and what becomes of them."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import PATIENCE_S, OpenSlurm, SlurmCluster
from slurm_platform import platform_variables

from pilotage.agent.settings import CONNECTION_FILE
from pilotage.client.pilot import Pilot
from pilotage.client.pilot_description import PilotDescription
from pilotage.client.pilot_manager import PilotManager
from pilotage.client.session import Session
from pilotage.client.task import Task
from pilotage.client.task_description import TaskDescription
from pilotage.client.task_manager import TaskManager
from pilotage.model.outcome import Ending
from pilotage.model.partitions import PartitionSpec
from pilotage.wire.keys import read_connection

SAVES = r"""
echo "$PILOTAGE_ATTEMPT $PILOTAGE_END_TIME $PILOTAGE_PILOT_ID $PILOTAGE_NODE" >>attempts.$PILOTAGE_RANK
[ ! -e saved.$PILOTAGE_RANK ] || exit 0
trap 'echo "$PILOTAGE_NODE" >>saved.$PILOTAGE_RANK; exit 7' USR1
while :; do sleep 0.05; done
"""
STAYS = "touch {0}/runs; exec sleep infinity"


class Work:
    """A pilot, and tasks for it."""

    def __init__(self, session: Session, **pilot: Any) -> None:
        self.pilots = PilotManager(session)
        described = PilotDescription({"resource": "test.cluster", "runtime": 10, "nodes": 1, **pilot})
        self.pilot: Pilot = self.pilots.submit_pilots(described)
        self.tasks = TaskManager(session)
        self.tasks.add_pilots(self.pilot)

    def shell(self, line: str, **attributes: Any) -> Task:
        """Submit a line of shell."""
        described = TaskDescription(executable="/bin/sh", arguments=["-c", line], **attributes)
        task: Task = self.tasks.submit_tasks(described)
        return task

    def stays(self, tmp_path: Path, **attributes: Any) -> Task:
        """Submit a task that does not end, and return it when it runs."""
        task = self.shell(STAYS.format(tmp_path), **attributes)
        wait_until((tmp_path / "runs").exists, self.story)
        return task

    def story(self) -> object:
        told = [(task.uid, task.state, task.outcome) for task in self.tasks.get_tasks()]
        return self.pilot.state, self.pilot.reason, self.pilot.job_state, told

    def finish(self, *tasks: Task) -> None:
        """Wait for tasks that may take several pilots."""
        wait_until(lambda: all(task.outcome is not None for task in tasks), self.story, 4 * PATIENCE_S)

    def outcome(self) -> str:
        """Return how the pilot's job ended, when it has."""
        wait_until(lambda: self.pilot.job_outcome, self.story, 2 * PATIENCE_S)
        return str(self.pilot.job_outcome)


def wait_until(there: Callable[[], object], shown: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Return when something is so."""
    deadline = time.monotonic() + patience_s
    while not there():
        assert time.monotonic() < deadline, shown()
        time.sleep(0.05)


def ending_of(task: Task) -> Ending | None:
    return task.outcome.ending if task.outcome is not None else None


def words(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


# ----- the end of its time --------------------------------------------------------------------------------------------


def test_ranks_on_all_nodes_are_told_and_go_on_in_pilots_that_follow_until_all_is_done(
    session: Session, slurm: SlurmCluster
) -> None:
    began = time.time()
    work = Work(session, nodes=2, runtime=0.75, drain_s=25, checkpoint_signal="USR1", successors="until_done")
    wide = work.shell(SAVES, ranks=4, cores_per_rank=2, ranks_per_node=2, restart="continue")
    alone = [work.shell(SAVES, cores_per_rank=4, restart="continue") for _ in range(2)]
    work.finish(wide, *alone)
    assert [task.state for task in (wide, *alone)] == ["DONE"] * 3, work.story()

    told = [word for rank in range(4) for word in words(Path(wide.sandbox) / f"saved.{rank}")]
    # A pilot that follows may have other nodes.
    assert sorted(Counter(node for [node] in told).values()) == [2, 2], f"each rank was told once: {told}"
    for rank in range(4):
        attempts = words(Path(wide.sandbox) / f"attempts.{rank}")
        numbers, ends, pilots, _ = zip(*attempts, strict=True)
        assert [int(number) for number in numbers] == list(range(1, len(attempts) + 1)) and len(attempts) > 1
        assert [began, *map(float, ends)] == sorted([began, *map(float, ends)])
        # On a slow machine the first may be over before anything began.
        assert Path(wide.sandbox).parent.parent.name == pilots[0], "the later attempts were in the sandbox of the first"
        assert len(set(pilots)) == len(pilots) and all(uid.startswith(work.pilot.uid) for uid in pilots)
    assert work.pilot.wait(timeout=PATIENCE_S) == "DONE"

    pilots = work.pilots.list_pilots()
    last = work.pilots.get_pilots(pilots[-1])
    last.cancel()
    last.wait(timeout=PATIENCE_S)
    assert work.pilots.list_pilots() == pilots, "nothing is left to do, and none follows"
    assert set(slurm.jobs()) <= {last.job}


# ----- jobs that are ended before -------------------------------------------------------------------------------------


def test_what_was_preempted_goes_on_in_a_pilot_that_follows(session: Session, slurm: SlurmCluster, tmp_path: Path) -> None:
    work = Work(session, nodes=4, queue="spare", extra_options="--no-requeue", successors=2)
    line = f"echo $PILOTAGE_ATTEMPT >>attempts; [ $PILOTAGE_ATTEMPT = 1 ] || exit 0; {STAYS.format(tmp_path)}"
    [again, once] = [work.shell(line, restart="continue"), work.shell("touch began; exec sleep infinity")]
    wait_until(lambda: (tmp_path / "runs").exists() and (Path(once.sandbox) / "began").exists(), work.story)

    slurm.submit("--nodes=4", "--wrap=true")

    work.finish(again, once)
    assert (work.outcome(), ending_of(once), ending_of(again)) == ("PREEMPTED", Ending.PREEMPTED, Ending.DONE), work.story()
    assert again.pilot == f"{work.pilot.uid}.2"
    assert (Path(again.sandbox) / "attempts").read_text() == "1\n2\n"


def test_what_was_preempted_goes_on_when_its_job_is_begun_again(session: Session, slurm: SlurmCluster, tmp_path: Path) -> None:
    work = Work(session, nodes=4, queue="spare", successors=2)
    line = f"echo $PILOTAGE_ATTEMPT >>attempts; [ $PILOTAGE_ATTEMPT = 1 ] || exit 0; {STAYS.format(tmp_path)}"
    again = work.shell(line, restart="continue")
    wait_until((tmp_path / "runs").exists, work.story)

    slurm.submit("--nodes=4", "--wrap=true")

    work.finish(again)
    assert (again.state, again.pilot, work.pilot.state) == ("DONE", work.pilot.uid, "PMGR_ACTIVE"), work.story()
    assert (Path(again.sandbox) / "attempts").read_text() == "1\n2\n"
    assert slurm.job(work.pilot.job)["Restarts"] == "1"
    assert work.pilots.list_pilots() == [work.pilot.uid]


def test_a_job_whose_agent_hangs_runs_out_of_time(session: Session, slurm: SlurmCluster, tmp_path: Path) -> None:
    work = Work(session, successors=1)
    cut_off, fresh = work.stays(tmp_path), work.shell("[ $PILOTAGE_ATTEMPT -gt 1 ] || exec sleep infinity", restart="fresh")
    fresh.wait("AGENT_EXECUTING", timeout=PATIENCE_S)
    os.kill(read_connection(Path(work.pilot.sandbox) / CONNECTION_FILE).pid, signal.SIGSTOP)

    slurm.output("scontrol", "update", f"JobId={work.pilot.job}", "EndTime=now+1")

    work.finish(cut_off, fresh)
    assert (work.outcome(), work.pilot.state) == ("TIMED_OUT", "FAILED")
    assert (ending_of(cut_off), ending_of(fresh)) == (Ending.OUT_OF_WALLTIME, Ending.DONE), work.story()
    assert f"its job {work.pilot.job} ran out of time" in work.pilot.reason
    assert fresh.pilot == f"{work.pilot.uid}.2"


def test_a_job_that_loses_its_node_is_no_fault_of_its_tasks(session: Session, slurm: SlurmCluster, tmp_path: Path) -> None:
    work = Work(session, extra_options=["--nodelist=node4", "--no-requeue"])
    cut_off = work.stays(tmp_path)
    try:
        slurm.set_node("node4", "down")
        work.finish(cut_off)
    finally:
        slurm.set_node("node4", "resume")
    assert (work.outcome(), ending_of(cut_off)) == ("NODE_FAILED", Ending.NODE_FAILED), work.story()


def test_no_pilot_follows_one_whose_job_somebody_cancelled(session: Session, slurm: SlurmCluster, tmp_path: Path) -> None:
    work = Work(session, successors=3)
    cut_off = work.stays(tmp_path, restart="fresh")

    slurm.output("scancel", work.pilot.job)

    work.finish(cut_off)
    assert (work.outcome(), ending_of(cut_off)) == ("CANCELLED", Ending.LOST), work.story()
    assert work.pilots.list_pilots() == [work.pilot.uid] and slurm.jobs() == {}


def test_who_saves_and_is_done_when_the_job_is_told_to_end_is_done(
    session: Session, slurm: SlurmCluster, tmp_path: Path
) -> None:
    work = Work(session, drain_s=60, checkpoint_signal="USR1")
    stay = "while :; do sleep 0.05; done"
    [saved, cut_off] = [work.shell(f"trap 'echo saved >saved; exit {code}' USR1; touch ready; {stay}") for code in (0, 7)]
    wait_until(lambda: all((Path(task.sandbox) / "ready").exists() for task in (saved, cut_off)), work.story)

    # Only the script is told, and may take its time.
    slurm.output("scancel", "--batch", "--signal=TERM", work.pilot.job)

    work.finish(saved, cut_off)
    assert (ending_of(saved), ending_of(cut_off)) == (Ending.DONE, Ending.LOST), work.story()
    assert all((Path(task.sandbox) / "saved").read_text() == "saved\n" for task in (saved, cut_off))


# ----- a grace, at whose beginning steps are told and scripts are not ---------------------------------------------------


TELLS_HOSTS_ALONE = "ProctrackType=proctrack/pgid"
"""As where Slurm has cgroups: of a step those processes alone are signalled that Slurm has started itself."""
GRACE_S = 40


@pytest.fixture
def graceful(open_slurm: OpenSlurm) -> SlurmCluster:
    """A cluster whose jobs in ``spare`` have a grace when others take their place."""
    return open_slurm(nodes=2, gpus=0, grace_s=GRACE_S, extra=TELLS_HOSTS_ALONE)


SHAPES: dict[str, dict[str, Any]] = {
    "alone": {"nodes": 1},
    "hosts": {"nodes": 2},
    "partitions": {"nodes": 2, "partitions": [PartitionSpec(name=name, nodes=1) for name in ("a", "b")]},
    "threads": {"nodes": 1, "partitions": [PartitionSpec(name="a")], "sub_agents": "threads"},
}


# Each takes as long as the grace; those of partitions differ from the others in what units show, too.
@pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, id=name, marks=pytest.mark.slow if "partitions" in shape else ()) for name, shape in SHAPES.items()],
)
def test_at_the_beginning_of_a_grace_tasks_are_told_and_what_is_cut_short_goes_on_in_a_pilot_that_follows(
    graceful: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: dict[str, Any]
) -> None:
    for name, value in platform_variables(graceful, tmp_path, gpus=0).items():
        monkeypatch.setenv(name, value)
    with Session(base=tmp_path / "sessions") as session:
        described = {"queue": "spare", "extra_options": "--no-requeue", "drain_s": 300, "checkpoint_signal": "USR1"}
        work = Work(session, **described, **shape, successors=2)
        line = "echo $PILOTAGE_ATTEMPT >>attempts; [ $PILOTAGE_ATTEMPT = 1 ] || exit 0; trap 'touch saved; exit {}' USR1; "
        stay = "touch ready; while :; do sleep 0.05; done"
        saved, once = (work.shell(line.format(code) + stay) for code in (0, 7))
        again = work.shell(line.format(7) + stay, restart="continue")
        tasks = (saved, once, again)
        wait_until(lambda: all((Path(task.sandbox) / "ready").exists() for task in tasks), work.story, 2 * PATIENCE_S)

        graceful.submit(f"--nodes={len(graceful.node_names)}", "--wrap=true")

        wait_until(lambda: all((Path(task.sandbox) / "saved").exists() for task in tasks), work.story)
        assert graceful.job(work.pilot.job)["JobState"] == "RUNNING", "they were told before the end"
        work.finish(*tasks)
        assert (ending_of(saved), ending_of(once), ending_of(again)) == (Ending.DONE, Ending.PREEMPTED, Ending.DONE)
        assert work.outcome() == "PREEMPTED", work.story()
        assert again.pilot == f"{work.pilot.uid}.2"
        assert (Path(again.sandbox) / "attempts").read_text() == "1\n2\n"
