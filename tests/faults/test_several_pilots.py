"""One of four pilots dies under a campaign: the others take its tasks over, and nothing runs twice that may not."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from pilotage.client.recovery import recover_state
from pilotage.model.ids import PilotUid
from pilotage.model.states import CANCELED, FAILED

from .jobs import Job, Plan
from .stage import MODULES, Stage
from .witness import Harm, Witness

PILOTS = 4
CORES = 2
GATES = PILOTS * 2 * CORES
TASKS = 160
VICTIM = "pilot.0001"


def campaign(scheduler: str) -> Plan:
    """Gates first, which fill all pilots and keep them busy until the gate is opened; then what waits behind them."""
    jobs = [Job(f"job.{number:04d}", "gate", restartable=number % 2 == 0) for number in range(GATES)]
    jobs += [
        Job(f"job.{number:04d}", "sleep", seconds=0.02, restartable=number % 2 == 0, ranks=2 if number % 10 == 0 else 1)
        for number in range(GATES, TASKS)
    ]
    pilot: dict[str, str | int | float] = {"resource": "local.localhost", "cores": CORES, "runtime": 10}
    return Plan("several", jobs, pilot, batch=TASKS, pilots=PILOTS, scheduler=scheduler)


def kill_pilot(stage: Stage, pilot: str) -> None:
    """Kill the bootstrap of a pilot, which would start another agent, and its agent."""
    for role in ("bootstrap", "agent"):
        found = [
            pid for pid, command in stage.processes().items() if MODULES[role] in command and f"/{pilot}".encode() in command
        ]
        assert len(found) == 1, f"{role} of {pilot}: {found}"
        stage.signal(found[0], signal.SIGKILL)
        stage.tell(f"{role} {found[0]} of {pilot} killed")


@pytest.mark.parametrize("scheduler", ["round_robin", "backfilling"])
def test_one_of_four_pilots_dies(scheduler: str) -> None:
    plan = campaign(scheduler)
    with Stage(plan) as stage:
        stage.start_client()

        def running() -> Counter[str]:
            return Counter(execution.pilot for execution in Witness(stage.folder / "witness").begun)

        everywhere = {f"pilot.{number:04d}": CORES for number in range(PILOTS)}
        stage.until(lambda: running() == everywhere, "all pilots were busy")
        began_there = {execution.uid for execution in Witness(stage.folder / "witness").begun if execution.pilot == VICTIM}
        kill_pilot(stage, VICTIM)
        folder = stage.pilot_folder().parent / "client"
        stage.until(lambda: recover_state(folder).pilots[PilotUid(VICTIM)].state == FAILED, "the dead pilot was fenced")
        stage.open_gate()
        stage.finish()
        reports = stage.check(Harm(pilot=True))
        lost = {report.uid for report in reports if report.ending == "LOST"}
        # What had begun and may not run twice is lost; all else was done, by the other three.
        assert lost == {uid for uid in began_there if int(uid[-4:]) % 2}
        assert {report.ending for report in reports if report.uid not in lost} == {"DONE"}
        assert {report.pilot for report in reports if report.uid not in lost} == everywhere.keys() - {VICTIM}
        ended = Witness(stage.folder / "witness").ended
        assert sum(ended.values()) == sum(job.ranks for job in plan.jobs if job.uid not in lost)
        states = {uid: pilot.state for uid, pilot in recover_state(folder).pilots.items()}
        assert states.pop(PilotUid(VICTIM)) == FAILED
        assert set(states.values()) == {CANCELED}
