"""The staging of a task: its directives, one after the other."""

from __future__ import annotations

from collections.abc import Callable

from pilotage.errors import StagingFailed
from pilotage.model.staging import Directive, StagingAction, StagingFlag
from pilotage.staging.actions import Step, Tools, Work
from pilotage.staging.failures import SourceMissing, Unstageable
from pilotage.staging.files import Files
from pilotage.staging.notes import MoveNotes
from pilotage.staging.urls import BadUrl


class Stager:
    """Stages for one pilot; any number of threads may share one.

    ``owner`` and ``heir_of`` mark temporary names, see ``files``. ``stopped`` is asked between pieces of work. Without
    ``notes`` a move that was interrupted by the death of its process is not known to have been made.
    """

    def __init__(
        self,
        owner: str,
        stopped: Callable[[], bool] = lambda: False,
        notes: MoveNotes | None = None,
        heir_of: str = "",
    ) -> None:
        self._tools = Tools(Files(owner, stopped, heir_of), stopped, notes)

    def stage(self, work: Work) -> None:
        """Carry out all directives of ``work``, those of higher priority first; doing it again gives the same end.

        Raises:
            StagingFailed: names the directive, the value and the remedy.
            Stopped: it was told to stop; what was begun is to be done again.
        """
        notes = self._tools.notes
        # Only a task that moves something can find that it did so before.
        moving = notes is not None and any(directive.action is StagingAction.MOVE for directive in work.directives)
        moves = notes.of(work.errand) if notes is not None and moving else ()
        failures: list[str] = []
        for index, directive in enumerate(sorted(work.directives, key=lambda directive: -directive.priority)):
            try:
                Step(self._tools, work, index, directive, moves).run()
            except (Unstageable, BadUrl) as problem:
                if isinstance(problem, SourceMissing) and directive.flags & StagingFlag.NON_FATAL:
                    continue
                failures.append(f"{_described(work.errand[1], directive)}: {problem}")
                if not work.go_on:
                    break
        if failures:
            more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
            raise StagingFailed(failures[0] + more)


def _described(phase: str, directive: Directive) -> str:
    return f"{phase} staging {directive.source!r} > {directive.target!r} ({directive.action.name})"
