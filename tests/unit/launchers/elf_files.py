"""Hand-made ELF files, small but complete in what a loader reads of them: the libraries they need, and where they look."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path


def write_elf(
    path: Path,
    needed: Sequence[str] = (),
    *,
    name: str = "",
    rpath: str = "",
    runpath: str = "",
    wide: bool = True,
    big_endian: bool = False,
) -> str:
    """Write a program, or, with a ``name``, a library that is needed by that name; return its path."""
    order = ">" if big_endian else "<"
    word = "Q" if wide else "I"
    texts = b"\0"
    entries: list[tuple[int, int]] = []
    for tag, values in (
        (1, needed),
        (14, [name] if name else []),
        (15, [rpath] if rpath else []),
        (29, [runpath] if runpath else []),
    ):
        for value in values:
            entries.append((tag, len(texts)))
            texts += value.encode() + b"\0"
    head_size, header_size = (64, 56) if wide else (52, 32)
    base = 0x400000
    texts_at = head_size + 2 * header_size
    dynamic_at = texts_at + len(texts)
    entries += [(5, base + texts_at), (10, len(texts)), (0, 0)]
    dynamic = b"".join(struct.pack(f"{order}2{word}", *entry) for entry in entries)
    total = dynamic_at + len(dynamic)

    def header(kind: int, offset: int, size: int) -> bytes:
        if wide:
            return struct.pack(order + "2I6Q", kind, 4, offset, base + offset, base + offset, size, size, 8)
        return struct.pack(order + "8I", kind, offset, base + offset, base + offset, size, size, 4, 4)

    identity = b"\x7fELF" + bytes([2 if wide else 1, 2 if big_endian else 1, 1]) + bytes(9)
    head = identity + struct.pack(f"{order}2HI3{word}I6H", 3, 62, 1, base, head_size, 0, 0, head_size, header_size, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + header(1, 0, total) + header(2, dynamic_at, len(dynamic)) + texts + dynamic)
    return str(path)
