"""Named environments with real pilots: built and evaluated there, waited for by tasks, the same for all of their processes."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

import pytest
from integration_support import PATIENCE_S, Campaign, eventually, outcome_of, shell

import pilotage as rp


def test_a_task_runs_in_the_environment_that_it_names(campaign: Campaign, base: Path) -> None:
    (pilot,) = campaign.pilots.get_pilots()
    pilot.prepare_env("mine", {"type": "shell", "pre_exec": ["export FOO=bar", "export BAR=$FOO; unset PILOTAGE_TEST_PLACE"]})
    named, plain = campaign.run(
        shell('echo "$FOO $BAR [$PILOTAGE_TEST_PLACE]"', named_env="mine"),
        shell('echo "[$FOO] [$PILOTAGE_TEST_PLACE]"'),
    )
    assert named.stdout == "bar bar []\n"
    assert plain.stdout == f"[] [{os.environ['PILOTAGE_TEST_PLACE']}]\n"


def test_a_tasks_own_variables_are_set_on_top_and_hooks_see_both(campaign: Campaign) -> None:
    (pilot,) = campaign.pilots.get_pilots()
    pilot.prepare_env("on_top", {"type": "shell", "pre_exec": "export A=env B=env C=env"})
    task = campaign.shell("echo $A $B $C", named_env="on_top", environment={"B": "task"}, pre_exec=["export C=hook-$A"])
    assert task.stdout == "env task hook-env\n"


def test_tasks_wait_for_an_environment_and_say_so(campaign: Campaign, tmp_path: Path) -> None:
    (pilot,) = campaign.pilots.get_pilots()
    os.mkfifo(tmp_path / "go")
    early = campaign.tasks.submit_tasks(shell("echo $WAITED", named_env="slow"))
    free = campaign.shell("echo free")
    assert free.state == rp.DONE, "others do not wait"
    assert early.state not in rp.FINAL
    pilot.prepare_env("slow", {"type": "shell", "pre_exec": [f"read WAITED < {tmp_path}/go", "export WAITED"]})
    (tmp_path / "go").write_text("long\n")
    assert early.wait(timeout=PATIENCE_S) == rp.DONE
    assert early.stdout == "long\n"


def test_a_name_that_no_pilot_knows_is_told_once_and_may_be_prepared_later(
    fresh: Campaign, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records if "named_env" in record.getMessage()]

    with caplog.at_level(logging.WARNING, "pilotage"):
        early = fresh.tasks.submit_tasks(shell("true", named_env="tools"))
        assert not said(), "a pilot may bring it along"
        pilot = fresh.start(prepare_env={"tools": {"type": "shell", "pre_exec": "export TOOL=drill"}})
        known = fresh.tasks.submit_tasks([shell("true", named_env="tools"), shell("true", named_env="rp")])
        assert not said()
        late = [fresh.tasks.submit_tasks(shell("echo $TOOL", named_env=name)) for name in ("tool", "tool", "tool")]
        late += fresh.pilots.get_pilots()[0].submit_tasks([shell("true", named_env="tool")])
        (told,) = said()
        assert "named_env='tool' wait" in told and "did you mean 'tools'?" in told and "pilot.prepare_env('tool', ...)" in told
        pilot.prepare_env("tool", {"type": "shell", "pre_exec": "export TOOL=hammer"})
        for task in (early, *known, *late):
            assert task.wait(timeout=PATIENCE_S) == rp.DONE
        assert late[0].stdout == "hammer\n"
        assert said() == [told]


def test_an_environment_that_cannot_be_evaluated_fails_its_tasks_with_what_was_printed(campaign: Campaign) -> None:
    (pilot,) = campaign.pilots.get_pilots()
    pilot.prepare_env("bad", {"type": "shell", "pre_exec": ["export A=1", "echo no licence today; exit 3"]})
    task = campaign.shell("true", named_env="bad")
    assert task.state == rp.FAILED
    outcome = outcome_of(task)
    assert outcome.ending is rp.Ending.LAUNCH_FAILED
    for words in ("'bad' cannot be had", "pre_exec[1], 'echo no licence today; exit 3'", "exit code 3", "no licence today"):
        assert words in outcome.message


def test_a_name_that_means_something_else_is_refused_at_the_call(campaign: Campaign) -> None:
    (pilot,) = campaign.pilots.get_pilots()
    pilot.prepare_env("taken", {"type": "shell", "pre_exec": "export A=1"})
    pilot.prepare_env("taken", {"type": "shell", "pre_exec": "export A=1"})
    with pytest.raises(rp.InvalidRequest, match="described differently; choose another name"):
        pilot.prepare_env("taken", {"type": "shell", "pre_exec": "export A=2"})
    with pytest.raises(rp.InvalidRequest, match="did you mean 'pre_exec'"):
        pilot.prepare_env("other", {"type": "shell", "pre_exe": "export A=2"})


@pytest.mark.parametrize("name", ["rp", "pilotage"])
def test_our_own_environment_needs_no_preparation(campaign: Campaign, name: str) -> None:
    task = campaign.shell("python -c 'import pilotage, sys; print(sys.executable)'", named_env=name)
    assert task.state == rp.DONE, task.stderr
    assert os.path.samefile(task.stdout.strip(), sys.executable)


def test_a_venv_is_built_by_the_pilot_and_its_python_runs_tasks(fresh: Campaign) -> None:
    """As RADICAL-Pilot's example does it, but with what can be installed without a network."""
    fresh.start(prepare_env={"built": {"type": "virtualenv", "pre_exec": ["export FOO=bar", "echo $FOO"]}})
    (pilot,) = fresh.pilots.get_pilots()
    task = fresh.run(
        rp.TaskDescription(executable="python3", arguments=["-c", "import sys; print(sys.prefix)"], named_env="built")
    )
    venv = Path(fresh.session.path) / pilot.uid / "env" / "built"
    assert task.stdout.strip() == str(venv)


def test_functions_run_in_a_named_environment(campaign: Campaign) -> None:
    (pilot,) = campaign.pilots.get_pilots()
    pilot.prepare_env("for_functions", {"type": "shell", "pre_exec": "export WHERE=there"})
    task = campaign.run(rp.TaskDescription(function=os.getenv, args=["WHERE"], named_env="for_functions"))
    assert task.result(0) == "there"


def test_an_environment_outlives_the_agent_that_prepared_it(fresh: Campaign, base: Path) -> None:
    pilot = fresh.start()
    times = base / "times"
    pilot.prepare_env("kept", {"type": "shell", "pre_exec": [f"echo once >> {times}", "export KEPT=yes"]})
    assert fresh.shell("echo $KEPT", named_env="kept").stdout == "yes\n"
    agent = _agent_of(fresh, pilot)
    os.kill(agent, signal.SIGKILL)
    # What is submitted now waits for the next agent.
    assert fresh.shell("echo $KEPT", named_env="kept").stdout == "yes\n"
    assert _agent_of(fresh, pilot) != agent
    spawners = _spawners_of(fresh, pilot)
    for spawner in spawners:
        os.kill(spawner, signal.SIGKILL)
    # A task that one of them had been sent would be lost with it.
    eventually(lambda: set(_spawners_of(fresh, pilot)).isdisjoint(spawners), "they are gone")
    eventually(lambda: _spawners_of(fresh, pilot), "others have come")
    assert fresh.shell("echo $KEPT", named_env="kept").stdout == "yes\n", "spawners that come later know it, too"
    assert times.read_text() == "once\n"


def test_an_agent_that_dies_while_it_prepares_is_followed_by_one_that_prepares(fresh: Campaign, tmp_path: Path) -> None:
    pilot = fresh.start()
    os.mkfifo(tmp_path / "reached")
    command = f"[ -e {tmp_path}/second ] || {{ touch {tmp_path}/second; echo $$ > {tmp_path}/reached; sleep 1000; }}"
    pilot.prepare_env("late", {"type": "shell", "pre_exec": [command, "export LATE=yes"]})
    task = fresh.tasks.submit_tasks(shell("echo $LATE", named_env="late"))
    first = int((tmp_path / "reached").read_text())
    os.kill(_agent_of(fresh, pilot), signal.SIGKILL)
    assert task.wait(timeout=PATIENCE_S) == rp.DONE
    assert task.stdout == "yes\n"
    eventually(lambda: not os.path.exists(f"/proc/{first}"), "what the dead agent was preparing is ended")


def _agent_of(campaign: Campaign, pilot: rp.Pilot) -> int:
    return _process_of(campaign, pilot, b"pilotage.agent.main")[0]


def _spawners_of(campaign: Campaign, pilot: rp.Pilot) -> list[int]:
    folder = Path(campaign.session.path) / pilot.uid
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and b"pilotage.spawner.main" in Path("/proc", entry, "cmdline").read_bytes():
                output = os.readlink(f"/proc/{entry}/fd/2")
                if Path(output).parent == folder:
                    found.append(int(entry))
        except OSError:
            continue
    return found


def _process_of(campaign: Campaign, pilot: rp.Pilot, module: bytes) -> list[int]:
    folder = os.fsencode(Path(campaign.session.path) / pilot.uid)
    found = []
    for entry in os.listdir("/proc"):
        try:
            command = Path("/proc", entry, "cmdline").read_bytes() if entry.isdigit() else b""
        except OSError:
            continue
        if module in command and folder in command.split(b"\0"):
            found.append(int(entry))
    return found
