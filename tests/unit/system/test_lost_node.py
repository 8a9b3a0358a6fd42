"""A pilot's node was lost and is up again: the end of the agent's log may be missing, so absence from it proves nothing."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from pilotage.agent.fencing import fence
from pilotage.agent.settings import CONNECTION_FILE, LOG_FOLDER, PilotSettings, write_settings
from pilotage.core.agent import facts
from pilotage.log.writer import LogWriter
from pilotage.model.ids import Binding, PilotUid, SessionUid, TaskUid, TemplateId
from pilotage.model.workload import Batch, Row, Template
from pilotage.system.processes import boot_id
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
