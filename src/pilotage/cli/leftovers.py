"""What earlier runs may have left behind: sessions, pilots, processes, private folders of agents."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pilotage.cli.findings import Finding, Status
from pilotage.cli.renderers import plural
from pilotage.errors import PilotageError
from pilotage.system.processes import started_ticks

_NAMES_SHOWN = 5
_OWNERS = (b"PILOTAGE_TASK_ID=", b"PILOTAGE_WORKER_ID=")
_PILOT_MODULES = (b"pilotage.agent", b"pilotage.spawner")


def check_sessions() -> list[Finding]:
    """Look for sessions whose program died, and for pilots that run without one."""
    from pilotage.cli.lookup import living_pilots, read_state, session_folders, session_state

    folders = session_folders()
    crashed, alone, unreadable = [], [], []
    for folder in folders:
        state = session_state(folder)
        if state == "crashed":
            crashed.append(folder.name)
        try:
            pilots = living_pilots(folder, read_state(folder)) if state != "open" else []
        except PilotageError as error:
            unreadable.append((folder.name, str(error)))
            continue
        alone += [f"{pilot.uid} of {folder.name}" for pilot, _ in pilots]
    findings = []
    if alone:
        findings.append(
            Finding(
                "pilots left",
                Status.WARNING,
                f"{plural(len(alone), 'pilot')} without a program: {_some(alone)}",
                "go on with them: pilotage session resume UID; or end them: pilotage session rm --force UID",
            )
        )
    if crashed:
        findings.append(
            Finding(
                "sessions left",
                Status.WARNING,
                f"{plural(len(crashed), 'session')} whose program died: {_some(crashed)}",
                "go on with them: pilotage session resume UID; or remove them: pilotage session rm UID",
            )
        )
    findings += [
        Finding(
            "session log",
            Status.WARNING,
            f"{name}: {problem}",
            f"restore it from a copy, or: pilotage session rm --force {name}",
        )
        for name, problem in unreadable
    ]
    return findings or [Finding("sessions", Status.OK, f"{plural(len(folders), 'session')}, none left behind")]


def check_processes() -> list[Finding]:
    """Look for processes of tasks and workers that no pilot looks after."""
    orphans = orphaned_processes()
    if not orphans:
        return [Finding("tasks left", Status.OK, "no process without its pilot")]
    pids = " ".join(str(pid) for pid in orphans)
    return [
        Finding(
            "tasks left",
            Status.WARNING,
            f"{len(orphans)} of dead pilots: " + _some([f"{pid} ({task})" for pid, task in orphans.items()]),
            f"end what you do not need: kill -9 {pids}",
        )
    ]


def orphaned_processes() -> dict[int, str]:
    """Return the processes that carry the mark of a task or a worker and descend from no pilot, with what they belong to."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            variables = Path("/proc", entry, "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        owner = next((variable for variable in variables if variable.startswith(_OWNERS)), b"")
        if owner and started_ticks(int(entry)) is not None and not _has_pilot(int(entry)):
            found[int(entry)] = owner.partition(b"=")[2].decode(errors="replace")
    return found


def _has_pilot(pid: int) -> bool:
    """Tell whether a process is one of a pilot's own, or descends from one: spawners adopt what their tasks leave."""
    while pid > 1:
        try:
            if any(module in Path(f"/proc/{pid}/cmdline").read_bytes() for module in _PILOT_MODULES):
                return True
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return True  # it ended while we looked: nothing is left of it
        pid = int(stat[stat.rindex(")") + 2 :].split()[1])
    return False


def check_private_folders() -> list[Finding]:
    """Look for private folders whose pilot is gone."""
    stale = stale_private_folders(Path(tempfile.gettempdir()) / f"pilotage-{os.geteuid()}")
    if not stale:
        return [Finding("private folders", Status.OK, "none left behind")]
    return [
        Finding(
            "private folders",
            Status.WARNING,
            f"{len(stale)} of dead agents in {stale[0].parent}",
            f"remove them: rm -r {' '.join(map(str, stale[:_NAMES_SHOWN]))}{' ...' if len(stale) > _NAMES_SHOWN else ''}",
        )
    ]


def stale_private_folders(base: Path) -> list[Path]:
    """Return the private folders in ``base`` whose pilot has no process left."""
    from pilotage.agent.settings import CONNECTION_FILE
    from pilotage.cli.lookup import living_agent
    from pilotage.wire.runner_settings import read_settings

    stale = []
    try:
        folders = sorted(entry for entry in base.iterdir() if entry.is_dir() and not entry.is_symlink())
    except (FileNotFoundError, PermissionError):
        return []
    for folder in folders:
        try:
            pilot = Path(read_settings(folder).pilot_folder)
        except FileNotFoundError:
            # An agent that is just being started has not written it yet, so an empty folder says nothing.
            continue
        except Exception:  # not of this version, or damaged: not ours to judge
            continue
        # An agent that was restarted, or is being so, has written its address before.
        if not (pilot / CONNECTION_FILE).exists() or living_agent(pilot) is None:
            stale.append(folder)
    return stale


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
