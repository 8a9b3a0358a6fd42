"""What submitting a pilot would come to, without a batch system: its commands are played."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from pilotage.batch.commands import CommandResult
from pilotage.client.dry_run import DryRun, dry_run
from pilotage.client.pilot_description import PilotDescription
from pilotage.errors import InvalidPilot
from pilotage.platforms.platform import Platform, QueueLimits

BLUE = Platform(
    name="lab.blue",
    batch="slurm",
    queue="long",
    cores_per_node=8,
    sandbox="/scratch/me",
    queues={"long": QueueLimits(max_walltime_minutes=600, max_nodes=64)},
)
RED = Platform(name="lab.red", batch="pbspro", cores_per_node=8, sandbox="/scratch/me")


class Player:
    """Ends each command with the same result, and notes what was run, and the scripts."""

    def __init__(self, exit_code: int = 0, stderr: str = "") -> None:
        self.result = CommandResult(exit_code, "", stderr)
        self.run_commands: list[list[str]] = []
        self.scripts: list[str] = []

    def run(self, arguments: Sequence[str], timeout_s: float) -> CommandResult:
        self.run_commands.append(list(arguments))
        self.scripts.append(Path(arguments[-1]).read_text())
        return self.result


def pilot(**attributes: object) -> PilotDescription:
    return PilotDescription({"resource": "lab.blue", "nodes": 4, "runtime": 90, **attributes})


def test_the_script_the_cost_and_the_start_are_told_and_nothing_is_submitted() -> None:
    player = Player(stderr="sbatch: Job 7 to start at 1795000000 using 32 processors on nodes node[1-4] in partition long\n")
    made = dry_run(BLUE, pilot(project="abc"), runner=player)

    assert [command[-2] for command in player.run_commands] == ["--test-only"]
    assert player.scripts == [made.script]
    assert not Path(player.run_commands[0][-1]).exists()
    assert {"#SBATCH --nodes=4", "#SBATCH --partition=long", "#SBATCH --account=abc"} <= set(made.script.splitlines())
    assert made.command == ("sbatch", "--parsable", "/scratch/me/SESSION/pilot.0000/job.sh")
    assert (made.nodes, made.start_s, made.refused) == (4, 1795000000.0, "")
    assert made.node_hours == pytest.approx(4 * made.walltime_s / 3600)
    assert made.walltime_s >= 90 * 60


def test_it_reads_as_a_person_wants_it() -> None:
    made = DryRun(
        platform="lab.blue", batch="slurm", script="#!/bin/sh\n", command=("sbatch", "a b"), nodes=1200, walltime_s=5400
    )
    text = changed(made, start_s=1795000600.0).text(now_s=1795000000.0)
    assert "#!/bin/sh\n" in text
    assert "would be submitted by: sbatch 'a b'\n" in text
    assert "1,200 nodes for up to 1.5 h on lab.blue: 1,800 node-hours at most\n" in text
    assert "10 min from now, as slurm sees it\n" in text
    assert "slurm does not tell when it would start\n" in made.text()
    assert "slurm would refuse it: no such account\n" in changed(made, refused="no such account").text()


def changed(made: DryRun, **changes: object) -> DryRun:
    return msgspec.structs.replace(made, **changes)


def test_what_the_batch_system_would_refuse_is_told_in_its_words() -> None:
    player = Player(
        1, "sbatch: error: Batch job submission failed:\n Invalid account or account/partition combination specified\n"
    )
    made = dry_run(BLUE, pilot(), runner=player)
    assert "failed: Invalid account or account/partition combination" in made.refused
    assert made.start_s is None


def test_a_system_without_estimates_is_not_asked() -> None:
    player = Player()
    made = dry_run(RED, pilot(resource="lab.red"), runner=player)
    assert player.run_commands == []
    assert (made.start_s, made.refused) == (None, "")
    assert made.command[0] == "qsub"


@pytest.mark.parametrize(
    ("on", "attributes", "message"),
    [
        (Platform(name="local.localhost"), {"resource": "local.localhost", "nodes": 1}, "has no batch system"),
        (BLUE, {"runtime": 700}, "runtime=700"),
        (BLUE, {"nodes": 65}, "65 nodes exceed the 64 of queue 'long' on lab.blue"),
        (BLUE, {"nodes": 0}, "cores"),
    ],
)
def test_what_cannot_be_is_refused_without_asking(on: Platform, attributes: dict[str, object], message: str) -> None:
    player = Player()
    with pytest.raises(InvalidPilot, match=message):
        dry_run(on, pilot(**attributes), runner=player)
    assert player.run_commands == []
