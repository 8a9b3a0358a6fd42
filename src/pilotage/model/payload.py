"""Pickled values on their way: small ones travel in the message, large ones as blobs.

A blob is named by its content, or a small one in a pack by its place, and lies in the folder that client, agent and workers
share. It is written before any fact or message names it and durable before such a record is, so a name that is read can be
opened.
"""

from __future__ import annotations

import msgspec

INLINE_LIMIT_BYTES = 4096
"""A payload up to this size travels inline; a larger one becomes a blob."""


class Blob(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Names a blob of ``size`` bytes.

    ``digest`` is the hexadecimal SHA-256 of its bytes, or for a small one in a pack, ``crc32:`` and their CRC-32. A blob lies
    in a file of its own, or with others in the file ``pack``, from byte ``offset`` on.
    """

    digest: str
    size: int
    pack: str = ""
    offset: int = 0


Payload = bytes | Blob
"""Pickled bytes, or the name of the blob that holds them."""
