"""The watch over one service, in virtual time: what it looks at, when, and what it concludes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilotage.agent.service_probes import UNFINISHED_S, Answer, Follower, GrowingFile
from pilotage.agent.service_watch import FIRST_LOOK_S, LONGEST_PAUSE_S, Files, Ready, Unwell, Verdict, Watch
from pilotage.model.ids import Attempt, RunnerId, TaskUid, TemplateId
from pilotage.model.services import Probe, Service
from pilotage.model.workload import Row, Template
from pilotage.outputs.aggregate import Aggregate
from pilotage.outputs.limits import limit_of
from pilotage.outputs.reader import Outputs

ROW = Row(TaskUid("db"), TemplateId(1))
PORT, URL, NOTIFY = Probe("port", "5432"), Probe("http", "http://x/"), Probe("notify")


class Stage:
    """A watch, its clock, and the folder of the pilot whose task it is."""

    def __init__(self, folder: Path, service: Service, template: Template | None = None, **more: Any) -> None:
        self.now = 1000.0
        self.sandbox = folder / "tasks" / "db"
        self.sandbox.mkdir(parents=True, exist_ok=True)
        files = Files(template or Template(), ROW, Attempt(1), str(folder), str(folder / "work"), Outputs(folder))
        self.watch = Watch(ROW, Attempt(1), service, files, self.now, **{"ready": False, "ends": {}, **more})

    def look(self) -> Verdict:
        """Let time pass until the watch is due, and look."""
        assert self.watch.due is not None, "it does not want to look"
        self.now = max(self.now, self.watch.due)
        return self.watch.look(self.now)

    def answer(self, good: bool, text: str = "", address: str = "") -> Verdict:
        assert self.watch.take_question() is not None, "it does not ask"
        return self.watch.answered(Answer(good, text, address), self.now)

    def write(self, name: str, text: str) -> None:
        with open(self.sandbox / name, "a") as file:
            file.write(text)


# --------------------------------------------------------------------------------------------------------------- starting


def test_a_service_of_which_nothing_is_said_is_ready_when_it_runs(tmp_path):
    stage = Stage(tmp_path, Service())
    assert stage.look() == Ready("")
    assert stage.watch.due is None, "nothing is to be done any more"


def test_a_port_is_tried_until_it_accepts_and_is_what_tasks_are_told(tmp_path):
    stage = Stage(tmp_path, Service(ready=PORT))
    for _ in range(3):
        assert stage.look() is None
        assert stage.watch.due is None, "the answer is waited for"
        assert stage.answer(False, "refused") is None
    assert stage.look() is None
    assert stage.answer(True, address="node1:5432") == Ready("node1:5432")
    assert stage.watch.take_question() is None and stage.watch.due is None


def test_pauses_grow_with_the_age_of_what_starts(tmp_path):
    stage = Stage(tmp_path, Service(ready=PORT))
    pauses = []
    while stage.now < 1060:
        stage.look()
        stage.answer(False)
        assert stage.watch.due is not None
        pauses.append(stage.watch.due - stage.now)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (pytest.approx(FIRST_LOOK_S), LONGEST_PAUSE_S)


def test_what_it_writes_makes_it_ready_and_is_told(tmp_path):
    stage = Stage(tmp_path, Service(ready=Probe("pattern", "stderr:up and .unning"), info_pattern=r"stdout:port: (\d+)"))
    assert stage.look() is None
    stage.write("db.out", "hello\nport: 80")
    stage.write("db.err", "up and running\n")
    assert stage.look() is None, "the line is not whole"
    stage.write("db.out", "80, and more\n")
    assert stage.look() == Ready("8080")


def test_a_file_in_its_sandbox_may_be_named(tmp_path):
    stage = Stage(tmp_path, Service(info_pattern="log/run.txt:at (.*)"))
    assert stage.look() is None
    (stage.sandbox / "log").mkdir()
    stage.write("log/run.txt", "at a b\n")
    assert stage.look() == Ready("a b")


def test_outputs_of_other_names_and_places(tmp_path):
    template = Template(sandbox="shared-one", stdout="printed.txt")
    stage = Stage(tmp_path, Service(info_pattern="stdout:(x)"), template)
    (tmp_path / "shared-one").mkdir()
    (tmp_path / "shared-one" / "printed.txt").write_text("x\n")
    assert stage.look() == Ready("x")
    stage = Stage(tmp_path, Service(info_pattern="made.txt:(x)"), Template(sandbox="none"))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "made.txt").write_text("x\n")
    assert stage.look() == Ready("x")


def test_output_that_is_discarded_cannot_be_searched(tmp_path):
    stage = Stage(tmp_path, Service(info_pattern="stdout:(x)"), Template(output="discard"))
    verdict = stage.look()
    assert isinstance(verdict, Unwell)
    assert "output='discard', which keeps nothing of it; set output='files', 'aggregate' or 'tail'" in verdict.message


@pytest.mark.parametrize("output", ["aggregate", "tail"])
def test_output_that_goes_to_the_aggregate_is_searched_while_it_is_written(tmp_path, output):
    template = Template(output=output)
    service = Service(ready=Probe("pattern", "stderr:^up$"), info_pattern="stdout:port (.*)")
    stage = Stage(tmp_path, service, template)
    assert stage.look() is None, "nothing has begun"
    aggregate = Aggregate(str(tmp_path), RunnerId("spawner.0"))
    earlier = aggregate.take_pair()
    Path(aggregate.paths(earlier)[0]).write_text("port 1\n")
    other = Row(TaskUid("other"), TemplateId(1))
    aggregate.announce(other.uid, Attempt(1), earlier)
    aggregate.end(other.uid, Attempt(1), earlier, limit_of(template), announced=True)
    pair = aggregate.take_pair()
    aggregate.announce(ROW.uid, Attempt(1), pair)
    stdout, stderr = (Path(path) for path in aggregate.paths(pair))
    stdout.write_text("po")
    assert stage.look() is None, "what another task has printed does not count"
    stdout.write_text("port 2\n")
    assert stage.look() is None, "it is not up"
    stderr.write_text("up\n")
    assert stage.look() == Ready("2")
    aggregate.end(ROW.uid, Attempt(1), pair, limit_of(template), announced=True)
    aggregate.close()


def test_what_an_earlier_attempt_has_printed_into_the_aggregate_does_not_count(tmp_path):
    stage = Stage(tmp_path, Service(ready=Probe("pattern", "stdout:up")), Template(output="aggregate"))
    aggregate = Aggregate(str(tmp_path), RunnerId("spawner.0"))
    aggregate.append(ROW.uid, Attempt(0), b"up\n", b"", None)
    aggregate.close()
    assert stage.look() is None


def test_it_may_say_itself_that_it_is_ready(tmp_path):
    stage = Stage(tmp_path, Service(ready=NOTIFY))
    assert stage.look() is None
    assert stage.watch.due is None, "nothing is looked at"
    assert stage.watch.heard({"STATUS": "starting", "INFO": "tcp://x"}, stage.now) is None
    assert stage.watch.heard({"READY": "1"}, stage.now) == Ready("tcp://x")
    assert stage.watch.heard({"INFO": "tcp://y"}, stage.now) == Ready("tcp://y"), "it moved"
    assert stage.watch.heard({"STATUS": "busy"}, stage.now) is None


def test_its_word_does_not_replace_the_probe_that_was_asked_for(tmp_path):
    stage = Stage(tmp_path, Service(ready=PORT))
    assert stage.look() is None
    assert stage.watch.heard({"READY": "1", "INFO": "mine"}, stage.now) is None
    assert stage.answer(True, address="node1:5432") == Ready("mine")


@pytest.mark.parametrize(
    ("service", "words"),
    [
        (Service(ready=PORT), ["port 5432 was tried", "times, last: node1:5432: Connection refused"]),
        (Service(ready=NOTIFY), ["did not say READY=1", "pilotage service-ready"]),
        (Service(ready=Probe("pattern", "stdout:up")), ["'stdout:up' was not found in", "db.out: No such file"]),
        (Service(ready=PORT, info_pattern="stdout:(x)"), ["port 5432", "its info_pattern 'stdout:(x)' was not found"]),
    ],
)
def test_one_that_is_not_ready_in_time_is_told_with_what_was_tried(tmp_path, service, words):
    stage = Stage(tmp_path, msgspec.structs.replace(service, startup_timeout_s=5.0))
    verdict = None
    while verdict is None:
        verdict = stage.look()
        if stage.watch.take_question() is not None:
            verdict = verdict or stage.watch.answered(Answer(False, "node1:5432: Connection refused"), stage.now)
    assert isinstance(verdict, Unwell)
    assert stage.now == pytest.approx(1005.0)
    assert verdict.message.startswith("service 'db' was not ready within 5 s: ")
    for word in words:
        assert word in verdict.message
    assert stage.watch.due is None


def test_an_answer_that_does_not_come_is_not_waited_for_beyond_the_time(tmp_path):
    stage = Stage(tmp_path, Service(ready=URL, startup_timeout_s=2.0))
    assert stage.look() is None
    assert isinstance(stage.look(), Unwell)
    assert stage.now == pytest.approx(1002.0)


# ----------------------------------------------------------------------------------------------------------------- health


def test_three_bad_answers_in_a_row_and_not_fewer(tmp_path):
    stage = Stage(tmp_path, Service(health=URL, health_interval_s=10.0), ready=True)
    verdicts = []
    for good in (False, False, True, False, False, False):
        assert stage.look() is None
        verdicts.append(stage.answer(good, "HTTP status 500"))
    assert verdicts[:-1] == [None] * 5
    assert verdicts[-1] == Unwell("service 'db' is unwell: http://x/ failed 3 times in a row, last: HTTP status 500")
    assert stage.now == 1060.0
    assert stage.watch.due is None


def test_health_is_asked_for_an_interval_after_it_became_ready(tmp_path):
    stage = Stage(tmp_path, Service(health=PORT, health_interval_s=3.0))
    assert stage.look() == Ready("")
    assert stage.watch.take_question() is None
    assert stage.watch.due == stage.now + 3.0


def test_health_by_what_it_goes_on_writing(tmp_path):
    stage = Stage(tmp_path, Service(health=Probe("pattern", "stdout:beat"), health_interval_s=1.0), ready=True)
    for number in range(5):
        stage.write("db.out", f"beat {number}\n")
        assert stage.look() is None
    assert [stage.look(), stage.look()] == [None, None]
    assert isinstance(stage.look(), Unwell)


# ------------------------------------------------------------------------------------------------------------------ files


def test_what_an_earlier_attempt_wrote_is_passed_over(tmp_path):
    service = Service(ready=Probe("pattern", "log.txt:ready"))
    first = Stage(tmp_path, service)
    first.write("log.txt", "ready\n")
    assert first.look() == Ready("")
    second = Stage(tmp_path, service, ends=first.watch.ends)
    assert second.look() is None
    second.write("log.txt", "ready again\n")
    assert second.look() == Ready("")
    (second.sandbox / "log.txt").unlink()
    second.write("log.txt", "ready\n")
    assert Stage(tmp_path, service, ends=second.watch.ends).look() == Ready(""), "it was made anew"


def test_a_prompt_counts_when_nothing_follows_it(tmp_path):
    (tmp_path / "out").write_text("name? ")
    follower = Follower(GrowingFile(str(tmp_path / "out")), r"\w+\?")
    assert follower.look(0.0) is None
    assert follower.look(UNFINISHED_S) == "name?"
    assert follower.look(2 * UNFINISHED_S) is None, "it was found"


def test_a_file_made_anew_does_not_go_on_with_the_last_line_of_the_one_before(tmp_path):
    file = tmp_path / "out"
    file.write_text("not ")
    follower = Follower(GrowingFile(str(file)), "^ready")
    assert follower.look(0.0) is None
    (tmp_path / "fresh").write_text("ready\n")
    (tmp_path / "fresh").replace(file)
    assert follower.look(0.0) == "ready"


def test_what_is_no_regular_file_is_said(tmp_path):
    follower = Follower(GrowingFile(str(tmp_path)), "x")
    assert follower.look(0.0) is None
    assert "no regular file" in follower.error


def test_bytes_that_are_no_text_do_no_harm(tmp_path):
    (tmp_path / "out").write_bytes(b"\xff\xfe\x00 port 5\n" + b"y" * 200_000)
    follower = Follower(GrowingFile(str(tmp_path / "out")), r"port (\d)|(yy)$")
    assert follower.look(0.0) == "5"
    assert follower.look(0.0) == "", "a line without an end is cut"
