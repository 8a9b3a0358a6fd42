"""The way from a client to an agent: the Unix socket on one machine, TCP between machines."""

from __future__ import annotations

from pathlib import Path

from pilotage.wire.channel import AccessDenied, ClientChannel, Disconnected
from pilotage.wire.keys import Connection, KeyPair
from pilotage.wire.unix import UnixClientChannel


def connect(address: Connection, boot_id: str, keys: KeyPair | None, attempt: int = 0) -> ClientChannel:
    """Return a connection to an agent; one by TCP is only begun (see ``TcpClientChannel.connect``).

    ``boot_id`` is that of this machine, ``keys`` the client's own for TCP, ``attempt`` counts tries from 0: an agent with
    several endpoints is tried at one after the other.

    Raises:
        Disconnected: nobody listens there, or the agent cannot be reached from this machine.
        AccessDenied: TCP without keys, or an agent of another user.
    """
    if address.socket and address.boot_id == boot_id:
        return UnixClientChannel.connect(Path(address.socket))
    agent = f"the agent of pilot {address.pilot} on {address.host}"
    if not address.tcp:
        raise Disconnected(f"{agent} listens only on its own machine; connect from there, or have it listen on TCP")
    if keys is None:
        raise AccessDenied(f"{agent} cannot be reached without a key pair; use the one made for this pilot")
    # ZeroMQ is loaded only by those who leave the machine.
    from pilotage.wire.tcp import TcpClientChannel

    return TcpClientChannel.connect(address.tcp[attempt % len(address.tcp)], keys, address.server_key)
