"""A task's own variables are put into its arguments, however it is started, and nothing else is read in them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from spawner_driver import SpawnerDriver, StartDriver

from mpi_installations import MpiInstallation
from pilotage.model.execution import AttemptEnd
from pilotage.model.outcome import Ending
from pilotage.model.own_variables import OwnVariables, exported
from pilotage.model.resources import NodeShare, Placement, Request, core_mask
from pilotage.model.workload import ALL_RANKS, Extra, Hooks, MpiLauncher, Template
from pilotage.spawner.hook_scripts import render, with_words
from pilotage.spawner.hooks import steps
from pilotage.wire.runner_messages import DefineEnvironment

TWO_RANKS: Placement = (NodeShare(0, 2, core_mask(0b11), ((2, 64), (3, 64))),)
TWO = Request(ranks=2, gpu_shares=64)

PLAIN = Hooks(pre_exec=((ALL_RANKS, "export HOOKED='from a hook'"),))
BASH = Hooks(pre_exec=((ALL_RANKS, "list=(1 2); set -u; export HOOKED='from a hook'; set -- lost"),))
WAYS: dict[str, Hooks | None] = {
    "by itself": None,
    "a plain hook": PLAIN,
    "a plain hook, and one after": Hooks(pre_exec=PLAIN.pre_exec, post_exec=((ALL_RANKS, "true"),)),
    "a hook of bash": BASH,
    "a hook of bash, and one after": Hooks(pre_exec=BASH.pre_exec, post_launch=("true; true",)),
}
EVIL = (
    "two  words",
    'a "quote" and it\'s one',
    "two\nlines\n",
    "$(touch x) `touch x`; touch x & touch x",
    "$EVIL ${RP_TASK_ID} \\$RP_TASK_ID \\",
    "* ~ {a,b} !! #",
    "-n",
    "",
)
LITERAL = (
    "$HOME ${HOME}",
    "{print $1, $NF, $$, $$RP_TASK_ID, $?}",
    "${RP_TASK_ID:-else} ${RP_TASK_ID%1} ${ RP_TASK_ID}",
    "$(touch x) `touch x`; touch x",
    'it\'s "quoted" \\n \\$HOME',
    "two\nlines",
    "$",
    "",
)


@pytest.fixture(params=[*WAYS, "an mpiexec", "an mpiexec and a hook"])
def way(request: pytest.FixtureRequest) -> dict[str, object]:
    """What has a task of one rank started in a certain way."""
    if request.param in WAYS:
        return {"hooks": WAYS[request.param]}
    mpich: MpiInstallation = request.getfixturevalue("mpich")
    return {"launcher": MpiLauncher("mpich", mpich.mpiexec), "hooks": PLAIN if "hook" in request.param else None}


def printed(driver: SpawnerDriver, *arguments: str, own: Extra | None = None, **fields: object) -> str:
    """Run a program that prints each of its arguments, and return what it has printed; nothing else came of it."""
    template = driver.template(**{"executable": "/usr/bin/printf", "expands": True, **fields})
    driver.launch("task.1", template=template, arguments=("<%s>", *arguments), extra=own)
    end = driver.wait_for_end("task.1")
    assert (end.ending, end.exit_code, end.message) == (Ending.DONE, 0, "")
    assert {path.name for path in driver.sandbox("task.1").iterdir()} == {"task.1.out"}
    return driver.output("task.1")


def marked(*arguments: str) -> str:
    return "".join(f"<{argument}>" for argument in arguments)


def test_the_tasks_own_variables_are_put_in(driver: SpawnerDriver, way: dict[str, object]) -> None:
    arguments = ("$RP_TASK_ID greets $TEST", "${RP_RANK}of$PILOTAGE_RANKS/", "$TEST", "${TEST}${TEST}$$TEST", "'$TEST'")

    told = printed(driver, *arguments, environment={"TEST": "the world"}, **way)

    assert told == marked("task.1 greets the world", "0of1/", "the world", "the worldthe world$$TEST", "'the world'")


def test_a_protected_reference_loses_its_backslash_and_nothing_else(driver: SpawnerDriver, way: dict[str, object]) -> None:
    assert printed(driver, "\\$RP_RANK \\${RP_RANK} $RP_RANK \\$HOME", **way) == marked("$RP_RANK ${RP_RANK} 0 \\$HOME")


def test_an_own_variable_that_is_not_set_is_nothing(driver: SpawnerDriver, way: dict[str, object]) -> None:
    assert printed(driver, "$RP_UNSET", "-${PILOTAGE_UNSET}-", **way) == marked("", "--")


def test_a_value_is_not_read_again_and_stays_one_argument(driver: SpawnerDriver, way: dict[str, object]) -> None:
    environment = {f"EVIL_{number}": value for number, value in enumerate(EVIL)}
    alone = [f"${name}" for name in environment]
    among = [f"it's ${{{name}}}; $(touch x)" for name in environment]

    told = printed(driver, *alone, *among, environment=environment, **way)

    assert told == marked(*EVIL, *(f"it's {value}; $(touch x)" for value in EVIL))


def test_all_else_stays_as_it_is(driver: SpawnerDriver, way: dict[str, object]) -> None:
    # Beside one argument in which something is put, and without any.
    assert printed(driver, *LITERAL, "$RP_RANK", *LITERAL, **way) == marked(*LITERAL, "0", *LITERAL)


def test_nothing_to_put_in(driver: SpawnerDriver, way: dict[str, object]) -> None:
    assert printed(driver, *LITERAL, **way) == marked(*LITERAL)


def test_arguments_of_a_template_without_variables_are_not_looked_at(driver: SpawnerDriver, way: dict[str, object]) -> None:
    assert printed(driver, "$RP_TASK_ID", expands=False, **way) == marked("$RP_TASK_ID")


def test_many_arguments_and_those_that_are_colons(driver: SpawnerDriver, way: dict[str, object]) -> None:
    # A colon alone separates programs in the line of an mpiexec.
    arguments = tuple(str(number) for number in range(12))
    assert printed(driver, *arguments, ":", "$RP_TASK_ID", "b c", **way) == marked(*arguments, ":", "task.1", "b c")


@pytest.mark.parametrize("launched", [False, True], ids=["started here", "by an mpiexec"])
@pytest.mark.parametrize("hooks", [None, PLAIN, BASH], ids=["no hooks", "plain", "bash"])
def test_each_rank_has_its_own(
    driver: SpawnerDriver, request: pytest.FixtureRequest, launched: bool, hooks: Hooks | None
) -> None:
    launcher = MpiLauncher("mpich", request.getfixturevalue("mpich").mpiexec) if launched else None
    fields = {"executable": "/bin/echo", "expands": True, "request": TWO, "launcher": launcher, "hooks": hooks}
    template = driver.template(**fields)

    driver.launch(
        "task.1", template=template, arguments=("$RP_RANK of $RP_RANKS on $CUDA_VISIBLE_DEVICES",), placement=TWO_RANKS
    )

    assert driver.wait_for_end("task.1").ending is Ending.DONE
    assert sorted(driver.output("task.1").splitlines()) == ["0 of 2 on 2", "1 of 2 on 3"]


@pytest.mark.parametrize("hooks", [PLAIN, BASH], ids=["plain", "bash"])
def test_what_hooks_export_is_put_in(driver: SpawnerDriver, hooks: Hooks) -> None:
    assert printed(driver, "$HOOKED", "$list", hooks=hooks) == marked("from a hook", "$list")


def test_what_hooks_around_an_mpiexec_export_is_put_in(driver: SpawnerDriver, mpich: MpiInstallation) -> None:
    hooks = Hooks(pre_launch=("export LAUNCHED='two words'",), pre_exec=((ALL_RANKS, "export HOOKED=$LAUNCHED.$RP_RANK"),))

    told = printed(driver, "$LAUNCHED", "$HOOKED", hooks=hooks, launcher=MpiLauncher("mpich", mpich.mpiexec))

    assert told == marked("two words", "two words.0")


def test_what_one_rank_exports_is_nothing_in_others(driver: SpawnerDriver) -> None:
    hooks = Hooks(pre_launch=("export AWAY=1",), pre_exec=((1, "export SEEN=here"),))
    template = driver.template(executable="/bin/echo", expands=True, request=Request(ranks=2), hooks=hooks)

    driver.launch("task.1", template=template, arguments=("$RP_RANK$SEEN $AWAY",), placement=TWO_RANKS)

    assert driver.wait_for_end("task.1").ending is Ending.DONE
    assert sorted(driver.output("task.1").splitlines()) == ["0 $AWAY", "1here $AWAY"]


def test_what_a_named_environment_sets_is_put_in(start_driver: StartDriver) -> None:
    driver = start_driver(environment={"PATH": os.environ["PATH"], "SEEN": "user"})
    driver.send(DefineEnvironment("ve", {"VIRTUAL_ENV": "/ve"}, []))

    assert printed(driver, "$VIRTUAL_ENV/x", "$SEEN", named_env="ve") == marked("/ve/x", "$SEEN")


def test_what_is_the_tasks_alone_is_put_in(driver: SpawnerDriver) -> None:
    own = Extra(variables={"PILOTAGE_SERVICE_DB": "tcp://here:1", "RP_INFO_DB": "tcp://here:1"})

    assert printed(driver, "$PILOTAGE_SERVICE_DB", "$RP_INFO_DB", own=own) == marked("tcp://here:1", "tcp://here:1")


def test_the_executable_is_not_looked_at(driver: SpawnerDriver) -> None:
    template = driver.template(executable="$RP_RANK", expands=True, hooks=PLAIN)

    driver.launch("task.1", template=template, arguments=("$RP_RANK",))

    end: AttemptEnd = driver.wait_for_end("task.1")
    assert end.ending is Ending.LAUNCH_FAILED
    assert "'$RP_RANK'" in end.message


def test_where_there_is_no_bash(tmp_path: Path) -> None:
    script = render(steps(Hooks(pre_exec=((ALL_RANKS, "export A='a b'; true"),)), "pre_exec"), bash=False)
    own = OwnVariables(Template(hooks=Hooks(pre_exec=((ALL_RANKS, "export A='a b'"),))))
    command = ["/usr/bin/printf", "<%s>", "x $A", "$B"]

    text = with_words(script, [None, *own.words(command[1:])])

    line = ["/bin/sh", "-c", text, "hooks", str(tmp_path / "note"), *command]
    done = subprocess.run(line, env={"PILOTAGE_RANK": "0", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    assert done.stdout == "<x a b><$B>"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("export A=1", ["A"]),
        ("export A", ["A"]),
        ("A=1; export B=$A C='x y' D=\"z; w\" E", ["B", "C", "D", "E"]),
        ("module load gcc && export A=$(pwd -P) B=`ls -l` C", ["A", "B", "C"]),
        ("if true; then\n\texport A=1\nfi\nexport \\\n  B=2", ["A", "B"]),
        ("export A=1 # export B\n# export C\necho export D", ["A"]),
        ("[ -d /x ] || { export A=1; }; (export B=2); for i in 1; do export C=$i; done", ["A", "B", "C"]),
        ("export -f greet; export -n A; unexport C=1; exports=1", []),
        ("A=1 B=2 env", []),
        ("export 1A=2; export", []),
    ],
)
def test_the_names_that_a_hook_exports(text: str, names: list[str]) -> None:
    assert list(exported(text)) == names
