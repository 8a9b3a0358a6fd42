"""Messages between client and agent as MessagePack; one message is one frame.

The encoded batches inside ``Submit`` and ``Outcomes`` stay encoded (``msgspec.Raw``): they are views of the frame they came
in, which lives as long as they do.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pilotage.errors import ProtocolError
from pilotage.wire.messages import PROTOCOL, FromAgent, FromClient

MAX_FRAME_BYTES = 256 << 20
"""The longest frame that is sent or accepted."""

_encoder = msgspec.msgpack.Encoder()
_from_client: msgspec.msgpack.Decoder[FromClient] = msgspec.msgpack.Decoder(FromClient)
_from_agent: msgspec.msgpack.Decoder[FromAgent] = msgspec.msgpack.Decoder(FromAgent)


def encode(message: FromClient | FromAgent) -> bytes:
    """Return the frame of a message.

    Raises:
        ProtocolError: the frame would be longer than ``MAX_FRAME_BYTES``.
    """
    frame = _encoder.encode(message)
    if len(frame) > MAX_FRAME_BYTES:
        raise ProtocolError(
            f"a {type(message).__name__} of {len(frame)} bytes exceeds the {MAX_FRAME_BYTES} bytes of a frame; "
            "send fewer tasks at once"
        )
    return frame


def decode_from_client(frame: bytes) -> FromClient:
    """Return the message in a frame that a client sent.

    Raises:
        ProtocolError: the frame is no such message.
    """
    return _decode(_from_client, frame, "client")  # type: ignore[no-any-return]


def decode_from_agent(frame: bytes) -> FromAgent:
    """Return the message in a frame that an agent sent.

    Raises:
        ProtocolError: the frame is no such message.
    """
    return _decode(_from_agent, frame, "agent")  # type: ignore[no-any-return]


def _decode(decoder: msgspec.msgpack.Decoder[Any], frame: bytes, sender: str) -> Any:
    try:
        return decoder.decode(frame)
    # A plain ValueError comes from text that is not UTF-8.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(
            f"a frame of {len(frame)} bytes is no message of a {sender} in protocol {PROTOCOL}: {error}; "
            "client and agent must run the same version of Pilotage"
        ) from error
