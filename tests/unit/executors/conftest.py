"""One executor for each test, and the end of all that the test started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from executor_support import Stage


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    folder = tmp_path / "p"
    folder.mkdir(mode=0o700)
    monkeypatch.chdir(folder)
    stage = Stage(folder, monkeypatch)
    try:
        yield stage
    finally:
        stage.close()
