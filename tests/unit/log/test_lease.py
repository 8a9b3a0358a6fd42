"""The lease of a folder: at most one living owner, and epochs that only go up."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import msgspec
import pytest
from log_support import Children

from pilotage.errors import SessionForked, SessionInUse
from pilotage.log.lease import Holder, Lease, holder_of


def plant(folder: Path, *, age_s: float, **changes: object) -> None:
    """Change the newest lease to that of another holder whose last heartbeat is ``age_s`` ago."""
    holder = holder_of(folder)
    assert holder is not None
    path = folder / f"lease.{holder.epoch}"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(holder, **changes)))
    now = path.stat().st_mtime
    os.utime(path, (now - age_s, now - age_s))


def test_epochs_go_up_over_releases_and_nothing_is_left_behind(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "session"
    for epoch in range(1, 6):
        with Lease.acquire(folder) as lease:
            assert lease.epoch == epoch
            lease.check()
    holder = holder_of(folder)
    assert holder is not None and holder.released
    assert sorted(path.name for path in folder.iterdir()) == ["lease.4", "lease.5"]


def test_nobody_held_an_absent_folder(tmp_path: Path) -> None:
    assert holder_of(tmp_path / "absent") is None
    assert holder_of(tmp_path) is None


def test_a_second_opener_is_refused_with_the_holder_and_the_remedy(tmp_path: Path, children: Children) -> None:
    with Lease.acquire(tmp_path) as lease:
        with pytest.raises(SessionInUse) as caught:
            Lease.acquire(tmp_path)
        for part in (str(tmp_path), str(os.getpid()), lease.holder.host, "since 20", "Close it"):
            assert part in str(caught.value)

        def child() -> None:
            with pytest.raises(SessionInUse):
                Lease.acquire(tmp_path)

        assert children.wait(children.fork(child)) == 0
        lease.check()


def test_a_stopped_holder_on_this_machine_lives_however_old_its_heartbeat(tmp_path: Path, children: Children) -> None:
    told, tell = os.pipe()

    def child() -> None:
        Lease.acquire(tmp_path)
        os.write(tell, b"+")
        signal.pause()

    pid = children.fork(child)
    assert os.read(told, 1) == b"+"
    os.kill(pid, signal.SIGSTOP)
    plant(tmp_path, age_s=1e6)
    with pytest.raises(SessionInUse, match=f"process {pid} "):
        Lease.acquire(tmp_path)
    os.kill(pid, signal.SIGKILL)
    children.wait(pid)
    assert Lease.acquire(tmp_path).epoch == 2
    os.close(told)
    os.close(tell)


def test_a_holder_that_died_is_followed_at_once_also_while_it_is_a_zombie(tmp_path: Path, children: Children) -> None:
    pid = children.fork(lambda: Lease.acquire(tmp_path).check())
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    lease = Lease.acquire(tmp_path)
    assert lease.epoch == 2
    children.wait(pid)
    lease.release()


def test_a_reused_pid_is_not_the_holder(tmp_path: Path) -> None:
    lease = Lease.acquire(tmp_path)
    plant(tmp_path, age_s=0, started_ticks=lease.holder.started_ticks - 1)
    assert Lease.acquire(tmp_path).epoch == 2


@pytest.mark.parametrize("elsewhere", [{"host": "far", "boot": "another"}, {"pid_namespace": "pid:[1]"}])
def test_a_holder_elsewhere_is_judged_by_its_heartbeat(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    Lease.acquire(tmp_path)
    plant(tmp_path, age_s=29, **elsewhere)
    with pytest.raises(SessionInUse, match="30 s after"):
        Lease.acquire(tmp_path)
    plant(tmp_path, age_s=31, **elsewhere)
    assert Lease.acquire(tmp_path).epoch == 2


def test_the_heartbeat_is_by_the_file_servers_clock(tmp_path: Path) -> None:
    """A clock of the holder's node that is wrong by a day changes nothing."""
    Lease.acquire(tmp_path)
    plant(tmp_path, age_s=1, host="far", boot="another", since=0.0)
    with pytest.raises(SessionInUse):
        Lease.acquire(tmp_path)


def test_a_lease_that_is_being_written_or_damaged_counts_as_held_until_it_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "lease.7"
    path.write_bytes(b"")
    with pytest.raises(SessionInUse, match="try again in 30 s"):
        Lease.acquire(tmp_path)
    now = path.stat().st_mtime
    os.utime(path, (now - 31, now - 31))
    assert Lease.acquire(tmp_path).epoch == 8


def test_renewing_moves_the_heartbeat(tmp_path: Path) -> None:
    lease = Lease.acquire(tmp_path, heartbeat_s=0.0)
    path = tmp_path / "lease.1"
    os.utime(path, (1, 1))
    lease.renew()
    assert path.stat().st_mtime > 1e9
    quiet = Lease(tmp_path, lease.holder, heartbeat_s=1e6)
    os.utime(path, (1, 1))
    quiet.renew()
    assert path.stat().st_mtime == 1


def test_who_was_taken_over_learns_it_and_cannot_undo_it(tmp_path: Path) -> None:
    lost = Lease.acquire(tmp_path, heartbeat_s=0.0)
    plant(tmp_path, age_s=31, host="far", boot="another")
    second = Lease.acquire(tmp_path)
    for call in (lost.check, lost.renew):
        with pytest.raises(SessionInUse, match=f"taken over by process {os.getpid()}"):
            call()
    lost.release()
    second.check()
    plant(tmp_path, age_s=31, host="far", boot="another")
    third = Lease.acquire(tmp_path)
    assert third.epoch == 3
    assert not (tmp_path / "lease.1").exists()
    with pytest.raises(SessionInUse):
        lost.check()
    with pytest.raises(SessionInUse):
        Lease.acquire(tmp_path)


def test_a_slow_taker_of_an_epoch_that_has_passed_does_not_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saw a dead holder, slept while two others took and one died, and finds its epoch's place cleaned away."""
    Lease.acquire(tmp_path)
    plant(tmp_path, age_s=31, host="far", boot="another")
    original = os.link
    taken: list[Lease] = []

    def link_late(source: Path, target: Path) -> None:
        if not taken and target.name == "lease.2":
            monkeypatch.setattr(os, "link", original)
            holder = holder_of(tmp_path)
            assert holder is not None
            (tmp_path / "lease.4").write_bytes(msgspec.json.encode(msgspec.structs.replace(holder, released=True)))
            taken.append(Lease.acquire(tmp_path))
        original(source, target)

    monkeypatch.setattr(os, "link", link_late)
    with pytest.raises(SessionInUse):
        Lease.acquire(tmp_path)
    assert taken[0].epoch == 5
    taken[0].check()


@pytest.mark.parametrize("otherwise", [True, False])
def test_a_lease_is_released_on_a_full_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, otherwise: bool
) -> None:
    lease = Lease.acquire(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", refuse)
        if not otherwise:
            full.setattr(os, "utime", refuse)
        lease.release()
    assert "No space left on device" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["lease.1"]
    holder = holder_of(tmp_path)
    assert holder is not None and holder.released is otherwise
    if otherwise:
        assert "released all the same" in caplog.text
        assert Lease.acquire(tmp_path).epoch == 2
    else:
        assert f"once process {os.getpid()} has ended" in caplog.text
        with pytest.raises(SessionInUse):
            Lease.acquire(tmp_path)


def test_a_forked_child_neither_uses_nor_releases_it(tmp_path: Path, children: Children) -> None:
    lease = Lease.acquire(tmp_path, heartbeat_s=0.0)

    def child() -> None:
        for call in (lease.check, lease.renew):
            with pytest.raises(SessionForked):
                call()
        lease.release()

    assert children.wait(children.fork(child)) == 0
    lease.check()
    with pytest.raises(SessionInUse):
        Lease.acquire(tmp_path)
    lease.release()
    lease.release()
    assert Lease.acquire(tmp_path).epoch == 2


@pytest.mark.parametrize("links", [True, False])
def test_of_many_takers_at_one_time_exactly_one_wins_each_round(
    tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Real processes; each winner dies without a release, and the next round takes over from it."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    takers, rounds = 8, 12
    for turn in range(1, rounds + 1):
        start_reading, start_writing = os.pipe()
        hold_reading, hold_writing = os.pipe()
        told, tell = os.pipe()

        def child(start: int = start_reading, hold: int = hold_reading, close: int = hold_writing, tell: int = tell) -> None:
            os.close(close)
            os.read(start, 1)
            try:
                answer = Lease.acquire(tmp_path).epoch
            except SessionInUse:
                answer = 0
            os.write(tell, bytes([answer]))
            os.read(hold, 1)

        pids = [children.fork(child) for _ in range(takers)]
        os.write(start_writing, b"!" * takers)
        answers = [os.read(told, 1)[0] for _ in range(takers)]
        os.close(hold_writing)
        assert [children.wait(pid) for pid in pids] == [0] * takers
        for fd in (start_reading, start_writing, hold_reading, told, tell):
            os.close(fd)
        assert sorted(answers) == [0] * (takers - 1) + [turn]
    assert all(path.name.startswith("lease.") for path in tmp_path.iterdir())


def test_the_holder_is_told(tmp_path: Path) -> None:
    with Lease.acquire(tmp_path):
        holder = holder_of(tmp_path)
        assert isinstance(holder, Holder)
        assert (holder.pid, holder.epoch, holder.released) == (os.getpid(), 1, False)
