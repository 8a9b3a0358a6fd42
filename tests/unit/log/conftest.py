from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from log_support import Children, MemoryFolders


@pytest.fixture
def folders() -> Iterator[MemoryFolders]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as root:
        yield MemoryFolders(Path(root))


@pytest.fixture
def tmp_path(folders: MemoryFolders) -> Path:
    return folders.make()


@pytest.fixture
def children() -> Iterator[Children]:
    """Forks children for a test and ends those that are left."""
    forked = Children()
    yield forked
    forked.end()
