"""Pilots in jobs of a test's cluster: their folder is written by hand, and their agent is talked to over TCP."""

from __future__ import annotations

import json
import os
import select
import shlex
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from slurm_cluster import PATIENCE_S, SlurmCluster

from pilotage.agent.settings import CONNECTION_FILE, PilotSettings, write_settings
from pilotage.errors import PilotageError
from pilotage.model.ids import Binding, PilotUid, SessionUid, TaskUid, TemplateId
from pilotage.model.outcome import Outcome
from pilotage.model.partitions import PartitionSpec
from pilotage.model.resources import Node, NodeShape, Request
from pilotage.model.workload import Batch, Row, Template
from pilotage.system.python import python_command
from pilotage.wire import messages as wire
from pilotage.wire.agent_link import HEARTBEAT_S
from pilotage.wire.channel import Disconnected
from pilotage.wire.keys import generate_key_pair, read_connection
from pilotage.wire.tcp import TcpClientChannel

BINDING = Binding(1)
_decode_outcomes = msgspec.msgpack.Decoder(list[Outcome]).decode


def shell(**fields: Any) -> Template:
    """Return a template of tasks that run lines of shell; takes the fields of a ``Request`` and of a ``Template``."""
    request = Request(**{name: fields.pop(name) for name in Request.__struct_fields__ if name in fields})
    return Template(executable="/bin/sh", request=request, **fields)


class SlurmPilot:
    """A pilot in a job on ``nodes`` nodes. ``options``: of sbatch. ``settings``: where they differ from those below."""

    def __init__(self, slurm: SlurmCluster, folder: Path, *options: str, nodes: int = 4, **settings: Any) -> None:
        self.slurm = slurm
        self.folder = folder
        self._keys = generate_key_pair()
        folder.mkdir(mode=0o700)
        fields: dict[str, Any] = {
            # Processes are found by session and pilot, and another run of these tests may be on this machine.
            "session": SessionUid(f"s.{os.getpid()}"),
            "pilot": PilotUid("pilot"),
            "session_folder": str(folder),
            "pilot_folder": str(folder),
            "blob_folder": str(folder / "blobs"),
            "nodes": [],
            "executor": "cluster",
            "batch": "slurm",
            "transport": "tcp",
            "client_keys": [self._keys.public],
            "environment": {**os.environ, "SLURM_JOB_ID": "around the client", "USERS_OWN": "set"},
            "working_folder": str(folder),
            "emulated": NodeShape(8, 4, 200, 200),
            "bind": False,
            "hosts_timeout_s": PATIENCE_S,
            **settings,
        }
        self.settings = PilotSettings(**fields)
        write_settings(self.settings)
        self.nodes: list[Node] = []
        self.incarnation = 0
        self.outcomes: dict[TaskUid, Outcome] = {}
        self.started: dict[TaskUid, int] = {}
        """The attempt at each task that was told to run last."""
        self.services: dict[TaskUid, str] = {}
        """The services that are ready, and what is told of them."""
        self.notices: list[str] = []
        self.ended: wire.PilotEnded | None = None
        self._channel: TcpClientChannel | None = None
        self._greeted = False
        self._said_at = 0.0
        self._durable = 0
        self._sent: list[bytes] = []
        self._templates = 0
        script = folder / "job.sh"
        command = python_command("pilotage.agent.bootstrap", str(folder), "-1")
        script.write_text(f"#!/bin/sh\nexec {shlex.join(command)}\n")
        self.job = slurm.submit(f"--nodes={nodes}", "--requeue", "--open-mode=append", *options, str(script))

    # ------------------------------------------------------------------------------------------------------- the client

    def submit(self, *tasks: tuple[str, Template, tuple[str, ...]]) -> list[TaskUid]:
        """Submit tasks: the uid of each, its template and its line of shell with its arguments."""
        templates: dict[TemplateId, Template] = {}
        known: dict[int, TemplateId] = {}
        rows = []
        for uid, one, arguments in tasks:
            if id(one) not in known:
                self._templates += 1
                known[id(one)] = TemplateId(self._templates)
                templates[TemplateId(self._templates)] = one
            rows.append(Row(TaskUid(uid), known[id(one)], ("-c", *arguments)))
        batch = msgspec.Raw(msgspec.msgpack.encode(Batch(templates, rows)))
        self._send(wire.Submit(len(self._sent) + 1, BINDING, batch))
        return [row.uid for row in rows]

    def add_partition(self, spec: PartitionSpec) -> None:
        """Have a partition more."""
        self._send(wire.AddPartition(len(self._sent) + 1, spec))

    def retire_partition(self, name: str) -> None:
        """Have a partition ended when its tasks are done."""
        self._send(wire.RetirePartition(len(self._sent) + 1, name))

    def end(self, *, drain: bool = False) -> wire.PilotEnded:
        """End the pilot, and return its last word."""
        self._send(wire.EndPilot(len(self._sent) + 1, drain))
        self.wait(lambda: self.ended, "the pilot ends")
        assert self.ended is not None
        self.slurm.wait_for_job(self.job, "COMPLETED", "FAILED", "CANCELLED")
        return self.ended

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Talk to the agent until a condition holds; connect again as often as it takes."""
        until = time.monotonic() + 2 * PATIENCE_S
        while not condition():
            assert time.monotonic() < until, f"not after {2 * PATIENCE_S:.0f} s: {what}\n{self.story()}"
            self._turn()

    def wait_for(self, uids: Iterable[TaskUid]) -> list[Outcome]:
        """Return the outcomes of these tasks when all have one."""
        uids = list(uids)
        self.wait(lambda: all(uid in self.outcomes for uid in uids), f"{len(uids)} tasks end; {len(self.outcomes)} have")
        return [self.outcomes[uid] for uid in uids]

    def come_up(self) -> list[Node]:
        """Return the pilot's nodes when its agent has said hello."""
        self.wait(lambda: self._greeted, "the agent says hello")
        return self.nodes

    def output(self, uid: str) -> str:
        """Return what a task has printed."""
        found = list((self.folder / "tasks").glob(f"**/{uid}.out"))
        return found[0].read_text() if found else ""

    def story(self) -> str:
        """Return all that was printed, for those who want to know what went wrong."""
        printed = [*self.folder.glob("*.err"), *self.folder.glob("partitions/*/*.err"), *self.folder.glob("*.out")]
        parts = [f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in printed]
        job = self.slurm.run("scontrol", "--oneliner", "show", "job", self.job).stdout
        return "\n".join([job, self.slurm.job_output(self.job), *parts])

    def close(self) -> None:
        """Let go of the connection."""
        self._drop()

    def found(self) -> dict[str, Any]:
        """Return what the agent has written down of its nodes."""
        told: dict[str, Any] = json.loads((self.folder / "nodes.json").read_text())
        return told

    # ------------------------------------------------------------------------------------------------------- below

    def _send(self, message: wire.FromClient) -> None:
        self._sent.append(msgspec.msgpack.encode(message))
        if self._greeted and self._channel is not None:
            self._channel.send(self._sent[-1])

    def _turn(self) -> None:
        if self._channel is None:
            try:
                connection = read_connection(self.folder / CONNECTION_FILE)
            except (FileNotFoundError, PilotageError):
                time.sleep(0.02)
                return
            self._channel = TcpClientChannel.connect(connection.tcp[0], self._keys, connection.server_key)
            self._channel.send(wire.ClientHello(wire.PROTOCOL, self.settings.session, 1, self._durable))
        if time.monotonic() >= self._said_at + HEARTBEAT_S:
            self._said_at = time.monotonic()
            self._channel.send(wire.Heartbeat())
        select.select([self._channel], [], [], 0.2)
        try:
            messages = self._channel.receive()
        except Disconnected:
            self._drop()
            time.sleep(0.02)
            return
        for message in messages:
            self._hear(message)

    def _hear(self, message: wire.FromAgent) -> None:
        assert self._channel is not None
        match message:
            case wire.AgentHello():
                self._greeted, self.nodes, self.incarnation = True, message.nodes, message.incarnation
                for frame in self._sent[message.durable :]:
                    self._channel.send(frame)
            case wire.Outcomes():
                if message.number > self._durable:
                    self.outcomes |= {outcome.task: outcome for outcome in _decode_outcomes(message.outcomes)}
                self._acknowledge(message.number)
            case wire.PilotEnded():
                self.ended = message
                self._acknowledge(message.number)
            case wire.Progress():
                self.started |= {uid: attempt for uid, _, attempt, _ in message.started}
                self.services |= {uid: info for uid, _, _, info in message.services}
                self.notices += [message.notice] if message.notice else []
            case wire.Refused():
                raise AssertionError(message.reason)
            case _:
                pass

    def _acknowledge(self, number: int) -> None:
        self._durable = max(self._durable, number)
        assert self._channel is not None
        self._channel.send(wire.Acknowledge(self._durable, self._durable))

    def _drop(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._channel, self._greeted = None, False
