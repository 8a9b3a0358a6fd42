"""Files of machines, launchers, workloads and faults: those that ship are sound, and what is wrong in others is told well."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotage.errors import InvalidRequest
from pilotage.model.resources import NodeShape
from pilotage.sim.files import quantities, read_faults, read_launcher, read_machine, read_workload, shipped
from pilotage.sim.model import Faults, KindCosts, Quantity

MACHINE = """\
description = "mine"
nodes = 12
cores_per_node = 4
[sources]
nodes = "counted"
cores_per_node = "counted"
"""
LAUNCHER = """\
description = "mine"
[starts_per_s]
value = 5
source = "measured"
"""
WORKLOAD = """\
description = "mine"
source = "made up"

[[classes]]
name = "a"
count = 1
duration_s = 1

[[classes]]
name = "b"
count = 1
duration_s = { normal = [10, 1], least = 0 }
"""
READERS = {"machine": read_machine, "launcher": read_launcher, "workload": read_workload, "faults": read_faults}


@pytest.mark.parametrize("name", shipped("machine"))
def test_machines_that_ship(name: str) -> None:
    machine = read_machine(name)
    assert machine.name == name
    assert [read_launcher(launcher).name for launcher in machine.launchers] == list(machine.launchers)
    assert machine.launchers
    assert "nodes: " in machine.source and "cores_per_node: " in machine.source


@pytest.mark.parametrize(
    ("name", "nodes", "cores", "gpus"),
    [
        ("frontier", 9408, 56, 8),
        ("summit", 4608, 42, 6),
        ("frontera", 8008, 56, 0),
        ("frontera-rtx", 90, 16, 4),
        ("expanse", 728, 128, 0),
        ("titan", 18688, 16, 1),
        ("bluewaters", 22640, 32, 0),
        ("local", 1, 8, 0),
    ],
)
def test_machines_are_of_their_size(name: str, nodes: int, cores: int, gpus: int) -> None:
    machine = read_machine(name)
    assert (machine.nodes, machine.shape.cores, machine.shape.gpus) == (nodes, cores, gpus)


@pytest.mark.parametrize("name", shipped("launcher"))
def test_launchers_that_ship(name: str) -> None:
    launcher = read_launcher(name)
    numbers = list(quantities(launcher))
    assert numbers
    assert all(quantity.source for _, quantity in numbers)


@pytest.mark.parametrize(
    ("name", "quantity", "size", "value"),
    [
        ("srun", "most_at_once", 4, 112),
        ("srun", "most_at_once", 9408, 112),
        ("srun", "starts_per_s", 1, 152),
        ("srun", "starts_per_s", 4, 61),
        ("srun", "starts_per_s", 1024, 61),
        ("jsrun", "most_at_once", 400, 800),
        ("orte", "prepare_s", 2048, 35),
        ("orte", "acknowledge_s", 4096, 135),
        ("orte", "schedules_per_s", 8192, 91),
        ("orte-special", "schedules_per_s", 131_072, 300),
        ("prrte", "contention_s", 4097, 0.055),
        ("flux", "starts_per_s", 1, 28),
        ("flux", "starts_per_s", 1024, 300),
        ("flux", "startup_s", 1024, 20),
        ("dragon", "starts_per_s", 16, 380),
        ("dragon", "startup_s", 64, 9),
        ("raptor", "starts_per_s", 7000, 40_000),
        ("aprun", "most_per_node", 256, 1),
        ("aprun", "most_at_once", 256, 100),
        ("ccm", "most_per_node", 256, 8),
        ("orte-cli", "most_at_once", 8192, 16_000),
        ("spawner", "starts_per_s", 100, 100_000),
        ("mpi-functions", "starts_per_s", 512, 1696.7),
    ],
)
def test_launchers_say_what_was_measured(name: str, quantity: str, size: int, value: float) -> None:
    assert getattr(read_launcher(name), quantity).of(size) == pytest.approx(value)


@pytest.mark.parametrize("name", shipped("workload"))
def test_workloads_that_ship(name: str) -> None:
    workload = read_workload(name)
    assert workload.name == name
    assert workload.source
    assert workload.nodes <= read_machine(workload.machine).nodes


def test_a_machine_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'description = "d"\nnodes = 6\ncores_per_node = 4\nmemory_per_node_mib = 100\ntorus = [2, 3]\n'
        '[sources]\nnodes = "x"\ncores_per_node = "y"\nmemory_per_node_mib = "z"\ntorus = "w"\n'
    )
    machine = read_machine(str(path))
    assert (machine.name, machine.nodes, machine.shape, machine.torus) == ("mine", 6, NodeShape(4, 0, 2, 0), (2, 3))
    assert machine.source == "nodes: x; cores_per_node: y; memory_per_node_mib: z; torus: w"
    assert read_machine("mine.toml", tmp_path) == machine


def test_a_launcher_that_costs_less_for_functions(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(LAUNCHER + '[kinds.function.starts_per_s]\nvalue = 500\nsource = "measured, too"\n')
    launcher = read_launcher(str(path))
    functions = Quantity(value=500, source="measured, too")
    assert launcher.starts_per_s == Quantity(value=5, source="measured")
    assert launcher.kinds == {"function": KindCosts(starts_per_s=functions)}
    assert [place for place, _ in quantities(launcher)] == [("starts_per_s",), ("kinds", "function", "starts_per_s")]


def test_faults(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text('node_losses_per_day = 3\nlose_nodes_at_s = [[10, 4], [20.5, 5]]\nkill_agents_at_s = [[5, "pilot.0000"]]\n')
    assert read_faults(str(path)) == Faults(
        node_losses_per_day=3.0, lose_nodes_at_s=((10.0, 4), (20.5, 5)), kill_agents_at_s=((5.0, "pilot.0000"),)
    )


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("machine", "fronteir", "no machine is named 'fronteir'; did you mean 'frontier'?; known are bluewaters, "),
        ("launcher", "slurm", "no launcher is named 'slurm'; known are aprun, "),
        ("workload", "./nothing.toml", "workload './nothing.toml': there is no such file; give the path of one, or a name: "),
    ],
)
def test_a_name_that_nothing_has(kind: str, name: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        READERS[kind](name)
    assert str(raised.value).startswith(message)


CASES = [
    ("machine", MACHINE, "nodes = 12", "nodes = ", None, "is not valid TOML: "),
    ("machine", MACHINE, "nodes = 12", "nodse = 12", 2, "nodse: there is no such field; did you mean 'nodes'?"),
    ("machine", MACHINE, "nodes = 12", "nodes = 0", 2, "nodes: expected `int` >= 1, and it is 0"),
    ("machine", MACHINE, "nodes = 12", 'nodes = "12"', 2, "nodes: expected `int`, got `str`, and it is '12'"),
    ("machine", MACHINE, "nodes = 12\n", "", 1, "table missing required field `nodes`"),
    ("machine", MACHINE, 'nodes = "counted"\n', "", 2, "nodes: give its source in the table [sources]"),
    ("machine", MACHINE, 'nodes = "counted"', 'nods = "counted"', 2, "nodes: give its source in the table [sources]"),
    (
        "machine",
        MACHINE,
        'nodes = "counted"',
        'nodes = "counted"\ncores = "x"',
        6,
        "sources.cores: there is no such field",
    ),
    (
        "machine",
        MACHINE + 'torus = "x"\n',
        "nodes = 12",
        "nodes = 12\ntorus = [3, 5]",
        3,
        "torus: has 15 nodes, and the machine 12; make them the same",
    ),
    ("launcher", LAUNCHER, "value = 5", "vaule = 5", 3, "starts_per_s.vaule: there is no such field; did you mean 'value'?"),
    ("launcher", LAUNCHER, "value = 5\n", "", 2, "starts_per_s: give one of value and at"),
    ("launcher", LAUNCHER, "value = 5\n", "value = 5\nat = { 1 = 2 }\n", 2, "starts_per_s: give one of value and at"),
    ("launcher", LAUNCHER, "value = 5", "value = -5", 3, "starts_per_s.value: is -5; give 0 or more"),
    ("launcher", LAUNCHER, "value = 5", "at = { 1 = 2, 4 = -2 }", 3, "starts_per_s.at.4: is -2; give 0 or more"),
    ("launcher", LAUNCHER, "value = 5", "at = { 0 = 2 }", 3, "starts_per_s.at.0: 0 is no size; give 1 or more"),
    (
        "launcher",
        LAUNCHER,
        "value = 5",
        "value = 0",
        3,
        "starts_per_s.value: is 0, so that nothing starts; give more, or leave it out for no limit",
    ),
    (
        "launcher",
        LAUNCHER,
        "value = 5",
        "at = { 1 = 2, 4 = 0 }",
        3,
        "starts_per_s.at.4: is 0, so that nothing starts; give more, or leave it out for no limit",
    ),
    (
        "launcher",
        LAUNCHER,
        "value = 5",
        "value = nan",
        3,
        "starts_per_s.value: is nan, which nothing can come to; give a number, or leave it out",
    ),
    (
        "workload",
        WORKLOAD,
        "normal = [10, 1]",
        "uniform = [1, inf]",
        12,
        "classes[2].duration_s.uniform[2]: is inf, which nothing can come to; give a number, or leave it out",
    ),
    ("launcher", LAUNCHER, "measured", " ", 4, 'starts_per_s.source: say where the number is from, or "assumed" and why'),
    (
        "launcher",
        LAUNCHER,
        "starts_per_s",
        "start_per_s",
        2,
        "start_per_s: there is no such field; did you mean 'starts_per_s'?",
    ),
    ("launcher", LAUNCHER, "starts_per_s", "failure_share", 2, "failure_share: is a share; give 1 or less"),
    (
        "launcher",
        LAUNCHER,
        "[starts_per_s]",
        "[kinds.mpi_.prepare_s]",
        2,
        "kinds.mpi_: there is no such field; did you mean 'mpi'?",
    ),
    (
        "launcher",
        LAUNCHER,
        "[starts_per_s]",
        "[kinds.mpi.most_at_once]",
        2,
        "kinds.mpi.most_at_once: there is no such field; known are starts_per_s, prepare_s, acknowledge_s",
    ),
    (
        "launcher",
        LAUNCHER,
        "[starts_per_s]\nvalue = 5",
        "[kinds.mpi.prepare_s]\nvalue = -5",
        3,
        "kinds.mpi.prepare_s.value: is -5; give 0 or more",
    ),
    (
        "launcher",
        LAUNCHER,
        "[starts",
        'name = "x"\n[starts',
        2,
        "name: is no field of the file: it follows from the file's name",
    ),
    ("workload", WORKLOAD, 'name = "b"', 'name = "a"', 10, "classes[2].name: there are two classes 'a'"),
    ("workload", WORKLOAD, 'name = "b"', 'name = "0b"', 10, "classes[2].name: expected `str` matching regex"),
    ("workload", WORKLOAD, "count = 1\nduration_s = {", "duration_s = {", 10, "classes[2].name: give one of count, "),
    (
        "workload",
        WORKLOAD,
        "count = 1\nduration_s = {",
        "count = 1\ncount_per_node = 2\nduration_s = {",
        10,
        "classes[2].name: give one of count, count_per_node and count_per_core, not count and count_per_node",
    ),
    (
        "workload",
        WORKLOAD,
        "normal = [10, 1]",
        "normal = [10]",
        12,
        "classes[2].duration_s.normal: expected `array` of length 2",
    ),
    (
        "workload",
        WORKLOAD,
        "normal",
        "nromal",
        12,
        "classes[2].duration_s.nromal: there is no such field; did you mean 'normal'?",
    ),
    ("workload", WORKLOAD, ", least = 0", "", 12, "classes[2].duration_s: may draw less than 0"),
    ("workload", WORKLOAD, "least = 0", "most = 0, least = -1", 12, "classes[2].duration_s: nearly nothing of it lies from"),
    ("workload", WORKLOAD, "normal = [10, 1], ", "", 12, "classes[2].duration_s: give one of uniform, normal, lognormal and"),
    (
        "workload",
        WORKLOAD,
        "normal = [10, 1], least = 0",
        "choice = [1, 2], weights = [1]",
        12,
        "classes[2].duration_s: has 1 weights for 2 values of choice; give as many",
    ),
    (
        "workload",
        WORKLOAD,
        "normal = [10, 1], least = 0",
        "uniform = [2, 1]",
        12,
        "classes[2].duration_s: uniform = [2.0, 1.0] goes from the greater to the lesser",
    ),
    ("workload", WORKLOAD, "duration_s = 1\n", 'duration_s = "long"\n', 7, "classes[1].duration_s: expected `float | table`"),
    ("workload", WORKLOAD, "duration_s = 1\n", "duration_s = 1\nranks = 0\n", 8, "classes[1].ranks: expected `int` >= 1"),
    (
        "workload",
        WORKLOAD,
        "duration_s = 1\n",
        "duration_s = 1\nranks = { uniform = [0, 3] }\n",
        8,
        "classes[1].ranks: may draw less than 1, which it must not be; its least is 0",
    ),
    (
        "workload",
        WORKLOAD,
        "duration_s = 1\n",
        "duration_s = 1\nranks = 2\nnodes = 2\n",
        8,
        "classes[1].ranks: follows from nodes",
    ),
    ("workload", WORKLOAD, "duration_s = {", 'after = "aa"\nduration_s = {', 12, "classes[2].after: there is no class 'aa'"),
    (
        "workload",
        WORKLOAD,
        "duration_s = {",
        'after = "b"\nduration_s = {',
        12,
        "classes[2].after: class 'b' would come after it",
    ),
    (
        "workload",
        WORKLOAD,
        "duration_s = {",
        'after = "a"\nat_s = [1]\nduration_s = {',
        12,
        "classes[2].after: tasks come by one of at_s, after and adaptive; leave at_s or after out",
    ),
    (
        "workload",
        WORKLOAD,
        "duration_s = {",
        'after = "a"\nrate_per_s = 1\nduration_s = {',
        13,
        "classes[2].rate_per_s: goes with",
    ),
    ("workload", WORKLOAD, "duration_s = {", "adaptive = true\nduration_s = {", 12, "classes[2].adaptive: say how in a table"),
    ("workload", WORKLOAD, "[[classes]]", "[adaptive]\n[[classes]]", 4, "adaptive: no class is adaptive; mark those that are"),
    (
        "workload",
        'description = "d"\nsource = "s"\nclasses = []',
        "",
        "",
        3,
        "classes: a workload has one class of tasks or more",
    ),
    ("faults", "message_loss = 1.5", "", "", 1, "message_loss: is 1.5; it is a share, give 0.5 or less"),
    ("faults", "restart_s = 60", "", "", 1, "restart_s: is 60; what runs waits 60 s for an agent, so give less than that"),
    ("faults", "restart_s = -1", "", "", 1, "restart_s: is -1; give 0 or more"),
    ("faults", "lose_nodes_at_s = [\n[1, 2],\n[-1, 2]]", "", "", 3, "lose_nodes_at_s[2]: a time of -1 s is before the begin"),
    (
        "faults",
        "lose_nodes_at_s = [\n[1, 2],\n[1, 'a']]",
        "",
        "",
        3,
        "lose_nodes_at_s[2][2]: expected `int`, got `str`, and it is 'a'",
    ),
    ("faults", "message_los = 1", "", "", 1, "message_los: there is no such field; did you mean 'message_loss'?"),
]


@pytest.mark.parametrize(("kind", "text", "old", "new", "line", "message"), CASES, ids=[case[5][:40] for case in CASES])
def test_a_file_that_is_wrong(kind: str, text: str, old: str, new: str, line: int | None, message: str, tmp_path: Path) -> None:
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InvalidRequest) as raised:
        READERS[kind](str(path))
    place = f"{path}:{line}: " if line else f"{path}: "
    assert str(raised.value).startswith(f"{kind} file {place}{message}")


@pytest.mark.parametrize("kind", READERS)
def test_a_file_that_is_no_text(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match="is not valid TOML"):
        READERS[kind](str(path))
