"""The pilot's first process: starts the agent, and starts another when it dies.

Standard library only, so that it takes little memory for the life of the pilot. It is the subreaper of its descendants:
spawners outlive the agent that started them, wait for the next one here, and are reaped here. An agent that exits with 0 has
ended the pilot; any other end is followed by another agent, at most ``RESTARTS`` times.

Its first act is to claim the pilot: a client that died after it started a bootstrap, and before it noted which process that
is, finds it by the claim, and of two bootstraps that were started for one pilot the second goes away.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from pilotage.system.processes import boot_id, started_ticks

CLAIM_FILE = "bootstrap.claim"
"""In the pilot's folder: pid, start in clock ticks and boot id of the bootstrap that has the pilot."""

RESTARTS = 3
_PR_SET_CHILD_SUBREAPER = 36
_END_S = 10.0


def claim(pilot_folder: str) -> bool:
    """Take the pilot for this process; False if another bootstrap has it, or had it."""
    pid = os.getpid()
    mine = os.path.join(pilot_folder, f"{CLAIM_FILE}.{pid}")
    with open(mine, "w") as file:
        file.write(f"{pid} {started_ticks(pid)} {boot_id()}\n")
    try:
        # The name appears with its content, and only if there is none.
        os.link(mine, os.path.join(pilot_folder, CLAIM_FILE))
    except FileExistsError:
        return False
    finally:
        os.unlink(mine)
    return True


def _start_agent(pilot_folder: str, incarnation: int, ready: int) -> int:
    # The agent's command line is this process's own, with another module's name: same Python, same import path.
    program = sys.orig_argv[sys.orig_argv.index("-c") + 1].replace("pilotage.agent.bootstrap", "pilotage.agent.main")
    command = [sys.executable, "-I", "-S", "-c", program, pilot_folder, str(incarnation), str(ready)]
    output = os.path.join(pilot_folder, "agent.err")
    actions: list[tuple[int, ...]] = [
        (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),  # type: ignore[list-item]
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)


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
                time.sleep(0.02)
        except ChildProcessError:
            return


def main() -> None:
    """Run the agent of ``argv[1]``, the pilot's folder; ``argv[2]`` is the descriptor on which it says that it is ready."""
    pilot_folder, ready = sys.argv[1], int(sys.argv[2])
    if not claim(pilot_folder):
        return
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
    for incarnation in range(1, RESTARTS + 2):
        os.set_inheritable(ready, True)
        agent = _start_agent(pilot_folder, incarnation, ready)
        if ending:
            os.kill(agent, signal.SIGTERM)
        while True:
            pid, raw = os.wait()
            if pid == agent:
                break
        agent, status = 0, os.waitstatus_to_exitcode(raw)
        # One that was told to end before it could listen has died of it; another would not know.
        if status == 0 or ending:
            break
        sys.stderr.write(f"agent {incarnation} ended with status {status}\n")
        sys.stderr.flush()
    if status:
        _end_children()
    sys.exit(0 if status == 0 else 1)
