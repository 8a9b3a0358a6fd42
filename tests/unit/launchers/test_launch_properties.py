"""What holds for any placement: every rank is once on the node of its slot, with its cores, whichever method says it."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from launch_shapes import NAMES, rendered, request_on, shown, slots_on

from pilotage.errors import BackendError
from pilotage.launchers.method import Installed, LaunchLine, LaunchRequest
from pilotage.model.ranks import RankSlot

NUMBERS = {name: index for index, name in NAMES.items()}
_ERF_RANK = re.compile(r"^rank: (\d+): \{ host: (\d+); cpu: \{([\d,-]+)\}(?: ; gpu: \{([\d,]+)\})? \}$")

anywhere = st.lists(st.integers(0, 11), min_size=1, max_size=40)


@st.composite
def node_by_node(draw: st.DrawFn) -> list[int]:
    """Return nodes of ranks where no node is come back to."""
    nodes = draw(st.lists(st.integers(0, 50), min_size=1, max_size=45, unique=True))
    return [node for node in nodes for _ in range(draw(st.integers(1, 4)))]


def content(line: LaunchLine, ending: str) -> str:
    return next(text for name, text in line.files.items() if name.endswith(ending))


def listed(numbers: str) -> set[int]:
    """Return the numbers of a list such as ``0-3,8``."""
    found: set[int] = set()
    for part in numbers.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def nodes_counted(text: str) -> list[int]:
    """Return the node of each rank from ``name:ranks`` or ``name slots=ranks``, one after the other."""
    parts = [re.split(r":| slots=", part) for part in re.split(r"[,\n]", text.strip())]
    return [NUMBERS[name] for name, ranks in parts for _ in range(int(ranks))]


@given(anywhere, st.integers(1, 5), st.integers(0, 2))
def test_resource_files_of_jsrun(nodes: list[int], threads_per_core: int, gpus: int) -> None:
    slots = slots_on(nodes, cores=3, gpus=gpus)
    installed = Installed("jsrun", options={"threads_per_core": str(threads_per_core)})
    lines = content(rendered("jsrun", installed, request_on((), slots=slots)), ".erf").splitlines()
    found = [match.groups() for line in lines if (match := _ERF_RANK.match(line))]

    assert [int(rank) for rank, *_ in found] == list(range(len(slots)))
    assert [int(host) - 1 for _, host, *_ in found] == nodes
    for (_, _, cpus, devices), slot in zip(found, slots, strict=True):
        assert {thread // threads_per_core for thread in listed(cpus)} == set(slot.cores)
        assert len(listed(cpus)) == len(slot.cores) * threads_per_core
        assert (listed(devices) if devices else set()) == set(slot.gpus)


@given(anywhere)
def test_files_with_the_node_of_each_rank(nodes: list[int]) -> None:
    request = request_on(nodes)
    for method, installed in (
        ("poe", Installed("poe")),
        ("mpiexec", Installed("mpiexec", "openmpi", "4.1.4")),
    ):
        names = content(rendered(method, installed, request), ".hosts").splitlines()
        assert [NUMBERS[name] for name in names] == nodes


@given(anywhere)
def test_any_spread_is_said_by_srun_and_by_flux(nodes: list[int]) -> None:
    request = request_on(nodes)
    for method, listing in (("srun", "--nodelist="), ("flux", "--requires=host:")):
        line = rendered(method, Installed(method), request)
        told = dict(argument.split("=", 1) for argument in line.arguments if argument.startswith("--") and "=" in argument)
        assert (int(told["--nodes"]), int(told["--ntasks"])) == (len(set(nodes)), len(nodes))
        if line.files:
            assert [NUMBERS[name] for name in content(line, ".hosts").splitlines()] == nodes
        else:
            # Evenly, up the nodes.
            named = [NUMBERS[name] for name in re.search(f"{listing}(\\S+)", shown(line))[1].split(",")]  # type: ignore[index]
            assert [node for node in named for _ in range(len(nodes) // len(named))] == nodes == sorted(nodes)


@given(node_by_node())
def test_hosts_with_numbers_of_ranks(nodes: list[int]) -> None:
    request = request_on(nodes)
    for installed, listing in (
        (Installed("mpiexec", "mpich"), "-hosts"),
        (Installed("mpiexec", "openmpi", "5.0"), "--host"),
        (Installed("mpiexec", "intelmpi"), ""),
    ):
        line = rendered("mpiexec", installed, request)
        inline = listing in line.arguments
        text = line.arguments[line.arguments.index(listing) + 1] if inline else content(line, ".hosts")
        assert nodes_counted(text) == nodes


@given(anywhere)
def test_hosts_of_mpt_and_mvapich(nodes: list[int]) -> None:
    request = request_on(nodes)
    mpt = shown(rendered("mpirun_mpt", Installed("mpirun"), request)).split()
    each = int(mpt[mpt.index("-np") + 1])

    assert [NUMBERS[name] for name in mpt[1].split(",") for _ in range(each)] == nodes
    assert nodes_counted(content(rendered("mpirun_rsh", Installed("mpirun_rsh"), request), ".hosts")) == nodes


@given(anywhere)
def test_what_goes_by_the_order_of_nodes_keeps_it_or_refuses(nodes: list[int]) -> None:
    """A refusal is right only if ranks would land elsewhere."""
    runs = [nodes.count(node) for node in sorted(set(nodes))]
    filled = nodes == sorted(nodes) and len(set(runs[:-1])) <= 1 and runs[-1] <= runs[0]
    try:
        line = rendered("mpiexec", Installed("mpiexec", "pals"), request_on(nodes))
    except BackendError:
        assert not filled
        return
    said = line.arguments
    per_node, names = int(said[said.index("--ppn") + 1]), said[said.index("--hosts") + 1].split(",")

    assert filled
    assert [NUMBERS[name] for name in names for _ in range(per_node)][: len(nodes)] == nodes


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 4))
def test_the_place_that_ibrun_gives_a_rank_is_its_slot(nodes: list[int], cores: int) -> None:
    places = 56 // cores
    slots = slots_on(nodes, cores)
    wanted = [slot.node * places + slot.cores[0] // cores for slot in slots]
    consecutive = wanted == list(range(wanted[0], wanted[0] + len(wanted)))
    try:
        line = rendered("ibrun", Installed("ibrun", options={"cores_per_node": "56"}), request_on((), slots=slots))
    except BackendError:
        assert not consecutive
        return
    said = line.arguments

    assert consecutive
    assert int(said[said.index("-o") + 1]) == wanted[0]
    assert line.environment[b"IBRUN_TASKS_PER_NODE"] == b"%d" % places


@given(st.lists(st.frozensets(st.integers(0, 127), min_size=1, max_size=6), min_size=1, max_size=12))
def test_the_script_binds_each_rank_to_its_own_cores(bind: list[frozenset[int]]) -> None:
    slots = [RankSlot(0, rank, tuple(sorted(cores)), ()) for rank, cores in enumerate(bind)]
    script = rendered("srun", Installed("srun"), request_on((), slots=slots)).arguments[-4]
    bound = re.search(r'_bind="taskset -c (\S+)"', script)[1]  # type: ignore[index]
    column = bound.removeprefix("$")
    for rank, cores in enumerate(bind):
        row = re.search(rf"^{rank}\)(.*);;$", script, re.MULTILINE)
        text = bound if row is None or bound == column else dict(part.split("=") for part in row[1].split())[column]
        assert listed(text) == cores


def test_a_request_is_left_as_it_was() -> None:
    request = request_on([3, 4, 3])
    before = request.__reduce__()
    rendered("srun", Installed("srun"), request)

    assert isinstance(request, LaunchRequest)
    assert request.__reduce__() == before
