"""How a service says that it is ready: ``service_ready``, and the command ``radical-pilot-service-signal``, which calls it.

A service finds in ``$NOTIFY_SOCKET`` where its agent listens. What is sent is what ``sd_notify`` sends, and who says it: a
command that ends at once cannot be asked any more who it was.
"""

from __future__ import annotations

import os
import socket
import sys
import time

from pilotage.errors import BackendError, InvalidRequest

INFO_BYTES = 4096
"""Information on a service is an address or a name; more belongs in a file."""

PATIENCE_S = 60.0
"""An agent that died is followed by another before that."""

_PAUSE_S = 0.05


def service_ready(info: str = "") -> bool:
    """Say that the service of which this process is part is ready; tasks that wait for it are told ``info``.

    ``info`` is one line of text, such as an address. Returns False, and does nothing, where this is not part of a service: the
    same program can be run by hand.

    Raises:
        InvalidRequest: ``info`` has several lines, or more than 4096 bytes.
        BackendError: nobody listens.
    """
    if "\n" in info or len(info.encode()) > INFO_BYTES:
        raise InvalidRequest(
            f"a service cannot be ready with info={info[:60]!r}: it must be one line of {INFO_BYTES} bytes at the most; "
            "write more to a file, and say its name"
        )
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    lines = ["READY=1"]
    if info:
        lines.append(f"INFO={info}")
    for name, variable in (("TASK", "PILOTAGE_TASK_ID"), ("ATTEMPT", "PILOTAGE_ATTEMPT")):
        if variable in os.environ:
            lines.append(f"{name}={os.environ[variable]}")
    _send(path, "\n".join(lines).encode())
    return True


def _send(path: str, message: bytes) -> None:
    until = time.monotonic() + PATIENCE_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(PATIENCE_S)
        while True:
            try:
                sender.sendto(message, f"\0{path[1:]}" if path.startswith("@") else path)
                return
            except (ConnectionRefusedError, FileNotFoundError, TimeoutError) as error:
                # Its agent may be between two lives.
                if time.monotonic() > until:
                    raise BackendError(f"nobody listens at $NOTIFY_SOCKET, {path}: {error}") from error
            except OSError as error:
                raise BackendError(f"$NOTIFY_SOCKET, {path}, cannot be used: {error}") from error
            time.sleep(_PAUSE_S)


def main() -> None:
    """Run the command; its arguments are the information."""
    try:
        known = service_ready(" ".join(sys.argv[1:]))
    except (InvalidRequest, BackendError) as error:
        sys.exit(str(error))
    if not known:
        sys.exit("this is not part of a service: $NOTIFY_SOCKET is not set")
