"""What commands of batch systems print, read.

Of Slurm: as 22.05 prints it, except for jobs that timed out, were preempted or are completing, which are made from its
documentation, as is all of the other systems.
"""

from __future__ import annotations

import pytest

from pilotage.batch.job import JobState, JobStatus
from pilotage.batch.registry import BATCH_SYSTEMS
from pilotage.batch.system import BatchError, FailureKind, classify

S = JobState
WIDTHS = (40, 24, 200, 16, 16, 32, 32, 256, 4000)


def squeue(*values: str, first: str = "") -> str:
    """Return a line of jobs; ``first``: the node of the script, which is the first of the job's unless given."""
    first = first or values[-1].partition(",")[0].replace("[1-4]", "1")
    values = (*values[:-1], first, values[-1])
    return "".join(value.ljust(width) for value, width in zip(values, WIDTHS, strict=True)) + "\n"


SLURM = {
    ("1", "FAILED", "NonZeroExitCode", "768", "0", "1795296853", "1795296855", "node1"): (S.FAILED, 3, None),
    ("2", "FAILED", "JobLaunchFailure", "9", "0", "1795296855", "1795296855", "node[1-4]"): (S.FAILED, None, 9),
    ("3", "RUNNING", "None", "0", "0", "1795296856", "1795296976", "node[1-4]"): (S.RUNNING, None, None),
    ("4", "PENDING", "Resources", "0", "0", "1795297056", "1795297116", ""): (S.QUEUED, None, None),
    ("5", "PENDING", "JobHeldUser", "0", "0", "N/A", "N/A", ""): (S.HELD, None, None),
    ("6", "PENDING", "BeginTime", "0", "1", "1795297056", "N/A", ""): (S.REQUEUED, None, None),
    ("7", "NODE_FAIL", "NodeDown", "0", "0", "1795296853", "1795296855", "node4"): (S.NODE_FAILED, 0, None),
    ("8", "CANCELLED", "None", "15", "0", "1795296853", "1795296855", "node4"): (S.CANCELLED, None, 15),
    ("9", "CANCELLED", "BeginTime", "0", "0", "1795296853", "1795296853", ""): (S.CANCELLED, None, None),
    ("10", "TIMEOUT", "TimeLimit", "15", "0", "1795296853", "1795296855", "node4"): (S.TIMED_OUT, None, 15),
    ("11", "PREEMPTED", "None", "15", "0", "1795296853", "1795296855", "node4"): (S.PREEMPTED, None, 15),
    ("12", "OUT_OF_MEMORY", "OutOfMemory", "253", "0", "1795296853", "1795296855", "node4"): (S.OUT_OF_MEMORY, None, None),
    ("13", "COMPLETING", "None", "0", "0", "1795296853", "1795296855", "node4"): (S.ENDING, None, None),
    ("14", "A_NEW_WORD", "None", "0", "0", "1795296853", "1795296855", "node4"): (S.UNKNOWN, None, None),
}


@pytest.mark.parametrize("values", SLURM, ids=lambda values: values[1])
def test_slurm(values: tuple[str, ...]) -> None:
    status = BATCH_SYSTEMS["slurm"].parse_status(squeue(*values))[values[0]]
    assert (status.state, status.exit_code, status.signal) == SLURM[values]


def test_slurm_tells_when_and_why() -> None:
    told = BATCH_SYSTEMS["slurm"].parse_status("".join(squeue(*values) for values in SLURM))
    assert list(told) == [str(number) for number in range(1, 15)]
    times = {"started_s": 1795296856.0, "end_s": 1795296976.0}
    assert told["3"] == JobStatus(S.RUNNING, nodes="node[1-4]", **times, restarts=0, first_node="node1")
    assert told["4"] == JobStatus(S.QUEUED, "Resources", start_estimate_s=1795297056.0, restarts=0)
    assert told["14"].reason == "A_NEW_WORD"


def test_slurm_tells_where_the_script_was_begun_when_that_node_is_the_jobs_no_more() -> None:
    line = squeue("5", "FAILED", "JobLaunchFailure", "9", "0", "1795296853", "1795296855", "node[2-3]", first="node1")
    status = BATCH_SYSTEMS["slurm"].parse_status(line)["5"]
    assert (status.state, status.nodes, status.first_node) == (S.FAILED, "node[2-3]", "node1")


def test_slurm_names_why_a_node_is_not_there() -> None:
    line = squeue("4", "PENDING", "ReqNodeNotAvail, UnavailableNodes:node4", "0", "0", "N/A", "N/A", "")
    assert BATCH_SYSTEMS["slurm"].parse_status(line)["4"].reason == "ReqNodeNotAvail, UnavailableNodes:node4"


def test_slurm_estimates() -> None:
    said = "sbatch: Job 7 to start at 1795297036 using 16 processors on nodes node[1-4] in partition debug\n"
    assert BATCH_SYSTEMS["slurm"].parse_estimate(said) == 1795297036.0
    assert BATCH_SYSTEMS["slurm"].parse_estimate("sbatch: nothing of the kind") is None


PBS = """Job Id: 12.pbs
    Job_Name = pilot
    job_state = {state}
    exec_host = node1/0*4+node2/0*4+node3/0*4+nod
\te4/0*4
    Resource_List.walltime = 00:10:00
    stime = Sat Nov 21 21:00:00 2026
    Variable_List = PBS_O_HOME=/home/me,PBS_O_SHELL=/bin/bash,QUOTED="a = \\b",
\tPBS_O_WORKDIR=/home/me
    comment = Job run at Sat Nov 21 at 21:00 on (node1:ncpus=4)+(node2:ncpus=
\t4)
{more}
"""

PRO = {
    ("R", "    run_count = 1"): (S.RUNNING, None, None),
    ("E", ""): (S.ENDING, None, None),
    ("S", ""): (S.RUNNING, None, None),
    ("H", ""): (S.HELD, None, None),
    ("Q", "    run_count = 1"): (S.REQUEUED, None, None),
    ("F", "    substate = 92\n    Exit_status = 0"): (S.DONE, 0, None),
    ("F", "    substate = 93\n    Exit_status = 3"): (S.FAILED, 3, None),
    ("F", "    substate = 93\n    Exit_status = 265"): (S.FAILED, None, 9),
    ("F", "    substate = 93\n    Exit_status = 137"): (S.FAILED, None, 9),
    ("F", "    substate = 93\n    Exit_status = -29"): (S.TIMED_OUT, None, None),
    ("F", "    substate = 93\n    Exit_status = -27"): (S.OUT_OF_MEMORY, None, None),
    ("F", "    substate = 91\n    Exit_status = 271"): (S.CANCELLED, None, 15),
    ("F", "    substate = 91"): (S.CANCELLED, None, None),
    ("F", "    substate = 92"): (S.UNKNOWN, None, None),
}


@pytest.mark.parametrize("case", PRO, ids=lambda case: " ".join(case).replace("\n", ""))
def test_pbs_pro(case: tuple[str, str]) -> None:
    status = BATCH_SYSTEMS["pbspro"].parse_status(PBS.format(state=case[0], more=case[1]))["12.pbs"]
    assert (status.state, status.exit_code, status.signal) == PRO[case]
    assert status.nodes == "node1/0*4+node2/0*4+node3/0*4+node4/0*4"
    assert status.reason.endswith("(node1:ncpus=4)+(node2:ncpus=4)")


def test_pbs_pro_tells_when() -> None:
    running = BATCH_SYSTEMS["pbspro"].parse_status(PBS.format(state="R", more=""))["12.pbs"]
    assert running.started_s is not None and running.end_s == running.started_s + 600
    waiting = BATCH_SYSTEMS["pbspro"].parse_status(PBS.format(state="Q", more="    estimated.start_time = 1795297036"))
    assert waiting["12.pbs"].start_estimate_s == 1795297036.0


TORQUE = {
    "    exit_status = 0": (S.DONE, 0, None),
    "    exit_status = -11": (S.TIMED_OUT, None, None),
    "    exit_status = -10": (S.OUT_OF_MEMORY, None, None),
    "    exit_status = 271\n    resources_used.walltime = 00:10:09": (S.TIMED_OUT, None, 15),
    "    exit_status = 271\n    resources_used.walltime = 00:00:09": (S.FAILED, None, 15),
    "": (S.CANCELLED, None, None),
}


@pytest.mark.parametrize("more", TORQUE)
def test_torque(more: str) -> None:
    status = BATCH_SYSTEMS["torque"].parse_status(PBS.format(state="C", more=more))["12.pbs"]
    assert (status.state, status.exit_code, status.signal) == TORQUE[more]


LSF = {
    ("EXIT", "140", "TERM_RUNLIMIT: job killed after reaching LSF run time limit"): (S.TIMED_OUT, None, 12),
    ("EXIT", "137", "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit"): (S.OUT_OF_MEMORY, None, 9),
    ("EXIT", "130", "TERM_OWNER: job killed by owner"): (S.CANCELLED, None, 2),
    ("EXIT", "143", "TERM_PREEMPT: job killed after preemption"): (S.PREEMPTED, None, 15),
    ("EXIT", "3", ""): (S.FAILED, 3, None),
    ("DONE", "", ""): (S.DONE, 0, None),
    ("UNKWN", "", ""): (S.UNKNOWN, None, None),
    ("PSUSP", "", ""): (S.HELD, None, None),
}


@pytest.mark.parametrize("case", LSF, ids=" ".join)
def test_lsf(case: tuple[str, str, str]) -> None:
    record = f'{{"JOBID":"12","STAT":"{case[0]}","EXIT_CODE":"{case[1]}","EXIT_REASON":"{case[2]}"}}'
    status = BATCH_SYSTEMS["lsf"].parse_status(f'{{"COMMAND":"bjobs","JOBS":1,"RECORDS":[{record}]}}')["12"]
    assert (status.state, status.exit_code, status.signal) == LSF[case]


def test_flux_ids_are_decimal() -> None:
    flux = BATCH_SYSTEMS["flux"]
    assert flux.parse_submitted("ƒ2\n") == flux.parse_submitted("f2\n") == "1"
    assert flux.parse_submitted("a note\nƒ21\n") == "58"
    assert flux.parse_submitted("1234567890123\n") == "1234567890123"


FLUX = {
    "5|INACTIVE|COMPLETED|16|0|||n1||1.5|2.5|9": (S.DONE, 0, None),
    "5|INACTIVE|FAILED|16|3|||n1||1.5|2.5|9": (S.FAILED, 3, None),
    "5|INACTIVE|FAILED|16|-9|exec|killed|n1||1.5|2.5|9": (S.FAILED, None, 9),
    "5|INACTIVE|TIMEOUT|16|142|timeout|resource allocation expired|n1||1.5|2.5|9": (S.TIMED_OUT, None, 14),
    "5|INACTIVE|CANCELED|16|-128|cancel|a | b|||||9": (S.CANCELLED, None, None),
    "5|INACTIVE|FAILED|16|-9|node-failure|lost rank 3|n1||1.5|2.5|9": (S.NODE_FAILED, None, 9),
    "5|SCHED||0||||||||": (S.HELD, None, None),
}


@pytest.mark.parametrize("line", FLUX)
def test_flux(line: str) -> None:
    status = BATCH_SYSTEMS["flux"].parse_status(line + "\n")["5"]
    assert (status.state, status.exit_code, status.signal) == FLUX[line]


GRID = {
    "qw": S.QUEUED,
    "hqw": S.HELD,
    "Eqw": S.HELD,
    "r": S.RUNNING,
    "t": S.RUNNING,
    "Rr": S.RUNNING,
    "dr": S.ENDING,
    "Rqw": S.REQUEUED,
}


@pytest.mark.parametrize("letters", GRID)
def test_grid_engine(letters: str) -> None:
    xml = f"<job_info><job_list><JB_job_number>5</JB_job_number><state>{letters}</state></job_list></job_info>"
    assert BATCH_SYSTEMS["grid_engine"].parse_status(xml)["5"].state is GRID[letters]


@pytest.mark.parametrize(
    ("word", "state"),
    [("I", S.QUEUED), ("R", S.RUNNING), ("C", S.UNKNOWN), ("V", S.REQUEUED), ("X", S.CANCELLED), ("??", S.UNKNOWN)],
)
def test_loadleveler(word: str, state: JobState) -> None:
    assert BATCH_SYSTEMS["loadleveler"].parse_status(f"login.5.0!{word}!node1\n")["login.5.0"].state is state


@pytest.mark.parametrize("word", ["running", "killing", "user_hold", "dep_fail", "preempted", "new word"])
def test_cobalt(word: str) -> None:
    states = [S.RUNNING, S.ENDING, S.HELD, S.HELD, S.REQUEUED, S.UNKNOWN]
    expected = dict(zip(["running", "killing", "user_hold", "dep_fail", "preempted", "new word"], states, strict=True))
    said = f"JobID: 5\n    State : {word}\n    Location : nid[1-2]\n"
    assert BATCH_SYSTEMS["cobalt"].parse_status(said)["5"].state is expected[word]


@pytest.mark.parametrize("name", BATCH_SYSTEMS)
def test_output_that_cannot_be_read_is_an_error(name: str) -> None:
    system = BATCH_SYSTEMS[name]
    for read in (system.parse_submitted, system.parse_status):
        with pytest.raises(BatchError, match=f"{name}: there is no .* in what its command printed: 'welcome: to the"):
            read("welcome: to the machine\n")


REFUSALS = {
    (
        "slurm",
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
    ): "ACCOUNT",
    ("slurm", "sbatch: error: invalid partition specified: none"): "QUEUE",
    ("slurm", "sbatch: error: Batch job submission failed: Requested reservation is invalid"): "QUEUE",
    ("slurm", "sbatch: error: Batch job submission failed: Invalid qos specification"): "QUEUE",
    ("slurm", "sbatch: error: Memory specification can not be satisfied"): "LIMIT",
    ("slurm", "sbatch: error: Batch job submission failed: Requested node configuration is not available"): "LIMIT",
    (
        "slurm",
        "sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
    ): "LIMIT",
    ("slurm", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"): "UNREACHABLE",
    ("slurm", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"): "UNANSWERED",
    ("slurm", "slurm_load_jobs error: Invalid job id specified"): "UNKNOWN_JOB",
    ("slurm", "squeue: fatal: Unable to process configuration file"): "NO_SYSTEM",
    ("pbspro", "qsub: Unknown queue"): "QUEUE",
    ("pbspro", "qsub: Job violates queue and/or server resource limits"): "LIMIT",
    ("pbspro", "qstat: Unknown Job Id 12.pbs"): "UNKNOWN_JOB",
    ("pbspro", "qdel: Job has finished 12.pbs"): "UNKNOWN_JOB",
    ("pbspro", "qsub: Invalid account"): "ACCOUNT",
    ("torque", "qsub: submit error (Job exceeds queue resource limits MSG=cannot satisfy queue max walltime)"): "LIMIT",
    ("lsf", "Job <12> is not found"): "UNKNOWN_JOB",
    ("lsf", "none: No such queue. Job not submitted."): "QUEUE",
    ("lsf", "LSF is down. Please wait ..."): "UNREACHABLE",
    ("flux", "flux-batch: ERROR: [Errno 22] unsatisfiable request"): "LIMIT",
    ("grid_engine", 'denied: job "12" does not exist'): "UNKNOWN_JOB",
    ("cobalt", "something quite new"): "OTHER",
}


@pytest.mark.parametrize("case", REFUSALS, ids=" ".join)
def test_errors_are_of_a_kind(case: tuple[str, str]) -> None:
    assert classify(BATCH_SYSTEMS[case[0]].facts, 1, case[1]) is FailureKind[REFUSALS[case]]


@pytest.mark.parametrize("name", BATCH_SYSTEMS)
def test_no_command_is_no_system(name: str) -> None:
    assert classify(BATCH_SYSTEMS[name].facts, 127, "sh: 1: bsub: not found") is FailureKind.NO_SYSTEM
