"""Attributes of tasks and pilots, each seen at work: hooks, environments, sandboxes, output, staging, MPI, slots, services."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import integration_payloads as payloads
import pytest
from integration_support import PATIENCE_S, Campaign, Programs, eventually, outcome_of, shell

import pilotage as rp
from mpi_installations import MpiInstallation
from pilotage import Ending, InvalidRequest, InvalidTask, StagingFailed, TaskFailed
from pilotage.client.pilot_description import PILOT_FIELDS
from pilotage.client.task_fields import TASK_FIELDS


def run(campaign: Campaign, **attributes: Any) -> rp.Task:
    return campaign.run(rp.TaskDescription(**attributes))


def text(path: str | None, *names: str) -> str:
    assert path is not None
    return Path(path, *names).read_text()


# hooks


def test_hooks_run_in_order_around_the_program(campaign: Campaign) -> None:
    task = run(
        campaign,
        command="echo program $FROM_PRE_EXEC",
        pre_launch=["echo pre_launch"],
        pre_exec=["echo pre_exec", "export FROM_PRE_EXEC=here", {0: "echo rank 0"}],
        post_exec=["echo post_exec"],
        post_launch="echo post_launch",
    )
    assert (task.state, task.exception) == (rp.DONE, None)
    assert task.stdout.splitlines() == ["pre_launch", "pre_exec", "rank 0", "program here", "post_exec", "post_launch"]


@pytest.mark.parametrize(
    ("hook", "ending"),
    [
        ("pre_launch", Ending.LAUNCH_FAILED),
        ("pre_exec", Ending.LAUNCH_FAILED),
        ("post_exec", Ending.EXITED),
        ("post_launch", Ending.EXITED),
    ],
)
def test_a_hook_that_fails_is_named_with_its_text_and_output(campaign: Campaign, hook: str, ending: Ending) -> None:
    task = run(campaign, command="true", **{hook: ["true", "ls /no/such/folder"]})
    assert (task.state, outcome_of(task).ending) == (rp.FAILED, ending)
    assert f"{hook}[1] failed with exit code 2: ls /no/such/folder" in task.exception
    assert "No such file or directory" in task.exception_detail


def test_hooks_of_single_ranks_and_all_ranks_wait_for_each_other(campaign: Campaign, tmp_path: Path) -> None:
    task = run(
        campaign,
        command=f"ls {tmp_path} | wc -l",
        ranks=2,
        use_mpi=False,
        pre_exec=[{"0": f"sleep 0.3; touch {tmp_path}/0", 1: [f"touch {tmp_path}/1"]}],
        pre_exec_sync=True,
    )
    assert task.stdout.split() == ["2", "2"]


def test_a_function_may_have_hooks(campaign: Campaign) -> None:
    task = run(campaign, mode=rp.TASK_EXEC, code="import os\nreturn os.environ['A']", pre_launch="true", post_exec="echo over")
    assert task.state == rp.FAILED
    task = run(campaign, function=payloads.environment_of, args=["A"], pre_exec="export A=3", post_exec="echo over")
    assert (task.state, task.return_value, task.stdout) == (rp.DONE, "3", "over\n")


# environments


def test_a_task_waits_for_its_named_environment(campaign: Campaign) -> None:
    (pilot,) = campaign.pilots.get_pilots()
    early = campaign.tasks.submit_tasks(shell("echo $FROM_ENVIRONMENT", named_env="late"))
    pilot.prepare_env("late", {"type": "shell", "pre_exec": ["export FROM_ENVIRONMENT=prepared"]})
    assert early.wait(timeout=PATIENCE_S) == rp.DONE
    assert early.stdout == "prepared\n"
    late = run(campaign, function=payloads.environment_of, args=["FROM_ENVIRONMENT"], named_env="late")
    assert late.result() == "prepared"


def test_an_environment_that_cannot_be_evaluated_fails_its_tasks(campaign: Campaign) -> None:
    (pilot,) = campaign.pilots.get_pilots()
    pilot.prepare_env("broken", {"type": "shell", "pre_exec": ["cd /no/such/folder"]})
    task = run(campaign, command="true", named_env="broken")
    assert outcome_of(task).ending is Ending.LAUNCH_FAILED
    assert "broken" in task.exception
    assert "/no/such/folder" in task.exception


def test_our_own_environment_is_always_there(campaign: Campaign) -> None:
    task = run(campaign, executable="python", arguments=["-c", "import pilotage, sys; print(sys.prefix)"], named_env="rp")
    assert task.stdout == f"{sys.prefix}\n"


def test_an_environment_is_described_once(campaign: Campaign) -> None:
    (pilot,) = campaign.pilots.get_pilots()
    pilot.prepare_env("once", {"type": "shell", "pre_exec": ["true"]})
    pilot.prepare_env("once", {"type": "shell", "pre_exec": "true"})
    for name, spec, told in (
        (
            "once",
            {"type": "shell", "pre_exec": ["false"]},
            "has an environment 'once' that is described differently; choose another",
        ),
        ("rp", {"type": "shell"}, "'rp' is Pilotage's own and always there"),
        ("other", {"type": "vnev"}, "type is 'vnev'; did you mean 'venv'"),
        ("other", "venv", "is described by 'venv'; give a table"),
    ):
        with pytest.raises(InvalidRequest, match=told):
            pilot.prepare_env(name, spec)  # type: ignore[arg-type]


# sandboxes and output


def test_sandboxes(campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, shared, also, path, none = campaign.run(
        [
            shell("pwd; touch mine", sandbox="own"),
            shell("pwd; touch first", sandbox="shared"),
            shell("pwd", sandbox="shared"),
            shell("pwd", sandbox=str(tmp_path / "here")),
            shell(f"pwd > {tmp_path}/where", sandbox="none"),
        ]
    )
    assert (own.stdout, own.output_files) == (f"{own.sandbox}\n", ["mine"])
    assert shared.sandbox == also.sandbox == shared.stdout.strip() == also.stdout.strip()
    assert Path(shared.sandbox, "first").exists()
    assert path.stdout == f"{tmp_path}/here\n"
    assert none.sandbox is None
    assert text(str(tmp_path), "where") == f"{Path.cwd()}\n"
    assert (shared.output_files, none.output_files) == (None, None)


@pytest.mark.filterwarnings("ignore:the pilot asks for 4 cores")
def test_a_thousand_sandboxes_to_a_folder(fresh: Campaign) -> None:
    fresh.start(cores=4)
    tasks = fresh.run([rp.TaskDescription(executable="/bin/pwd") for _ in range(1005)])
    assert {task.state for task in tasks} == {rp.DONE}
    assert [Path(task.sandbox).parent.name for task in tasks] == ["tasks"] * 1000 + ["shard.0001"] * 5
    assert tasks[-1].stdout == f"{tasks[-1].sandbox}\n"


@pytest.mark.parametrize(("output", "files"), [("files", 1), ("aggregate", 0), ("tail", 0), ("discard", 0)])
def test_output(campaign: Campaign, output: str, files: int) -> None:
    task = campaign.shell("echo hello", output=output)
    assert task.stdout == ("hello\n" if output != "discard" else "")
    assert len(list(Path(task.sandbox).iterdir())) == files


def test_output_is_limited(campaign: Campaign) -> None:
    task = campaign.shell("seq 1000000", output_limit_mb=0.01)
    assert "left out" in task.stdout_path.read_text()
    assert task.stdout_path.stat().st_size < 20_000
    assert task.stdout.endswith("\n999999\n1000000\n")


def test_cleanup_removes_the_sandbox(campaign: Campaign) -> None:
    kept, removed = campaign.run([shell("touch a"), shell("touch a", cleanup=True)])
    assert Path(kept.sandbox, "a").exists()
    assert not Path(removed.sandbox).exists()


# staging


def test_files_are_staged_in_and_out(campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.dat").write_text("water")
    task = run(
        campaign,
        command="tr a-z A-Z < copy.dat > out.dat",
        input_staging=["in.dat > copy.dat", {"source": "in.dat", "target": "task:///linked", "action": rp.LINK}],
        output_staging=["out.dat > results/out.dat"],
    )
    assert (task.state, task.exception) == (rp.DONE, None)
    assert text(str(tmp_path), "results", "out.dat") == "WATER"
    assert Path(task.sandbox, "linked").samefile("in.dat")
    assert task.output_files == ["out.dat"]


def test_functions_are_staged_for_too(campaign: Campaign, tmp_path: Path) -> None:
    (tmp_path / "in.dat").write_text("water")
    (pilot,) = campaign.pilots.get_pilots()
    task = run(
        campaign,
        function=payloads.read_text,
        args=[f"{pilot.sandbox}/of.functions"],
        input_staging=[{"source": tmp_path / "in.dat", "target": "pilot:///of.functions"}],
    )
    assert task.result() == "water"


def test_a_source_that_is_missing_fails_the_task_before_it_runs(campaign: Campaign, tmp_path: Path) -> None:
    task = run(campaign, command=f"touch {tmp_path}/ran", input_staging=f"{tmp_path}/missing > x")
    assert outcome_of(task).ending is Ending.STAGING_FAILED
    assert f"{tmp_path}/missing" in task.exception
    assert not (tmp_path / "ran").exists()
    fatal_no_more = {"source": f"{tmp_path}/missing", "target": "x", "flags": rp.NON_FATAL}
    assert run(campaign, command="true", input_staging=[fatal_no_more]).state == rp.DONE


@pytest.mark.parametrize("stage_on_error", [False, True])
def test_output_of_a_failed_task_is_staged_only_if_asked(campaign: Campaign, tmp_path: Path, stage_on_error: bool) -> None:
    task = run(
        campaign,
        command="echo partial > out; exit 7",
        output_staging=f"out > {tmp_path}/out",
        stage_on_error=stage_on_error,
    )
    assert (task.state, task.exit_code) == (rp.FAILED, 7)
    assert (tmp_path / "out").exists() == stage_on_error


# repeats


def test_retries_are_for_what_they_are_for(campaign: Campaign, tmp_path: Path) -> None:
    def described(code: int, **more: Any) -> rp.TaskDescription:
        return shell(f"echo x >> {tmp_path}/{code}; exit {code}", retries=2, **more)

    tasks = campaign.run(
        [described(3, retry_on=[3]), described(4, retry_on=[3, "signal"]), described(5, retry_on="exit"), described(6)]
    )
    assert [task.exit_code for task in tasks] == [3, 4, 5, 6]
    assert [len(text(str(tmp_path), str(code)).split()) for code in (3, 4, 5, 6)] == [3, 1, 3, 3]


# MPI

# One write: what ranks print in pieces may come in any order of the pieces.
SIZE = r"import sys; from mpi4py import MPI; sys.stdout.write(f'{MPI.COMM_WORLD.rank} {MPI.COMM_WORLD.size}\n')"


def test_ranks_are_started_by_an_mpiexec_if_one_is_here(campaign: Campaign, mpich: MpiInstallation) -> None:
    described = {"executable": mpich.python, "arguments": ["-c", SIZE]}
    together, alone, plain = campaign.run(
        [
            rp.TaskDescription(described, ranks=2),
            rp.TaskDescription(described, use_mpi=True),
            rp.TaskDescription(described, ranks=2, use_mpi=False),
        ]
    )
    assert sorted(together.stdout.splitlines()) == ["0 2", "1 2"]
    assert alone.stdout == "0 1\n"
    assert plain.stdout.splitlines() == ["0 1", "0 1"]


def test_an_mpiexec_by_kind_or_path(campaign: Campaign, mpich: MpiInstallation) -> None:
    described = {"executable": mpich.python, "arguments": ["-c", SIZE], "ranks": 2}
    tasks = campaign.run([rp.TaskDescription(described, launch_method=name) for name in ("mpich", mpich.mpiexec, "fork")])
    assert [sorted(task.stdout.splitlines()) for task in tasks] == [["0 2", "1 2"], ["0 2", "1 2"], ["0 1", "0 1"]]


def test_functions_and_code_of_several_ranks_get_their_communicator(campaign: Campaign, mpich: MpiInstallation) -> None:
    function, expression, statements = campaign.run(
        [
            rp.TaskDescription(function=payloads.sum_of_ranks, args=[10], ranks=2),
            rp.TaskDescription(mode=rp.TASK_EVAL, code="comm.allreduce(comm.rank + 1)", ranks=2),
            rp.TaskDescription(mode=rp.TASK_EXEC, code="return comm.bcast(comm.size if comm.rank == 0 else None)", ranks=2),
        ]
    )
    assert (function.result(), expression.result(), statements.result()) == (21, 3, 2)


def test_mpi_that_is_not_here_says_how_to_get_it(campaign: Campaign) -> None:
    with pytest.raises(InvalidTask, match=r"launch_method='/no/mpiexec': there is no such file; give the path of an mpiexec"):
        campaign.tasks.submit_tasks(shell("true", ranks=2, launch_method="/no/mpiexec"))
    with pytest.raises(InvalidTask, match=r"launch_method='intelmpi': there is no mpiexec of Intel MPI .*pip install impi-rt"):
        campaign.tasks.submit_tasks(shell("true", ranks=2, launch_method="intelmpi"))


# slots


@pytest.fixture(scope="module")
def nodes(base: Path, _nothing_left: None) -> Iterator[Campaign]:
    """Two emulated nodes of 4 cores and 2 GPUs."""
    campaign = Campaign(base)
    try:
        campaign.start(resource="local.emulated", nodes=2, cores_per_node=4, gpus_per_node=2)
        yield campaign
    finally:
        campaign.session.close()


def test_a_task_runs_where_its_slots_are_and_tells_where_it_ran(nodes: Campaign) -> None:
    (pilot,) = nodes.pilots.get_pilots()
    found = pilot.nodelist.find_slots(rp.RankRequirements(n_cores=2, n_gpus=1), n_slots=3)
    task = nodes.shell('echo "$PILOTAGE_RANK $PILOTAGE_NODE $CUDA_VISIBLE_DEVICES"', slots=found, use_mpi=False)
    assert task.state == rp.DONE, task.exception
    assert [(slot.node_name, slot.cores, slot.gpus) for slot in task.slots] == [
        (slot.node_name, slot.cores, slot.gpus) for slot in found
    ]
    expected = [f"{rank} {slot.node_name} {slot.gpus[0].index}" for rank, slot in enumerate(found)]
    assert sorted(task.stdout.splitlines()) == expected
    pilot.nodelist.release_slots(found)


def test_slots_are_waited_for(nodes: Campaign, tmp_path: Path) -> None:
    slots = [{"node_index": 0, "cores": [0, 1, 2, 3]}]
    script = f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done"
    first = nodes.tasks.submit_tasks(shell(script, slots=slots))
    first.wait(rp.AGENT_EXECUTING, timeout=PATIENCE_S)
    second = nodes.tasks.submit_tasks(shell("true", slots=slots))
    other = nodes.shell("true", cores_per_rank=4)
    assert (other.state, other.slots[0].node_index) == (rp.DONE, 1)
    assert second.slots is None
    (tmp_path / "go").touch()
    assert second.wait(timeout=PATIENCE_S) == rp.DONE
    assert second.times.started >= first.times.ended


def test_slots_that_no_node_has_are_refused(nodes: Campaign) -> None:
    (pilot,) = nodes.pilots.get_pilots()
    for slots, told in (
        ([{"node_name": "nowhere", "cores": [0]}], r"slots\[0\]: node_name='nowhere': no pilot has a node of this name"),
        ([{"node_index": 0, "cores": [4]}], "a slot names core 4 of node .*, which has cores 0 to 3"),
        ([{"node_index": 7, "cores": [0]}], "a slot names node 7; the nodes of this pilot are 0 to 1"),
    ):
        with pytest.raises(InvalidTask, match=told):
            nodes.tasks.submit_tasks(shell("true", slots=slots))
    with pytest.raises(InvalidRequest, match="these 2 nodes have 0 such slots at most"):
        pilot.nodelist.find_slots(rp.RankRequirements(n_cores=5))


# services

SERVER = """
import os, socket, sys
server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen()
print("port: %d" % server.getsockname()[1], flush=True)
while True:
    client, _ = server.accept()
    with client:
        if client.recv(10) == b"exit":
            os._exit(3)
        client.sendall(b"served")
"""
ASK = """
import os, socket, sys
with socket.create_connection(("127.0.0.1", int(os.environ[sys.argv[1]]))) as connection:
    connection.sendall(sys.argv[2].encode())
    print(connection.recv(10).decode())
"""


def server(**more: Any) -> rp.TaskDescription:
    described = {"mode": rp.TASK_SERVICE, "executable": sys.executable, "arguments": ["-c", SERVER]}
    return rp.TaskDescription({**described, "info_pattern": "stdout:port: ([0-9]+)", **more})


def ask(variable: str, word: str = "hello", **more: Any) -> rp.TaskDescription:
    return rp.TaskDescription(executable=sys.executable, arguments=["-c", ASK, variable, word], **more)


def test_tasks_are_told_of_the_services_that_they_need(campaign: Campaign) -> None:
    service = campaign.tasks.submit_tasks(server(uid="my.service"))
    client, function = campaign.tasks.submit_tasks(
        [
            ask("RP_INFO_MY_SERVICE", services=["my.service"]),
            rp.TaskDescription(function=payloads.environment_of, args=["PILOTAGE_SERVICE_MY_SERVICE"], services=service),
        ]
    )
    campaign.tasks.wait_tasks(timeout=PATIENCE_S)
    assert (client.state, client.stdout) == (rp.DONE, "served\n")
    assert service.wait_info(timeout=PATIENCE_S) == service.info == function.result()
    assert (service.mode, service.state) == (rp.TASK_SERVICE, rp.AGENT_EXECUTING)
    assert service.as_dict()["info"] == service.info
    service.cancel()
    assert service.wait(timeout=PATIENCE_S) == rp.CANCELED
    assert service.info is None
    with pytest.raises(TaskFailed, match=r"service 'my\.service' is over"):
        service.wait_info(timeout=PATIENCE_S)
    with pytest.raises(InvalidRequest, match="is no service"):
        client.wait_info()


def test_a_service_that_is_not_ready_in_time_fails_and_its_tasks_with_it(campaign: Campaign) -> None:
    service, client = campaign.tasks.submit_tasks(
        [
            rp.TaskDescription(
                uid="slow",
                mode=rp.TASK_SERVICE,
                executable="sleep",
                arguments=["600"],
                ready="pattern:stdout:up",
                startup_timeout=0.3,
            ),
            shell("true", services="slow"),
        ]
    )
    assert service.wait(timeout=PATIENCE_S) == rp.FAILED
    assert outcome_of(service).ending is Ending.TIMED_OUT
    assert client.wait(timeout=PATIENCE_S) == rp.CANCELED
    assert "service 'slow', which it needs, ended" in client.exception
    with pytest.raises(TaskFailed, match="service 'slow' is over"):
        service.wait_info(timeout=PATIENCE_S)


def test_a_service_is_started_again_and_found_at_its_new_place(campaign: Campaign) -> None:
    service = campaign.tasks.submit_tasks(server(name="phoenix", restart="on_failure", health_interval=0.1))
    first = service.wait_info(timeout=PATIENCE_S)
    campaign.run(ask("RP_INFO_PHOENIX", "exit", services=[service]))
    eventually(lambda: service.info not in (None, first), "the service is ready again")
    again = campaign.run(ask("RP_INFO_PHOENIX", services=[service]))
    assert again.stdout == "served\n"
    service.cancel()
    assert service.wait(timeout=PATIENCE_S) == rp.CANCELED


def test_a_service_is_ready_when_its_port_answers_and_over_when_it_does_not(campaign: Campaign) -> None:
    listening = campaign.tasks.submit_tasks(server())
    port = listening.wait_info(timeout=PATIENCE_S)
    watched = campaign.tasks.submit_tasks(
        rp.TaskDescription(
            mode=rp.TASK_SERVICE,
            executable="sleep",
            arguments=["600"],
            ready=f"port:{port}",
            health=f"port:{port}",
            health_interval=0.2,
        )
    )
    assert watched.wait_info(timeout=PATIENCE_S).endswith(f":{port}")
    listening.cancel()
    assert watched.wait(timeout=PATIENCE_S) == rp.FAILED


def test_a_service_may_say_itself_that_it_is_ready(campaign: Campaign) -> None:
    source = "import pilotage; pilotage.service_ready('by word'); import time; time.sleep(600)"
    service = campaign.tasks.submit_tasks(
        rp.TaskDescription(mode=rp.TASK_SERVICE, executable=sys.executable, arguments=["-c", source], ready="notify")
    )
    assert service.wait_info(timeout=PATIENCE_S) == "by word"
    service.cancel()
    assert service.wait(timeout=PATIENCE_S) == rp.CANCELED


def test_a_service_from_elsewhere(campaign: Campaign) -> None:
    (pilot,) = campaign.pilots.get_pilots()
    pilot.register_service("elsewhere", "tcp://host:1")
    task = campaign.shell("echo $RP_INFO_ELSEWHERE $PILOTAGE_SERVICE_ELSEWHERE", services=["elsewhere"])
    assert task.stdout == "tcp://host:1 tcp://host:1\n"
    with pytest.raises(InvalidRequest, match="there is a task of this uid"):
        pilot.register_service(task.uid, "a")
    with pytest.raises(InvalidRequest, match="give the service's name and its information as text"):
        pilot.register_service("other", 3)  # type: ignore[arg-type]


# pilots


@pytest.mark.filterwarnings("ignore:the pilot asks for 4 cores")
def test_a_pilot_has_its_services_environments_and_files_first(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shared.dat").write_text("shared")
    campaign = Campaign(base, uid="complete")
    pilot = campaign.start(
        cores=4,
        services=[server(uid="first"), server().as_dict()],
        prepare_env={"mine": {"type": "shell", "pre_exec": ["export MINE=1"]}},
        input_staging=["shared.dat", {"source": "shared.dat", "target": "pilot:///other.dat"}],
        output_staging=["made.dat > fetched.dat"],
    )
    task = campaign.shell(
        "echo $MINE $RP_INFO_FIRST; cat shared; cd $RP_PILOT_SANDBOX; cat other.dat; echo made > made.dat",
        named_env="mine",
        services="first",
        input_staging={"source": "pilot:///shared.dat", "target": "shared", "action": rp.LINK},
    )
    first, second = pilot.services
    assert (first.uid, second.uid) == ("first", f"{pilot.uid}.service.0001")
    assert task.stdout.splitlines()[0] == f"1 {first.info}", task.exception
    assert task.stdout.endswith("sharedshared")
    assert task.times.started > 0
    assert (first.mode, first.pilot, second.info is not None) == (rp.TASK_SERVICE, pilot.uid, True)
    campaign.session.close()
    assert text(str(tmp_path), "fetched.dat") == "made\n"
    assert (first.state, second.state) == (rp.DONE, rp.DONE)


def test_files_are_staged_into_and_out_of_a_pilot(campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (pilot,) = campaign.pilots.get_pilots()
    (tmp_path / "a.dat").write_text("a")
    (target,) = pilot.stage_in("a.dat > folder/b.dat")
    assert target == f"file://{pilot.sandbox}/folder/b.dat"
    assert pilot.stage_out([{"source": "pilot:///folder/b.dat", "target": "client:///c.dat"}]) == [f"file://{tmp_path}/c.dat"]
    assert text(str(tmp_path), "c.dat") == "a"
    with pytest.raises(StagingFailed, match=r"missing\.dat"):
        pilot.stage_in("missing.dat")
    with pytest.raises(InvalidRequest, match=f"pilot '{pilot.uid}': stage_in.*more than one arrow"):
        pilot.stage_in(["a > b > c"])


def test_a_pilots_service_that_never_gets_ready_ends_the_pilot(open_campaign: Any) -> None:
    campaign = open_campaign()
    service = {"executable": "false", "uid": "hopeless"}
    pilot = campaign.pilots.submit_pilots({"resource": "local.localhost", "cores": 1, "runtime": 5, "services": [service]})
    campaign.tasks.add_pilots(pilot)
    task = campaign.tasks.submit_tasks(shell("true"))
    assert pilot.wait(timeout=PATIENCE_S) in rp.FINAL
    assert task.wait(timeout=PATIENCE_S) in rp.FINAL
    assert task.state != rp.DONE


HALFWAY = """
import os, sys
import pilotage as rp
from pilotage.client.pilot_manager import PilotManager

PilotManager.complete = lambda manager, record: os._exit(9)
session = rp.Session(uid="halfway", base=sys.argv[1])
service = {"uid": "late", "executable": "sleep", "arguments": ["600"]}
environments = {"mine": {"type": "shell", "pre_exec": ["export MINE=1"]}}
pilot = {"resource": "local.localhost", "cores": 2, "runtime": 5, "services": [service], "prepare_env": environments}
rp.PilotManager(session).submit_pilots(pilot)
"""


def test_a_pilot_whose_program_died_halfway_gets_the_rest_after_a_resume(programs: Programs, base: Path) -> None:
    assert programs.run(HALFWAY, base).returncode == 9
    with rp.Session.resume("halfway", base=base) as session:
        (pilot,) = session.get_pilot_managers()[0].get_pilots()
        manager = rp.TaskManager(session)
        manager.add_pilots(pilot)
        task = manager.submit_tasks(shell("echo $MINE", named_env="mine", services="late"))
        assert task.wait(timeout=PATIENCE_S) == rp.DONE
        assert task.stdout == "1\n"
        assert [service.uid for service in pilot.services] == ["late"]


def test_a_pilot_whose_files_are_missing_is_refused(fresh: Campaign) -> None:
    described = {"resource": "local.localhost", "cores": 1, "input_staging": "/no/such/file"}
    with pytest.raises(StagingFailed, match="/no/such/file"):
        fresh.pilots.submit_pilots(described)
    assert fresh.pilots.list_pilots() == []


def test_what_awaits_a_later_version() -> None:
    awaited = {name for table in (TASK_FIELDS, PILOT_FIELDS) for name in table if table[name].awaits}
    assert awaited == {
        "raptor_id", "raptor_class", "raptor_file",
        "access_schema", "backup_nodes", "app_comm", "candidate_hosts", "enable_ep", "reconfig_src",
    }  # fmt: skip
