"""Environments evaluated in a real bash: the difference they make, and what is said of those that cannot be had."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from environment_support import PATIENCE_S, Place

from pilotage.environments import evaluation
from pilotage.environments.own import COMMANDS_FOLDER, own_environment, write_commands
from pilotage.errors import BackendError

MODULES = (Path("/usr/share/modules/init/bash"), Path("/usr/share/lmod/lmod/init/bash"))


def failure(place: Place, spec: dict[str, object]) -> str:
    with pytest.raises(BackendError) as caught:
        place.prepare(spec)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------ differences


def test_variables_that_are_set_changed_and_unset(place):
    place.environment |= {"GONE": "1", "SAME": "1", "CHANGED": "1"}
    commands = ["export FOO=bar BAR=$FOO", "export BAR=$FOO", "unset GONE", "export SAME=1 CHANGED=2", "HERE=only", "cd /"]
    found = place.prepare({"type": "shell", "pre_exec": commands})
    assert found.variables == {"FOO": "bar", "BAR": "bar", "CHANGED": "2"}
    assert found.unset == ("GONE",)


def test_values_of_several_lines_and_functions_are_whole(place):
    place.environment["KEPT"] = "a\nBASH=b\n"
    found = place.prepare(
        {"type": "shell", "pre_exec": ["export TEXT=$'one\\nPATH=/x\\n=two'", "f() { echo 1; }; export -f f"]}
    )
    assert found.variables["TEXT"] == "one\nPATH=/x\n=two"
    assert set(found.variables) == {"TEXT", "BASH_FUNC_f%%"}
    shell = subprocess.run(["bash", "-c", "f"], env={**place.environment, **found.variables}, capture_output=True, check=True)
    assert shell.stdout == b"1\n"


def test_what_the_shell_itself_sets_is_no_part_of_it(place):
    del place.environment["PATH"]
    assert place.prepare({"type": "shell", "pre_exec": "true"}).variables == {}


def test_a_command_may_set_what_makes_shells_strict(place):
    found = place.prepare({"type": "shell", "pre_exec": ["set -eu -o noclobber -o pipefail", "export A=1", "trap 'echo' EXIT"]})
    assert found.variables == {"A": "1"}


def test_commands_run_in_the_folder_of_the_users_program(place):
    (place.folder / "settings.sh").write_text("export FROM_SCRIPT=yes\n")
    assert place.prepare({"type": "shell", "pre_exec": ". ./settings.sh"}).variables == {"FROM_SCRIPT": "yes"}


# --------------------------------------------------------------------------------------------------------------- failures


def test_a_command_that_fails_is_named_with_its_exit_code_and_what_it_printed(place):
    message = failure(
        place,
        {"type": "shell", "pre_exec": ["echo first", "echo second; ls /no/such >&2; exit_code() { return 7; }; exit_code"]},
    )
    assert "pre_exec[1], 'echo second; ls /no/such" in message
    assert "exit code 7" in message
    assert "second" in message and "No such file" in message
    assert "first" not in message


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("no_such_command", ["exit code 127", "bash: no_such_command: command not found"]),
        ("export A='1", ["exit code", "unexpected EOF"]),
        ("exit 3", ["exit code 3", "printed nothing"]),
        ("exit", ["left the shell (exit code 0)", "leave out its 'exit'"]),
        ("exec true", ["left the shell (exit code 0)"]),
        ("kill -9 $$", ["signal 9"]),
        ("printf 'x%.0s' {1..5000}; false", ["... xxx"]),
        ("export BYTES=$'\\xff'", ["'BYTES'", "UTF-8"]),
    ],
)
def test_ways_to_fail(place, command, words):
    message = failure(place, {"type": "shell", "pre_exec": command})
    for word in words:
        assert word in message
    assert len(message) < 2300


def test_what_takes_too_long_is_ended_with_all_it_started(place, monkeypatch):
    monkeypatch.setattr(evaluation, "EVALUATION_S", 0.3)
    command = "echo waiting; sleep 1000 & echo $! > pid; wait"
    message = failure(place, {"type": "shell", "pre_exec": ["export A=1", command]})
    assert "pre_exec[1]" in message and "was not over 0.3 s after" in message and "waiting" in message
    _await_end(int(place.lines("pid")[0]))


def test_what_is_left_running_is_ended(place):
    place.prepare({"type": "shell", "pre_exec": "sleep 1000 & echo $! > pid"})
    _await_end(int(place.lines("pid")[0]))


def test_it_can_be_stopped(place):
    os.mkfifo(place.folder / "reached")
    preparation = place.preparation({"type": "shell", "pre_exec": "echo > reached; sleep 1000"})
    found: list[BaseException] = []

    def run() -> None:
        try:
            preparation.run()
        except BackendError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    (place.folder / "reached").read_text()
    preparation.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert "it was stopped" in str(found[0])
    with pytest.raises(BackendError, match="stopped"):
        preparation.run()


def _await_end(pid: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        assert time.monotonic() < until, f"process {pid} goes on"


# ---------------------------------------------------------------------------------------------------------------- modules


def test_modules_are_loaded_by_what_bash_env_names(place):
    place.environment["BASH_ENV"] = str(place.folder / "modules.sh")
    (place.folder / "modules.sh").write_text(
        """\
        export MODULES_WERE_SET_UP=1
        module() {
          [ "$1" = load ] || return 2
          case "$2" in
            gcc/*) export CC=gcc-${2#gcc/} LOADEDMODULES="${LOADEDMODULES:+$LOADEDMODULES:}$2";;
            old) echo "ModuleCmd_Load.c(213):ERROR:105: Unable to locate a modulefile for '$2'" >&2;;
            *) echo "no module $2" >&2; return 1;;
          esac
        }
        """
    )
    found = place.prepare({"type": "modules", "modules": ["gcc/12"], "pre_exec": "export CXX=g++-${CC#gcc-}"})
    assert found.variables == {"MODULES_WERE_SET_UP": "1", "CC": "gcc-12", "CXX": "g++-12", "LOADEDMODULES": "gcc/12"}
    assert place.prepare({"type": "shell", "pre_exec": "module load gcc/9"}).variables["CC"] == "gcc-9"
    assert place.prepare({"type": "shell", "pre_exec": "export A=1"}).variables == {"A": "1"}, "nothing was loaded"
    assert "modules[1], 'module load nope', failed with exit code 1:\nno module nope" in failure(
        place, {"type": "modules", "modules": ["gcc/12", "nope"]}
    )
    assert "Unable to locate a modulefile for 'old'" in failure(place, {"type": "modules", "modules": "old"})


def test_without_modules_on_the_machine_it_says_so(place, monkeypatch):
    monkeypatch.setattr(evaluation, "_SET_UP_MODULES", "true")
    assert "neither environment-modules nor Lmod" in failure(place, {"type": "modules", "modules": "gcc"})


@pytest.mark.skipif(
    not any(script.exists() for script in MODULES), reason="neither environment-modules nor Lmod is installed on this machine"
)
def test_modules_of_this_machine(place):
    modules = place.folder / "modulefiles"
    (modules / "tool").mkdir(parents=True)
    (modules / "tool" / "1.0").write_text("#%Module\nprepend-path PATH /opt/tool/bin\nsetenv TOOL_HOME /opt/tool\n")
    place.environment["MODULEPATH"] = str(modules)
    found = place.prepare({"type": "modules", "modules": ["tool/1.0"]})
    assert found.variables["PATH"] == f"/opt/tool/bin:{place.environment['PATH']}"
    assert found.variables["TOOL_HOME"] == "/opt/tool"
    assert found.variables["LOADEDMODULES"] == "tool/1.0"
    message = failure(place, {"type": "modules", "modules": ["nope"]})
    assert "modules[0], 'module load nope', failed with exit code 1:" in message
    assert "nope" in message.partition("exit code 1:")[2], "the program's own words"


# ------------------------------------------------------------------------------------------------------------ spack, ours


def test_an_activation_script_of_spack(place):
    (place.folder / "activate.sh").write_text('export SPACK_ENV=/spack/env; export PATH="/spack/env/bin:$PATH"\n')
    found = place.prepare({"type": "spack", "path": str(place.folder / "activate.sh")})
    assert found.variables == {"SPACK_ENV": "/spack/env", "PATH": f"/spack/env/bin:{place.environment['PATH']}"}
    message = failure(place, {"type": "spack", "path": str(place.folder / "nowhere.sh")})
    assert "the activation script" in message and "No such file" in message


def test_our_own_environment_runs_our_python_and_finds_our_package(place):
    place.environment |= {"PYTHONHOME": "/nowhere", "PYTHONPATH": "/of/the/user"}
    write_commands(place.pilot)
    found = own_environment(place.environment, place.pilot)
    environment = {**place.environment, **found.variables}
    for name in found.unset:
        del environment[name]
    program = "import pilotage, sys; print(sys.executable, '/of/the/user' in sys.path)"
    python = subprocess.run(
        ["/usr/bin/env", "python", "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    executable, kept = python.stdout.split()
    assert os.path.samefile(executable, os.sys.executable)
    assert kept == "True"
    assert environment["PATH"].split(":")[1] == str(place.pilot / COMMANDS_FOLDER)
    assert os.access(place.pilot / COMMANDS_FOLDER / "radical-pilot-service-signal", os.X_OK)
