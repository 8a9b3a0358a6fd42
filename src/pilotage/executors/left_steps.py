"""Ending the steps of launchers that a dead spawner has left running, on whatever nodes they are.

A spawner notes each step that may be under way in a folder that all nodes see (see ``spawner.steps``). Its launchers end with
other orphans of its node, or with the node; the batch system's list of steps tells which of those noted are there still, by
the names that they were started with.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Mapping

from pilotage.errors import BackendError
from pilotage.launchers.method import Installed, StepControl
from pilotage.launchers.registry import launch_method
from pilotage.model.ids import RunnerId
from pilotage.spawner.steps import COMMAND_TIMEOUT_S, command_path, step_notes
from pilotage.wire.runner_settings import RunnerSettings, launch_folder

_PAUSE_FIRST_S = 0.1
_PAUSE_LAST_S = 2.0
_COMMAND_S = 5.0
"""A command has this long at least."""
_UNKNOWN = "; ranks that its launchers have started may still run, as the batch system does not tell of its steps"
_SHOWN_CHARACTERS = 500


def end_steps_of(settings: RunnerSettings, runner: RunnerId, patience_s: float) -> str:
    """End what a dead spawner has left of steps and files, and return words to add to why it was lost.

    They are empty, unless it is not known after ``patience_s`` whether any step is left.
    """
    try:
        names = os.listdir(step_notes(settings, runner))
    except OSError:
        names = []
    until = time.monotonic() + patience_s
    ended = [_end_of(method, settings, names, until) for method in settings.launchers] if names else []
    shutil.rmtree(launch_folder(settings, runner), ignore_errors=True)
    return "" if all(ended) else _UNKNOWN


def _end_of(method: str, settings: RunnerSettings, names: Collection[str], until: float) -> bool:
    control = launch_method(method).facts.steps
    if control is None or not control.named:
        return True
    installed, variables = settings.launchers[method], settings.allocation_environment
    job = installed.option("job") or variables.get(control.job_variable, "")
    pause_s = _PAUSE_FIRST_S
    while True:
        try:
            left = _listed(control, installed, job, variables, names, until)
            if not left:
                return True
            for step in left:
                _run(installed, control.cancel_arguments(job, step), variables, until)
        except BackendError as error:
            sys.stderr.write(f"steps of {method} that may be left cannot be ended: {error}\n")
        if time.monotonic() + pause_s > until:
            return False
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _PAUSE_LAST_S)


def _listed(
    control: StepControl,
    installed: Installed,
    job: str,
    variables: Mapping[str, str],
    names: Collection[str],
    until: float,
) -> list[str]:
    arguments = control.list_arguments(job)
    done = _run(installed, arguments, variables, until)
    if done.returncode:
        raise BackendError(f"{arguments[0]} ended with exit code {done.returncode}: {done.stderr.strip()[:_SHOWN_CHARACTERS]}")
    return [step.id for step in control.parse_steps(done.stdout) if step.name in names]


def _run(
    installed: Installed, arguments: list[str], variables: Mapping[str, str], until: float
) -> subprocess.CompletedProcess[str]:
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
            timeout=max(_COMMAND_S, min(COMMAND_TIMEOUT_S, until - time.monotonic())),
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(str(error)) from error
