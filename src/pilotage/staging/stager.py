"""The staging of a task: its directives, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pilotage.errors import StagingFailed
from pilotage.model.staging import Directive, StagingAction, StagingFlag
from pilotage.staging.actions import Step, Tools, Work
from pilotage.staging.failures import NoRoom, SourceMissing, Stopped, Unstageable, explained
from pilotage.staging.files import Files
from pilotage.staging.notes import Failure, Move, Notes
from pilotage.staging.shared import Busy, Delivery
from pilotage.staging.urls import BadUrl


class Stager:
    """Stages for one pilot; any number of threads may share one.

    ``owner`` and ``heir_of`` mark temporary names, see ``files``. ``stopped`` is asked between pieces of work, in the thread
    that does it. Without ``notes`` a move that was interrupted by the death of its process is not known to have been made.
    ``over`` is told what those wait for who were ``Busy``.
    """

    def __init__(
        self,
        owner: str,
        stopped: Callable[[], bool] = lambda: False,
        notes: Notes | None = None,
        heir_of: str = "",
        over: Callable[[Delivery[Any]], None] = lambda delivery: None,
    ) -> None:
        self._stopped = stopped
        self.files = Files(owner, stopped, heir_of)
        self._tools = Tools(self.files, stopped, notes, over)

    def stage(self, work: Work, begin_with: int = 0) -> None:
        """Carry out all directives of ``work``, those of higher priority first; doing it again gives the same end.

        ``begin_with``: how many were done when it was ``Busy``.

        Raises:
            StagingFailed: names the directive, the value and the remedy.
            Stopped: it was told to stop; what was begun is to be done again.
            Busy: something that tasks share is being brought for another one.
            NoRoom: on the work's ``ground``; what was begun is undone, and it is all to be done again when there is room.
        """
        notes = self._tools.notes
        # Only of a task that moves something anything is noted.
        if not any(directive.action is StagingAction.MOVE for directive in work.directives):
            notes = None
        noted = notes.of(work.errand) if notes is not None else ()
        moves = [note for note in noted if isinstance(note, Move)]
        first = max((move.index for move in moves), default=begin_with)
        failures = [note.message for note in noted if isinstance(note, Failure) and note.index < first]
        ordered = sorted(work.directives, key=lambda directive: -directive.priority)
        for index, directive in enumerate(ordered[first:], first):
            if self._stopped():
                raise Stopped
            try:
                Step(self._tools, work, index, directive, [move for move in moves if move.index == index]).run()
            except Busy as busy:
                busy.index = index
                raise
            except (Unstageable, BadUrl) as problem:
                if isinstance(problem, SourceMissing) and directive.flags & StagingFlag.NON_FATAL:
                    continue
                message = f"{_described(directive)}: {problem}"
                if isinstance(problem, NoRoom) and problem.is_below(work.ground):
                    # No directive after it is begun: who does it again takes those before the last move for done.
                    raise NoRoom(message, problem.path) from problem
                failures.append(message)
                if not work.go_on:
                    break
                if notes is not None:
                    _note(notes, Failure(work.errand, index, message), work.ground)
        if failures:
            more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
            raise StagingFailed(failures[0] + more)


def _note(notes: Notes, failure: Failure, ground: str) -> None:
    try:
        notes.add(failure)
    except OSError as error:
        problem = explained(error, failure.message, notes.path)
        if isinstance(problem, NoRoom) and problem.is_below(ground):
            raise problem from error
        raise StagingFailed(f"{failure.message}; {problem}") from error


def _described(directive: Directive) -> str:
    return f"{directive.source!r} > {directive.target!r} ({directive.action.name})"
