"""One bash that goes through steps and says what its environment was before and after them.

Each step is an ``eval`` of its own, so that one with a stray quote breaks nothing but itself; before it begins the shell
notes which one it is and empties the file of its output. So when a step fails, exits the shell or takes too long, it is known
for certain which one that was and what it printed. Environments are dumped by ``env -0``: values may hold anything but NUL,
exported functions are variables like others.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pilotage.errors import BackendError

OUTPUT_CHARACTERS = 2000
"""What is shown of a step's output at the most; the end tells most."""

OUTPUT = "__pilotage_output"
"""The shell's variable that names the file of what the present step has printed."""

_ENV = shutil.which("env", path=os.defpath) or "/usr/bin/env"


class Step(NamedTuple):
    """A command for the shell. ``place`` says where it comes from, ``shown`` is the command in the user's words."""

    place: str
    shown: str
    command: str = ""
    """What is run, where that is not what is shown."""


class Dumps(NamedTuple):
    """The exported variables, as bytes: at first, when the shell was set up, and after the last step."""

    first: dict[bytes, bytes]
    ready: dict[bytes, bytes]
    last: dict[bytes, bytes]


class Shell:
    """Goes through steps in ``working_folder``; ``stop`` ends it from another thread. ``scratch`` holds files meanwhile."""

    def __init__(self, environment: Mapping[str, str], working_folder: str, scratch: Path) -> None:
        self._environment = environment
        self._scratch = scratch
        self._working_folder = working_folder
        self._lock = threading.Lock()
        self._running = 0
        self._stopped = False

    def run(self, set_up: Step, steps: Sequence[Step], deadline_s: float, *, keep_open: int = -1) -> Dumps:
        """Set the shell up, go through the steps, and return what the environment was on the way.

        ``keep_open`` is a descriptor that all processes of the steps hold. Whatever the steps leave running in their process
        group is killed. What BASH_ENV names is left to ``set_up``.

        Raises:
            BackendError: a step failed, or all of them together took longer than ``deadline_s``; or ``stop`` was called.
        """
        folder = Path(tempfile.mkdtemp(prefix="environment-", dir=self._scratch))
        try:
            return self._run(folder, [set_up, *steps], deadline_s, keep_open)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def stop(self) -> None:
        """End the steps, if they are under way, and let none begin."""
        with self._lock:
            self._stopped = True
        self._kill()

    def _run(self, folder: Path, steps: Sequence[Step], deadline_s: float, keep_open: int) -> Dumps:
        script = folder / "script"
        script.write_text(_script(folder, steps, self._environment.get("BASH_ENV")))
        status = self._execute(folder, script, deadline_s, keep_open)
        if status == 0 and (folder / "last").exists():
            return Dumps(*(_variables((folder / name).read_bytes()) for name in Dumps._fields))
        if self._stopped:
            raise BackendError("it was stopped")
        if status is None:
            how = f"was not over {deadline_s:g} s after the first step began, and was ended"
        elif status < 0:
            how = f"was ended by signal {-status}"
        elif status == 0:
            how = "left the shell (exit code 0); leave out its 'exit'"
        else:
            how = f"failed with exit code {status}"
        raise BackendError(_failure(folder, script, steps, how))

    def _execute(self, folder: Path, script: Path, deadline_s: float, keep_open: int) -> int | None:
        """Return the shell's exit code; None if it took too long."""
        bash = shutil.which("bash", path=self._environment.get("PATH", os.defpath)) or shutil.which("bash", path=os.defpath)
        if bash is None:
            raise BackendError("there is no bash, which evaluates environments; install it")
        # A step may empty the file at any time, so nobody writes but to its end.
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            with self._lock:
                if self._stopped:
                    raise BackendError("it was stopped")
                process = subprocess.Popen(
                    [bash, "--noprofile", "--norc", os.fspath(script)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={name: value for name, value in self._environment.items() if name != "BASH_ENV"},
                    cwd=self._working_folder if os.path.isdir(self._working_folder) else None,
                    start_new_session=True,
                    pass_fds=() if keep_open < 0 else (keep_open,),
                )
                self._running = process.pid
        finally:
            os.close(output)
        timer = threading.Timer(deadline_s, self._kill)
        timer.start()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        late = not timer.is_alive()
        timer.cancel()
        timer.join()
        # Not yet reaped, so the number of its group is still that of this group.
        self._kill()
        with self._lock:
            self._running = 0
        return None if process.wait() == -signal.SIGKILL and late else process.returncode

    def _kill(self) -> None:
        with self._lock:
            if self._running:
                os.killpg(self._running, signal.SIGKILL)


def _script(folder: Path, steps: Sequence[Step], bash_env: str | None) -> str:
    at = {name: shlex.quote(os.fspath(folder / name)) for name in (*Dumps._fields, "step", "output")}
    # Bash would run what BASH_ENV names before the first line.
    lines = [] if bash_env is None else [f"export BASH_ENV={shlex.quote(bash_env)}"]
    lines.append(f"{_ENV} -0 >|{at['first']}; {OUTPUT}={at['output']}")
    for number, step in enumerate(steps):
        if number == 1:
            lines.append(f"{_ENV} -0 >|{at['ready']}")
        lines.append(f"echo {number} >|{at['step']}; : >|{at['output']}")
        lines.append(f"eval {shlex.quote(step.command or step.shown)}")
        lines.append("__pilotage_status=$?; [ $__pilotage_status -eq 0 ] || exit $__pilotage_status")
    lines.append(f"{_ENV} -0 >|{at['last']}")
    return "\n".join(lines) + "\n"


def _failure(folder: Path, script: Path, steps: Sequence[Step], how: str) -> str:
    try:
        step = steps[int((folder / "step").read_text())]
    except (FileNotFoundError, ValueError):
        return f"the shell that evaluates it {how}"
    output = (folder / "output").read_text(errors="replace").strip()
    # The script is of no use to anybody, and its lines are not the user's.
    output = re.sub(rf"{re.escape(os.fspath(script))}: (eval: )?line \d+: ", "bash: ", output)
    if len(output) > OUTPUT_CHARACTERS:
        output = f"... {output[-OUTPUT_CHARACTERS:]}"
    return f"{step.place}, {step.shown!r}, {how}" + (f":\n{output}" if output else ", and printed nothing")


def _variables(dump: bytes) -> dict[bytes, bytes]:
    pairs = (entry.partition(b"=") for entry in dump.split(b"\0"))
    return {name: value for name, separator, value in pairs if separator}
