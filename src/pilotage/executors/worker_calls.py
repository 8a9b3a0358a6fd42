"""The calls that a function worker holds, by their numbers, as ``workers.progress`` counts them.

The worker shows in shared memory which call it has come to. That is how the agent takes back calls that have not begun while
the worker is deep in a long one, and how it knows after the worker's death which of them never began.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pilotage.model.execution import Execution
from pilotage.model.ids import RunnerId
from pilotage.workers.progress import ProgressReader


class WorkerCalls:
    """The calls of one worker since its last hello; ``holds`` are those that it named there."""

    def __init__(self, folder: Path, worker: RunnerId, holds: Iterable[Execution]) -> None:
        self._progress = ProgressReader(folder, worker)
        self._numbers: dict[Execution, int] = {}
        self._last = 0
        self._asked = 0
        """Number of the last call that was launched when calls were last asked back: later ones will begin."""
        self._seen = 0
        self._told = False
        self.launched(holds)

    def launched(self, executions: Iterable[Execution]) -> None:
        """Number calls in the order in which they are sent."""
        for execution in executions:
            self._last += 1
            self._numbers[execution] = self._last

    def over(self, executions: Iterable[Execution]) -> None:
        """These have ended, or were returned."""
        for execution in executions:
            self._numbers.pop(execution, None)

    def __len__(self) -> int:
        return len(self._numbers)

    def ask_back(self, executions: Iterable[Execution]) -> bool:
        """Keep the worker from beginning these and all later calls launched so far; ``taken_back`` a millisecond later tells
        which."""
        numbers = [self._numbers[execution] for execution in executions if execution in self._numbers]
        if not numbers:
            return False
        self._asked = self._last
        self._progress.ask(min(numbers), self._last)
        return True

    def taken_back(self) -> list[Execution]:
        """Return the calls that have not begun and never will, and forget them."""
        first = self._progress.recalled()
        if first is None:
            return []
        back = [execution for execution, number in self._numbers.items() if first <= number <= self._asked]
        self.over(back)
        return back

    def running(self) -> Execution | None:
        """Return the call that the worker has come to, if its end was not told yet."""
        current = self._progress.current
        return next((execution for execution, number in self._numbers.items() if number == current), None)

    def long_running(self) -> Execution | None:
        """Return the running call if it was so at the last look too, and that was not told before."""
        current = self._progress.current or 0
        seen, self._seen = self._seen, current
        if current != seen:
            self._told = False
            return None
        if self._told:
            return None
        self._told = True
        return self.running()

    def not_begun(self) -> list[Execution]:
        """Return the calls that a dead worker never began."""
        current = self._progress.current
        if current is None:
            return []
        return [execution for execution, number in self._numbers.items() if number > current]

    def close(self) -> None:
        """Let go of the shared memory."""
        self._progress.close()
