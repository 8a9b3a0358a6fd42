"""Crash points: a process kills itself right before or after its k-th append, sync, send, acknowledgement, spawn and so on.

``$FAULTS_PLANTED`` names the crashes, ``who:point:when:k`` each, for example ``agent.1:append:after:3 client.2:send:before:1``;
``who`` is a process with the number of its incarnation (``agent`` is also a head; agents of partitions are called as these,
also where they are threads), or a runner by its name. A fifth field ``client`` means that the client dies with it, ``raise``
that the thread dies of an exception instead of its process, ``hang`` that it never goes on, ``note`` that nobody dies and it
is only noted that it came by. What has fallen is written to ``fell`` in the campaign's folder, so that a test can tell that
it did test something.

Pilotage knows nothing of this: ``arm`` wraps its functions from outside, and hands itself on to the processes that are started.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
OF_AGENT = "agent-"
"""With this begins the name of a thread that is an agent; the rest is who it is."""
_MODULE = "tests.faults.planted"


class Crashes:
    """The crashes planted for this process."""

    def __init__(self, who: str) -> None:
        self._process = who
        self._planted: dict[tuple[str, str, str, int], str] = {}
        for text in os.environ.get("FAULTS_PLANTED", "").split():
            who, point, when, times, *also = text.split(":")
            self._planted[who, point, when, int(times)] = also[0] if also else ""
        self._passed: Counter[tuple[str, str]] = Counter()

    def wrap(self, owner: Any, name: str, point: str | Callable[..., str]) -> None:
        """Crash around calls of ``owner.name``, which pass ``point``, or the point that it returns for their arguments."""
        function = getattr(owner, name)

        def passing(*arguments: Any, **keywords: Any) -> Any:
            at = point if isinstance(point, str) else point(*arguments)
            thread = threading.current_thread().name
            who = thread.removeprefix(OF_AGENT) if thread.startswith(OF_AGENT) else self._process
            self._passed[who, at] += 1
            number = self._passed[who, at]
            self._crash(who, at, "before", number)
            result = function(*arguments, **keywords)
            self._crash(who, at, "after", number)
            return result

        setattr(owner, name, passing)

    def _crash(self, who: str, point: str, when: str, number: int) -> None:
        also = self._planted.get((who, point, when, number))
        if also is None:
            return
        folder = Path(os.environ["FAULTS_FOLDER"])
        text = f"{who}:{point}:{when}:{number}" + (f":{also}" if also else "")
        fell = os.open(folder / "fell", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fell, f"{text}\n".encode())
        if also == "client":
            os.kill(int((folder / "client.pid").read_text()), signal.SIGKILL)
        if also == "raise":
            raise RuntimeError(f"planted: {text}")
        if also == "hang":
            threading.Event().wait()
        if also != "note":
            os.kill(os.getpid(), signal.SIGKILL)


def _handing_on(command: list[str], module: str) -> list[str]:
    """Have the process of this command line armed, too, before its ``main``."""
    place = command.index("-c") + 1
    arming = f"sys.path.insert(0, {str(REPOSITORY)!r}); from {_MODULE} import arm; arm({module!r}); from {module} import main"
    return [*command[:place], command[place].replace(f"from {module} import main", arming), *command[place + 1 :]]


def _hand_on(owner: Any) -> None:
    plain = owner.python_command
    owner.python_command = lambda module, *arguments: _handing_on(plain(module, *arguments), module)


def _of_message(_channel: Any, *arguments: Any) -> str:
    return "acknowledge" if type(arguments[-1]).__name__ == "Acknowledge" else "send"


def _set_limits(module: Any) -> None:
    """Let silence count as loss after ``$FAULTS_LOSS_S``."""
    if "FAULTS_LOSS_S" in os.environ:
        module.LOSS_S = float(os.environ["FAULTS_LOSS_S"])
        module.HEARTBEAT_S = module.LOSS_S / 4


def _set_patience(module: Any) -> None:
    """Let an agent that has to end count as hanging after ``$FAULTS_SILENT_S``, and again as much."""
    if "FAULTS_SILENT_S" in os.environ:
        module.SILENT_S = module.TERM_S = float(os.environ["FAULTS_SILENT_S"])


def _note_synced(who: str) -> None:
    """Keep in ``synced.WHO`` which file was last synced, and how long it was then."""
    plain = os.fdatasync

    def noting(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        plain(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        (Path(os.environ["FAULTS_FOLDER"]) / f"synced.{who}").write_text(f"{size} {path}")

    os.fdatasync = noting


def arm(module: str) -> None:
    """Plant what is to crash in this process, which is going to run ``main`` of ``module``."""
    if module == "pilotage.agent.main":
        _arm_agent()
    elif module == "pilotage.spawner.main":
        _arm_spawner()
    elif module == "pilotage.workers.main":
        from pilotage.wire.framing import FrameWriter
        from pilotage.workers.link import AgentLink

        crashes = Crashes(sys.argv[2])
        crashes.wrap(FrameWriter, "flush", "tell")
        crashes.wrap(AgentLink, "tell_ends", "end")


def _arm_agent() -> None:
    import pilotage.agent.agent
    import pilotage.agent.client_link
    import pilotage.agent.recovery
    import pilotage.agent.running
    import pilotage.agent.startup
    import pilotage.executors.spawner_process
    from pilotage.agent.client_link import ClientLink
    from pilotage.log.writer import LogWriter
    from pilotage.wire.framing import FrameWriter
    from pilotage.wire.unix import UnixAgentChannel

    # Of a partition's agent the folder is ``partitions/<name>`` in that of the pilot.
    place = Path(sys.argv[1])
    is_head = (place / "pilot.json").exists() and b'"partitions": [\n' in (place / "pilot.json").read_bytes()
    crashes = Crashes(f"{place.name if place.parent.name == 'partitions' else 'agent'}.{sys.argv[2]}")
    _set_limits(pilotage.agent.client_link)
    _note_synced("agent")
    _hand_on(pilotage.executors.spawner_process)
    crashes.wrap(pilotage.agent.recovery, "recover", "recover")
    crashes.wrap(pilotage.agent.startup, "note_start", "note start")
    crashes.wrap(pilotage.agent.running, "write_connection", "listen")
    if is_head:
        import pilotage.agent.agent_process
        import pilotage.agent.head_main
        import pilotage.agent.sub_agents
        from pilotage.wire.unix import UnixClientChannel

        _hand_on(pilotage.agent.agent_process)
        _set_patience(pilotage.agent.sub_agents)
        crashes.wrap(pilotage.agent.head_main, "write_connection", "listen")
        crashes.wrap(UnixClientChannel, "send", lambda *arguments: f"partition-{_of_message(*arguments)}")
        crashes.wrap(UnixClientChannel, "connect", "connect")
    crashes.wrap(LogWriter, "append", "append")
    crashes.wrap(LogWriter, "snapshot", "snapshot")
    crashes.wrap(os, "fdatasync", "sync")
    crashes.wrap(os, "posix_spawn", "spawn")
    crashes.wrap(UnixAgentChannel, "send", _of_message)
    crashes.wrap(ClientLink, "hello", "hello")
    crashes.wrap(ClientLink, "send_ended", "ended")
    crashes.wrap(ClientLink, "drop", "drop")
    crashes.wrap(pilotage.agent.agent.time, "sleep", "pause")
    crashes.wrap(FrameWriter, "flush", "tell")


def _arm_spawner() -> None:
    from pilotage.spawner.launching import Launcher
    from pilotage.wire.framing import FrameWriter

    crashes = Crashes(sys.argv[2])
    crashes.wrap(os, "posix_spawn", "spawn")
    crashes.wrap(FrameWriter, "flush", "tell")
    spawn_program = Launcher.spawn_program

    def handing_on(launcher: Launcher, command: list[str], *arguments: Any) -> int:
        return spawn_program(launcher, _handing_on(command, "pilotage.workers.main"), *arguments)

    Launcher.spawn_program = handing_on  # type: ignore[method-assign]


def arm_client() -> None:
    """Plant what is to crash in this client, and hand on to what it starts."""
    import pilotage.client.launcher
    import pilotage.client.pilot_ends
    import pilotage.client.pilot_link
    import pilotage.client.recovery
    import pilotage.client.session
    import pilotage.wire.agent_link
    from pilotage.log.lease import Lease
    from pilotage.log.writer import LogWriter
    from pilotage.wire.unix import UnixClientChannel

    folder = Path(os.environ["FAULTS_FOLDER"])
    (folder / "client.pid").write_text(str(os.getpid()))
    crashes = Crashes(f"client.{os.environ['FAULTS_CLIENT']}")
    _set_limits(pilotage.wire.agent_link)
    if "FAULTS_END_PATIENCE_S" in os.environ:
        pilotage.client.session.END_PATIENCE_S = float(os.environ["FAULTS_END_PATIENCE_S"])
    _note_synced("client")
    _hand_on(pilotage.client.launcher)
    crashes.wrap(pilotage.client.pilot_link.PilotLink, "disconnect", "disconnect")
    crashes.wrap(pilotage.client.recovery, "recover", "recover")
    crashes.wrap(pilotage.client.pilot_ends.PilotEnds, "await_all", "close")
    crashes.wrap(Lease, "acquire", "lease")
    crashes.wrap(LogWriter, "append", "append")
    crashes.wrap(os, "fdatasync", "sync")
    crashes.wrap(os, "posix_spawn", "spawn")
    crashes.wrap(UnixClientChannel, "send", _of_message)


if __name__ == "__main__":
    arm_client()
    from tests.faults.client_program import main

    main()
