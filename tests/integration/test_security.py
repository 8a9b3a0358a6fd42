"""Who may talk to an agent: its user on this machine, and over the network who is on the list. Nobody else."""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import integration_payloads as payloads
import pytest
from integration_support import PATIENCE_S, Campaign, eventually, shell

import pilotage as rp
from pilotage.agent.settings import CONNECTION_FILE, PilotSettings
from pilotage.cli.observer import Observer
from pilotage.client.launcher import start_local_pilot
from pilotage.model.ids import Binding, PilotUid, SessionUid, TaskUid
from pilotage.model.resources import Node, NodeShape
from pilotage.wire import zeromq
from pilotage.wire.channel import AccessDenied, Disconnected
from pilotage.wire.keys import Connection, KeyPair, generate_key_pair, read_connection, read_key_pair
from pilotage.wire.messages import (
    PROTOCOL,
    Acknowledge,
    AgentHello,
    Cancel,
    ClientHello,
    FromAgent,
    FromClient,
    PilotEnded,
    Refused,
)
from pilotage.wire.tcp import TcpClientChannel

NOBODY = 65534
SYSTEM_PYTHON = "/usr/bin/python3"

# another user of this machine

TRY_ALL = """
import os, socket, sys
for path in sys.argv[1:]:
    for name, attempt in {
        "connect": lambda: path.endswith(".sock") and socket.socket(socket.AF_UNIX).connect(path),
        "list": lambda: os.listdir(path),
        "read": lambda: open(path, "rb").read(),
        "write": lambda: open(path, "ab").write(b"x"),
    }.items():
        try:
            attempt()
        except PermissionError:
            continue
        except OSError as error:
            if os.path.exists(path):
                continue
            print(name, path, error)
        else:
            if name != "connect" or path.endswith(".sock"):
                print(name, path, "was let in")
"""


@pytest.fixture
def open_base() -> Iterator[Path]:
    """A folder that all users may enter, as a project's folder on a cluster."""
    with tempfile.TemporaryDirectory(prefix="pt-open-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists(SYSTEM_PYTHON), reason="becomes another user: needs root")
def test_another_user_is_kept_out_of_everything(
    open_base: Path, open_campaign: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    private = open_base / "tmp"
    private.mkdir(0o1777)
    private.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(private))
    campaign = Campaign(open_base / "sessions")
    try:
        campaign.start()
        task = campaign.shell("echo secret")
        everything = [path for path in open_base.rglob("*") if path != private]
        assert task.stdout_path in everything
        assert [path.name for path in everything if stat.S_ISSOCK(path.lstat().st_mode)]
        tried = subprocess.run(
            [SYSTEM_PYTHON, "-I", "-c", TRY_ALL, *map(str, everything)],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        assert tried.stdout == ""
        assert campaign.shell("true").state == rp.DONE
    finally:
        campaign.session.close()


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_no_umask_opens_files_to_others(mask: int, tmp_path: Path) -> None:
    """Folders and outputs of tasks are as their programs make them; they lie in folders that are the user's alone."""
    before = os.umask(mask)
    try:
        with rp.Session(base=tmp_path / "sessions") as session:
            tasks = rp.TaskManager(session)
            tasks.add_pilots(
                rp.PilotManager(session).submit_pilots(rp.PilotDescription(resource="local.localhost", cores=2, runtime=10))
            )
            ran = tasks.submit_tasks(
                [
                    rp.TaskDescription(executable="/bin/echo", arguments=["secret"]),
                    rp.TaskDescription(executable="/bin/echo", arguments=["secret"], output="aggregate"),
                    rp.TaskDescription(mode=rp.TASK_FUNCTION, function=print, args=("secret",)),
                ]
            )
            tasks.wait_tasks()
            assert [task.state for task in ran] == [rp.DONE] * 3, [task.exception for task in ran]
            found = {
                path.relative_to(tmp_path): stat.S_IMODE(path.lstat().st_mode)
                for path in tmp_path.rglob("*")
                if not path.is_symlink() and not path.is_socket()
            }
    finally:
        os.umask(before)
    # Spare files (``spawner.N.M.out``) become files of tasks.
    of_tasks = {path for path in found if "tasks" in path.parts[:-1] or fnmatch(path.name, "spawner.*.*.*")}
    ours = {path: mode for path, mode in found.items() if path not in of_tasks}
    assert len(ours) > 10
    opened = {str(path): oct(mode) for path, mode in ours.items() if mode & 0o022}
    assert not opened
    assert all(mode == 0o700 for path, mode in ours.items() if path.name in ("tasks", "client", "pilot.0000"))


def test_folders_and_files_are_the_users_alone(campaign: Campaign) -> None:
    campaign.shell("echo secret")
    session = Path(campaign.session.path)
    folders = [session, *(path for path in session.rglob("*") if path.is_dir() and "tasks" not in path.parts)]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
    pilot = session / "pilot.0000"
    assert {stat.S_IMODE((pilot / name).stat().st_mode) for name in ("pilot.json", "connection.json")} == {0o600}


def test_no_command_line_holds_the_users_environment(fresh: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "not-for-everyone")
    fresh.start()
    fresh.shell("true", environment={"OTHER_TOKEN": "nor-this"})
    lines = [path.read_bytes() for path in _command_lines()]
    assert not [line for line in lines if b"not-for-everyone" in line or b"nor-this" in line]


def _command_lines() -> list[Path]:
    return [path for entry in os.listdir("/proc") if entry.isdigit() and (path := Path("/proc", entry, "cmdline")).exists()]


# the network


class Listening:
    """An agent that listens on TCP, and who may talk to it."""

    def __init__(self, folder: Path) -> None:
        self.friend, self.observer, self.stranger = generate_key_pair(), generate_key_pair(), generate_key_pair()
        pilot = folder / "pilot.tcp"
        pilot.mkdir(mode=0o700)
        self._started = start_local_pilot(
            PilotSettings(
                session=SessionUid("network"),
                pilot=PilotUid("pilot.tcp"),
                session_folder=str(folder),
                pilot_folder=str(pilot),
                blob_folder=str(folder / "blobs"),
                nodes=[Node(0, "here", NodeShape(1, 0, 16, 16))],
                bind=False,
                transport="tcp",
                client_keys=[self.friend.public],
                observer_keys=[self.observer.public],
                environment=dict(os.environ),
            )
        )
        readable, _, _ = select.select([self._started.ready_fd], [], [], PATIENCE_S)
        assert readable, "the agent does not come up"
        os.close(self._started.ready_fd)
        self.address: Connection = read_connection(pilot / CONNECTION_FILE)
        self._channels: list[TcpClientChannel] = []

    def connect(self, keys: KeyPair, server_key: str = "") -> TcpClientChannel:
        channel = TcpClientChannel.connect(self.address.tcp[0], keys, server_key or self.address.server_key)
        self._channels.append(channel)
        return channel

    def close(self) -> None:
        last = self.connect(self.friend)
        last.send(hello())
        os.kill(self._started.pid, signal.SIGTERM)
        # The agent stays until its client has its last word.
        ended = eventually(lambda: [one for one in last.receive() if isinstance(one, PilotEnded)], "the pilot ends")[0]
        last.send(Acknowledge(ended.number, ended.number))
        os.waitpid(self._started.pid, 0)
        for channel in self._channels:
            channel.close()


@pytest.fixture(scope="module")
def network(_nothing_left: None) -> Iterator[None]:
    """The context of all client channels lives as long as the process; here it ends with the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zeromq, "_client_context", None)
        yield
        if zeromq._client_context is not None:
            zeromq._client_context[1].destroy()


@pytest.fixture(scope="module")
def listening(place: Path, network: None) -> Iterator[Listening]:
    folder = place / "network"
    folder.mkdir(mode=0o700)
    listening = Listening(folder)
    yield listening
    listening.close()


def hello(epoch: int = 1, *, observer: bool = False) -> ClientHello:
    return ClientHello(PROTOCOL, SessionUid("network"), epoch, 0, observer)


def answer(channel: TcpClientChannel, *said: FromClient) -> FromAgent:
    """Say something, and return the first answer to it."""
    for message in said:
        channel.send(message)
    return eventually(channel.receive, "the agent answers")[0]


def test_who_is_on_the_list_is_heard(listening: Listening) -> None:
    greeting = answer(listening.connect(listening.friend), hello())
    assert isinstance(greeting, AgentHello)
    assert greeting.pilot == "pilot.tcp"


def test_who_knows_the_public_key_and_is_not_on_the_list_is_not_heard(listening: Listening) -> None:
    channel = listening.connect(listening.stranger)
    channel.send(hello(epoch=99))
    with pytest.raises(AccessDenied, match="does not allow this key; add its public key to the agent's allow-list"):
        eventually(channel.receive, "the agent refuses")
    # What the stranger said was not heard: a higher epoch would have shut the friend out.
    assert isinstance(answer(listening.connect(listening.friend), hello()), AgentHello)


def test_who_mistakes_the_agents_key_hears_nothing(listening: Listening) -> None:
    channel = listening.connect(listening.friend, generate_key_pair().public)
    channel.send(hello())
    with pytest.raises(Disconnected):
        eventually(channel.receive, "the handshake fails")


def test_an_observer_may_only_look(listening: Listening) -> None:
    channel = listening.connect(listening.observer)
    assert isinstance(answer(channel, hello(observer=True)), AgentHello)
    refusal = answer(channel, Cancel(1, []))
    assert isinstance(refusal, Refused)
    assert "only observe" in refusal.reason


def test_a_client_of_another_session_is_refused(listening: Listening) -> None:
    refusal = answer(listening.connect(listening.friend), ClientHello(PROTOCOL, SessionUid("another"), 1, 0))
    assert isinstance(refusal, Refused)
    assert "another" in refusal.reason


def test_another_version_is_refused_by_name(listening: Listening) -> None:
    refusal = answer(listening.connect(listening.friend), ClientHello(PROTOCOL + 1, SessionUid("network"), 1, 0))
    assert isinstance(refusal, Refused)
    assert str(PROTOCOL + 1) in refusal.reason


@pytest.fixture(scope="module")
def nearby(base: Path, place: Path, network: None) -> Iterator[Campaign]:
    """A pilot of a platform that asks for the network."""
    (place / "near.toml").write_text('[by]\ntransport = "tcp"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PILOTAGE_PLATFORMS", str(place / "near.toml"))
        campaign = Campaign(base)
        try:
            campaign.start(resource="near.by")
            yield campaign
        finally:
            campaign.session.close()


def address_of(campaign: Campaign) -> Connection:
    return read_connection(Path(campaign.pilots.get_pilots()[0].sandbox, CONNECTION_FILE))


def test_a_platform_may_ask_for_the_network(nearby: Campaign) -> None:
    # Whatever goes on from here goes over the network.
    Path(address_of(nearby).socket).unlink()
    assert nearby.shell("echo out").stdout == "out\n"
    assert nearby.call(payloads.add, 1) == 2
    assert len(nearby.call(bytes, 100_000)) == 100_000
    tasks = nearby.run([shell("true") for _ in range(500)])
    assert {task.state for task in tasks} == {rp.DONE}


def test_another_process_goes_on_over_the_network(nearby: Campaign) -> None:
    campaign = Campaign(Path(nearby.session.path).parent)
    campaign.start(resource="near.by", cores=1)
    task = campaign.tasks.submit_tasks(shell("echo over"))
    campaign.session.close(terminate=False)
    with rp.Session.resume(campaign.session.uid, base=Path(nearby.session.path).parent) as session:
        again = session.get_task_managers("tmgr.0000").get_tasks(task.uid)
        assert (again.wait(timeout=PATIENCE_S), again.stdout) == (rp.DONE, "over\n")


def test_keys_of_a_session_are_its_users_alone_and_in_no_settings(nearby: Campaign) -> None:
    client = Path(nearby.session.path, "client")
    pilot = Path(nearby.pilots.get_pilots()[0].sandbox)
    for name in ("key.json", "observer.json"):
        assert stat.S_IMODE((client / name).stat().st_mode) == 0o600
        pair = read_key_pair(client / name)
        settings = (pilot / "pilot.json").read_text()
        assert pair.public in settings
        assert pair.secret not in settings


def test_a_stranger_is_refused_by_a_pilot_of_the_network(nearby: Campaign) -> None:
    address = address_of(nearby)
    channel = TcpClientChannel.connect(address.tcp[0], generate_key_pair(), address.server_key)
    try:
        channel.send(hello())
        with pytest.raises(AccessDenied):
            eventually(channel.receive, "the agent refuses")
    finally:
        channel.close()
    assert nearby.shell("true").state == rp.DONE


def test_the_command_line_looks_over_the_network_with_a_key_of_its_own(nearby: Campaign) -> None:
    pilot = nearby.pilots.get_pilots()[0]
    task = nearby.tasks.submit_tasks(shell("exec sleep 600"))
    task.wait(rp.AGENT_EXECUTING, timeout=PATIENCE_S)
    with pytest.MonkeyPatch.context() as patch:
        # From another machine the socket is none.
        patch.setattr("pilotage.cli.observer.boot_id", lambda: "another machine")
        observer = Observer.of(Path(pilot.sandbox), Path(nearby.session.path))
    assert observer is not None
    with observer:
        assert observer.ask(task.uid)["state"] == "running"
        observer.cancel([(TaskUid(task.uid), Binding(1))])
    assert task.wait(timeout=PATIENCE_S) == rp.CANCELED
