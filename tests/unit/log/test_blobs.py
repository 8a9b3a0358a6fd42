"""Blobs: what was put is what is got, or an error that names the blob; nothing is named before it can be opened."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_support import Children, MemoryFolders

from pilotage.errors import BackendError
from pilotage.log import blobs
from pilotage.log.blobs import SHARED_BYTES, BlobStore, digest_of
from pilotage.model.payload import INLINE_LIMIT_BYTES, Blob, Payload

LARGE = INLINE_LIMIT_BYTES + 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlobStore]:
    store = BlobStore(tmp_path)
    yield store
    store.close()


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("size", [0, 1, 2046, 2047, 2048, 10_000, 32_751, 32_752, 32_753, 1_000_000])
def test_the_digest_is_the_sha256_whatever_the_size(size: int) -> None:
    value = os.urandom(size)
    assert digest_of(value) == hashlib.sha256(value).hexdigest()


def test_only_values_above_the_limit_become_blobs(store: BlobStore) -> None:
    small, large = b"s" * INLINE_LIMIT_BYTES, b"l" * LARGE
    assert store.pack(small) is small
    assert store.pack(large) == Blob(hashlib.sha256(large).hexdigest(), LARGE)
    assert store.load(store.pack(large)) == large
    assert store.load(small) == small
    assert [type(payload) for payload in store.put_many([small, large, b""])] == [bytes, Blob, bytes]


def test_a_value_is_put_once(store: BlobStore) -> None:
    value = os.urandom(LARGE)
    blob = store.put(value)
    assert store.put(value) == blob
    assert [path.relative_to(store.folder) for path in files(store.folder)] == [Path(blob.digest[:2], blob.digest)]


def test_a_blob_of_the_wrong_size_is_put_again(store: BlobStore) -> None:
    value = os.urandom(LARGE)
    blob = store.put(value)
    (path,) = files(store.folder)
    path.write_bytes(value[:100])
    assert store.put(value) == blob
    assert store.get(blob) == value


def test_put_syncs_the_file_before_its_name_and_the_name_before_it_returns(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("writev", "fsync", "rename"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, original=original: (calls.append(name), original(*a))[1])
    store.put(b"x" * LARGE)
    assert calls[calls.index("writev") :] == ["writev", "fsync", "rename", "fsync"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(st.lists(st.sampled_from([0, 10, 4096, 4098, 9000, 80_000]), max_size=6), max_size=5),
    pack_bytes=st.sampled_from([1, 20_000, 1 << 20]),
    sync_after=st.sets(st.integers(0, 4)),
)
def test_all_batches_can_be_opened_by_any_store(
    folders: MemoryFolders, batches: list[list[int]], pack_bytes: int, sync_after: set[int]
) -> None:
    folder = folders.make()
    writing, reading = BlobStore(folder, pack_bytes=pack_bytes), BlobStore(folder)
    values: list[bytes] = []
    payloads: list[Payload] = []
    for index, sizes in enumerate(batches):
        # Every other batch repeats values of the one before.
        batch = [bytes([index // 2, position]) * (size // 2) for position, size in enumerate(sizes)]
        values += batch
        payloads += writing.put_many(batch)
        if index in sync_after:
            writing.sync()
    assert [reading.load(payload) for payload in payloads] == values
    assert [writing.load(payload) for payload in payloads] == values
    once = {value for value in values if len(value) >= SHARED_BYTES}
    each = [value for value in values if INLINE_LIMIT_BYTES < len(value) < SHARED_BYTES]
    assert sum(path.stat().st_size for path in files(folder)) == sum(map(len, once)) + sum(map(len, each))
    writing.close()
    reading.close()


def test_a_batch_larger_than_one_write(store: BlobStore) -> None:
    values = [b"%d" % index + bytes(LARGE) for index in range(2500)]
    assert [store.load(payload) for payload in store.put_many(values)] == values


def test_a_name_survives_the_wire(store: BlobStore) -> None:
    (payload,) = store.put_many([b"x" * LARGE])
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(payload), type=Payload)
    assert again == payload
    assert store.load(again) == b"x" * LARGE


def test_the_packs_that_are_open_are_few(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, pack_bytes=1)
    values = [bytes([index]) * LARGE for index in range(40)]
    payloads = [store.put_many([value])[0] for value in values]
    assert len(files(tmp_path)) == 40
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert [store.load(payload) for payload in payloads] == values
    assert len(os.listdir("/proc/self/fd")) - before <= 16
    store.close()
    assert len(os.listdir("/proc/self/fd")) < before


@pytest.mark.parametrize("many", [False, True])
def test_a_changed_short_or_missing_blob_is_named(store: BlobStore, many: bool) -> None:
    value = os.urandom(LARGE)
    blob = store.put_many([value])[0] if many else store.put(value)
    assert isinstance(blob, Blob)
    (path,) = files(store.folder)
    for offset in range(0, LARGE, 97):
        path.write_bytes(value[:offset] + bytes([value[offset] ^ 1]) + value[offset + 1 :])
        with pytest.raises(BackendError, match="its content has changed") as caught:
            store.get(blob)
        assert blob.digest in str(caught.value)
        assert str(store.folder) in str(caught.value)
    path.write_bytes(value[:-1])
    with pytest.raises(BackendError, match=f"{LARGE - 1} bytes are there"):
        store.get(blob)
    path.write_bytes(value)
    assert store.get(blob) == value
    path.unlink()
    with pytest.raises(BackendError, match="No such file"):
        BlobStore(store.folder).get(blob)


def test_a_name_that_points_out_of_the_folder_is_refused(store: BlobStore) -> None:
    store.put_many([b"x" * LARGE])
    for blob in (Blob("../../etc/passwd", 10), Blob("0" * 64, 10, "../../../etc/passwd", 0)):
        with pytest.raises(BackendError, match="is not"):
            store.get(blob)


def test_a_full_disk_keeps_nothing_of_the_batch_and_the_next_one_goes_on(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = os.urandom(LARGE), os.urandom(LARGE)
    (kept,) = store.put_many([first])
    original = os.writev

    def partly(fd: int, parts: list[bytes]) -> int:
        original(fd, [b"".join(parts)[:1000]])
        return no_space()

    with monkeypatch.context() as full:
        full.setattr(os, "writev", partly)
        with pytest.raises(BackendError, match=f"no room for {LARGE} bytes") as caught:
            store.put_many([second])
        assert caught.value.transient
        with pytest.raises(BackendError, match="no room") as caught:
            store.put(second)
        assert caught.value.transient
    (path,) = files(store.folder)
    assert path.read_bytes() == first
    (later,) = store.put_many([second])
    assert [store.load(kept), store.load(later)] == [first, second]


def test_a_batch_whose_part_cannot_be_taken_back_does_not_shift_the_next(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.writev

    def partly(fd: int, parts: list[bytes]) -> int:
        original(fd, [b"".join(parts)[:1000]])
        return no_space()

    store.put_many([os.urandom(LARGE)])
    with monkeypatch.context() as full:
        full.setattr(os, "writev", partly)
        full.setattr(os, "ftruncate", no_space)
        with pytest.raises(BackendError):
            store.put_many([os.urandom(LARGE)])
    value = os.urandom(LARGE)
    assert store.load(store.put_many([value])[0]) == value


def test_sync_covers_all_packs_once_also_those_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    original = os.fdatasync
    monkeypatch.setattr(
        os, "fdatasync", lambda fd: (synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name), original(fd))[1]
    )
    ours, theirs = BlobStore(tmp_path, pack_bytes=1), BlobStore(tmp_path)
    named = ours.put_many([b"1" * LARGE]) + ours.put_many([b"2" * LARGE]) + theirs.put_many([b"3" * LARGE])
    for payload in named:
        ours.sync_later(payload)
    ours.sync_later(b"inline")
    ours.sync_later(None)
    ours.sync()
    assert sorted(synced) == sorted(payload.pack for payload in named if isinstance(payload, Blob))
    ours.sync()
    assert len(synced) == 3
    ours.close()
    theirs.close()


def test_with_flush_batches_a_batch_is_synced_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    original = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(fd), original(fd))[1])
    store = BlobStore(tmp_path, flush_batches=True)
    store.put_many([b"x" * LARGE])
    assert len(synced) == 1
    store.close()


def test_a_failed_sync_is_final(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    store.put_many([b"x" * LARGE])
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fail)
        with pytest.raises(BackendError, match="sync"):
            store.sync()
    for call in (store.sync, lambda: store.put_many([b"y" * LARGE])):
        with pytest.raises(BackendError, match="sync"):
            call()


def test_a_named_blob_survives_sigkill(tmp_path: Path, children: Children) -> None:
    reading, writing = os.pipe()

    def child() -> None:
        store = BlobStore(tmp_path, pack_bytes=100_000)
        number = 0
        while True:
            batch = [b"%d %d" % (number, position) + bytes(LARGE) for position in range(5)]
            os.write(writing, msgspec.json.encode(store.put_many(batch)) + b"\n")
            number += 1

    pid = children.fork(child)
    os.close(writing)
    with os.fdopen(reading, "rb") as named:
        lines = [named.readline() for _ in range(40)]
        os.kill(pid, signal.SIGKILL)
        lines += named.readlines()
    children.wait(pid)
    store = BlobStore(tmp_path)
    for number, line in enumerate(each for each in lines if each.endswith(b"\n")):
        for position, blob in enumerate(msgspec.json.decode(line, type=list[Blob])):
            assert store.get(blob).startswith(b"%d %d" % (number, position))
    store.close()


def test_a_forked_child_writes_a_pack_of_its_own(store: BlobStore, children: Children) -> None:
    store.put_many([b"a" * LARGE])

    def child() -> None:
        (payload,) = store.put_many([b"b" * LARGE])
        assert store.load(payload) == b"b" * LARGE

    assert children.wait(children.fork(child)) == 0
    (payload,) = store.put_many([b"c" * LARGE])
    assert store.load(payload) == b"c" * LARGE
    assert len(files(store.folder)) == 2


def test_what_is_remembered_is_bounded(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "_REMEMBERED_BLOBS", 3)
    values = [bytes([index]) * SHARED_BYTES for index in range(10)]
    payloads = [store.put_many([value])[0] for value in values]
    assert len(store._remembered) <= 3
    assert store.put_many(values[-1:]) == payloads[-1:]
    assert [store.load(payload) for payload in store.put_many(values)] == values
