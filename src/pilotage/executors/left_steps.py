"""Ending the steps of launchers that a dead spawner has left running, on whatever nodes they are.

A spawner notes each step that may be under way in the agent's private folder (see ``spawner.steps``). Its launchers end here
with other orphans; the batch system's list of steps tells which of those noted are there still, by the names that they were
started with.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from pilotage.errors import BackendError
from pilotage.launchers.method import Installed, StepControl
from pilotage.launchers.registry import launch_method
from pilotage.model.ids import RunnerId
from pilotage.spawner.steps import COMMAND_TIMEOUT_S, command_path, step_notes
from pilotage.wire.runner_settings import RunnerSettings, launch_folder, read_settings

_PAUSE_FIRST_S = 0.1
_PAUSE_LAST_S = 2.0
_PATIENCE_S = 60.0
_SHOWN_CHARACTERS = 500


def end_steps_of(folder: Path, runner: RunnerId) -> bool:
    """End what a dead spawner has left of steps and files; return False when nobody could tell in time whether any is left.

    ``folder``: the agent's private folder.
    """
    notes = step_notes(folder, runner)
    names = {path.name for path in notes.iterdir()} if notes.is_dir() else set()
    try:
        settings = read_settings(folder)
    except FileNotFoundError:
        return not names
    done = not names or end_steps(settings, names)
    shutil.rmtree(notes, ignore_errors=True)
    shutil.rmtree(launch_folder(settings, runner), ignore_errors=True)
    return done


def end_steps(settings: RunnerSettings, names: Collection[str], patience_s: float = _PATIENCE_S) -> bool:
    """End the steps of these names; return True when none is left, False when that is not known after ``patience_s``."""
    until = time.monotonic() + patience_s
    ended = [_end_of(name, settings, names, until) for name in settings.launchers]
    return all(ended)


def _end_of(method: str, settings: RunnerSettings, names: Collection[str], until: float) -> bool:
    control = launch_method(method).facts.steps
    if control is None or not control.named:
        return True
    installed, variables = settings.launchers[method], settings.allocation_environment
    job = installed.option("job") or variables.get(control.job_variable, "")
    pause_s = _PAUSE_FIRST_S
    while True:
        try:
            left = _listed(control, installed, job, variables, names)
            if not left:
                return True
            for step in left:
                _run(installed, control.cancel_arguments(job, step), variables)
        except BackendError as error:
            sys.stderr.write(f"steps of {method} that may be left cannot be ended: {error}\n")
        if time.monotonic() > until:
            return False
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _PAUSE_LAST_S)


def _listed(
    control: StepControl, installed: Installed, job: str, variables: Mapping[str, str], names: Collection[str]
) -> list[str]:
    arguments = control.list_arguments(job)
    done = _run(installed, arguments, variables)
    if done.returncode:
        raise BackendError(f"{arguments[0]} ended with exit code {done.returncode}: {done.stderr.strip()[:_SHOWN_CHARACTERS]}")
    return [step.id for step in control.parse_steps(done.stdout) if step.name in names]


def _run(installed: Installed, arguments: list[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    path = command_path(installed.path, arguments[0], environment.get("PATH", os.defpath))
    try:
        return subprocess.run(
            [path, *arguments[1:]],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(str(error)) from error
