"""Fixtures of the integration tests: campaigns with real pilots on this machine, and a check that nothing is left of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from integration_support import Belongings, Campaign, Programs, expect_nothing_left


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the module's own; all its processes name it in their environment."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module", autouse=True)
def _nothing_left(place: Path) -> Iterator[None]:
    """Fail the module when it leaves a process, thread, descriptor or private folder behind."""
    # Sockets want short paths, and a folder of the module's own tells whose they are.
    private = Path(tempfile.mkdtemp(prefix="pt-", dir="/tmp"))
    before = Belongings(place, private)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(private))
        patch.setenv("PILOTAGE_HOME", str(place / "home"))
        patch.setenv("XDG_CONFIG_HOME", str(place / "config"))
        patch.setenv("PILOTAGE_TEST_PLACE", str(place))
        # Tasks without a sandbox work where the user's program does.
        patch.chdir(place)
        yield
    try:
        expect_nothing_left(before)
    finally:
        shutil.rmtree(private, ignore_errors=True)


@pytest.fixture(scope="module")
def base(place: Path) -> Path:
    """The folder of the module's sessions."""
    return place / "sessions"


@pytest.fixture(scope="module")
def campaign(base: Path, _nothing_left: None) -> Iterator[Campaign]:
    """A session with an active pilot of 2 cores, for all tests of a module."""
    campaign = Campaign(base)
    try:
        campaign.start()
        yield campaign
    finally:
        campaign.session.close()


@pytest.fixture
def open_campaign(base: Path) -> Iterator[Callable[..., Campaign]]:
    """Open sessions for one test; they are closed after it."""
    opened: list[Campaign] = []

    def open_one(**session: object) -> Campaign:
        opened.append(Campaign(base, **session))
        return opened[-1]

    yield open_one
    for campaign in opened:
        campaign.session.close()


@pytest.fixture
def fresh(open_campaign: Callable[..., Campaign]) -> Campaign:
    """A session for one test, without a pilot."""
    return open_campaign()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Programs of their own."""
    programs = Programs(tmp_path)
    yield programs
    programs.close()
