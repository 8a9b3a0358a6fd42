"""What ``pilotage doctor`` looks at: the installation, the folders, the limits of this machine, and a pilot at work.

A check returns findings and touches nothing but what it makes itself.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pilotage.cli.findings import Finding, Status, judged
from pilotage.cli.renderers import plural, size, span
from pilotage.errors import PilotageError
from pilotage.version import __version__

LEAST_PYTHON = (3, 10)
LEAST_VERSIONS = {"pyzmq": (25, 1), "msgspec": (0, 18, 6), "cloudpickle": (3, 0), "typer": (0, 12), "rich": (13, 7)}
FREE_BYTES_WARNING = 1 << 30
FREE_BYTES_BROKEN = 64 << 20
FREE_INODES_WARNING = 10_000
INODES_PER_TASK = 3
PROCESSES_WARNING = 1024
DESCRIPTORS_WARNING = 1024
DESCRIPTORS_BROKEN = 256
MEMORY_MIB_WARNING = 512
SOCKET_PATH_LIMIT = 107
"""Longest path of a Unix socket on Linux."""
PILOT_PATIENCE_S = 60.0


def check_python() -> list[Finding]:
    """Look at the Python that runs this."""
    found = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}, Pilotage {__version__}"
    wanted = ".".join(map(str, LEAST_PYTHON))
    return [
        judged(
            "Python",
            found,
            sys.version_info < LEAST_PYTHON or platform.python_implementation() != "CPython",
            False,
            f"install Pilotage with CPython {wanted} or newer",
        ),
        judged("system", f"{platform.system()} {platform.release()}", platform.system() != "Linux", False, "pilots need Linux"),
    ]


def check_dependencies() -> list[Finding]:
    """Look at the versions of the packages that Pilotage stands on."""
    found, missing, old = [], [], []
    for name, least in LEAST_VERSIONS.items():
        wanted = ".".join(map(str, least))
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"{name}>={wanted}")
            continue
        found.append(f"{name} {version}")
        if _numbers(version) < least:
            old.append(f"{name}>={wanted}")
    wanted_all = " ".join(f"'{one}'" for one in [*missing, *old])
    return [
        judged("dependencies", ", ".join(found) or "none", bool(missing or old), False, f"run: pip install -U {wanted_all}")
    ]


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def check_session_folder(folder: Path | None = None) -> list[Finding]:
    """See that sessions can be written: a file, a link and a sync, free space and inodes."""
    from pilotage.client.session_folder import sessions_folder

    folder = folder or sessions_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor.") as file:
            file.write(b"?")
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            sync_s = time.perf_counter() - began
    except OSError as error:
        remedy = "set PILOTAGE_HOME to a folder that you can write, with room, such as one on scratch"
        return [Finding("session folder", Status.BROKEN, f"{folder} cannot be written: {error.strerror}", remedy)]
    free, inodes = _room(folder)
    short = free < FREE_BYTES_WARNING or (inodes is not None and inodes < FREE_INODES_WARNING)
    return [
        judged(
            "session folder",
            f"{folder}: {_told(free, inodes)} free; fsync takes {span(sync_s)}",
            free < FREE_BYTES_BROKEN or inodes == 0,
            short,
            "free some room, remove old sessions (pilotage session rm), or set PILOTAGE_HOME to a larger file system",
        )
    ]


def check_sandboxes(folders: Sequence[Path] | None = None) -> list[Finding]:
    """Look at the room where tasks write: beside the sessions, or where the platforms of this machine have their pilots."""
    from pilotage.client.session_folder import sessions_folder
    from pilotage.platforms.platform import sandbox_of
    from pilotage.platforms.registry import load_platforms

    if folders is None:
        here = [each for each in load_platforms().values() if each.sandbox and each.batch == "local"]
        own = [Path(sandbox_of(each)) for each in here]
        folders = [sessions_folder(), *own]
    findings = []
    for folder in dict.fromkeys(folders):
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        free, inodes = _room(there)
        # A folder, and the two files of a task that prints to both.
        tasks = None if inodes is None else inodes // INODES_PER_TASK
        enough = "" if tasks is None else f", for {tasks:,} tasks that have a sandbox of their own and print"
        findings.append(
            judged(
                "sandboxes",
                f"{folder}: {_told(free, inodes)} free{enough}",
                free < FREE_BYTES_BROKEN or tasks == 0,
                free < FREE_BYTES_WARNING or (tasks is not None and tasks < FREE_INODES_WARNING),
                "free some room, or have tasks write less: sandbox='shared', output='aggregate', cleanup=True",
            )
        )
    return findings


def _room(folder: Path) -> tuple[int, int | None]:
    """Return the bytes and inodes that are free for us; None for file systems that make inodes as they go."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize, status.f_favail if status.f_files else None


def _told(free: int, inodes: int | None) -> str:
    return f"{size(free)} and {f'{inodes:,} inodes' if inodes is not None else 'no limit of inodes'}"


def check_temporary_folder() -> list[Finding]:
    """See that agents get a private folder for their sockets, on this node."""
    from pilotage.agent.private_folder import private_folder, remove_private_folder

    try:
        folder = private_folder(Path(f"/doctor.{os.getpid()}"))
    except (OSError, PilotageError) as error:
        return [Finding("private folder", Status.BROKEN, str(error), "set TMPDIR to a folder of your own on this node")]
    try:
        longest = len(os.fsencode(folder)) + len("/client.sock")
        return [
            judged(
                "private folder",
                f"{folder.parent}, mode 0700",
                longest > SOCKET_PATH_LIMIT,
                False,
                f"its path makes sockets of {longest} characters where {SOCKET_PATH_LIMIT} are possible; set TMPDIR to a "
                "shorter path, such as /tmp",
            )
        ]
    finally:
        remove_private_folder(folder)


def check_process_limits() -> list[Finding]:
    """Look at how many processes and open files are allowed."""
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    pid_max = int(Path("/proc/sys/kernel/pid_max").read_text())
    group = _group_limit("pids.max")
    limits = {"ulimit -u": None if processes == resource.RLIM_INFINITY else processes, "pid_max": pid_max, "cgroup": group}
    least = min(limit for limit in limits.values() if limit is not None)
    said = ", ".join(f"{name} {'unlimited' if limit is None else f'{limit:,}'}" for name, limit in limits.items())
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        judged(
            "processes",
            said,
            False,
            least < PROCESSES_WARNING,
            f"no more than {least:,} tasks can run at one time; raise it: ulimit -u, or ask the administrator",
        ),
        judged(
            "open files",
            f"ulimit -n {files:,} (at most {hard:,})",
            files < DESCRIPTORS_BROKEN,
            files < DESCRIPTORS_WARNING,
            f"raise it before you start: ulimit -n {min(hard, 4096) if hard > 0 else 4096}",
        ),
    ]


def _group_limit(name: str) -> int | None:
    """Return a limit of the control group that this process is in; None if there is none."""
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, _, path = line.split(":", 2)
            if number == "0":
                text = Path(f"/sys/fs/cgroup{path.rstrip('/')}/{name}").read_text().strip()
                return None if text == "max" else int(text)
    except (OSError, ValueError):
        pass
    return None


def check_unix_sockets() -> list[Finding]:
    """See that Unix sockets work where agents make theirs."""
    with tempfile.TemporaryDirectory(prefix="pilotage-doctor-") as folder:
        path = os.path.join(folder, "socket")
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            try:
                server.bind(path)
                server.listen(1)
                client.connect(path)
            except OSError as error:
                found = f"{tempfile.gettempdir()}: {error.strerror or error}"
                return [Finding("Unix sockets", Status.BROKEN, found, "set TMPDIR to a file system of this node, such as /tmp")]
    return [Finding("Unix sockets", Status.OK, f"work in {tempfile.gettempdir()}")]


def check_encryption() -> list[Finding]:
    """See that ZeroMQ can encrypt, which pilots on other machines need."""
    import zmq

    able = zmq.has("curve")
    return [
        judged(
            "encryption",
            f"ZeroMQ {zmq.zmq_version()} {'has' if able else 'lacks'} CURVE",
            False,
            not able,
            "pilots of this machine work; for others install the wheel of pyzmq: pip install --force-reinstall pyzmq",
        )
    ]


def check_cores() -> list[Finding]:
    """Look at the cores that this process may use."""
    from pilotage.platforms.machine import usable_cores, usable_gpus

    mine, there = len(usable_cores()), os.cpu_count() or 1
    said = f"{plural(mine, 'core')} of {there}, {plural(usable_gpus(), 'GPU')}"
    share = _cpu_quota()
    if share is not None and share < mine:
        return [
            Finding(
                "cores",
                Status.WARNING,
                f"{said}; the control group allows {share:.3g} cores' worth of time",
                f"ask for no more than --pilot-cores {max(1, int(share))}, or tasks slow each other down",
            )
        ]
    load = os.getloadavg()[0]
    return [
        judged(
            "cores",
            f"{said}; load {load:.1f}",
            False,
            load > 2 * mine,
            "others use this machine; if it is a login node, run long work elsewhere",
        )
    ]


def _cpu_quota() -> float | None:
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, _, path = line.split(":", 2)
            if number == "0":
                quota, period = Path(f"/sys/fs/cgroup{path.rstrip('/')}/cpu.max").read_text().split()
                return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    return None


def check_memory() -> list[Finding]:
    """Look at the memory that is free."""
    from pilotage.platforms.machine import usable_memory_mib

    total = usable_memory_mib()
    text = Path("/proc/meminfo").read_text()
    available = next((int(line.split()[1]) // 1024 for line in text.splitlines() if line.startswith("MemAvailable:")), total)
    found = f"{size(min(available, total) * 2**20)} of {size(total * 2**20)} free"
    return [judged("memory", found, False, available < MEMORY_MIB_WARNING, "end what takes it; a pilot needs some 150 MiB")]


def _answer(number: int) -> int:
    return number + 1


def check_pilot() -> list[Finding]:
    """Start a pilot in a session of its own, run one executable and one function, end it, and look that nothing is left."""
    from pilotage.client.pilot_manager import PilotManager
    from pilotage.client.session import Session
    from pilotage.client.task_manager import TaskManager
    from pilotage.model.states import DONE, PMGR_ACTIVE

    remedy = "see the messages above; `pilotage --debug doctor` prints tracebacks"
    with tempfile.TemporaryDirectory(prefix="pilotage-doctor-") as folder:
        marks = [time.perf_counter()]
        session = Session(base=folder)
        try:
            pilot = PilotManager(session).submit_pilots({"resource": "local.localhost", "cores": 1, "runtime": 5})
            manager = TaskManager(session)
            manager.add_pilots(pilot)
            state = pilot.wait(PMGR_ACTIVE, PILOT_PATIENCE_S)
            marks.append(time.perf_counter())
            if state != PMGR_ACTIVE:
                said = f"is {state} after {span(marks[-1] - marks[0])}: {pilot.reason or 'it does not answer'}"
                return [Finding("pilot", Status.BROKEN, said, remedy)]
            findings = [Finding("pilot", Status.OK, f"active after {span(marks[1] - marks[0])}")]
            for name, description, wanted in (
                ("executable", {"executable": sys.executable, "arguments": ["-c", "print(42)"]}, None),
                ("function", {"function": _answer, "args": [41]}, 42),
            ):
                task = manager.submit_tasks(description)
                assert not isinstance(task, list)
                task.wait(timeout=PILOT_PATIENCE_S)
                marks.append(time.perf_counter())
                printed = (task.stdout or "").strip() == "42" if wanted is None else task.return_value == wanted
                if task.state == DONE and printed:
                    findings.append(Finding(name, Status.OK, f"done in {span(marks[-1] - marks[-2])}"))
                else:
                    found = f"{task.state}: {task.exception or 'not what it should print or return'}"
                    findings.append(Finding(name, Status.BROKEN, found, remedy))
        finally:
            began = time.perf_counter()
            session.close()
        findings.append(Finding("end", Status.OK, f"closed in {span(time.perf_counter() - began)}"))
        return findings
