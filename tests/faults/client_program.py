"""The user's program of the crash suite: ``python -m tests.faults.client_program FOLDER``.

It carries out ``plan.json`` of its folder. It can be started again after it was killed, and then goes on with its session, as
a careful user's script would. What it saw it writes beside the plan: ``submitted`` (uids for which ``submit_tasks`` has
returned), ``callbacks`` (final states that a callback heard of), ``outcomes.json`` at the end.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from tests.faults.jobs import Job, Plan
from tests.faults.payloads import work
from tests.faults.witness import Reported

import pilotage as rp

SCRIPT = str(Path(__file__).with_name("payload.sh"))
MANAGER = "tmgr.faults"
LOOK_S = 0.5


def describe(job: Job) -> rp.TaskDescription:
    """Return the task for a job."""
    task = rp.TaskDescription(
        uid=job.uid,
        ranks=job.ranks,
        cores_per_rank=job.cores,
        retries=job.retries,
        restartable=job.restartable,
        grace=0.3,
    )
    if job.sandbox:
        task.sandbox = job.sandbox
    if job.is_call:
        task.mode = rp.TASK_FUNCTION
        task.function = work
        task.args = [job.kind, job.seconds, job.uid]
    else:
        task.executable = "/bin/sh"
        task.arguments = [SCRIPT, job.kind, job.seconds]
    return task


def open_session(plan: Plan) -> rp.Session:
    """Open the session, or go on with it."""
    folder = Path(os.environ["PILOTAGE_HOME"]) / "sessions" / plan.session / "client"
    return rp.Session.resume(plan.session) if folder.is_dir() else rp.Session(plan.session)


def have_pilot(plan: Plan, pilots: rp.PilotManager, tasks: rp.TaskManager) -> None:
    """Submit a pilot if there is work and none that goes on: tasks that come after the end of the last one wait for another."""
    idle = len(tasks.list_tasks()) == len(plan.jobs) and all(task.outcome is not None for task in tasks.get_tasks())
    if not idle and all(pilot.state in rp.FINAL for pilot in pilots.get_pilots()):
        pilots.submit_pilots([rp.PilotDescription(plan.pilot)] * (plan.pilots if not pilots.list_pilots() else 1))
    tasks.add_pilots([pilot for pilot in pilots.get_pilots() if pilot.state not in rp.FINAL])


def change_partitions(pilots: rp.PilotManager) -> None:
    """Retire a partition of each pilot, and have another in its place; the same again changes nothing."""
    for pilot in pilots.get_pilots():
        try:
            pilot.retire_partition("a")
            pilot.add_partition({"name": "c", "nodes": 1})
        except rp.PilotFailed:
            continue


def note(path: Path, lines: list[str]) -> None:
    """Append lines with one write."""
    with open(path, "ab", buffering=0) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def reported(task: Any) -> Reported:
    """Return what the client says of a task."""
    outcome = task.outcome
    if outcome is None:
        return Reported(task.uid, task.state)
    return Reported(
        task.uid,
        task.state,
        outcome.ending.name,
        outcome.attempt,
        task.pilot or "",
        outcome.times.launched > 0,
        outcome.message,
        task.return_value if isinstance(task.return_value, str) else None,
    )


def main() -> None:
    """Do what the plan says."""
    folder = Path(sys.argv[1])
    plan = msgspec.json.decode((folder / "plan.json").read_bytes(), type=Plan)
    submitted = folder / "submitted"
    session = open_session(plan)
    known_already = MANAGER in session.list_task_managers()
    tasks = session.get_task_managers(MANAGER) if known_already else rp.TaskManager(session, MANAGER, plan.scheduler)
    known = set(tasks.list_tasks())
    forgotten = [uid for uid in submitted.read_text().split() if uid not in known]
    if forgotten:
        sys.exit(f"submit_tasks had returned for {forgotten}, and the resumed session does not know them")
    names = session.list_pilot_managers()
    pilots = session.get_pilot_managers(names[0]) if names else rp.PilotManager(session)
    if plan.new_pilot:
        pilots.wait_pilots(timeout=plan.patience_s)
    # With a pilot at hand these would be refused at the call; here they are to come to an agent.
    tasks.submit_tasks([describe(job) for job in plan.jobs if job.kind == "infeasible"])
    have_pilot(plan, pilots, tasks)

    def heard(task: Any, state: str) -> None:
        if state in rp.FINAL:
            note(folder / "callbacks", [f"{task.uid} {state}"])

    tasks.register_callback(heard)
    for start in range(0, len(plan.jobs), plan.batch):
        batch = plan.jobs[start : start + plan.batch]
        tasks.submit_tasks([describe(job) for job in batch])
        note(submitted, [job.uid for job in batch if job.uid not in known])
        doomed = [job.uid for job in batch if job.cancel]
        if doomed:
            tasks.cancel_tasks(doomed)
        if plan.change and not start:
            change_partitions(pilots)
    until = time.monotonic() + plan.patience_s
    while time.monotonic() < until and not all(state in rp.FINAL for state in tasks.wait_tasks(timeout=LOOK_S)):
        have_pilot(plan, pilots, tasks)
    handles = tasks.get_tasks()
    late = [task.uid for task in handles if task.outcome is None]
    if late:
        sys.exit(f"not final after {plan.patience_s:g} s: {late}")
    if plan.close:
        session.close()
    (folder / "outcomes.json").write_bytes(msgspec.json.encode([reported(task) for task in handles]))
    if not plan.close:
        os._exit(0)


if __name__ == "__main__":
    main()
