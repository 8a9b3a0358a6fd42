"""Which launch method starts the ranks of a task, and what is said where none can."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pilotage.model.installed import Installed
from pilotage.model.resources import Node, NodeShape, Request
from pilotage.model.workload import ANY_MPI, MpiLauncher, Template
from pilotage.spawner.choosing import Chosen, choose
from pilotage.spawner.failures import LaunchFailed
from pilotage.testing.runner_driver import default_settings
from pilotage.wire.runner_settings import RunnerSettings

HERE, THERE = (0, 0), (0, 1)
NODES = [Node(index, f"n{index}", NodeShape(8)) for index in range(2)]
OWN = MpiLauncher("openmpi", "/usr/bin/env", "5.0")
"""The user's own; what it really is, nobody looks at."""


@pytest.fixture
def launchers(tmp_path: Path) -> dict[str, Installed]:
    """Programs with the names of launchers, which are there."""
    found = {}
    for name, kind in {"ssh": "", "srun": "", "mpiexec": "mpich"}.items():
        path = tmp_path / name
        path.touch(mode=0o755)
        found[name] = Installed(str(path), kind)
    return found


def settings_with(launchers: dict[str, Installed], **changes: Any) -> RunnerSettings:
    return default_settings(Path("/nonexistent"), nodes=NODES, host_nodes=[0], launchers=launchers, **changes)


def chosen_for(launchers: dict[str, Installed], nodes: tuple[int, ...], *names: str, **fields: Any) -> Chosen | None:
    """Return what a pilot that has these of the launchers, in this order of preference, chooses."""
    template = Template(executable="md", request=Request(ranks=2), **fields)
    return choose(template, settings_with({name: launchers[name] for name in names}), nodes)


@pytest.mark.parametrize(
    ("nodes", "fields", "names", "method"),
    [
        (HERE, {}, ["srun"], None),
        (THERE, {}, ["srun"], "srun"),
        (THERE, {}, ["ssh", "srun"], "ssh"),
        (HERE, {"launch_method": ANY_MPI}, ["ssh", "srun", "mpiexec"], "srun"),
        (THERE, {"launch_method": ANY_MPI}, ["mpiexec", "srun"], "mpiexec"),
        (HERE, {"launcher": OWN}, ["srun"], "srun"),
        (HERE, {"launch_method": "ssh"}, ["srun", "ssh"], "ssh"),
        (HERE, {"launch_method": "mpich"}, ["srun", "mpiexec"], "mpiexec"),
        (HERE, {"launch_method": "mpirun"}, ["srun", "mpiexec"], "mpiexec"),
    ],
)
def test_the_preferred_one_that_can_or_the_one_that_is_named(
    launchers: dict[str, Installed],
    nodes: tuple[int, ...],
    fields: dict[str, Any],
    names: list[str],
    method: str | None,
) -> None:
    chosen = chosen_for(launchers, nodes, *names, **fields)

    assert (None if chosen is None else chosen.method.facts.name) == method
    assert chosen is None or chosen.of_pilot


def test_an_mpiexec_of_the_users_own_is_taken_where_it_is_named(launchers: dict[str, Installed]) -> None:
    site = {**launchers, "mpiexec": Installed(launchers["mpiexec"].path, "mpich", options={"daemons": "slurm"})}

    chosen = choose(Template(launcher=OWN, launch_method=OWN.path), settings_with(site), THERE)

    assert chosen is not None
    assert chosen.method.facts.name == "mpiexec"
    assert chosen.installed == Installed(OWN.path, "openmpi", "5.0", options={"daemons": "slurm"})
    assert chosen.mpi == OWN


def test_a_launcher_is_found_by_its_name_in_path(launchers: dict[str, Installed]) -> None:
    folder = str(Path(launchers["srun"].path).parent)
    settings = settings_with({"srun": Installed("srun", version="22.05")}, environment={"PATH": folder})

    chosen = choose(Template(launch_method="srun"), settings, THERE)

    assert chosen is not None
    assert chosen.installed == Installed(launchers["srun"].path, version="22.05")


def test_without_launch_methods_it_is_the_mpiexec_of_the_task() -> None:
    settings = default_settings(Path("/nonexistent"))

    chosen = choose(Template(launcher=OWN), settings, HERE)

    assert chosen is not None
    assert (chosen.method.facts.name, chosen.mpi, chosen.of_pilot) == ("mpiexec", OWN, False)
    assert choose(Template(), settings, HERE) is None


@pytest.mark.parametrize(
    ("nodes", "fields", "names", "words"),
    [
        (
            HERE,
            {"launch_method": "jsrun"},
            ["srun", "ssh"],
            "launch_method='jsrun' is none of this pilot's launchers; it has srun (PATH/srun), ssh (PATH/ssh); name one of "
            "these, leave launch_method out, or name it in the platform's 'launch_methods'",
        ),
        (
            THERE,
            {"launch_method": ANY_MPI},
            ["ssh"],
            "none of this pilot's launchers starts MPI: it has ssh (PATH/ssh); name one that does in the platform's "
            "'launch_methods', or say use_mpi=False of ranks that need no MPI",
        ),
        (
            THERE,
            {},
            [],
            "ranks on n1 need a launcher, and this pilot has none; name those of its machine in the platform's "
            "'launch_methods', or ask for ranks on one node",
        ),
        (
            HERE,
            {"launch_method": "srun"},
            [],
            "launch_method='srun' needs a launcher, and this pilot has none, as on a single machine; install an MPI there "
            "before the task is submitted, or send it to a pilot on a cluster",
        ),
        (
            HERE,
            {"launch_method": "ssh", "mode": "function"},
            ["ssh"],
            "launch_method='ssh' starts no MPI, and a function with ranks=2 is an MPI function; leave launch_method out, or "
            "submit one task per rank",
        ),
    ],
)
def test_what_is_not_here_is_named_with_where_it_was_looked_for(
    launchers: dict[str, Installed], nodes: tuple[int, ...], fields: dict[str, Any], names: list[str], words: str
) -> None:
    with pytest.raises(LaunchFailed) as failed:
        chosen_for(launchers, nodes, *names, **fields)

    assert str(failed.value) == words.replace("PATH/", f"{Path(launchers['srun'].path).parent}/")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("srun", "there is no 'srun' in PATH (/nowhere) of this node; give its path in the platform's 'launcher_paths'"),
        ("/nowhere/srun", "/nowhere/srun is not there on this node; give its path in the platform's 'launcher_paths'"),
        ("/etc/passwd", "/etc/passwd is not executable on this node"),
    ],
)
def test_a_launcher_that_is_gone_from_its_place(path: str, words: str) -> None:
    settings = settings_with({"srun": Installed(path)}, environment={"PATH": "/nowhere"})

    with pytest.raises(LaunchFailed, match=re.escape(f"launch_method='srun': {words}")):
        choose(Template(launch_method="srun"), settings, THERE)


def test_a_method_that_nobody_knows() -> None:
    with pytest.raises(LaunchFailed, match=r"launch_method='srunn' is not known; did you mean 'srun'\?"):
        choose(Template(launch_method=ANY_MPI), settings_with({"srunn": Installed("srun")}), THERE)
