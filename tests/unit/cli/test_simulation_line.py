"""The line that tells how far a simulation is: on a terminal, and nowhere else."""

from __future__ import annotations

import io
import sys

import pytest

from pilotage.cli import simulation_line
from pilotage.cli.main import run_command
from pilotage.cli.simulation_line import SimulationLine, in_words
from pilotage.sim.world import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def a_person_looks(monkeypatch) -> Terminal:
    """Return what a person sees of stderr, with news shown as soon as they come."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(simulation_line, "FIRST_S", 0.0)
    monkeypatch.setattr(simulation_line, "PAUSE_S", 0.0)
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    return stderr


@pytest.mark.parametrize(
    ("progress", "tasks", "spent_s", "words"),
    [
        (Progress(192.0, 14336, 12000), 14336, 2.0, "3 min 12 s simulated, 12,000 of 14,336 tasks done, 6,000 tasks/s"),
        (Progress(0.0, 1, 0), 1, 0.0, "0 ms simulated, 0 of 1 task done, 0 tasks/s"),
        (Progress(7300.0, 9, 5), 9, 10.0, "2 h 1 min simulated, 5 of 9 tasks done, 0.5 tasks/s"),
    ],
)
def test_how_far_it_is_in_words(progress, tasks, spent_s, words):
    assert in_words(progress, tasks, spent_s) == words


def test_the_line_is_written_over_itself_and_taken_away(monkeypatch):
    terminal = a_person_looks(monkeypatch)
    with SimulationLine() as line:
        watch = line.begin(4)
        watch(Progress(1.0, 4, 1))
        watch(Progress(2.0, 4, 3))

    assert "\n" not in terminal.getvalue()
    shown = terminal.getvalue().split("\r\x1b[K")
    assert shown[0] == "" and shown[-1] == "", "nothing is there before, and nothing is left"
    assert [text.split(" done")[0] for text in shown[1:-1]] == [
        "  1.0 s simulated, 1 of 4 tasks",
        "  2.0 s simulated, 3 of 4 tasks",
    ]


def test_news_that_come_too_soon_are_not_shown(monkeypatch):
    terminal = a_person_looks(monkeypatch)
    monkeypatch.setattr(simulation_line, "FIRST_S", 3600.0)
    with SimulationLine() as line:
        line.begin(4)(Progress(1.0, 4, 1))

    assert terminal.getvalue() == ""


@pytest.mark.parametrize("command", [["sim", "sleep", "--nodes", "16"], ["experiment", "run", "E40", "--quick"]])
def test_on_a_terminal_commands_show_it_and_leave_nothing_of_it(monkeypatch, capsys, command):
    terminal = a_person_looks(monkeypatch)
    assert run_command(command) == 0

    said = terminal.getvalue()
    assert "tasks done" in said and "simulated" in said
    assert said.endswith("\r\x1b[K")
    assert "simulated, " not in capsys.readouterr().out


@pytest.mark.parametrize("command", [["sim", "sleep", "--nodes", "16"], ["experiment", "run", "E40", "--quick"]])
def test_elsewhere_they_say_nothing(monkeypatch, capsys, command):
    monkeypatch.setattr(simulation_line, "FIRST_S", 0.0)

    assert run_command(command) == 0

    assert capsys.readouterr().err == ""
