"""What tests of pilots with partitions share: their processes, and tasks that run until a gate is opened."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from integration_support import PATIENCE_S, Campaign, eventually, shell

import pilotage as rp
from pilotage.agent.claim import claimant
from pilotage.wire.keys import read_connection


def start(campaign: Campaign, partitions: list[Any], nodes: int, **pilot: Any) -> rp.Pilot:
    return campaign.start(resource="local.emulated", nodes=nodes, cores_per_node=2, partitions=partitions, **pilot)


def folder_of(pilot: rp.Pilot, partition: str) -> Path:
    return Path(pilot.sandbox) / "partitions" / partition


def agent_of(pilot: rp.Pilot, partition: str) -> int:
    """Return the pid of the partition's agent, once it listens."""

    def listening() -> int | None:
        pid = claimant(folder_of(pilot, partition))
        try:
            return pid if pid == read_connection(folder_of(pilot, partition) / "connection.json").pid else None
        except FileNotFoundError:
            return None

    return int(eventually(listening, f"an agent of {partition} listens"))


def head_of(pilot: rp.Pilot) -> int:
    return read_connection(Path(pilot.sandbox) / "connection.json").pid


def another(find: Callable[[], int], before: int) -> int:
    return int(eventually(lambda: (found := find()) != before and found, f"another process comes in the place of {before}"))


def gate(place: Path, witness: Path, **more: Any) -> rp.TaskDescription:
    """Describe a task that notes its attempt, and runs until the gate is opened."""
    note = f'echo "$PILOTAGE_TASK_ID $PILOTAGE_ATTEMPT" >> {witness}'
    return shell(f"{note}; while [ ! -e {place} ]; do sleep 0.05; done; echo $PILOTAGE_PARTITION", **more)


def lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1] if path.exists() else []


def until_running(tasks: list[rp.Task], witness: Path) -> None:
    eventually(lambda: len(lines(witness)) >= len(tasks), f"{len(tasks)} tasks run")


def kill_entirely(pid: int) -> None:
    """Kill a process, and wait until the last of its threads is gone, and its sockets with it."""
    descriptor = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([descriptor], [], [], PATIENCE_S)[0]
    finally:
        os.close(descriptor)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass


def expect_done(tasks: list[rp.Task]) -> None:
    assert [(task.uid, task.state, task.exception) for task in tasks if task.state != rp.DONE] == []


def runners_of(private: Path) -> list[int]:
    """Return the spawners and workers of the agent that has this private folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(private) in arguments:
                found.append(int(entry.name))
    return found
