"""Named environments, and variables that are a task's own."""

from __future__ import annotations

import os
from pathlib import Path

from spawner_driver import SpawnerDriver, StartDriver

from pilotage.model.outcome import Ending
from pilotage.model.services import Service
from pilotage.model.workload import Extra
from pilotage.wire.runner_messages import DefineEnvironment


def environment_of(driver: SpawnerDriver, uid: str) -> dict[str, str]:
    assert driver.wait_for_end(uid).ending is Ending.DONE
    return dict(line.split("=", 1) for line in driver.output(uid).splitlines())


def test_a_named_environment_lies_between_the_users_and_the_templates(start_driver: StartDriver) -> None:
    driver = start_driver(environment={"PATH": os.environ["PATH"], "KEPT": "user", "CHANGED": "user", "GONE": "user"})
    driver.send(DefineEnvironment("ve", {"CHANGED": "named", "NEW": "named", "OWN": "named"}, ["GONE"]))

    driver.launch("task.1", template=driver.template(executable="env", named_env="ve", environment={"OWN": "template"}))
    driver.launch("task.2", template=driver.template(executable="env"))

    seen = environment_of(driver, "task.1")
    assert {name: seen.get(name) for name in ("KEPT", "CHANGED", "NEW", "OWN", "GONE")} == {
        "KEPT": "user",
        "CHANGED": "named",
        "NEW": "named",
        "OWN": "template",
        "GONE": None,
    }
    assert environment_of(driver, "task.2")["CHANGED"] == "user"


def test_executables_are_looked_up_in_the_path_of_their_environment(driver: SpawnerDriver, tmp_path: Path) -> None:
    tool = tmp_path / "ve" / "tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho A=found\n")
    tool.chmod(0o755)
    driver.send(DefineEnvironment("ve", {"PATH": f"{tool.parent}:{os.environ['PATH']}"}, []))

    driver.launch("task.1", template=driver.template(executable="tool", named_env="ve"))

    assert environment_of(driver, "task.1") == {"A": "found"}


def test_an_environment_that_was_not_defined_fails_the_launch(driver: SpawnerDriver) -> None:
    template = driver.template(executable="env", named_env="ve")
    lane = driver.launch("task.1", template=template)

    end = driver.wait_for_end("task.1")

    assert (end.ending, end.message) == (
        Ending.LAUNCH_FAILED,
        "the named environment 've' was not prepared on this node; prepare it with pilot.prepare_env()",
    )
    driver.send(DefineEnvironment("ve", {"A": "1"}, []))
    driver.launch("task.2", template=template, lane=lane)
    assert environment_of(driver, "task.2")["A"] == "1"


def test_an_environment_that_is_defined_anew_is_that_of_the_tasks_after_it(driver: SpawnerDriver) -> None:
    template = driver.template(executable="env", named_env="ve")
    driver.send(DefineEnvironment("ve", {"A": "1"}, []))
    lane = driver.launch("task.1", template=template)
    assert environment_of(driver, "task.1")["A"] == "1"

    driver.send(DefineEnvironment("ve", {"A": "2"}, []))
    driver.launch("task.2", template=template, lane=lane)

    assert environment_of(driver, "task.2")["A"] == "2"


def test_variables_of_a_task_come_last_and_are_its_own(driver: SpawnerDriver) -> None:
    template = driver.template(executable="env", environment={"A": "template"})

    driver.launch("task.1", template=template, extra=Extra(variables={"A": "own", "RP_INFO_DB": "host:1"}))
    driver.launch("task.2", template=template)

    seen = environment_of(driver, "task.1")
    assert (seen["A"], seen["RP_INFO_DB"]) == ("own", "host:1")
    seen = environment_of(driver, "task.2")
    assert (seen["A"], "RP_INFO_DB" in seen) == ("template", False)


def test_what_another_launch_has_left_is_removed_unless_the_user_sets_it_for_the_task(start_driver: StartDriver) -> None:
    driver = start_driver(environment={"PATH": os.environ["PATH"], "PMI_RANK": "3", "SLURM_JOB_ID": "7", "PMI_SIZE": "4"})

    driver.launch("task.1", template=driver.template(executable="env", environment={"PMI_SIZE": "9"}))

    seen = environment_of(driver, "task.1")
    assert ("PMI_RANK" in seen, seen["SLURM_JOB_ID"], seen["PMI_SIZE"]) == (False, "7", "9")


def test_a_service_finds_where_to_say_that_it_is_ready(start_driver: StartDriver, tmp_path: Path) -> None:
    driver = start_driver(notify_socket=str(tmp_path / "notify.sock"))

    driver.launch("task.1", template=driver.template(executable="env", service=Service()))
    driver.launch("task.2", template=driver.template(executable="env"))

    assert environment_of(driver, "task.1")["NOTIFY_SOCKET"] == str(tmp_path / "notify.sock")
    assert "NOTIFY_SOCKET" not in environment_of(driver, "task.2")
