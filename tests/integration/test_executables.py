"""Executables: what they are given, what they give back, and how they end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from integration_support import Campaign, outcome_of

import pilotage as rp
from pilotage import Ending


def python(source: str, *arguments: object, **more: object) -> rp.TaskDescription:
    """Describe a Python program as an executable."""
    return rp.TaskDescription(executable="python3", arguments=["-c", source, *arguments], **more)


def test_arguments_arrive_as_they_were_given(campaign: Campaign) -> None:
    words = ["two words", "ünïcode 日本 🧪", "", 'quote\'s "and" $NOBODY `x` \\', "line\nbreak", "-n", "*"]
    given = [*words, 3, 2.5, Path("/a b")]
    task = campaign.run(python("import sys; print(sys.argv[1:])", *given))
    assert task.stdout == f"{[str(one) for one in given]}\n"


def test_the_environment_is_the_users_with_the_tasks_on_top(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'echo "$PILOTAGE_TEST_PLACE|$GREETING|$PILOTAGE_TASK_ID|$PILOTAGE_RANKS"'
    task = campaign.shell(script, uid="env.1", environment={"GREETING": "good day = ü", "OTHER": 3})
    assert task.stdout == f"{os.environ['PILOTAGE_TEST_PLACE']}|good day = ü|env.1|1\n"


def test_it_runs_in_its_sandbox_and_files_stay_there(campaign: Campaign) -> None:
    task = campaign.shell("pwd; echo content > made.here")
    assert task.stdout == f"{task.sandbox}\n"
    assert Path(task.sandbox, "made.here").read_text() == "content\n"


def test_a_sandbox_of_the_users_choice(campaign: Campaign, tmp_path: Path) -> None:
    absolute = campaign.shell("pwd", sandbox=tmp_path / "mine")
    assert absolute.stdout == f"{tmp_path}/mine\n"
    relative = campaign.shell("pwd", sandbox="shared/by me")
    assert relative.stdout == f"{relative.sandbox}\n"
    assert relative.sandbox.endswith("/shared/by me")


def test_output_files_have_default_and_custom_names(campaign: Campaign, tmp_path: Path) -> None:
    script = "echo out; echo err >&2"
    plain = campaign.shell(script)
    assert (plain.stdout_path.name, plain.stderr_path.name) == (f"{plain.uid}.out", f"{plain.uid}.err")
    assert (plain.stdout, plain.stderr) == ("out\n", "err\n")
    named = campaign.shell(script, stdout="my output.txt", stderr=tmp_path / "elsewhere.err")
    assert Path(named.sandbox, "my output.txt").read_text() == "out\n"
    assert (tmp_path / "elsewhere.err").read_text() == named.stderr == "err\n"


def test_both_outputs_may_go_to_one_file(campaign: Campaign) -> None:
    task = campaign.shell("echo one; echo two >&2; echo three", stdout="both.txt", stderr="both.txt")
    assert sorted(task.stdout.split()) == ["one", "three", "two"]


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_codes(campaign: Campaign, code: int) -> None:
    task = campaign.shell(f"echo reason >&2; exit {code}")
    assert task.exit_code == code
    assert task.state == (rp.FAILED if code else rp.DONE)
    if code:
        assert outcome_of(task).ending is Ending.EXITED
        with pytest.raises(rp.TaskFailed, match=rf"(?s){task.uid}.*code {code}.*reason"):
            task.result(0)
        assert task.exception_detail == "reason\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_shows_as_its_negative_number(campaign: Campaign, number: signal.Signals) -> None:
    task = campaign.shell(f"kill -{number.value} $$")
    assert (task.state, task.exit_code, outcome_of(task).ending) == (rp.FAILED, -number, Ending.SIGNALLED)
    assert number.name in task.exception


def test_a_timeout_ends_the_task_and_says_so(campaign: Campaign) -> None:
    task = campaign.run(rp.TaskDescription(executable="sleep", arguments=[600], timeout=0.2))
    assert (task.state, outcome_of(task).ending) == (rp.FAILED, Ending.TIMED_OUT)
    assert "timeout of 0.2 s" in task.exception


def test_times_are_in_order(campaign: Campaign) -> None:
    times = campaign.shell("true").times
    assert 0 < times.accepted <= times.launched <= times.started <= times.ended


def test_retries_repeat_a_failed_task(campaign: Campaign, tmp_path: Path) -> None:
    script = f"echo $PILOTAGE_ATTEMPT >> {tmp_path}/attempts; [ $(wc -l < {tmp_path}/attempts) = 3 ]"
    task = campaign.shell(script, retries=5)
    assert (task.state, task.exit_code, task.attempt) == (rp.DONE, 0, 3)
    assert (tmp_path / "attempts").read_text() == "1\n2\n3\n"


def test_retries_come_to_an_end(campaign: Campaign) -> None:
    task = campaign.shell("exit 5", retries=2)
    assert (task.state, task.exit_code, task.attempt) == (rp.FAILED, 5, 3)


def test_stdin_is_empty(campaign: Campaign) -> None:
    assert campaign.shell("wc -c").stdout.strip() == "0"


def test_a_description_from_a_dict_keywords_or_attributes_set_later(campaign: Campaign) -> None:
    late = rp.TaskDescription()
    late.executable = "/bin/echo"
    late.arguments = ["three"]
    described = [{"executable": "/bin/echo", "arguments": ["one"]}, rp.TaskDescription({"executable": "/bin/echo"}), late]
    described[1].arguments.append("two")
    assert [task.stdout for task in campaign.run(described)] == ["one\n", "two\n", "three\n"]


def test_a_script_without_execute_permission_runs_by_its_interpreter(campaign: Campaign, tmp_path: Path) -> None:
    (tmp_path / "plain.sh").write_text("echo $1")
    task = campaign.run(rp.TaskDescription(executable="sh", arguments=[tmp_path / "plain.sh", "hello"]))
    assert task.stdout == "hello\n"


def test_handles_show_what_is_known(campaign: Campaign) -> None:
    task = campaign.shell("exit 0", name="the name", metadata={"a": 1})
    assert (task.name, task.metadata, task.mode, task.pilot) == ("the name", {"a": 1}, rp.TASK_EXECUTABLE, "pilot.0000")
    assert task == campaign.tasks.get_tasks(task.uid)
    assert task.as_dict()["exit_code"] == 0
    with pytest.raises(AttributeError, match="did you mean 'exit_code'"):
        _ = task.exitcode
