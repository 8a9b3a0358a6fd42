"""What a real Slurm does when parts of it fail: nodes set down, a ``slurmd`` killed, a controller that comes again."""

from __future__ import annotations

import signal

from slurm_cluster import OpenSlurm, SlurmCluster


def test_a_job_whose_node_is_set_down_is_queued_again_unless_it_says_no(open_slurm: OpenSlurm) -> None:
    slurm = open_slurm(nodes=2)
    again = slurm.submit("--nodelist=node1", "--requeue", "--wrap=sleep infinity")
    failed = slurm.submit("--nodelist=node2", "--no-requeue", "--wrap=sleep infinity")
    for job in (again, failed):
        slurm.wait_for_job(job, "RUNNING")

    slurm.set_node("node1", "down")
    slurm.set_node("node2", "down")

    assert slurm.wait_for_job(again, "PENDING")["Restarts"] == "1"
    slurm.wait_for_job(failed, "NODE_FAIL")
    assert slurm.node_states() == {"node1": "down", "node2": "down"}

    slurm.set_node("node1", "resume")
    slurm.wait_for_job(again, "RUNNING")


def test_a_job_that_may_lose_nodes_goes_on_with_the_others(open_slurm: OpenSlurm) -> None:
    slurm = open_slurm(nodes=2)
    job = slurm.submit("--nodes=2", "--no-kill", "--wrap=echo started; sleep infinity")
    slurm.wait_until(lambda: "started" in slurm.job_output(job), "the job runs")

    slurm.set_node("node2", "down")

    slurm.wait_until(lambda: slurm.job(job)["NodeList"] == "node1", "the node is the job's no more")
    assert slurm.job(job)["JobState"] == "RUNNING"


def test_a_job_goes_on_while_its_slurmd_and_the_controller_are_gone(open_slurm: OpenSlurm) -> None:
    slurm = open_slurm(nodes=1)
    proceed = slurm.folder / "proceed"
    job = slurm.submit(f"--wrap=echo started; until [ -e {proceed} ]; do sleep 0.05; done; echo ended")
    slurm.wait_until(lambda: "started" in slurm.job_output(job), "the job runs")

    slurm.kill("node1")
    slurm.kill("slurmctld", signal.SIGTERM)
    assert slurm.run("scontrol", "ping").returncode != 0
    proceed.touch()
    slurm.wait_until(lambda: "ended" in slurm.job_output(job), "the job has ended")
    slurm.start_controller()
    slurm.start_node("node1")

    assert slurm.wait_for_job(job, "COMPLETED")["ExitCode"] == "0:0"
    slurm.wait_for_nodes("idle", "node1")


def test_a_restarted_controller_knows_its_jobs(slurm: SlurmCluster) -> None:
    running = slurm.submit("--nodes=4", "--wrap=sleep infinity")
    slurm.wait_for_job(running, "RUNNING")
    waiting = slurm.submit("--wrap=true")

    slurm.restart_controller()

    assert slurm.jobs() == {running: "RUNNING", waiting: "PENDING"}
    slurm.output("scancel", running)
    slurm.wait_for_job(waiting, "COMPLETED")


def test_at_the_beginning_of_a_grace_steps_are_told_and_scripts_are_not_but_the_end_is_nearer(open_slurm: OpenSlurm) -> None:
    slurm = open_slurm(nodes=1, grace_s=600)
    step = "trap 'echo step told' TERM; echo step ready; while :; do sleep 0.05; done"
    script = f'trap "echo script told" TERM; srun --overlap sh -c "{step}" & while :; do sleep 0.05; done'
    job = slurm.submit("--partition=spare", "--ntasks=1", "--time=60", f"--wrap={script}")
    slurm.wait_until(lambda: "step ready" in slurm.job_output(job), "the step runs")
    end = slurm.job(job)["EndTime"]

    slurm.submit("--nodes=1", "--wrap=true")

    slurm.wait_until(lambda: "step told" in slurm.job_output(job), "the step is told")
    told = slurm.job(job)
    assert (told["JobState"], told["EndTime"] < end) == ("RUNNING", True), told
    assert "script told" not in slurm.job_output(job)
