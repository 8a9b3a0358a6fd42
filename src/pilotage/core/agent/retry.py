"""Which attempts are followed by another: ``retry_on`` in the words that users write, and the decision."""

from __future__ import annotations

from collections.abc import Iterable

from pilotage.model.outcome import Ending
from pilotage.model.workload import Template

ENDINGS = {
    "exit": Ending.EXITED,
    "signal": Ending.SIGNALLED,
    "timeout": Ending.TIMED_OUT,
    "memory": Ending.OUT_OF_MEMORY,
    "node": Ending.NODE_FAILED,
    "preempted": Ending.PREEMPTED,
    "launch": Ending.LAUNCH_FAILED,
    "staging": Ending.STAGING_FAILED,
    "exception": Ending.RAISED,
    "lost": Ending.LOST,
    "walltime": Ending.OUT_OF_WALLTIME,
}
"""The words of ``retry_on``, and the endings that they name. A number is an exit code; a negative one, a signal's number."""

SERVICE_RETRIES = 3
"""How often a service is started again if it does not say how often."""

_NO_FAULT_OF_ITS_OWN = (Ending.LOST, Ending.NODE_FAILED, Ending.PREEMPTED, Ending.OUT_OF_WALLTIME)
_WITH_EXIT_CODE = (Ending.EXITED, Ending.SIGNALLED)
_NOT_REPEATED = (Ending.DONE, Ending.INFEASIBLE, Ending.CANCELLED)


def is_named(retry_on: Iterable[str | int], ending: Ending, exit_code: int | None) -> bool:
    """Tell whether ``retry_on`` names this failure.

    >>> is_named(("node", 75), Ending.EXITED, 75), is_named(("node", 75), Ending.EXITED, 1)
    (True, False)
    """
    return any(
        ENDINGS[each] is ending if isinstance(each, str) else ending in _WITH_EXIT_CODE and exit_code == each
        for each in retry_on
    )


def is_excused(template: Template, ending: Ending) -> bool:
    """Tell whether an attempt that ended like this, for no fault of its own, uses up none of the task's retries."""
    return ending in _NO_FAULT_OF_ITS_OWN and (template.restartable or bool(template.restart))


def runs_again(template: Template, failures: int, ending: Ending, exit_code: int | None) -> bool:
    """Tell whether an attempt that ended like this is followed by another, after so many ``failures`` before it."""
    if is_excused(template, ending):
        return True
    retries, service = template.retries, template.service
    if service is not None:
        retries = 0 if service.restart == "never" else retries or SERVICE_RETRIES
        if ending is Ending.DONE:
            return service.restart == "always" and failures < retries
    if failures >= retries or ending in _NOT_REPEATED:
        return False
    return not template.retry_on or is_named(template.retry_on, ending, exit_code)
