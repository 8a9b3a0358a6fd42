"""Has a pilot followed by another when its session was handed over and nobody is there: a client for the pilot's last minutes.

It is started by the pilot's bootstrap, in the job, on its first node. Argument: the pilot's folder. It sleeps until shortly
before the pilot's time is over, so that the session is free until then. Then it goes on with the session, as ``pilotage wait``
does, and hears the pilot's goodbye, upon which the client's core decides on a follow-up. It has that one's job submitted, hands
over to it what is left, and ends. Whoever has the session open at that time does all of this instead.

A follow-up that is refused would be the end of the tasks that wait for it. So the batch system is asked first whether it takes
the pilot's own job once more from here. If it does not, the session is left alone, and the reason is kept in the pilot's folder
for ``pilotage status``.

Wherever this process dies, it is a client that died: what it had decided is in the log, and who comes to the session next finds
a job that was being submitted by its name, and goes on from there. A pilot whose job ends before its time has no last minutes:
its follow-up is submitted by who comes to the session.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pilotage.agent.settings import PilotSettings, read_settings
from pilotage.agent.startup import times_of
from pilotage.client.session_folder import HANDED_OVER_FILE
from pilotage.platforms.allocations.variables import client_in_job

if TYPE_CHECKING:
    from pilotage.client.session import Session

PROBLEM_FILE = "follow_up.problem"
"""In the pilot's folder: why no follow-up can be submitted from its job."""

LEAD_S = 120.0
"""How long before tasks begin no more the session is opened: a job's script may have lasted before the pilot began."""
LOOK_S = 1.0
SESSION_S = 30.0
"""For how long after the end of the agent the session is waited for, while somebody has it open."""
HEAR_S = 5.0
"""For how long after the end of the agent what it has said may be on its way."""
JUDGE_S = 10.0
"""For how long the end of a pilot that did not say goodbye is read from its log."""

AGENT_ENDED = signal.SIGUSR1
"""By this the bootstrap tells that the agent has ended the pilot; by TERM the batch system tells that the job is over."""


class _Bell:
    """Notes what this process is told by signals."""

    def __init__(self) -> None:
        self.agent_ended = False
        self._since_s: float | None = None
        for number in (AGENT_ENDED, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        self.agent_ended = self.agent_ended or number == AGENT_ENDED
        if self._since_s is None:
            self._since_s = time.monotonic()

    def rang(self, ago_s: float = 0.0) -> bool:
        """Tell whether this process was told of an end, so long ago at least."""
        return self._since_s is not None and time.monotonic() - self._since_s >= ago_s


def main() -> None:
    """Wait until the pilot's time is almost over, and see to its follow-up."""
    folder = Path(sys.argv[1])
    settings = read_settings(folder)
    # Before that it is ended by the signals that it heeds later, as nothing is left to do for it.
    _, end = times_of(settings)
    if end is None:
        return
    while (left_s := end - settings.drain_s - LEAD_S - time.time()) > 0:
        time.sleep(left_s)
    bell = _Bell()
    # A job may begin before its session was handed over, and that may be never.
    while not (Path(settings.session_folder) / HANDED_OVER_FILE).exists():
        if bell.rang():
            return
        time.sleep(LOOK_S)
    _become_client(settings)
    from pilotage.cli.main import prepare_messages
    from pilotage.cli.renderers import note
    from pilotage.errors import PilotageError
    from pilotage.log.files import replace_file

    prepare_messages()
    try:
        problem = refusal(settings) or _follow(settings, bell)
    except PilotageError as error:
        problem = str(error)
    if problem:
        note(problem)
        replace_file(folder / PROBLEM_FILE, [problem.encode()])


def problem_of(pilot_folder: Path) -> str:
    """Return why no follow-up of a pilot could be submitted from its job; empty: nothing is known to be in the way."""
    try:
        return (pilot_folder / PROBLEM_FILE).read_text()
    except FileNotFoundError:
        return ""


def refusal(settings: PilotSettings) -> str:
    """Return why the batch system would not take the pilot's job from here; empty: it would, or it does not tell."""
    from pilotage.batch.commands import BatchCommands
    from pilotage.batch.system import BatchError
    from pilotage.client.job_specs import JOB_SCRIPT

    commands = BatchCommands.here(settings.batch)
    command = commands.system.submit_command("")[0]
    if shutil.which(command) is None:
        return f"there is no {command} on this node"
    try:
        commands.estimate(os.path.join(settings.pilot_folder, JOB_SCRIPT))
    except BatchError as error:
        # What may be otherwise in a moment is tried again by the client.
        return "" if error.transient else " ".join(str(error).split())
    return ""


def _become_client(settings: PilotSettings) -> None:
    """Give this process the surroundings of the program that submitted the pilot, which its follow-up takes from here."""
    environment = client_in_job(settings.environment, os.environ)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(settings.working_folder)
    sys.path += [entry for entry in settings.python_path if entry not in sys.path]


def _follow(settings: PilotSettings, bell: _Bell) -> str:
    """Be the session's client until the pilot has ended and its follow-up has all that it needs; return what was in the way."""
    from pilotage.client.session import Session
    from pilotage.errors import SessionInUse

    folder = Path(settings.session_folder)
    while True:
        try:
            session = Session.resume(settings.session, folder.parent, trace=settings.keep_history)
            break
        except SessionInUse:
            if bell.rang(SESSION_S):
                return ""  # who has it sees to the follow-up
            time.sleep(LOOK_S)
    try:
        is_over = _await_end(session, settings, bell)
        session.hand_over()
    finally:
        # Whatever has happened: closing it otherwise would end its pilots.
        session.close(terminate=False)
    return "" if is_over else "the job ended before the pilot"


def _await_end(session: Session, settings: PilotSettings, bell: _Bell) -> bool:
    """Wait until the session knows how the pilot has ended. False: it has not, and its job is about to."""
    from pilotage.batch.job import JobState
    from pilotage.core.client import events
    from pilotage.model.states import FINAL

    pilot, over = session.state.pilots[settings.pilot], frozenset(FINAL)
    began_s = time.monotonic()
    while not session.wait([pilot], over, LOOK_S):
        if bell.rang(HEAR_S) and time.monotonic() - began_s >= HEAR_S:
            break
    if pilot.state not in FINAL and bell.agent_ended:
        # It did so while nobody was there who would have heard it. The batch system cannot tell yet that the job is over, as
        # this process is part of it; but all is in the agent's log.
        session.engine.tell(events.JobTold(time.time(), settings.pilot, JobState.DONE.value, over=True))
        session.wait([pilot], over, JUDGE_S)
    return pilot.state in FINAL
