"""A real Slurm on this machine: a controller and as many nodes as a test wants, each a ``slurmd`` with a port of its own.

::

    with SlurmCluster(folder, nodes=4, cores=8, gpus=4, memory_mib=16000) as slurm:
        job = slurm.submit("--nodes=2", "--wrap=srun hostname")
        slurm.wait_for_job(job, "COMPLETED")

Nodes are ``node1``, ``node2``, ...; all have this machine's hostname, and are told apart by ``SLURMD_NODENAME``. Partitions:

=========  ======================================================================================================
whole      the default: a job has its nodes to itself
shared     jobs share nodes, and get the cores and the memory they ask for
spare      as ``shared``, until a job of one of the others wants the place: then its jobs get TERM, after 2 s
           KILL, and are queued again, to start after 5 s. With ``grace_s`` their *steps* get TERM before, and
           that long a time; Slurm looks every 10 to 15 s only whether it is over
=========  ======================================================================================================

*What it needs*: Debian's packages (``scripts/get-slurm``); root or a plain user, whom ``/etc/passwd`` has to know. (It
takes root to get jobs the environment of a login, for ``--export=NONE``: those of a plain user's cluster begin without any.)
*Where it is*: everything is in the folder
given, and on ports that nobody else has: each is held by a socket that is bound to it for as long as the cluster lives, and
Slurm binds over it. Clusters may live beside each other, of several test runs too. *Who may use it*: its daemons listen on all
addresses of the machine, so they take orders only from those who have its key (munge, with a daemon of its own). *How it
ends*: see ``slurm_keeper``.

*As on a large machine*: memory is handed out like cores (``CR_Core_Memory``), a job that names none gets its share of the
node's by cores; ``task/affinity`` works, and binds to the cores of this machine as far as there are any (``--cpu-bind=cores``
of more ranks than that is an error). *Not as there*: no accounting (``sacct``), no PMIx. No cgroups, which a plain user and
most containers may not make: nothing keeps programs to their cores and memory, and Slurm loses sight of a process whose parent
has ended: it is neither signalled nor killed with its step, and while it holds the step's output, the job is not over for up
to 60 s. So ranks of tests ``exec`` what they stay with. ``keeps_to_memory`` makes cgroups of memory alone, where there may be
any (see ``missing_memory_cgroups``): then jobs and steps have no more than they were given.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from slurm_configuration import Shape, cgroup_configuration, gres_configuration, slurm_configuration

PATIENCE_S = 60.0
"""How long a condition may take to come true on a busy machine."""
LOOK_S = 0.05
MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")
_PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "setpriv")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_KEEPER = Path(__file__).with_name("slurm_keeper.py")
_SOCKET_PATH_LIMIT = 107
_LONGEST_SOCKET = "/spool/node1000_1000000.4294967290"


def missing_slurm() -> str:
    """Return why there can be no cluster here; empty if there can."""
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing:
        return f"there is no {', '.join(missing)}: run scripts/get-slurm as root"
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return f"Slurm runs for nobody whom /etc/passwd does not know, as user {os.geteuid()}; take one who is there"
    return ""


def missing_memory_cgroups() -> str:
    """Return why no cluster here can keep programs to their memory; empty if one can."""
    if not (MEMORY_CGROUPS / "memory.limit_in_bytes").exists():
        return f"{MEMORY_CGROUPS} is no hierarchy of cgroup v1"
    probe = MEMORY_CGROUPS / f"pilotage-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"no cgroups can be made in {MEMORY_CGROUPS}: {error.strerror}"
    return ""


class SlurmCluster:
    """See the head of this module. ``extra``: more lines of slurm.conf. Memory is that of a node."""

    def __init__(
        self,
        folder: Path,
        nodes: int = 4,
        cores: int = 8,
        gpus: int = 4,
        memory_mib: int = 16000,
        grace_s: int = 0,
        keeps_to_memory: bool = False,
        extra: str = "",
    ) -> None:
        self.folder = folder
        self.shape = Shape(nodes, cores, gpus, memory_mib, grace_s, keeps_to_memory, extra)
        self.node_names = [f"node{number}" for number in range(1, nodes + 1)]
        self._held_ports: list[socket.socket] = []
        self._clients: list[subprocess.Popen[str]] = []
        self._keeper: subprocess.Popen[str] | None = None
        self._daemons: set[str] = set()
        self._cgroup: Path | None = None

    def __enter__(self) -> SlurmCluster:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    # ----- its life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all daemons, and return when all nodes are idle.

        Raises:
            RuntimeError: the folder's path is too long for the sockets in it.
            AssertionError: a daemon did not come up; says what it logged.
        """
        if len(f"{self.folder}{_LONGEST_SOCKET}") > _SOCKET_PATH_LIMIT:
            raise RuntimeError(
                f"Slurm has sockets in {self.folder}, whose path is too long for that; set TMPDIR to a short one"
            )
        for name in ("etc", "state", "log", "run", "spool", "devices", "munge"):
            (self.folder / name).mkdir(parents=True)
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_KEEPER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            self._start_munge()
            self._write_configuration()
            self.start_controller()
            for name in self.node_names:
                self.start_node(name)
            self.wait_for_nodes("idle", *self.node_names)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all daemons, all they have started, and the clients started by ``popen``; returns when none is left."""
        for client in self._clients:
            if client.poll() is None:
                client.kill()
            client.communicate()
        self._clients.clear()
        if self._keeper is not None and self._keeper.stdin is not None and self._keeper.stdout is not None:
            self._keeper.stdin.close()
            self._keeper.wait()
            self._keeper.stdout.close()
            self._keeper = None
            self._daemons.clear()
        self._remove_cgroup()
        while self._held_ports:
            self._held_ports.pop().close()

    def start_controller(self) -> None:
        """Start the controller; it goes on from the state that an earlier one has saved."""
        self._start("slurmctld", "slurmctld", "-D", "-f", str(self.configuration))

    def restart_controller(self) -> None:
        """End the controller by TERM, start another one, and return when it answers.

        One that is killed by KILL has not saved what it was told in its last seconds: such jobs are lost.
        """
        self.kill("slurmctld", signal.SIGTERM)
        self.start_controller()
        self.wait_until(self.answers, "the controller answers")

    def start_node(self, name: str) -> None:
        """Start the ``slurmd`` of a node."""
        self._start(name, "slurmd", "-D", "-N", name, "-f", str(self.configuration))

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to the daemon of a node, or to ``slurmctld``, and return when it is gone."""
        assert self._ask({"signal": number, "to": name}), f"{name} does not run"
        self.wait_until_over(name)

    def wait_until_over(self, name: str) -> None:
        """Return when the daemon of a node, or ``slurmctld``, is gone, which somebody has told to end."""
        self._daemons.discard(name)
        self.wait_until(lambda: not self._ask({"running": name}), f"{name} ends")

    # ----- clients ----------------------------------------------------------------------------------------------------

    @property
    def configuration(self) -> Path:
        """The path of slurm.conf."""
        return self.folder / "etc" / "slurm.conf"

    @property
    def variables(self) -> dict[str, str]:
        """What clients need in their environment, beside what they have."""
        return {"SLURM_CONF": str(self.configuration)}

    @property
    def environment(self) -> dict[str, str]:
        """An environment for clients: this process's, without another Slurm's variables."""
        return {**{name: value for name, value in os.environ.items() if not name.startswith("SLURM")}, **self.variables}

    def run(
        self, *command: str, environment: Mapping[str, str] | None = None, timeout_s: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a client to its end, whatever its exit code is. ``environment``: more variables."""
        process = self.popen(*command, environment=environment)
        try:
            out, err = process.communicate(timeout=timeout_s)
        finally:
            process.kill()
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def popen(
        self, *command: str, environment: Mapping[str, str] | None = None, bare: Mapping[bytes, bytes] | None = None
    ) -> subprocess.Popen[str]:
        """Start a client that ends with the cluster, or with this process.

        ``environment``: more variables. ``bare``: all it is to have, instead.
        """
        variables = {**self.environment, **(environment or {})}
        client = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            env=variables if bare is None else bare,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._clients.append(client)
        return client

    def output(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a client that has to succeed, and return what it printed."""
        done = self.run(*command, environment=environment)
        assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}, {done.stderr}"
        return done.stdout.strip()

    def submit(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Submit a job by ``sbatch``, and return its id. Its output is ``jobs/ID.out`` in the folder, unless it says where."""
        (self.folder / "jobs").mkdir(exist_ok=True)
        printed = self.output(
            "sbatch", "--parsable", f"--output={self.folder}/jobs/%j.out", *arguments, environment=environment
        )
        return printed.partition(";")[0]

    def job_output(self, job: str) -> str:
        """Return what the script of a job has printed so far."""
        path = self.folder / "jobs" / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def job(self, job: str) -> dict[str, str]:
        """Return what ``scontrol show job`` tells of a job, by the names there."""
        told = self.output("scontrol", "--oneliner", "show", "job", job)
        return dict(re.findall(r"(\S+?)=(\S*)", told))

    def jobs(self) -> dict[str, str]:
        """Return the states of the jobs that wait or run, by their ids."""
        lines = self.output("squeue", "--noheader", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def steps(self, job: str) -> dict[str, str]:
        """Return the names of the steps of a job, by their ids."""
        lines = self.output("squeue", "--steps", "--noheader", f"--jobs={job}", "--format=%i %j").splitlines()
        return dict(line.split(maxsplit=1) for line in lines)

    def wait_for_job(self, job: str, *states: str) -> dict[str, str]:
        """Return what is told of a job when it has come to one of these states (``RUNNING``, ``COMPLETED``, ...)."""
        told: dict[str, str] = {}

        def there() -> bool:
            nonlocal told
            told = self.job(job)
            return told["JobState"] in states

        self.wait_until(there, lambda: f"job {job} is {' or '.join(states)}; it is {told}")
        return told

    def node_states(self) -> dict[str, str]:
        """Return the state of each node, as ``sinfo`` shows it (``idle``, ``allocated``, ``down*``)."""
        lines = self.output("sinfo", "--noheader", "--Node", "--partition=whole", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def set_node(self, name: str, state: str) -> None:
        """Set a node ``down``, to ``drain``, or ``resume`` it, as its operator does."""
        self.output("scontrol", "update", f"NodeName={name}", f"State={state}", "Reason=test")

    def wait_for_nodes(self, state: str, *names: str) -> None:
        """Return when all these nodes are in a state, as ``sinfo`` shows it."""
        seen: dict[str, str] = {}

        def there() -> bool:
            nonlocal seen
            if not self.answers():
                return False
            seen = self.node_states()
            return all(seen.get(name) == state for name in names)

        self.wait_until(there, lambda: f"nodes {', '.join(names)} are {state}; they are {seen}")

    def cancel_all(self) -> None:
        """Cancel all jobs, and return when all nodes that run are idle again."""
        if jobs := self.jobs():
            self.run("scancel", *jobs)
        for client in self._clients:
            client.kill()
        self.wait_until(lambda: not self.jobs(), lambda: f"no job is left; there is {self.jobs()}")
        self.wait_for_nodes("idle", *self.node_names)

    def answers(self) -> bool:
        """Return whether the controller answers."""
        return self.run("scontrol", "ping").returncode == 0

    def wait_until(self, condition: Callable[[], object], what: str | Callable[[], str]) -> None:
        """Return when a condition holds.

        Raises:
            AssertionError: it did not within ``PATIENCE_S``, or a daemon has ended; says what was waited for, and their logs.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            late = time.monotonic() > deadline
            ended = [name for name in self._daemons if not self._ask({"running": name})]
            if late or ended:
                why = f"{', '.join(ended)} ended" if ended else f"{PATIENCE_S:.0f} s"
                raise AssertionError(f"after {why} not: {what if isinstance(what, str) else what()}\n{self.logs()}")
            time.sleep(LOOK_S)

    def logs(self) -> str:
        """Return the last lines of all logs."""
        logs = sorted((self.folder / "log").iterdir())
        return "\n".join(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-15:]) for log in logs)

    # ----- below ------------------------------------------------------------------------------------------------------

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        key = folder / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        # Its folder belongs to the test alone, which munge takes for too closed, or for too open, and so has to be forced.
        self._start(
            "munged",
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={folder}/socket",
            f"--pid-file={folder}/pid",
            f"--log-file={self.folder}/log/munged.log",
            f"--seed-file={folder}/seed",
        )
        self.wait_until((folder / "socket").exists, "munged listens")

    def _write_configuration(self) -> None:
        ports = [self._hold_port() for _ in range(len(self.node_names) + 1)]
        for number in range(self.shape.gpus):
            # Slurm wants a device, and looks no closer.
            (self.folder / "devices" / f"gpu{number}").symlink_to("/dev/null")
        etc = self.folder / "etc"
        (etc / "gres.conf").write_text(gres_configuration(self.shape, self.folder))
        (etc / "plugstack.conf").touch()
        (etc / "cgroup.conf").write_text(cgroup_configuration(self.shape, self.folder))
        if self.shape.keeps_to_memory:
            self._make_cgroup()
        user, host = pwd.getpwuid(os.geteuid()).pw_name, socket.gethostname().partition(".")[0]
        self.configuration.write_text(slurm_configuration(self.shape, self.folder, ports, user, host))

    def _make_cgroup(self) -> None:
        """Make a cgroup in which those of all nodes are, where Slurm looks for the root of all."""
        self._cgroup = MEMORY_CGROUPS / f"pilotage-{os.getpid()}-{self.folder.parent.name}-{self.folder.name}"
        self._cgroup.mkdir()
        (self.folder / "cgroup").mkdir()
        (self.folder / "cgroup" / "memory").symlink_to(self._cgroup)

    def _remove_cgroup(self) -> None:
        if self._cgroup is not None:
            for path, _, _ in os.walk(self._cgroup, topdown=False):
                os.rmdir(path)
            self._cgroup = None

    def _hold_port(self) -> int:
        """Return a free port that stays ours: nobody else is given it, but who asks to share it (as Slurm does) gets it."""
        held = socket.socket()
        held.bind(("127.0.0.1", 0))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held_ports.append(held)
        port: int = held.getsockname()[1]
        return port

    def _start(self, name: str, *command: str) -> None:
        program = shutil.which(command[0], path=_PATH)
        assert program, missing_slurm()
        self._ask({"start": name, "arguments": [program, *command[1:]], "log": f"{self.folder}/log/{name}.err"})
        self._daemons.add(name)

    def _ask(self, order: dict[str, Any]) -> Any:
        assert self._keeper is not None and self._keeper.stdin is not None and self._keeper.stdout is not None
        self._keeper.stdin.write(json.dumps(order) + "\n")
        self._keeper.stdin.flush()
        return json.loads(self._keeper.stdout.readline())


OpenSlurm = Callable[..., SlurmCluster]
"""Starts clusters for one test: the fixture ``open_slurm``."""
