"""A campaign on a pilot of a test's cluster, and its books: what tasks did by their own account beside what the client says.

Each task appends to a file of its own, the *witness*, when it begins and when it ends; nothing of Pilotage writes or reads it.
Tasks that stay open a named pipe that has no writer until the test opens the gate: they cost nothing meanwhile.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from slurm_cluster import PATIENCE_S, SlurmCluster
from slurm_platform import platform_variables

from pilotage.client.pilot import Pilot
from pilotage.client.pilot_description import PilotDescription
from pilotage.client.pilot_manager import PilotManager
from pilotage.client.session import Session
from pilotage.client.task import Task
from pilotage.client.task_description import TaskDescription
from pilotage.client.task_manager import TaskManager
from pilotage.model.outcome import Ending
from pilotage.model.partitions import PartitionSpec

NODE_CORES = 4
LOSSES = {Ending.LOST, Ending.NODE_FAILED, Ending.SIGNALLED}
"""How tasks end whose runner, node or pilot was lost."""

_PAYLOAD = """#!/bin/sh
# $1: folder of the witness, $2: what to do.
say() { echo "$PILOTAGE_PILOT_ID $PILOTAGE_ATTEMPT $PILOTAGE_RANK $1 $PILOTAGE_NODE" >>"$witness/$PILOTAGE_TASK_ID"; }
witness=$1
say begin
[ "$2" != stay ] || : <"$witness.gate"
say end
"""


class Run(NamedTuple):
    """One process of an attempt at a task: ``said`` by it."""

    pilot: str
    attempt: int
    rank: int
    said: str
    node: str


class Campaign:
    """Tasks on one pilot of ``nodes`` nodes. ``attributes``: others of the pilot."""

    def __init__(self, slurm: SlurmCluster, folder: Path, nodes: int, **attributes: Any) -> None:
        self.slurm = slurm
        self.folder = folder
        folder.mkdir()
        session = self.session = Session(base=folder)
        self.witness = folder / "witness"
        self.witness.mkdir()
        self._payload = folder / "payload.sh"
        self._payload.write_text(_PAYLOAD)
        self._gate_path = folder / "witness.gate"
        os.mkfifo(self._gate_path)
        self._gate = -1
        self.has_lost_a_log = False
        """Whether an agent's node was lost, so that of what it had not told yet nobody knows whether it had begun."""
        self.tasks: dict[str, Task] = {}
        self._described: dict[str, TaskDescription] = {}
        described = PilotDescription({"resource": "test.cluster", "runtime": 10, "nodes": nodes, **attributes})
        self.pilot: Pilot = PilotManager(session).submit_pilots(described)
        self._manager = TaskManager(session)
        self._manager.add_pilots(self.pilot)

    def have_another_pilot(self) -> Pilot:
        """Submit a pilot of one node, which gets what comes to be free."""
        [pilots] = self.session.get_pilot_managers()
        other: Pilot = pilots.submit_pilots(PilotDescription(resource="test.cluster", runtime=10, nodes=1))
        self._manager.add_pilots(other)
        return other

    # ----- what runs ---------------------------------------------------------------------------------------------------

    def submit(self, name: str, count: int, what: str = "", **attributes: Any) -> list[str]:
        """Submit tasks; those whose ``what`` is ``stay`` wait for the gate. Return their uids."""
        described = [
            TaskDescription(
                uid=f"{name}.{number}",
                executable="/bin/sh",
                arguments=[str(self._payload), str(self.witness), what],
                grace=0.5,
                **attributes,
            )
            for number in range(count)
        ]
        for each, task in zip(described, self._manager.submit_tasks(described), strict=True):
            self.tasks[task.uid] = task
            self._described[task.uid] = each
        return [task.uid for task in self._manager.get_tasks([each.uid for each in described])]

    def shell(self, line: str, **attributes: Any) -> Task:
        """Submit a line of shell, of which the books know nothing."""
        described = TaskDescription(executable="/bin/sh", arguments=["-c", line], **attributes)
        task: Task = self._manager.submit_tasks(described)
        return task

    def occupy(self, nodes: int) -> None:
        """Have tasks on all cores of so many nodes, half of which may run again, and others behind them in the queue."""
        slots = nodes * NODE_CORES
        self.submit("again", slots // 2, "stay", restartable=True)
        self.submit("once", slots - slots // 2, "stay")
        self.submit("queued", slots)
        self.until(lambda: self.begun() >= slots, f"{slots} tasks have begun")

    def open_gate(self) -> None:
        """Let those end that stay, and those that come."""
        self._gate = os.open(self._gate_path, os.O_RDWR)

    def close(self) -> None:
        """Close the session, which ends its jobs."""
        self.session.close()
        if self._gate >= 0:
            os.close(self._gate)

    def check_that_nothing_is_left(self) -> None:
        """See that there is neither a process of the campaign nor a job."""
        self.until(lambda: self.pilot.job not in self.slurm.jobs(), "no job is left")
        self.until(lambda: not self.processes(), "no process is left")

    # ----- what happens ------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
        """Return when a condition holds."""
        deadline = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < deadline, f"not after {patience_s:.0f} s: {what}\n{self.story()}"
            time.sleep(0.05)

    def finish(self, patience_s: float = PATIENCE_S) -> dict[str, Task]:
        """Wait for all outcomes, see that the books are right, and return the tasks."""
        self.until(lambda: all(task.outcome for task in self.tasks.values()), "all tasks have outcomes", patience_s)
        wrong = list(self._wrong())
        assert not wrong, "\n".join([*wrong, self.story()])
        return self.tasks

    def endings(self, name: str) -> Counter[str]:
        """Return how the tasks of a name ended, and in which attempt: ``DONE 1``."""
        tasks = [task for uid, task in self.tasks.items() if uid.startswith(f"{name}.")]
        return Counter(f"{task.outcome.ending.name} {task.attempt}" if task.outcome else task.state for task in tasks)

    def waiting(self, name: str) -> int:
        """Return how many tasks of a name have no outcome."""
        return sum(not task.outcome for uid, task in self.tasks.items() if uid.startswith(f"{name}."))

    @property
    def has_losses(self) -> bool:
        """Whether tasks have ended otherwise than well."""
        return any(task.outcome and task.outcome.ending is not Ending.DONE for task in self.tasks.values())

    @property
    def has_begun_again(self) -> bool:
        """Whether a task has begun more than once."""
        return any(run.attempt > 1 for uid in self.tasks for run in self.runs(uid))

    def nodes_of(self, name: str) -> dict[str, str]:
        """Return on which node each task of a name has begun first."""
        return {uid: runs[0].node for uid in self.tasks if uid.startswith(f"{name}.") and (runs := self.runs(uid))}

    def begun(self) -> int:
        """Return how many tasks have begun."""
        return len(os.listdir(self.witness))

    def runs(self, uid: str) -> list[Run]:
        """Return what the witness has of a task."""
        try:
            lines = (self.witness / uid).read_text().splitlines()
        except FileNotFoundError:
            return []
        split = [line.split() for line in lines]
        return [Run(pilot, int(attempt), int(rank), said, node) for pilot, attempt, rank, said, node in split]

    # ----- processes ---------------------------------------------------------------------------------------------------

    def processes(self, *words: str) -> list[int]:
        """Return the processes of the campaign whose command line has all these words; none: all that is left of it."""
        mark = os.fsencode(self.folder)
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                try:
                    command = Path(f"/proc/{entry}/cmdline").read_bytes()
                    environment = Path(f"/proc/{entry}/environ").read_bytes()
                except OSError:
                    continue
                if mark in command + environment and all(word.encode() in command for word in words):
                    found.append(int(entry))
        return sorted(found)

    def of_node(self, pids: Iterable[int], node: str) -> list[int]:
        """Return those of the processes that run in a job on this node."""
        mark = f"SLURMD_NODENAME={node}".encode()
        return [pid for pid in pids if mark in _environment(pid)]

    def story(self) -> str:
        """Return all that tells what went wrong."""
        pilot = self.pilot
        lines = [f"{pilot.uid} {pilot.state} {pilot.reason!r}, job {pilot.job} {pilot.job_state} {pilot.job_outcome}"]
        for uid, task in self.tasks.items():
            outcome = task.outcome
            told = f"{outcome.ending.name} {outcome.attempt} {outcome.message!r}" if outcome else task.state
            lines.append(f"{uid}: {told}; {[tuple(run) for run in self.runs(uid)]}")
        for pid in self.processes():
            lines.append(f"lives: {pid} {_command(pid)[-200:]}")
        folder = Path(pilot.sandbox)
        for path in (*folder.glob("*.err"), *folder.glob("*.out")):
            lines += [f"--- {path.name}", path.read_text(errors="replace")[-2000:]]
        return "\n".join(lines)

    def _wrong(self) -> Iterable[str]:
        for uid, task in self.tasks.items():
            outcome = task.outcome
            assert outcome is not None
            runs = self.runs(uid)
            told = f"{uid} is {outcome.ending.name} in attempt {outcome.attempt} ({outcome.message}), and by the witness {runs}"
            begun = Counter((run.pilot, run.attempt, run.rank) for run in runs if run.said == "begin")
            attempts = {(pilot, attempt) for pilot, attempt, _ in begun}
            ended = [run for run in runs if run.said == "end" and (run.pilot, run.attempt) == (task.pilot, outcome.attempt)]
            if any(times > 1 for times in begun.values()):
                yield f"an attempt began twice: {told}"
            if len(attempts) > 1 and not self._described[uid].restartable:
                yield f"may begin once: {told}"
            if any(attempt > outcome.attempt for pilot, attempt in attempts if pilot == task.pilot):
                yield f"an attempt is not counted: {told}"
            if outcome.ending is Ending.DONE and len(ended) != self._described[uid].ranks:
                yield f"not done: {told}"
            if outcome.ending in LOSSES and not outcome.attempt and not self.has_lost_a_log:
                yield f"was never launched: {told}"
            if outcome.ending is Ending.LAUNCH_FAILED and runs:
                yield f"has begun: {told}"


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


Begin = Callable[..., Campaign]


@contextmanager
def campaigns(cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Begin campaigns; takes the nodes of a pilot, its partitions and other attributes. They are closed at the end."""
    for name, value in platform_variables(cluster, tmp_path, cores=NODE_CORES, gpus=0).items():
        monkeypatch.setenv(name, value)
    begun: list[Campaign] = []

    def begin(nodes: int, *partitions: PartitionSpec, **attributes: Any) -> Campaign:
        folder = tmp_path / f"campaign.{len(begun)}"
        begun.append(Campaign(cluster, folder, nodes, partitions=list(partitions), **attributes))
        return begun[-1]

    try:
        yield begin
    finally:
        for campaign in begun:
            campaign.close()
        for name, state in cluster.node_states().items():
            if state.startswith("down"):
                cluster.set_node(name, "resume")
        cluster.cancel_all()
    for campaign in begun:
        campaign.check_that_nothing_is_left()
