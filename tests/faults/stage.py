"""One campaign on the stage: a client process with all that it starts, in a folder of its own, to be killed at will.

All processes carry the marker ``FAULTS_STAGE`` in their environment, which comes from the suite and not from Pilotage. By it
victims are found, and what was left running.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from pilotage.client.recovery import recover_state
from pilotage.model.ids import PilotUid
from pilotage.system.processes import started_ticks

from .jobs import Plan
from .witness import Harm, Reported, Witness, findings

REPOSITORY = Path(__file__).resolve().parents[2]
CLIENT = "tests.faults.client_program"
MODULES = {
    "bootstrap": b"pilotage.agent.bootstrap",
    "agent": b"pilotage.agent.main",
    "spawner": b"pilotage.spawner.main",
    "worker": b"pilotage.workers.main",
}
LEFT_BEHIND_S = 8.0
LOOK_S = 0.005


class Failed(AssertionError):
    """The campaign did not end well; the message tells the story."""


class Stage:
    """A campaign. ``environment`` is added to that of the client, ``program`` is the module that it runs."""

    def __init__(self, plan: Plan, *, program: str = CLIENT, environment: dict[str, str] | None = None) -> None:
        # Short, as sockets lie below it.
        self.folder = Path(tempfile.mkdtemp(prefix="pf-"))
        self.plan = plan
        self.story: list[str] = []
        self.client: subprocess.Popen[bytes] | None = None
        self._program = program
        self._clients = 0
        self._mark = f"FAULTS_STAGE={self.folder.name}".encode()
        self._began = time.monotonic()
        for name in ("witness", "submitted", "callbacks"):
            (self.folder / name).touch()
        (self.folder / "tmp").mkdir()
        (self.folder / "plan.json").write_bytes(msgspec.json.encode(plan))
        self.environment = {
            **os.environ,
            "FAULTS_STAGE": self.folder.name,
            "FAULTS_FOLDER": str(self.folder),
            "FAULTS_WITNESS": str(self.folder / "witness"),
            "PILOTAGE_HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": str(REPOSITORY / "src"),
            **(environment or {}),
        }

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.clear()
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def change(self, plan: Plan) -> None:
        """Have the next client do this."""
        self.plan = plan
        (self.folder / "plan.json").write_bytes(msgspec.json.encode(plan))

    # processes

    def start_client(self) -> None:
        """Start the client, or another one after its death."""
        self._clients += 1
        with open(self.folder / "client.err", "ab") as output:
            self.client = subprocess.Popen(
                [sys.executable, "-m", self._program, str(self.folder)],
                cwd=REPOSITORY,
                env={**self.environment, "FAULTS_CLIENT": str(self._clients)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.tell(f"client {self.client.pid} started")

    def tell(self, what: str) -> None:
        """Add to the story."""
        self.story.append(f"{time.monotonic() - self._began:7.3f} s  {what}")

    def processes(self) -> dict[int, bytes]:
        """Return all living processes of the campaign with their command lines."""
        found = {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                if self._mark not in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    continue
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if started_ticks(int(entry)) is not None:
                found[int(entry)] = command
        return found

    def pids(self, role: str) -> list[int]:
        """Return the processes of a role: client, bootstrap, agent, spawner or worker."""
        if role == "client":
            return [self.client.pid] if self.client is not None and self.client.poll() is None else []
        return sorted(pid for pid, command in self.processes().items() if MODULES[role] in command)

    def signal(self, pid: int, number: int) -> bool:
        """Send a signal; False if the process is gone."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def agent_is_known(self) -> bool:
        """Tell whether an agent has written where it can be reached."""
        return any((self.folder / "home").glob("sessions/*/*/connection.json"))

    def kill(self, role: str, pick: Callable[[list[int]], int] = min) -> bool:
        """Kill a process of this role at once; False if there is none."""
        pids = self.pids(role)
        if not pids:
            return False
        pid = pick(pids)
        done = self.signal(pid, signal.SIGKILL)
        self.tell(f"{role} {pid} {'killed' if done else 'was gone'}")
        if role == "client" and self.client is not None:
            self.client.wait()
        return done

    @contextlib.contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """Stop a process for the length of the block."""
        self.signal(pid, signal.SIGSTOP)
        self.tell(f"process {pid} stopped")
        try:
            yield
        finally:
            self.signal(pid, signal.SIGCONT)
            self.tell(f"process {pid} goes on")

    def clear(self) -> None:
        """Kill all that is left of the campaign, by process id."""
        until = time.monotonic() + LEFT_BEHIND_S
        while (left := self.processes()) and time.monotonic() < until:
            for pid in left:
                self.signal(pid, signal.SIGKILL)
            time.sleep(LOOK_S)
        if self.client is not None:
            self.client.wait()

    # waiting

    def until(self, condition: Callable[[], object], what: str, patience_s: float = 60.0) -> None:
        """Wait for a condition. Raises ``Failed`` when the patience is over, or the client has failed."""
        until = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > until:
                raise self.failed(f"waited {patience_s:g} s in vain until {what}")
            time.sleep(LOOK_S)

    def witnessed(self) -> int:
        """Return how many words the witness has heard."""
        return (self.folder / "witness").read_bytes().count(b"\n")

    def until_witnessed(self, count: int) -> None:
        """Wait until payloads have said so much."""
        self.until(lambda: self.witnessed() >= count, f"the witness has {count} lines")

    def until_passed(self, point: str) -> None:
        """Wait until a process came by a planted point."""
        fell = self.folder / "fell"
        self.until(lambda: fell.exists() and point in fell.read_text().split("\n"), f"{point} was passed")

    def open_gate(self) -> None:
        """Let the gates among the jobs end."""
        (self.folder / "gate").touch()

    def pilot_folder(self) -> Path:
        """Return the folder of the first pilot."""
        base = self.plan.pilot.get("sandbox")
        return Path(str(base) if base else self.folder / "home" / "sessions") / self.plan.session / "pilot.0000"

    def why_ended(self, pilot: str) -> str:
        """Return the reason for which a pilot ended, by the client's log."""
        state = recover_state(self.pilot_folder().parent / "client")
        return state.pilots[PilotUid(pilot)].reason

    def finish(self, patience_s: float = 90.0) -> None:
        """Wait until the client has done its work, and see that it did."""
        assert self.client is not None
        self.until(lambda: self.client is not None and self.client.poll() is not None, "the client ended", patience_s)
        status = self.client.returncode
        self.tell(f"client {self.client.pid} ended with {status}")
        if status:
            raise self.failed(f"the client ended with {status}")

    def play(self, patience_s: float = 90.0) -> None:
        """Start the client, again whenever it was killed, until it has done its work."""
        until = time.monotonic() + patience_s
        self.start_client()
        while True:
            self.until(lambda: not self.pids("client"), "the client ended", until - time.monotonic())
            if self.client is None or self.client.returncode != -signal.SIGKILL:
                break
            self.tell(f"client {self.client.pid} was killed")
            self.start_client()
        self.finish()

    # the end

    def failed(self, what: str) -> Failed:
        """Return the error, with the story."""
        lines = [what, f"the campaign is kept in {self.folder}", *self.story]
        living = self.processes()
        lines += [f"still living: {pid} {command.replace(bytes(1), b' ')[-160:]!r}" for pid, command in living.items()]
        outputs = [self.folder / "client.err", *sorted((self.folder / "home").glob("sessions/*/*/*.err"))]
        outputs += sorted((self.folder / "home").glob("sessions/*/*/*.out"))
        for path in outputs:
            text = path.read_text(errors="replace").strip() if path.exists() else ""
            if text:
                lines += [f"--- {path.name}", text[-3000:]]
        return Failed("\n".join(lines))

    def reports(self) -> list[Reported]:
        """Return what the client says of its tasks."""
        return msgspec.json.decode((self.folder / "outcomes.json").read_bytes(), type=list[Reported])

    def check(self, harm: Harm | None = None) -> list[Reported]:
        """See that the books are right and nothing is left; return what the client says of its tasks."""
        reports = self.reports()
        heard = (self.folder / "callbacks").read_text().splitlines()
        wrong = findings(self.plan.jobs, reports, heard, Witness(self.folder / "witness"), harm or Harm())
        if wrong:
            raise self.failed("\n".join(["the books are wrong:", *wrong]))
        if self.plan.close:
            self.check_nothing_left()
        return reports

    def check_nothing_left(self) -> None:
        """See that no process, socket or private folder is left."""
        self.until(lambda: not self.processes(), "all processes were gone", LEFT_BEHIND_S)
        left = [str(path) for path in (self.folder / "tmp").glob("pilotage-*/*")]
        left += [str(path) for path in (self.folder / "home").rglob("*") if path.is_socket()]
        if left:
            raise self.failed(f"left behind: {left}")
