"""What ``pilotage platforms check`` tests inside a job: one process on each of its nodes, started as pilots start theirs.

Each tells what it finds there: what its node offers, whether it sees the folder of pilots and reaches this process over the
network (see ``node_look``). Beside that stands what the platform claims.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from pilotage.agent.allocation import ask_system, read_text
from pilotage.batch.commands import LocalRunner
from pilotage.cli.findings import Finding, Status
from pilotage.cli.node_look import MARK, Look
from pilotage.cli.renderers import plural
from pilotage.client.session_folder import sessions_folder
from pilotage.errors import BackendError, InvalidRequest
from pilotage.executors.hosts import NODE_NAME
from pilotage.launchers.found import found_host_launcher
from pilotage.launchers.node_hosts import host_line
from pilotage.launchers.outer import without_outer_launch
from pilotage.model.installed import Installed
from pilotage.model.resources import BLOCK_MIB
from pilotage.platforms.allocations import AllocatedNode, Allocation, discover
from pilotage.platforms.allocations.allocation import place_here
from pilotage.platforms.allocations.host_lists import compress_hosts
from pilotage.platforms.node_shape import node_shape
from pilotage.platforms.platform import Platform, sandbox_of
from pilotage.system.python import python_command
from pilotage.wire.addresses import EVERYWHERE, addresses_here

NODES_S = 40.0
"""How long the look at all nodes may take."""
_SHOWN = 500
_ENOUGH_MEMORY = 0.8
"""Which part of the memory that is claimed has to be there: systems keep some for themselves."""


def check_allocation(on: Platform) -> list[Finding]:
    """Look at the job that this process is in, and at its nodes."""
    name = "allocation"
    if on.batch == "local":
        return []
    try:
        found = discover(os.environ, read_text, ask_system, hostname=socket.gethostname())
    except BackendError as error:
        return [Finding(name, Status.BROKEN, str(error), "see what it says")]
    if found is None:
        return [Finding(name, Status.OK, "this is no job; run this inside one, too, to have its nodes looked at")]
    notes = f"; {'; '.join(found.notes)}" if found.notes else ""
    return [Finding(name, Status.OK, f"{found.summary()}{notes}"), *check_nodes(on, found)]


def check_nodes(on: Platform, allocation: Allocation) -> list[Finding]:
    """Have each node of a job looked at by a process there."""
    name = "nodes"
    nodes = {node.name: node for node in allocation.nodes}
    try:
        search_path = os.environ.get("PATH", "")
        method, installed = found_host_launcher(
            on.launch_methods, on.batch, on.launcher_paths, on.launcher_options, search_path
        )
        looks, output = look_at(on, method, installed, list(nodes))
    except (BackendError, InvalidRequest, TimeoutError, OSError) as error:
        return [Finding(name, Status.BROKEN, str(error), "see what it says; pilots start their processes the same way")]
    silent = [node for node in nodes if node not in looks]
    if silent:
        said = f"; {method} said: {output}" if output else ""
        found = f"{compress_hosts(silent)} of {len(nodes)}: nothing was heard{said}"
        remedy = "see that the nodes have this Python and its packages under the same path, or name another in python"
        return [Finding(name, Status.BROKEN, found, remedy)]
    findings = [Finding(name, Status.OK, f"one process on each of {plural(len(nodes), 'node')}, by {method}")]
    findings += _together(looks)
    # Emulated nodes have no shape but the one that is claimed.
    return findings if on.emulated else [*findings, *check_shapes(on, nodes, looks)]


def check_shapes(on: Platform, nodes: Mapping[str, AllocatedNode], looks: Mapping[str, Look]) -> list[Finding]:
    """Compare what tasks get of each node with what the platform claims; nodes that are alike are told together."""
    alike: dict[tuple[Status, str], list[str]] = {}
    for name, look in looks.items():
        alike.setdefault(_against_claims(on, nodes[name], look), []).append(name)
    remedies = {
        Status.OK: "",
        Status.WARNING: "have the job ask for whole nodes, or correct the platform's file",
        Status.BROKEN: "correct node_rules in the platform's file",
    }
    return [
        Finding(f"shape of {compress_hosts(names)}", status, found, remedies[status])
        for (status, found), names in alike.items()
    ]


def _against_claims(on: Platform, node: AllocatedNode, look: Look) -> tuple[Status, str]:
    try:
        shape = node_shape(look.found, on.node_rules, allocated=node).node.shape
    except InvalidRequest as error:
        return Status.BROKEN, str(error)
    memory_mib, enough_mib = shape.memory * BLOCK_MIB, _ENOUGH_MEMORY * (on.memory_per_node_mib or 0)
    claims = (
        ("cores_per_node", on.cores_per_node, shape.cores, shape.cores != on.cores_per_node),
        ("gpus_per_node", on.gpus_per_node, shape.gpus, shape.gpus != on.gpus_per_node),
        ("memory_per_node_mib", on.memory_per_node_mib, memory_mib, memory_mib < enough_mib),
    )
    wrong = [
        f"{field}={claimed} in the platform's file, and tasks get {got} in this job"
        for field, claimed, got, differs in claims
        if claimed is not None and differs
    ]
    has = f"{plural(shape.cores, 'core')}, {plural(shape.gpus, 'GPU')}, {memory_mib:,} MiB"
    return (Status.WARNING, "; ".join(wrong)) if wrong else (Status.OK, f"{has} for tasks")


def look_at(on: Platform, method: str, installed: Installed, nodes: Sequence[str]) -> tuple[dict[str, Look], str]:
    """Return what was found on nodes, by name, of those that answered, and the end of what else was printed.

    Raises:
        BackendError: the method cannot start such processes.
        InvalidRequest: a variable in the folder of pilots is not set.
        TimeoutError: they took longer than ``NODES_S``.
        OSError: no file can be made for them, or no port opened.
    """
    folder = Path(sandbox_of(on)) if on.sandbox else sessions_folder()
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    environment = without_outer_launch(os.environb)
    with tempfile.TemporaryDirectory(dir=there, prefix=".pilotage-check-") as made, socket.socket() as listening:
        listening.bind((EVERYWHERE, 0))
        listening.listen(len(nodes))
        port = listening.getsockname()[1]
        file = Path(made) / "seen"
        file.touch()
        addresses = ",".join(f"{address}:{port}" for address in addresses_here())
        line = host_line(
            method,
            installed,
            nodes,
            _command(on, str(there), str(file), addresses),
            name=f"pilotage-check-{os.getpid()}-{time.monotonic_ns()}",
            folder=made,
            node_variable=NODE_NAME,
            node_list=compress_hosts(nodes),
            environment=environment,
        )
        for written, content in line.files.items():
            (Path(made) / written).write_text(content, errors="surrogateescape")
        given = {key: value for key, value in environment.items() if key not in line.unset} | line.environment
        runner = LocalRunner({os.fsdecode(key): os.fsdecode(value) for key, value in given.items()})
        result = runner.run(line.arguments, NODES_S)
    return parse_looks(result.stdout, nodes), result.stderr.strip()[-_SHOWN:]


def parse_looks(output: str, nodes: Sequence[str]) -> dict[str, Look]:
    """Return what nodes have told, by the names that they have in the job; they may tell them short or in full."""
    looks: dict[str, Look] = {}
    for printed in output.splitlines():
        if printed.startswith(MARK):
            look = msgspec.json.decode(printed.removeprefix(MARK), type=Look)
            name = place_here(nodes, look.node) or place_here(nodes, look.hostname)
            if name is not None:
                looks[name] = look
    return {node: looks[node] for node in nodes if node in looks}


def _command(on: Platform, *arguments: str) -> tuple[str, ...]:
    module = "pilotage.cli.node_look"
    if not on.python:
        return tuple(python_command(module, *arguments))
    return on.python, "-I", "-c", f"from {module} import main; main()", *arguments


def _together(looks: dict[str, Look]) -> list[Finding]:
    """Return what holds for all nodes, or does not on some."""
    blind = [node for node, look in looks.items() if not look.sees_folder]
    unheard = [node for node, look in looks.items() if not look.reaches]
    ways = sorted({look.reaches.rpartition(":")[0] for look in looks.values() if look.reaches})
    pythons = sorted({look.python for look in looks.values()})
    return [
        Finding(
            "folder of pilots, on nodes",
            Status.BROKEN if blind else Status.OK,
            f"{compress_hosts(blind)} do not see it" if blind else "all see it",
            "name a folder in sandbox that all nodes see" if blind else "",
        ),
        Finding(
            "network, on nodes",
            Status.BROKEN if unheard else Status.OK,
            f"{compress_hosts(unheard)} do not reach this node" if unheard else f"all reach this node, by {', '.join(ways)}",
            "nodes have to reach each other by TCP on any port; ask the site" if unheard else "",
        ),
        Finding(
            "python, on nodes",
            Status.WARNING if len(pythons) > 1 else Status.OK,
            "; ".join(pythons),
            "have the same on all nodes" if len(pythons) > 1 else "",
        ),
    ]
