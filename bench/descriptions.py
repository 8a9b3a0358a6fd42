"""What submission costs per task before anything travels: building descriptions, splitting them into templates and rows.

Run as ``python bench/descriptions.py``; prints microseconds of CPU per task (the best of five passes) and writes JSON with
``--json FILE``. Pickling of arguments is left out: it has a cost of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pilotage.client.task_description import TaskDescription
from pilotage.client.templates import TemplateTable
from pilotage.model.ids import TaskUid

TASKS = 100_000
PASSES = 5
LIMIT_US = {"build: function": 2.0, "build: executable": 2.0, "split: alike functions": 2.0}
PACKED = b"packed"
UID = TaskUid("task.000000")


def compute(number: int) -> int:
    return number


def functions() -> list[TaskDescription]:
    return [TaskDescription(function=compute, args=(i,), cores_per_rank=1) for i in range(TASKS)]


def executables(**attributes: Any) -> list[TaskDescription]:
    return [TaskDescription(executable="/bin/echo", arguments=["x"], cores_per_rank=1, **attributes) for _ in range(TASKS)]


def split(descriptions: list[TaskDescription]) -> int:
    split = TemplateTable().split(
        descriptions,
        pack_function=lambda function: PACKED,
        pack_arguments=lambda args, kwargs: PACKED,
        pack_payload=lambda packed: packed,
        uid_of=lambda description: UID,
    )
    assert len(split.rows) == TASKS
    return len(split.templates)


def cost_us(work: Callable[[], Any]) -> float:
    """Return the least CPU time of several passes, per task."""
    best = float("inf")
    for _ in range(PASSES):
        gc.collect()
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best / TASKS * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    figures = {"build: function": cost_us(functions), "build: executable": cost_us(executables)}
    cases = {
        "split: alike functions": functions(),
        "split: alike executables": executables(),
        "split: executables with an environment": executables(environment={"A": "1", "B": "2"}),
        "split: executables, all distinct": [
            TaskDescription(executable="/bin/echo", arguments=["x"], mem_per_rank=64 * i) for i in range(TASKS)
        ],
    }
    for name, descriptions in cases.items():
        figures[name] = cost_us(lambda descriptions=descriptions: split(descriptions))  # type: ignore[misc]
    for name, figure in figures.items():
        limit = f"   (at most {LIMIT_US[name]:.1f})" if name in LIMIT_US else ""
        print(f"{name:42} {figure:7.2f} us/task{limit}")
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.platform()}
        options.json.write_text(json.dumps({"tasks": TASKS, "us_per_task": figures, "on": machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
