"""The directives of each batch system, line by line, and its commands."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from pilotage.batch.job import Dependency, JobSpec, SignalBeforeEnd
from pilotage.batch.registry import BATCH_SYSTEMS, batch_system
from pilotage.batch.setup_lines import setup_lines
from pilotage.errors import InvalidPilot, InvalidRequest

FULL = JobSpec(
    name="pilot.0000",
    folder="/shared/a pilot",
    command=("/opt/agent", "it's"),
    walltime_s=5430,
    nodes=2,
    cores_per_node=8,
    gpus_per_node=4,
    memory_mib_per_node=4096,
    queue="long",
    project="science",
    exclusive=True,
    output="/shared/out",
    variables={"LEVEL": "a b"},
    setup=("module load mpi",),
    extra_options=("--theirs=1",),
)

# What each says of FULL, with what else it can say.
FURTHER = {
    "slurm": {
        "qos": "high",
        "constraints": ("a", "b"),
        "reservation": "r1",
        "licenses": ("x:2", "y"),
        "begin_s": 1.8e9,
        "dependencies": (Dependency("afterok", "7"), Dependency("after", "8")),
        "mail_to": "me@example.org",
        "signal_before_end": SignalBeforeEnd("TERM", 300),
        "requeue": True,
    },
    "pbspro": {
        "filesystems": ("home", "eagle"),
        "constraints": ("system=polaris", "big"),
        "licenses": ("x",),
        "begin_s": 1.8e9,
    },
    "torque": {
        "qos": "high",
        "reservation": "r1",
        "constraints": ("fast",),
        "licenses": ("x", "y"),
        "mail_to": "me@example.org",
    },
    "lsf": {
        "constraints": ("fast", "big"),
        "dependencies": (Dependency("afterok", "7"), Dependency("afternotok", "8")),
        "signal_before_end": SignalBeforeEnd("TERM", 90),
        "begin_s": 1.8e9,
    },
    "cobalt": {
        "cores_per_node": 0,
        "gpus_per_node": 0,
        "memory_mib_per_node": 0,
        "filesystems": ("home", "grand"),
        "constraints": ("mcdram=flat",),
        "dependencies": (Dependency("afterany", "7"), Dependency("afterany", "8")),
    },
    "flux": {
        "memory_mib_per_node": 0,
        "begin_s": 1.8e9,
        "dependencies": (Dependency("afterok", "7"),),
        "signal_before_end": SignalBeforeEnd("TERM", 90),
    },
    "grid_engine": {
        "gpus_per_node": 8,
        "options": {"parallel_environment": "mpi"},
        "licenses": ("x",),
        "dependencies": (Dependency("afterany", "7"),),
    },
    "loadleveler": {"constraints": ("fast",), "reservation": "r1", "begin_s": 1.8e9, "mail_to": "me", "requeue": True},
    "lgi": {
        **dict.fromkeys(("cores_per_node", "gpus_per_node", "memory_mib_per_node"), 0),
        **dict.fromkeys(("project", "output"), ""),
        "nodes": 1,
        "exclusive": False,
        "extra_options": (),
    },
}

SAID = {
    "slurm": """
        #SBATCH --job-name=pilot.0000
        #SBATCH --nodes=2
        #SBATCH --ntasks-per-node=1
        #SBATCH --cpus-per-task=8
        #SBATCH --gres=gpu:4
        #SBATCH --mem=4096M
        #SBATCH --time=01:30:30
        #SBATCH --partition=long
        #SBATCH --account=science
        #SBATCH --qos=high
        #SBATCH --constraint=a&b
        #SBATCH --reservation=r1
        #SBATCH --licenses=x:2,y
        #SBATCH --exclusive
        #SBATCH --begin=2027-01-15T08:00:00
        #SBATCH --dependency=afterok:7,after:8
        #SBATCH --mail-user=me@example.org
        #SBATCH --mail-type=BEGIN,END,FAIL
        #SBATCH --output=/shared/out
        #SBATCH --open-mode=append
        #SBATCH --signal=B:TERM@300
        #SBATCH --requeue
        #SBATCH --no-kill
        #SBATCH --export=NONE
        #SBATCH --theirs=1
        unset SLURM_EXPORT_ENV
        export PATH
    """,
    "pbspro": """
        #PBS -N pilot.0000
        #PBS -S /bin/sh
        #PBS -l walltime=01:30:30
        #PBS -q long
        #PBS -A science
        #PBS -a 202701150800.00
        #PBS -m n
        #PBS -o /shared/out
        #PBS -j oe
        #PBS -r n
        #PBS -l select=2:ncpus=8:ngpus=4:mem=4096mb:system=polaris:big=True
        #PBS -l place=scatter:excl
        #PBS -l filesystems=home:eagle
        #PBS -l x=1
        #PBS --theirs=1
    """,
    "torque": """
        #PBS -N pilot.0000
        #PBS -S /bin/sh
        #PBS -l walltime=01:30:30
        #PBS -q long
        #PBS -A science
        #PBS -M me@example.org
        #PBS -m abe
        #PBS -o /shared/out
        #PBS -j oe
        #PBS -r n
        #PBS -l nodes=2:ppn=8:gpus=4:fast
        #PBS -l mem=8192mb
        #PBS -l qos=high
        #PBS -l advres=r1
        #PBS -l gres=x%y
        #PBS -l naccesspolicy=singlejob
        #PBS --theirs=1
    """,
    "lsf": """
        #BSUB -J pilot.0000
        #BSUB -n 16
        #BSUB -R "select[fast && big] span[ptile=8] rusage[mem=4096MB/host]"
        #BSUB -gpu "num=4/host"
        #BSUB -W 1:31
        #BSUB -q long
        #BSUB -P science
        #BSUB -x
        #BSUB -b 2027:01:15:08:00
        #BSUB -w "done(7) && exit(8)"
        #BSUB -o /shared/out
        #BSUB -wa TERM -wt 2
        #BSUB -rn
        #BSUB -env none
        #BSUB --theirs=1
    """,
    "cobalt": """
        #COBALT --jobname pilot.0000
        #COBALT -n 2
        #COBALT -t 91
        #COBALT -q long
        #COBALT -A science
        #COBALT --attrs filesystems=home,grand:mcdram=flat
        #COBALT --dependencies 7:8
        #COBALT -o /shared/out
        #COBALT -e /shared/out
        #COBALT --theirs=1
    """,
    "flux": """
        #flux: --job-name=pilot.0000
        #flux: --nodes=2
        #flux: --nslots=2
        #flux: --cores-per-slot=8
        #flux: --gpus-per-slot=4
        #flux: --time-limit=5430s
        #flux: --queue=long
        #flux: --bank=science
        #flux: --exclusive
        #flux: --dependency=begin-time:1800000000
        #flux: --dependency=afterok:7
        #flux: --output=/shared/out
        #flux: '--signal=SIGTERM@90s'
        #flux: '--env-remove=*'
        #flux: --env=HOME
        #flux: --env=USER
        #flux: --env=LOGNAME
        #flux: --env=SHELL
        #flux: --env=PATH
        #flux: --env=LANG
        #flux: --theirs=1
    """,
    "grid_engine": """
        #$ -N pilot.0000
        #$ -S /bin/sh
        #$ -pe mpi 16
        #$ -l h_rt=5430,gpu=1,h_vmem=512M,exclusive=true,x=1
        #$ -q long
        #$ -P science
        #$ -hold_jid 7
        #$ -o /shared/out
        #$ -j y
        #$ -r n
        #$ --theirs=1
    """,
    "loadleveler": """
        # @ job_name = pilot.0000
        # @ job_type = parallel
        # @ node = 2
        # @ tasks_per_node = 1
        # @ resources = ConsumableCpus(8) ConsumableMemory(4096mb) ConsumableGpus(4)
        # @ wall_clock_limit = 01:30:30
        # @ class = long
        # @ account_no = science
        # @ ll_res_id = r1
        # @ requirements = (Feature == "fast")
        # @ node_usage = not_shared
        # @ startdate = 01/15/2027 08:00
        # @ notify_user = me
        # @ notification = always
        # @ initialdir = /shared/a pilot
        # @ output = /shared/out
        # @ error = /shared/out
        # @ restart = yes
        # @ --theirs=1
        # @ queue
    """,
    "lgi": """
        # application: shell target: long
    """,
}


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("name", BATCH_SYSTEMS)
def test_a_script_line_by_line(name: str) -> None:
    said = [line.strip() for line in SAID[name].strip().splitlines()]
    assert BATCH_SYSTEMS[name].script(replace(FULL, **FURTHER[name])).splitlines() == [
        "#!/bin/sh",
        *said,
        "cd '/shared/a pilot' || exit 1",
        "export LEVEL='a b'",
        *setup_lines(["module load mpi"]),
        """exec /opt/agent 'it'"'"'s'""",
    ]


COMMANDS = {
    "slurm": ("sbatch --parsable /f", "scancel 12"),
    "pbspro": ("qsub /f", "qdel 12"),
    "torque": ("qsub /f", "qdel 12"),
    "lsf": ('sh -c exec bsub < "$1" sh /f', "bkill 12"),
    "cobalt": ("qsub /f", "qdel 12"),
    "flux": ("flux batch /f", "flux cancel 12"),
    "grid_engine": ("qsub -terse /f", "qdel 12"),
    "loadleveler": ("llsubmit /f", "llcancel 12"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(name: str) -> None:
    system = BATCH_SYSTEMS[name]
    assert (" ".join(system.submit_command("/f")), " ".join(system.cancel_command("12"))) == COMMANDS[name]


def test_a_reservation_of_pbs_is_a_queue() -> None:
    text = BATCH_SYSTEMS["pbspro"].script(replace(FULL, reservation="R77"))
    assert "#PBS -q R77\n" in text and "long" not in text


def test_lsf_needs_to_know_the_cores() -> None:
    with pytest.raises(InvalidPilot, match=r"lsf: cores_per_node=0: .*; say how many"):
        BATCH_SYSTEMS["lsf"].script(replace(FULL, cores_per_node=0))


def test_grid_engine_needs_a_parallel_environment() -> None:
    with pytest.raises(InvalidPilot, match="16 slots, and no parallel environment; give"):
        BATCH_SYSTEMS["grid_engine"].script(replace(FULL, gpus_per_node=8))


def test_gpus_of_grid_engine_are_of_slots() -> None:
    with pytest.raises(InvalidPilot, match="gpus_per_node=4 are not a whole number for each of 8 slots"):
        BATCH_SYSTEMS["grid_engine"].script(replace(FULL, options={"parallel_environment": "mpi"}))


@pytest.mark.parametrize(
    ("ahead", "why"), [(SignalBeforeEnd("NONE", 10), "no signal"), (SignalBeforeEnd("TERM", 9999), "walltime_s=5430")]
)
def test_a_signal_that_cannot_be_is_refused(ahead: SignalBeforeEnd, why: str) -> None:
    with pytest.raises(InvalidPilot, match=why):
        BATCH_SYSTEMS["slurm"].script(replace(FULL, signal_before_end=ahead))


def test_systems_are_found_by_name() -> None:
    assert batch_system(" OpenPBS ") is BATCH_SYSTEMS["pbspro"]
    assert batch_system("SGE") is BATCH_SYSTEMS["grid_engine"]
    with pytest.raises(InvalidRequest, match="'slrum' is not known; did you mean 'slurm'"):
        batch_system("slrum")


def test_the_reference_tells_what_each_system_is_and_lacks() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "batch-systems.md").read_text()
    rows = [line.strip("|").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    told = {(row[0].split()[0].strip("`"), row[-1].strip()) for row in rows}
    for name, system in BATCH_SYSTEMS.items():
        facts = system.facts
        assert (name, facts.tried) in told
        if name != "lgi":
            assert (name, ", ".join(f"`{field}`" for field in facts.lacks)) in told
