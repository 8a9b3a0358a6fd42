"""Services watched with real ports, URLs, files and words, any number of them by one thread."""

from __future__ import annotations

import http.server
import os
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilotage.agent.service_probes import ask
from pilotage.agent.services import Services
from pilotage.agent.settings import PilotSettings
from pilotage.core.agent.actions import WatchService
from pilotage.core.agent.events import ServiceReady, ServiceUnwell
from pilotage.executors.notify import NotifySocket, Word
from pilotage.model.ids import Attempt, PilotUid, SessionUid, TaskUid, TemplateId
from pilotage.model.resources import Node, NodeShape
from pilotage.model.services import Probe, Service
from pilotage.model.workload import Row, Template

PATIENCE_S = 60.0


class Stage:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: queue.SimpleQueue[ServiceReady | ServiceUnwell] = queue.SimpleQueue()
        nodes = [Node(0, "localhost", NodeShape(1, 0, 1, 1))]
        settings = PilotSettings(
            session=SessionUid("s"),
            pilot=PilotUid("p"),
            session_folder="",
            pilot_folder=str(folder),
            blob_folder="",
            nodes=nodes,
            working_folder=str(folder),
        )
        self.notify = NotifySocket(Path("notify.sock"), settings.session, settings.pilot)
        self.notify.open()
        self.services = Services(settings, self.notify, self.told.put)

    def watch(self, uid: str, *, attempt: int = 1, was_ready: bool = False, **service: Any) -> None:
        row = Row(TaskUid(uid), TemplateId(1))
        action = WatchService(Attempt(attempt), row, Service(**service), 0, was_ready)
        self.services.watch(action, {TemplateId(1): Template()})

    def verdict(self) -> ServiceReady | ServiceUnwell:
        return self.told.get(timeout=PATIENCE_S)

    def infos(self, count: int) -> dict[str, str]:
        found = [self.verdict() for _ in range(count)]
        return {event.service: event.info for event in found if isinstance(event, ServiceReady)}

    def say(self, text: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
            speaker.sendto(text.encode(), "notify.sock")

    def close(self) -> None:
        self.services.close()
        self.notify.close()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.chdir(tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    threads = set(threading.enumerate())
    stage = Stage(tmp_path)
    yield stage
    stage.close()
    for thread in set(threading.enumerate()) - threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def listener() -> Iterator[tuple[socket.socket, int]]:
    """A socket that does not listen yet, and its port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        yield found, found.getsockname()[1]


def test_a_port_that_begins_to_listen(stage, listener):
    server, port = listener
    stage.watch("db", ready=Probe("port", str(port)), startup_timeout_s=PATIENCE_S)
    assert stage.told.empty()
    server.listen()
    assert stage.infos(1) == {"db": f"localhost:{port}"}


def test_a_port_that_never_listens_is_told_with_the_last_answer(stage, listener):
    _, port = listener
    stage.watch("db", ready=Probe("port", f"127.0.0.1:{port}"), startup_timeout_s=0.2)
    verdict = stage.verdict()
    assert isinstance(verdict, ServiceUnwell)
    assert f"port 127.0.0.1:{port} was tried" in verdict.message and "Connection refused" in verdict.message


class Pages(http.server.BaseHTTPRequestHandler):
    status = 503

    def do_GET(self) -> None:
        self.send_response(type(self).status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def website() -> Iterator[str]:
    Pages.status = 503
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/page?x=1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_url_that_answers_well_and_later_does_not(stage, website):
    probe = Probe("http", website)
    stage.watch("web", ready=probe, health=probe, health_interval_s=0.02, startup_timeout_s=PATIENCE_S)
    assert ask(probe, "") == (False, f"{website}: HTTP status 503", website)
    Pages.status = 302
    assert stage.infos(1) == {"web": website}
    Pages.status = 404
    verdict = stage.verdict()
    assert isinstance(verdict, ServiceUnwell)
    assert verdict.message == f"service 'web' is unwell: {website} failed 3 times in a row, last: {website}: HTTP status 404"


def test_what_is_no_http_is_a_bad_answer(listener):
    server, port = listener
    server.listen()

    def serve() -> None:
        connection, _ = server.accept()
        connection.recv(1000)
        connection.sendall(b"SSH-2.0-OpenSSH\r\n")
        connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    answer = ask(Probe("http", f"http://127.0.0.1:{port}"), "")
    thread.join()
    assert not answer.good and str(port) in answer.text


def test_many_services_of_all_kinds_at_once(stage, listener):
    server, port = listener
    server.listen()
    for number in range(100):
        (stage.folder / "tasks" / f"p{number}").mkdir(parents=True)
        stage.watch(f"p{number}", info_pattern="stdout:port (.*)")
        stage.watch(f"n{number}", ready=Probe("notify"))
        stage.watch(f"c{number}", ready=Probe("port", str(port)))
    for number in range(100):
        (stage.folder / "tasks" / f"p{number}" / f"p{number}.out").write_text(f"port {number}\n")
        stage.say(f"TASK=n{number}\nATTEMPT=1\nREADY=1\nINFO={number}")
    infos = stage.infos(300)
    assert infos == {
        **{f"p{number}": str(number) for number in range(100)},
        **{f"n{number}": str(number) for number in range(100)},
        **{f"c{number}": f"localhost:{port}" for number in range(100)},
    }


def test_a_word_that_comes_before_the_agent_knows_of_the_start_is_kept(stage):
    stage.say("TASK=quick\nATTEMPT=2\nREADY=1\nINFO=here")
    # The word is taken in when this one is, which comes behind it.
    stage.watch("other", ready=Probe("notify"))
    stage.say("TASK=other\nATTEMPT=1\nREADY=1")
    assert stage.infos(1) == {"other": ""}
    stage.watch("quick", attempt=2, ready=Probe("notify"))
    assert stage.infos(1) == {"quick": "here"}


def test_what_is_not_watched_any_more_is_not_told(stage):
    stage.watch("first", ready=Probe("notify"))
    stage.services.unwatch(TaskUid("first"))
    stage.services.unwatch(TaskUid("never-there"))
    stage.say("TASK=first\nATTEMPT=1\nREADY=1")
    stage.watch("second")
    assert stage.verdict().service == "second"
    stage.watch("first", attempt=2, ready=Probe("notify"))
    stage.watch("third")
    assert stage.verdict().service == "third", "the word was of attempt 1"


def test_one_that_was_ready_before_is_not_told_again(stage):
    stage.watch("old", was_ready=True)
    stage.watch("new")
    assert stage.verdict().service == "new"
    assert stage.told.empty()


def test_a_service_of_another_node_is_asked_there_and_not_here(listener):
    server, port = listener
    server.listen()
    assert ask(Probe("port", str(port)), "no-such-node.invalid").good
    for target in (str(port), f"localhost:{port}", f"127.0.0.1:{port}"):
        answer = ask(Probe("port", target), "no-such-node.invalid", is_here=False)
        assert (answer.good, answer.text.partition(": ")[0]) == (False, f"no-such-node.invalid:{port}")
    # By a name that leads here, and by one that the user has chosen.
    assert ask(Probe("port", str(port)), "localhost", is_here=False).address == f"localhost:{port}"


def test_a_url_of_the_inside_of_another_node_is_asked_from_outside(website):
    Pages.status = 200
    answer = ask(Probe("http", website), "no-such-node.invalid", is_here=False)
    assert not answer.good
    assert answer.text.startswith(f"http://no-such-node.invalid:{website.rpartition(':')[2]}: ")
    answer = ask(Probe("http", website), "localhost", is_here=False)
    assert (answer.good, answer.address) == (True, website.replace("127.0.0.1", "localhost"))


def test_what_a_service_of_another_node_said_counts(stage):
    stage.watch("db", ready=Probe("notify"))
    stage.services.hear(Word(TaskUid("db"), Attempt(2), {"READY": "1"}))
    stage.services.hear(Word(TaskUid("db"), Attempt(1), {"READY": "1", "INFO": "n2:4000"}))
    assert stage.infos(1) == {"db": "n2:4000"}
