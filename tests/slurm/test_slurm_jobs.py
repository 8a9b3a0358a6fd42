"""Jobs on a real Slurm as batch adapters will meet them: what is handed out, what is told of them, and how they end."""

from __future__ import annotations

from slurm_cluster import SlurmCluster


def test_a_job_gets_whole_nodes_and_starts_steps_on_them(slurm: SlurmCluster) -> None:
    job = slurm.submit("--nodes=2", "--wrap=echo $SLURM_JOB_CPUS_PER_NODE; srun --label sh -c 'echo $SLURMD_NODENAME'; exit 3")
    told = slurm.wait_for_job(job, "FAILED", "COMPLETED")

    assert (told["JobState"], told["ExitCode"]) == ("FAILED", "3:0")
    cores, *ranks = slurm.job_output(job).split("\n", 1)
    first, second = sorted(ranks[0].split("\n")[:2])
    assert cores == "8(x2)"
    assert first.startswith("0: node") and second.startswith("1: node")
    assert first[3:] != second[3:]


def test_a_job_that_does_not_fit_waits_and_tells_why(slurm: SlurmCluster) -> None:
    # A shell that waits for it could end by the signal, or by the code that says so.
    holding = slurm.submit("--nodes=4", "--wrap=exec sleep 600")
    slurm.wait_for_job(holding, "RUNNING")
    waiting = slurm.submit("--nodes=1", "--wrap=true")
    slurm.wait_until(lambda: slurm.job(waiting)["Reason"] == "Resources", "the job waits for resources")
    assert slurm.jobs() == {holding: "RUNNING", waiting: "PENDING"}

    slurm.output("scancel", holding)

    assert slurm.wait_for_job(holding, "CANCELLED")["ExitCode"] == "0:15"
    slurm.wait_for_job(waiting, "COMPLETED")


def test_memory_is_handed_out_like_cores(slurm: SlurmCluster) -> None:
    half = ("--partition=shared", "--nodelist=node2", "--ntasks=1", "--mem=8000M")
    jobs = [slurm.submit(*half, "--wrap=sleep 600") for _ in range(3)]
    for job in jobs[:2]:
        assert slurm.wait_for_job(job, "RUNNING")["NodeList"] == "node2"
    slurm.wait_until(lambda: slurm.job(jobs[2])["Reason"] in ("Resources", "Priority"), "the third has no memory")

    slurm.output("scancel", jobs[0])

    slurm.wait_for_job(jobs[2], "RUNNING")


def test_a_job_that_can_never_start_is_refused_or_tells_so(slurm: SlurmCluster) -> None:
    refused = slurm.run("sbatch", "--mem=16001M", "--wrap=true")
    assert refused.returncode == 1
    assert "Memory specification can not be satisfied" in refused.stderr

    job = slurm.submit("--nodes=5", "--wrap=true")
    slurm.wait_until(lambda: slurm.job(job)["Reason"] == "PartitionNodeLimit", "the job is seen to be too large")


def test_a_preempted_job_gets_term_and_is_queued_again(slurm: SlurmCluster) -> None:
    script = "trap 'echo warned; exit 0' TERM; echo attempt $SLURM_RESTART_COUNT; while :; do sleep 0.1; done"
    spare = slurm.submit("--partition=spare", "--nodes=4", "--ntasks-per-node=8", "--open-mode=append", f"--wrap={script}")
    slurm.wait_until(lambda: "attempt" in slurm.job_output(spare), "the spare job runs")

    urgent = slurm.submit("--nodes=4", "--wrap=true")

    slurm.wait_for_job(urgent, "COMPLETED")
    slurm.wait_until(lambda: "attempt 1" in slurm.job_output(spare), "the spare job runs again")
    assert slurm.job(spare)["Restarts"] == "1"
    printed = [line for line in slurm.job_output(spare).splitlines() if line.startswith(("attempt", "warned"))]
    assert printed == ["attempt", "warned", "attempt 1"]
