"""What a session answers: filters, ranges, durations, concurrency, rates, utilisation; also of parts of it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from invented_runs import PILOT, InventedRun, session_of
from trace_builders import AgentLog, ClientLog, batch, outcome, random_run

from pilotage.analytics import STAGES, Session
from pilotage.analytics.parts import SCHEMES
from pilotage.errors import InvalidRequest
from pilotage.model.outcome import Ending
from pilotage.trace import read_session
from pilotage.trace.run import HELD


def column(frame: pl.DataFrame, name: str) -> list:
    return frame[name].to_list()


# ----------------------------------------------------------------------------------------------------------- opening


def test_a_session_is_found_by_folder_and_by_uid(session_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = session_folder.parent / "home"
    (home / "sessions" / "session.one").mkdir(parents=True)
    monkeypatch.setenv("PILOTAGE_HOME", str(home))
    assert Session.read("session.one").uid == "session.one"
    assert Session.read(session_folder).uid == "session.test"
    with pytest.raises(InvalidRequest, match=r"no session of this uid in .*did you mean 'session.one'"):
        Session.read("session.onn")


def test_an_empty_session_has_answers_too(session_folder: Path) -> None:
    session = Session.read(session_folder)
    assert session.tasks.height == session.attempts.height == session.failures().height == 0
    assert session.figures().tasks == 0
    assert column(session.concurrency(), "count") == [0.0]
    assert session.utilization()["core_s"].sum() == 0.0
    assert "no log of a session" in session.remarks[0]


def test_clocks_are_brought_together_when_a_session_is_read(session_folder: Path) -> None:
    user, agent = ClientLog(session_folder), AgentLog(session_folder)
    user.begin(100.0, PILOT)
    user.submit(102.0, batch(["task.0"]))
    agent.start(1000.5, 1000.75)
    agent.submit(1003.0, batch(["task.0"]))
    agent.ended(1007.0, ("task.0", 1004.0, 1006.0))
    user.receive(107.5, [outcome("task.0", 1003.0, 1003.0, 1004.0, 1006.0)])
    agent.writer.close()
    session = Session.read(session_folder)
    assert session.offsets[0].seconds == pytest.approx(-900.0, abs=0.6)
    assert 102.0 <= session.tasks["accepted"][0] <= session.tasks["collected"][0] <= 107.5
    assert session.consistency()["violations"].sum() == 0


# ----------------------------------------------------------------------------------------------------------- one question


def test_timestamps_and_durations_are_of_tasks_that_passed() -> None:
    session = session_of((101.0, 104.0), (102.0, 103.0), (105.0, 0.0))
    assert session.timestamps("started").to_list() == [101.0, 102.0, 105.0]
    assert session.durations("started", "ended").to_list() == [3.0, 1.0]
    assert session.durations("submitted", "started").to_list() == [0.0, 0.0, 0.0]


def test_ranges_are_stays_and_what_is_not_over_ends_with_the_logs() -> None:
    session = session_of((101.0, 104.0), (103.0, 0.0), end=110.0)
    assert list(session.ranges("running").select("task", "begin", "end").iter_rows()) == [
        ("task.0000", 101.0, 104.0),
        ("task.0001", 103.0, 110.0),
    ]
    assert list(session.ranges("AGENT_EXECUTING", collapsed=True).iter_rows()) == [(101.0, 110.0)]
    assert session.duration("running") == 9.0
    assert column(session.over("running"), "end") == [104.0]


def test_each_stage_lies_between_its_stations() -> None:
    made = InventedRun()
    stations = dict(zip(("submitted", "freed", "bound", "accepted", "staged_in", "launched"), range(101, 107), strict=True))
    made.add(107.0, 109.0, **stations, collected=110.0, staged_out=112.0, final=115.0)
    session = made.session()
    lengths = {stage.stage: (stage.count, stage.total_s) for stage in session.stages()}
    assert lengths == {
        "held": (1, 1.0), "binding": (1, 1.0), "sending": (1, 1.0), "staging in": (1, 1.0), "waiting": (1, 2.0),
        "launching": (1, 1.0), "running": (1, 2.0), "collecting": (1, 1.0), "staging out": (1, 2.0), "delivery": (1, 3.0),
    }  # fmt: skip
    assert [stage.stage for stage in session.stages()] == [stage.name for stage in STAGES]


def test_a_task_that_has_not_gone_on_is_in_one_stage_alone() -> None:
    made = InventedRun(end=150.0)
    made.add(ending=None, submitted=110.0)
    made.add(ending=None, submitted=110.0)
    made.run.tasks.aside[1] = HELD
    made.add(110.0, 120.0, ending=Ending.CANCELLED, collected=0.0)
    session = made.session()
    inside = {stage.name: column(session.ranges(stage.name), "task") for stage in STAGES if session.ranges(stage.name).height}
    # The one that was cancelled is final: it will never be collected.
    assert inside.pop("held") == ["task.0001"]
    assert inside.pop("binding") == ["task.0000", "task.0002"]
    assert all(tasks == ["task.0002"] for tasks in inside.values())
    assert column(session.ranges("collecting"), "task") == []
    assert column(session.ranges("held"), "end") == [150.0]


def test_a_repeated_task_counts_once_a_launch(session_folder: Path) -> None:
    for seed in range(12):
        random_run(session_folder / str(seed), seed)
        session = Session.read(session_folder / str(seed))
        launched = sum(len(pilot.attempts) for pilot in session.run.pilots.values())
        assert session.attempts.height == launched
        assert len(session.timestamps("launched")) == launched
        again = session.attempts.filter(pl.col("ending") == "REPEATED")
        assert again.height == launched - session.attempts["row"].n_unique()


# ----------------------------------------------------------------------------------------------------------- over time


def test_concurrency_and_rates_share_their_intervals() -> None:
    session = session_of((100.0, 102.0), (100.5, 101.0), begin=100.0, end=103.0)
    assert list(session.concurrency(interval_s=1.0).iter_rows()) == [(100.0, 1.5), (101.0, 1.0), (102.0, 0.0)]
    assert list(session.rate("started", 1.0).iter_rows()) == [(100.0, 2.0), (101.0, 0.0), (102.0, 0.0)]
    assert column(session.rate("ended", 1.0), "rate") == [0.0, 1.0, 1.0]


def test_concurrency_by_what_tasks_are_and_where_they_run() -> None:
    made = InventedRun(nodes=2, gpus=2, end=104.0)
    made.add(100.0, 104.0, cores=2, gpus=1.5)
    made.add(100.0, 102.0, node=1, kind="function", runner="worker.1")
    session = made.session()

    def by(per: str, weight: str = "tasks") -> list[tuple]:
        found = session.concurrency(interval_s=2.0, per=per, weight=weight)  # type: ignore[arg-type]
        return list(found.select(per, "count").iter_rows())

    assert by("runner") == [("spawner.0", 1.0), ("spawner.0", 1.0), ("worker.1", 1.0), ("worker.1", 0.0)]
    assert by("node", "cores") == [(0, 2.0), (0, 2.0), (1, 1.0), (1, 0.0)]
    assert by("kind", "gpus") == [("executable", 1.5), ("executable", 1.5), ("function", 0.0), ("function", 0.0)]
    assert list(session.rate("ended", 2.0, per="kind").select("kind", "rate").iter_rows()) == [
        ("executable", 0.0), ("executable", 0.5), ("function", 0.0), ("function", 0.5),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2, 4])
def test_parts_add_up_to_the_whole(session_folder: Path, seed: int) -> None:
    random_run(session_folder, seed)
    session = Session.read(session_folder)
    whole = session.concurrency(interval_s=0.5)["count"].to_list()
    assert any(whole)
    for per in ("runner", "node", "kind", "group"):
        parts = session.concurrency(interval_s=0.5, per=per).group_by("time").agg(pl.col("count").sum()).sort("time")
        assert parts["count"].to_list() == pytest.approx(whole)


def test_what_cannot_be_told_apart_and_intervals_without_length_are_refused() -> None:
    session = session_of((100.0, 102.0))
    with pytest.raises(InvalidRequest, match="not known per 'user'; give one of pilot, runner, node, kind, group"):
        session.concurrency(per="user")
    with pytest.raises(InvalidRequest, match="not known per 'runner'; give one of pilot, node, kind, group"):
        session.rate("final", per="runner")
    for interval_s in (0.0, -1.0, 1e-9):
        with pytest.raises(InvalidRequest, match=r"interval_s=.* give at least 0.0001"):
            session.concurrency(interval_s=interval_s)


# ----------------------------------------------------------------------------------------------------------- resources


def test_utilisation_divides_what_the_pilots_held() -> None:
    session = session_of((100.0, 150.0), (100.0, 200.0), ready=100.0)
    parts = {part: (seconds, share) for part, seconds, share in session.utilization().iter_rows()}
    assert parts["running"] == pytest.approx((150.0, 0.75))
    assert parts["idle"] == pytest.approx((50.0, 0.25))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_scheme_has_the_same_sum_and_the_same_work(session_folder: Path, scheme: str) -> None:
    random_run(session_folder, 3)
    session = Session.read(session_folder)
    books = session.core_time()
    table = session.utilization(scheme=scheme)
    assert table["core_s"].sum() == pytest.approx(books.held_ticks / 1e6)
    assert table["share"].sum() == pytest.approx(1.0)
    over_time = session.utilization_over_time(scheme=scheme, bins=50)
    width = session.core_time(bins=50).bin_ticks / 1e6
    for part, seconds in table.select("part", "core_s").iter_rows():
        assert over_time[part].sum() * width == pytest.approx(seconds)


def test_phases_are_those_of_the_states() -> None:
    made = InventedRun(cores=1, ready=110.0)
    made.add(130.0, 150.0, accepted=115.0, launched=120.0, collected=160.0, final=160.0)
    made.run.pilots[PILOT].lanes.closed[0] = 160.0
    made.run.pilots[PILOT].ending = 190.0
    parts = dict(made.session().utilization(scheme="phases").select("part", "core_s").iter_rows())
    assert parts == {
        "exec cmd": 20.0, "pilot startup": 10.0, "warmup": 5.0, "prepare exec": 10.0, "drain": 20.0, "idle": 35.0,
    }  # fmt: skip


def test_running_time_by_a_column_of_tasks() -> None:
    made = InventedRun(cores=2)
    made.add(100.0, 130.0, name="md 1")
    made.add(100.0, 110.0, name="md 2", core=1)
    made.add(110.0, 115.0, name="analysis 1", core=1)
    parts = dict(made.session().utilization(by="group").select("part", "core_s").iter_rows())
    assert (parts["running: md #"], parts["running: analysis #"]) == (40.0, 5.0)


def test_gpus_are_told_in_gpus() -> None:
    made = InventedRun(gpus=2)
    made.add(100.0, 150.0, gpus=0.5)
    session = made.session()
    table = session.utilization("gpus")
    assert table.columns == ["part", "gpu_s", "share"]
    assert dict(table.select("part", "gpu_s").iter_rows())["running"] == pytest.approx(25.0)
    assert session.figures().gpu_utilisation == pytest.approx(0.125)


def test_several_pilots_are_told_together_and_apart() -> None:
    made = InventedRun(cores=1)
    made.add_pilot("pilot.0001", cores=3, begin=120.0, ready=120.0, end=180.0)
    made.add(100.0, 200.0)
    made.add(120.0, 150.0, pilot="pilot.0001", cores=3)
    session = made.session()
    apart = session.utilization(per_pilot=True).filter(pl.col("part") == "running")
    assert list(apart.select("pilot", "core_s", "share").iter_rows()) == [
        (PILOT, 100.0, 1.0), ("pilot.0001", 90.0, 0.5),
    ]  # fmt: skip
    assert session.figures().utilisation == pytest.approx(190 / 280)
    alone = session.filter(pilot="pilot.0001")
    assert (alone.begin, alone.figures().tasks, alone.figures().utilisation) == (100.0, 1, 0.5)
    assert column(session.concurrency(interval_s=50.0, per="pilot"), "pilot") == [PILOT] * 2 + ["pilot.0001"] * 2


def test_a_scheme_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="did you mean 'phases'"):
        session_of((100.0, 101.0)).utilization(scheme="phase")


# ----------------------------------------------------------------------------------------------------------- filters


def test_filters_choose_tasks_and_leave_the_rest_out_of_everything() -> None:
    made = InventedRun(cores=4)
    made.add(100.0, 140.0, name="md 1", cores=2)
    made.add(100.0, 110.0, name="md 2", core=2, ending=Ending.EXITED)
    made.add(100.0, 120.0, name="analysis", core=3, kind="function")
    session = made.session()
    chosen = session.filter(name="md*", state="DONE")
    assert column(chosen.tasks, "uid") == column(chosen.attempts, "task") == ["task.0000"]
    assert chosen.figures().utilisation == pytest.approx(80 / 400)
    parts = dict(chosen.utilization().select("part", "core_s").iter_rows())
    assert (parts["running: chosen"], parts["running: others"]) == (80.0, 30.0)
    assert column(session.filter(kind=["function", "nothing"]).tasks, "name") == ["analysis"]
    assert column(session.filter(uid=("*.0000", "*.0002")).tasks, "uid") == ["task.0000", "task.0002"]
    assert column(session.filter(ending="EXITED").tasks, "uid") == column(session.filter(name="md 2").tasks, "uid")
    assert session.filter(name="[").tasks.height == session.filter(uid=[]).tasks.height == 0
    # A filter of a filter, and the first one is as it was.
    assert chosen.filter(group="md #").tasks.height == 1
    assert session.tasks.height == 3


def test_what_only_the_client_knows_has_attempts_too(session_folder: Path) -> None:
    user = ClientLog(session_folder)
    user.begin(100.0, PILOT)
    user.submit(101.0, batch(["task.0", "task.1"]))
    user.receive(110.0, [outcome("task.0", 102.0, 103.0, 104.0, 108.0)])
    session = Session(read_session(session_folder))
    assert list(session.attempts.select("task", "lane", "runner", "started", "ended").iter_rows()) == [
        ("task.0", None, "", 104.0, 108.0)
    ]
    assert session.duration("running") == 4.0
    assert session.duration("waiting") == 1.0


def test_events_are_those_of_the_trace(session_folder: Path) -> None:
    random_run(session_folder, 5)
    events = Session.read(session_folder).events()
    assert events.columns == ["time", "name", "entity"]
    assert events.filter(pl.col("name") == "task.accepted").height == Session.read(session_folder).tasks.height
