"""Services with real pilots: ready, told to those who want them, looked after, stopped in the end."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration_support import PATIENCE_S, Campaign, eventually, outcome_of, shell

import pilotage as rp

# A server that answers by HTTP and says where: with 500 once there is a file named ``sick``, which a new life heals. For each
# life that has answered well there is a file ``well.<number>``.
WEB = """
import http.server, os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
life = os.environ["PILOTAGE_ATTEMPT"]
(folder / "sick").unlink(missing_ok=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        sick = (folder / "sick").exists()
        self.send_response(500 if sick else 200)
        self.end_headers()
        if not sick:
            (folder / f"well.{life}").touch()
    def log_message(self, *arguments):
        pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
print(f"listening at http://127.0.0.1:{server.server_address[1]}/", flush=True)
server.serve_forever()
"""


def service(script: str, **more: Any) -> rp.TaskDescription:
    return shell(script, mode=rp.TASK_SERVICE, **more)


def web(tmp_path: Path, port: int = 0, **more: Any) -> rp.TaskDescription:
    arguments = ["-c", WEB, str(tmp_path), str(port)]
    return rp.TaskDescription(mode=rp.TASK_SERVICE, executable=sys.executable, arguments=arguments, **more)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def campaign(base: Path, _nothing_left: None) -> Iterator[Campaign]:
    """A session with a pilot that has more room than the services of this module take."""
    campaign = Campaign(base)
    try:
        campaign.start(resource="local.emulated", cores=32)
        yield campaign
    finally:
        campaign.session.close()


@pytest.fixture
def pilot(fresh: Campaign) -> rp.Pilot:
    """A pilot of the test's own."""
    return fresh.start(resource="local.emulated", cores=4)


# ----------------------------------------------------------------------------------------------------------- ready and told


def test_tasks_that_need_a_service_wait_for_it_and_get_its_address(campaign, tmp_path):
    server = campaign.tasks.submit_tasks(web(tmp_path, name="web-server", info_pattern="stdout:listening at (.*)"))
    program = "import os, urllib.request as r; print(r.urlopen(os.environ['PILOTAGE_SERVICE_WEB_SERVER']).status)"
    by_uid, by_handle = campaign.run(
        rp.TaskDescription(executable=sys.executable, arguments=["-c", program], services=[server.uid]),
        shell("echo $RP_INFO_WEB_SERVER", services=[server]),
    )
    assert by_uid.stdout == "200\n"
    assert by_handle.stdout.strip() == server.info == server.wait_info(timeout=PATIENCE_S)
    assert server.info.startswith("http://127.0.0.1:")
    server.cancel()
    assert server.wait(timeout=PATIENCE_S) == rp.CANCELED


def test_readiness_by_http_port_pattern_and_its_own_word(campaign, tmp_path):
    first, second = free_port(), free_port()
    url = f"http://127.0.0.1:{first}/"
    services = campaign.tasks.submit_tasks(
        [
            web(tmp_path, first, ready=url),
            web(tmp_path, second, ready=f"port:{second}"),
            service("echo starting; echo all set >&2; sleep 1000", ready="pattern:stderr:all set"),
            service(f"{sys.executable} -m pilotage.cli service-ready tcp://here:1; sleep 1000", ready="notify"),
            service("radical-pilot-service-signal; sleep 1000", ready="notify", named_env="rp"),
        ]
    )
    infos = [one.wait_info(timeout=PATIENCE_S) for one in services]
    assert infos[0] == url
    assert infos[1] in (f"localhost:{second}", f"{socket.gethostname()}:{second}")
    assert infos[2:] == ["", "tcp://here:1", ""]


@pytest.mark.parametrize("more", [{"output": "aggregate"}, {"output": "tail"}, {"sandbox": "none"}])
def test_what_a_service_prints_is_found_wherever_it_is_kept(campaign, more):
    described = service("echo at port 9; echo up >&2; sleep 1000", ready="pattern:stderr:up", info_pattern="stdout:at (.*)")
    server = campaign.tasks.submit_tasks({**described.as_dict(), **more})
    assert server.wait_info(timeout=PATIENCE_S) == "port 9"
    server.cancel()


def test_a_python_service_says_that_it_is_ready(campaign):
    program = "import time, pilotage; pilotage.service_ready('queue at ' + str(7)); time.sleep(1000)"
    told = rp.TaskDescription(
        mode=rp.TASK_SERVICE, executable="python", arguments=["-c", program], ready="notify", named_env="rp"
    )
    assert campaign.tasks.submit_tasks(told).wait_info(timeout=PATIENCE_S) == "queue at 7"


def test_services_of_a_pilot_come_first(fresh):
    first = service("echo at node1; sleep 1000", uid="first.service", info_pattern="stdout:at (.*)")
    fresh.start(resource="local.emulated", cores=4, services=[first])
    task = fresh.shell("date", services=["first.service"])
    assert task.state == rp.DONE
    assert fresh.tasks.get_tasks("first.service").info == "node1"


# ---------------------------------------------------------------------------------------------------- what may go wrong


def test_a_service_that_never_gets_ready_ends_with_what_was_tried(campaign):
    port = free_port()
    described = service("echo loading >&2; sleep 1000", ready=f"port:127.0.0.1:{port}", startup_timeout=0.3)
    server = campaign.tasks.submit_tasks(described)
    needs_it = campaign.tasks.submit_tasks(shell("true", services=[server]))
    assert server.wait(timeout=PATIENCE_S) == rp.FAILED
    outcome = outcome_of(server)
    assert outcome.ending is rp.Ending.TIMED_OUT
    assert "was not ready within 0.3 s" in outcome.message
    assert f"port 127.0.0.1:{port} was tried" in outcome.message and "Connection refused" in outcome.message
    assert "loading" in outcome.detail, "the end of its stderr"
    assert needs_it.wait(timeout=PATIENCE_S) == rp.CANCELED
    assert server.uid in str(needs_it.exception)


def test_a_service_that_dies_is_started_again_as_often_as_it_may(campaign, tmp_path):
    script = f"echo $$ >> {tmp_path}/lives; echo up; [ $(wc -l < {tmp_path}/lives) -gt 2 ] && exec sleep 1000; exit 5"
    server = campaign.tasks.submit_tasks(service(script, ready="pattern:stdout:up", restart="on_failure", retries=2))
    eventually(lambda: server.state == rp.AGENT_EXECUTING and _lives(tmp_path) == 3, "its third life")
    os.kill(int((tmp_path / "lives").read_text().split()[-1]), signal.SIGKILL)
    assert server.wait(timeout=PATIENCE_S) == rp.FAILED
    assert outcome_of(server).attempt == 3
    assert outcome_of(server).ending is rp.Ending.SIGNALLED


@pytest.mark.parametrize("ready_again", ["before there is a core", "after there is a core"])
def test_a_task_that_waits_for_a_core_while_its_service_moves_is_told_where_it_is_then(fresh, tmp_path, ready_again):
    fresh.start(resource="local.emulated", cores=2)
    script = f"""
        echo $$ > {tmp_path}/pid.$PILOTAGE_ATTEMPT
        until [ $PILOTAGE_ATTEMPT = 1 ] || [ -e {tmp_path}/up ]; do sleep 0.01; done
        echo at port 700$PILOTAGE_ATTEMPT; sleep 1000"""
    server = fresh.tasks.submit_tasks(service(script, name="db", info_pattern="stdout:at (.*)", restart="on_failure"))
    assert server.wait_info(timeout=PATIENCE_S) == "port 7001"
    before = fresh.tasks.submit_tasks(shell(f"until [ -e {tmp_path}/go ]; do sleep 0.01; done"))
    eventually(lambda: before.state == rp.AGENT_EXECUTING, "the other core is taken")
    task = fresh.tasks.submit_tasks(shell("echo $PILOTAGE_SERVICE_DB $RP_INFO_DB", services=[server]))
    eventually(lambda: task.pilot, "it was told where the service is, and bound")
    os.kill(int((tmp_path / "pid.1").read_text()), signal.SIGKILL)
    eventually((tmp_path / "pid.2").exists, "the service is started again")
    if ready_again == "before there is a core":
        (tmp_path / "up").touch()
        eventually(lambda: server.info == "port 7002", "it is ready again")
        (tmp_path / "go").touch()
    else:
        (tmp_path / "go").touch()
        assert before.wait(timeout=PATIENCE_S) == rp.DONE
        # Whoever comes later and needs no service is not held up.
        assert fresh.shell("true").state == rp.DONE
        (tmp_path / "up").touch()
    assert task.wait(timeout=PATIENCE_S) == rp.DONE
    assert task.stdout == "port 7002 port 7002\n"


def test_a_task_that_waits_for_a_core_when_its_service_ends_for_good_ends_with_it(fresh, tmp_path):
    fresh.start(resource="local.emulated", cores=2)
    server = fresh.tasks.submit_tasks(service("echo at port 1; sleep 1000", info_pattern="stdout:at (.*)"))
    assert server.wait_info(timeout=PATIENCE_S) == "port 1"
    before = fresh.tasks.submit_tasks(shell("sleep 1000"))
    eventually(lambda: before.state == rp.AGENT_EXECUTING, "the other core is taken")
    task = fresh.tasks.submit_tasks(shell("true", services=[server]))
    eventually(lambda: task.pilot, "it is bound")
    server.cancel()
    assert task.wait(timeout=PATIENCE_S) == rp.CANCELED
    assert f"cancelled: service '{server.uid}', which it needs, ended: " in outcome_of(task).message
    before.cancel()


def test_a_task_that_waits_for_what_services_hold_is_told_of_once(fresh, caplog):
    fresh.start(resource="local.emulated", cores=2)
    server = fresh.tasks.submit_tasks(service("sleep 1000"))
    with caplog.at_level(logging.WARNING, "pilotage"):
        assert fresh.shell("true").state == rp.DONE
        assert "nothing runs but services" not in caplog.text
        large = fresh.tasks.submit_tasks(shell("true", ranks=2))
        eventually(lambda: "tasks wait for resources, and nothing runs but services" in caplog.text, "the user hears of it")
        assert fresh.shell("true").state == rp.DONE, "others go on"
        server.cancel()
        assert large.wait(timeout=PATIENCE_S) == rp.DONE
    assert caplog.text.count("nothing runs but services") == 1


def test_a_service_that_is_unwell_is_ended_and_started_again(campaign, tmp_path):
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    server = campaign.tasks.submit_tasks(
        web(tmp_path, port, ready=url, health=url, health_interval=0.1, restart="on_failure", retries=1)
    )
    for life in (1, 2):
        eventually((tmp_path / f"well.{life}").exists, f"life {life} is well")
        assert server.wait_info(timeout=PATIENCE_S) == url
        (tmp_path / "sick").touch()
    assert server.wait(timeout=PATIENCE_S) == rp.FAILED
    outcome = outcome_of(server)
    assert (outcome.attempt, outcome.ending) == (2, rp.Ending.EXITED)
    assert f"is unwell: {url} failed 3 times in a row, last: {url}: HTTP status 500" in outcome.message


def test_a_service_that_ends_by_itself_is_over(campaign):
    server = campaign.tasks.submit_tasks(service("echo up; exit 0", ready="pattern:stdout:never", startup_timeout=30))
    assert server.wait(timeout=PATIENCE_S) in rp.FINAL


def test_a_pilot_whose_service_cannot_start_fails_and_so_do_the_tasks_that_wait_for_it(fresh):
    broken = service("echo no licence >&2; exit 7", uid="licences", ready="pattern:stdout:never")
    pilot = fresh.start(resource="local.emulated", cores=4, services=[broken])
    task = fresh.tasks.submit_tasks(shell("true"))
    assert pilot.wait(timeout=PATIENCE_S) == rp.FAILED
    assert pilot.reason.startswith("service 'licences' of the pilot ended before it was ready: ")
    assert task.wait(timeout=PATIENCE_S) == rp.FAILED
    assert pilot.reason in outcome_of(task).message
    assert pilot.as_dict()["reason"] == pilot.reason


# ------------------------------------------------------------------------------------------------------------ their ends


def test_services_are_stopped_with_their_session_and_are_done(open_campaign):
    campaign = open_campaign()
    campaign.start()
    server = campaign.tasks.submit_tasks(service("echo up; sleep 1000", info_pattern="stdout:(up)"))
    assert server.wait_info(timeout=PATIENCE_S) == "up"
    pid = _pid_of(server)
    campaign.session.close()
    assert server.state == rp.DONE
    assert not os.path.exists(f"/proc/{pid}")


def test_a_service_outlives_its_agent_and_the_next_one_knows_it_as_ready(fresh, pilot):
    described = service("echo at port 7; sleep 1000", info_pattern="stdout:at (.*)", ready="pattern:stdout:at")
    server = fresh.tasks.submit_tasks(described)
    assert server.wait_info(timeout=PATIENCE_S) == "port 7"
    pid, agent = _pid_of(server), _agent_of(fresh, pilot)
    os.kill(agent, signal.SIGKILL)
    task = fresh.shell("echo $" + f"RP_INFO_{server.uid.replace('.', '_').upper()}", services=[server])
    assert task.stdout == "port 7\n"
    assert _agent_of(fresh, pilot) != agent
    assert _pid_of(server) == pid and server.state == rp.AGENT_EXECUTING
    server.cancel()
    assert server.wait(timeout=PATIENCE_S) == rp.CANCELED


def test_a_service_that_was_starting_when_its_agent_died_is_watched_by_the_next(fresh, pilot, tmp_path):
    script = f"until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo at port 8; sleep 1000"
    server = fresh.tasks.submit_tasks(service(script, info_pattern="stdout:at (.*)"))
    eventually(lambda: server.state == rp.AGENT_EXECUTING, "it runs")
    os.kill(_agent_of(fresh, pilot), signal.SIGKILL)
    (tmp_path / "go").touch()
    assert server.wait_info(timeout=PATIENCE_S) == "port 8"


def _lives(folder: Path) -> int:
    return len((folder / "lives").read_text().split()) if (folder / "lives").exists() else 0


def _pid_of(task: rp.Task) -> int:
    """Return the process of a running task: the oldest that has it in its environment."""
    mark = f"PILOTAGE_TASK_ID={task.uid}".encode()
    session = f"PILOTAGE_SESSION_ID={task.session.uid}".encode()
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and {mark, session} <= set(Path("/proc", entry, "environ").read_bytes().split(b"\0")):
                found.append(int(entry))
        except OSError:
            continue
    return min(found)


def _agent_of(campaign: Campaign, pilot: rp.Pilot) -> int:
    folder = os.fsencode(Path(campaign.session.path) / pilot.uid)

    def look() -> list[int]:
        found = []
        for entry in os.listdir("/proc"):
            try:
                command = Path("/proc", entry, "cmdline").read_bytes() if entry.isdigit() else b""
            except OSError:
                continue
            if b"from pilotage.agent.main" in command and folder in command.split(b"\0"):
                found.append(int(entry))
        return found

    (agent,) = eventually(look, "the pilot has an agent")
    return int(agent)
