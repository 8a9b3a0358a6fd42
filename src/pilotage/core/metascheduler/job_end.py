"""The batch system ends the job of a pilot with partitions.

Each partition's agent drains by itself, as that of a pilot without partitions does (see ``core.agent.job_end``): what ends well
has its outcome, which comes here; of the rest its log goes on to say that it runs. Here nothing begins any more: no task is
given to a partition, none is asked back, no node moves, and nothing is concluded from partitions whose agents go, nor from the
time. The log is not told of an end of the pilot, so that a later run of the job finds it as it was, or the client does.
"""

from __future__ import annotations

from pilotage.core.metascheduler.state import MetaschedulerState


class JobEnd:
    """Whether the job ends, and for how long its tasks may go on: for ``drain_s``, if the batch system lets them."""

    def __init__(self, state: MetaschedulerState, drain_s: float) -> None:
        self._state = state
        self._drain_s = drain_s
        self.reason = ""
        """What told of it; empty: it does not end."""
        self._until = 0.0

    @property
    def came(self) -> bool:
        """Whether the batch system is ending the job."""
        return bool(self.reason)

    @property
    def due(self) -> float | None:
        """When the time is over that tasks have (seconds since the epoch)."""
        return self._until if self.came else None

    def begin(self, now: float, reason: str, until: float | None = None) -> None:
        """The batch system ends the job; once more is as once. ``until``: it is over then, if that is known."""
        if not self.came:
            self.reason, self._until = reason, now + self._drain_s
            if until is not None:
                self._until = min(self._until, until)

    def is_left(self, now: float) -> bool:
        """Tell whether partitions are not waited for any longer, whatever they still do."""
        return self.came and (self._state.ending is not None or now >= self._until)
