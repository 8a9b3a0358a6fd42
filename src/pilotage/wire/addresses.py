"""Under which names and addresses this machine is reached from others.

Which of them is reached from where is not to be known here: a compute node has several networks, and a login node is on some of
them. So all are told, and tried one after the other.
"""

from __future__ import annotations

import fcntl
import socket
import struct

_SIOCGIFADDR = 0x8915
_SIOCGIFFLAGS = 0x8913
_UP_AND_RUNNING = 0x1 | 0x40
_LOOPBACK = 0x8
_REQUEST = struct.Struct("16sH22s")
"""``struct ifreq`` of Linux: the name of an interface, and its flags or its address (family, port, four bytes of IPv4)."""

EVERYWHERE = "0.0.0.0"
"""Where one listens to be reached under all of them."""

HERE = "127.0.0.1"
"""Where one is reached from this machine alone."""


def addresses_here() -> list[str]:
    """Return the host's name, and the IPv4 address of each of its networks, in the order in which they are best tried.

    The name comes last where it is known to nobody, or leads back to this machine alone. Without a network there is that of
    the machine itself, ``127.0.0.1``.
    """
    name = socket.gethostname()
    numeric = _numeric()
    if not numeric:
        return [HERE]
    return [name, *numeric] if _leads_here(name, numeric) else [*numeric, name]


def _numeric() -> list[str]:
    found: dict[str, None] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, interface in socket.if_nameindex():
            name = interface.encode()
            try:
                flags = _REQUEST.unpack(fcntl.ioctl(asked, _SIOCGIFFLAGS, _REQUEST.pack(name, 0, b"")))[1]
                if flags & _LOOPBACK or flags & _UP_AND_RUNNING != _UP_AND_RUNNING:
                    continue
                address = _REQUEST.unpack(fcntl.ioctl(asked, _SIOCGIFADDR, _REQUEST.pack(name, 0, b"")))[2]
            except OSError:  # one without an IPv4 address
                continue
            found[socket.inet_ntoa(address[2:6])] = None
    return list(found)


def _leads_here(name: str, numeric: list[str]) -> bool:
    try:
        known = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None, socket.AF_INET)}
    except OSError:
        return False
    return not known.isdisjoint(numeric)
