"""Files of a web server: whole, or not at all, and one that many tasks share is fetched once."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest
from staging_support import World, temporaries

import pilotage as rp
from pilotage.errors import StagingFailed
from pilotage.staging import download
from pilotage.staging.actions import Work
from pilotage.staging.stager import Stager


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``, each with its name as validator; notes what was asked for, and how it was answered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.etags = True
        self.cut = 0
        self.asked: list[tuple[str, int]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.files.get(self.path.partition("?")[0])
        etag = f'"{hash(content)}"'
        if self.path == "/moved":
            self._begin(302, {"Location": "/a.dat"})
        elif content is None:
            self._begin(403 if self.path == "/secret" else 404, {"Content-Length": "0"})
        elif self.server.etags and self.headers.get("If-None-Match") == etag:
            self._begin(304, {})
        else:
            self._begin(200, {"Content-Length": str(len(content)), **({"ETag": etag} if self.server.etags else {})})
            self.wfile.write(content[: len(content) - self.server.cut])

    def _begin(self, code: int, headers: dict[str, str]) -> None:
        self.server.asked.append((self.path, code))
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

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
            server.shutdown()
            thread.join()


def test_a_file_is_fetched_under_its_name(world: World, server: Server) -> None:
    server.files["/data/a.dat"] = content = b"content" * 100_000
    server.files["/a.dat"] = b"there"
    world.stage(
        server.url("/data/a.dat?version=1"), {"source": server.url("/data/a.dat"), "target": "sub/b", "action": rp.DOWNLOAD}
    )
    world.stage({"source": server.url("/moved"), "target": "task:///moved", "action": "Download"})
    assert (world.task / "a.dat").read_bytes() == (world.task / "sub" / "b").read_bytes() == content
    assert (world.task / "moved").read_bytes() == b"there"


def test_a_shared_file_is_fetched_once_and_again_when_it_has_changed(world: World, server: Server) -> None:
    server.files["/a.dat"] = b"one"
    directives = world.directives({"source": server.url("/a.dat"), "target": "pilot:///a.dat"})
    stager = Stager("p-1")

    def bring(arrived: float) -> None:
        stager.stage(Work(("task", "input", 0), directives, world.places, str(world.task), share=True, arrived=arrived))

    for _ in range(3):
        bring(0.0)
    assert server.asked == [("/a.dat", 200)]
    late = float("inf")
    bring(late)
    assert server.asked[1:] == [("/a.dat", 304)]
    server.files["/a.dat"] = b"other"
    bring(late)
    assert (world.pilot / "a.dat").read_bytes() == b"other"
    server.etags = False
    bring(late)
    count = len(server.asked)
    bring(late)
    assert len(server.asked) == count + 1, "without validators it is fetched again, and not asked for first"


def test_what_is_cut_short_is_no_file(world: World, server: Server) -> None:
    server.files["/a.dat"], server.cut = b"x" * 100_000, 1
    with pytest.raises(StagingFailed, match=r"gave 99999 of the 100000 bytes that it announced; try again"):
        world.stage(server.url("/a.dat"))
    assert (list(world.task.iterdir()), temporaries(world.root)) == ([], [])


def test_what_the_server_refuses_is_told(world: World, server: Server) -> None:
    with pytest.raises(StagingFailed, match=r"^'.*/none' > 'task:///none' \(TRANSFER\).*answers 404 Not Found; check the URL"):
        world.stage(server.url("/none"))
    with pytest.raises(StagingFailed, match=r"answers 403 Forbidden; check the URL, and whether it needs a login"):
        world.stage(server.url("/secret"))
    world.stage({"source": server.url("/none"), "flags": rp.NON_FATAL})
    assert list(world.task.iterdir()) == []


def test_no_server_is_told(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    with pytest.raises(StagingFailed, match=r"cannot be fetched: .*Connection refused; check the URL"):
        world.stage(f"http://127.0.0.1:{port}/a")


def test_a_silent_server_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SILENCE_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(StagingFailed, match=r"no answer for 0\.05 s"):
        world.stage(f"http://127.0.0.1:{silent.getsockname()[1]}/a")
