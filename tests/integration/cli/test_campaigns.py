"""Campaigns from the command line: arrays, tables, what is missing, what failed, one session after another."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

from test_commands import PATIENCE_S, asked, eventually, pilotage, running, start

import pilotage as rp

__all__ = ["start"]

NOTE_HOW_MANY = 'mkdir "here/$0" && ls here | wc -l >> seen && sleep 0.05; rmdir "here/$0"'
WAIT_FOR_GO = 'while [ ! -e "$0" ]; do sleep 0.02; done'


def uids(session: str, *conditions: str) -> list[str]:
    return pilotage("task", "list", "-s", session, "-f", "quiet", *conditions).stdout.split()


def test_an_array_runs_its_numbers_a_few_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    done = pilotage(
        *("run", "--array", "10-40:2%3", "--sandbox", ".", "--stdout", "/dev/null", "--session", "array", "--nodes", "1"),
        *("--platform", "local.emulated", "--cores-per-node", "16", "--", "/bin/sh", "-c", NOTE_HOW_MANY, "{i}"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    seen = [int(line) for line in (tmp_path / "seen").read_text().split()]
    assert len(seen) == 16
    assert max(seen) <= 3
    assert [task["name"] for task in asked("task", "list", "-s", "array")["tasks"]] == [f"sh.{i}" for i in range(10, 41, 2)]


def test_each_row_of_a_table_is_a_task(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("who,what\nAnn,hello\nBo,good bye\n")
    done = pilotage("run", "--from-csv", "runs.csv", "--show-output", "--", "/bin/echo", "{what},", "{who}!", cwd=tmp_path)
    assert done.stdout == "hello, Ann!\ngood bye, Bo!\n"


def test_what_has_its_output_is_not_run_again(tmp_path: Path) -> None:
    script = "echo {i} > out{i}; echo >> ran"
    command = ("run", "-n", "4", "--sandbox", ".", "--only-missing", "out{i}", "--", "/bin/sh", "-c", script)
    (tmp_path / "out2").write_text("x")
    assert pilotage(*command, cwd=tmp_path).returncode == 0
    assert (tmp_path / "ran").read_text() == "\n" * 3
    done = pilotage(*command, cwd=tmp_path)
    assert "all 4 outputs are there; nothing to do" in done.stderr
    assert (tmp_path / "ran").read_text() == "\n" * 3


def test_failed_tasks_run_once_more_as_new_tasks_of_their_session(tmp_path: Path) -> None:
    go = tmp_path / "go"
    command = ("/bin/sh", "-c", f"test {{i}} = 0 -o -e {go} && echo now {{i}}")
    assert pilotage("run", "-n", "3", "--session", "again", "--", *command).returncode == 1
    failed = uids("again", "--state", "failed")
    assert len(failed) == 2
    assert pilotage("task", "retry", "--failed", "-s", "again").returncode == 1
    go.touch()
    done = pilotage("task", "retry", "--failed", "-s", "again", "--show-output")
    assert (done.returncode, done.stdout) == (0, "now 1\nnow 2\n")
    assert uids("again", "--name", "*.retry2") == [f"{uid}.retry2" for uid in failed]
    nothing = pilotage("task", "retry", "--name", "no-such-*", "-s", "again")
    assert nothing.returncode == 2 and "has no such task that has ended" in nothing.stderr


def test_the_services_of_a_task_run_once_more_with_it(tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"test -e {go} && echo $PILOTAGE_SERVICE_DATABASE, $PILOTAGE_SERVICE_ELSEWHERE"
    with rp.Session("served") as session:
        server = {
            "uid": "database",
            "mode": rp.TASK_SERVICE,
            "executable": "/bin/sh",
            "arguments": ["-c", "echo at port 7; sleep 1000"],
            "info_pattern": "stdout:at (.*)",
        }
        pilot = rp.PilotManager(session).submit_pilots({"resource": "local.localhost", "cores": 2, "runtime": 10})
        pilot.register_service("elsewhere", "tcp://far:1")
        manager = rp.TaskManager(session)
        manager.add_pilots(pilot)
        task = {"uid": "user", "executable": "/bin/sh", "arguments": ["-c", script], "services": ["database", "elsewhere"]}
        before = {"uid": "before", "executable": "true"}
        *_, user = manager.submit_tasks([server, before, {**task, "after": ["before"], "after_policy": "any"}])
        assert user.wait(timeout=PATIENCE_S) == rp.FAILED
    go.touch()
    for number in (1, 2):
        done = pilotage("task", "retry", "user", "database", "-s", "served", "--show-output")
        assert (done.returncode, done.stdout) == (0, "port 7, tcp://far:1\n"), done.stderr
        assert asked("task", "show", f"database.retry{number}", "-s", "served")["task"]["state"] == rp.DONE
    refused = pilotage("task", "retry", "database.retry2", "-s", "served")
    assert refused.returncode == 2 and "are services of its pilot" in refused.stderr


def test_a_run_begins_when_another_has_ended_well(tmp_path: Path, start: Callable[..., Popen[str]]) -> None:
    go = str(tmp_path / "go")
    first = start("run", "--session", "first", "--", "/bin/sh", "-c", WAIT_FOR_GO, go, cwd=tmp_path)
    eventually(running("first", 1))
    second = start("run", "--session", "second", "--after", "first", "--show-output", "--", "/bin/echo", "second")
    assert second.stderr is not None
    assert "waiting for 1 task of session first" in second.stderr.readline()
    (tmp_path / "go").touch()
    assert second.communicate(timeout=PATIENCE_S)[0] == "second\n"
    assert first.wait(PATIENCE_S) == second.returncode == 0


def test_a_run_after_one_that_failed_is_not_begun_unless_asked() -> None:
    pilotage("run", "--session", "bad", "--", "/bin/false")
    done = pilotage("run", "--after", "bad", "--session", "never", "--", "/bin/true")
    assert (done.returncode, "nothing was run" in done.stderr) == (1, True)
    assert pilotage("run", "--after", "bad:task.*", "--after-policy", "notok", "--", "/bin/true").returncode == 0


def test_a_command_is_told_how_it_went(tmp_path: Path) -> None:
    told = tmp_path / "told"
    hook = f'echo "$PILOTAGE_STATUS $PILOTAGE_DONE of $PILOTAGE_TASKS" > {told}; exit 3'
    done = pilotage("run", "-n", "2", "--on-completion", hook, "--", "/bin/sh", "-c", "exit {i}")
    assert told.read_text() == "1 1 of 2\n"
    assert done.returncode == 1
    assert "the command of --on-completion exited with code 3" in done.stderr


def test_a_session_is_watched_from_elsewhere_until_it_is_over(tmp_path: Path, start: Callable[..., Popen[str]]) -> None:
    go = str(tmp_path / "go")
    start("run", "-n", "2", "--session", "watched", "--pilot-cores", "1", "--", "/bin/sh", "-c", WAIT_FOR_GO, go)
    eventually(running("watched", 1))
    assert pilotage("watch", "watched", "--once").stdout == "0 of 2 tasks ended, 1 running\n"
    watching = start("watch", "watched")
    assert watching.stdout is not None
    assert "1 running" in watching.stdout.readline()
    (tmp_path / "go").touch()
    said = watching.communicate(timeout=PATIENCE_S)[0].splitlines()
    assert said[-1] == "2 of 2 tasks ended, 2 done"
    assert watching.returncode == 0


def test_the_watch_ends_by_an_interrupt_and_the_session_goes_on(tmp_path: Path, start: Callable[..., Popen[str]]) -> None:
    runs = start("run", "--session", "goes-on", "--", "/bin/sh", "-c", WAIT_FOR_GO, str(tmp_path / "go"))
    eventually(running("goes-on", 1))
    watching = start("watch", "goes-on")
    assert watching.stdout is not None and watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    assert watching.wait(PATIENCE_S) == 0
    (tmp_path / "go").touch()
    assert runs.wait(PATIENCE_S) == os.EX_OK
