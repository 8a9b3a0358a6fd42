"""A notebook at work: a real Jupyter kernel, in whose event loop everything runs, as a person at its cells sees it."""

from __future__ import annotations

import os
import queue
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_event_loop

PATIENCE_S = 60.0

BEGIN = """
import os
import pilotage as rp

def double(number):
    return 2 * number

session = rp.Session()
pilot = rp.PilotManager(session).submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=10))
manager = rp.TaskManager(session)
manager.add_pilots(pilot)
"""


class Notebook:
    """A kernel, and what its cells gave."""

    def __init__(self, folder: Path) -> None:
        self._manager = KernelManager(kernel_name="python3")
        self._manager.kernel_spec.argv[0] = sys.executable
        self._manager.start_kernel(cwd=os.fspath(folder), env=dict(os.environ))
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=PATIENCE_S)

    def begin(self, code: str) -> str:
        """Start a cell, and return its number."""
        return str(self._client.execute(code))

    def interrupt(self) -> None:
        """Press the button of that name."""
        self._manager.interrupt_kernel()

    def message(self, cell: str) -> dict[str, Any]:
        """Return the next message of this cell."""
        message = self.message_within(cell, PATIENCE_S)
        assert message is not None, "the cell said nothing in time"
        return message

    def message_within(self, cell: str, patience_s: float) -> dict[str, Any] | None:
        """Return the next message of this cell; None if there is none in time."""
        until = time.monotonic() + patience_s
        while (left_s := until - time.monotonic()) > 0:
            try:
                message = self._client.get_iopub_msg(timeout=left_s)
            except queue.Empty:
                return None
            if message["parent_header"].get("msg_id") == cell:
                return dict(message)
        return None

    def finish(self, cell: str) -> list[dict[str, Any]]:
        """Wait for the cell's end, and return what it said."""
        said = []
        while not ((message := self.message(cell))["msg_type"] == "status" and message["content"]["execution_state"] == "idle"):
            said.append(message)
        return said

    def run(self, code: str) -> str:
        """Run a cell and return what it printed."""
        said = self.finish(self.begin(code))
        for message in said:
            assert message["msg_type"] != "error", "\n".join(message["content"]["traceback"])
        return "".join(message["content"]["text"] for message in said if message["msg_type"] == "stream")

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=False)


@pytest.fixture(scope="module", autouse=True)
def _no_loop_left(_nothing_left: None) -> Iterator[None]:
    """The client of kernels makes an event loop for this thread, and leaves it."""
    yield
    ensure_event_loop().close()


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path)
    notebook.run(BEGIN)
    yield notebook
    notebook.run("session.close()")
    notebook.close()


def test_results_are_awaited_in_the_loop_of_the_notebook(notebook: Notebook) -> None:
    code = "task = manager.submit_tasks({'function': double, 'args': [21], 'mode': rp.TASK_FUNCTION})\nprint(await task)"
    assert notebook.run(code) == "42\n"
    assert notebook.run("import asyncio; asyncio.get_running_loop(); print(manager.wait_tasks())") == "['DONE']\n"


def test_an_interrupt_ends_the_wait_and_nothing_else(notebook: Notebook, tmp_path: Path) -> None:
    go = tmp_path / "go"
    wait_for_go = f"while [ ! -e {go} ]; do sleep 0.02; done"
    notebook.run(f"task = manager.submit_tasks({{'executable': '/bin/sh', 'arguments': ['-c', '{wait_for_go}']}})")
    notebook.run("task.wait(rp.AGENT_EXECUTING)")
    cell = notebook.begin("print('waiting', flush=True); manager.wait_tasks()")
    while notebook.message(cell)["msg_type"] != "stream":
        pass
    # The kernel's own code, on its way from printing to the wait, may swallow the first. A second one must not come while a
    # slow machine still reports what the first did.
    errors: list[str] = []
    while not errors:
        notebook.interrupt()
        message = notebook.message_within(cell, 15.0)
        errors += [message["content"]["ename"]] if message is not None and message["msg_type"] == "error" else []
    notebook.finish(cell)
    assert errors == ["KeyboardInterrupt"]
    assert notebook.run("print(task.state, pilot.state)") == "AGENT_EXECUTING PMGR_ACTIVE\n"
    go.touch()
    assert notebook.run("print(task.wait())") == "DONE\n"


def test_a_table_is_brought_up_to_date_below_its_cell(notebook: Notebook, tmp_path: Path) -> None:
    go = tmp_path / "go"
    wait_for_go = f"while [ ! -e {go} ]; do sleep 0.02; done"
    notebook.run(
        f"tasks = manager.submit_tasks([{{'executable': '/bin/sh', 'arguments': ['-c', '{wait_for_go}'], 'name': f'md.{{i}}'}}"
        " for i in range(3)])"
    )
    notebook.run("tasks[0].wait(rp.AGENT_EXECUTING)")
    cell = notebook.begin("table = rp.show(tasks, interval_s=0.05)")
    said = notebook.finish(cell)
    first = next(message["content"] for message in said if message["msg_type"] == "display_data")
    assert "md" in first["data"]["text/html"] and "<table" in first["data"]["text/html"]
    go.touch()
    last = notebook.run("print(table.wait(60)); print(table)")
    assert last == "True\nmd: 3 tasks: 3 done\n"


def test_a_table_is_text_elsewhere_and_what_it_cannot_show_is_told() -> None:
    import pilotage

    assert str(pilotage.show([])) == "0 tasks"
    with pytest.raises(pilotage.InvalidRequest, match=r"show\(\) takes tasks, a TaskManager or a Session, not 'task.000001'"):
        pilotage.show(["task.000001"])  # type: ignore[list-item]
