"""The launch methods by name, and what is known of each."""

from __future__ import annotations

import pytest
from launch_shapes import NIDS, installed_of, rendered, request_on

from pilotage.errors import BackendError
from pilotage.launchers.method import Installed, LaunchRequest, parse_step_name, step_name
from pilotage.launchers.registry import LAUNCH_METHODS, ceiling_of, check_installed, launch_method, launches_at_once

NAMED_IN_PAPERS = {
    *("aprun", "ccmrun", "mpirun_ccmrun", "jsrun", "dplace", "mpirun_dplace", "runjob", "poe", "srun", "ibrun"),
    *("orte", "prrte", "orte_lib", "ssh", "rsh", "mpirun", "mpiexec", "mpirun_mpt", "mpirun_rsh", "fork"),
}
RANKS = [3, 3]


def test_all_that_the_papers_name_and_flux() -> None:
    assert set(LAUNCH_METHODS) == NAMED_IN_PAPERS | {"flux"}
    assert all(method.facts.name == name for name, method in LAUNCH_METHODS.items())


def test_names_in_either_case() -> None:
    assert launch_method("POE").facts.name == "poe"


def test_a_name_that_is_not_known() -> None:
    with pytest.raises(BackendError, match=r"launch_method='mpirunn' is not known; did you mean 'mpirun'\?; known are srun, "):
        launch_method("mpirunn")


@pytest.mark.parametrize("name", sorted(LAUNCH_METHODS.keys() - {"orte_lib", "dplace", "fork"}))
def test_each_starts_two_ranks_and_they_find_their_number(name: str) -> None:
    names = NIDS if name == "aprun" else request_on(RANKS).node_names
    line = rendered(name, installed_of(name), request_on(RANKS, names=names, exclusive=True))
    facts = launch_method(name).facts
    scripts = "".join([*line.arguments, *line.files.values()])

    if facts.binds != "nobody" and facts.rank_variables:
        variable = facts.rank_variables.get(installed_of(name).kind) or facts.rank_variables[""]
        assert f"_rank=${variable}\n" in scripts
    assert "./md" in scripts


@pytest.mark.parametrize("name", sorted(LAUNCH_METHODS.keys() - {"runjob", "orte_lib", "dplace"}))
def test_an_argument_that_is_a_colon_begins_no_other_program(name: str) -> None:
    names = NIDS if name == "aprun" else request_on(RANKS).node_names
    request = request_on(RANKS, names=names, exclusive=True, command=("./md", ":", "-x"))

    assert ":" not in rendered(name, installed_of(name), request).arguments


def test_without_a_rank_or_a_name_there_is_nothing_to_say() -> None:
    with pytest.raises(BackendError, match="no rank to launch"):
        rendered("srun", Installed("srun"), LaunchRequest([], ["x"], []))
    with pytest.raises(BackendError, match="node 3 of the pilot has no name; names are known of 1 nodes"):
        rendered("srun", Installed("srun"), request_on([3], names={0: "n00"}))


@pytest.mark.parametrize(
    ("name", "installed", "why"),
    [
        ("srun", Installed("srun", options={"gpu_per_node": "4"}), r"no option 'gpu_per_node'; did you mean 'gpus_per_node'\?"),
        ("fork", Installed("sh", options={"mpi": "x"}), "has no option 'mpi'; it has none"),
        ("mpirun", Installed("mpirun", "openmp"), r"kind 'openmp'; did you mean 'openmpi'\?; known are mpich"),
        ("srun", Installed("srun", ceiling=-1), "ceiling=-1; 1 at least, or 0"),
        ("srun", Installed("srun", "mpich"), "kind 'mpich'; it is of no kind, leave it empty"),
    ],
)
def test_what_a_platform_says_of_a_launcher_is_checked(name: str, installed: Installed, why: str) -> None:
    with pytest.raises(BackendError, match=why):
        check_installed(launch_method(name), installed)


@pytest.mark.parametrize("name", LAUNCH_METHODS)
def test_what_the_tests_say_of_launchers_passes_the_check(name: str) -> None:
    check_installed(launch_method(name), installed_of(name))


def test_ceilings_that_were_seen() -> None:
    ceilings = {name: (method.facts.ceiling, method.facts.ceiling_per) for name, method in LAUNCH_METHODS.items()}

    assert ceilings["srun"] == (112, "job")
    assert ceilings["jsrun"] == (800, "job")
    assert ceilings["aprun"] == (1000, "job")
    assert ceilings["ssh"] == ceilings["ccmrun"] == (8, "node")
    assert all(method.facts.ceiling_why for method in LAUNCH_METHODS.values() if method.facts.ceiling)


def test_a_platform_knows_better_how_many_launches_a_machine_bears() -> None:
    assert ceiling_of(launch_method("srun"), Installed("srun")) == 112
    assert ceiling_of(launch_method("srun"), Installed("srun", ceiling=500)) == 500
    assert ceiling_of(launch_method("fork"), Installed("sh")) == 0


@pytest.mark.parametrize("uid", ["task.000001", "a:b", "with space"])
def test_the_name_of_a_step_tells_whose_it_is(uid: str) -> None:
    assert parse_step_name(step_name(uid, 3)) == (uid, 3)


@pytest.mark.parametrize("name", ["bash", "pilotage", "pilotage:x", "pilotage::1", "other:x:1", "pilotage:x:one"])
def test_steps_of_others_are_not_ours(name: str) -> None:
    assert parse_step_name(name) is None


def test_how_many_launches_a_pilot_may_have_is_said_by_its_preferred_launcher() -> None:
    assert launches_at_once({}, 4) == 0
    assert launches_at_once({"srun": Installed("srun"), "ssh": Installed("ssh")}, 4) == 112
    assert launches_at_once({"srun": Installed("srun", ceiling=20)}, 4) == 20
    assert launches_at_once({"ssh": Installed("ssh")}, 4) == 32
    assert launches_at_once({"mpiexec": Installed("mpiexec", "mpich")}, 4) == 0
