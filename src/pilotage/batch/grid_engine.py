"""Grid Engine (Sun's, Son of, Open, Univa's). It has slots in parallel environments, whose names each site chooses itself.

``qstat -xml`` lists the user's jobs; ended ones are no longer there, so they are unknown at once. It tells states in letters,
of which a job may have several.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from pilotage.batch.job import JobSpec, JobState, JobStatus
from pilotage.batch.scripts import check_spec, local_time, parse_local_time, render_script
from pilotage.batch.system import FailureKind, SystemFacts, WithoutEstimate, last_job_id, unreadable
from pilotage.errors import InvalidPilot

_FAILURES = (
    (FailureKind.UNKNOWN_JOB, r"job \"?\S+\"? does not exist|following jobs do not exist|denied: job .* does not exist"),
    (FailureKind.UNREACHABLE, r"unable to (contact|send message to) qmaster|can't get connection|commlib error|can't connect"),
    (FailureKind.NO_SYSTEM, r"SGE_ROOT|cell directory"),
    (FailureKind.ACCOUNT, r"project|account|not allowed to submit|no access to"),
    (FailureKind.QUEUE, r"unknown queue|queue .*(does not exist|unknown)|cluster queue|parallel environment.*does not exist"),
    (FailureKind.QUEUE, r"requested parallel environment|advance reservation"),
    (FailureKind.LIMIT, r"unknown resource|no suitable queues|exceed|limit|quota|only allowed|not requestable"),
)


class GridEngine(WithoutEstimate):
    """See the module."""

    facts = SystemFacts(
        name="grid_engine",
        commands=("qsub", "qstat", "qdel"),
        summary="Grid Engine",
        lacks={
            "qos": "a queue stands for it",
            "filesystems": "name what the site uses for them in constraints",
            "signal_before_end": "leave it out: the agent knows the end of its job",
        },
        dependencies=("afterany",),
        options={
            "parallel_environment": "the name of the site's parallel environment (qconf -spl), needed for more than one slot",
            "gpu_resource": "what a GPU is called there; gpu unless told",
            "memory_resource": "what the memory of a slot is called there; h_vmem unless told",
            "exclusive_resource": "what a node of one's own is called there; exclusive unless told",
        },
        failures=_FAILURES,
        keeps_ended=False,
        asks_cores=True,
    )

    def script(self, spec: JobSpec) -> str:
        """Return the script of a job. Resources are of each slot, so those of nodes are divided."""
        check_spec(self.facts, spec)
        per_node = max(spec.cores_per_node, 1)
        environment = spec.options.get("parallel_environment", "")
        if spec.nodes * per_node > 1 and not environment:
            raise InvalidPilot(
                f"grid_engine: {spec.nodes * per_node} slots, and no parallel environment; "
                "give options={'parallel_environment': ...}, one of those that qconf -spl lists"
            )
        if spec.gpus_per_node % per_node and per_node > 1:
            raise InvalidPilot(
                f"grid_engine: gpus_per_node={spec.gpus_per_node} are not a whole number for each of {per_node} slots, which "
                "is how Grid Engine counts; give what the site asks for in extra_options"
            )
        resources = [
            f"h_rt={spec.walltime_s}",
            f"{spec.options.get('gpu_resource', 'gpu')}={spec.gpus_per_node // per_node}" if spec.gpus_per_node else "",
            f"{spec.options.get('memory_resource', 'h_vmem')}={spec.memory_mib_per_node // per_node}M"
            if spec.memory_mib_per_node
            else "",
            f"{spec.options.get('exclusive_resource', 'exclusive')}=true" if spec.exclusive else "",
            *(each if "=" in each else f"{each}=true" for each in spec.constraints),
            *(each if "=" in each else f"{each}=1" for each in spec.licenses),
        ]
        options = [
            f"-N {spec.name}",
            "-S /bin/sh",
            f"-pe {environment} {spec.nodes * per_node}" if environment else "",
            f"-l {','.join(filter(None, resources))}",
            f"-q {spec.queue}" if spec.queue else "",
            f"-P {spec.project}" if spec.project else "",
            f"-ar {spec.reservation}" if spec.reservation else "",
            f"-a {local_time('%Y%m%d%H%M.%S', spec.begin_s)}" if spec.begin_s is not None else "",
            f"-hold_jid {','.join(each.job for each in spec.dependencies)}" if spec.dependencies else "",
            f"-M {spec.mail_to} -m abe" if spec.mail_to else "",
            f"-o {spec.output}" if spec.output else "",
            f"-e {spec.error}" if spec.error else "-j y",
            f"-r {'y' if spec.requeue else 'n'}",
            "-h" if spec.hold else "",
            "-V" if spec.environment == "all" else "",
        ]
        return render_script(spec, "#$", filter(None, options))

    def submit_command(self, path: str) -> list[str]:
        """Return the command that submits a script."""
        return ["qsub", "-terse", path]

    def parse_submitted(self, output: str) -> str:
        """Return the job's id."""
        return last_job_id(self.facts.name, output, r"\d+")

    def status_command(self, jobs: Sequence[str]) -> list[str]:
        """Return the command that tells of the user's jobs: it cannot be asked for some."""
        return ["qstat", "-xml"]

    def parse_status(self, output: str) -> dict[str, JobStatus]:
        """Return what that command printed."""
        return {values["JB_job_number"]: _status(values) for values in _listed(self.facts.name, output)}

    def find_command(self, name: str) -> list[str]:
        """Return the command that lists all of the user's jobs."""
        return ["qstat", "-xml"]

    def parse_found(self, output: str, name: str) -> list[str]:
        """Return their ids."""
        listed = _listed(self.facts.name, output)
        return [values["JB_job_number"] for values in listed if values.get("JB_name") == name]

    def cancel_command(self, job: str) -> list[str]:
        """Return the command that cancels a job."""
        return ["qdel", job]


def _listed(system: str, output: str) -> list[dict[str, str]]:
    """Return what is told of each job in a list."""
    try:
        tree = ElementTree.fromstring(output.strip())
    except ElementTree.ParseError:
        raise unreadable(system, "list of jobs", output) from None
    listed = [{child.tag: (child.text or "").strip() for child in element} for element in tree.iter("job_list")]
    if any(not values.get("JB_job_number") or "state" not in values for values in listed):
        raise unreadable(system, "job", output)
    return listed


def _status(values: dict[str, str]) -> JobStatus:
    letters = values["state"]
    if "d" in letters:
        state, reason = JobState.ENDING, "it is being deleted"
    elif "E" in letters:
        state, reason = JobState.HELD, f"{letters}: an error kept it from starting; qstat -j tells which"
    elif "h" in letters:
        state, reason = JobState.HELD, letters
    elif "w" in letters:
        state, reason = (JobState.REQUEUED, letters) if "R" in letters else (JobState.QUEUED, "")
    elif "r" in letters or "t" in letters:
        state, reason = JobState.RUNNING, ""
    elif set(letters) & set("sSTN"):
        state, reason = JobState.RUNNING, f"suspended: {letters}"
    else:
        state, reason = JobState.UNKNOWN, letters
    started = parse_local_time(values.get("JAT_start_time", ""), "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f")
    return JobStatus(state, reason, nodes=values.get("queue_name", "").partition("@")[2], started_s=started)


GRID_ENGINE = GridEngine()
