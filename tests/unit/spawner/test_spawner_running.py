"""Tasks run: output, exit codes, environment, lanes, ranks."""

from __future__ import annotations

import os
from pathlib import Path

from spawner_driver import SpawnerDriver, StartDriver

from pilotage.model.execution import LaneTasks
from pilotage.model.ids import Attempt, LaneId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import NodeShare, Request, core_mask
from pilotage.model.workload import Row
from pilotage.wire.runner_messages import Launch, TasksEnded, TasksStarted


def test_output_goes_to_files_in_a_sandbox_of_the_task(driver: SpawnerDriver) -> None:
    driver.shell("task.1", "pwd; echo oops >&2; cat")

    end = driver.wait_for_end("task.1")

    assert (end.ending, end.exit_code, end.message, end.detail) == (Ending.DONE, 0, "", "")
    assert 0 < end.started <= end.ended
    assert driver.output("task.1") == f"{driver.sandbox('task.1')}\n"
    assert (driver.sandbox("task.1") / "task.1.err").read_text() == "oops\n"


def test_a_failure_carries_exit_code_and_the_tail_of_stderr_whatever_its_bytes(driver: SpawnerDriver) -> None:
    driver.shell("task.1", r"head -c 5000 /dev/zero | tr '\0' x >&2; printf '\377end' >&2; exit 3")

    end = driver.wait_for_end("task.1")

    assert (end.ending, end.exit_code, end.message) == (Ending.EXITED, 3, "exited with code 3")
    assert end.detail == "x" * 2044 + "\N{REPLACEMENT CHARACTER}end"


def test_a_signal_is_told_by_number_and_name(driver: SpawnerDriver) -> None:
    driver.shell("task.1", "kill -SEGV $$")

    end = driver.wait_for_end("task.1")

    assert (end.ending, end.exit_code, end.message) == (Ending.SIGNALLED, -11, "ended by signal 11 (SIGSEGV)")


def test_tasks_of_a_lane_run_one_after_another_in_order(driver: SpawnerDriver, tmp_path: Path) -> None:
    log = tmp_path / "log"
    template = driver.template(executable="/bin/sh")
    script = f"echo begin $PILOTAGE_TASK_ID >> {log}; echo end $PILOTAGE_TASK_ID >> {log}"
    uids = [f"task.{number}" for number in range(5)]

    driver.launch(*uids, template=template, arguments=("-c", script))

    driver.wait_for_ends(uids)
    assert log.read_text().splitlines() == [f"{word} {uid}" for uid in uids for word in ("begin", "end")]


def test_a_lane_that_is_empty_keeps_its_placement(driver: SpawnerDriver) -> None:
    template = driver.template(executable="/bin/true")
    lane = driver.launch("task.1", template=template)
    driver.wait_for_end("task.1")

    driver.launch("task.2", template=template, lane=lane, placement=None)

    assert driver.wait_for_end("task.2").ending is Ending.DONE


def test_a_lane_without_a_placement_gives_its_tasks_back(driver: SpawnerDriver) -> None:
    driver.launch("task.1", template=driver.template(executable="/bin/true"), placement=None)

    driver.wait_for(lambda: driver.returned() == ["task.1"])


def test_the_same_attempt_twice_runs_once_and_another_attempt_again(driver: SpawnerDriver, tmp_path: Path) -> None:
    log = tmp_path / "log"
    template = driver.template(executable="/bin/sh")
    arguments = ("-c", f"echo $PILOTAGE_ATTEMPT >> {log}")
    for _ in range(2):
        driver.launch("task.1", template=template, arguments=arguments)
    driver.launch("task.1", template=template, arguments=arguments, attempt=2)
    driver.launch("task.last", template=template, arguments=arguments, attempt=9)

    driver.wait_for(lambda: len(ended_attempts(driver)) == 3)

    assert sorted(ended_attempts(driver)) == [("task.1", 1), ("task.1", 2), ("task.last", 9)]
    assert sorted(log.read_text().split()) == ["1", "2", "9"]


def test_a_start_is_told_only_while_the_task_runs(driver: SpawnerDriver) -> None:
    template = driver.template(executable="/bin/sh")
    tasks = [f"task.{number}" for number in range(20)]
    driver.launch(*tasks, template=template, arguments=("-c", ":"))
    driver.wait_for_ends(tasks)

    told_first: set[str] = set()
    for _, message in driver.messages:
        if isinstance(message, TasksEnded):
            told_first |= {end.task for end in message.ends}
        elif isinstance(message, TasksStarted):
            assert not told_first & {task for task, *_ in message.started}


def test_the_environment_is_the_users_then_the_templates_then_ours(start_driver: StartDriver) -> None:
    driver = start_driver(environment={"PATH": "/usr/bin:/bin", "KEPT": "user", "CHANGED": "user"})
    template = driver.template(
        executable="env",
        environment={"CHANGED": "template", "OWN": "ünïcode"},
        request=Request(cores=2, gpu_shares=64),
        threading_type="OpenMP",
    )
    placement = (NodeShare(0, 1, core_mask(0b11), ((3, 64),)),)

    driver.launch("task.1", template=template, placement=placement, name="first")

    driver.wait_for_end("task.1")
    seen = dict(line.split("=", 1) for line in driver.output("task.1").splitlines())
    sandbox, pilot_folder = str(driver.sandbox("task.1")), driver.settings.pilot_folder
    assert seen == {
        "PATH": "/usr/bin:/bin",
        "KEPT": "user",
        "CHANGED": "template",
        "OWN": "ünïcode",
        "OMP_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "3",
        "PILOTAGE_ATTEMPT": "1",
        "PILOTAGE_LOCAL_RANK": "0",
        "PILOTAGE_NODE": "node0",
        **{
            f"{prefix}_{name}": value
            for prefix in ("PILOTAGE", "RP")
            for name, value in {
                "SESSION_ID": driver.settings.session,
                "PILOT_ID": "pilot.0000",
                "TASK_ID": "task.1",
                "TASK_NAME": "first",
                "TASK_SANDBOX": sandbox,
                "PILOT_SANDBOX": pilot_folder,
                "RANK": "0",
                "RANKS": "1",
                "CORES_PER_RANK": "2",
                "GPUS_PER_RANK": "1",
            }.items()
        },
    }


def test_sandbox_and_files_named_by_the_template(driver: SpawnerDriver, tmp_path: Path) -> None:
    shared = tmp_path / "deep" / "shared"
    template = driver.template(executable="/bin/sh", sandbox=str(shared), stdout="both.txt", stderr="both.txt")

    driver.launch("task.1", template=template, arguments=("-c", "echo one; echo two >&2; echo three"))

    driver.wait_for_end("task.1")
    assert (shared / "both.txt").read_text() == "one\ntwo\nthree\n"


def test_a_shared_sandbox_that_was_removed_is_made_again(driver: SpawnerDriver, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    template = driver.template(executable="/bin/sh", sandbox=str(shared))
    driver.launch("task.1", template=template, arguments=("-c", f"rm -r {shared}"))
    driver.wait_for_end("task.1")

    driver.launch("task.2", template=template, arguments=("-c", "echo here"))

    assert driver.wait_for_end("task.2").ending is Ending.DONE
    assert (shared / "task.2.out").read_text() == "here\n"


def test_an_executable_is_sought_in_the_tasks_path_or_in_its_sandbox(driver: SpawnerDriver, tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho from path\n")
    tool.chmod(0o755)
    (driver.sandbox("task.2")).mkdir(parents=True)
    (driver.sandbox("task.2") / "tool").symlink_to(tool)

    driver.launch("task.1", template=driver.template(executable="tool", environment={"PATH": f"/nowhere:{tool.parent}:/bin"}))
    driver.launch("task.2", template=driver.template(executable="./tool"))

    assert {end.ending for end in driver.wait_for_ends(["task.1", "task.2"]).values()} == {Ending.DONE}
    assert driver.output("task.1") == driver.output("task.2") == "from path\n"


def test_tasks_get_default_signals_and_no_descriptor_of_the_spawner(driver: SpawnerDriver) -> None:
    driver.shell("task.1", "cat /proc/self/status; ls /proc/self/fd")

    driver.wait_for_end("task.1")
    lines = driver.output("task.1").splitlines()
    masks = {
        name: int(value, 16)
        for name, _, value in (line.partition(":") for line in lines)
        if name.startswith("Sig") and name != "SigQ"
    }
    # The C library keeps signals 32 and 33 to itself, and ignores them in what it spawns.
    masks["SigIgn"] &= ~(0b11 << 31)
    assert masks == {"SigPnd": 0, "SigBlk": 0, "SigIgn": 0, "SigCgt": 0}
    # 3 is what ls itself opened.
    assert lines[-4:] == ["0", "1", "2", "3"]


def test_a_task_is_pinned_to_its_cores_and_the_next_to_its_own(start_driver: StartDriver) -> None:
    usable = sorted(os.sched_getaffinity(0))[:2]
    driver = start_driver(bind=True)
    template = driver.template(executable="grep")
    lanes = [
        LaneTasks(LaneId(core), (NodeShare(0, 1, core_mask(1 << core)),), [(Attempt(1), pinned_row(core, template))])
        for core in usable
    ]

    driver.send(Launch(lanes))

    driver.wait_for_ends([f"task.{core}" for core in usable])
    for core in usable:
        assert driver.output(f"task.{core}").split() == ["Cpus_allowed_list:", str(core)]


def test_cores_that_do_not_exist_fail_the_task(start_driver: StartDriver) -> None:
    driver = start_driver(bind=True)
    driver.launch(
        "task.1", template=driver.template(executable="/bin/true"), placement=(NodeShare(0, 1, core_mask(1 << 1000)),)
    )

    end = driver.wait_for_end("task.1")

    assert end.ending is Ending.LAUNCH_FAILED
    assert "cores [1000]" in end.message


def test_ranks_are_processes_with_numbers_cores_and_gpus_of_their_own(driver: SpawnerDriver) -> None:
    template = driver.template(
        executable="/bin/sh", request=Request(ranks=3, cores=2, gpu_shares=64), gpu_type="ROCm", environment={"SEEN": "yes"}
    )
    placement = (
        NodeShare(0, 2, core_mask(0b1111), ((0, 64), (1, 64))),
        NodeShare(0, 1, core_mask(0b110000), ((2, 64),)),
    )
    script = "echo $RP_RANK of $RP_RANKS, local $PILOTAGE_LOCAL_RANK, gpu $ROCR_VISIBLE_DEVICES, $SEEN"

    driver.launch("task.1", template=template, arguments=("-c", script), placement=placement)

    assert driver.wait_for_end("task.1").ending is Ending.DONE
    assert sorted(driver.output("task.1").splitlines()) == [
        "0 of 3, local 0, gpu 0, yes",
        "1 of 3, local 1, gpu 1, yes",
        "2 of 3, local 2, gpu 2, yes",
    ]


def test_a_rank_that_fails_ends_the_others(driver: SpawnerDriver, tmp_path: Path) -> None:
    template = driver.template(executable="/bin/sh", request=Request(ranks=3))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # Ranks 0 and 1 would wait for ever.
    script = f"if [ $RP_RANK = 2 ]; then echo bad >&2; exit 7; else exec cat {fifo}; fi"

    driver.launch("task.1", template=template, arguments=("-c", script), placement=(NodeShare(0, 3, core_mask(0b111)),))

    end = driver.wait_for_end("task.1")
    assert (end.ending, end.exit_code, end.message) == (Ending.EXITED, 7, "rank 2 exited with code 7")
    assert end.detail == "bad\n"


def test_a_hundred_tasks_in_ten_lanes_all_end_once(driver: SpawnerDriver) -> None:
    template = driver.template(executable="/bin/true")
    uids = [f"task.{number}" for number in range(100)]
    for lane in range(10):
        driver.launch(*uids[lane::10], template=template, lane=1000 + lane)

    driver.wait_for_ends(uids)

    assert sorted(ended_attempts(driver)) == sorted((uid, 1) for uid in uids)


def pinned_row(core: int, template: int) -> Row:
    return Row(TaskUid(f"task.{core}"), template, ("Cpus_allowed_list", "/proc/self/status"))  # type: ignore[arg-type]


def ended_attempts(driver: SpawnerDriver) -> list[tuple[str, int]]:
    return [
        (end.task, end.attempt) for _, message in driver.messages if isinstance(message, TasksEnded) for end in message.ends
    ]
