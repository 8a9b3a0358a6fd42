"""Extra options that would leave a pilot without its job, or with another one: refused, and others not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from pilotage.batch.job import JobSpec
from pilotage.batch.own_options import OWN_OPTIONS, own_option
from pilotage.batch.registry import BATCH_SYSTEMS
from pilotage.errors import InvalidPilot

SPEC = JobSpec(name="pilot.0000", folder="/shared/pilot", command=("/opt/agent",), walltime_s=60, nodes=2)

REFUSED = {
    "slurm": (
        ("--test-only", "leave it out"),
        ("--test", "leave it out"),
        ("--array=0-9", "submit several pilots"),
        ("-a 0-9", "submit several pilots"),
        ("-a0-9", "submit several pilots"),
        ("--wait", "wait for the pilot"),
        ("-W", "wait for the pilot"),
        ("--wrap=hostname", "leave it out"),
        ("--wrap hostname", "leave it out"),
        ("-o out.%j", "leave it out"),
        ("--output=out", "leave it out"),
        ("--err out", "leave it out"),
        ("--job-name=mine", "job_name"),
        ("--nodes=5", "nodes"),
        ("-N5", "nodes"),
        ("--time=5", "runtime"),
        ("-t 5", "runtime"),
        ("--signal=B:USR1@60", "checkpoint_signal"),
        ("-M other", "login node of that one"),
        ("hetjob", "submit several pilots"),
        ("--switches=1 --array=1-2", "submit several pilots"),
        ("--quiet", "leave it out"),
    ),
    "pbspro": (
        ("-J 0-9", "submit several pilots"),
        ("-W block=true", "wait for the pilot"),
        ("-W group_list=a,block=true", "wait for the pilot"),
        ("-I", "wait for the pilot"),
        ("-o out", "leave it out"),
        ("-l walltime=1:00", "runtime"),
        ("-l place=pack,select=5", "nodes"),
        ("-z", "leave it out"),
    ),
    "torque": (("-t 0-9", "submit several pilots"), ("-l nodes=5", "nodes"), ("-N mine", "job_name")),
    "lsf": (
        ("-K", "wait for the pilot"),
        ('-J "name[1-10]"', "submit several pilots"),
        ("-J name[1-10]", "submit several pilots"),
        ("-J mine", "job_name"),
        ("-Is /bin/sh", "wait for the pilot"),
        ("-oo out", "leave it out"),
        ("-W 10", "runtime"),
        ("-n 8", "nodes"),
    ),
    "cobalt": (("-I", "wait for the pilot"), ("-n 5", "nodes"), ("--outputprefix=a", "leave it out")),
    "flux": (("--cc=0-9", "submit several pilots"), ("--dry-run", "leave it out"), ("-N5", "nodes"), ("-t 5m", "runtime")),
    "grid_engine": (("-t 1-10", "submit several pilots"), ("-sync y", "wait for the pilot"), ("-pe mpi 8", "batch_options")),
    "loadleveler": (("queue", "submit several pilots"), ("node = 5", "nodes"), ("wall_clock_limit = 60", "runtime")),
}
TAKEN = {
    "slurm": (
        "--switches=1",
        "--wait-all-nodes=1",
        "--time-min=5",
        "--nodelist=node1",
        "--comment=--array",
        '--comment="use -a and --wrap"',
        "--ntasks-per-node=1",
        "-x node3",
        "--mail-type=NONE",
        "--core-spec=4",
        "--no-requeue",
    ),
    "pbspro": ("-l filesystems=home:eagle", "-k doe", "-W group_list=abc", "-l place=scatter", "-v A=1", "-p 5", "-r n"),
    "torque": ("-l gres=ccm", "-W x=FLAGS:ADVRES:1", "-q debug"),
    "lsf": ("-alloc_flags gpumps", "-nnodes 2", "-csm y", "-step_cgroup n", '-R "select[mem>1]"', "-sp 5", "-Jd text"),
    "cobalt": ("--attrs ssds=required", "--mode script", "-q debug"),
    "flux": ("--setattr=system.a=1", "--requires=fast", "--urgency=5"),
    "grid_engine": ("-l mem_free=1G", "-soft", "-p -5", "-sync n", "-ac a=b"),
    "loadleveler": ("network.MPI = sn_all,shared,US", "node_topology = island", "class = large"),
}


@pytest.mark.parametrize(("system", "option", "remedy"), [(name, *each) for name, some in REFUSED.items() for each in some])
def test_what_would_break_a_pilot_is_refused(system: str, option: str, remedy: str) -> None:
    full = replace(SPEC, extra_options=(option,), cores_per_node=8 if system == "lsf" else 0)
    if system == "grid_engine":
        full = replace(full, options={"parallel_environment": "mpi"})
    with pytest.raises(InvalidPilot) as refused:
        BATCH_SYSTEMS[system].script(full)
    message = str(refused.value)
    assert message.startswith(f"{system}: extra_options={option!r}: "), message
    assert remedy in message, message


@pytest.mark.parametrize(("system", "option"), [(name, option) for name, some in TAKEN.items() for option in some])
def test_other_options_are_taken(system: str, option: str) -> None:
    assert own_option(system, option) is None


def test_every_system_that_takes_options_is_known() -> None:
    takes = {name for name, system in BATCH_SYSTEMS.items() if "extra_options" not in system.facts.lacks}
    assert set(OWN_OPTIONS) == takes == set(REFUSED) == set(TAKEN)
