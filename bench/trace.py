"""What reading a run back from its logs costs: ``python bench/trace.py``; ``--quick`` for a tenth of the tasks.

The logs are those that the agent's core decides and the client would write for single-core tasks of a second on 100 nodes of
56 cores, one record a step. Seconds of CPU, least of three passes; the target is for reading the columns.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pilotage.analytics import Session
from pilotage.core.agent import events
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.agent.facts import LaunchRequested
from pilotage.core.client import facts as client
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.log.writer import LogWriter
from pilotage.model.execution import AttemptEnd
from pilotage.model.ids import Attempt, Binding, PilotUid, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.resources import Node, NodeShape
from pilotage.model.workload import Batch, Row, Template
from pilotage.trace import read_events, read_session
from pilotage.trace.usage import core_time

NODES, CORES = 100, 56
BATCH = 2000
ENDS_PER_MESSAGE = 500
TARGET_S = 3.0
"""For 100,000 tasks."""
PASSES = 3
PILOT = PilotUid("pilot.0000")
SPAWNER = RunnerId("spawner.0")

encode = msgspec.msgpack.encode


class RecordedAgent:
    """An agent's core on a clock of its own; what it decides goes to the log."""

    def __init__(self, writer: LogWriter, machine: list[Node]) -> None:
        self._writer = writer
        self.core = AgentCore(Scheduler(machine), spawners=1)
        self.running: dict[TaskUid, Attempt] = {}
        self._log(self.core.start(1.0))
        self.tell(events.RunnerConnected(2.0, SPAWNER, 100, 7, "boot"))
        self.tell(events.RunnerReconciled(2.0, SPAWNER, []))

    def tell(self, event: events.Event) -> None:
        self._log(self.core.handle(event))
        while self.core.next_deadline() == 0.0:
            self._log(self.core.handle(events.TimePassed(event.time)))

    def _log(self, step: Step) -> None:
        if step.facts:
            self._writer.append(encode(step.facts))
        for fact in step.facts:
            if isinstance(fact, LaunchRequested):
                for launch in fact.lanes:
                    self.running.update(launch.tasks)
        self.core.performed()


def write_run(session: Path, count: int) -> None:
    """Write the logs of a session whose one pilot ran ``count`` tasks."""
    machine = [Node(index, f"node{index}", NodeShape(CORES)) for index in range(NODES)]
    now = 3.0
    with (
        LogWriter.open(session / "client", writer="bench") as of_client,
        LogWriter.open(session / PILOT / "log", writer="bench") as of_agent,
    ):
        accepted = client.PilotAccepted(0.5, "pmgr.0000", PILOT, msgspec.Raw(encode({})), machine)
        of_client.append(encode([client.EpochBegun(0.5, 1), accepted, client.PilotLaunched(0.5, PILOT, 1, 2, "boot")]))
        agent = RecordedAgent(of_agent, machine)
        template = {TemplateId(1): Template(executable="/bin/true")}
        for number, first in enumerate(range(0, count, BATCH), start=1):
            rows = [Row(TaskUid(f"task.{i:06d}"), TemplateId(1)) for i in range(first, min(first + BATCH, count))]
            batch = Batch(template, rows)
            submitted = client.TasksAccepted(now, "tmgr.0000", PilotUid(""), PILOT, msgspec.Raw(encode(batch)))
            of_client.append(encode([submitted]))
            agent.tell(events.TasksSubmitted(now, number, Binding(1), batch))
        message = 0
        while agent.running:
            now += 1.0
            generation, agent.running = list(agent.running.items()), {}
            for first in range(0, len(generation), ENDS_PER_MESSAGE):
                message += 1
                ends = [
                    AttemptEnd(uid, attempt, Ending.DONE, 0, started=now - 0.99, ended=now - 0.01)
                    for uid, attempt in generation[first : first + ENDS_PER_MESSAGE]
                ]
                agent.tell(events.TasksEnded(now, SPAWNER, message, ends))
        while agent.core.has_news:
            agent.tell(events.LinkOpened(now))
        for number, outcomes in agent.core.state.undelivered.items():
            of_client.append(encode([client.OutcomesReceived(now, PILOT, number, msgspec.Raw(encode(outcomes)))]))


def least_cpu_s(work: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(PASSES):
        begun = time.process_time()
        work()
        best = min(best, time.process_time() - begun)
    return best


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Measure all; one dictionary a line of the table."""
    count = 10_000 if quick else 100_000
    target_s = TARGET_S * count / 100_000
    with tempfile.TemporaryDirectory() as name:
        session = Path(name) / "session"
        write_run(session, count)
        read = read_session(session)
        spent = core_time(read)
        assert not read.remarks and Session(read).figures().done == count and sum(spent.ticks.values()) == spent.held_ticks
        cases: list[tuple[str, Callable[[], Any], float | None]] = [
            ("read the columns", lambda: read_session(session), target_s),
            ("where the core-time went", lambda: core_time(read), None),
            ("figures, core-time included", lambda: Session(read).figures(), None),
            ("read the events", lambda: sum(1 for _ in read_events(session)), None),
        ]
        return [
            {"case": case, "tasks": count, "value": round(least_cpu_s(work), 3), "unit": "s of CPU", "target": target}
            for case, work, target in cases
        ]


def main() -> int:
    rows = run(quick="--quick" in sys.argv)
    missed = False
    for row in rows:
        late = row["target"] is not None and row["value"] > row["target"]
        missed |= late
        mark = "  MISSED" if late else ""
        target = f"target {row['target']:g}" if row["target"] is not None else ""
        print(f"{row['tasks']:>9,} tasks: {row['case']:<28} {row['value']:>7.3f} {row['unit']}  {target}{mark}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
