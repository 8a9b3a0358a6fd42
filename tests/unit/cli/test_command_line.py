"""What is said, and with which exit code, when a command line or what it asks for is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pilotage.cli import main
from pilotage.cli.lookup import meant
from pilotage.cli.main import run_command
from pilotage.cli.selection import parse_states
from pilotage.errors import BackendError, InvalidRequest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PILOTAGE_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = run_command(arguments)
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-n", "3"], "No program is given. The program and its arguments stand after '--'"),
        (["run", "-n", "3", "--"], "No program is given"),
        (["run", "-n", "3", "./prog"], "The program and its arguments stand after '--', as in: pilotage run"),
        (["run", "-n", "3", "prog", "--seed", "1"], "The program and its arguments stand after '--', as in: pilotage run"),
        (["run", "-n", "0", "--", "true"], "Invalid value for '-n' / '--count'"),
        (["run", "-n", "many", "--", "true"], "Invalid value for '-n' / '--count'"),
        (["run", "--gpsu", "1", "--", "true"], "--gpsu"),
        (["run", "--", "./missing"], "missing; check its path"),
        (["run", "--memory", "2X", "--", "true"], "--memory '2X' is not understood"),
        (["run", "--timeout", "soon", "--", "true"], "--timeout 'soon' is not understood"),
        (["run", "--env", "=1", "--", "true"], "--env '=1' is not NAME=VALUE"),
        (["run", "-n", "2", "--stdout", "one", "--", "true"], "is one file for 2 tasks"),
        (["run", "--nodes", "2", "--pilot-cores", "1", "--", "true"], "--nodes and --pilot-cores (or --pilot-gpus)"),
        (["run", "-n", "2", "--array", "0-3", "--", "true"], "--count and --array are both given"),
        (["run", "--array", "3-1", "--", "true"], "the range '3-1' ends before it begins"),
        (["run", "--from-csv", "missing.csv", "--", "true"], "--from-csv missing.csv: it cannot be read: No such file"),
        (["run", "-n", "2", "--only-missing", "out.dat", "--", "true"], "is one file for all tasks; put {i} into its name"),
        (["run", "--platform", "local.localhots", "--", "true"], "did you mean 'local.localhost'?"),
        (["run", "--nodes", "2", "--", "true"], "nodes=2 exceeds the 1 node of local.localhost"),
        (["run", "--session", "a/b", "--", "true"], "cannot name a session"),
        (["run", "--queue", "debug", "--", "true"], "--queue is given, and platform local.localhost has no batch system"),
        (["run", "--exclusive", "--", "true"], "--exclusive is given, and platform local.localhost has no batch system"),
        (["run", "--extra-options", "--switches=1", "--", "true"], "--extra-options is given, and platform local.localhost"),
        (
            ["run", "--after-policy", "any", "--", "true"],
            "--after-policy any says how tasks of another session must have ended",
        ),
        (["check", "binding", "--ranks", "99999"], "99,999 ranks take 99,999 cores, and this process may use"),
        (["check", "binding", "-n", "2", "-c", "50000"], "2 ranks of 50000 cores each take 100,000 cores"),
        (["platforms", "show", "local.emulatde"], "did you mean 'local.emulated'?"),
        (["platforms", "check", "local.emulatde"], "did you mean 'local.emulated'?"),
        (["platforms", "lsit"], "lsit"),
        (["task", "list"], "there are no sessions in"),
        (["task", "cancel"], "there are no sessions in"),
        (["session", "show", "nix"], "there are no sessions in"),
        (["session", "rm", ""], "an empty uid names no session"),
        (["session", "lsit"], "lsit"),
        (["bench", "functoins"], "did you mean 'functions'?"),
        (["bench", "cluster-start"], "say on which platform, with --platform NAME"),
        (["bench", "--platform", "lab.blue", "functions"], "there is no case 'functions'"),
        (["bench", "--platform", "local.localhots"], "did you mean 'local.localhost'?"),
        (["bench", "--json", "no/such/file.json", "start"], "there is no folder"),
    ],
)
def test_a_mistake_is_one_complaint_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, errors = said(capsys, *arguments)
    assert status == 2
    assert errors.startswith("pilotage: ")
    assert message in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "arguments",
    [["--", "./missing"], ["--platform", "local.nowhere", "--", "true"], ["--pilot-cores", "100000", "--", "true"]],
)
def test_a_refused_run_leaves_no_session_behind(capsys: pytest.CaptureFixture[str], home: Path, arguments: list[str]) -> None:
    assert said(capsys, "run", *arguments)[0] == 2
    assert not home.exists()


def test_a_failure_is_exit_code_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise BackendError("the disk is full; make room")

    monkeypatch.setattr(main.bench, "load_cases", fail)
    assert said(capsys, "bench") == (1, "pilotage: the disk is full; make room\n")


@pytest.mark.parametrize("by_option", [True, False])
def test_a_traceback_is_printed_only_when_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, by_option: bool
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(main.bench, "load_cases", fail)
    status, errors = said(capsys, "bench")
    assert (status, "Traceback" in errors) == (1, False)
    assert errors.startswith("pilotage: ZeroDivisionError: a bug")
    if not by_option:
        monkeypatch.setenv("PILOTAGE_DEBUG", "1")
    assert "Traceback" in said(capsys, "bench", *["--debug"] * by_option)[1]


def test_debug_after_the_separator_belongs_to_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "run", "--", "./missing", "--debug")[1].count("Traceback") == 0


def test_a_session_is_meant_by_its_beginning_its_end_or_its_number() -> None:
    known = ["task.000001", "task.000011", "task.000021", "setup"]
    assert meant("set", known, "task", "here") == "setup"
    assert meant("0021", known, "task", "here") == "task.000021"
    assert meant("1", known, "task", "here") == "task.000001"
    with pytest.raises(InvalidRequest, match=r"'task' is how 3 tasks here begin or end: task.000001, .*; give more of it"):
        meant("task", known, "task", "here")
    with pytest.raises(InvalidRequest, match=r"there is no task 'sutep' here; did you mean 'setup'\?"):
        meant("sutep", known, "task", "here")


def test_states_have_short_names() -> None:
    assert parse_states(["running", "failed"]) == {"AGENT_EXECUTING", "FAILED"}
    with pytest.raises(InvalidRequest, match=r"there is no state 'runing'; did you mean 'RUNNING'\?"):
        parse_states(["runing"])


@pytest.mark.parametrize("arguments", [["platforms"], ["platforms", "list"]])
def test_platforms_print_as_json_and_names(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run_command([*arguments, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert {"local.localhost", "local.emulated"} <= {platform["name"] for platform in document["platforms"]}
    assert run_command([*arguments, "-f", "quiet"]) == 0
    assert "local.localhost" in capsys.readouterr().out.splitlines()


def test_no_sessions_are_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["session", "list", "-f", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "sessions": []}


def test_help_imports_neither_the_client_nor_progress_bars() -> None:
    program = (
        "import sys; from pilotage.cli.main import run_command; run_command(['--version']); "
        "print([name for name in sys.modules if name in "
        "('zmq', 'cloudpickle', 'asyncio', 'rich.progress', 'pilotage.client.session', 'pilotage.cli.checks')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_platform_shows_its_plan_and_where_it_is_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lab.toml").write_text('[blue]\n\n[[blue.partitions]]\nname = "small"\n')
    monkeypatch.setenv("PILOTAGE_PLATFORMS", str(tmp_path))
    assert run_command(["platforms", "show", "lab.blue"]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"partitions +1 +{tmp_path}/lab.toml:3\n", shown)
    assert re.search(r"PARTITION +NODES .*\nsmall +a share +continuous", shown)


@pytest.fixture
def own_frontier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file of the user's that changes two values of a shipped platform."""
    file = tmp_path / "ornl.toml"
    file.write_text('[frontier]\nproject = "abc123"\n\n[frontier.queues.batch]\nmax_nodes = 10\n')
    monkeypatch.setenv("PILOTAGE_PLATFORMS", str(file))
    return file


def test_a_platform_shows_where_each_value_is_said_and_known_from(
    capsys: pytest.CaptureFixture[str], own_frontier: Path
) -> None:
    assert run_command(["platforms", "show", "ornl.frontier"]) == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert re.search(rf"abc123 +{own_frontier}:2$", shown["project"])
    assert re.search(rf"up to 12 h, up to 10 nodes; .* \(shipped\), {own_frontier}:5$", shown["queues.batch"])
    assert re.search(r"56 +ornl.toml:\d+ \(shipped\) +Frontier User Guide", shown["cores_per_node"])
    assert re.search(r"0,8,16,24,32,40,48,56 +ornl.toml", shown["node_rules.reserved_cores"])
    assert "exclusive" in shown and "agent_nodes" not in shown, "what nobody says is not shown"


def test_a_platform_as_json_has_all_of_it_and_the_origins(capsys: pytest.CaptureFixture[str], own_frontier: Path) -> None:
    assert run_command(["platforms", "show", "ornl.frontier", "-f", "json"]) == 0
    document = json.loads(capsys.readouterr().out)["platform"]
    assert (document["project"], document["agent_nodes"], document["status_date"]) == ("abc123", 0, "2026-11-21")
    assert document["queues"]["batch"]["max_nodes"] == 10
    assert document["origins"]["queues.batch.max_nodes"] == f"{own_frontier}:5"
    assert run_command(["platforms", "show", "ornl.frontier", "-f", "quiet"]) == 0
    assert capsys.readouterr().out == "ornl.frontier\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "2"], "--runtime is not given; on lab.blue it is the walltime of the pilot's job"),
        (["--nodes", "5", "--runtime", "10m"], "5 nodes exceed the 4 of queue 'whole' on lab.blue; ask for fewer"),
        (["--nodes", "4", "--runtime", "61m"], "runtime=61.0 exceeds the 60 minutes of queue 'whole' on lab.blue"),
        (["--pilot-cores", "33", "--runtime", "1m"], "5 nodes exceed the 4 of queue 'whole' on lab.blue; ask for fewer"),
        (["--nodes", "4", "--runtime", "1m", "--", "./missing"], "missing; check its path"),
        (["--nodes", "4", "--runtime", "1m", "--filesystems", "home"], "slurm cannot say it"),
        (["--nodes", "4", "--runtime", "1m", "--constraints", "a b"], "constraints='a b'"),
        (["--nodes", "2", "--runtime", "61m", "--queue", "whole"], "runtime=61.0 exceeds the 60 minutes of queue 'whole'"),
    ],
)
def test_a_pilot_that_a_cluster_cannot_have_is_refused_before_there_is_a_session(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    home: Path,
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "lab.toml").write_text(
        '[blue]\nbatch = "slurm"\nqueue = "whole"\ncores_per_node = 8\n'
        "[blue.queues]\nwhole = { max_nodes = 4, max_walltime_minutes = 60 }\n"
    )
    monkeypatch.setenv("PILOTAGE_PLATFORMS", str(tmp_path))
    program = [] if "--" in arguments else ["--", "true"]
    status, errors = said(capsys, "run", "--platform", "lab.blue", *arguments, *program)
    assert (status, message in errors) == (2, True), errors
    assert not home.exists()


def test_what_a_platform_leaves_open_is_this_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["platforms", "show", "local.localhost"]) == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert re.search(r"\d+ +this machine$", shown["cores_per_node"])
