from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Sessions are made as for the tests of the trace.
sys.path.insert(0, str(Path(__file__).parents[1] / "trace"))


@pytest.fixture
def session_folder() -> Iterator[Path]:
    """The folder of a session, in memory where that can be: the logs sync."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as root:
        folder = Path(root) / "session.test"
        folder.mkdir()
        yield folder
