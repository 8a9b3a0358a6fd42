"""Messages between an agent and the hosts of its nodes, which have their ``LocalExecutor`` do what the agent wants.

They are the calls of ``executors.base.Executor`` (*orders*) and of its ``RunnerListener`` (what is *told*), many in one frame.
A connection opens with ``HostHello``, answered by ``HostWelcome`` or ``HostRefused``; each welcome is the beginning of another
executor in the host, which adopts the runners that the agent knows, as after the agent's death.

What is said on a connection arrives in order; what was under way when it broke is lost, and the next welcome sets both sides
straight. In between two marks keep the rules of ``executors.base`` over the distance. Orders are counted, and a report names
the last one that was followed before it (``heard``), so that the agent knows of which launches the host could not know when it
told. Reports are numbered, and the agent says of which all is in its log (``logged``): what makes runners begin waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec

from pilotage.errors import ProtocolError
from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import Attempt, PilotUid, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.workload import Template
from pilotage.wire.runner_settings import RunnerSettings

HOST_PROTOCOL = 2
"""Version of these messages; both sides are of one installation, unless that changed under a running pilot."""

BUNDLE_BYTES = 8 << 20
"""What is to be said is divided into frames of about this size."""


class KnownRunner(msgspec.Struct, array_like=True):
    """What the agent knows of a runner: an ``executors.base.RunnerProcess``."""

    beside: RunnerId | None
    node: int = 0
    pid: int = 0
    started_ticks: int = 0
    boot_id: str = ""
    released: int = 0


# What the agent wants of a host's executor.


class StartRunner(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """See ``Executor.start_runner``."""

    runner: RunnerId
    beside: RunnerId | None
    environment: dict[str, str]


class StopRunner(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """See ``Executor.stop_runner``."""

    runner: RunnerId


class DefineTemplates(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Templates that later launches follow, on whichever runner of this host; they hold for this connection."""

    templates: dict[TemplateId, Template]


class LaunchLanes(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """See ``Executor.launch``."""

    runner: RunnerId
    lanes: list[LaneTasks]


class EndExecutions(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """See ``Executor.end``."""

    runner: RunnerId
    executions: list[Execution]
    ending: Ending
    message: str


class RecallExecutions(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """See ``Executor.recall``."""

    runner: RunnerId
    executions: list[Execution]


class ReleaseRunner(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """See ``Executor.release``."""

    runner: RunnerId
    through: int


class DefineEnvironment(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """See ``Executor.define_environment``."""

    name: str
    variables: dict[str, str]
    unset: list[str]


class SignalExecutions(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """See ``Executor.signal``."""

    runner: RunnerId
    executions: list[Execution]
    signal: int


Order = (
    StartRunner
    | StopRunner
    | DefineTemplates
    | LaunchLanes
    | EndExecutions
    | RecallExecutions
    | ReleaseRunner
    | DefineEnvironment
    | SignalExecutions
)


# What a host's executor tells.


class RunnerConnected(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """See ``RunnerListener.runner_connected``."""

    runner: RunnerId
    pid: int
    started_ticks: int
    boot_id: str


class RunnerReconciled(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """See ``RunnerListener.runner_reconciled``; launches that the host had not heard of are not in ``holds``."""

    runner: RunnerId
    holds: list[Execution]


class RunnerLost(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """See ``RunnerListener.runner_lost``; launches that the host had not heard of are not in ``not_begun``."""

    runner: RunnerId
    reason: str
    exit_code: int | None
    running: Execution | None
    not_begun: list[Execution]


class TasksStarted(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """See ``RunnerListener.tasks_started``; times are by the host's clock, as ``HostReport.sent`` is."""

    runner: RunnerId
    started: list[tuple[TaskUid, Attempt, float]]


class TasksEnded(msgspec.Struct, frozen=True, array_like=True, tag=24):
    """See ``RunnerListener.tasks_ended``."""

    runner: RunnerId
    number: int
    ends: list[AttemptEnd]


class TasksReturned(msgspec.Struct, frozen=True, array_like=True, tag=25):
    """See ``RunnerListener.tasks_returned``."""

    runner: RunnerId
    executions: list[Execution]


class StorageFull(msgspec.Struct, frozen=True, array_like=True, tag=26):
    """See ``RunnerListener.storage_full``."""

    runner: RunnerId
    reason: str


Told = RunnerConnected | RunnerReconciled | RunnerLost | TasksStarted | TasksEnded | TasksReturned | StorageFull


# From hosts to their agent.


class HostHello(msgspec.Struct, frozen=True, array_like=True, tag=40):
    """A host introduces itself. ``found`` is an encoded ``platforms.node_here.NodeFound``.

    ``connection`` counts those of this process from 1: hellos of several may arrive in any order.
    """

    protocol: int
    pilot: PilotUid
    name: str
    pid: int
    started_ticks: int
    boot_id: str
    connection: int
    found: msgspec.Raw

    def is_older_than(self, other: HostHello) -> bool:
        """Tell whether this was said before the other, as far as that can be known: both on one boot of the node."""
        ours, theirs = (self.started_ticks, self.connection), (other.started_ticks, other.connection)
        return self.boot_id == other.boot_id and ours < theirs


class HostReport(msgspec.Struct, frozen=True, array_like=True, tag=41):
    """What happened, in order. ``heard``: the last order that was followed before. ``sent``: what the host's clock shows.

    ``number`` counts the reports of a connection from 1.
    """

    number: int
    heard: int
    sent: float
    told: list[Told]


class HostWord(msgspec.Struct, frozen=True, array_like=True, tag=43):
    """What a service on this node said of itself: the values of its lines, by their names; told again after each welcome."""

    task: TaskUid
    attempt: Attempt
    lines: dict[str, str]


class HostGone(msgspec.Struct, frozen=True, array_like=True, tag=42):
    """The host's last word: it has ended all that ran on its node, and ends itself."""

    reason: str


class HostSignalled(msgspec.Struct, frozen=True, array_like=True, tag=44):
    """Others have told the host to end, by TERM: the agent is to say whether the whole job ends, ``HostStay``, or it alone."""


# From an agent to its hosts.


class HostWelcome(msgspec.Struct, frozen=True, array_like=True, tag=50):
    """Begin with an executor that adopts the runners that are ``known``."""

    incarnation: int
    known: dict[RunnerId, KnownRunner]
    settings: RunnerSettings


class HostRefused(msgspec.Struct, frozen=True, array_like=True, tag=51):
    """The agent has no use for this host, which is to end all that it runs, and itself."""

    reason: str


class HostOrders(msgspec.Struct, frozen=True, array_like=True, tag=52):
    """Do this, in order. ``through``: the number of the last of all orders so far. ``logged``: see the module's head."""

    through: int
    logged: int
    orders: list[Order]


class HostPing(msgspec.Struct, frozen=True, array_like=True, tag=53):
    """Nothing; that it can be sent tells the agent that the connection is there."""


class HostClose(msgspec.Struct, frozen=True, array_like=True, tag=54):
    """The pilot is over: end all that runs, and all runners, within this grace and a little more; then say ``HostGone``."""

    grace_s: float


class HostStay(msgspec.Struct, frozen=True, array_like=True, tag=55):
    """The batch system ends the job: what runs has its time, and the host goes on until it hears ``HostClose``."""


class HostHeed(msgspec.Struct, frozen=True, array_like=True, tag=56):
    """The job goes on, or nobody knows: the host is to end as it was told."""


FromHost = HostHello | HostReport | HostWord | HostGone | HostSignalled
ToHost = HostWelcome | HostRefused | HostOrders | HostPing | HostClose | HostStay | HostHeed


# Frames


class _EncodedReport(msgspec.Struct, array_like=True, tag=41):
    number: int
    heard: int
    sent: float
    told: list[msgspec.Raw]


class _EncodedOrders(msgspec.Struct, array_like=True, tag=52):
    through: int
    logged: int
    orders: list[msgspec.Raw]


_MessageT = TypeVar("_MessageT")

_encode = msgspec.msgpack.Encoder().encode
_from_host: msgspec.msgpack.Decoder[FromHost] = msgspec.msgpack.Decoder(FromHost)
_to_host: msgspec.msgpack.Decoder[ToHost] = msgspec.msgpack.Decoder(ToHost)


def encode(message: FromHost | ToHost | Order | Told) -> bytes:
    """Return a message as bytes: a frame, or an order or something told to be put into one."""
    return _encode(message)


def report_frame(number: int, heard: int, sent: float, told: Iterable[bytes]) -> bytes:
    """Return the frame of a ``HostReport`` of what is told, which is encoded already."""
    return _encode(_EncodedReport(number, heard, sent, [msgspec.Raw(each) for each in told]))


def orders_frame(through: int, logged: int, orders: Iterable[bytes]) -> bytes:
    """Return the frame of ``HostOrders``, of orders that are encoded already."""
    return _encode(_EncodedOrders(through, logged, [msgspec.Raw(each) for each in orders]))


def bundles(encoded: list[bytes]) -> Iterator[list[bytes]]:
    """Divide what is to be said into what frames can hold, in order."""
    if sum(map(len, encoded)) <= BUNDLE_BYTES:
        yield encoded
        return
    bundle: list[bytes] = []
    size = 0
    for each in encoded:
        if bundle and size + len(each) > BUNDLE_BYTES:
            yield bundle
            bundle, size = [], 0
        bundle.append(each)
        size += len(each)
    yield bundle


def launch_orders(runner: RunnerId, lanes: list[LaneTasks]) -> list[bytes]:
    """Return the orders to launch these, encoded: one, or one for each lane if they are too large for a frame."""
    whole = _encode(LaunchLanes(runner, lanes))
    if len(whole) <= BUNDLE_BYTES or len(lanes) == 1:
        return [whole]
    return [_encode(LaunchLanes(runner, [lane])) for lane in lanes]


def template_orders(templates: Mapping[TemplateId, Template]) -> list[bytes]:
    """Return the orders that define these templates, encoded: one, or one for each if they are too large for a frame."""
    whole = _encode(DefineTemplates(dict(templates)))
    if len(whole) <= BUNDLE_BYTES:
        return [whole]
    return [_encode(DefineTemplates({name: template})) for name, template in templates.items()]


def decode_from_host(frame: bytes) -> FromHost:
    """Return the message in a frame that a host sent.

    Raises:
        ProtocolError: the frame is no such message.
    """
    return _decode(_from_host, frame, "host")


def decode_to_host(frame: bytes) -> ToHost:
    """Return the message in a frame that an agent sent to a host.

    Raises:
        ProtocolError: the frame is no such message.
    """
    return _decode(_to_host, frame, "agent")


def _decode(decoder: msgspec.msgpack.Decoder[_MessageT], frame: bytes, sender: str) -> _MessageT:
    try:
        return decoder.decode(frame)
    # A plain ValueError comes from text that is not UTF-8.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(
            f"a frame of {len(frame)} bytes is no message of the {sender} of a node in protocol {HOST_PROTOCOL}: {error}; "
            "all nodes must run the same version of Pilotage"
        ) from error
