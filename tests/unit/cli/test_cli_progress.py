"""Following tasks: counting, cancelling at the first Ctrl-C, giving up at the second, and when nobody is left to do them."""

from __future__ import annotations

import os
import signal
from typing import Any

import msgspec
import pytest

from pilotage.cli.progress import Interrupts, Silence, Tally, follow


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
    follow(tally, script.wait, script.cancel, Interrupts(), Silence())
    assert (tally.done, len(tally.failed), script.steps, script.cancelled) == (1, 1, [], 0)


def test_the_first_interrupt_cancels_once_and_goes_on_following(capsys: pytest.CaptureFixture[str]) -> None:
    some = tasks("NEW")
    with Interrupts() as interrupts:
        script = Script(
            lambda: os.kill(os.getpid(), signal.SIGINT), lambda: None, lambda: setattr(some[0], "state", "CANCELED")
        )
        tally = Tally(some)
        follow(tally, script.wait, script.cancel, interrupts, Silence())
    assert (tally.canceled, script.cancelled, interrupts.count) == (1, 1, 1)
    assert "cancelling 1 task; once more stops at once" in capsys.readouterr().err


def test_the_second_interrupt_gives_up() -> None:
    some = tasks("NEW")
    with Interrupts() as interrupts:
        script = Script(*[lambda: os.kill(os.getpid(), signal.SIGINT)] * 2)
        tally = Tally(some)
        follow(tally, script.wait, script.cancel, interrupts, Silence())
    assert (len(tally.left), script.cancelled, script.steps) == (1, 1, [])


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_it_stops_when_no_pilot_is_left_and_still_counts_what_came_before() -> None:
    some = tasks("NEW", "NEW")
    alive = [True]

    def end() -> None:
        alive[0] = False
        some[0].state = "DONE"

    tally = Tally(some)
    follow(tally, Script(end).wait, lambda: None, Interrupts(), Silence(), lambda: alive[0])
    assert (tally.done, len(tally.left)) == (1, 1)
