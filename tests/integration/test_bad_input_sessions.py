"""Sessions and pilots used wrongly: closed, forked, opened twice, in folders that cannot be written, or gone too early."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import integration_payloads as payloads
import pytest
from integration_support import PATIENCE_S, Campaign, Programs, outcome_of, shell

import pilotage as rp
from pilotage import Ending

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="mounts a file system, or becomes another user: needs root")


# no pilot yet


def test_tasks_wait_for_a_pilot_and_that_is_said_once(fresh: Campaign, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pilotage"):
        tasks = [fresh.tasks.submit_tasks(shell("echo late")) for _ in range(3)]
        assert fresh.tasks.wait_tasks(timeout=0.01) == [rp.TMGR_SCHEDULING] * 3
        with pytest.raises(TimeoutError, match="TMGR_SCHEDULING"):
            tasks[0].result(timeout=0.01)
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 1
        assert "wait for a pilot" in said[0]
        assert "add_pilots()" in said[0]
    fresh.start()
    assert fresh.tasks.wait_tasks(timeout=PATIENCE_S) == [rp.DONE] * 3


# a pilot that ends before its tasks


def test_a_pilot_that_is_cancelled_takes_its_tasks_along(fresh: Campaign) -> None:
    pilot = fresh.start()
    tasks = fresh.tasks.submit_tasks([shell("sleep 600") for _ in range(5)])
    tasks[0].wait(rp.AGENT_EXECUTING, timeout=PATIENCE_S)
    pilot.cancel()
    assert pilot.wait(timeout=PATIENCE_S) == rp.CANCELED
    fresh.tasks.wait_tasks(timeout=PATIENCE_S)
    assert {task.state for task in tasks} == {rp.CANCELED}
    with pytest.raises(rp.TaskCancelled, match=r"task\.000000.* was cancelled"):
        tasks[0].result(0)


def test_a_task_that_went_with_its_pilot_says_so(fresh: Campaign) -> None:
    pilot = fresh.start()
    task = fresh.tasks.submit_tasks(shell("sleep 600"))
    task.wait(rp.AGENT_EXECUTING, timeout=PATIENCE_S)
    pilot.cancel()
    task.wait(timeout=PATIENCE_S)
    assert "pilot" in task.exception


def test_a_pilot_whose_walltime_is_over(fresh: Campaign) -> None:
    # Its time may be over before its task has begun, or anybody has seen it active.
    pilot = fresh.pilots.submit_pilots({"resource": "local.localhost", "runtime": 1 / 60, "cores": 2})
    fresh.tasks.add_pilots(pilot)
    task = fresh.tasks.submit_tasks(shell("sleep 600", pilot=pilot.uid))
    assert pilot.wait(timeout=PATIENCE_S) in rp.FINAL
    assert task.wait(timeout=PATIENCE_S) in (rp.FAILED, rp.CANCELED)
    assert "walltime" in pilot.reason or "runtime" in pilot.reason
    assert task.exception


def test_a_pilot_whose_processes_are_killed(fresh: Campaign) -> None:
    pilot = fresh.start()
    task = fresh.tasks.submit_tasks(shell("sleep 600"))
    task.wait(rp.AGENT_EXECUTING, timeout=PATIENCE_S)
    bootstrap = [int(pid) for pid in _children() if pilot.uid in _command(pid) and "bootstrap" in _command(pid)]
    everything = [*bootstrap, *_below(bootstrap)]
    for pid in everything:
        os.kill(pid, signal.SIGKILL)
    assert pilot.wait(timeout=PATIENCE_S) == rp.FAILED
    assert task.wait(timeout=PATIENCE_S) == rp.FAILED
    assert outcome_of(task).ending in (Ending.LOST, Ending.NODE_FAILED)
    assert pilot.reason
    with pytest.raises(rp.TaskFailed, match=task.uid):
        task.result(0)


def _children() -> list[str]:
    return [
        pid
        for thread in os.listdir("/proc/self/task")
        for pid in Path("/proc/self/task", thread, "children").read_text().split()
    ]


def _below(pids: list[int]) -> list[int]:
    found: list[int] = []
    for pid in pids:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        found += [*children, *_below(children)]
    return found


def _command(pid: str) -> str:
    return Path("/proc", pid, "cmdline").read_bytes().decode(errors="replace")


# a closed session


@pytest.fixture(scope="module")
def closed(base: Path, _nothing_left: None) -> Iterator[tuple[Campaign, rp.Pilot, rp.Task]]:
    """A session that was closed, its pilot, and a task that is done."""
    campaign = Campaign(base)
    pilot = campaign.start()
    task = campaign.run(rp.TaskDescription(function=payloads.add, args=[1]))
    campaign.session.close()
    yield campaign, pilot, task


CLOSED_USES: dict[str, Callable[[Campaign, rp.Pilot, rp.Task], object]] = {
    "submit_tasks": lambda campaign, pilot, task: campaign.tasks.submit_tasks(shell("true")),
    "submit_pilots": lambda campaign, pilot, task: campaign.pilots.submit_pilots(
        {"resource": "local.localhost", "cores": 1, "runtime": 1}
    ),
    "Pilot.submit_tasks": lambda campaign, pilot, task: pilot.submit_tasks(shell("true")),
    "TaskManager": lambda campaign, pilot, task: rp.TaskManager(campaign.session),
    "PilotManager": lambda campaign, pilot, task: rp.PilotManager(campaign.session),
    "add_pilots": lambda campaign, pilot, task: campaign.tasks.add_pilots(pilot),
    "cancel_tasks": lambda campaign, pilot, task: campaign.tasks.cancel_tasks(),
    "Task.cancel": lambda campaign, pilot, task: task.cancel(),
    "Pilot.cancel": lambda campaign, pilot, task: pilot.cancel(),
}


@pytest.mark.parametrize("use", CLOSED_USES.values(), ids=CLOSED_USES.keys())
def test_a_closed_session_takes_nothing_more(
    closed: tuple[Campaign, rp.Pilot, rp.Task], use: Callable[[Campaign, rp.Pilot, rp.Task], object]
) -> None:
    with pytest.raises(rp.SessionClosed, match=r"session .* is closed; open a new one, or Session\.resume\("):
        use(*closed)


CLOSED_CALLBACKS: dict[str, Callable[[Campaign, rp.Pilot, rp.Task], object]] = {
    "with": lambda campaign, pilot, task: campaign.session.__enter__(),
    "TaskManager.register_callback": lambda campaign, pilot, task: campaign.tasks.register_callback(print),
    "PilotManager.register_callback": lambda campaign, pilot, task: campaign.pilots.register_callback(print),
    "Task.register_callback": lambda campaign, pilot, task: task.register_callback(print),
}


@pytest.mark.parametrize("use", CLOSED_CALLBACKS.values(), ids=CLOSED_CALLBACKS.keys())
def test_a_closed_session_takes_no_callbacks(
    closed: tuple[Campaign, rp.Pilot, rp.Task], use: Callable[[Campaign, rp.Pilot, rp.Task], object]
) -> None:
    threads = set(threading.enumerate())
    with pytest.raises(rp.SessionClosed, match="is closed"):
        use(*closed)
    assert set(threading.enumerate()) <= threads


def test_what_a_closed_session_knew_can_still_be_read(closed: tuple[Campaign, rp.Pilot, rp.Task]) -> None:
    campaign, pilot, task = closed
    assert (task.state, task.result(), pilot.state) == (rp.DONE, 2, rp.CANCELED)
    assert "closed" in repr(campaign.session)
    campaign.session.close()


def test_closing_cancels_what_still_runs(fresh: Campaign) -> None:
    fresh.start()
    task = fresh.tasks.submit_tasks(shell("sleep 600"))
    task.wait(rp.AGENT_EXECUTING, timeout=PATIENCE_S)
    fresh.session.close()
    assert task.state == rp.CANCELED


def test_a_closed_manager(fresh: Campaign) -> None:
    fresh.tasks.close()
    with pytest.raises(rp.SessionClosed, match=r"tmgr\.0000 was closed; make another one"):
        fresh.tasks.submit_tasks(shell("true"))


# the same session twice

OPEN_AGAIN = """
import sys
import pilotage as rp
try:
    if sys.argv[1] == "resume":
        rp.Session.resume(sys.argv[3], base=sys.argv[2])
    else:
        rp.Session(uid=sys.argv[3], base=sys.argv[2])
except rp.PilotageError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("how", ["new", "resume"])
def test_a_session_opened_twice(fresh: Campaign, base: Path, programs: Programs, how: str) -> None:
    done = programs.run(OPEN_AGAIN, how, base, fresh.session.uid)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("SessionInUse ")
    assert f"process {os.getpid()} on " in done.stdout
    # The owner does not notice.
    fresh.start()
    assert fresh.shell("true").state == rp.DONE


def test_a_session_opened_twice_in_one_program(fresh: Campaign, base: Path) -> None:
    for again in (
        lambda: rp.Session(uid=fresh.session.uid, base=base),
        lambda: rp.Session.resume(fresh.session.uid, base=base),
    ):
        with pytest.raises(rp.SessionInUse, match=f"process {os.getpid()} on"):
            again()


def test_a_name_that_was_used(base: Path) -> None:
    with rp.Session(uid="used", base=base):
        pass
    with pytest.raises(rp.InvalidRequest, match=r"there is a session 'used'.*Session\.resume\('used'\)"):
        rp.Session(uid="used", base=base)
    with pytest.raises(rp.InvalidRequest, match=r"no session 'usde'.*did you mean 'used'"):
        rp.Session.resume("usde", base=base)


@pytest.mark.parametrize("uid", ["", ".hidden", "a/b", "x" * 201, "\N{ATOM SYMBOL}" * 67, "\udcff"])
def test_names_that_cannot_be(base: Path, uid: str) -> None:
    with pytest.raises(rp.InvalidRequest, match=r"cannot name a session; .*use 1 to 200 bytes"):
        rp.Session(uid=uid, base=base)


# a forked client

FORKED = """
import os, sys, traceback
import pilotage as rp
with rp.Session(base=sys.argv[1]) as session:
    pilots, tasks = rp.PilotManager(session), rp.TaskManager(session)
    pilot = pilots.submit_pilots(rp.PilotDescription(resource="local.localhost", cores=1, runtime=5))
    tasks.add_pilots(pilot)
    task = tasks.submit_tasks(rp.TaskDescription(executable="/bin/true"))
    tasks.wait_tasks(timeout=40)
    child = os.fork()
    if child == 0:
        for use in (
            lambda: tasks.submit_tasks(rp.TaskDescription(executable="/bin/true")),
            lambda: tasks.wait_tasks(timeout=1),
            lambda: task.cancel(),
            lambda: pilot.cancel(),
            lambda: session.close(),
        ):
            try:
                use()
                print("accepted", flush=True)
            except rp.SessionForked as error:
                print("refused:", error, flush=True)
        if sys.argv[2] == "exit":
            sys.exit(5)
        os._exit(5)
    print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    again = tasks.submit_tasks(rp.TaskDescription(executable="/bin/true"))
    tasks.wait_tasks(timeout=40)
    print("parent", again.state, pilot.state, flush=True)
"""


def test_a_forked_child_of_the_client_is_refused_and_does_no_harm(base: Path, programs: Programs) -> None:
    done = programs.run(FORKED, base, "_exit")
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("refused: session ") and "open a session of its own" in line]) == 5
    assert lines[-2:] == ["child 5", "parent DONE PMGR_ACTIVE"]
    assert done.returncode == 0


def test_a_forked_child_may_leave_by_exit(base: Path, programs: Programs) -> None:
    done = programs.run(FORKED, base, "exit")
    assert done.stdout.splitlines()[-2:] == ["child 5", "parent DONE PMGR_ACTIVE"]
    assert "Traceback" not in done.stderr


def test_a_program_that_forgets_to_close(base: Path, programs: Programs) -> None:
    done = programs.run(
        """
        import sys
        import pilotage as rp
        session = rp.Session(base=sys.argv[1])
        pilots, tasks = rp.PilotManager(session), rp.TaskManager(session)
        tasks.add_pilots(pilots.submit_pilots(rp.PilotDescription(resource="local.localhost", cores=1, runtime=5)))
        tasks.submit_tasks(rp.TaskDescription(executable="/bin/sleep", arguments=["600"]))
        """,
        base,
    )
    assert done.returncode == 0, done.stderr
    assert "was not closed; ending its pilots" in done.stderr
    assert "Traceback" not in done.stderr


# folders that cannot be written


def test_a_session_in_a_folder_that_cannot_be_made() -> None:
    with pytest.raises(rp.PilotageError, match=r"/proc/nowhere.*base=|/proc/nowhere.*PILOTAGE_HOME"):
        rp.Session(base="/proc/nowhere")


def test_a_pilot_in_a_sandbox_that_cannot_be_made(fresh: Campaign) -> None:
    with pytest.raises(rp.InvalidPilot, match=r"pilot\.0000.*/proc/nowhere.*cannot be made.*choose another sandbox"):
        fresh.pilots.submit_pilots({"resource": "local.localhost", "cores": 1, "runtime": 1, "sandbox": "/proc/nowhere"})
    assert fresh.pilots.list_pilots() == []


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount small file systems."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"tiny{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


@needs_root
def test_a_disk_that_the_tasks_fill(fresh: Campaign, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny("size=2m")
    fresh.start()
    task = fresh.shell("dd if=/dev/zero of=large bs=1M count=10", sandbox=folder / "work", stderr=tmp_path / "err")
    assert task.state == rp.FAILED
    assert "No space left on device" in task.exception_detail
    assert fresh.shell("true").state == rp.DONE


@needs_root
def test_a_disk_without_room_for_a_sandbox(fresh: Campaign, tiny: Callable[[str], Path]) -> None:
    folder = tiny("size=1m,nr_inodes=2")
    (folder / "last").touch()
    fresh.start()
    task = fresh.shell("true", sandbox=folder / "work")
    assert outcome_of(task).ending is Ending.LAUNCH_FAILED
    assert "No space left on device" in task.exception
    assert "free space (or inodes)" in task.exception
    assert fresh.shell("true").state == rp.DONE


@needs_root
def test_a_disk_without_room_for_the_session(tiny: Callable[[str], Path]) -> None:
    folder = tiny("size=64k")
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 4096)
    with pytest.raises((rp.PilotageError, OSError), match=r"(?i)no space left|no room"):
        rp.Session(base=folder / "sessions")


@needs_root
def test_a_disk_that_is_full_for_a_while(tiny: Callable[[str], Path], open_campaign: Callable[..., Campaign]) -> None:
    # The log of the pilot cannot grow until there is room again; nothing is lost meanwhile.
    folder = tiny("size=8m")
    campaign = open_campaign()
    campaign.start(sandbox=str(folder))
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 4096)
    tasks = campaign.tasks.submit_tasks([rp.TaskDescription(function=payloads.add, args=[number]) for number in range(2000)])
    filler.unlink()
    campaign.tasks.wait_tasks(timeout=PATIENCE_S)
    assert {task.state for task in tasks} <= {rp.DONE}, {task.exception for task in tasks}


# a worker that is killed for memory, as far as it can be provoked here


def test_a_task_that_cannot_get_memory(fresh: Campaign) -> None:
    fresh.start()
    task = fresh.run(
        rp.TaskDescription(
            executable="/bin/sh", arguments=["-c", f"ulimit -v 200000; exec {sys.executable} -c 'b\"x\" * 10**9'"]
        )
    )
    assert task.state == rp.FAILED
    assert "MemoryError" in task.exception_detail
