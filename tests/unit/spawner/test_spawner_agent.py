"""The agent's death and return, function workers, and the spawner's own end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from spawner_driver import SpawnerDriver, StartDriver

from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.system.processes import boot_id, started_ticks
from pilotage.wire.runner_messages import (
    EndTasks,
    EndWorker,
    Release,
    StartWorker,
    StopRunner,
    TasksEnded,
    TasksStarted,
)
from pilotage.wire.runner_settings import HOSTS_FILE


def numbers(driver: SpawnerDriver) -> list[int]:
    return [message.number for _, message in driver.messages if isinstance(message, TasksEnded)]


def test_the_hello_names_the_process(driver: SpawnerDriver) -> None:
    (hello,) = driver.hellos()

    pid = driver.processes[RunnerId("spawner.0")].pid
    assert (hello.runner, hello.pid, hello.started_ticks) == ("spawner.0", pid, started_ticks(pid))
    assert (hello.boot_id, hello.holds, hello.sent) == (boot_id(), [], 0)


def test_a_folder_with_a_very_long_path_is_reached(tmp_path: Path) -> None:
    with SpawnerDriver(tmp_path / ("deep" * 20) / ("folder" * 10)) as driver:
        driver.start_spawner()
        driver.shell("task.1", ":")
        assert driver.wait_for_end("task.1").ending is Ending.DONE


def test_a_restarted_agent_finds_what_runs_and_gets_what_it_missed(start_driver: StartDriver, tmp_path: Path) -> None:
    driver = start_driver(auto_release=False)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    template = driver.template(executable="/bin/sh")
    driver.launch("task.early", template=template, arguments=("-c", ":"))
    driver.wait_for_end("task.early")
    driver.launch("task.logged", template=template, arguments=("-c", ":"))
    driver.wait_for_end("task.logged")
    driver.launch("task.runs", "task.waits", template=template, arguments=("-c", f"read line < {gate}; echo on > done"))
    pid = driver.wait_for_start("task.runs")

    driver.pause()
    gate.write_text("go\n")
    driver.wait_for_text(driver.sandbox("task.runs") / "done")
    driver.wait_for(lambda: driver.sandbox("task.waits").exists())
    driver.messages.clear()
    driver.released[RunnerId("spawner.0")] = 1
    driver.resume()

    ends = driver.wait_for_ends(["task.logged", "task.runs"])
    assert pid != 0
    hello = driver.hellos()[0]
    assert hello.holds == [("task.waits", 1)]
    assert hello.sent == 3  # with what ended while no agent was there: it is not held any more, and did begin
    assert numbers(driver)[:2] == [2, 3]
    assert set(ends) == {"task.logged", "task.runs"}
    driver.wait_for_start("task.waits")
    gate.write_text("go\n")
    driver.wait_for_end("task.waits")
    assert "task.early" not in driver.ends()


def test_the_started_are_told_again_to_a_restarted_agent(driver: SpawnerDriver) -> None:
    driver.shell("task.1", "exec sleep 1000")
    pid = driver.wait_for_start("task.1")

    driver.pause()
    driver.messages.clear()
    driver.resume()

    assert driver.wait_for_start("task.1") == pid
    assert driver.hellos()[0].holds == [("task.1", 1)]


def test_what_was_released_is_not_sent_again(driver: SpawnerDriver) -> None:
    driver.shell("task.1", ":")
    driver.wait_for_end("task.1")
    driver.pause()
    driver.messages.clear()
    driver.resume()
    driver.wait_for(driver.hellos)

    driver.shell("task.2", ":")

    driver.wait_for_end("task.2")
    assert numbers(driver) == [2]


def test_a_held_end_is_not_run_again_and_a_released_one_is_forgotten(start_driver: StartDriver) -> None:
    driver = start_driver(auto_release=False)
    template = driver.template(executable="/bin/sh")
    arguments = ("-c", "echo ran >> runs")
    driver.launch("task.1", template=template, arguments=arguments)
    driver.wait_for_end("task.1")
    driver.launch("task.1", template=template, arguments=arguments)
    driver.launch("task.2", template=template, arguments=arguments)
    driver.wait_for_end("task.2")
    assert (driver.sandbox("task.1") / "runs").read_text() == "ran\n"

    driver.send(Release(2))
    driver.send(EndTasks([(TaskUid("task.1"), Attempt(1))], Ending.CANCELLED, "late"))
    driver.launch("task.3", template=template, arguments=arguments)

    driver.wait_for_end("task.3")
    assert numbers(driver) == [1, 2, 3]
    assert driver.returned() == []


def test_nothing_is_told_before_the_welcome(start_driver: StartDriver) -> None:
    driver = start_driver(auto_welcome=False)
    driver.shell("task.1", ":")
    driver.wait_for(lambda: driver.sandbox("task.1").exists())
    assert len(driver.messages) == 1

    driver.pause()
    driver.auto_welcome = True
    driver.resume()

    assert driver.wait_for_end("task.1").ending is Ending.DONE


def test_a_spawner_that_is_left_alone_ends_its_tasks_and_itself(start_driver: StartDriver) -> None:
    driver = start_driver(orphan_timeout_s=0.3)
    driver.shell("task.1", "exec sleep 1000")
    pid = driver.wait_for_start("task.1")
    ticks = started_ticks(pid)

    driver.pause()

    process = driver.processes[RunnerId("spawner.0")]
    driver.wait_for(lambda: process.poll() is not None, what="exit of the spawner")
    assert started_ticks(pid) != ticks
    assert process.returncode == 0
    printed = Path(driver.settings.pilot_folder, "spawner.0.err").read_text()
    assert printed == "no agent for 0.3 s: ending all tasks\n"


def test_a_spawner_whose_host_is_lost_ends_when_the_pilot_is_over(start_driver: StartDriver, tmp_path: Path) -> None:
    (hosts := tmp_path / HOSTS_FILE).touch()
    driver = start_driver(host="node1", agent_folder=str(tmp_path))
    driver.shell("task.1", "exec sleep 1000")
    driver.wait_for_start("task.1")
    driver.pause()
    process = driver.processes[RunnerId("spawner.0")]

    hosts.unlink()

    # Long before it would give up.
    driver.wait_for(lambda: process.poll() is not None, what="exit of the spawner")
    assert driver.settings.orphan_timeout_s >= 60.0
    assert (tmp_path / "spawner.0.err").read_text() == "the pilot is over: ending all tasks\n"


def test_a_stopped_spawner_returns_what_waits_ends_what_runs_reports_and_exits(driver: SpawnerDriver) -> None:
    template = driver.template(executable="/bin/sh", grace_s=1000.0)
    script = "trap '' TERM; (setsid sleep 1000 &); echo ready > ready; while :; do sleep 1000; done"
    driver.launch("task.1", "task.2", template=template, arguments=("-c", script))
    driver.wait_for_text(driver.sandbox("task.1") / "ready")

    driver.send(StopRunner(0.1))

    end = driver.wait_for_end("task.1")
    assert (end.ending, end.exit_code, end.message) == (Ending.CANCELLED, -signal.SIGKILL, "ended with its pilot")
    assert driver.returned() == ["task.2"]
    assert driver.processes[RunnerId("spawner.0")].wait() == 0


def test_term_stops_a_spawner(driver: SpawnerDriver) -> None:
    driver.shell("task.1", "exec sleep 1000")
    driver.wait_for_start("task.1")
    process = driver.processes[RunnerId("spawner.0")]

    process.terminate()

    assert driver.wait_for_end("task.1").exit_code == -signal.SIGTERM
    assert process.wait() == 0


def test_an_interrupt_does_not_stop_a_spawner(driver: SpawnerDriver) -> None:
    driver.processes[RunnerId("spawner.0")].send_signal(signal.SIGINT)
    driver.shell("task.1", ":")

    assert driver.wait_for_end("task.1").ending is Ending.DONE


def stand_in_worker(folder: Path, program: str) -> list[str]:
    """Make a package ``pilotage.workers.main`` whose ``main`` is this program, and return the import path to it."""
    package = folder / "pilotage" / "workers"
    package.mkdir(parents=True)
    (folder / "pilotage" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "main.py").write_text(f"import os, sys, signal, subprocess, time\ndef main():\n    {program}\n")
    return [str(folder)]


def test_a_worker_has_the_users_path_and_environment_and_its_exit_is_told(start_driver: StartDriver, tmp_path: Path) -> None:
    program = "print(sys.argv[1:], os.environ['MINE'], os.environ['EXTRA'], os.getcwd(), flush=True); sys.exit(3)"
    driver = start_driver(python_path=stand_in_worker(tmp_path / "path", program), environment={"MINE": "user"})

    driver.send(StartWorker(RunnerId("worker.0"), {"EXTRA": "message"}))

    exited = driver.wait_for(lambda: driver.workers_exited().get("worker.0"), what="exit of the worker")
    assert exited is not None
    assert (exited.status, exited.message) == (3, "exited with code 3")
    printed = Path(driver.settings.pilot_folder, "worker.0.out").read_text()
    assert printed == f"['{driver.folder}', 'worker.0'] user message {driver.folder}\n"


def test_a_worker_is_killed_with_all_it_started(start_driver: StartDriver, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = (
        f"child = subprocess.Popen(['sleep', '1000'], start_new_session=True, env={{}}, executable='/bin/sleep'); "
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}\\n'); signal.pause()"
    )
    driver = start_driver(python_path=stand_in_worker(tmp_path / "path", program))
    driver.send(StartWorker(RunnerId("worker.0"), {}))
    started = {int(pid): started_ticks(int(pid)) for pid in driver.wait_for_text(pids).split()}

    driver.send(EndWorker(RunnerId("worker.0")))

    exited = driver.wait_for(lambda: driver.workers_exited().get("worker.0"), what="exit of the worker")
    assert exited is not None
    assert (exited.pid, exited.status) == (next(iter(started)), -signal.SIGKILL)
    driver.wait_for(lambda: not [pid for pid, ticks in started.items() if started_ticks(pid) == ticks])


def test_a_spawner_imports_little(driver: SpawnerDriver) -> None:
    pid = driver.processes[RunnerId("spawner.0")].pid
    driver.shell("task.1", "exec sleep 1000")
    driver.wait_for_start("task.1")
    resident_kib = int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])

    assert resident_kib < 40_000
    assert len(os.listdir(f"/proc/{pid}/task")) == 1


def test_a_start_is_not_told_twice_to_one_agent(driver: SpawnerDriver) -> None:
    driver.shell("task.1", "exec sleep 1000")
    driver.wait_for_start("task.1")
    driver.shell("task.2", ":")
    driver.wait_for_end("task.2")

    starts = [task for _, message in driver.messages if isinstance(message, TasksStarted) for task, *_ in message.started]
    assert starts.count("task.1") == 1
