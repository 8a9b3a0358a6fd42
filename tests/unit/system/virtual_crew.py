"""The crew of a virtual agent: stagers, what prepares environments, what watches services, and what sees room on a full disk.

It does what it is asked for in its own time, and dies with its agent. What it has staged and prepared stays so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pilotage.agent.crew import Errand
from pilotage.core.agent import actions, events
from pilotage.errors import unreachable
from pilotage.model.execution import Execution
from pilotage.model.ids import Attempt, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.workload import OWN_SANDBOX, Row, Template

if TYPE_CHECKING:
    from virtual_pilot import Pilot


FULL = "the disk is full"


class Done:
    """What was staged and prepared in a pilot, over all lives of its agent."""

    def __init__(self) -> None:
        self.staged_in: set[TaskUid] = set()
        self.staged_out: set[Execution] = set()
        self.cleaned: set[Execution] = set()
        self.prepared: set[str] = set()


class VirtualCrew:
    """A ``Crew`` without threads, files and ports."""

    def __init__(self, pilot: Pilot) -> None:
        self._pilot = pilot
        self._jobs: dict[tuple[events.StagingPhase, TaskUid], tuple[Attempt, Row, bool]] = {}
        self._preparing: dict[str, None] = {}
        self._watched: dict[TaskUid, tuple[Attempt, bool]] = {}
        self._full = False

    def fileno(self) -> int:
        return 4

    def storage_full(self) -> None:
        self._full = True

    def perform(self, errand: Errand, templates: Mapping[TemplateId, Template]) -> None:
        pilot, world = self._pilot, self._pilot.world
        pilot.may_die()
        match errand:
            case actions.StageTasks():
                for attempt, row in errand.tasks:
                    assert row.template in templates
                    assert (errand.phase, row.uid) not in self._jobs, f"{errand.phase} of {row.uid} is staged twice at a time"
                    assert (row.uid, pilot.uid) not in world.running, f"{errand.phase} of {row.uid} is staged while it runs"
                    self._jobs[errand.phase, row.uid] = (attempt, row, False)
            case actions.EndStaging():
                for key in [key for key in self._jobs if key[1] in errand.tasks]:
                    attempt, row, _ = self._jobs[key]
                    self._jobs[key] = (attempt, row, True)
            case actions.PrepareEnvironment():
                self._preparing[errand.name] = None
            case actions.WatchService():
                assert errand.row.uid not in self._watched, f"{errand.row.uid} is watched twice"
                self._watched[errand.row.uid] = (errand.attempt, errand.ready)
            case actions.UnwatchService():
                del self._watched[errand.service]
            case _:
                unreachable(errand)
        pilot.may_die()

    def take(self) -> list[events.Event]:
        """Let some of it come to its end."""
        taken = [*self._stage(), *self._prepare(), *self._attend()]
        if self._full and not self._pilot.full:
            self._full = False
            taken.append(events.StorageFreed(self._pilot.now))
        return taken

    def _stage(self) -> list[events.Event]:
        pilot, world, chance = self._pilot, self._pilot.world, self._pilot.random
        taken: list[events.Event] = []
        for (phase, uid), (attempt, row, given_up) in list(self._jobs.items()):
            if not world.calm and chance.random() < 0.8:
                continue
            del self._jobs[phase, uid]
            execution, template = (uid, attempt), world.submitted[uid]
            # Where the sandbox is gone, stagers before these had done everything.
            to_do = row.extra is not None and execution not in pilot.done.cleaned
            if to_do and pilot.full and chance.random() < 0.7:
                world.put_off += 1
                taken.append(events.StorageFilled(pilot.now, FULL))
                taken.append(events.StagingEnded(pilot.now, phase, [], put_off=[execution]))
                continue
            if to_do and chance.random() < (0.5 if given_up else 0.1):
                world.unstaged.add(uid)
                taken.append(events.StagingEnded(pilot.now, phase, [], [(execution, "no such file")]))
                continue
            taken.append(events.StagingEnded(pilot.now, phase, [execution]))
            if phase == "input":
                pilot.done.staged_in.add(uid)
                continue
            if row.extra is not None:
                pilot.done.staged_out.add(execution)
            if template.cleanup and template.sandbox == OWN_SANDBOX:
                pilot.done.cleaned.add(execution)
        return taken

    def _prepare(self) -> list[events.Event]:
        pilot, chance = self._pilot, self._pilot.random
        taken: list[events.Event] = []
        for name in list(self._preparing):
            if pilot.world.calm or chance.random() < 0.3:
                del self._preparing[name]
                fails = chance.random() < 0.2
                if not fails:
                    pilot.done.prepared.add(name)
                taken.append(events.EnvironmentPrepared(pilot.now, name, "no such module" if fails else ""))
        return taken

    def _attend(self) -> list[events.Event]:
        pilot, world, chance = self._pilot, self._pilot.world, self._pilot.random
        taken: list[events.Event] = []
        for uid, (attempt, ready) in list(self._watched.items()):
            draw = chance.random()
            if draw < 0.4 and not ready:
                self._watched[uid] = (attempt, True)
                world.ever_ready.add(uid)
                taken.append(events.ServiceReady(pilot.now, uid, attempt, f"{pilot.uid}:{uid}:{attempt}"))
            elif draw > 0.97 and not world.calm:
                taken.append(events.ServiceUnwell(pilot.now, uid, attempt, "it does not answer"))
        return taken


class Surroundings:
    """What a virtual spawner that finds the disk full turns to."""

    def __init__(self, pilot: Pilot) -> None:
        self._pilot = pilot

    def look_at_disk(self) -> None:
        assert self._pilot.agent is not None
        self._pilot.agent.storage_full(RunnerId("spawner.0"), FULL)


def is_done(pilot: Pilot, uid: TaskUid, attempt: Attempt, ending: Ending) -> bool:
    """Tell whether all that belongs to the success of a task was done in this pilot."""
    extra = pilot.world.rows[uid].extra
    return ending is not Ending.DONE or extra is None or not extra.output_staging or (uid, attempt) in pilot.done.staged_out
