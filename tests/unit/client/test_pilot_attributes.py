"""Each attribute of a pilot description by itself: what is accepted, and what is refused in which words."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest

from pilotage.client.pilot_description import (
    PILOT_FIELDS,
    PilotDescription,
    decoded,
    encoded,
    partitions_of,
    pilot_services,
    require_new,
)
from pilotage.client.task_description import TaskDescription
from pilotage.errors import InvalidPilot
from pilotage.model.ids import PilotUid
from pilotage.model.partitions import PartitionSpec

LATER = "is not supported yet by this version; it comes with"
HERE = {"resource": "local.localhost", "cores": 1}
SERVICE = TaskDescription(executable="server")

GOOD: dict[str, list[Any]] = {
    "uid": ["first"],
    "resource": ["local.localhost"],
    "runtime": [0.5, 60],
    "cores": [4],
    "gpus": [1],
    "nodes": [2],
    "memory": [1024],
    "queue": ["debug"],
    "project": ["abc123"],
    "job_name": ["water"],
    "qos": ["debug"],
    "constraints": [["gpu", "nvme"], "cpu", ("gpu",)],
    "reservation": ["tutorial"],
    "licenses": [["scratch", "cfs:2"]],
    "filesystems": [["home", "eagle"], "eagle"],
    "exclusive": [True, False],
    "begin": [1_800_000_000.0, 1_800_000_000, "2027-01-15 08:00", datetime(2027, 1, 15, 8, tzinfo=timezone.utc)],
    "dependency": [["afterok:1234", "afterany:7.pbs"], "after:12"],
    "mail_to": ["me@example.org"],
    "extra_options": [["--switches=1"], "--comment=water"],
    "sandbox": ["/scratch/me"],
    "cleanup": [True],
    "exit_on_error": [False],
    "on_client_loss": ["continue", "drain", "terminate"],
    "client_loss_timeout_s": [0, 60.0],
    "drain_s": [0, 60.0],
    "checkpoint_signal": [""],
    "successors": [0, 3, "until_done"],
    "idle_timeout_s": [0, 300.0],
    "startup_barrier": [0, 1000],
    "cores_per_node": [4],
    "gpus_per_node": [0, 2],
    "memory_per_node": [4096],
    "disk_per_node": [4096],
    "executor": ["local", "simulated"],
    "simulated_duration_s": [2.0],
    "partitions": [[{"name": "all"}], [{"name": "a", "nodes": 1}, {"name": "b", "scheduler": "spread", "kinds": ["function"]}]],
    "sub_agents": ["processes", "threads"],
    "scheduler": ["packed", {"policy": "spread", "order": "backfill"}, {"policy": "torus", "torus": [2, 2]}],
    "prepare_env": [{"a": {"type": "shell", "pre_exec": ["export A=1"]}, "b": {"type": "venv", "setup": ["numpy"]}}],
    "services": [[SERVICE, SERVICE], [{"executable": "server", "mode": "task.service", "ready": "notify"}]],
    "access_schema": [],
    "backup_nodes": [],
    "app_comm": [],
    "candidate_hosts": [],
    "enable_ep": [],
    "reconfig_src": [],
    "input_staging": ["/data/in.dat", ["/data/in.dat > a", {"source": "/data/b", "action": "Link"}]],
    "output_staging": [["a > /data/a"]],
}

BAD: dict[str, list[tuple[dict[str, Any], str]]] = {
    "uid": [({"uid": 3}, "uid takes text (str), not 3 (int)")],
    "resource": [({"resource": ""}, "no resource is given; name a platform, such as resource='local.localhost'")],
    "access_schema": [({"access_schema": "ssh"}, f"attribute 'access_schema' {LATER} remote platforms. Leave it out")],
    "runtime": [({"runtime": 0}, "runtime=0: it is in minutes and must be more than 0")],
    "cores": [
        ({"cores": -1}, "cores=-1: it must be 0 or more"),
        ({"cores": 0}, "its size is missing; give nodes, or cores (and gpus)"),
    ],
    "gpus": [({"gpus": -1}, "gpus=-1: it must be 0 or more")],
    "nodes": [({"nodes": 2}, "both nodes=2 and cores=1 are given; give nodes alone, or cores and gpus without nodes")],
    "backup_nodes": [({"backup_nodes": 1}, f"attribute 'backup_nodes' {LATER} replacement of lost nodes. Leave it out")],
    "memory": [({"memory": -5}, "memory=-5: it must be 0 or more (MB)")],
    "queue": [({"queue": 3}, "queue takes text (str), not 3 (int)")],
    "project": [({"project": 3}, "project takes text (str), not 3 (int)")],
    "job_name": [({"job_name": 3}, "job_name takes text (str), not 3 (int)")],
    "qos": [({"qos": ["debug"]}, "qos takes text (str), not ['debug'] (list)")],
    "constraints": [
        ({"constraints": 3}, "constraints takes a list of texts (str), or one of them, not 3 (int)"),
        ({"constraints": ["gpu", 3]}, "constraints takes a list of texts (str), or one of them, not ['gpu', 3] (list)"),
    ],
    "reservation": [({"reservation": 3}, "reservation takes text (str), not 3 (int)")],
    "licenses": [({"licenses": {"cfs": 2}}, "licenses takes a list of texts (str), or one of them, not {'cfs': 2} (dict)")],
    "filesystems": [
        ({"filesystems": [b"home"]}, "filesystems takes a list of texts (str), or one of them, not [b'home'] (list)")
    ],
    "exclusive": [({"exclusive": "yes"}, "exclusive takes True or False (bool), not 'yes' (str)")],
    "begin": [
        ({"begin": "tomorrow"}, "begin takes a time: seconds since the epoch, a datetime, or text such as"),
        ({"begin": float("inf")}, "begin=inf: it must be 0 or more (seconds since the epoch)"),
    ],
    "dependency": [
        ({"dependency": "1234"}, "dependency='1234' names no job; give it as 'afterok:1234'"),
        ({"dependency": ["afterok:"]}, "dependency='afterok:' names no job; give it as 'afterok:1234'"),
        (
            {"dependency": "afterokay:1234"},
            "dependency='afterokay' is not one of after, afterok, afternotok, afterany; did you mean 'afterok'?",
        ),
    ],
    "mail_to": [({"mail_to": 3}, "mail_to takes text (str), not 3 (int)")],
    "extra_options": [({"extra_options": [3]}, "extra_options takes a list of texts (str), or one of them, not [3] (list)")],
    "sandbox": [({"sandbox": 3}, "sandbox takes a path (str or pathlib.Path), not 3 (int)")],
    "cleanup": [({"cleanup": 1}, "cleanup takes True or False (bool), not 1 (int)")],
    "exit_on_error": [({"exit_on_error": 1}, "exit_on_error takes True or False (bool), not 1 (int)")],
    "on_client_loss": [
        (
            {"on_client_loss": "terminat"},
            "on_client_loss='terminat' is not one of continue, drain, terminate; did you mean 'terminate'?",
        )
    ],
    "client_loss_timeout_s": [({"client_loss_timeout_s": -5}, "client_loss_timeout_s=-5: it must be 0 or more (seconds)")],
    "drain_s": [
        ({"drain_s": -1}, "drain_s=-1: it must be 0 or more (seconds)"),
        ({"drain_s": 600}, "drain_s=600: no task would ever begin, as its runtime=10 minutes are 600 s"),
    ],
    "checkpoint_signal": [
        ({"checkpoint_signal": "USR1"}, "checkpoint_signal='USR1' is sent drain_s before the end, and drain_s is 0"),
        ({"checkpoint_signal": "KILL", "drain_s": 9}, "checkpoint_signal='KILL' is not one of HUP, INT, QUIT, TERM"),
        ({"checkpoint_signal": "USR3", "drain_s": 9}, "did you mean 'USR"),
    ],
    "successors": [
        ({"successors": -1}, "successors=-1: give a number, 0 or more, or 'until_done'"),
        ({"successors": "until done"}, "successors='until done': give a number, 0 or more, or 'until_done'"),
        ({"successors": 1, "services": [SERVICE]}, "both successors=1 and services are given"),
    ],
    "idle_timeout_s": [({"idle_timeout_s": -1}, "idle_timeout_s=-1: it must be 0 or more (seconds)")],
    "startup_barrier": [
        ({"startup_barrier": -1}, "startup_barrier=-1: it must be 0 or more"),
        ({"startup_barrier": "all"}, "startup_barrier takes a whole number (int), not 'all' (str)"),
    ],
    "cores_per_node": [({"cores_per_node": 0}, "cores_per_node=0: it must be 1 or more")],
    "gpus_per_node": [({"gpus_per_node": -1}, "gpus_per_node=-1: it must be 0 or more")],
    "memory_per_node": [({"memory_per_node": -1}, "memory_per_node=-1: it must be 0 or more (MB)")],
    "disk_per_node": [({"disk_per_node": float("inf")}, "disk_per_node=inf: it must be 0 or more (MB)")],
    "executor": [({"executor": "flux"}, "executor='flux' is not one of local, simulated")],
    "simulated_duration_s": [
        ({"simulated_duration_s": 2.0}, "simulated_duration_s=2.0 needs executor='simulated', not executor='local'")
    ],
    "app_comm": [
        ({"app_comm": ["work_queue"]}, f"attribute 'app_comm' {LATER} communication channels between tasks. Leave it out")
    ],
    "candidate_hosts": [({"candidate_hosts": ["a"]}, f"attribute 'candidate_hosts' {LATER} a choice of hosts. Leave it out")],
    "enable_ep": [({"enable_ep": True}, f"attribute 'enable_ep' {LATER} an endpoint for other programs. Leave it out")],
    "reconfig_src": [({"reconfig_src": "a"}, f"attribute 'reconfig_src' {LATER} reconfigurable schedulers. Leave it out")],
    "input_staging": [({"input_staging": ["a > b > c"]}, "input_staging: stage_in[0]: 'a > b > c' has more than one arrow")],
    "output_staging": [({"output_staging": ["task:///a"]}, "there is no task here; name a file of the pilot")],
    "partitions": [
        ({"partitions": {"name": "a"}}, "partitions takes a list, not {'name': 'a'} (dict)"),
        ({"partitions": ["a"]}, "partitions[0]: a partition is described by a PartitionSpec or a dict, not 'a' (str)"),
        ({"partitions": [{"nodes": 1}]}, "partitions[0] has no name; give it one, such as 'name': 'functions'"),
        ({"partitions": [{"name": "a", "node": 1}]}, "partitions[0] ('a') has no attribute 'node'; did you mean 'nodes'?"),
        ({"partitions": [{"name": "a", "nodes": "all"}]}, "partitions[0] ('a'): nodes='all' (str): Expected `int`, got `str`"),
        (
            {"partitions": [{"name": "a", "kinds": "functions"}]},
            "partitions[0] ('a'): kinds: 'functions' is not one of executable, function, service; did you mean 'function'?",
        ),
        (
            {"partitions": [{"name": "a", "scheduler": "spred"}]},
            "partitions[0] ('a'): scheduler='spred' is not one of continuous, torus, tagged, homogeneous, packed, spread; "
            "did you mean 'spread'?",
        ),
        (
            {"partitions": [{"name": "a", "scheduler": {"policy": "torus"}}]},
            "partitions[0] ('a'): scheduler: policy='torus' needs the nodes along each dimension",
        ),
        ({"partitions": [PartitionSpec(name=5)]}, "partitions[0]: name=5 (int): a name is text (str)"),  # type: ignore[arg-type]
        (
            {"partitions": [PartitionSpec(name="a", nodes="2")]},  # type: ignore[arg-type]
            "partitions[0] ('a'): nodes='2' (str): Expected `int`, got `str`",
        ),
        (
            {"partitions": [{"name": "a", "executor": "slurm"}]},
            "partitions[0] ('a'): executor='slurm' is not one of local, simulated",
        ),
    ],
    "scheduler": [
        ({"scheduler": "spred"}, "scheduler='spred' is not one of continuous, torus, tagged, homogeneous, packed, spread"),
        ({"scheduler": {"order": "backfil"}}, "scheduler: order='backfil' is not one of first_come, backfill, priority"),
        ({"scheduler": "packed", "partitions": [{"name": "a"}]}, "both scheduler and partitions are given"),
    ],
    "prepare_env": [
        ({"prepare_env": {"a": {"typ": "venv"}}}, "prepare_env: environment 'a' has the key 'typ'; did you mean 'type'?"),
        (
            {"prepare_env": {"rp": {}}},
            "prepare_env: the environment 'rp' is Pilotage's own and always there; choose another name",
        ),
        ({"prepare_env": ["a"]}, "prepare_env takes a dict, not ['a'] (list)"),
    ],
    "sub_agents": [
        ({"sub_agents": "thread"}, "sub_agents='thread' is not one of processes, threads; did you mean 'threads'?"),
        ({"sub_agents": "threads"}, "sub_agents='threads' needs partitions; leave it out, or give some"),
    ],
    "services": [
        ({"services": SERVICE}, "services takes a list, not TaskDescription(executable='server')"),
        ({"services": ["server"]}, "services[0]: a service is described by a TaskDescription or a dict, not 'server' (str)"),
        (
            {"services": [SERVICE, {"executabel": "a"}]},
            "services[1]: TaskDescription has no attribute 'executabel'; did you mean",
        ),
        ({"services": [{"function": print}]}, "services[0]: mode='task.function': a service is an executable; set executable"),
        ({"services": [{"executable": "a", "ready": "soon"}]}, "services[0]: ready='soon' is no probe"),
    ],
}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(name, case, id=f"{name}-{number}")
        for name, several in table.items()
        for number, case in enumerate(several)
    ]


@pytest.mark.parametrize(("name", "value"), cases(GOOD))
def test_a_good_value_is_accepted_and_comes_back_from_the_log(name: str, value: Any) -> None:
    size = {} if name in ("nodes", "cores") else {"cores": 1}
    needed = {"simulated_duration_s": {"executor": "simulated"}, "sub_agents": {"partitions": [{"name": "a"}]}}.get(name, {})
    description = PilotDescription({"resource": "local.localhost", **size, **needed, name: value})
    description.verify()
    again = decoded(encoded(description))
    again.verify()
    assert again.runtime == description.runtime
    if name == "input_staging" and isinstance(value, str):
        assert again.input_staging == [value]
    elif name == "services":
        assert again.services == [TaskDescription(service) for service in value]
    else:
        assert again == description


@pytest.mark.parametrize(("name", "case"), cases(BAD))
def test_a_bad_value_is_refused(name: str, case: tuple[dict[str, Any], str]) -> None:
    attributes, told = case
    with pytest.raises(InvalidPilot) as refused:
        PilotDescription({**HERE, **attributes}).verify()
    assert told in str(refused.value)
    assert str(refused.value).startswith(("pilot: ", "pilot description: "))


def test_every_attribute_has_good_and_bad_cases() -> None:
    assert set(GOOD) == set(BAD) == set(PILOT_FIELDS)
    assert {name for name in GOOD if not GOOD[name]} == {name for name in PILOT_FIELDS if PILOT_FIELDS[name].awaits}


def test_services_may_be_added_to_the_list_and_get_uids_and_the_pilots_name() -> None:
    description = PilotDescription(HERE)
    description["services"].append(SERVICE)
    description.services.append({"uid": "db", "executable": "database"})
    first, second = pilot_services(PilotUid("pilot.0000"), description)
    assert (first.uid, first.pilot, first.mode) == ("pilot.0000.service.0000", "pilot.0000", "agent.service")
    assert (second.uid, second.executable) == ("db", "database")
    assert SERVICE.uid == ""


@pytest.mark.parametrize("taken", [{"db"}, set()])
def test_services_have_uids_of_their_own(taken: set[str]) -> None:
    services = [TaskDescription(uid="db"), TaskDescription(uid="db")][: 1 if taken else 2]
    with pytest.raises(InvalidPilot, match="there is a task of uid 'db'; give it one of its own"):
        require_new("pilot.0000", services, taken)


def test_a_logged_description_is_plain() -> None:
    described = PilotDescription(HERE, services=[TaskDescription(executable="a", metadata={"any": object()})])
    assert msgspec.msgpack.decode(encoded(described))["services"][0]["executable"] == "a"


def test_a_logged_description_keeps_its_partitions() -> None:
    plan = [PartitionSpec(name="a", nodes=1), {"name": "b", "scheduler": "spread", "kinds": ["function"]}]
    description = PilotDescription(HERE, partitions=plan)
    assert partitions_of("pilot", decoded(encoded(description))) == partitions_of("pilot", description)
