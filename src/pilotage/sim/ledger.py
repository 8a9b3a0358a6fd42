"""What the resources of the tasks of a pilot or partition were held for, written down when they are released."""

from __future__ import annotations

from pilotage.sim.jobs import Job
from pilotage.sim.result import Curves, ResourceTime


class Ledger:
    """The books of a pilot or partition: seconds of cores and of GPUs."""

    def __init__(self, curves: Curves) -> None:
        self.core_s = ResourceTime()
        self.gpu_s = ResourceTime()
        self._curves = curves

    def account_together(self, jobs: list[Job], now: float) -> None:
        """Write down what the resources of tasks were held for that ran from their placement on."""
        cores, cores_ended, core_ran, gpus, gpus_ended, gpu_ran, ended_sum = 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for job in jobs:
            ended, used = job.ended, job.cores
            ran = ended - job.begun
            ended_sum += ended
            cores += used
            cores_ended += used * ended
            core_ran += used * ran
            if job.gpus:
                gpus += job.gpus
                gpus_ended += job.gpus * ended
                gpu_ran += job.gpus * ran
            if job.gone < now:
                self.core_s.acknowledging -= used * (now - job.gone)
                self.gpu_s.acknowledging -= job.gpus * (now - job.gone)
        self.core_s.running += core_ran
        self.core_s.acknowledging += cores * now - cores_ended
        self.gpu_s.running += gpu_ran
        self.gpu_s.acknowledging += gpus * now - gpus_ended
        self._curves.end_many(len(jobs), ended_sum, cores, cores_ended, gpus, gpus_ended)

    def account(self, job: Job, now: float) -> None:
        """Write down what its resources were held for."""
        released = min(now, job.gone)
        begun = min(job.begun, job.ended, released)
        ended = min(job.ended, released)
        core_s, gpu_s, cores, gpus = self.core_s, self.gpu_s, job.cores, job.gpus
        core_s.running += cores * (ended - begun)
        core_s.acknowledging += cores * (released - ended)
        gpu_s.running += gpus * (ended - begun)
        gpu_s.acknowledging += gpus * (released - ended)
        scheduled, launched = min(job.scheduled, begun), min(job.launched, begun)
        for held_s, amount in ((core_s, cores), (gpu_s, gpus)):
            held_s.scheduling += amount * (scheduled - job.placed)
            held_s.waiting += amount * (launched - scheduled)
            held_s.preparing += amount * (begun - launched)
