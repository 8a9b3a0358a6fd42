"""The life of a session: who may have it, what survives whose death, what is left behind."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import client_payloads
import msgspec
import pytest

import pilotage as rp
from pilotage.client.executor import Executor
from pilotage.system.processes import started_ticks

LOCAL = {"resource": "local.localhost", "cores": 2, "runtime": 5}


def agent_pid(session_path: str, pilot: str = "pilot.0000") -> int:
    connection = msgspec.json.decode(Path(session_path, pilot, "connection.json").read_bytes())
    return int(connection["pid"])


def run(program: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_importing_the_package_is_light() -> None:
    heavy = (
        "import pilotage, sys; print([name for name in ('msgspec', 'zmq', 'cloudpickle', 'asyncio') if name in sys.modules])"
    )
    assert run(heavy).communicate(timeout=30)[0].strip() == "[]"


def test_unknown_public_names_are_told_the_nearest() -> None:
    with pytest.raises(AttributeError, match="TaskManager"):
        rp.TaskManagr  # noqa: B018
    assert {"Session", "DONE", "TASK_FUNCTION", "TaskFailed", "UnitManager"} <= set(dir(rp))


def test_a_closed_session_raises(base: Path) -> None:
    session = rp.Session(base=base)
    manager = rp.TaskManager(session)
    pilots = rp.PilotManager(session)
    session.close()
    session.close()
    for use in (
        lambda: manager.submit_tasks({"executable": "/bin/true"}),
        lambda: pilots.submit_pilots(LOCAL),
        lambda: rp.TaskManager(session),
    ):
        with pytest.raises(rp.SessionClosed, match=session.uid):
            use()


def test_a_session_opened_twice(session: rp.Session, base: Path) -> None:
    with pytest.raises(rp.SessionInUse, match=str(os.getpid())):
        rp.Session.resume(session.uid, base=base)
    with pytest.raises(rp.SessionInUse):
        rp.Session(session.uid, base=base)
    with pytest.raises(rp.InvalidRequest, match=session.uid):
        rp.Session.resume(session.uid[:-1], base=base)


def test_a_forked_child_is_refused(manager: rp.TaskManager) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            manager.submit_tasks({"executable": "/bin/true"})
        except rp.SessionForked:
            os.write(writer, b"refused")
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 100) == b"refused"
    os.close(reader)
    os.waitpid(child, 0)
    assert manager.submit_tasks({"executable": "/bin/true"}).wait(timeout=30) == rp.DONE


def test_unknown_platforms_and_wrong_pilots(session: rp.Session) -> None:
    pilots = rp.PilotManager(session)
    with pytest.raises(rp.UnknownPlatform, match=r"local\.localhost"):
        pilots.submit_pilots({"resource": "local.localhos", "cores": 1})
    with pytest.raises(rp.InvalidPilot, match="cores"):
        pilots.submit_pilots({"resource": "local.localhost", "cores": 100_000})
    with pytest.raises(rp.InvalidPilot, match="sandbox"):
        pilots.submit_pilots({"resource": "local.localhost", "cores": 1, "sandbox": "/proc/nowhere"})
    assert pilots.list_pilots() == []


def test_pilots_that_outlive_the_client_are_found_again_with_their_results(base: Path) -> None:
    session = rp.Session(base=base)
    manager = rp.TaskManager(session)
    manager.add_pilots(rp.PilotManager(session).submit_pilots(LOCAL))
    done = manager.submit_tasks({"executable": "/bin/true", "uid": "done"})
    done.wait(timeout=30)
    manager.submit_tasks(
        [rp.TaskDescription(function=client_payloads.doze, args=[0.3], uid=f"later.{number}") for number in range(4)]
    )
    session.close(terminate=False)
    with rp.Session.resume(session.uid, base=base) as again:
        manager = again.get_task_managers("tmgr.0000")
        assert manager.list_tasks() == ["done", *(f"later.{number}" for number in range(4))]
        assert manager.get_tasks("done").state == rp.DONE
        assert [task.result(30) for task in manager.get_tasks([f"later.{number}" for number in range(4)])] == [0.3] * 4
        assert manager.get_tasks("later.0").description.args == [0.3]
        # A script that is run again gets the tasks that it has submitted already.
        same = manager.submit_tasks(rp.TaskDescription(function=client_payloads.doze, args=[0.3], uid="later.1"))
        assert same.state == rp.DONE
        assert manager.submit_tasks({"executable": "/bin/true"}).wait(timeout=30) == rp.DONE


KILLED = """
import os, sys
import pilotage as rp, client_payloads
session = rp.Session("mine", base=sys.argv[1])
manager = rp.TaskManager(session)
manager.add_pilots(rp.PilotManager(session).submit_pilots({"resource": "local.localhost", "cores": 2, "runtime": 5}))
tasks = manager.submit_tasks([rp.TaskDescription(function=client_payloads.double, args=[n]) for n in range(300)])
if sys.argv[2] == "some":
    tasks[0].wait()
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("when", ["none", "some"])
def test_kill_the_client_and_lose_nothing(base: Path, when: str) -> None:
    killed = run(KILLED, str(base), when)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    with rp.Session.resume("mine", base=base) as again:
        tasks = again.get_task_managers("tmgr.0000").get_tasks()
        assert [task.result(60) for task in tasks] == [2 * number for number in range(300)]


def test_kill_the_agent_and_lose_nothing(manager: rp.TaskManager) -> None:
    manager.get_pilots()[0].wait(rp.PMGR_ACTIVE, timeout=30)
    tasks = manager.submit_tasks([{"executable": "/bin/sh", "arguments": ["-c", f"sleep 0.3; echo {n}"]} for n in range(6)])
    tasks[0].wait(rp.AGENT_EXECUTING, timeout=30)
    os.kill(agent_pid(manager.session.path), signal.SIGKILL)
    assert manager.wait_tasks(timeout=60) == [rp.DONE] * 6
    assert [task.stdout for task in tasks] == [f"{number}\n" for number in range(6)]


def test_kill_bootstrap_and_agent_and_nothing_hangs_or_goes_on(manager: rp.TaskManager) -> None:
    (pilot,) = manager.get_pilots()
    done = manager.submit_tasks({"executable": "/bin/true"})
    done.wait(timeout=30)
    running = manager.submit_tasks({"executable": "/bin/sleep", "arguments": ["100"]})
    running.wait(rp.AGENT_EXECUTING, timeout=30)
    agent = agent_pid(manager.session.path)
    runners = [int(pid) for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split()]
    (payload,) = [int(pid) for runner in runners for pid in Path(f"/proc/{runner}/task/{runner}/children").read_text().split()]
    for pid in (manager.session.state.pilots[pilot.uid].pid, agent):
        os.kill(pid, signal.SIGKILL)
    assert pilot.wait(timeout=60) == rp.FAILED
    assert "processes are gone" in pilot.reason
    assert [pid for pid in (*runners, payload) if started_ticks(pid) is not None] == []
    assert running.wait(timeout=0) == rp.FAILED
    with pytest.raises(rp.TaskFailed, match="may have run"):
        running.result()
    assert done.state == rp.DONE


def test_ctrl_c_interrupts_the_wait_and_nothing_else(manager: rp.TaskManager, tmp_path: Path) -> None:
    go = tmp_path / "go"
    task = manager.submit_tasks({"executable": "/bin/sh", "arguments": ["-c", f"until [ -e {go} ]; do sleep 0.05; done"]})
    task.wait(rp.AGENT_EXECUTING, timeout=30)
    interrupt = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        interrupt.start()
        task.wait(timeout=30)
    interrupt.join()
    assert task.state == rp.AGENT_EXECUTING
    go.touch()
    assert task.wait(timeout=30) == rp.DONE


def test_a_program_that_does_not_close_its_session_leaves_nothing(base: Path) -> None:
    program = (
        "import sys, pilotage as rp\n"
        "session = rp.Session('open', base=sys.argv[1])\n"
        "pilot = rp.PilotManager(session).submit_pilots({'resource': 'local.localhost', 'cores': 1})\n"
        "pilot.wait(rp.PMGR_ACTIVE, timeout=30)\n"
        "print(session.state.pilots[pilot.uid].pid)\n"
    )
    ended = run(program, str(base))
    output, errors = ended.communicate(timeout=60)
    assert ended.returncode == 0, errors
    assert "was not closed" in errors
    assert started_ticks(int(output)) is None


def test_several_managers_and_a_session_as_async_context(base: Path) -> None:
    import asyncio

    async def campaign() -> list[str]:
        async with rp.Session(base=base) as session:
            pilot = rp.PilotManager(session).submit_pilots(LOCAL)
            managers = [rp.TaskManager(session) for _ in range(3)]
            for manager in managers:
                manager.add_pilots(pilot)
            tasks = [
                manager.submit_tasks(rp.TaskDescription(function=client_payloads.double, args=[5])) for manager in managers
            ]
            assert [await task for task in tasks] == [10, 10, 10]
            assert [manager.list_tasks() for manager in managers] == [[task.uid] for task in tasks]
            return session.list_task_managers()

    assert asyncio.run(campaign()) == ["tmgr.0000", "tmgr.0001", "tmgr.0002"]


def test_executor(base: Path) -> None:
    with rp.Session(base=base) as session, Executor(cores=2, session=session) as executor:
        assert executor.submit(client_payloads.double, 4).result(30) == 8
        assert list(executor.map(client_payloads.double, range(3000))) == [2 * number for number in range(3000)]
        assert list(executor.map(pow, [2, 3], [5, 2], chunksize=2)) == [32, 9]
        assert list(executor.map(client_payloads.double, [])) == []
        with pytest.raises(ValueError, match="liked"):
            executor.submit(client_payloads.fail, 1).result(30)
        results = executor.map(client_payloads.fail_at, range(100), timeout=30)
        assert [next(results) for _ in range(7)] == list(range(7))
        with pytest.raises(ValueError, match="seven"):
            next(results)
        slow = executor.submit(client_payloads.doze, 100)
        # Before Python 3.11 this is not the built-in error of the name.
        with pytest.raises(concurrent.futures.TimeoutError):
            slow.result(0.01)
        executor.shutdown(cancel_futures=True)
        assert slow.cancelled()
        with pytest.raises(RuntimeError, match="shutdown"):
            executor.submit(client_payloads.double, 1)
