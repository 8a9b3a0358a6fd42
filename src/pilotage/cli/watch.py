"""``pilotage watch``: how far a session is, on a terminal as a display that goes on, in a pipe as lines.

It follows the client's log from record to record, so that watching a million tasks costs what happened since the last look.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from pilotage.cli.progress import Interrupts
from pilotage.cli.renderers import is_terminal, note, plural, span
from pilotage.core.client import facts
from pilotage.core.client.applying import apply
from pilotage.core.client.state import ClientState, TaskRecord
from pilotage.errors import BackendError
from pilotage.model.states import AGENT_EXECUTING, CANCELED, DONE, FAILED, FINAL

if TYPE_CHECKING:
    from rich.console import RenderableType

PAUSE_S = 0.5
LINE_PAUSE_S = 2.0
RATE_WINDOW_S = 10.0
LOOKING_SHARE = 0.05
"""The share of the time that may be spent looking at tasks."""
RUNNING_SHOWN = 8
FAILURES_SHOWN = 5


class LiveState:
    """The state of a session that another process writes; ``refresh`` brings it up to date."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._decode = msgspec.msgpack.Decoder(list[facts.Fact]).decode
        self._begin()

    def _begin(self) -> None:
        from pilotage.client.recovery import recover_state_and_last
        from pilotage.log.reader import Cursor

        self.state, last = recover_state_and_last(self._folder)
        self._cursor = Cursor(self._folder, after=last)

    def refresh(self) -> bool:
        """Take in what was written since the last call; tell whether there was anything."""
        news = False
        try:
            while records := self._cursor.read():
                news = True
                for _, record in records:
                    self._take(record)
        except BackendError as error:
            if not error.transient:
                raise
            # A snapshot took the place of records that were not read yet.
            self._cursor.close()
            self._begin()
            news = True
        return news

    def close(self) -> None:
        """Release the log's file."""
        self._cursor.close()

    def _take(self, record: bytes) -> None:
        for fact in self._decode(record):
            apply(self.state, fact)


class View:
    """What is shown of a session: counts, rate, what runs longest, what failed last."""

    def __init__(self, state: ClientState) -> None:
        self._passes: deque[tuple[float, int]] = deque()
        self.look(state)

    def look(self, state: ClientState) -> None:
        """Count anew."""
        began = time.monotonic()
        counts: dict[str, int] = {}
        self.running: list[TaskRecord] = []
        self.failed: list[TaskRecord] = []
        for record in state.tasks.values():
            counts[record.state] = counts.get(record.state, 0) + 1
            if record.state == AGENT_EXECUTING:
                self.running.append(record)
            elif record.state == FAILED:
                self.failed.append(record)
        self.total = len(state.tasks)
        self.done, self.canceled = counts.get(DONE, 0), counts.get(CANCELED, 0)
        self.held = len(state.held)
        self.unbound = sum(len(manager.waiting) for manager in state.managers.values())
        self.final = sum(counts.get(name, 0) for name in FINAL)
        self.pilots = list(state.pilots.values())
        now = time.monotonic()
        self.cost_s = now - began
        self._passes.append((now, self.final))
        while len(self._passes) > 2 and now - self._passes[0][0] > RATE_WINDOW_S:
            self._passes.popleft()

    @property
    def rate(self) -> float:
        """Tasks that ended per second, of late."""
        (first, before), (last, after) = self._passes[0], self._passes[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def line(self) -> str:
        """Return it in one line."""
        parts = [f"{self.final:,} of {plural(self.total, 'task')} ended"]
        for count, word in (
            (self.done, "done"),
            (len(self.failed), "failed"),
            (self.canceled, "canceled"),
            (len(self.running), "running"),
            (self.held, "waiting for others"),
            (self.unbound, "waiting for a pilot"),
        ):
            if count:
                parts.append(f"{count:,} {word}")
        if self.rate and self.final < self.total:
            parts.append(f"{self.rate:,.1f}/s, {span((self.total - self.final) / self.rate)} left")
        return ", ".join(parts)

    def render(self, name: str) -> RenderableType:
        """Return it for a terminal."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        from pilotage.client.job_words import reason_of

        lines: list[Any] = [Text(f"session {name}", style="bold"), Text(self.line())]
        lines.append(ProgressBar(total=max(self.total, 1), completed=self.final, width=60))
        for pilot in self.pilots:
            lines.append(Text(f"{pilot.uid}  {pilot.state}  {plural(pilot.cores, 'core')}, {plural(pilot.load, 'task')} on it"))
            if reason := reason_of(pilot):
                lines.append(
                    Text(f"  {reason}", style="cyan" if pilot.state not in FINAL else "", overflow="ellipsis", no_wrap=True)
                )
        for record in self.running[:RUNNING_SHOWN]:
            lines.append(Text(f"  runs    {record.row.uid}  {record.row.name}", style="cyan"))
        if len(self.running) > RUNNING_SHOWN:
            lines.append(Text(f"          and {len(self.running) - RUNNING_SHOWN:,} more", style="cyan"))
        for record in self.failed[-FAILURES_SHOWN:]:
            reason = record.outcome.message if record.outcome is not None else ""
            lines.append(Text(f"  failed  {record.row.uid}  {reason}", style="red", overflow="ellipsis", no_wrap=True))
        return Group(*lines)


def watch(
    uid: Annotated[str, typer.Argument(metavar="SESSION", help="The session, or how its uid begins or ends.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Show it once, and go.")] = False,
) -> int:
    """Watch a session until all its tasks have ended; Ctrl-C stops watching and nothing else."""
    from pilotage.cli.lookup import find_session, session_state
    from pilotage.client.session_folder import CLIENT_FOLDER

    folder = find_session(uid)
    if once:
        live = LiveState(folder / CLIENT_FOLDER)
        live.close()
        print(View(live.state).line())
        return 0
    view, _ = look_on(folder)
    if view.final < view.total and session_state(folder) != "open":
        note(f"nobody runs session {folder.name} any more; go on with it: pilotage session resume {folder.name}")
    return 0


def look_on(folder: Path) -> tuple[View, int]:
    """Show a session until all its tasks have ended or nobody runs it any more.

    Return the last view, and the number of the signal that ended the watch before; 0: none.
    """
    from pilotage.client.session_folder import CLIENT_FOLDER

    live = LiveState(folder / CLIENT_FOLDER)
    view = View(live.state)
    try:
        with Interrupts() as interrupts:
            if is_terminal(sys.stdout):
                _watch_on_terminal(folder, live, view, interrupts)
            else:
                _watch_in_lines(folder, live, view, interrupts)
    finally:
        live.close()
    return view, interrupts.number


def _look_again(folder: Path, live: LiveState, view: View) -> bool:
    """Bring the view up to date; return True if there is nothing more to see: all has ended, or nobody writes the log."""
    from pilotage.cli.lookup import session_state

    # Asked before the look, so that what was written last is seen.
    closed = session_state(folder) != "open"
    live.refresh()
    view.look(live.state)
    return closed or (view.total > 0 and view.final == view.total)


def _watch_on_terminal(folder: Path, live: LiveState, view: View, interrupts: Interrupts) -> None:
    from rich.live import Live

    with Live(view.render(folder.name), auto_refresh=False) as display:
        while not interrupts.count:
            over = _look_again(folder, live, view)
            display.update(view.render(folder.name), refresh=True)
            if over:
                return
            interrupts.wait(max(PAUSE_S, view.cost_s / LOOKING_SHARE))


def _watch_in_lines(folder: Path, live: LiveState, view: View, interrupts: Interrupts) -> None:
    said = ""
    while not interrupts.count:
        over = _look_again(folder, live, view)
        if (line := view.line()) != said:
            print(line, flush=True)
            said = line
        if over:
            return
        interrupts.wait(max(LINE_PAUSE_S, view.cost_s / LOOKING_SHARE))
