"""What ``retries``, ``retry_on``, ``restartable`` and a service's restart policy say about the next attempt."""

from __future__ import annotations

import pytest

from pilotage.core.agent.retry import ENDINGS, SERVICE_RETRIES, runs_again
from pilotage.model.outcome import Ending
from pilotage.model.services import Restart, Service
from pilotage.model.workload import Template

FAILURES = [ending for ending in Ending if ending not in (Ending.DONE, Ending.CANCELLED, Ending.INFEASIBLE)]


def test_each_failure_that_can_be_repeated_has_a_word() -> None:
    assert sorted(ENDINGS.values()) == FAILURES


@pytest.mark.parametrize("ending", FAILURES)
def test_without_words_any_failure_is_repeated_as_often_as_retries_say(ending: Ending) -> None:
    assert [runs_again(Template(retries=2), failures, ending, 1) for failures in range(4)] == [True, True, False, False]


@pytest.mark.parametrize(("word", "ending"), ENDINGS.items())
def test_a_word_names_its_ending_and_no_other(word: str, ending: Ending) -> None:
    template = Template(retries=1, retry_on=(word,))
    assert [each for each in FAILURES if runs_again(template, 0, each, 1)] == [ending]


def test_a_number_is_an_exit_code_and_a_negative_one_a_signal() -> None:
    template = Template(retries=1, retry_on=(75, -9))
    assert runs_again(template, 0, Ending.EXITED, 75)
    assert runs_again(template, 0, Ending.SIGNALLED, -9)
    assert not runs_again(template, 0, Ending.EXITED, 1)
    assert not runs_again(template, 0, Ending.SIGNALLED, -11)
    assert not runs_again(template, 0, Ending.TIMED_OUT, -9), "Pilotage sent that signal"
    assert not runs_again(template, 0, Ending.LAUNCH_FAILED, None)


@pytest.mark.parametrize("ending", [Ending.DONE, Ending.CANCELLED, Ending.INFEASIBLE])
def test_what_is_no_failure_of_an_attempt_is_not_repeated(ending: Ending) -> None:
    assert not runs_again(Template(retries=9, restartable=True), 0, ending, 0)


def test_what_is_restartable_is_so_after_losses_only_and_without_end() -> None:
    template = Template(restartable=True, retry_on=("exit",))
    again = [ending for ending in FAILURES if runs_again(template, 100, ending, 1)]
    assert again == [Ending.NODE_FAILED, Ending.PREEMPTED, Ending.LOST, Ending.OUT_OF_WALLTIME]


@pytest.mark.parametrize(
    ("restart", "after_failure", "after_success"),
    [("never", False, False), ("on_failure", True, False), ("always", True, True)],
)
def test_a_service_is_started_again_as_its_policy_says(restart: Restart, after_failure: bool, after_success: bool) -> None:
    template = Template(service=Service(restart=restart))
    last = SERVICE_RETRIES - 1
    assert runs_again(template, last, Ending.EXITED, 1) is after_failure
    assert runs_again(template, last, Ending.DONE, 0) is after_success
    assert not runs_again(template, SERVICE_RETRIES, Ending.EXITED, 1)
    assert not runs_again(template, SERVICE_RETRIES, Ending.DONE, 0)


def test_a_service_that_says_how_often_is_started_again_so_often() -> None:
    template = Template(service=Service(restart="on_failure"), retries=1)
    assert [runs_again(template, failures, Ending.EXITED, 1) for failures in range(3)] == [True, False, False]
