"""Runs whose times a test sets one by one: tasks on a pilot of some nodes, each in a lane of its own unless told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pilotage.analytics import Session
from pilotage.analytics.report import Report, build_report
from pilotage.model.ids import LaneId, PilotUid, RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import GPU_SHARES, Node, NodeShape, NodeShare, core_mask
from pilotage.trace.run import STATIONS, PilotTrace, Run, RunnerTrace, Shape

PILOT = "pilot.0000"


class InventedRun:
    """A run with one pilot, or several, that held its nodes from ``begin`` to ``end`` and was ready at once."""

    def __init__(self, nodes: int = 1, cores: int = 4, gpus: int = 0, memory: int = 64, **times: float) -> None:
        self.run = Run(Path("/invented/session.invented"))
        self.add_pilot(PILOT, nodes, cores, gpus, memory, **times)

    def add_pilot(
        self,
        uid: str,
        nodes: int = 1,
        cores: int = 4,
        gpus: int = 0,
        memory: int = 64,
        *,
        begin: float = 100.0,
        ready: float = 100.0,
        end: float = 200.0,
        resource: str = "test.cluster",
    ) -> PilotTrace:
        pilot = self.run.pilot(PilotUid(uid))
        pilot.nodes = [Node(index, f"node{index}", NodeShape(cores, gpus, memory)) for index in range(nodes)]
        pilot.resource, pilot.state = resource, "DONE"
        pilot.launched, pilot.active, pilot.final = begin, ready, end
        runner = RunnerId("spawner.0")
        pilot.runners[runner] = RunnerTrace(runner, 0, begin, ready)
        return pilot

    def add(
        self,
        started: float = 0.0,
        ended: float = 0.0,
        *,
        pilot: str = PILOT,
        name: str = "",
        kind: str = "executable",
        cores: int = 1,
        gpus: float = 0.0,
        memory_mib: int = 0,
        node: int = 0,
        core: int = 0,
        lane: int | None = None,
        runner: str = "spawner.0",
        ending: Ending | None = Ending.DONE,
        message: str = "",
        error_line: str = "",
        exit_code: int | None = None,
        **stations: float,
    ) -> str:
        """Add a task that ran from ``started`` to ``ended`` (0.0: not yet); other stations as told, or at ``started``."""
        tasks, found = self.run.tasks, self.run.pilots[PilotUid(pilot)]
        uid = TaskUid(f"task.{len(tasks):04d}")
        tasks.extend([(uid, name, Shape(kind, cores, gpus, 1, memory_mib))])
        i = tasks.index[uid]
        tasks.pilot[i], tasks.node[i] = PilotUid(pilot), node if started else -1
        tasks.message[i], tasks.error_line[i], tasks.exit_code[i] = message, error_line, exit_code
        tasks.ending[i] = ending if ended or not started else None
        times: dict[str, float] = {}
        if started:
            times = dict.fromkeys(("submitted", "bound", "accepted", "launched", "started"), started) | {"ended": ended}
            times |= dict.fromkeys(("collected", "final"), ended)
        for station, time in (times | stations).items():
            assert station in STATIONS
            getattr(tasks, station)[i] = time
        if started:
            self._launch(found, i, lane, node, core, cores, gpus, runner)
        return uid

    def _launch(
        self, pilot: PilotTrace, i: int, lane: int | None, node: int, core: int, cores: int, gpus: float, runner: str
    ) -> None:
        tasks, lanes = self.run.tasks, pilot.lanes
        wait = pilot.waits.add(i, tasks.accepted[i])
        pilot.waits.until[wait] = tasks.launched[i]
        if lane is None:
            lane = len(lanes)
            mask = core_mask(((1 << cores) - 1) << core)
            shares = tuple((gpu, GPU_SHARES) for gpu in range(int(gpus))) or (((0, round(gpus * GPU_SHARES)),) if gpus else ())
            lanes.uid.append(LaneId(lane + 1))
            lanes.runner.append(RunnerId(runner))
            lanes.placement.append((NodeShare(node, 1, mask, shares),))
            lanes.nodes.append(1)
            lanes.node.append(node)
            lanes.first_core.append(core)
            lanes.cores.append(cores)
            lanes.gpu_shares.append(round(gpus * GPU_SHARES))
            lanes.opened.append(tasks.launched[i])
            lanes.closed.append(0.0)
        attempt = pilot.attempts.add(i, lane, tasks.launched[i])
        pilot.attempts.started[attempt], pilot.attempts.ended[attempt] = tasks.started[i], tasks.ended[i]
        lanes.closed[lane] = tasks.ended[i]

    def session(self) -> Session:
        return Session(self.run)


def session_of(*spans: tuple[float, float], **pilot: Any) -> Session:
    """A session whose tasks started and ended at these times, on as many cores as there are tasks."""
    made = InventedRun(cores=max(1, len(spans)), **pilot)
    for core, (started, ended) in enumerate(spans):
        made.add(started, ended, core=core)
    return made.session()


def report_of(session: Session, state: str = "closed") -> Report:
    """The report of a session that was read at 1000."""
    return build_report(session, state=state, read_at=1000.0)


def varied_run() -> InventedRun:
    """Executables and a function, done, failed, cancelled and running, with GPUs, on two nodes."""
    made = InventedRun(nodes=2, cores=2, gpus=1, ready=101.0)
    made.add(102.0, 112.0, name="md 1", cores=2, gpus=1, accepted=101.0)
    made.add(104.0, 108.0, name="md 2", node=1, ending=Ending.EXITED, message="exited with code 1", exit_code=1)
    made.add(108.0, 109.0, node=1, kind="function", runner="worker.1")
    made.add(110.0, 0.0, node=1, name="analysis")
    made.add(110.0, 111.0, node=1, core=1, ending=Ending.CANCELLED)
    return made
