"""What executables print: kept in files, together with that of others, in part, or not at all."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import pytest
from spawner_driver import SpawnerDriver

from pilotage.model.ids import RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import NodeShare, Placement, Request, core_mask
from pilotage.model.services import Service
from pilotage.outputs.aggregate import LARGE_BYTES
from pilotage.outputs.limits import TAIL_BYTES, marker
from pilotage.outputs.reader import Outputs
from pilotage.wire.runner_messages import StopRunner, StorageFull

PYTHON = sys.executable
BOTH = "import sys; sys.stdout.buffer.write(bytes.fromhex(sys.argv[1])); sys.stderr.buffer.write(bytes.fromhex(sys.argv[2]))"


def pilot(driver: SpawnerDriver) -> Path:
    return Path(driver.settings.pilot_folder)


def read(driver: SpawnerDriver, uid: str) -> tuple[bytes, bytes]:
    return Outputs(pilot(driver)).read(TaskUid(uid))


def files(driver: SpawnerDriver) -> list[str]:
    """Every file in the pilot's folder that belongs to tasks."""
    folders = [folder for name in ("tasks", "output") if (folder := pilot(driver) / name).is_dir()]
    return sorted(path.name for folder in folders for path in folder.rglob("*") if path.is_file())


def aggregate_files() -> list[str]:
    node = os.uname().nodename
    return sorted([f"{node}.data", f"{node}.index"])


def stop(driver: SpawnerDriver) -> None:
    driver.send(StopRunner(1.0))
    (process,) = driver.processes.values()
    driver.wait_for(lambda: process.poll() is not None, what="the end of the spawner")


# files


def test_empty_files_are_removed_unless_the_user_named_them(driver: SpawnerDriver) -> None:
    driver.shell("silent", ":")
    driver.shell("loud", "echo out")
    driver.shell("failed", "echo err >&2; exit 3")
    driver.shell("named", ":", stdout="named.log", stderr="errors.log")
    driver.wait_for_ends(["silent", "loud", "failed", "named"])
    assert files(driver) == ["errors.log", "failed.err", "loud.out", "named.log"]
    assert driver.ends()[TaskUid("failed")].detail == "err\n"


def test_what_could_not_be_started_leaves_no_files(driver: SpawnerDriver) -> None:
    driver.launch("a", template=driver.template(executable="/nowhere/to/be/found"))
    assert driver.wait_for_end("a").ending is Ending.LAUNCH_FAILED
    assert files(driver) == []


def test_a_second_attempt_begins_with_empty_files(driver: SpawnerDriver) -> None:
    template = driver.template(executable="/bin/sh")
    driver.launch("a", template=template, arguments=("-c", "echo first; echo error >&2"))
    driver.wait_for_end("a")
    driver.launch("a", template=template, arguments=("-c", "echo second"), attempt=2)
    driver.wait_for(lambda: driver.ends()[TaskUid("a")].attempt == 2)
    assert files(driver) == ["a.out"]
    assert driver.output("a") == "second\n"


def test_files_are_shortened(driver: SpawnerDriver) -> None:
    driver.shell("a", "head -c 5000 /dev/zero; echo end; head -c 900 /dev/zero >&2", output_limit_bytes=1000)
    driver.shell("b", "head -c 5000 /dev/zero; echo end >&2", output_limit_bytes=1000, stdout="both", stderr="both")
    driver.wait_for_ends(["a", "b"])
    assert (driver.sandbox("a") / "a.out").read_bytes() == b"\0" * 500 + marker(4004) + b"\0" * 496 + b"end\n"
    assert (driver.sandbox("a") / "a.err").read_bytes() == b"\0" * 900
    assert (driver.sandbox("b") / "both").read_bytes() == b"\0" * 500 + marker(4004) + b"\0" * 496 + b"end\n"


@pytest.mark.parametrize("output", ["files", "aggregate", "tail"])
def test_who_prints_without_end_does_not_fill_the_disk(driver: SpawnerDriver, output: str) -> None:
    driver.shell("a", "yes", output=output, output_limit_bytes=1 << 20)
    folder = driver.sandbox("a") if output == "files" else pilot(driver) / "output"

    def given_back() -> bool:
        statuses = [path.stat() for path in folder.glob("*.out")]
        return any(status.st_size > (8 << 20) and status.st_blocks * 512 < status.st_size // 2 for status in statuses)

    driver.wait_for(given_back, what="room to be given back")
    os.kill(driver.started()["a"], signal.SIGTERM)
    driver.wait_for_end("a")
    kept = (folder / "a.out").read_bytes() if output == "files" else read(driver, "a")[0]
    head, _, tail = kept.partition(b"\n[... ")
    assert set(head) <= set(b"y\n") and len(head) == (0 if output == "tail" else 1 << 19)
    assert tail.endswith((b"y\ny\n", b"\ny\ny"))
    assert len(kept) < (1 << 20) + 100


# the aggregate


def test_a_hundred_tasks_side_by_side_share_two_files(driver: SpawnerDriver) -> None:
    template = driver.template(executable=PYTHON, sandbox="shared", output="aggregate")
    wanted = {}
    for number in range(100):
        uid = f"täsk {number}"
        wanted[uid] = f"{uid}\n".encode() * number, os.urandom(number)
        arguments = ("-c", BOTH, *(stream.hex() for stream in wanted[uid]))
        driver.launch(uid, template=template, arguments=arguments, lane=None)
    driver.wait_for_ends(wanted)
    outputs = Outputs(pilot(driver))
    assert {uid: outputs.read(TaskUid(uid)) for uid in wanted} == wanted
    stop(driver)
    assert files(driver) == aggregate_files()


def test_tasks_of_a_lane_use_the_same_spare_files(driver: SpawnerDriver) -> None:
    template = driver.template(executable="/bin/sh", sandbox="none", output="aggregate")
    lane = None
    for number in range(50):
        lane = driver.launch(f"task-{number}", template=template, arguments=("-c", f"echo {number}"), lane=lane)
    driver.wait_for_ends([f"task-{number}" for number in range(50)])
    assert files(driver) == sorted([*aggregate_files(), "spawner.0.1.err"])
    assert [read(driver, f"task-{number}") for number in range(50)] == [(b"%d\n" % number, b"") for number in range(50)]


def test_the_end_of_stderr_is_told_whatever_becomes_of_it(driver: SpawnerDriver) -> None:
    for output in ("aggregate", "tail", "files"):
        driver.shell(output, "echo what went wrong >&2; exit 1", output=output)
        assert driver.wait_for_end(output).detail == "what went wrong\n"
    driver.shell("discard", "echo what went wrong >&2; exit 1", output="discard")
    assert driver.wait_for_end("discard").detail == ""


def test_a_later_attempt_takes_the_place_of_an_earlier_one(driver: SpawnerDriver) -> None:
    template = driver.template(executable="/bin/sh", output="aggregate")
    for attempt, script in ((1, "echo first"), (2, "echo second"), (3, ":")):
        driver.launch("a", template=template, arguments=("-c", script), attempt=attempt)
        driver.wait_for(lambda attempt=attempt: getattr(driver.ends().get(TaskUid("a")), "attempt", 0) == attempt)
        assert read(driver, "a")[0] == {1: b"first\n", 2: b"second\n", 3: b""}[attempt]


def test_all_ranks_write_to_the_same_place(driver: SpawnerDriver) -> None:
    placement: Placement = (NodeShare(0, 4, core_mask(4)),)
    template = driver.template(executable="/bin/sh", output="aggregate", request=Request(ranks=4))
    driver.launch("a", template=template, arguments=("-c", "echo $PILOTAGE_RANK"), placement=placement)
    driver.wait_for_end("a")
    assert sorted(read(driver, "a")[0].split()) == [b"0", b"1", b"2", b"3"]


def test_large_output_is_whole(driver: SpawnerDriver) -> None:
    size = LARGE_BYTES + 12345
    driver.shell("a", f"head -c {size} /dev/zero; echo err >&2", output="aggregate")
    driver.wait_for_end("a")
    assert read(driver, "a") == (b"\0" * size, b"err\n")


def test_only_the_tail_is_kept(driver: SpawnerDriver) -> None:
    driver.shell("a", "seq 100000; echo short >&2", output="tail")
    driver.wait_for_end("a")
    all_of_it = b"".join(b"%d\n" % number for number in range(1, 100001))
    left_out = len(all_of_it) - TAIL_BYTES
    assert read(driver, "a") == (marker(left_out) + all_of_it[-TAIL_BYTES:], b"short\n")


def test_nothing_is_kept(driver: SpawnerDriver) -> None:
    driver.shell("a", "echo out; echo err >&2", output="discard")
    driver.wait_for_end("a")
    assert files(driver) == []


def test_a_running_task_can_be_read(driver: SpawnerDriver, tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    driver.shell("a", f"echo so far; read line < {go}; echo the rest", output="aggregate")
    driver.wait_for(lambda: read(driver, "a")[0] == b"so far\n", what="output of a running task")
    go.write_text("on\n")
    driver.wait_for_end("a")
    assert read(driver, "a")[0] == b"so far\nthe rest\n"


def test_the_output_of_a_service_can_be_read_at_once(driver: SpawnerDriver) -> None:
    template = driver.template(executable="/bin/sleep", output="aggregate", service=Service())
    driver.launch("a", template=template, arguments=("1000",))
    driver.wait_for_start("a")
    assert Outputs(pilot(driver)).extent(TaskUid("a"), "stdout") is not None


# accidents


def test_a_killed_spawner_leaves_what_its_tasks_had_written(driver: SpawnerDriver) -> None:
    template = driver.template(executable="/bin/sh", output="aggregate")
    driver.launch("over", template=template, arguments=("-c", "echo over"))
    driver.wait_for_end("over")
    driver.shell("running", "echo so far; exec sleep 1000", output="aggregate")
    driver.wait_for(lambda: read(driver, "running")[0] == b"so far\n", what="output of a running task")
    with driver.processes.pop(RunnerId("spawner.0")) as killed:
        killed.kill()
    driver.start_spawner("spawner.1")
    again = driver.template(executable="/bin/sh", output="aggregate")
    driver.launch("next", template=again, arguments=("-c", "echo next"))
    driver.wait_for_end("next")
    outputs = Outputs(pilot(driver))
    assert outputs.read(TaskUid("over")) == (b"over\n", b"")
    assert outputs.read(TaskUid("running")) == (b"so far\n", b"")
    assert outputs.read(TaskUid("next")) == (b"next\n", b"")


def test_output_that_finds_no_room_stays_where_it_is_and_the_agent_hears_of_it(driver: SpawnerDriver) -> None:
    pid = driver.processes[RunnerId("spawner.0")].pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    template = driver.template(executable="/bin/sh", output="aggregate")
    # Files of the spawner may be no larger, as if its disk were full.
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, hard))
    for uid in ("a", "b"):
        driver.launch(uid, template=template, arguments=("-c", f"head -c 15000 /dev/zero; echo {uid}"))
        assert driver.wait_for_end(uid).ending is Ending.DONE
    driver.wait_for(lambda: any(isinstance(message, StorageFull) for _, message in driver.messages), what="a warning")
    assert read(driver, "a")[0] == b"\0" * 15_000 + b"a\n"
    assert read(driver, "b")[0] == b"\0" * 15_000 + b"b\n"
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    driver.launch("c", template=template, arguments=("-c", "head -c 15000 /dev/zero; echo c"))
    driver.wait_for_end("c")
    assert [read(driver, uid)[0][-2:] for uid in "abc"] == [b"a\n", b"b\n", b"c\n"]
