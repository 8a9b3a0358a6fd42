"""What services say of themselves: datagrams at a Unix socket in the private folder of the agent, or of their node's host,
which they know as ``$NOTIFY_SOCKET``.

The words are those of ``sd_notify``: lines such as ``READY=1`` and, ours, ``INFO=what tasks are told``. So a program that was
written for systemd needs no change; ``pilotage service-ready`` says it for others. Who speaks is told by the lines
``TASK=`` and ``ATTEMPT=``, or else by the environment of the sending process, which the kernel names; words of other users
are not heard.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import NamedTuple

from pilotage.model.ids import Attempt, PilotUid, SessionUid, TaskUid

MESSAGE_BYTES = 8192
"""A longer message is passed over."""

_CREDENTIALS = struct.Struct("3i")
_DESCRIPTOR = struct.Struct("i")
_DESCRIPTORS = 16
_SO_PASSCRED = 16
_SCM_CREDENTIALS = 2


class Word(NamedTuple):
    """What one message of a service says: the values of its lines, by their names."""

    task: TaskUid
    attempt: Attempt
    lines: dict[str, str]


class NotifySocket:
    """The socket at ``path``; ``open`` it before the first service is started. Words of other pilots' tasks are passed over."""

    def __init__(self, path: Path, session: SessionUid, pilot: PilotUid) -> None:
        self._path = path
        self._session = session
        self._pilot = pilot
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    def open(self) -> None:
        """Listen, in place of an agent before this one."""
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_PASSCRED, 1)
        self._path.unlink(missing_ok=True)
        self._socket.bind(os.fspath(self._path))

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def receive(self) -> list[Word]:
        """Return what was said since the last call."""
        words: list[Word] = []
        while True:
            try:
                message, ancillary, flags, _ = self._socket.recvmsg(
                    MESSAGE_BYTES,
                    socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_DESCRIPTORS * _DESCRIPTOR.size),
                    socket.MSG_CMSG_CLOEXEC,
                )
            except BlockingIOError:
                return words
            pid, user = _sender(ancillary)
            if user == os.geteuid() and not flags & socket.MSG_TRUNC:
                word = self._word(pid, message)
                if word is not None:
                    words.append(word)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _word(self, pid: int, message: bytes) -> Word | None:
        pairs = (line.partition("=") for line in message.decode(errors="replace").splitlines())
        lines = {name: value for name, separator, value in pairs if separator}
        task, attempt = lines.get("TASK", ""), lines.get("ATTEMPT", "")
        if not task:
            variables = self._variables_of(pid)
            task, attempt = variables.get("PILOTAGE_TASK_ID", ""), variables.get("PILOTAGE_ATTEMPT", "")
        if not task or not attempt.isdecimal():
            return None
        return Word(TaskUid(task), Attempt(int(attempt)), lines)

    def _variables_of(self, pid: int) -> dict[str, str]:
        """Return the environment of a process of this pilot's tasks; nothing for others."""
        try:
            entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return {}
        variables = dict(entry.partition("=")[::2] for entry in entries)
        owner = (variables.get("PILOTAGE_SESSION_ID"), variables.get("PILOTAGE_PILOT_ID"))
        return variables if owner == (self._session, self._pilot) else {}


def _sender(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int]:
    """Return pid and user of who sent; descriptors that came along are closed, for which ``systemd-notify`` waits."""
    pid, user = 0, -1
    for level, kind, content in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == _SCM_CREDENTIALS:
            pid, user, _ = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])
        elif kind == socket.SCM_RIGHTS:
            for (descriptor,) in _DESCRIPTOR.iter_unpack(content[: len(content) - len(content) % _DESCRIPTOR.size]):
                os.close(descriptor)
    return pid, user
