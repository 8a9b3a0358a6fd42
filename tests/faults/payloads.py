"""Functions of the crash suite, called in function workers; first and last each tells the witness."""

from __future__ import annotations

import os
import subprocess
import time

from pilotage.workers.current import current_task


def say(word: str) -> None:
    """Append one line to the witness, as ``payload.sh`` does; one write to an O_APPEND file is never torn."""
    task = current_task()
    assert task is not None
    line = f"{task.uid} {os.environ['PILOTAGE_PILOT_ID']} {task.attempt} 0 {word} {os.getpid()}\n"
    witness = os.open(os.environ["FAULTS_WITNESS"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(witness, line.encode())
    finally:
        os.close(witness)


def work(kind: str, seconds: float, value: str) -> str:
    """Do what ``kind`` says, and return ``value``."""
    task = current_task()
    assert task is not None
    say("begin")
    if kind == "raising":
        raise ValueError(value)
    if kind == "flaky_call" and task.attempt == 1:
        raise ValueError("the first attempt fails")
    if kind == "child_call":
        subprocess.Popen(["/bin/sleep", "300"], start_new_session=True)
    while kind == "gate_call" and not os.path.exists(os.path.join(os.environ["FAULTS_FOLDER"], "gate")):
        time.sleep(0.01)
    if seconds:
        time.sleep(seconds)
    if kind == "large_call":
        value = value * 2000
    say("end")
    return value
