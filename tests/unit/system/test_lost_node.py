"""A pilot's node was lost and is up again: the end of the agent's log may be missing, so absence from it proves nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from pilotage.agent.bootstrap import FORBIDDEN_FILE
from pilotage.agent.claim import FORBIDDEN_FILE as FORBIDDEN_TO_PARTITIONS
from pilotage.agent.fencing import fence, fence_job
from pilotage.agent.settings import CONNECTION_FILE, LOG_FOLDER, PilotSettings, write_settings
from pilotage.core.agent import facts
from pilotage.log.writer import LogWriter
from pilotage.model.ids import Binding, PilotUid, SessionUid, TaskUid, TemplateId
from pilotage.model.workload import Batch, Row, Template
from pilotage.system.processes import boot_id
from pilotage.system.python import python_command
from pilotage.wire.keys import Connection, write_connection


def pilot_of_boot(folder: Path, boot_id: str) -> Path:
    """A pilot whose agent, in that life of the node, had logged that it has a task, and maybe more that is lost."""
    folder.mkdir(mode=0o700)
    settings = PilotSettings(
        session=SessionUid(f"session.{os.getpid()}"),
        pilot=PilotUid("pilot.0000"),
        session_folder=str(folder),
        pilot_folder=str(folder),
        blob_folder=str(folder),
        nodes=[],
    )
    write_settings(settings)
    write_connection(folder / CONNECTION_FILE, Connection(settings.pilot, 1, os.uname().nodename, boot_id, 1 << 30, 1))
    batch = Batch({TemplateId(1): Template(executable="/bin/true")}, [Row(TaskUid("a"), TemplateId(1))])
    log = LogWriter.open(folder / LOG_FOLDER, writer="pilot.0000.1")
    log.append(msgspec.msgpack.encode([facts.TasksAccepted(1.0, 1, Binding(1), batch)]))
    log.close()
    return folder


def test_what_a_lost_node_had_may_have_run(tmp_path: Path) -> None:
    found = fence(pilot_of_boot(tmp_path / "pilot", "a boot before this one"), 0)
    assert (found.received, found.not_begun, found.may_have_run) == (None, [], [(TaskUid("a"), Binding(1))])


def test_what_an_agent_of_this_boot_never_launched_did_not_begin(tmp_path: Path) -> None:
    assert fence(pilot_of_boot(tmp_path / "pilot", boot_id()), 0).not_begun == [(TaskUid("a"), Binding(1))]


@pytest.mark.parametrize("where", ["this machine", "another one"])
def test_what_a_job_left_is_in_its_log_whatever_machine_it_was_on(tmp_path: Path, where: str) -> None:
    folder = pilot_of_boot(tmp_path / "pilot", boot_id() if where == "this machine" else "the boot of another machine")
    found = fence_job(folder, 0, complete=True)
    assert (found.received, found.not_begun, found.may_have_run) == (1, [(TaskUid("a"), Binding(1))], [])


def test_the_end_of_a_log_may_be_lost_with_a_node_of_the_job(tmp_path: Path) -> None:
    found = fence_job(pilot_of_boot(tmp_path / "pilot", boot_id()), 0, complete=False)
    assert (found.received, found.not_begun, found.may_have_run) == (None, [], [(TaskUid("a"), Binding(1))])


def test_no_job_begins_any_more_for_a_pilot_that_is_given_up(tmp_path: Path) -> None:
    folder = pilot_of_boot(tmp_path / "pilot", boot_id())
    fence_job(folder, 0, complete=True)
    assert FORBIDDEN_FILE == FORBIDDEN_TO_PARTITIONS
    command = python_command("pilotage.agent.bootstrap", str(folder), "-1")
    begun = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "SLURM_JOB_ID": "12"})
    assert begun.returncode == 1
    assert "was given up before this job began" in begun.stderr
