"""Hooks run around the program in one shell, what they do reaches it, and what fails is named for certain."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from spawner_driver import SpawnerDriver, StartDriver

from pilotage.model.execution import AttemptEnd
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import NodeShare, Placement, Request, core_mask
from pilotage.model.workload import ALL_RANKS, Hooks
from pilotage.system.processes import started_ticks
from pilotage.wire.runner_messages import EndTasks

THREE_RANKS: Placement = (NodeShare(0, 3, core_mask(0b111)),)
FOREVER = "while :; do sleep 1000; done"


def everyone(*commands: str) -> tuple[tuple[int, str], ...]:
    return tuple((ALL_RANKS, command) for command in commands)


def run(driver: SpawnerDriver, script: str, hooks: Hooks, **fields: object) -> AttemptEnd:
    """Run a shell script with hooks around it, and return how it ended; no trace of the hooks is left."""
    driver.shell("task.1", script, hooks=hooks, **fields)
    end = driver.wait_for_end("task.1")
    assert not list(driver.folder.glob("hooks/*"))
    return end


def test_hooks_run_in_order_and_in_one_shell(driver: SpawnerDriver) -> None:
    hooks = Hooks(
        pre_launch=("echo pre_launch; seen='not exported'",),
        pre_exec=everyone("export GREETING='good day'; cd ..", "list=(one two); echo ${list[1]}"),
        post_exec=everyone("echo $GREETING, $seen"),
        post_launch=("echo post_launch",),
    )

    end = run(driver, "echo $GREETING in ${PWD##*/}; echo ${seen-nothing}", hooks)

    assert (end.ending, end.exit_code, end.message) == (Ending.DONE, 0, "")
    assert driver.output("task.1").splitlines() == [
        "pre_launch",
        "two",
        "good day in tasks",
        "nothing",
        "good day, not exported",
        "post_launch",
    ]


@pytest.mark.parametrize("hook", ["export A=1", "export A=1; true"], ids=["plain", "bash"])
def test_the_program_takes_the_place_of_the_shell(driver: SpawnerDriver, hook: str) -> None:
    driver.shell("task.1", "echo $$ $A; exec sleep 1000", hooks=Hooks(pre_exec=everyone(hook)))

    pid = driver.wait_for_start("task.1")

    assert driver.wait_for_text(driver.sandbox("task.1") / "task.1.out") == f"{pid} 1\n"


@pytest.mark.parametrize("post", [(), everyone("true")], ids=["exec", "wait"])
def test_arguments_reach_the_program_unchanged_and_hooks_do_not_see_them(
    driver: SpawnerDriver, post: tuple[tuple[int, str], ...]
) -> None:
    sourced = Path(driver.settings.pilot_folder, "sourced")
    sourced.write_text('echo "sourced with $#"\n')
    arguments = ("two words", "$HOME", "*", "it's", "", "a\nb")
    template = driver.template(executable="printf", hooks=Hooks(pre_exec=everyone(f"source {sourced}"), post_exec=post))

    driver.launch("task.1", template=template, arguments=("<%s>", *arguments))

    assert driver.wait_for_end("task.1").ending is Ending.DONE
    assert driver.output("task.1") == "sourced with 0\n" + "".join(f"<{argument}>" for argument in arguments)


@pytest.mark.parametrize("post", [(), everyone("true")], ids=["exec", "wait"])
@pytest.mark.parametrize("code", [1, 126, 127, 139, 255], ids=str)
def test_exit_codes_pass_through(driver: SpawnerDriver, code: int, post: tuple[tuple[int, str], ...]) -> None:
    end = run(driver, f"echo no >&2; exit {code}", Hooks(pre_exec=everyone("true"), post_exec=post))

    if code == 139 and post:
        # A shell that has waited says the same of a program that was killed by this signal.
        assert (end.ending, end.exit_code) == (Ending.SIGNALLED, -signal.SIGSEGV)
    else:
        assert (end.ending, end.exit_code, end.message) == (Ending.EXITED, code, f"exited with code {code}")
    assert "no\n" in end.detail


@pytest.mark.parametrize("post", [(), everyone("true")], ids=["exec", "wait"])
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=str)
def test_signals_pass_through(driver: SpawnerDriver, number: signal.Signals, post: tuple[tuple[int, str], ...]) -> None:
    end = run(driver, f"ulimit -c 0; kill -{number.value} $$", Hooks(pre_exec=everyone("true"), post_exec=post))

    assert (end.ending, end.exit_code) == (Ending.SIGNALLED, -number)
    assert end.message == f"ended by signal {number.value} ({number.name})"


def test_term_reaches_the_program_and_its_end_is_told_by_the_shell_that_waits(driver: SpawnerDriver) -> None:
    script = "trap 'echo tidy; exit 7' TERM; echo ready > ready; while :; do sleep 1000 & wait; done"
    driver.shell("task.1", script, hooks=Hooks(post_exec=everyone("echo after")), grace_s=1000.0)
    driver.wait_for_text(driver.sandbox("task.1") / "ready")

    driver.send(EndTasks([(TaskUid("task.1"), Attempt(1))], Ending.TIMED_OUT, "too long"))

    end = driver.wait_for_end("task.1")
    assert (end.ending, end.exit_code, end.message) == (Ending.TIMED_OUT, 7, "too long")
    assert driver.output("task.1") == "tidy\nafter\n"


@pytest.mark.parametrize(
    ("hook", "code", "words"),
    [
        pytest.param("cat /no/such/file", 1, "failed with exit code 1: cat /no/such/file", id="plain"),
        pytest.param(
            "ls /no/such/file || exit 5", 5, "ended the shell with exit code 5 {}: ls /no/such/file || exit 5", id="exit"
        ),
        pytest.param("exit 0", 0, "ended the shell with exit code 0 {}: exit 0", id="exit 0"),
        pytest.param("set -e; false; true", 1, "ended the shell with exit code 1 {}: set -e; false; true", id="set -e"),
        pytest.param("exec true", 0, "ended the shell with exit code 0 {}: exec true", id="exec"),
        pytest.param("trap : EXIT; exit 3", 3, "ended the shell with exit code 3 {}: trap : EXIT; exit 3", id="own trap"),
        pytest.param("if true", 2, "failed with exit code 2: if true", id="syntax"),
        pytest.param("echo 'open", 2, "failed with exit code 2: echo 'open", id="open quote"),
        pytest.param("nosuchtool\n", 127, "failed with exit code 127: nosuchtool", id="no such tool"),
        pytest.param("true\nfalse", 1, "failed with exit code 1: true ...", id="several lines"),
    ],
)
def test_a_hook_that_fails_before_the_program_is_named(driver: SpawnerDriver, hook: str, code: int, words: str) -> None:
    end = run(driver, "echo never", Hooks(pre_exec=everyone("echo first", hook), post_exec=everyone("echo last")))

    assert (end.ending, end.exit_code) == (Ending.LAUNCH_FAILED, code)
    assert end.message == f"pre_exec[1] {words.format('before the program began')}"
    assert end.detail.startswith("first\n")
    assert driver.output("task.1") == "first\n"


def test_what_a_hook_printed_is_shown(driver: SpawnerDriver) -> None:
    end = run(driver, "true", Hooks(pre_launch=("echo to stdout; echo to stderr >&2; false",)))

    assert end.message == "pre_launch[0] failed with exit code 1: echo to stdout; echo to stderr >&2; false"
    assert end.detail == "to stdout\nto stderr\n"


def test_a_hook_that_fails_after_the_program_fails_the_task(driver: SpawnerDriver) -> None:
    end = run(driver, "true", Hooks(post_exec=everyone("true", "exit 3"), post_launch=("echo never",)))

    assert (end.ending, end.exit_code) == (Ending.EXITED, 3)
    assert end.message == "post_exec[1] ended the shell with exit code 3 before the hooks after it: exit 3"
    assert driver.output("task.1") == ""


def test_a_program_that_failed_goes_before_a_hook_after_it_that_fails(driver: SpawnerDriver) -> None:
    end = run(driver, "exit 9", Hooks(post_exec=everyone("false")))

    assert (end.ending, end.exit_code, end.message) == (Ending.EXITED, 9, "exited with code 9")


@pytest.mark.parametrize("post", [(), everyone("echo after")], ids=["exec", "wait"])
@pytest.mark.parametrize("hook", ["export A=1", "A=1 true; export A"], ids=["plain", "bash"])
@pytest.mark.parametrize("executable", ["nosuchtool", "/no/such/tool", "./nosuchtool", "/etc/passwd", "/tmp"])
def test_a_program_that_cannot_be_started_is_a_failed_launch(
    driver: SpawnerDriver, executable: str, hook: str, post: tuple[tuple[int, str], ...]
) -> None:
    template = driver.template(
        executable=executable, hooks=Hooks(pre_exec=everyone(hook), post_exec=post), environment={"PATH": "/usr/bin:/bin"}
    )
    driver.launch("task.1", template=template)

    end = driver.wait_for_end("task.1")
    assert end.ending is Ending.LAUNCH_FAILED
    assert end.message.startswith(f"executable '{executable}'")
    assert executable != "nosuchtool" or "the task's PATH (/usr/bin:/bin)" in end.message
    assert "after" not in driver.output("task.1")


def test_the_program_is_looked_up_in_the_path_that_hooks_leave(driver: SpawnerDriver, tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "mytool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)
    template = driver.template(executable="mytool", hooks=Hooks(pre_exec=everyone(f"export PATH={tool.parent}:$PATH")))

    driver.launch("task.1", template=template)

    assert driver.wait_for_end("task.1").ending is Ending.DONE
    assert driver.output("task.1") == "found\n"


def test_hooks_are_for_the_ranks_that_they_name(driver: SpawnerDriver) -> None:
    hooks = Hooks(
        pre_exec=((ALL_RANKS, "export A=all"), (1, "export A=one"), (2, "export B='only two'"), (2, "export A=two")),
        post_exec=((0, "echo after zero"),),
    )
    driver.launch(
        "task.1",
        template=driver.template(executable="/bin/sh", hooks=hooks, request=Request(ranks=3)),
        arguments=("-c", "echo $RP_RANK $A $B"),
        placement=THREE_RANKS,
    )

    assert driver.wait_for_end("task.1").ending is Ending.DONE
    assert sorted(driver.output("task.1").splitlines()) == ["0 all", "1 one", "2 two only two", "after zero"]


def test_what_is_to_run_once_runs_before_and_after_all_ranks(driver: SpawnerDriver) -> None:
    hooks = Hooks(pre_launch=("echo first > order",), pre_exec=((1, "export A=1"),), post_launch=("echo last >> order",))
    driver.launch(
        "task.1",
        template=driver.template(executable="/bin/sh", hooks=hooks, request=Request(ranks=3)),
        arguments=("-c", "echo rank >> order"),
        placement=THREE_RANKS,
    )

    assert driver.wait_for_end("task.1").ending is Ending.DONE
    assert (driver.sandbox("task.1") / "order").read_text().split() == ["first", "rank", "rank", "rank", "last"]


@pytest.mark.parametrize("hook", ["pre_launch", "post_launch"])
def test_what_is_to_run_once_and_fails_is_named(driver: SpawnerDriver, hook: str) -> None:
    hooks = Hooks(**{hook: ("echo to stdout; false",)})  # type: ignore[arg-type]
    driver.launch(
        "task.1",
        template=driver.template(executable="/bin/true", hooks=hooks, request=Request(ranks=3)),
        placement=THREE_RANKS,
    )

    end = driver.wait_for_end("task.1")
    assert (end.ending, end.exit_code) == (Ending.LAUNCH_FAILED if hook == "pre_launch" else Ending.EXITED, 1)
    assert end.message == f"{hook}[0] failed with exit code 1: echo to stdout; false"
    assert end.detail == "to stdout\n"
    assert not list(driver.folder.glob("hooks/*"))


@pytest.mark.parametrize("after", ["echo last", "echo last; false"])
def test_what_is_to_run_after_all_ranks_runs_when_one_has_failed_too(driver: SpawnerDriver, after: str) -> None:
    script = f"echo rank; if [ $RP_RANK = 1 ]; then exit 3; else {FOREVER}; fi"
    driver.launch(
        "task.1",
        template=driver.template(
            executable="/bin/sh", hooks=Hooks(post_launch=(after,)), request=Request(ranks=3), grace_s=1000.0
        ),
        arguments=("-c", script),
        placement=THREE_RANKS,
    )

    end = driver.wait_for_end("task.1")
    assert (end.ending, end.exit_code, end.message) == (Ending.EXITED, 3, "rank 1 exited with code 3")
    assert driver.output("task.1").splitlines()[-1] == "last"
    assert driver.output("task.1").startswith("rank\n")
    assert not list(driver.folder.glob("hooks/*"))


def test_no_rank_begins_before_all_have_done_their_hooks(driver: SpawnerDriver) -> None:
    gate = Path(driver.settings.pilot_folder, "gate")
    os.mkfifo(gate)
    hooks = Hooks(pre_exec=((ALL_RANKS, "echo hook >> order"), (2, f"read line < {gate}; echo late >> order")), sync=True)
    driver.launch(
        "task.1",
        template=driver.template(executable="/bin/sh", hooks=hooks, request=Request(ranks=3)),
        arguments=("-c", "echo program >> order"),
        placement=THREE_RANKS,
    )
    order = driver.sandbox("task.1") / "order"
    driver.wait_for(lambda: order.exists() and order.read_text().split() == ["hook"] * 3)

    gate.write_text("go\n")

    assert driver.wait_for_end("task.1").ending is Ending.DONE
    assert order.read_text().split() == ["hook", "hook", "hook", "late", "program", "program", "program"]
    assert not list(driver.folder.glob("hooks/*"))


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("way", ["false", "exit 0"])
def test_a_rank_whose_hook_fails_does_not_leave_the_others_waiting(driver: SpawnerDriver, rank: int, way: str) -> None:
    hooks = Hooks(pre_exec=((ALL_RANKS, "echo $$ >> pids"), (rank, way)), sync=True)
    driver.launch(
        "task.1",
        template=driver.template(executable="/bin/true", hooks=hooks, request=Request(ranks=3), grace_s=1000.0),
        placement=THREE_RANKS,
    )

    end = driver.wait_for_end("task.1")

    verb = "failed with exit code 1" if way == "false" else "ended the shell with exit code 0 before the program began"
    assert (end.ending, end.message) == (Ending.LAUNCH_FAILED, f"rank {rank}: pre_exec[1] {verb}: {way}")
    assert not list(driver.folder.glob("hooks/*"))


def test_a_daemon_of_a_hook_lives_as_long_as_the_task(driver: SpawnerDriver) -> None:
    hook = f"(setsid sh -c 'echo $$ > pid; {FOREVER}' >/dev/null 2>&1 &); while ! [ -s pid ]; do :; done"

    end = run(driver, "kill -0 $(cat pid) && cat pid", Hooks(pre_exec=everyone(hook)), grace_s=1000.0)

    assert (end.ending, end.message) == (Ending.DONE, "processes that it left behind were ended")
    assert started_ticks(int(driver.output("task.1"))) is None


def test_a_hook_is_ended_with_its_task(driver: SpawnerDriver) -> None:
    hooks = Hooks(pre_exec=everyone(f"sh -c 'echo $$ > pid; {FOREVER}'; echo never > never"))
    driver.shell("task.1", "echo never > never", hooks=hooks, grace_s=1000.0)
    pid = int(driver.wait_for_text(driver.sandbox("task.1") / "pid"))

    driver.send(EndTasks([(TaskUid("task.1"), Attempt(1))], Ending.CANCELLED, "cancelled by the user"))

    end = driver.wait_for_end("task.1")
    assert (end.ending, end.message) == (Ending.CANCELLED, "cancelled by the user")
    assert started_ticks(pid) is None
    assert not (driver.sandbox("task.1") / "never").exists()
    assert not list(driver.folder.glob("hooks/*"))


def test_ranks_of_a_task_that_is_cancelled_before_them_are_never_begun(driver: SpawnerDriver) -> None:
    hooks = Hooks(pre_launch=(f"echo $$ > pid; {FOREVER}",), post_launch=("echo never > never",))
    driver.launch(
        "task.1",
        template=driver.template(executable="touch", hooks=hooks, request=Request(ranks=3), grace_s=1000.0),
        arguments=("never",),
        placement=THREE_RANKS,
    )
    driver.wait_for_text(driver.sandbox("task.1") / "pid")

    driver.send(EndTasks([(TaskUid("task.1"), Attempt(1))], Ending.CANCELLED, "cancelled by the user"))

    assert driver.wait_for_end("task.1").ending is Ending.CANCELLED
    assert not (driver.sandbox("task.1") / "never").exists()
    assert not list(driver.folder.glob("hooks/*"))


def test_functions_that_a_user_has_exported_are_there_for_hooks_and_program(start_driver: StartDriver) -> None:
    module = "() {  export LOADED=$2\n}"
    driver = start_driver(environment={"PATH": os.environ["PATH"], "BASH_FUNC_module%%": module, "A.B": "kept"})

    driver.launch(
        "task.1",
        template=driver.template(executable="env", hooks=Hooks(pre_exec=everyone("module load gcc"))),
    )
    driver.launch(
        "task.2",
        template=driver.template(executable="env", hooks=Hooks(pre_exec=everyone("export PLAIN=1"))),
    )

    ends = driver.wait_for_ends(["task.1", "task.2"])
    assert {end.ending for end in ends.values()} == {Ending.DONE}
    assert {"LOADED=gcc", "A.B=kept"} <= set(driver.output("task.1").splitlines())
    assert {"PLAIN=1", "A.B=kept", f"BASH_FUNC_module%%={module.splitlines()[0]}"} <= set(driver.output("task.2").splitlines())


def test_modules_are_found_where_the_environment_says(start_driver: StartDriver, tmp_path: Path) -> None:
    (tmp_path / "init").mkdir()
    (tmp_path / "init" / "bash").write_text("module() { export LOADED=$2; }\n")
    driver = start_driver(environment={"PATH": os.environ["PATH"], "MODULESHOME": str(tmp_path)})

    driver.shell("task.1", "echo $LOADED", hooks=Hooks(pre_exec=everyone("module load gcc/12")))

    assert driver.wait_for_end("task.1").ending is Ending.DONE
    assert driver.output("task.1") == "gcc/12\n"
