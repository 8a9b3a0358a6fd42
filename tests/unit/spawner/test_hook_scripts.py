"""The text of hooks: which of them mean the same to every shell, and what is made of them."""

from __future__ import annotations

import subprocess

import pytest

from pilotage.model.outcome import Ending
from pilotage.model.workload import ALL_RANKS, Hooks
from pilotage.spawner.hook_scripts import render
from pilotage.spawner.hooks import Note, is_plain, parse_note, steps
from pilotage.spawner.verdicts import Verdict, verdict_on_script

PLAIN = [
    "",
    "# a comment with 'quotes' and $(things)",
    "export OMP_NUM_THREADS=4",
    "export A=1 B='two words' C=\"$PATH:${HOME}/x y\"",
    "  export A=a,b:c@d%e+f=g  ",
    "A=1\nexport A",
    "unset A B",
    "cd ..\ncd /tmp",
    "mkdir -p deep/folder\ntouch deep/folder/file",
    "/bin/true with 'some arguments'",
    "echo hello 'it is' \"$PILOTAGE_RANK and $RP_TASK_ID\"",
    'export LD_LIBRARY_PATH="/opt/lib:$LD_LIBRARY_PATH"',
]
NOT_PLAIN = [
    "source env/bin/activate",
    ". env/bin/activate",
    "module load gcc",
    "exit 0",
    "exec true",
    "eval true",
    "set -e",
    "trap : EXIT",
    "return",
    "list=(1 2)",
    "echo {1,2}",
    "echo -e 'a'",
    "echo 'a\\tb'",
    "echo $RANDOM",
    'echo "$HOSTNAME"',
    "export A=$PATH",
    "export A=~/x",
    "[[ a = a ]]",
    "[ a = a ]",
    "true; exit 3",
    "true && exit 3",
    "true & exit 3",
    "mkdir $(pwd)",
    "mkdir `pwd`",
    "ls *",
    "ls > file",
    "export A='open",
    "A=1 true",
    "kill -9 $$",
    "mytool",
    "true | false",
    "export A=1 # comment",
    "! true",
    "time true",
    "ulimit -c 0",
    "cd /tmp\nexit",
    "export A=a\\\nb",
]


@pytest.mark.parametrize("text", PLAIN)
def test_a_plain_hook_does_the_same_in_every_shell(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert is_plain(text)
    seen = []
    for shell in ("/bin/sh", "/bin/bash"):
        folder = tmp_path_factory.mktemp("sandbox") / "in" / "here"
        folder.mkdir(parents=True)
        variables = {
            "PATH": "/usr/bin:/bin",
            "HOME": "/home/me",
            "LD_LIBRARY_PATH": "a b",
            "PILOTAGE_RANK": "0",
            "RP_TASK_ID": "t",
        }
        done = subprocess.run(
            [shell, "-c", f"{text}\n/usr/bin/env; find {folder.parent} | sed s:{folder.parent}::"],
            env=variables,
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        # What shells keep for themselves.
        own = ("SHLVL=", "_=", "PWD=", "OLDPWD=")
        seen.append(sorted(line for line in done.stdout.splitlines() if not line.startswith(own)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("text", NOT_PLAIN)
def test_all_else_is_left_to_bash(text: str) -> None:
    assert not is_plain(text)


def test_a_plain_script_writes_nothing_but_failures() -> None:
    script = render(steps(Hooks(pre_exec=((ALL_RANKS, "export A=1"),)), "pre_exec"), quick=True)

    assert (script.bash, script.plain) == (False, True)
    assert script.text == (
        "_pilotage_barrier=$1 _pilotage_note=$1.$PILOTAGE_RANK; shift\n"
        'trap \'printf "%s\\n" "$_pilotage_at $? ${RP_RET-$PATH}" >>"$_pilotage_note"\' EXIT\n'
        "_pilotage_at='pre_exec 0'; eval 'export A=1' || exit\n"
        "_pilotage_at='exec 0'; exec \"$@\"\n"
    )


@pytest.mark.parametrize(
    ("text", "quick", "bash", "plain"),
    [("export A=1", True, False, True), ("export A=1", False, True, False), ("module load gcc", True, True, False)],
)
def test_bash_is_for_what_is_not_plain_and_where_it_costs_no_more(text: str, quick: bool, bash: bool, plain: bool) -> None:
    script = render(steps(Hooks(pre_exec=((ALL_RANKS, text),)), "pre_exec"), quick=quick)

    assert (script.bash, script.plain) == (bash, plain)


def test_hooks_are_numbered_by_their_name() -> None:
    hooks = Hooks(pre_launch=("a",), pre_exec=((ALL_RANKS, "b"), (2, "c")))

    assert [(step.hook, step.number, step.rank, step.text) for step in steps(hooks, "pre_launch", "pre_exec")] == [
        ("pre_launch", 0, ALL_RANKS, "a"),
        ("pre_exec", 0, ALL_RANKS, "b"),
        ("pre_exec", 1, 2, "c"),
    ]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("", None),
        ("pre_exec 2 - \n", Note("pre_exec", 2, None, "")),
        ("pre_exec 0 - \nprogram 0 - \n", Note("program", 0, None, "")),
        ("pre_exec 2 127 \n", Note("pre_exec", 2, 127, "")),
        ("exec 0 127 /a b:/c\n", Note("exec", 0, 127, "/a b:/c")),
        ("end 0 139\n", Note("end", 0, 139, "")),
    ],
)
def test_notes_are_read(text: str, note: Note | None) -> None:
    assert parse_note(text) == note


def test_long_hooks_are_shown_by_their_beginning() -> None:
    hooks = Hooks(pre_launch=("x" * 1000, "first\nsecond"))

    assert verdict_on_script(hooks, "tool", Note("pre_launch", 0, 2, ""), 2) == Verdict(
        2, Ending.LAUNCH_FAILED, f"pre_launch[0] failed with exit code 2: {'x' * 200} ...", hook=True
    )
    assert verdict_on_script(hooks, "tool", Note("pre_launch", 1, 2, ""), 2).message.endswith(": first ...")
