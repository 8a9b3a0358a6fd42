"""Following tasks: counting, cancelling at the first Ctrl-C, giving up at the second, and when nobody is left to do them."""

from __future__ import annotations

import os
import pty
import signal
from typing import Any

import msgspec
import pytest

from pilotage.cli.progress import Bar, Interrupts, Lines, Tally, follow
from pilotage.client.job_words import STARTS


class FakeTask(msgspec.Struct):
    state: str = "AGENT_SCHEDULING"


class Script:
    """Plays what happens between passes: each ``wait`` runs the next step."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.cancelled = 0

    def wait(self, tasks: Any, timeout_s: float) -> None:
        self.steps.pop(0)()

    def cancel(self) -> None:
        self.cancelled += 1


def tasks(*states: str) -> Any:
    return [FakeTask(state) for state in states]


def test_a_tally_counts_each_task_once() -> None:
    some = tasks("DONE", "FAILED", "AGENT_EXECUTING", "TMGR_SCHEDULING", "CANCELED")
    tally = Tally(some)
    for _ in range(2):
        tally.look()
        assert (tally.done, len(tally.failed), tally.canceled, tally.running, len(tally.left)) == (1, 1, 1, 1, 2)
    assert tally.summary() == "5 tasks: 1 done, 1 failed, 1 canceled, 2 not finished"
    some[2].state = "DONE"
    tally.look()
    assert (tally.done, tally.running, tally.final) == (2, 0, 4)


def test_it_follows_until_all_have_ended() -> None:
    some = tasks("NEW", "NEW")
    script = Script(lambda: setattr(some[0], "state", "DONE"), lambda: setattr(some[1], "state", "FAILED"))
    tally = Tally(some)
    follow(tally, script.wait, script.cancel, Interrupts(), Lines())
    assert (tally.done, len(tally.failed), script.steps, script.cancelled) == (1, 1, [], 0)


def test_the_first_interrupt_cancels_once_and_goes_on_following(capsys: pytest.CaptureFixture[str]) -> None:
    some = tasks("NEW")
    with Interrupts() as interrupts:
        script = Script(
            lambda: os.kill(os.getpid(), signal.SIGINT), lambda: None, lambda: setattr(some[0], "state", "CANCELED")
        )
        tally = Tally(some)
        follow(tally, script.wait, script.cancel, interrupts, Lines())
    assert (tally.canceled, script.cancelled, interrupts.count) == (1, 1, 1)
    assert "cancelling 1 task; once more stops at once" in capsys.readouterr().err


def test_the_second_interrupt_gives_up() -> None:
    some = tasks("NEW")
    with Interrupts() as interrupts:
        script = Script(*[lambda: os.kill(os.getpid(), signal.SIGINT)] * 2)
        tally = Tally(some)
        follow(tally, script.wait, script.cancel, interrupts, Lines())
    assert (len(tally.left), script.cancelled, script.steps) == (1, 1, [])


def test_a_terminal_that_is_closed_counts_once_and_says_nothing_more() -> None:
    """The kernel and the shell both send HUP; writing to what is left of the terminal would be an error."""
    told, tell = os.pipe()
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            with Interrupts() as interrupts:
                os.write(tell, b"ready")
                while not interrupts.count:
                    interrupts.wait(60.0)
                os.kill(os.getpid(), signal.SIGHUP)
                os.write(1, b"nobody reads this")
                os.write(2, b"nor this")
                os.write(tell, f" {interrupts.count} {interrupts.number:d}".encode())
        finally:
            os._exit(0)
    os.close(tell)
    assert os.read(told, 5) == b"ready"
    os.close(terminal)
    assert os.read(told, 10) == f" 1 {signal.SIGHUP:d}".encode()
    assert os.waitpid(pid, 0)[1] == 0


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
        assert interrupts.count == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_lines_say_each_lasting_reason_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    monkeypatch.setattr("pilotage.cli.progress.time.monotonic", lambda: clock[0])
    lines = Lines()
    for at_s, reason in (
        (0, "its job is being submitted"),
        (1, f"its job 5 is queued: Resources{STARTS}10:00"),
        (3, f"its job 5 is queued: Resources{STARTS}10:01"),
        (5, f"its job 5 is queued: Resources{STARTS}10:02"),
        (9, f"its job 5 is queued: Resources{STARTS}10:03"),
        (10, "its job 5 is queued: Priority"),
        (20, "its job 5 is queued: Priority"),
        (21, ""),
        (31, ""),
    ):
        clock[0] = at_s
        lines.wait_for(reason)
    assert capsys.readouterr().err.splitlines() == [
        f"pilotage: its job 5 is queued: Resources{STARTS}10:02",
        "pilotage: its job 5 is queued: Priority",
    ]


@pytest.mark.parametrize("columns", [80, 200])
def test_a_bar_shows_why_nothing_begins(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    bar = Bar(4)
    try:
        bar.wait_for("its job 5 is queued: [Resources]")
        with bar._progress.console.capture() as shown:
            bar.update(Tally(tasks(*["NEW"] * 4)))
            bar._progress.console.print(bar._progress.get_renderable())
        assert "its job 5 is queued: [Resources]" in shown.get()
        bar.wait_for("")
        tally = Tally(tasks("DONE", "NEW", "NEW", "NEW"))
        tally.look()
        with bar._progress.console.capture() as shown:
            bar.update(tally)
            bar._progress.console.print(bar._progress.get_renderable())
        assert "queued" not in shown.get()
        assert "1 of 4 tasks done" in shown.get()
    finally:
        bar.close()


def test_handlers_are_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in numbers] == before


def test_it_stops_when_no_pilot_is_left_and_still_counts_what_came_before() -> None:
    some = tasks("NEW", "NEW")
    alive = [True]

    def end() -> None:
        alive[0] = False
        some[0].state = "DONE"

    tally = Tally(some)
    follow(tally, Script(end).wait, lambda: None, Interrupts(), Lines(), lambda: alive[0])
    assert (tally.done, len(tally.left)) == (1, 1)
