"""The demo's programs are scripts: they import their neighbours from their own folder, as Python lets a script do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "demo"

sys.path.insert(0, str(DEMO))


@pytest.fixture
def demo_folder() -> Path:
    return DEMO
