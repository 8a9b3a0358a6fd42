"""Whether a job has lost the node on which its first process ran: that of the pilot's agent.

A job of several nodes goes on without a node that fails, as what ran there is for its agent to see to. Where that is the
agent's own node, the batch system does not say so: Slurm tells of a job that FAILED, as the script was killed, or of one that
is RUNNING until its time is over, if the node's daemon died with the node. What it does tell is the nodes that are left to the
job, and where its script was begun.

On machines whose scripts run on nodes of their own that one is never among a job's. So the node counts as lost only where it
was among them before, or where the job has fewer nodes than its pilot had.
"""

from __future__ import annotations

from msgspec.structs import replace

from pilotage.batch.job import JobState, JobStatus
from pilotage.client.job_words import details_of
from pilotage.platforms.allocations.host_lists import expand_hosts

_SAID_OF_LOST = (JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT)
"""Ends of jobs that have no first process any more; it is we, too, who cancel them."""


def has_first_node(status: JobStatus) -> bool | None:
    """Return whether the node on which a job's first process was begun is the job's; None: that is not told.

    >>> has_first_node(JobStatus(JobState.RUNNING, nodes="node[2-4]", first_node="node1"))
    False
    """
    nodes = _expanded(status.nodes)
    return status.first_node in nodes if status.first_node and nodes else None


def has_lost_first_node(status: JobStatus, *, had: bool, nodes: int) -> bool:
    """Return whether a job has lost that node.

    ``had``: it was the job's before. ``nodes``: how many the pilot had; 0: that is not known.
    """
    if has_first_node(status) is not False:
        return False
    return had or len(_expanded(status.nodes)) < nodes


def has_ended_before(status: JobStatus) -> bool:
    """Return whether the first process of such a job has ended before its node was gone: somebody there has told how."""
    return status.state is JobState.FAILED and (status.exit_code is not None or status.signal is not None)


def with_lost_node(status: JobStatus) -> JobStatus:
    """Return what is to be told of a job that has lost its first node, given what its batch system tells."""
    if status.state not in _SAID_OF_LOST:
        return status
    details = details_of(status)
    said = f"{status.state.value}: {details}" if details else status.state.value
    reason = f"{status.first_node}, where its agent was; the batch system calls it {said}"
    return replace(status, state=JobState.NODE_FAILED, reason=reason, exit_code=None, signal=None)


def _expanded(nodes: str) -> list[str]:
    try:
        return expand_hosts(nodes)
    except ValueError:
        # Too long for the batch system's columns: nothing is concluded.
        return []
