"""What a dead spawner has left of steps: those that it had noted are ended, by the batch system's own list."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotage.executors.left_steps import end_steps_of
from pilotage.model.ids import RunnerId
from pilotage.model.installed import Installed
from pilotage.spawner.steps import step_notes
from pilotage.testing.runner_driver import default_settings
from pilotage.wire.runner_settings import RunnerSettings, launch_folder

SPAWNER, OTHER = RunnerId("spawner.0"), RunnerId("spawner.1")
PATIENCE_S = 60.0

LISTS = """\
#!/bin/sh
echo "$SLURM_JOB_ID $*" >>{folder}/listed
cat {folder}/steps
"""
CANCELS = """\
#!/bin/sh
echo "$*" >>{folder}/cancelled
grep -v "^$1 " {folder}/steps >{folder}/left
mv {folder}/left {folder}/steps
"""


@pytest.fixture
def settings(tmp_path: Path) -> RunnerSettings:
    """Settings of a pilot in job 7, whose batch system is two scripts that keep their list in ``steps``."""
    for name, text in {"srun": "", "squeue": LISTS, "scancel": CANCELS}.items():
        (tmp_path / name).write_text(text.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "steps").write_text("7.batch batch\n7.1 pilotage:a:1\n7.2 pilotage:b:1\n7.3 pilotage:c:2\n")
    return default_settings(
        tmp_path, launchers={"srun": Installed(str(tmp_path / "srun"))}, allocation_environment={"SLURM_JOB_ID": "7"}
    )


def noted(settings: RunnerSettings, runner: RunnerId, *names: str) -> None:
    step_notes(settings, runner).mkdir(parents=True)
    for name in names:
        (step_notes(settings, runner) / name).touch()


def test_what_it_had_noted_is_ended_and_nothing_else(settings: RunnerSettings, tmp_path: Path) -> None:
    # One of them is over already, and one is another spawner's.
    noted(settings, SPAWNER, "pilotage:a:1", "pilotage:c:2", "pilotage:over:1")
    noted(settings, OTHER, "pilotage:b:1")

    assert end_steps_of(settings, SPAWNER, PATIENCE_S) == ""

    assert (tmp_path / "steps").read_text() == "7.batch batch\n7.2 pilotage:b:1\n"
    assert sorted((tmp_path / "cancelled").read_text().split()) == ["7.1", "7.3"]
    assert (tmp_path / "listed").read_text().splitlines()[0] == "7 --steps --noheader --jobs=7 --format=%i %j"
    assert not Path(launch_folder(settings, SPAWNER)).exists()
    assert step_notes(settings, OTHER).exists()


def test_where_nothing_is_noted_nobody_is_asked(settings: RunnerSettings, tmp_path: Path) -> None:
    assert end_steps_of(settings, SPAWNER, PATIENCE_S) == ""

    assert not (tmp_path / "listed").exists()


def test_a_batch_system_that_does_not_answer_leaves_it_unknown(
    settings: RunnerSettings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact' >&2; exit 1\n")
    noted(settings, SPAWNER, "pilotage:a:1")

    words = end_steps_of(settings, SPAWNER, 0.0)

    assert words == "; ranks that its launchers have started may still run, as the batch system does not tell of its steps"
    said = "squeue ended with exit code 1: slurm_load_jobs error: Unable to contact"
    assert f"steps of srun that may be left cannot be ended: {said}" in capfd.readouterr().err
