"""What every launch method does, whatever its launcher: the contract of ``launchers.method`` as a suite.

Give your method's tests a subclass::

    class TestMyrun(LaunchMethodContract):
        @pytest.fixture
        def method(self) -> LaunchMethod:
            return Myrun()

        @pytest.fixture
        def installed(self) -> Installed:
            return Installed("/opt/bin/myrun")

Override ``node_names`` where nodes have names of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from pilotage.errors import BackendError
from pilotage.launchers.method import Installed, LaunchLine, LaunchMethod, LaunchRequest, step_name
from pilotage.model.ranks import RankSlot

FOLDER = "/shared/pilot.0000"
SECRET = b"a secret"
COMMAND = ("./program", "an argument")

SHAPES: dict[str, tuple[Sequence[int], int, int]] = {
    "one rank": ((0,), 1, 0),
    "one rank with threads": ((2,), 6, 0),
    "two ranks on a node": ((1, 1), 1, 0),
    "two ranks with GPUs": ((1, 1), 2, 1),
    "two nodes": ((0, 0, 1, 1), 1, 0),
    "fewer on the last": ((0, 0, 0, 1), 1, 0),
    "fewer on the first": ((0, 1, 1), 1, 0),
    "the other way": ((1, 0), 1, 0),
    "back to a node": ((0, 1, 0), 1, 0),
    "many": (tuple(rank // 16 for rank in range(640)), 2, 0),
}
"""Node of each rank, cores and GPUs per rank."""


class LaunchMethodContract:
    """The suite. A method says a shape, or refuses it; what it says holds."""

    @pytest.fixture
    def method(self) -> LaunchMethod:
        """Return the method."""
        raise NotImplementedError

    @pytest.fixture
    def installed(self) -> Installed:
        """Return its launcher, with the options that it cannot do without."""
        raise NotImplementedError

    @pytest.fixture
    def node_names(self) -> Mapping[int, str]:
        """Return names of 40 nodes."""
        return {index: f"node{index:03}" for index in range(40)}

    @pytest.fixture(params=list(SHAPES), ids=str)
    def wanted(self, request: pytest.FixtureRequest, node_names: Mapping[int, str]) -> LaunchRequest:
        """Return a request for each of the shapes."""
        nodes, cores, gpus = SHAPES[request.param]
        return request_for(nodes, cores, gpus, node_names)

    def test_it_says_a_shape_or_refuses_it_by_name(
        self, method: LaunchMethod, installed: Installed, wanted: LaunchRequest
    ) -> None:
        """Who reads the error knows which method it was, and what to do."""
        try:
            line = method.render(installed, wanted)
        except BackendError as error:
            name, _, why = str(error).partition(" ")
            assert name == f"launch_method={method.facts.name!r}"
            assert ";" in why, f"names no remedy: {error}"
        else:
            check_line(line)

    def test_the_same_request_gives_the_same_line(
        self, method: LaunchMethod, installed: Installed, wanted: LaunchRequest
    ) -> None:
        """Nothing but its arguments decides, and these are as they were."""
        before = [list(wanted.slots), list(wanted.command), [dict(variables) for variables in wanted.rank_variables]]
        assert said(method, installed, wanted) == said(method, installed, wanted)
        assert before == [list(wanted.slots), list(wanted.command), [dict(variables) for variables in wanted.rank_variables]]

    def test_no_one_reads_the_environment_from_the_line(
        self, method: LaunchMethod, installed: Installed, wanted: LaunchRequest
    ) -> None:
        """Command lines can be read by anyone on a host."""
        line = said(method, installed, wanted)
        assert line is None or not [argument for argument in line.arguments if SECRET.decode() in argument]

    def test_the_program_is_told_its_arguments_unchanged(
        self, method: LaunchMethod, installed: Installed, wanted: LaunchRequest
    ) -> None:
        """They stand at the end of the line, or quoted in a script."""
        line = said(method, installed, wanted)
        if line is not None and tuple(line.arguments[-2:]) != COMMAND:
            assert [text for text in [*line.arguments, *line.files.values()] if "./program 'an argument'" in text]

    def test_facts_are_told(self, method: LaunchMethod) -> None:
        """What admission and the reference go by."""
        facts = method.facts
        assert facts.name and facts.name == facts.name.lower()
        assert facts.commands and facts.summary
        assert facts.ceiling >= 0
        assert bool(facts.ceiling) == bool(facts.ceiling_why)


def request_for(nodes: Sequence[int], cores: int, gpus: int, node_names: Mapping[int, str]) -> LaunchRequest:
    """Return a request for one rank on each of the nodes named, a node as often as it has ranks."""
    on: dict[int, int] = {}
    slots = []
    for node in nodes:
        local = on.get(node, 0)
        on[node] = local + 1
        own = tuple(range(local * cores, (local + 1) * cores))
        slots.append(RankSlot(node, local, own, tuple(range(local * gpus, (local + 1) * gpus))))
    return LaunchRequest(
        slots,
        COMMAND,
        [{b"PILOTAGE_RANK": b"%d" % rank, b"PILOTAGE_LOCAL_RANK": b"%d" % slot.local_rank} for rank, slot in enumerate(slots)],
        node_names,
        [frozenset(slot.cores) for slot in slots],
        name=step_name("task.000001", 1),
        folder=FOLDER,
        exclusive=True,
        environment={b"TOKEN": SECRET},
        working_folder="/shared/task.000001",
    )


def said(method: LaunchMethod, installed: Installed, request: LaunchRequest) -> LaunchLine | None:
    """Return the line; None if the method refuses."""
    try:
        return method.render(installed, request)
    except BackendError:
        return None


def check_line(line: LaunchLine) -> None:
    """Raise AssertionError unless a line can be started, and its files be written."""
    assert line.arguments and all(argument and "\0" not in argument for argument in line.arguments)
    assert all(name and b"=" not in name and b"\0" not in value for name, value in line.environment.items())
    assert not line.environment.keys() & set(line.unset)
    for name, text in line.files.items():
        assert name and "/" not in name and ":" not in name
        assert text.endswith("\n")
        told = [*line.arguments, *(value.decode() for value in line.environment.values()), *line.files.values()]
        assert [part for part in told if f"{FOLDER}/{name}" in part], f"nothing refers to {name}"
