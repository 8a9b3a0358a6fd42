"""Functions that want a process of their own: those with hooks or in a named environment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from spawner_driver import SpawnerDriver, StartDriver

from pilotage.model.execution import AttemptEnd
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.workload import ALL_RANKS, Hooks
from pilotage.wire.pickles import pickle_by_value, pickle_value
from pilotage.wire.runner_messages import DefineEnvironment, EndTasks

cloudpickle.register_pickle_by_value(sys.modules[__name__])

HOOKS = Hooks(pre_exec=((ALL_RANKS, "export SEEN=hook"),))


def launch(driver: SpawnerDriver, function: Callable[..., Any], *args: Any, **fields: Any) -> None:
    template = driver.template(mode="function", function=pickle_by_value(function), **{"hooks": HOOKS, **fields})
    driver.launch("task.1", template=template, payload=pickle_value((args, {})))


def end_of(driver: SpawnerDriver) -> AttemptEnd:
    """Return how the task ended; nothing of its call is left."""
    end = driver.wait_for_end("task.1")
    assert not list(Path(driver.settings.pilot_folder, "calls").iterdir())
    assert not list(driver.folder.glob("hooks/*"))
    return end


def value_of(end: AttemptEnd) -> object:
    assert (end.ending, end.exit_code, end.message) == (Ending.DONE, None, "")
    assert isinstance(end.result, bytes)
    return cloudpickle.loads(end.result)


@pytest.mark.parametrize("post", [(), ((ALL_RANKS, "echo after"),)], ids=["exec", "wait"])
def test_hooks_change_the_environment_of_a_function(driver: SpawnerDriver, post: tuple[tuple[int, str], ...]) -> None:
    launch(driver, lambda number: (number, os.environ["SEEN"]), 7, hooks=Hooks(pre_exec=HOOKS.pre_exec, post_exec=post))

    assert value_of(end_of(driver)) == (7, "hook")
    assert driver.output("task.1") == ("after\n" if post else "")


def test_a_named_environment_is_that_of_a_function(driver: SpawnerDriver) -> None:
    driver.send(DefineEnvironment("rp", {"SEEN": "named"}, []))

    launch(driver, lambda: os.environ["SEEN"], hooks=None, named_env="rp")

    assert value_of(end_of(driver)) == "named"


def test_what_a_function_raises_is_its_end(driver: SpawnerDriver) -> None:
    def fails() -> None:
        raise LookupError("no such thing")

    launch(driver, fails)

    end = end_of(driver)
    assert (end.ending, end.exit_code, end.message) == (Ending.RAISED, None, "LookupError: no such thing")
    assert "in fails" in end.detail


def test_a_function_whose_process_is_killed_has_a_signal(driver: SpawnerDriver) -> None:
    launch(driver, lambda: os.kill(os.getpid(), signal.SIGKILL))

    end = end_of(driver)
    assert (end.ending, end.exit_code, end.result) == (Ending.SIGNALLED, -9, None)


def test_a_hook_that_fails_keeps_the_function_from_being_called(driver: SpawnerDriver) -> None:
    launch(driver, lambda: 1, hooks=Hooks(pre_exec=((ALL_RANKS, "false"),)))

    end = end_of(driver)
    assert (end.ending, end.message, end.result) == (Ending.LAUNCH_FAILED, "pre_exec[0] failed with exit code 1: false", None)


def test_a_hook_that_fails_after_the_function_fails_the_task(driver: SpawnerDriver) -> None:
    launch(driver, lambda: 1, hooks=Hooks(post_exec=((ALL_RANKS, "false"),)))

    end = end_of(driver)
    assert (end.ending, end.message, end.result) == (Ending.EXITED, "post_exec[0] failed with exit code 1: false", None)


def test_a_function_is_cancelled_with_its_process(driver: SpawnerDriver) -> None:
    launch(driver, lambda: signal.pause(), grace_s=1000.0)
    driver.wait_for_start("task.1")

    driver.send(EndTasks([(TaskUid("task.1"), Attempt(1))], Ending.CANCELLED, "cancelled by the user"))

    end = end_of(driver)
    assert (end.ending, end.message) == (Ending.CANCELLED, "cancelled by the user")


def test_a_call_that_cannot_be_written_fails_the_launch(start_driver: StartDriver, tmp_path: Path) -> None:
    driver = start_driver()
    Path(driver.settings.pilot_folder, "calls").write_text("")

    launch(driver, lambda: 1)

    end = driver.wait_for_end("task.1")
    assert end.ending is Ending.LAUNCH_FAILED
    assert end.message.startswith(f"the call cannot be written to '{driver.settings.pilot_folder}/calls")
