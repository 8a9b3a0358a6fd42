"""How a service is asked: does its port accept, does its URL answer, does what it wrote hold a pattern."""

from __future__ import annotations

import functools
import os
import re
import socket
import stat
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from pilotage.model.services import Probe
from pilotage.outputs.stream import OutputStream

ANSWER_S = 5.0
"""A service that has not answered after this time has not answered."""

UNFINISHED_S = 0.5
"""A line without an end counts when nothing was added to it for so long: a prompt."""

_INSIDE = ("localhost", "127.0.0.1", "::1")
"""What each machine calls itself."""

_LOOK_BYTES = 16 << 20
"""What is read at once; who writes faster is followed with a delay."""

_LINE_BYTES = 1 << 16


class Answer(NamedTuple):
    """What came of a question. ``text`` is for people; ``address`` is where a service answered."""

    good: bool
    text: str
    address: str = ""


def ask(probe: Probe, host: str, *, is_here: bool = True) -> Answer:
    """Ask a port or a URL; ``host`` is the name of the service's node. Takes ``ANSWER_S`` for each address at the most.

    ``is_here``: that node is this machine. Of another one what listens on the inside only cannot be reached: ``localhost``
    means the node itself there, by its name.
    """
    if probe.kind == "port":
        return _ask_port(probe.target, host, is_here)
    return _ask_url(probe.target if is_here else _of_node(probe.target, host))


def _of_node(url: str, node: str) -> str:
    """Return a URL of the inside of a node as it is from outside."""
    parts = urlsplit(url)
    if parts.hostname not in _INSIDE:
        return url
    return parts._replace(netloc=node if parts.port is None else f"{node}:{parts.port}").geturl()


def _ask_port(target: str, node: str, is_here: bool) -> Answer:
    named, _, port = target.rpartition(":")
    named = named.strip("[]")
    # A service may listen on the inside only, or on the outside only; its node's name, if that answers, is good for all nodes.
    hosts = [named] if named else ["localhost", node] if _is_known(node) else ["localhost"]
    if not is_here and (not named or named in _INSIDE):
        hosts = [node]
    answer = Answer(False, "there is no host to ask")
    for host in dict.fromkeys(hosts):
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
        except OSError as error:
            if not answer.good:
                answer = Answer(False, f"{host}:{port}: {_reason(error)}")
        else:
            answer = Answer(True, f"{host}:{port} accepts", f"{host}:{port}")
    return answer


@functools.cache
def _is_known(node: str) -> bool:
    """Tell whether the name of a node has an address; those of emulated nodes have none, which may take long to find out."""
    try:
        return bool(node and socket.getaddrinfo(node, None))
    except (OSError, UnicodeError):
        return False


def _ask_url(url: str) -> Answer:
    # Loaded by the few who ask by HTTP, and on their thread.
    import http.client
    import ssl

    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        # Services on nodes have certificates of their own making, and nothing is told to them here.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=ANSWER_S, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_S)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Connection": "close", "User-Agent": "pilotage"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        return Answer(False, f"{url}: {_reason(error)}")
    finally:
        connection.close()
    return Answer(status < 400, f"{url}: HTTP status {status}", url)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__


class Source(Protocol):
    """Text that grows."""

    def read(self) -> bytes:
        """Return what is new.

        Raises:
            OSError: it cannot be read; ``filename`` says what.
        """
        ...


class GrowingFile:
    """A file that grows, may not be there yet, or may be made anew.

    ``skip`` bytes at its beginning are of an earlier attempt, unless the file was made anew.
    """

    def __init__(self, path: str, skip: int = 0) -> None:
        self.path = path
        self.size = skip
        """Where the file ended at the last look, in bytes."""
        self._file: tuple[int, int] | None = None

    def read(self) -> bytes:
        """Return what is new."""
        # A named pipe would not open before somebody writes to it.
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(0, "it is no regular file", self.path)
            file = (status.st_dev, status.st_ino)
            is_anew = status.st_size < self.size or (self._file is not None and file != self._file)
            if is_anew:
                self.size = 0
            self._file = file
            new = os.pread(descriptor, _LOOK_BYTES, self.size)
        finally:
            os.close(descriptor)
        self.size += len(new)
        # A file made anew does not go on with the last line of the one before.
        return b"\n" + new if is_anew else new


class Printed:
    """What a service prints that is kept in no file of its own, as ``stream`` follows it."""

    def __init__(self, stream: OutputStream) -> None:
        self._stream = stream

    def read(self) -> bytes:
        """Return what is new."""
        parts: list[bytes] = []
        while sum(map(len, parts)) < _LOOK_BYTES and (part := self._stream.read()):
            parts.append(part)
        return b"".join(parts)


class Follower:
    """Looks for a regular expression in the lines of a source."""

    def __init__(self, source: Source, expression: str) -> None:
        self.source = source
        self._expression = re.compile(expression)
        self._line = b""
        self._grew_at = 0.0
        self.error = ""
        """Why the source cannot be read, if so."""

    def look(self, now: float) -> str | None:
        """Return what the first group of the expression (or all of it) matches in what is new; None if it is not found."""
        try:
            new = self.source.read()
        except OSError as error:
            self.error = f"{error.filename}: {_reason(error)}" if error.filename else _reason(error)
            return None
        self.error = ""
        if new:
            self._grew_at = now
        *lines, self._line = (self._line + new).split(b"\n")
        for line in lines:
            found = self._match(line)
            if found is not None:
                return found
        if len(self._line) > _LINE_BYTES or (self._line and now - self._grew_at >= UNFINISHED_S):
            found = self._match(self._line)
            if found is not None or len(self._line) > _LINE_BYTES:
                self._line = b""
            return found
        return None

    def _match(self, line: bytes) -> str | None:
        match = self._expression.search(line.decode(errors="replace"))
        if match is None:
            return None
        return (match[1] or "") if self._expression.groups else match[0]
