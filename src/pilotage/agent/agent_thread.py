"""A partition's agent on a thread of its head's process: the same agent, with the same claim, log and socket.

What ends it is caught here, printed where a process would have printed it, and told to the head. The process ends it, too:
then the next head starts it again, and it recovers from its log and adopts what its runners hold.

A thread cannot be killed. One that hangs, and has to be gone, takes the process along.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from pathlib import Path

from pilotage.agent.claim import claim, release
from pilotage.agent.private_folder import private_folder, remove_private_folder
from pilotage.agent.running import run_agent
from pilotage.agent.settings import LOG_FOLDER, read_settings
from pilotage.agent.startup import EndCall, note_own_crash
from pilotage.agent.sub_agent import OUTPUT_FILE, AgentEnd

HANGS = 70
"""The exit status of a head on one of whose threads an agent hangs (``EX_SOFTWARE``)."""


class AgentThread:
    """An agent on a thread. See ``RunningAgent``."""

    outlives_head = False

    def __init__(self, folder: Path, incarnation: int) -> None:
        """Start an agent.

        Raises:
            OSError: no thread started.
        """
        self._folder = folder
        self._incarnation = incarnation
        # Closed by the thread, in place of a process that is gone; the head has the other ends.
        self.ready_fd, self._ready_writer = os.pipe2(os.O_CLOEXEC)
        self.ended_fd, self._ended_writer = os.pipe2(os.O_CLOEXEC)
        self._call = EndCall()
        self._end = AgentEnd("its agent ended")
        self._thread = threading.Thread(target=self._run, name=f"agent-{folder.name}.{incarnation}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._call.close()
            for descriptor in (self.ready_fd, self._ready_writer, self.ended_fd, self._ended_writer):
                os.close(descriptor)
            raise OSError(str(error)) from error

    def terminate(self) -> None:
        """Tell it to end."""
        self._call.end("the agent was told to end by its head")

    def kill(self) -> None:
        """End this process with all its agents: the next head starts them again."""
        sys.stderr.write(f"the agent of partition {self._folder.name} hangs on a thread of its head, which ends therefore\n")
        sys.stderr.flush()
        os._exit(HANGS)

    def reap(self) -> AgentEnd:
        """Wait for the last steps of the thread, which has told that it ends, and return how the agent ended."""
        self._thread.join()
        self._call.close()
        return self._end

    # -------------------------------------------------------------------------------------------------------- on the thread

    def _run(self) -> None:
        try:
            self._end = self._live()
        except BaseException as error:  # root of the thread
            self._end = AgentEnd(f"its agent raised {type(error).__name__}: {error}")
            self._print("".join(traceback.format_exception(error)))
        finally:
            self._tell_ready()
            os.close(self._ended_writer)

    def _live(self) -> AgentEnd:
        claimed = claim(self._folder)
        if claimed is None:
            return AgentEnd("its agent found another one there", is_taken=True)
        try:
            folder = private_folder(self._folder)
            try:
                abandoned = run_agent(read_settings(self._folder), folder, self._incarnation, self._tell_ready, self._call)
            except BaseException:
                note_own_crash(self._folder / LOG_FOLDER)
                raise
            remove_private_folder(folder)
        finally:
            release(claimed)
        if not abandoned:
            return AgentEnd("its agent ended")
        self._print(f"this agent of partition {self._folder.name} ends: {abandoned}\n")
        return AgentEnd(f"its agent ended: {abandoned}")

    def _tell_ready(self) -> None:
        if self._ready_writer >= 0:
            os.close(self._ready_writer)
            self._ready_writer = -1

    def _print(self, text: str) -> None:
        try:
            with open(os.open(self._folder / OUTPUT_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
                file.write(text)
        except OSError:
            sys.stderr.write(text)
