"""Platform descriptions: found, merged, checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotage.errors import InvalidRequest, UnknownPlatform
from pilotage.model.node_rules import NodeRules
from pilotage.model.partitions import PartitionSpec, PolicySpec
from pilotage.platforms import Platform, load_platforms, platform
from pilotage.platforms.platform import METHOD_NAMES, sandbox_of
from pilotage.platforms.registry import SHIPPED, describe_platforms

PLAN = """
[blue]
gpus_per_node = 2

[[blue.partitions]]
name = "small"
scheduler = "spread"

[[blue.partitions]]
name = "large"
nodes = 2
kinds = ["executable"]
scheduler = { policy = "packed", order = "first_come" }
"""


def folder_of(home: Path) -> Path:
    folder = home / "pilotage" / "platforms"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.fixture
def users(environment: dict[str, str]) -> Path:
    return folder_of(Path(environment["XDG_CONFIG_HOME"]))


def test_among_the_shipped_platforms_are_the_machine_itself_and_its_emulation(environment: dict[str, str]) -> None:
    platforms = load_platforms(environment)
    assert platforms["local.localhost"] == Platform(
        name="local.localhost", description="the machine on which the program runs", launch_methods=("fork",)
    )
    emulated = platforms["local.emulated"]
    assert emulated.emulated
    assert (emulated.cores_per_node, emulated.gpus_per_node) == (56, 8)


def test_a_users_file_changes_single_fields_and_adds_platforms(environment: dict[str, str], users: Path) -> None:
    (users / "local.toml").write_text("[emulated]\ncores_per_node = 4\n")
    (users / "lab.toml").write_text('[blue]\ngpus_per_node = 2\nlaunch_methods = ["fork"]\n')
    platforms = load_platforms(environment)
    assert platforms["local.emulated"].cores_per_node == 4
    assert platforms["local.emulated"].gpus_per_node == 8
    assert platforms["lab.blue"] == Platform(name="lab.blue", gpus_per_node=2, launch_methods=("fork",))


def test_without_a_configuration_home_the_users_files_are_under_dot_config(tmp_path: Path) -> None:
    (folder_of(tmp_path / ".config") / "lab.toml").write_text("[blue]\n")
    assert "lab.blue" in load_platforms({"HOME": str(tmp_path)})


def test_files_and_folders_named_in_the_environment_come_last(environment: dict[str, str], users: Path, tmp_path: Path) -> None:
    (users / "lab.toml").write_text("[blue]\ncores_per_node = 1\ngpus_per_node = 1\n")
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "lab.toml").write_text("[blue]\ncores_per_node = 2\n")
    single = tmp_path / "single" / "other.toml"
    single.parent.mkdir()
    single.write_text("[red]\n")
    platforms = load_platforms({**environment, "PILOTAGE_PLATFORMS": f"{extra}:{single}"})
    assert (platforms["lab.blue"].cores_per_node, platforms["lab.blue"].gpus_per_node) == (2, 1)
    assert "other.red" in platforms


def test_tables_within_a_platform_are_merged_and_all_else_is_replaced(environment: dict[str, str], users: Path) -> None:
    (users / "ornl.toml").write_text(
        "[frontier]\nconstraints = ['nvme']\n[frontier.node_rules]\nagent_cores = 1\n[frontier.queues.batch]\nmax_nodes = 10\n"
    )
    found = load_platforms(environment)["ornl.frontier"]
    assert (found.constraints, found.queue) == (("nvme",), "batch")
    assert (found.node_rules.agent_cores, found.node_rules.threads_per_core) == (1, 1)
    assert (found.queues["batch"].max_nodes, found.queues["batch"].max_walltime_minutes) == (10, 720)
    assert "extended" in found.queues


def test_each_value_has_its_origin(environment: dict[str, str], users: Path) -> None:
    path = users / "ornl.toml"
    path.write_text('[frontier]\n# our own\nproject = "abc123"\nnode_rules = { agent_cores = 1 }\n')
    origins = describe_platforms(environment)["ornl.frontier"].origins
    assert origins["project"] == f"{path}:3"
    assert origins["node_rules.agent_cores"] == f"{path}:4"
    file, _, line = origins["node_rules.reserved_cores"].rpartition(":")
    shipped = SHIPPED / "ornl.toml"
    assert file == str(shipped)
    assert shipped.read_text().splitlines()[int(line) - 1].startswith("reserved_cores = ")


def test_platforms_of_a_batch_system_talk_by_tcp(environment: dict[str, str], users: Path) -> None:
    (users / "lab.toml").write_text('[blue]\nbatch = "slurm"\n[red]\n')
    found = load_platforms(environment)
    assert (found["lab.blue"].transport, found["lab.red"].transport) == ("tcp", "ipc")


def test_threads_may_be_told_as_ranges(environment: dict[str, str], users: Path) -> None:
    (users / "lab.toml").write_text('[blue.node_rules]\nreserved_cores = "0-1,8"\ngpu_cores = ["0-2", [5, 4]]\n')
    assert load_platforms(environment)["lab.blue"].node_rules == NodeRules(
        reserved_cores=(0, 1, 8), gpu_cores=((0, 1, 2), (5, 4))
    )


def test_one_platform_is_found_though_files_of_other_sites_are_bad(
    environment: dict[str, str], users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (users / "lab.toml").write_text("[blue\n")
    assert platform("local.localhost").name == "local.localhost"
    with pytest.raises(InvalidRequest, match=r"lab\.toml: is not valid TOML"):
        platform("lab.blue")


def test_a_missing_entry_in_the_environment_is_named(environment: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        load_platforms({**environment, "PILOTAGE_PLATFORMS": "/no/such/folder"})
    assert str(refused.value) == "$PILOTAGE_PLATFORMS names '/no/such/folder', which does not exist; correct it or unset it"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[green]\n\n[blue]\n# cores\ncore_per_node = 4\n",
            ":5: blue.core_per_node: there is no such field; did you mean 'cores_per_node'?",
        ),
        ("[blue]\nname = 'red'\n", ":2: blue.name: is no field of the file: it is made from the names of file and table"),
        ("[blue]\ncores_per_node = '4'\n", ":2: blue.cores_per_node: expected `int`, got `str`, and it is '4'"),
        ("[blue]\ncores_per_node = 0\n", ":2: blue.cores_per_node: expected `int` >= 1, and it is 0"),
        ("[blue]\nclient_loss_timeout_s = -1\n", ":2: blue.client_loss_timeout_s: expected `float` >= 0.0, and it is -1"),
        (
            "[blue]\nclient_loss_timeout_s = nan\n",
            ":2: blue.client_loss_timeout_s: is nan, which nothing can come to; give a number, or leave it out",
        ),
        (
            "[blue]\nbatch = 'slrum'\n",
            ":2: blue.batch: 'slrum' is not one of cobalt, flux, grid_engine, lgi, loadleveler, local, lsf, pbspro, slurm, "
            "torque; did you mean 'slurm'?",
        ),
        ("blue.cores_per_node = true\n", ":1: blue.cores_per_node: expected `int`, got `bool`, and it is True"),
        (
            "[blue]\nlaunch_methods = ['mpiexec', 'srunn']\n",
            f":2: blue.launch_methods[2]: 'srunn' is not one of {', '.join(sorted(METHOD_NAMES))}; did you mean 'srun'?",
        ),
        (
            "[blue.launcher_options]\nsrunn = { mpi = 'pmix' }\n",
            ":2: blue.launcher_options.srunn: there is no such field; did you mean 'srun'?",
        ),
        (
            "[blue.queues]\nlarge = { max_nodes = 4 }\nsmall = { max_nodes = 0 }\n",
            ":3: blue.queues.small.max_nodes: expected `int` >= 1, and it is 0",
        ),
        (
            "[blue.queues]\nlarge = { max_nodes = 4, min_nodes = 5 }\n",
            ":2: blue.queues.large.min_nodes: 5 exceeds max_nodes=4; give less",
        ),
        (
            "[blue.node_rules]\nreserved_core = [0]\n",
            ":2: blue.node_rules.reserved_core: there is no such field; did you mean 'reserved_cores'?",
        ),
        ("[blue.node_rules]\nagent_cores = -1\n", ":2: blue.node_rules.agent_cores: expected `int` >= 0, and it is -1"),
        (
            "[blue.node_rules]\nreserved_cores = '0-'\n",
            ":2: blue.node_rules.reserved_cores: '0-' is no list of numbers, such as '0-7,64'",
        ),
        (
            "[blue.node_rules]\ngpu_cores = ['0-7', [8, -9]]\n",
            ":2: blue.node_rules.gpu_cores: (8, -9): numbers of hardware threads are 0 or more",
        ),
        (
            "[blue]\nbatch = 'slurm'\ntransport = 'ipc'\n",
            ":3: blue.transport: 'ipc' does not leave this machine, and jobs of slurm run on others; give 'tcp'",
        ),
        (
            "[blue]\nbatch = 'slurm'\nsandbox = 'pilots'\n",
            ":3: blue.sandbox: 'pilots' depends on where a program runs; begin it with '/', '~' or a variable",
        ),
        (
            "[blue]\nsources = { queue = 'a', core_per_node = 'b' }\n",
            ":2: blue.sources.core_per_node: there is no such field; did you mean 'cores_per_node'?",
        ),
        (
            "[blue]\nstatus = 'tested'\n",
            ":2: blue.status: 'tested' is not one of documented, retired, verified; did you mean 'retired'?",
        ),
        (
            "cores_per_node = 4\n",
            ":1: cores_per_node: it stands outside of a table; put it under the machine's name, such as [lab]",
        ),
    ],
)
def test_a_bad_file_is_refused_with_its_line(environment: dict[str, str], users: Path, text: str, message: str) -> None:
    path = users / "lab.toml"
    path.write_text(text)
    with pytest.raises(InvalidRequest) as refused:
        load_platforms(environment)
    assert str(refused.value) == f"platform file {path}{message}"


def test_a_platform_may_have_a_plan_which_a_later_file_replaces(
    environment: dict[str, str], users: Path, tmp_path: Path
) -> None:
    (users / "lab.toml").write_text(PLAN)
    found = load_platforms(environment)["lab.blue"]
    assert found.partitions == (
        PartitionSpec(name="small", scheduler=PolicySpec(policy="spread")),
        PartitionSpec(name="large", nodes=2, kinds=("executable",), scheduler=PolicySpec(policy="packed", order="first_come")),
    )
    assert found.partitions_from == f"{users / 'lab.toml'}:5"
    later = tmp_path / "lab.toml"
    later.write_text('[[blue.partitions]]\nname = "all"\n')
    found = load_platforms({**environment, "PILOTAGE_PLATFORMS": str(later)})["lab.blue"]
    assert (found.gpus_per_node, [spec.name for spec in found.partitions]) == (2, ["all"])
    assert found.partitions_from == f"{later}:1"


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("nodes = 2", "node = 2", ":11: blue.partitions[2].node: there is no such field; did you mean 'nodes'?"),
        ("nodes = 2", "nodes = '2'", ":11: blue.partitions[2].nodes: expected `int`, got `str`, and it is '2'"),
        ("nodes = 2", "nodes = -2", ":11: blue.partitions[2].nodes: -2: it must be 0 or more"),
        (
            "nodes = 2",
            "idle_timeout_s = nan",
            ":11: blue.partitions[2].idle_timeout_s: is nan, which nothing can come to; give a number, or leave it out",
        ),
        (
            '"spread"',
            '"spred"',
            ":7: blue.partitions[1].scheduler: 'spred' is not one of continuous, homogeneous, packed, spread, tagged, torus; "
            "did you mean 'spread'?",
        ),
        ("order =", "ordre =", ":13: blue.partitions[2].scheduler.ordre: there is no such field; did you mean 'order'?"),
        ('"large"', '"small"', ":10: blue.partitions[2].name: two partitions are named 'small'; give each a name of its own"),
        ('name = "large"\n', "", ":9: blue.partitions[2]: table missing required field `name`"),
        ('["executable"]', '["executables"]', ":12: blue.partitions[2].kinds[1]: 'executables' is not one of executable, "),
    ],
)
def test_a_plan_that_is_none_is_refused_with_its_line(
    environment: dict[str, str], users: Path, good: str, bad: str, message: str
) -> None:
    path = users / "lab.toml"
    path.write_text(PLAN.replace(good, bad))
    with pytest.raises(InvalidRequest) as refused:
        load_platforms(environment)
    assert str(refused.value).startswith(f"platform file {path}{message}")


def test_what_is_not_toml_is_refused_with_the_file(environment: dict[str, str], users: Path) -> None:
    (users / "lab.toml").write_text("[blue\n")
    with pytest.raises(InvalidRequest, match=rf"^platform file {users / 'lab.toml'}: is not valid TOML: .*line 1"):
        load_platforms(environment)


def test_an_unknown_platform_names_the_nearest_and_how_to_add_one(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PILOTAGE_PLATFORMS", raising=False)
    with pytest.raises(UnknownPlatform) as refused:
        platform("local.localhots")
    assert str(refused.value) == (
        "no platform is named 'local.localhots'; did you mean 'local.localhost'? "
        f"Known are {', '.join(load_platforms(environment))}. "
        f"To add one, describe it as [machine] in {environment['XDG_CONFIG_HOME']}/pilotage/platforms/<site>.toml, "
        "or in a file that $PILOTAGE_PLATFORMS names"
    )
    with pytest.raises(UnknownPlatform, match=r"^no platform is named 'zzz'\. Known are access.bridges2, "):
        platform("zzz")
    assert platform("local.emulated").name == "local.emulated"


@pytest.mark.parametrize(
    ("sandbox", "path"),
    [
        ("", ""),
        ("/data/pilots", "/data/pilots"),
        ("$SCRATCH/pilots", "/scratch/me/pilots"),
        ("${SCRATCH}/a/$USER", "/scratch/me/a/me"),
    ],
)
def test_variables_are_put_into_the_folder_of_pilots(sandbox: str, path: str) -> None:
    assert sandbox_of(Platform(name="lab.blue", sandbox=sandbox), {"SCRATCH": "/scratch/me", "USER": "me"}) == path


@pytest.mark.parametrize("environment", [{}, {"SCRATCH": ""}])
def test_a_variable_that_is_missing_in_the_folder_of_pilots_is_named(environment: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        sandbox_of(Platform(name="lab.blue", sandbox="$SCRATCH/pilots"), environment)
    assert str(refused.value) == (
        "platform lab.blue: sandbox='$SCRATCH/pilots': there is no variable SCRATCH here; set it, or give the pilot a "
        "sandbox of its own"
    )
