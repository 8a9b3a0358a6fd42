"""Files of tasks, staged by real agents: shared once, in order, over the agent's death, and not for what was cancelled."""

from __future__ import annotations

import http.server
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import integration_payloads as payloads
import pytest
from integration_support import PATIENCE_S, Campaign, eventually, outcome_of, shell

import pilotage as rp
from pilotage.agent.settings import CONNECTION_FILE, read_settings
from pilotage.model.outcome import Ending
from pilotage.trace.events import read_events
from pilotage.wire.keys import read_connection


class Server(http.server.ThreadingHTTPServer):
    """Serves every path with its own name; ``/held`` waits until it is ``released``, ``/second`` fails the first time."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.released = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/second" and self.server.asked.count("/second") == 1:
            self.send_error(503)
            return
        content = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{self.path}"')
        self.end_headers()
        if self.path == "/held":
            self.wfile.write(content[:2])
            self.server.released.wait(PATIENCE_S)
            content = content[2:]
        try:
            self.wfile.write(content)
        except OSError:
            return  # who asked is dead

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def agent_of(pilot: rp.Pilot) -> int:
    return read_connection(Path(pilot.sandbox, CONNECTION_FILE)).pid


def test_what_many_tasks_share_is_brought_once(campaign: Campaign, server: Server) -> None:
    shared = {"source": server.url("/shared"), "target": "pilot:///shared", "action": rp.DOWNLOAD, "priority": 1}
    link = {"source": "pilot:///shared", "target": "task:///in", "action": rp.LINK}
    tasks = campaign.run([shell("cat in", input_staging=[link, shared]) for _ in range(60)])
    assert {(task.state, task.stdout) for task in tasks} == {(rp.DONE, "/shared")}
    # Those that came to the agent in a later message asked whether it had changed, and it was sent again by this server.
    assert len(server.asked) < 10


def test_many_small_files_in_and_out(campaign: Campaign, tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"in.{number}").write_text(f"{number}")
    description = rp.TaskDescription(executable="/bin/cp", arguments=["in", "out"])
    described = []
    for number in range(300):
        each = description.clone()
        each.input_staging = f"in.{number} > in"
        each.output_staging = f"out > results/out.{number}"
        described.append(each)
    tasks = campaign.run(described)
    assert {task.state for task in tasks} == {rp.DONE}, next(task.exception for task in tasks if task.exception)
    assert [(tmp_path / "results" / f"out.{number}").read_text() for number in range(300)] == [
        str(number) for number in range(300)
    ]


def test_a_pipeline_through_the_pilots_folder(campaign: Campaign, tmp_path: Path) -> None:
    (tmp_path / "numbers").write_text("3\n1\n2\n")
    sort = rp.TaskDescription(
        executable="sort",
        arguments=["-o", "sorted", "numbers"],
        input_staging="numbers",
        output_staging={"source": "sorted", "target": "pilot:///between/sorted", "action": rp.MOVE},
    )
    first = campaign.tasks.submit_tasks(sort)
    second = campaign.run(
        rp.TaskDescription(
            command="head -n 1 first > result; mkdir more; cp first more",
            input_staging={"source": "pilot:///between/sorted", "target": "first", "action": rp.LINK},
            output_staging=["result > least", {"source": "more", "target": "folder/", "action": rp.COPY}, "task:///*e* > all"],
            after=first,
        )
    )
    assert (first.state, second.state) == (rp.DONE, rp.DONE), second.exception
    assert not Path(first.sandbox, "sorted").exists()
    assert (tmp_path / "least").read_text() == "1\n"
    assert (tmp_path / "folder" / "more" / "first").read_text() == "1\n2\n3\n"
    assert sorted(os.listdir(tmp_path / "all")) == ["more", "result"]


@pytest.mark.parametrize("hooks", [{}, {"pre_exec": ["true"]}], ids=["in a worker", "in a process"])
def test_a_function_finds_its_files_where_it_is(campaign: Campaign, tmp_path: Path, hooks: dict[str, list[str]]) -> None:
    (tmp_path / "in").write_text("water")
    described = {"function": payloads.copy_text, "args": ["in", "out"], "input_staging": "in", "output_staging": "out > result"}
    task = campaign.run(rp.TaskDescription(**described, **hooks))
    assert (task.state, task.output_files) == (rp.DONE, ["out"]), task.exception
    assert (tmp_path / "result").read_text() == "water"
    here = campaign.run(rp.TaskDescription(function=os.getcwd, **hooks))
    (pilot,) = campaign.pilots.get_pilots()
    assert here.return_value == read_settings(Path(pilot.sandbox)).working_folder


def test_output_that_cannot_be_staged_fails_the_task_and_the_rest_is_staged(campaign: Campaign, tmp_path: Path) -> None:
    task = campaign.shell("echo a > a; echo b > b", output_staging=["missing", "b", "a > /proc/a"], cleanup=True)
    assert outcome_of(task).ending is Ending.STAGING_FAILED
    assert "its output could not be staged: 'task:///missing' > " in task.exception and "(and 1 more)" in task.exception
    assert (tmp_path / "b").read_text() == "b\n"
    assert Path(task.sandbox, "a").exists(), "the only copy is kept"


def test_staging_that_failed_is_tried_again_if_that_is_asked_for(campaign: Campaign, server: Server) -> None:
    described = shell("cat second", input_staging=server.url("/second"))
    task = campaign.run(described)
    assert outcome_of(task).ending is Ending.STAGING_FAILED
    assert "answers 503" in task.exception
    server.asked.clear()
    described.retries, described.retry_on = 1, ["staging"]
    task = campaign.run(described)
    assert (task.state, task.stdout, server.asked) == (rp.DONE, "/second", ["/second"] * 2)


@pytest.mark.parametrize("sandbox", ["shared", "none"])
def test_a_task_without_a_sandbox_of_its_own(campaign: Campaign, tmp_path: Path, sandbox: str) -> None:
    (tmp_path / "a").write_text("a")
    task = campaign.shell("cat b", sandbox=sandbox, output="aggregate", input_staging="a > b", output_staging="b > c")
    assert (task.state, task.stdout) == (rp.DONE, "a"), task.exception
    assert (tmp_path / "c").read_text() == "a"


def test_a_task_whose_output_is_staged_says_so(campaign: Campaign, server: Server) -> None:
    passed: list[str] = []

    def note(task: rp.Task, state: str) -> None:
        passed.append(state)

    campaign.tasks.register_callback(note)
    described = shell("true", output_staging={"source": server.url("/held"), "target": "task:///held"})
    task = campaign.tasks.submit_tasks(described)
    assert task.wait(rp.AGENT_STAGING_OUTPUT, timeout=PATIENCE_S) == rp.AGENT_STAGING_OUTPUT
    assert not task.done()
    trace = read_events(campaign.session.path)
    assert "task.seen_unloading" in [event.name for event in trace if event.entity == task.uid]
    eventually(lambda: passed[-1:] == [rp.AGENT_STAGING_OUTPUT], "the callback hears of it")
    campaign.tasks.unregister_callback(note)
    assert passed[-3:] == [rp.AGENT_EXECUTING, rp.AGENT_STAGING_OUTPUT_PENDING, rp.AGENT_STAGING_OUTPUT]
    server.released.set()
    assert task.wait(timeout=PATIENCE_S) == rp.DONE


def test_an_agent_that_dies_while_it_stages_is_followed_by_one_that_does_it(
    open_campaign: Callable[..., Campaign], server: Server, tmp_path: Path
) -> None:
    campaign = open_campaign()
    pilot = campaign.start()
    (tmp_path / "moved").write_text("moved")
    held = {"source": server.url("/held"), "target": "task:///held"}
    move = {"source": "moved", "target": "task:///moved", "action": rp.MOVE, "priority": 1}
    task = campaign.tasks.submit_tasks(shell("cat moved held", input_staging=[held, move]))
    eventually(lambda: server.asked, "the agent fetches the file")
    assert not (tmp_path / "moved").exists()
    os.kill(agent_of(pilot), signal.SIGKILL)
    eventually(lambda: len(server.asked) > 1, "another agent fetches the file")
    server.released.set()
    task.wait(timeout=PATIENCE_S)
    assert (task.state, task.stdout) == (rp.DONE, "moved/held"), task.exception
    assert sorted(os.listdir(task.sandbox)) == ["held", "moved", f"{task.uid}.out"]


def test_a_task_that_is_cancelled_while_it_is_staged_does_not_run(campaign: Campaign, server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    staging = [{"source": server.url("/held"), "target": "task:///held"}, "a"]
    task = campaign.tasks.submit_tasks(shell(f"touch {tmp_path}/ran", input_staging=staging))
    eventually(lambda: server.asked, "the agent fetches the file")
    task.cancel()
    server.released.set()
    task.wait(timeout=PATIENCE_S)
    assert task.state == rp.CANCELED
    assert campaign.shell("true").state == rp.DONE
    assert not (tmp_path / "ran").exists()
