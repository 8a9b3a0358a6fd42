"""A service says that it is ready, and its agent hears whose word that is."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pilotage as rp
from pilotage.environments.own import COMMANDS_FOLDER, write_commands
from pilotage.errors import BackendError, InvalidRequest
from pilotage.executors.notify import NotifySocket, Word
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.workers import service

PATIENCE_S = 60.0


@pytest.fixture
def notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotifySocket]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", "notify.sock")
    monkeypatch.setenv("PILOTAGE_TASK_ID", "task.7")
    monkeypatch.setenv("PILOTAGE_ATTEMPT", "3")
    found = NotifySocket(Path("notify.sock"), SessionUid("session.x"), PilotUid("pilot.0000"))
    found.open()
    yield found
    found.close()


def heard(notify: NotifySocket) -> list[Word]:
    until = time.monotonic() + PATIENCE_S
    while not (words := notify.receive()):
        assert time.monotonic() < until, "nothing is heard"
    return words


def test_what_is_said_is_heard_with_the_name_of_the_task(notify: NotifySocket) -> None:
    assert rp.service_ready("http://node1:8080")
    assert rp.service_ready()
    said = {"READY": "1", "TASK": "task.7", "ATTEMPT": "3"}
    assert notify.receive() == [Word("task.7", 3, {**said, "INFO": "http://node1:8080"}), Word("task.7", 3, said)]


def test_outside_of_a_service_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not rp.service_ready("here")


@pytest.mark.parametrize("info", ["two\nlines", "x" * 5000])
def test_information_is_one_short_line(notify: NotifySocket, info: str) -> None:
    with pytest.raises(InvalidRequest, match="one line of 4096 bytes"):
        rp.service_ready(info)


def test_an_agent_that_comes_back_is_waited_for(notify: NotifySocket) -> None:
    notify.close()
    told: list[Any] = []
    thread = threading.Thread(target=lambda: told.append(rp.service_ready("late")))
    thread.start()
    again = NotifySocket(Path("notify.sock"), *owner())
    again.open()
    thread.join(PATIENCE_S)
    assert told == [True]
    assert [word.lines["INFO"] for word in again.receive()] == ["late"]
    again.close()


def test_an_agent_that_stays_away_is_an_error(notify: NotifySocket, monkeypatch: pytest.MonkeyPatch) -> None:
    notify.close()
    monkeypatch.setattr(service, "PATIENCE_S", 0.05)
    with pytest.raises(BackendError, match="nobody listens at"):
        rp.service_ready()


def owner() -> tuple[Any, Any]:
    return SessionUid("session.x"), PilotUid("pilot.0000")


# ----------------------------------------------------------------------------------------------------- those of other makers

SAY = "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.sendto(b'{}', os.environ['NOTIFY_SOCKET'])"


def test_who_does_not_say_its_name_is_known_by_its_process(notify: NotifySocket) -> None:
    program = SAY.format("READY=1\\nSTATUS=fine") + "; input()"
    environment = {**os.environ, "PILOTAGE_SESSION_ID": "session.x", "PILOTAGE_PILOT_ID": "pilot.0000"}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE) as speaker:
        words = heard(notify)
        assert speaker.stdin is not None
        speaker.stdin.close()
    assert words == [Word("task.7", 3, {"READY": "1", "STATUS": "fine"})]


def test_words_of_strangers_and_words_that_are_none_are_passed_over(notify: NotifySocket) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        # Of this process the kernel shows the environment that it began with, which is not that of a task.
        for message in (b"READY=1", b"", b"\xff\xfe", b"TASK=t\nATTEMPT=x", b"TASK=t\nATTEMPT=1\n" + b"x" * 9000):
            speaker.sendto(message, "notify.sock")
        speaker.sendto(b"TASK=t\nATTEMPT=1\nREADY=1", "notify.sock")
    assert notify.receive() == [Word("t", 1, {"TASK": "t", "ATTEMPT": "1", "READY": "1"})]


def test_descriptors_that_come_along_are_closed(notify: NotifySocket) -> None:
    reader, writer = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.connect("notify.sock")
        socket.send_fds(speaker, [b"TASK=t\nATTEMPT=1\nBARRIER=1"], [writer])
    os.close(writer)
    assert len(notify.receive()) == 1
    assert os.read(reader, 1) == b"", "who waits for the other end to be closed goes on"
    os.close(reader)


@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="systemd-notify is not installed on this machine")
def test_systemd_notify_is_understood(notify: NotifySocket) -> None:
    environment = {**os.environ, "PILOTAGE_SESSION_ID": "session.x", "PILOTAGE_PILOT_ID": "pilot.0000"}
    path = os.path.abspath("notify.sock")
    # It speaks for the shell that calls it.
    script = ["sh", "-c", "systemd-notify --ready; exit 0"]
    with subprocess.Popen(script, env={**environment, "NOTIFY_SOCKET": path}):
        words = heard(notify)
    assert (words[0].task, words[0].lines["READY"]) == ("task.7", "1")


def test_the_command_that_scripts_of_radical_pilot_call(notify: NotifySocket, tmp_path: Path) -> None:
    write_commands(tmp_path)
    command = [str(tmp_path / COMMANDS_FOLDER / "radical-pilot-service-signal")]
    subprocess.run(command, check=True)
    assert notify.receive() == [Word("task.7", 3, {"READY": "1", "TASK": "task.7", "ATTEMPT": "3"})]
    alone = subprocess.run(command, env={}, capture_output=True, text=True)
    assert alone.returncode == 1 and "not part of a service" in alone.stderr


def test_the_command_line(notify: NotifySocket) -> None:
    from pilotage.cli.main import run_command

    assert run_command(["service-ready", "host:1"]) == 0
    assert notify.receive()[0].lines["INFO"] == "host:1"
