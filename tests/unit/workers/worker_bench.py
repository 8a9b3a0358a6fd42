"""A worker process driven by a fake agent, and short ways to say what it shall do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from pilotage.client.serialization import pack_arguments
from pilotage.model.execution import AttemptEnd, LaneTasks
from pilotage.model.ids import Attempt, LaneId, RunnerId, TaskUid, TemplateId
from pilotage.model.resources import NodeShare, Placement, core_mask
from pilotage.model.workload import Row, Template
from pilotage.testing.runner_driver import RunnerDriver
from pilotage.wire.pickles import open_value, pickle_by_value
from pilotage.wire.runner_messages import DefineTemplates, Launch, TasksEnded
from pilotage.workers.progress import ProgressReader

WORKER = RunnerId("worker.0")


def by_value(function: Callable[..., Any]) -> bytes:
    """Pickle a function of a test module so that a worker, which cannot import tests, can open it."""
    module = sys.modules[getattr(function, "__module__", None) or "builtins"]
    if "unit/workers" in (getattr(module, "__file__", "") or ""):
        cloudpickle.register_pickle_by_value(module)
    return pickle_by_value(function)


class Bench:
    """One worker and its fake agent. Tasks are named by the caller; functions travel by value."""

    def __init__(self, driver: RunnerDriver) -> None:
        self.driver = driver
        self._templates = 0

    def start(self) -> int:
        """Start the worker and return its process id."""
        return self.driver.start_runner("pilotage.workers.main", WORKER).pid

    def define(self, function: Callable[..., Any] | bytes, **template: Any) -> TemplateId:
        self._templates += 1
        pickled = function if isinstance(function, bytes) else by_value(function)
        self.driver.send(
            DefineTemplates({TemplateId(self._templates): Template(mode="function", function=pickled, **template)})
        )
        return TemplateId(self._templates)

    def launch(self, *calls: tuple[str, TemplateId, tuple[Any, ...]], cores: int = 0) -> None:
        """Launch ``(uid, template, args)`` in one lane, in this order."""
        rows = [
            (Attempt(1), Row(TaskUid(uid), template, (), pack_arguments(args, {}), f"name of {uid}"))
            for uid, template, args in calls
        ]
        placement: Placement | None = (NodeShare(0, 1, core_mask(cores)),) if cores else None
        self.driver.send(Launch([LaneTasks(LaneId(1), placement, rows)]))

    def call(self, function: Callable[..., Any] | bytes, *args: Any, **template: Any) -> AttemptEnd:
        """Run one call and return how it ended."""
        uid = f"call.{self._templates}"
        self.launch((uid, self.define(function, **template), args))
        return self.driver.wait_for_end(uid)

    def value(self, function: Callable[..., Any], *args: Any, **template: Any) -> Any:
        """Run one call and return its result."""
        end = self.call(function, *args, **template)
        assert end.ending.name == "DONE", end
        assert isinstance(end.result, bytes)
        return open_value(end.result)

    def told_ends(self) -> list[str]:
        """The tasks told as ended, in order, doubles included."""
        return [end.task for _, message in self.driver.messages if isinstance(message, TasksEnded) for end in message.ends]

    def progress(self) -> ProgressReader:
        return ProgressReader(self.driver.folder, WORKER)


class Gate:
    """A call waits in ``wait_at_gate(*gate.args)`` until the test opens the gate; it tells when it has come there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.args = (str(path),)

    def open(self) -> None:
        self._path.touch()

    def reached(self) -> bool:
        return self._path.with_suffix(".reached").exists()


def wait_at_gate(path: str) -> str:
    import os
    import time

    open(f"{path}.reached", "w").close()
    end = time.monotonic() + 60
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.002)
    return "through"
