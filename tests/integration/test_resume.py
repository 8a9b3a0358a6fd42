"""Sessions that another process goes on with, scripts that are run again, and histories that cannot be trusted."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import integration_payloads as payloads
import pytest
from integration_support import PATIENCE_S, Campaign, Programs, eventually, shell

import pilotage as rp

FIRST = """
import os, sys
sys.path.insert(0, sys.argv[3])
import integration_payloads as payloads
import pilotage as rp

WAIT = f"while [ ! -e {sys.argv[4]} ]; do sleep 0.01; done; echo late"

def own(value):
    return value + 100

session = rp.Session(uid=sys.argv[2], base=sys.argv[1])
pilots, tasks = rp.PilotManager(session), rp.TaskManager(session)
pilot = pilots.submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=5))
tasks.add_pilots(pilot)
tasks.submit_tasks([
    rp.TaskDescription(uid="early", executable="/bin/echo", arguments=["early"]),
    rp.TaskDescription(uid="broken", executable="/no/such/program"),
])
tasks.wait_tasks(timeout=40)
tasks.submit_tasks([
    rp.TaskDescription(uid="late", executable="/bin/sh", arguments=["-c", WAIT]),
    rp.TaskDescription(uid="function", function=payloads.square, args=[7], name="seven", metadata={"t": 300}),
    rp.TaskDescription(uid="own", function=own, args=[1]),
    rp.TaskDescription(uid="large", function=payloads.make_bytes, args=[100_000]),
])
if sys.argv[5] == "close":
    session.close(terminate=False)
else:
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["close", "kill"])
def test_another_process_goes_on(base: Path, programs: Programs, tmp_path: Path, how: str) -> None:
    go = tmp_path / "go"
    uid = f"resumed.{how}"
    done = programs.run(FIRST, base, uid, Path(payloads.__file__).parent, go, how)
    assert done.returncode == (0 if how == "close" else -signal.SIGKILL), done.stderr
    go.touch()
    with rp.Session.resume(uid, base=base) as session:
        (tasks,) = session.get_task_managers()
        (pilot,) = session.get_pilot_managers()[0].get_pilots()
        assert tasks.list_tasks() == ["early", "broken", "late", "function", "own", "large"]
        states = tasks.wait_tasks(timeout=PATIENCE_S)
        assert states == [rp.DONE, rp.FAILED, *[rp.DONE] * 4], [task.exception for task in tasks.get_tasks()]
        early, broken, late, function, own, large = tasks.get_tasks()
        assert (early.stdout, late.stdout) == ("early\n", "late\n")
        assert (function.result(0), own.result(0), len(large.result(0))) == (49, 101, 100_000)
        assert (function.name, early.description.arguments) == ("seven", ["early"])
        with pytest.raises(rp.TaskFailed, match="/no/such/program"):
            broken.result(0)
        # The pilot is the same one, and takes more.
        assert (pilot.state, pilot.uid) == (rp.PMGR_ACTIVE, "pilot.0000")
        more = tasks.submit_tasks(shell("echo more"))
        assert (more.wait(timeout=PATIENCE_S), more.stdout) == (rp.DONE, "more\n")


def test_metadata_survives(base: Path) -> None:
    first = Campaign(base)
    first.tasks.submit_tasks(shell("true", uid="noted", metadata={"temperature": 300}))
    first.tasks.submit_tasks(shell("true", uid="bare"))
    first.session.close()
    with rp.Session.resume(first.session.uid, base=base) as session:
        tasks = session.get_task_managers("tmgr.0000")
        noted = tasks.get_tasks("noted")
        assert noted.metadata == {"temperature": 300}
        assert noted.description.metadata == {"temperature": 300}
        assert tasks.get_tasks("bare").metadata == {}


def test_metadata_counts_in_what_is_the_same_task(base: Path) -> None:
    first = Campaign(base)
    first.tasks.submit_tasks(shell("true", uid="noted", metadata={"a": 1, "b": (2, 3)}))
    first.session.close()
    with rp.Session.resume(first.session.uid, base=base) as session:
        tasks = session.get_task_managers("tmgr.0000")
        same = shell("true", uid="noted", metadata={"b": (2, 3), "a": 1})
        assert tasks.submit_tasks([same, same]) == [tasks.get_tasks("noted")] * 2
        for other in ({"a": 1}, {}, {"a": 1, "b": (2, 4)}):
            with pytest.raises(rp.InvalidTask, match=r"task 'noted'.*another description"):
                tasks.submit_tasks(shell("true", uid="noted", metadata=other))


def test_what_a_task_was_to_run_after_survives_and_counts_in_what_is_the_same_task(base: Path) -> None:
    first = Campaign(base)
    pilot = first.start(cores=1)
    pilot.register_service("database", "tcp://far:1")
    described = {"uid": "second", "after": ["first"], "after_policy": "any", "services": ["database"]}
    first.run(shell("true", uid="first"), shell("echo $PILOTAGE_SERVICE_DATABASE", **described))
    first.tasks.submit_tasks(shell("true", uid="only", services=["database"]))
    first.session.close()
    with rp.Session.resume(first.session.uid, base=base) as session:
        tasks = session.get_task_managers("tmgr.0000")
        second = tasks.get_tasks("second")
        assert (second.state, second.stdout, second.after) == (rp.DONE, "tcp://far:1\n", ["first"])
        assert {name: second.description[name] for name in described} == described
        assert tasks.get_tasks("only").description.services == ["database"]
        assert tasks.get_tasks("first").after == []
        assert tasks.submit_tasks(shell("echo $PILOTAGE_SERVICE_DATABASE", **described)) == second
        for other in ({"after": []}, {"after_policy": "notok"}, {"services": []}, {"after": ["first", "only"]}):
            changed = {name: value for name, value in {**described, **other}.items() if value}
            if "after" not in changed:
                changed.pop("after_policy")
            with pytest.raises(rp.InvalidTask, match=r"task 'second'.*another description"):
                tasks.submit_tasks(shell("echo $PILOTAGE_SERVICE_DATABASE", **changed))


def test_metadata_that_cannot_be_kept_is_refused(base: Path) -> None:
    campaign = Campaign(base)
    with campaign.session, pytest.raises(rp.SerializationError, match="metadata cannot be pickled"):
        campaign.tasks.submit_tasks(shell("true", metadata={"lock": threading.Lock()}))
    assert campaign.tasks.list_tasks() == []


def test_final_states_that_no_callback_has_heard_of_are_told_after_a_resume(base: Path) -> None:
    first = Campaign(base)
    first.start(cores=1)
    told = first.tasks.submit_tasks(shell("true", uid="told"))
    heard: list[str] = []
    first.tasks.register_callback(lambda task, state: heard.append(task.uid) if state in rp.FINAL else None)
    eventually(lambda: heard == ["told"], "the first is told")
    assert told.state == rp.DONE
    first.tasks.unregister_callback()
    silent = first.tasks.submit_tasks(shell("true", uid="silent"))
    assert silent.wait(timeout=PATIENCE_S) == rp.DONE
    first.session.close()
    with rp.Session.resume(first.session.uid, base=base) as session:
        (tasks,) = session.get_task_managers()
        again: list[tuple[str, str]] = []
        tasks.register_callback(lambda task, state: again.append((task.uid, state)) if state in rp.FINAL else None)
        eventually(lambda: again, "what was not told is told")
    assert again == [("silent", rp.DONE)]


RERUN = """
import os, sys
import pilotage as rp

def square(value):
    with open(witness, "a") as file:
        file.write(f"{value}\\n")
    return value * value

base, witness = sys.argv[1:3]
if os.path.isdir(os.path.join(base, "rerun")):
    session = rp.Session.resume("rerun", base=base)
else:
    session = rp.Session(uid="rerun", base=base)
with session:
    pilots = session.get_pilot_managers("pmgr.0000") if session.list_pilot_managers() else rp.PilotManager(session)
    tasks = session.get_task_managers("tmgr.0000") if session.list_task_managers() else rp.TaskManager(session)
    pilot = pilots.submit_pilots(rp.PilotDescription(resource="local.localhost", cores=1, runtime=5))
    tasks.add_pilots(pilot)
    first = [rp.TaskDescription(uid=f"f.{n}", function=square, args=[n]) for n in range(5)]
    def witness_line(n):
        return rp.TaskDescription(uid=f"e.{n}", executable="/bin/sh", arguments=["-c", f"echo e{n} >> {witness}"])
    count = 5 if not os.path.exists(witness) else 8
    submitted = tasks.submit_tasks([witness_line(n) for n in range(count)])
    values = [task.result(40) for task in tasks.submit_tasks(first)]
    tasks.wait_tasks([task.uid for task in submitted], timeout=40)
    print(values, sorted({task.state for task in submitted}))
    pilot.cancel()
    pilot.wait(timeout=40)
"""


def test_a_script_that_is_run_again_repeats_nothing(base: Path, programs: Programs, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    for _ in range(2):
        done = programs.run(RERUN, base, witness)
        assert (done.returncode, done.stdout) == (0, "[0, 1, 4, 9, 16] ['DONE']\n"), done.stderr
    lines = sorted(witness.read_text().split())
    assert lines == sorted([str(number) for number in range(5)] + [f"e{number}" for number in range(8)])


def test_closing_a_resumed_session_ends_its_new_pilots(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotage.client.session.END_PATIENCE_S", 1.0)
    first = Campaign(base)
    first.session.close()
    with rp.Session.resume(first.session.uid, base=base) as session:
        pilots = session.get_pilot_managers("pmgr.0000")
        pilot = pilots.submit_pilots({"resource": "local.localhost", "cores": 1, "runtime": 5})
        assert pilot.wait(rp.PMGR_ACTIVE, timeout=PATIENCE_S) == rp.PMGR_ACTIVE
    assert pilot.state == rp.CANCELED
    assert "ended by the user" in pilot.reason


# a log that cannot be trusted


@pytest.fixture
def history(base: Path, open_campaign: Callable[..., Campaign]) -> tuple[str, list[Path]]:
    """A closed session with some history: its uid and the files of its log."""
    campaign = Campaign(base)
    for number in range(20):
        campaign.tasks.submit_tasks(shell(f"echo {number}", uid=f"t.{number}"))
    campaign.session.close()
    folder = Path(campaign.session.path, "client")
    segments = [path for path in folder.iterdir() if path.is_file() and path.stat().st_size > 1000]
    return campaign.session.uid, segments


def test_a_corrupted_log_stops_the_resume_and_says_where(base: Path, history: tuple[str, list[Path]]) -> None:
    uid, segments = history
    (segment,) = segments
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 0x40
    segment.write_bytes(content)
    with pytest.raises(rp.LogCorrupted, match=segment.name) as raised:
        rp.Session.resume(uid, base=base)
    assert "byte" in str(raised.value) or "offset" in str(raised.value)
    # Refused again, in the same way: nothing was changed.
    assert segment.read_bytes() == content
    with pytest.raises(rp.LogCorrupted, match=segment.name):
        rp.Session.resume(uid, base=base)


def test_a_log_whose_last_record_is_incomplete_goes_on(base: Path, history: tuple[str, list[Path]]) -> None:
    uid, segments = history
    (segment,) = segments
    os.truncate(segment, segment.stat().st_size - 3)
    with rp.Session.resume(uid, base=base) as session:
        assert len(session.get_task_managers("tmgr.0000").list_tasks()) in (19, 20)


def test_a_session_without_a_log(base: Path) -> None:
    with pytest.raises(rp.InvalidRequest, match="there is no session 'never'"):
        rp.Session.resume("never", base=base)


def test_large_arguments_count_by_what_they_are(base: Path) -> None:
    large = {"uid": "large", "function": len, "args": [b"x" * 100_000]}
    several = [{"uid": f"several.{n}", "function": len, "args": [bytes([n]) * 9_000, "in line"]} for n in range(200)]
    first = Campaign(base)
    first.tasks.submit_tasks([large, *several, rp.TaskDescription(uid="small", function=len, args=["x"])])
    first.session.close()
    with rp.Session.resume(first.session.uid, base=base) as session:
        tasks = session.get_task_managers("tmgr.0000")
        assert tasks.submit_tasks([large, *several]) == tasks.get_tasks()[:-1]
        assert [task.description.args[0][0] for task in tasks.get_tasks()[1:-1]] == list(range(200))
        with pytest.raises(rp.InvalidTask, match="another description"):
            tasks.submit_tasks({**several[7], "args": [bytes([8]) * 9_000, "in line"]})
