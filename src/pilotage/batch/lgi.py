"""LGI, the Leiden Grid Infrastructure. A project's server gives jobs to resources, which run what they are given as input.

A job names an *application*, by which the server finds resources that have it; here one that runs its input as a shell script.
The site's own resource daemon asks its batch system for nodes, so nothing of that can be said here but walltime, by the agent
itself. Answers are XML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from pilotage.batch.job import JobSpec, JobState, JobStatus
from pilotage.batch.scripts import check_spec, render_script
from pilotage.batch.system import BatchError, FailureKind, SystemFacts, WithoutEstimate, classify, unreadable
from pilotage.errors import InvalidPilot

_STATES = {
    "queued": JobState.QUEUED,
    "scheduled": JobState.QUEUED,
    "running": JobState.RUNNING,
    "aborting": JobState.ENDING,
    # How its script ended is not told.
    "finished": JobState.UNKNOWN,
    "aborted": JobState.CANCELLED,
}
_APPLICATION = "shell"
_MARK = "# application:"

_DECIDED_ELSEWHERE = (
    *("cores_per_node", "gpus_per_node", "memory_mib_per_node", "project", "qos", "constraints", "reservation"),
    *("licenses", "filesystems", "exclusive", "begin_s", "dependencies", "mail_to", "extra_options", "output"),
    *("error", "signal_before_end", "requeue", "hold"),
)

_FAILURES = (
    (FailureKind.UNKNOWN_JOB, r"job.*(not found|does not exist|unknown)|no such job|non-existing job"),
    (FailureKind.UNREACHABLE, r"could(n't| not) (connect|post|resolve)|no response|server.*(busy|down)"),
    (FailureKind.ACCOUNT, r"certificate|not (allowed|permitted)|user .*(denied|unknown)|project"),
    (FailureKind.QUEUE, r"application|target resource|resource"),
    (FailureKind.LIMIT, r"limit|quota|too (many|large)"),
)


class Lgi(WithoutEstimate):
    """See the module."""

    facts = SystemFacts(
        name="lgi",
        commands=("LGI_qsub", "LGI_qstat", "LGI_qdel"),
        summary="Leiden Grid Infrastructure",
        lacks=dict.fromkeys(_DECIDED_ELSEWHERE, "leave it out: the resource's own batch system decides"),
        dependencies=(),
        options={"application": "the project's application that runs its input as a shell script; shell unless told"},
        failures=_FAILURES,
    )

    def script(self, spec: JobSpec) -> str:
        """Return the script of a job. ``queue``: the resource that is to run it; ``environment`` means nothing."""
        check_spec(self.facts, spec)
        if spec.nodes != 1:
            raise InvalidPilot(f"lgi: nodes={spec.nodes}: the resource's own batch system decides; leave it at 1")
        target = f" target: {spec.queue}" if spec.queue else ""
        return render_script(spec, _MARK, [spec.options.get("application", _APPLICATION) + target])

    def submit_command(self, path: str) -> list[str]:
        """Return the command that submits a script; application and target are read from its second line."""
        words = (
            f'a=$(sed -n "2s/^{_MARK} \\([^ ]*\\).*/\\1/p" "$1"); t=$(sed -n "2s/.* target: //p" "$1"); '
            'exec LGI_qsub -x -a "$a" ${t:+-t "$t"} -i "$1"'
        )
        return ["sh", "-c", words, "sh", path]

    def parse_submitted(self, output: str) -> str:
        """Return the job's id."""
        found = re.search(r"<job_id>\s*(\d+)\s*</job_id>", output)
        if not found:
            raise _refused(self.facts, output) or unreadable(self.facts.name, "job id", output)
        return found[1]

    def status_command(self, jobs: Sequence[str]) -> list[str]:
        """Return the command that tells of jobs, one after the other: the server is asked for one at a time."""
        return ["sh", "-c", 'for job; do LGI_qstat -x "$job" || exit; done', "sh", *jobs]

    def parse_status(self, output: str) -> dict[str, JobStatus]:
        """Return what that command printed: a document for each job."""
        told = {}
        for document in re.findall(r"<LGI\b.*?</LGI>", output, re.DOTALL):
            try:
                tree = ElementTree.fromstring(document)
            except ElementTree.ParseError:
                raise unreadable(self.facts.name, "job", document) from None
            for job in tree.iter("job"):
                number, word = (job.findtext("job_id") or "").strip(), (job.findtext("state") or "").strip()
                if not number or not word:
                    raise unreadable(self.facts.name, "state of a job", document)
                state = _STATES.get(word, JobState.UNKNOWN)
                reason = word if state is JobState.UNKNOWN else ""
                told[number] = JobStatus(state, reason, nodes=(job.findtext("target_resources") or "").strip())
            refused = _refused(self.facts, document)
            if refused and refused.kind is not FailureKind.UNKNOWN_JOB:
                raise refused
        if output.strip() and "<LGI" not in output:
            raise unreadable(self.facts.name, "job", output)
        return told

    def find_command(self, name: str) -> list[str]:
        """Return nothing: its jobs have no names."""
        return []

    def parse_found(self, output: str, name: str) -> list[str]:
        """Return nothing."""
        return []

    def cancel_command(self, job: str) -> list[str]:
        """Return the command that cancels a job."""
        return ["LGI_qdel", "-x", job]


def _refused(facts: SystemFacts, document: str) -> BatchError | None:
    """Return what an answer refuses; the commands end well nonetheless."""
    if "<error>" not in document:
        return None
    message = re.search(r"<message>(.*?)</message>", document, re.DOTALL)
    text = message[1].strip() if message else document.strip()[:300]
    kind = classify(facts, 1, text)
    return BatchError(f"lgi: {text}", kind, transient=kind is FailureKind.UNREACHABLE)


LGI = Lgi()
