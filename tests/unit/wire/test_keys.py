"""Keys and addresses: files that their owner alone can read, written at once."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pilotage.errors import InvalidRequest, ProtocolError
from pilotage.model.ids import PilotUid
from pilotage.wire.channel import Role
from pilotage.wire.keys import (
    AllowList,
    Connection,
    generate_key_pair,
    own_key_pair,
    read_allow_list,
    read_connection,
    read_key_pair,
    require_private_folder,
    write_allow_list,
    write_connection,
    write_key_pair,
)

CONNECTION = Connection(
    pilot=PilotUid("pilot.0000"),
    incarnation=2,
    host="node1",
    boot_id="b",
    pid=4711,
    started_ticks=99,
    socket="/tmp/x/client.sock",
    tcp=("tcp://10.0.0.1:4000", "tcp://[fd00::1]:4000"),
    server_key="k" * 40,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "private"
    path.mkdir(mode=0o700)
    return path


def test_what_is_written_is_read(folder: Path) -> None:
    pair = generate_key_pair()
    write_key_pair(folder / "keys", pair)
    assert read_key_pair(folder / "keys") == pair
    allowed = AllowList({pair.public: Role.CLIENT, generate_key_pair().public: Role.OBSERVER})
    write_allow_list(folder / "allowed", allowed)
    assert read_allow_list(folder / "allowed") == allowed
    write_connection(folder / "connection", CONNECTION)
    assert read_connection(folder / "connection") == CONNECTION


def test_files_are_private_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        write_connection(folder / "connection", CONNECTION)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "connection").stat().st_mode) == 0o600


def test_a_new_address_replaces_the_old_one_and_leaves_nothing_beside_it(folder: Path) -> None:
    write_connection(folder / "connection", CONNECTION)
    with open(folder / "connection", "rb") as old:
        write_connection(folder / "connection", Connection(PilotUid("p"), 3, "h", "b", 1, 1))
        assert b'"incarnation":2' in old.read()
    assert read_connection(folder / "connection").incarnation == 3
    assert [path.name for path in folder.iterdir()] == ["connection"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_file_open_to_others_is_refused(folder: Path, mode: int) -> None:
    write_connection(folder / "connection", CONNECTION)
    (folder / "connection").chmod(mode)
    with pytest.raises(InvalidRequest, match="open to other users"):
        read_connection(folder / "connection")


def test_another_users_file_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_connection(folder / "connection", CONNECTION)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(InvalidRequest, match="not to 54321"):
        read_connection(folder / "connection")


def test_nothing_is_written_into_an_open_folder(folder: Path) -> None:
    folder.chmod(0o750)
    with pytest.raises(InvalidRequest, match="chmod 700"):
        write_key_pair(folder / "keys", generate_key_pair())
    assert list(folder.iterdir()) == []


def test_an_inherited_setgid_bit_does_not_open_a_folder(folder: Path) -> None:
    folder.chmod(0o2700)
    require_private_folder(folder)


def test_another_users_folder_is_not_private(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(InvalidRequest, match="use one of your own"):
        require_private_folder(folder)


def test_a_file_that_holds_something_else_is_named(folder: Path) -> None:
    write_key_pair(folder / "keys", generate_key_pair())
    with pytest.raises(ProtocolError, match="does not hold a Connection"):
        read_connection(folder / "keys")


def test_an_address_not_yet_written_is_no_error_of_its_own(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_connection(folder / "connection")


def test_a_secret_key_is_not_shown() -> None:
    pair = generate_key_pair()
    assert pair.secret not in repr(pair)
    assert pair.public in repr(pair)


def test_a_key_pair_of_ones_own_is_made_once(folder: Path) -> None:
    pair = own_key_pair(folder / "key.json")
    assert own_key_pair(folder / "key.json") == pair == read_key_pair(folder / "key.json")
    assert own_key_pair(folder / "other.json") != pair
