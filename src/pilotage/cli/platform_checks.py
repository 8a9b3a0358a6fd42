"""What ``pilotage platforms check`` tests of a platform on the machine at hand: what pilots need before they can begin.

On a login node that is the platform's words, the batch system, a job that is tried without being submitted, launchers, the
folder of pilots, Python and the network. Inside a job its nodes are looked at, too (``allocation_checks``). Whatever is made
for that is removed again, and nothing is waited for longer than a minute.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pilotage.batch.commands import BatchCommands, LocalRunner, write_script
from pilotage.batch.registry import batch_system
from pilotage.batch.system import BatchError, FailureKind
from pilotage.cli.allocation_checks import check_allocation
from pilotage.cli.findings import Check, Finding, Status, judged, run_checks
from pilotage.cli.renderers import plural, size, span
from pilotage.client.job_specs import check_job, job_spec
from pilotage.client.pilot_description import PilotDescription
from pilotage.client.session_folder import sessions_folder
from pilotage.errors import BackendError, InvalidPilot, InvalidRequest
from pilotage.launchers.found import ASKED_BY_BATCH, find_installed
from pilotage.platforms.platform import Platform, sandbox_of
from pilotage.system.file_systems import file_system_of
from pilotage.version import __version__
from pilotage.wire.addresses import EVERYWHERE, HERE, addresses_here

ANSWER_S = 15.0
"""How long a command may take."""
TRIED_MINUTES = 10
"""Runtime of the pilot that is tried."""
FREE_BYTES_WARNING = 1 << 30

_SOME_JOB = "1"
"""Asked for to see whether the batch system answers; that it knows no such job is an answer."""
_VERSION = {
    "slurm": ("sbatch", "--version"),
    "pbspro": ("qstat", "--version"),
    "torque": ("qstat", "--version"),
    "lsf": ("bsub", "-V"),
    "cobalt": ("qstat", "--version"),
    "flux": ("flux", "version"),
}
_ON_ONE_MACHINE = {"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
_LAUNCHERS = {"slurm": "srun", "flux": "flux", "lsf": "jsrun", "cobalt": "aprun"}
"""By batch system: the launcher that asks it."""
_REMEDIES = {
    FailureKind.ACCOUNT: "name a project that you may charge: --project here, project in pilots or in the platform's file",
    FailureKind.QUEUE: "name a queue, a quality of service and constraints that there are, and that you may use",
    FailureKind.LIMIT: "ask for what the queue allows; correct the platform's file where it says otherwise",
    FailureKind.UNREACHABLE: "try again later, or ask the site whether its batch system is down",
    FailureKind.UNANSWERED: "try again later, or ask the site whether its batch system is down",
    FailureKind.NO_SYSTEM: "work on a login node of the machine, where these commands are set up",
}
_PRINTS_VERSION = "from pilotage.version import __version__; print(__version__)"


def check_platform(on: Platform, asked: Mapping[str, str | int]) -> list[Finding]:
    """Test all that can be tested here. ``asked``: ``queue``, ``project``, ``qos`` and ``nodes`` of pilots, empty or 0: as the
    platform has them."""
    of_batch: list[Finding] = []

    def ask_batch() -> list[Finding]:
        of_batch.extend(check_batch(on, asked))
        return of_batch

    checks: dict[str, Check] = {"description": partial(check_description, on)}
    if on.batch != "local":
        checks["batch system"] = ask_batch
    checks |= {
        "launch methods": lambda: check_launch_methods(on, is_batch_broken=_any_broken(of_batch)),
        "folder of pilots": partial(check_sandbox, on),
        "python": partial(check_python, on),
    }
    if on.transport == "tcp":
        checks["network"] = check_network
    checks["allocation"] = partial(check_allocation, on)
    return run_checks(checks)


def check_description(on: Platform) -> list[Finding]:
    """Look at what the platform's files say of it as a whole; reading them has checked the rest."""
    since = f" on {on.status_date}" if on.status_date else ""
    told = {"verified": f"seen to work{since}", "documented": f"from the site's documentation{since}", "retired": "retired"}
    words = [on.description, told.get(on.status or "", ""), on.note]
    found = f"{on.name}: {'; '.join(word for word in words if word) or 'nothing is said of it in words'}"
    return [judged("description", found, False, on.status == "retired", "the machine is no more in service; take another one")]


def check_batch(on: Platform, asked: Mapping[str, str | int]) -> list[Finding]:
    """Look at the batch system, and then try a job, unless that would only be told the same again."""
    findings = check_batch_system(on)
    if _any_broken(findings):
        remedy = "mend what is wrong with the batch system, then try again"
        return [*findings, Finding("job", Status.WARNING, "was not tried: there is no batch system to ask", remedy)]
    return [*findings, *check_a_job(on, asked)]


def check_batch_system(on: Platform) -> list[Finding]:
    """See that the commands of the batch system are here, and that it answers."""
    system = batch_system(on.batch)
    name = "batch system"
    missing = [command for command in system.facts.commands if shutil.which(command) is None]
    if missing:
        found = f"{on.batch}: there is no {', '.join(missing)} in PATH"
        return [Finding(name, Status.BROKEN, found, "work where they are, or load the module that has them")]
    began = time.monotonic()
    try:
        _commands(on).statuses([_SOME_JOB])
    except BatchError as error:
        remedy = _REMEDIES.get(error.kind)
        return [Finding(name, Status.BROKEN if remedy else Status.WARNING, _line(error), remedy or "see what it says")]
    answered = span(time.monotonic() - began)
    where = os.path.dirname(shutil.which(system.facts.commands[0]) or "")
    version = _said(_VERSION.get(on.batch, ()))
    return [Finding(name, Status.OK, f"{version or on.batch}, in {where}; answers after {answered}")]


def check_a_job(on: Platform, asked: Mapping[str, str | int]) -> list[Finding]:
    """Try the job of a small pilot without submitting it, where the batch system can do that."""
    name = "job"
    limits = [on.queues.get(str(asked["queue"] or on.queue)), on.qos_limits.get(str(asked["qos"] or on.qos))]
    told = [limit for limit in limits if limit is not None]
    minutes = [TRIED_MINUTES, on.max_walltime_minutes, *(limit.max_walltime_minutes for limit in told)]
    nodes = int(asked["nodes"]) or max([1, *(limit.min_nodes - on.agent_nodes for limit in told)])
    given = {key: value for key, value in asked.items() if value and key != "nodes"}
    pilot = PilotDescription(
        {"resource": on.name, "nodes": nodes, "runtime": min(each for each in minutes if each is not None), **given}
    )
    system = batch_system(on.batch)
    words = ", ".join(
        f"{word} {value}"
        for word, value in (
            ("queue", pilot.queue or on.queue),
            ("project", pilot.project or on.project),
            ("quality of service", pilot.qos or on.qos),
            ("constraints", " and ".join(on.constraints)),
        )
        if value
    )
    shown = f"{plural(nodes, 'node')}{f', {words}' if words else ''}"
    try:
        check_job("pilot", on, pilot)
        with tempfile.TemporaryDirectory(prefix="pilotage-check-") as folder:
            script = Path(folder) / "job.sh"
            write_script(system, job_spec("pilotage.check", on, pilot, Path(folder)), script)
            if not system.estimate_command(str(script)):
                return [Finding(name, Status.OK, f"{shown}: {on.batch} tells only when a job is submitted whether it takes it")]
            start = _commands(on).estimate(str(script))
    except InvalidPilot as error:
        return [Finding(name, Status.BROKEN, str(error), "mend what the message names")]
    except BatchError as error:
        remedy = _REMEDIES.get(error.kind, "see what it says")
        return [Finding(name, Status.WARNING if error.transient else Status.BROKEN, f"{shown}: {_line(error)}", remedy)]
    when = "" if start is None else f"; it would start {_in(start - time.time())}"
    return [Finding(name, Status.OK, f"{shown}: would be taken{when}")]


def check_launch_methods(on: Platform, *, is_batch_broken: bool = False) -> list[Finding]:
    """Look for the launchers of tasks that have several ranks; ``fork`` needs none.

    ``is_batch_broken``: one that asks the batch system would wait for that in vain.
    """
    findings: list[Finding] = []
    wanted = [name for name in on.launch_methods or ASKED_BY_BATCH.get(on.batch, ("mpiexec",)) if name != "fork"]
    search_path = os.environ.get("PATH", "")
    for name in wanted:
        if is_batch_broken and name == _LAUNCHERS.get(on.batch):
            remedy = "mend what is wrong with the batch system, then try again"
            findings.append(Finding(name, Status.WARNING, "was not tried: there is no batch system to ask", remedy))
            continue
        try:
            found = find_installed(name, on.launcher_paths.get(name, ""), on.launcher_options.get(name, {}), search_path)
        except BackendError as error:
            findings.append(Finding(name, Status.BROKEN, str(error), "correct launcher_paths or launcher_options"))
            continue
        if found is None:
            remedy = "load the module that has it in the platform's setup, or say where it is in launcher_paths"
            findings.append(Finding(name, Status.WARNING, "is not in PATH here; on the nodes it may be", remedy))
        else:
            kind = " ".join(word for word in (found.kind, found.version) if word)
            findings.append(Finding(name, Status.OK, f"{found.path}{f', {kind}' if kind else ''}"))
    return findings or [Finding("launch methods", Status.OK, "none is needed")]


def check_sandbox(on: Platform) -> list[Finding]:
    """See that pilots can have their folders where the platform says, and that other nodes can be expected to see them."""
    name = "folder of pilots"
    try:
        folder = Path(sandbox_of(on)) if on.sandbox else sessions_folder()
    except InvalidRequest as error:
        return [Finding(name, Status.BROKEN, str(error), "set the variable, or name another folder in sandbox")]
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    remedy = "name a folder in sandbox that you may write to and that all nodes see"
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".pilotage-check-") as made:
            (Path(made) / "file").write_bytes(b"pilotage")
    except OSError as error:
        return [Finding(name, Status.BROKEN, f"{folder}: {there} cannot be written to: {error.strerror}", remedy)]
    room = os.statvfs(there)
    free = room.f_bavail * room.f_frsize
    kind = file_system_of(there)
    alone = on.batch != "local" and kind in _ON_ONE_MACHINE
    found = f"{folder}: can be written to, {size(free)} free, on {kind or 'a file system of unknown kind'}"
    if alone:
        found += ", which other nodes as a rule do not see"
    return [judged(name, found, False, alone or free < FREE_BYTES_WARNING, remedy if alone else "free some room")]


def check_python(on: Platform) -> list[Finding]:
    """See that the Python that agents run under has Pilotage, of the version that is here."""
    name = "python"
    path = on.python or sys.executable
    if not on.python:
        return [Finding(name, Status.OK, f"{path}, which runs this; nodes have to have it under the same path")]
    remedy = "name in python the interpreter of an environment that has Pilotage, and that all nodes see"
    try:
        done = subprocess.run([path, "-I", "-c", _PRINTS_VERSION], capture_output=True, text=True, timeout=ANSWER_S)
    except OSError as error:
        return [Finding(name, Status.BROKEN, f"{path}: {error.strerror}", remedy)]
    except subprocess.TimeoutExpired:
        return [Finding(name, Status.BROKEN, f"{path}: had not started after {span(ANSWER_S)}", remedy)]
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2] or f"ended with exit code {done.returncode}"
        return [Finding(name, Status.BROKEN, f"{path}: {said}", remedy)]
    version = done.stdout.strip()
    found = f"{path}, with Pilotage {version}"
    if version == __version__:
        return [Finding(name, Status.OK, found)]
    return [Finding(name, Status.WARNING, f"{found}; here is {__version__}", "have the same version in both places")]


def check_network() -> list[Finding]:
    """See that a port can be opened by which others on the network reach this machine."""
    name = "network"
    remedy = "work where programs may listen on the network; agents and clients talk to each other by TCP"
    with socket.socket() as listening:
        try:
            listening.bind((EVERYWHERE, 0))
            listening.listen()
        except OSError as error:
            return [Finding(name, Status.BROKEN, f"no port can be opened: {error.strerror}", remedy)]
        port = listening.getsockname()[1]
        addresses = addresses_here()
        reached = [address for address in addresses if _reaches(address, port)]
    if not reached:
        return [Finding(name, Status.BROKEN, f"a port is open, but not reached by {', '.join(addresses)}", remedy)]
    found = f"a port can be opened, and is reached by {', '.join(reached)}"
    return [judged(name, found, False, reached == [HERE], "there is no network but the machine's own; other nodes need one")]


def _any_broken(findings: Sequence[Finding]) -> bool:
    return any(finding.status is Status.BROKEN for finding in findings)


def _reaches(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2.0).close()
    except OSError:
        return False
    return True


def _commands(on: Platform) -> BatchCommands:
    return BatchCommands.here(on.batch, timeout_s=ANSWER_S)


def _said(command: tuple[str, ...]) -> str:
    """Return the first line that a command prints; empty if it prints none."""
    if not command:
        return ""
    try:
        result = LocalRunner().run(command, ANSWER_S)
    except TimeoutError:
        return ""
    return (result.stdout.strip() or result.stderr.strip()).partition("\n")[0]


def _line(error: BatchError) -> str:
    """Return what an error says in one line; commands print several."""
    return " ".join(str(error).split())


def _in(seconds: float) -> str:
    return f"in {span(seconds)}" if seconds >= 1 else "at once"
