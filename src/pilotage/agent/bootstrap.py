"""The pilot's first process: starts the agent, and starts another when it dies.

Standard library only, so that it takes little memory for the life of the pilot. It is the subreaper of its descendants:
spawners outlive the agent that started them, wait for the next one here, and are reaped here. An agent that exits with 0 has
ended the pilot; any other end is followed by another agent, at most ``RESTARTS`` times, unless it says that it is in vain.

Beside the agent of a batch job that another may follow it starts a client for the last minutes (``pilotage.cli.follow_up``).
When the agent has ended the pilot, that client is told so by USR1, and waited for.

Its first act is to claim the pilot: a client that died after it started a bootstrap, and before it noted which process that
is, finds it by the claim, and of two bootstraps that were started for one pilot the second goes away. But a batch system may
begin a job again, after a node was lost or the job had to make room: then the bootstrap of the job's later *run* takes the
claim over, and its agent goes on from the log. Nothing of the run before is alive then, as far as the batch system can tell.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from pilotage.system.limits import lift_limits_of_submission
from pilotage.system.processes import boot_id, is_alive, started_ticks

CLAIM_FILE = "bootstrap.claim"
"""In the pilot's folder: pid, start in clock ticks and boot id of the bootstrap that has the pilot; of a batch job a second
line, with the job's id, how often it was begun again, and how many runs of it there were before."""

FORBIDDEN_FILE = "agent.forbidden"
"""In the pilot's folder: no job is to begin any more, its client has given the pilot up."""

RESTARTS = 3
HOPELESS = 78
"""The exit status of an agent after which another would come to nothing either (``EX_CONFIG``)."""
_JOBS = (
    ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"),
    ("PBS_JOBID", ""),
    ("LSB_JOBID", ""),
    ("COBALT_JOBID", ""),
    ("FLUX_JOB_ID", ""),
    ("LOADL_STEP_ID", ""),
    ("JOB_ID", "RESTARTED"),
)
"""By batch system: the variables that tell the job, and how often it was begun again, if it tells that."""
_PR_SET_CHILD_SUBREAPER = 36
_END_S = 10.0
_FOLLOW_UP_S = 45.0
"""For how long a follow-up may be seen to when the agent has ended; the job's time is longer than the pilot's by a minute."""
_SETTINGS_FILE = "pilot.json"
_LOOK_S = 0.02


def job_here() -> tuple[str, str]:
    """Return the id of the batch job that this process is in, and how often it was begun again; empty where nothing tells."""
    for job_variable, count_variable in _JOBS:
        job = os.environ.get(job_variable, "").strip()
        if job:
            return job, os.environ.get(count_variable, "").strip() or "0"
    return "", ""


def claimed_run(pilot_folder: str) -> int:
    """Return how many runs of the pilot's job there were before the one that has the claim; 0 if it is no batch job."""
    try:
        with open(os.path.join(pilot_folder, CLAIM_FILE)) as file:
            lines = file.read().splitlines()
        return int(lines[1].split()[2])
    except (FileNotFoundError, IndexError, ValueError):
        return 0


def claim(pilot_folder: str, job: tuple[str, str] = ("", "")) -> bool:
    """Take the pilot for this process; False if another bootstrap has it, or had it.

    ``job``: the batch job that was submitted for the pilot, see ``job_here``; the claim of an earlier run of it is taken over.
    """
    pid = os.getpid()
    path = os.path.join(pilot_folder, CLAIM_FILE)
    mine = f"{path}.{pid}"
    process = f"{pid} {started_ticks(pid)} {boot_id()}\n"
    _write(mine, process + (f"{job[0]} {job[1]} 0\n" if job[0] else ""))
    try:
        # The name appears with its content, and only if there is none.
        os.link(mine, path)
    except FileExistsError:
        if not job[0] or not _was_earlier_run(path, job):
            return False
        _write(mine, f"{process}{job[0]} {job[1]} {claimed_run(pilot_folder) + 1}\n")
        os.rename(mine, path)
        return True
    finally:
        if os.path.exists(mine):
            os.unlink(mine)
    return True


def _was_earlier_run(path: str, job: tuple[str, str]) -> bool:
    """Tell whether the claim is that of an earlier run of this job, of which no bootstrap is left on this machine."""
    with open(path) as file:
        claimed = file.read().split()
    if len(claimed) != 6 or claimed[3] != job[0]:
        return False
    until = time.monotonic() + _END_S
    while is_alive(int(claimed[0]), int(claimed[1]), claimed[2]):
        # The batch system has ended it, or is about to.
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_S)
    # Of a system that does not count there is only its word: it has begun the job again, and there is never but one of it.
    return claimed[4] != job[1] or job[1] == "0"


def _write(path: str, content: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(content)


def _start_agent(pilot_folder: str, incarnation: int, ready: int) -> int:
    return _start("pilotage.agent.main", os.path.join(pilot_folder, "agent.err"), pilot_folder, str(incarnation), str(ready))


def _start_follow_up(pilot_folder: str) -> int:
    """Start the client that sees to the pilot's follow-up; 0: there is to be none."""
    import json

    try:
        with open(os.path.join(pilot_folder, _SETTINGS_FILE)) as file:
            if not json.load(file).get("followed"):
                return 0
    except FileNotFoundError:
        return 0
    return _start("pilotage.cli.follow_up", os.path.join(pilot_folder, "follow_up.err"), pilot_folder)


def _start(module: str, output: str, *arguments: str) -> int:
    # The command line is this process's own, with another module's name: same Python, same import path.
    program = sys.orig_argv[sys.orig_argv.index("-c") + 1].replace("pilotage.agent.bootstrap", module)
    command = [sys.executable, "-I", "-S", "-c", program, *arguments]
    actions: list[tuple[int, ...]] = [
        (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),  # type: ignore[list-item]
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)


def _claimant(pilot_folder: str) -> str:
    with open(os.path.join(pilot_folder, CLAIM_FILE)) as file:
        return " ".join(file.read().split())


def _end_children() -> None:
    """End what is left of the pilot when no agent will come again."""
    until = time.monotonic() + _END_S
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = [int(pid) for pid in file.read().split()]
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    while time.monotonic() < until:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(_LOOK_S)
        except ChildProcessError:
            return


def _await_follow_up(follow_up: int) -> None:
    """Tell the client of the pilot's last minutes that the agent has ended, and wait until it has done its work."""
    until = time.monotonic() + _FOLLOW_UP_S
    os.kill(follow_up, signal.SIGUSR1)
    while time.monotonic() < until and os.waitpid(follow_up, os.WNOHANG) == (0, 0):
        time.sleep(_LOOK_S)


def main() -> None:
    """Run the agent of ``argv[1]``, the pilot's folder; ``argv[2]`` is the descriptor on which it says that it is ready.

    As the script of a batch job it has nobody to say that to, and is given -1.
    """
    pilot_folder, ready = sys.argv[1], int(sys.argv[2])
    if not claim(pilot_folder, job_here() if ready < 0 else ("", "")):
        if ready < 0:
            sys.exit(f"another process has the pilot of {pilot_folder}, or had it: {_claimant(pilot_folder)}")
        return
    # After the claim: who gives a pilot up forbids it first, and then looks who has it.
    if ready < 0 and os.path.exists(os.path.join(pilot_folder, FORBIDDEN_FILE)):
        sys.exit(f"the pilot of {pilot_folder} was given up before this job began")
    if ready < 0:
        lift_limits_of_submission()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    agent = 0
    ending = False

    def forward(number: int, _frame: object) -> None:
        nonlocal ending
        ending = True
        if agent:
            os.kill(agent, number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    status = 1
    # Of the agents of earlier runs none has the number of one of this run.
    first = 1 + claimed_run(pilot_folder) * (RESTARTS + 1)
    follow_up = _start_follow_up(pilot_folder) if ready < 0 else 0
    for incarnation in range(first, first + RESTARTS + 1):
        if ready >= 0:
            os.set_inheritable(ready, True)
        agent = _start_agent(pilot_folder, incarnation, ready)
        if ending:
            os.kill(agent, signal.SIGTERM)
        while True:
            pid, raw = os.wait()
            if pid == agent:
                break
            if pid == follow_up:
                follow_up = 0
        agent, status = 0, os.waitstatus_to_exitcode(raw)
        # One that was told to end before it could listen has died of it; another would not know.
        if status in (0, HOPELESS) or ending:
            break
        sys.stderr.write(f"agent {incarnation} ended with status {status}\n")
        sys.stderr.flush()
    if status:
        _end_children()
    elif follow_up:
        _await_follow_up(follow_up)
    sys.exit(0 if status == 0 else 1)
