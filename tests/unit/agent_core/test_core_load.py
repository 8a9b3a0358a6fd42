"""How busy a pilot says that it is."""

from __future__ import annotations

from agent_builders import EXECUTABLE, OUTPUT, WITH_INPUT, end, ended, ready_core, submitted, with_

from pilotage.core.agent import events
from pilotage.model.partitions import Load
from pilotage.model.resources import Request
from pilotage.model.workload import Extra


def test_an_idle_pilot() -> None:
    assert ready_core(count=2, cores=4).load() == Load(idle_nodes=2, free_cores=8, nodes=2, free_memory=128)


def test_what_runs_what_waits_and_what_is_free() -> None:
    core = ready_core(count=2, cores=4)
    core.handle(submitted(1, ["a", "b", "c"], with_(EXECUTABLE, request=Request(cores=3))))
    assert core.load() == Load(waiting=1, waiting_cores=3, free_cores=2, nodes=2, free_memory=128, running=2)


def test_a_task_whose_files_are_staged_runs_if_they_are_its_output() -> None:
    core = ready_core(cores=2)
    core.handle(submitted(1, ["in"], extra=WITH_INPUT))
    core.handle(submitted(2, ["out"], extra=Extra(output_staging=OUTPUT)))
    core.handle(ended("spawner.0", 1, end("out")))
    assert core.load() == Load(idle_nodes=1, free_cores=2, nodes=1, free_memory=64, running=1)


def test_a_pilot_that_is_short_of_room() -> None:
    core = ready_core()
    core.handle(events.StorageFilled(1.0, "full"))
    assert core.load().paused
