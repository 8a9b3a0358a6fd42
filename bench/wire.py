"""The channels between client and agent: round trip, rate, and CPU time per message.

The agent's end is a process of its own. *Round trip*: the time from a user thread handing a message to the thread that owns
the channel, to the user thread waking up with the answer; *idle* with a pause before each, *busy* while another thread of the
client computes. *Rate*: submissions of one size, under the credit of the numbered link. CPU time is that of both processes
together, threads of ZeroMQ included.
"""

from __future__ import annotations

import os
import select
import statistics
import tempfile
import threading
import time
from pathlib import Path

import msgspec

from pilotage.model.ids import Binding
from pilotage.wire.channel import AgentChannel, ClientChannel, Disconnected, Role
from pilotage.wire.codec import encode
from pilotage.wire.keys import generate_key_pair
from pilotage.wire.link import IncomingLink, OutgoingLink
from pilotage.wire.messages import Acknowledge, Heartbeat, Inspect, Refused, Submit
from pilotage.wire.tcp import TcpAgentChannel, TcpClientChannel
from pilotage.wire.unix import UnixAgentChannel, UnixClientChannel

SIZES = (100, 10_000, 100_000)


def serve(agent: AgentChannel) -> None:
    """Acknowledge submissions, answer questions with as many bytes, until the client leaves."""
    link = IncomingLink()
    poll = select.epoll()
    poll.register(agent, select.EPOLLIN)
    while True:
        poll.poll()
        for peer, message in agent.receive():
            match message:
                case Submit():
                    if message.number == 1:
                        link = IncomingLink()
                    link.accept(message.number, len(memoryview(message.batch)))
                    link.synced(message.number)
                    told = link.acknowledgement()
                    if told is not None:
                        agent.send(peer, told)
                case Inspect():
                    agent.send(peer, Refused(message.task))
                case Heartbeat():
                    return


class Served:
    """An agent's end in a child process, and how to connect to it."""

    def __init__(self, transport: str, folder: Path) -> None:
        self.server, self.own = generate_key_pair(), generate_key_pair()
        self.transport = transport
        self.folder = folder
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                agent: AgentChannel
                if transport == "unix":
                    agent = UnixAgentChannel.bind(folder / "client.sock")
                    endpoint = ""
                else:
                    tcp = TcpAgentChannel.bind(self.server, {self.own.public: Role.CLIENT})
                    agent, endpoint = tcp, tcp.endpoint
                os.write(write, f"{endpoint}\n".encode())
                serve(agent)
                agent.close()
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        with open(read, encoding="ascii") as ready:
            self.endpoint = ready.readline().strip()

    def connect(self) -> ClientChannel:
        if self.transport == "unix":
            return UnixClientChannel.connect(self.folder / "client.sock")
        return TcpClientChannel.connect(self.endpoint, self.own, self.server.public)

    def end(self, client: ClientChannel) -> float:
        """Return the CPU seconds of the agent's process."""
        client.send(Heartbeat())
        _, status, usage = os.wait4(self.pid, 0)
        client.close()
        if status:
            raise RuntimeError(f"the agent's end failed with status {status}")
        return usage.ru_utime + usage.ru_stime


def measure_rate(served: Served, size: int, count: int) -> dict[str, object]:
    client = served.connect()
    batch = msgspec.Raw(msgspec.msgpack.encode(b"x" * size))
    link = OutgoingLink(lambda position: b"")
    link.resume(0)
    begun, cpu = time.perf_counter(), time.process_time()
    while link.durable < count:
        while link.next_number <= count and link.may_send():
            number = link.next_number
            frame = encode(Submit(number, Binding(1), batch))
            link.send(number, frame, 0)
            client.send(frame)
        select.select([client], [], [])
        for message in client.receive():
            if isinstance(message, Acknowledge):
                link.acknowledge(message.received, message.durable)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    cpu += served.end(client)
    return {
        "name": f"{served.transport}: rate",
        "bytes": size,
        "messages_per_s": round(count / seconds),
        "cpu_us_per_message": round(cpu / count * 1e6, 1),
    }


def measure_round_trip(served: Served, size: int, count: int, busy: bool) -> dict[str, object]:
    client = served.connect()
    question = Inspect(1, "x" * size)  # type: ignore[arg-type]
    wake = os.eventfd(0, os.EFD_NONBLOCK)
    answered = threading.Condition()
    answers = 0
    done = False

    def own() -> None:
        nonlocal answers
        poll = select.epoll()
        poll.register(wake, select.EPOLLIN)
        poll.register(client, select.EPOLLIN)
        while not done:
            for descriptor, _ in poll.poll():
                if descriptor == wake:
                    os.eventfd_read(wake)
                    if done:
                        return
                    client.send(question)
            try:
                arrived = len(client.receive())
            except Disconnected:
                return
            if arrived:
                with answered:
                    answers += arrived
                    answered.notify()

    def compute() -> None:
        while not done:
            sum(range(1000))

    threads = [threading.Thread(target=own), *([threading.Thread(target=compute)] if busy else [])]
    for thread in threads:
        thread.start()
    times = []
    for index in range(count):
        begun = time.perf_counter()
        os.eventfd_write(wake, 1)
        with answered:
            while answers <= index:
                answered.wait()
        times.append(time.perf_counter() - begun)
        time.sleep(0.001)
    done = True
    os.eventfd_write(wake, 1)
    for thread in threads:
        thread.join()
    os.close(wake)
    served.end(client)
    kind = "busy" if busy else "idle"
    return {"name": f"{served.transport}: {kind} round trip", "bytes": size, "median_us": round(statistics.median(times) * 1e6)}


def run(quick: bool = False) -> list[dict[str, object]]:
    """Measure all; one dictionary a line of the table."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for transport in ("unix", "tcp+CURVE"):
            for size in SIZES:
                count = 20_000_000 // (size + 1000) // (10 if quick else 1)
                results.append(measure_rate(Served(transport, folder), size, count))
            for size in (SIZES[0], SIZES[-1]):
                for busy in (False, True):
                    turns = (100 if busy else 1000) // (10 if quick else 1)
                    results.append(measure_round_trip(Served(transport, folder), size, turns, busy))
    return results


def main() -> None:
    print(f"{'':28} {'bytes':>8} {'messages/s':>11} {'CPU us/message':>15} {'median us':>10}")
    for row in run():
        rate, cpu, median = (row.get(key, "") for key in ("messages_per_s", "cpu_us_per_message", "median_us"))
        print(f"{row['name']!s:28} {row['bytes']:>8} {rate!s:>11} {cpu!s:>15} {median!s:>10}")


if __name__ == "__main__":
    main()
