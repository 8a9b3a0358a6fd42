"""Spawners against bare loops of ``posix_spawn`` and ``waitpid``, in the same run.

Null executables: two spawners, fed over their sockets with 16 lanes each and the tasks queued behind, run ``/bin/true`` with
stdout and stderr captured in sandboxes of their own; the baseline is two bare Python processes that loop over ``posix_spawn``
and ``waitpid`` and capture nothing. Rounds alternate, the medians are compared. CPU is that of the spawners and their tasks.

Folders lie in the default temporary folder (TMPDIR). ext4 passes over inodes that were deleted within the last minutes one by
one, so a run soon after another, or beside programs that delete many files, shows sandboxes as dearer than they are; on
``/dev/shm`` the spawners' own cost stands alone.

Sleepers: as many ``sleep`` at once; the CPU of the spawner while they sleep, and that each is accounted for.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pilotage.model.execution import LaneTasks
from pilotage.model.ids import Attempt, LaneId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.resources import NodeShare, core_mask
from pilotage.model.workload import Row, Template
from pilotage.testing.runner_driver import RunnerDriver
from pilotage.wire.runner_messages import DefineTemplates, Launch, StopRunner, TasksEnded

SPAWNERS = 2
LANES = 16
TRUE, SLEEP = TemplateId(1), TemplateId(2)

BARE_LOOP = """
import os, sys
for _ in range(int(sys.argv[1])):
    os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ), 0)
"""


def main() -> None:
    """Print the table."""
    for row in run(quick="--quick" in sys.argv):
        baseline = f"{row['baseline']:10.3f} {row['ratio']:6.2f}" if row["baseline"] is not None else ""
        print(f"{row['case']:48} {row['value']:10.3f} {row['unit']:12} {baseline}")


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Measure and return rows of ``case``, ``value``, ``unit``, ``baseline`` and ``ratio``."""
    return [*null_executables(400 if quick else 2000, 3 if quick else 7), *sleepers(512 if quick else 16_384)]


def null_executables(tasks: int, rounds: int) -> list[dict[str, Any]]:
    """Compare spawners with bare loops, ``tasks`` per process and round."""
    spawner_rates, bare_rates, spawner_costs, bare_costs = [], [], [], []
    with tempfile.TemporaryDirectory() as folder, RunnerDriver(Path(folder)) as driver:
        _start(driver, SPAWNERS)
        for round_number in range(rounds + 1):
            bare = _measured(lambda: _bare(tasks), lambda: 0.0)
            ours = _measured(lambda number=round_number: _through_spawners(driver, tasks, number), lambda: _cpu_s(driver))
            if round_number == 0:
                continue
            bare_rates.append(SPAWNERS * tasks / bare[0])
            bare_costs.append(1e3 * bare[1] / (SPAWNERS * tasks))
            spawner_rates.append(SPAWNERS * tasks / ours[0])
            spawner_costs.append(1e3 * ours[2] / (SPAWNERS * tasks))
        _stop(driver)
    return [
        _row("null executables, 2 spawners / 2 bare loops", spawner_rates, "tasks/s", bare_rates),
        _row("CPU per null executable, its own included", spawner_costs, "ms", bare_costs),
    ]


def sleepers(count: int) -> list[dict[str, Any]]:
    """Run ``count`` sleeping tasks at once and watch the spawners while they sleep."""
    with tempfile.TemporaryDirectory() as folder, RunnerDriver(Path(folder)) as driver:
        _start(driver, SPAWNERS)
        begin, cpu_begin = time.monotonic(), _cpu_s(driver)
        for spawner in range(SPAWNERS):
            uids = range(spawner, count, SPAWNERS)
            driver.send(Launch([_lane(uid, [f"sleep.{uid}"], SLEEP, ("3600",)) for uid in uids]), f"spawner.{spawner}")
        driver.wait_for(lambda: len(driver.started()) == count, 600.0, "start of all")
        all_started = time.monotonic() - begin
        cpu_started = _cpu_s(driver)
        begin = time.monotonic()
        while time.monotonic() - begin < 3:
            driver.pump(0.5)
        idle = (_cpu_s(driver) - cpu_started) / (time.monotonic() - begin)
        begin = time.monotonic()
        _stop(driver)
        all_ended = time.monotonic() - begin
        cancelled = sum(end.ending is Ending.CANCELLED for end in driver.ends().values())
    if cancelled != count:
        raise AssertionError(f"{cancelled} of {count} sleepers were ended and accounted for")
    return [
        _row(f"{count} sleepers: until all run", [all_started], "s", None),
        _row(f"{count} sleepers: CPU to start one", [1e3 * (cpu_started - cpu_begin) / count], "ms", None),
        _row(f"{count} sleepers: spawners' load while they sleep", [100 * idle], "% of a core", None),
        _row(f"{count} sleepers: until all are ended and told", [all_ended], "s", None),
    ]


def _start(driver: RunnerDriver, spawners: int) -> None:
    for number in range(spawners):
        driver.start_runner("pilotage.spawner.main", f"spawner.{number}")
        driver.send(
            DefineTemplates({TRUE: Template(executable="/bin/true"), SLEEP: Template(executable="/bin/sleep")}),
            f"spawner.{number}",
        )


def _stop(driver: RunnerDriver) -> None:
    for name in driver.processes:
        driver.send(StopRunner(5.0), name)
    driver.wait_for(lambda: all(process.poll() is not None for process in driver.processes.values()), 300.0, "exit of all")


def _lane(number: int, uids: list[str], template: TemplateId, arguments: tuple[str, ...] = ()) -> LaneTasks:
    tasks = [(Attempt(1), Row(TaskUid(uid), template, arguments)) for uid in uids]
    return LaneTasks(LaneId(number), (NodeShare(0, 1, core_mask(1)),), tasks)


def _bare(tasks: int) -> None:
    command = [sys.executable, "-I", "-S", "-c", BARE_LOOP, str(tasks)]
    for process in [subprocess.Popen(command) for _ in range(SPAWNERS)]:
        process.wait()


def _through_spawners(driver: RunnerDriver, tasks: int, round_number: int) -> None:
    seen = len(driver.messages)
    for spawner in range(SPAWNERS):
        uids = [f"task.{round_number}.{spawner}.{number:06d}" for number in range(tasks)]
        lanes = [_lane(spawner * LANES + lane, uids[lane::LANES], TRUE) for lane in range(LANES)]
        driver.send(Launch(lanes), f"spawner.{spawner}")
    missing = SPAWNERS * tasks
    while missing:
        driver.pump(1.0)
        arrived = [message for _, message in driver.messages[seen:] if isinstance(message, TasksEnded)]
        seen = len(driver.messages)
        missing -= sum(end.ending is Ending.DONE for message in arrived for end in message.ends)


def _measured(work: Callable[[], None], cpu_s: Callable[[], float]) -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds of children that ended, and the growth of ``cpu_s``."""
    times, cpu, begin = os.times(), cpu_s(), time.perf_counter()
    work()
    wall = time.perf_counter() - begin
    after = os.times()
    children = after.children_user + after.children_system - times.children_user - times.children_system
    return wall, children, cpu_s() - cpu


def _cpu_s(driver: RunnerDriver) -> float:
    """CPU seconds of the spawners and of the tasks that they reaped."""
    ticks = 0
    for process in driver.processes.values():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def _row(case: str, values: list[float], unit: str, baselines: list[float] | None) -> dict[str, Any]:
    value = statistics.median(values)
    baseline = statistics.median(baselines) if baselines else None
    return {
        "case": case,
        "value": value,
        "unit": unit,
        "baseline": baseline,
        "ratio": value / baseline if baseline else None,
        "rounds": values,
    }


if __name__ == "__main__":
    main()
