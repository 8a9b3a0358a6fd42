"""Sessions of the kinds that are compared with each other are of those kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

import pilotage as rp
from pilotage.agent.settings import read_settings
from pilotage.bench.durability import in_turn, ordinary, without_history, without_log
from pilotage.bench.runs import Bench, bench_pilot


def logged_bytes(bench: Bench) -> dict[str, int]:
    """Return how much the client and the agent have in their logs."""
    found = {"client": 0, "agent": 0}
    for path in Path(bench.session.path).rglob("segment-*.log"):
        found["client" if "client" in path.parts else "agent"] += path.stat().st_size
    return found


@pytest.mark.parametrize(("kind", "is_logged"), [(ordinary, True), (without_history, True), (without_log, False)])
def test_what_is_logged_of_a_task(kind, is_logged, tmp_path):
    with kind():
        context = bench_pilot(folder=tmp_path)
        bench = context.__enter__()
    try:
        before = logged_bytes(bench)
        bench.run([rp.TaskDescription(executable="/bin/true")])
        more = {side: size > before[side] for side, size in logged_bytes(bench).items()}
    finally:
        context.__exit__(None, None, None)

    assert more == {"client": is_logged, "agent": is_logged}


def test_without_history_agents_keep_none(tmp_path):
    kept = []
    for kind in (ordinary, without_history):
        with kind(), bench_pilot(folder=tmp_path) as bench:
            kept.append(read_settings(Path(bench.pilot.sandbox)).keep_history)

    assert kept == [True, False]


def test_kinds_take_turns_and_the_first_time_of_each_does_not_count():
    turns = []

    def measure(bench: Bench) -> float:
        turns.append(bench)
        return float(len(turns))

    pairs = in_turn(2, measure, ordinary, ordinary)

    assert pairs == [(3.0, 4.0), (5.0, 6.0)]
    assert turns == [turns[0], turns[1]] * 3
    assert turns[0] is not turns[1]
