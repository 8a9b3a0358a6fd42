"""What an agent has beside its runners, for ``agent_world``: stagers, environments, watchers of services, a disk.

They live and die with their agent. What they have done stays done: the witness knows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilotage.core.agent import actions, events
from pilotage.model.execution import Execution
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.workload import OWN_SANDBOX, Row

if TYPE_CHECKING:
    from agent_world import World

FULL = "the disk is full"


class Surroundings:
    """Does what the core wants done, in its own time, and tells it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.jobs: dict[tuple[events.StagingPhase, TaskUid], tuple[Attempt, Row, bool]] = {}
        """What the stagers have in hand; the last says whether it is to be given up."""
        self.environments: dict[str, None] = {}
        self.watched: dict[TaskUid, tuple[Attempt, bool]] = {}
        self.told_full = False

    # What the core wants.

    def perform(self, action: actions.Action) -> None:
        world = self.world
        match action:
            case actions.StageTasks():
                for attempt, row in action.tasks:
                    self.check_job(action.phase, attempt, row)
                    self.jobs[action.phase, row.uid] = (attempt, row, False)
                    world.stagings += 1
            case actions.EndStaging():
                for key in [key for key in self.jobs if key[1] in action.tasks]:
                    attempt, row, _ = self.jobs[key]
                    self.jobs[key] = (attempt, row, True)
            case actions.PrepareEnvironment():
                assert action.name not in world.prepared, f"environment {action.name} is prepared again"
                assert action.name not in self.environments, f"environment {action.name} is prepared twice"
                self.environments[action.name] = None
                world.preparations += 1
            case actions.WatchService():
                uid = action.row.uid
                assert uid not in self.watched, f"service {uid} is watched twice"
                assert (uid, action.attempt) in world.begun, f"attempt {action.attempt} of service {uid} never began"
                assert action.ready == ((uid, action.attempt) in world.ready), f"{action} is wrong about that"
                assert action.service == world.client.tasks[uid].service
                self.watched[uid] = (action.attempt, action.ready)
            case actions.UnwatchService():
                del self.watched[action.service]
            case actions.TellService():
                assert action.service in self.watched, f"{action.service} is told to be ready, and nobody watches it"
            case _:
                raise AssertionError(f"{action} is nothing for the surroundings")

    def check_job(self, phase: events.StagingPhase, attempt: Attempt, row: Row) -> None:
        """Judge whether this may be staged now."""
        world, uid = self.world, row.uid
        template = world.client.tasks[uid]
        assert (phase, uid) not in self.jobs, f"{phase} of {uid} is staged twice at a time"
        assert uid not in world.alive, f"{phase} of {uid} is staged while it runs"
        assert uid not in world.final, f"{phase} of {uid} is staged after its outcome"
        if phase == "input":
            assert row.extra is not None and row.extra.input_staging and attempt == 0
            assert uid not in world.begins, f"input of {uid} is staged after it began"
            return
        if row.extra is None:
            assert template.cleanup and template.sandbox == OWN_SANDBOX, f"there is nothing to do for {uid}"
            return
        ending = world.shadow.outputs[uid].ending
        assert row.extra.output_staging, f"there is nothing to do for {uid}"
        assert ending is Ending.DONE or template.stage_on_error, f"output of {uid} is staged, which ended as {ending}"
        assert ending is not Ending.CANCELLED and world.shadow.outputs[uid].attempt == attempt

    # What happens.

    def turn(self) -> None:
        """Let some of it come to an end, and tell the core."""
        if not self.world.full or self.world.random.random() < 0.5:
            self.look_at_disk()
        self.stage()
        self.prepare()
        self.attend()

    def look_at_disk(self) -> None:
        world = self.world
        if world.full and not self.told_full:
            self.told_full = True
            world.pauses += 1
            world.handle(events.StorageFilled(world.now, FULL))
        elif self.told_full and not world.full:
            self.told_full = False
            world.handle(events.StorageFreed(world.now))

    def stage(self) -> None:
        world, chance = self.world, self.world.random
        ended: dict[events.StagingPhase, tuple[list[Execution], list[tuple[Execution, str]]]] = {
            "input": ([], []),
            "output": ([], []),
        }
        put_off: dict[events.StagingPhase, list[Execution]] = {"input": [], "output": []}
        for (phase, uid), (attempt, row, given_up) in list(self.jobs.items()):
            if not world.calm and chance.random() < 0.5:
                continue
            del self.jobs[phase, uid]
            execution = (uid, attempt)
            # Where the sandbox is gone, stagers before these had done everything.
            to_do = row.extra is not None and world.cleaned.get(uid) != attempt
            if world.full and to_do and chance.random() < 0.7:
                self.look_at_disk()
                world.put_off += 1
                put_off[phase].append(execution)
                continue
            fails = to_do and chance.random() < (0.5 if given_up else 0.15)
            if fails:
                world.failed.add(uid)
                ended[phase][1].append((execution, "no such file"))
            else:
                ended[phase][0].append(execution)
                if phase == "input":
                    world.staged_in.add(uid)
                elif row.extra is not None:
                    world.staged_out.add(execution)
            template = world.client.tasks[uid]
            if phase == "output" and not fails and template.cleanup and template.sandbox == OWN_SANDBOX:
                world.cleaned[uid] = attempt
        for phase, (done, failed) in ended.items():
            if done or failed or put_off[phase]:
                world.handle(events.StagingEnded(world.now, phase, done, failed, put_off[phase]))

    def prepare(self) -> None:
        world, chance = self.world, self.world.random
        for name in list(self.environments):
            if world.calm or chance.random() < 0.3:
                del self.environments[name]
                fails = chance.random() < 0.25
                if fails:
                    world.unprepared.add(name)
                world.handle(events.EnvironmentPrepared(world.now, name, "no such module" if fails else ""))

    def attend(self) -> None:
        """Some services become ready, or are found unwell; some of that is told too late."""
        world, chance = self.world, self.world.random
        for uid, (attempt, ready) in list(self.watched.items()):
            draw = chance.random()
            if draw < 0.3 and not ready:
                self.watched[uid] = (attempt, True)
                world.handle(events.ServiceReady(world.now, uid, attempt, f"{uid}:{attempt}"))
            elif draw < 0.35 and not world.calm:
                world.unwell.add((uid, attempt))
                world.handle(events.ServiceUnwell(world.now, uid, attempt, "it does not answer"))
                task = world.core.state.tasks.get(uid)
                ended = task is None or task.attempt != attempt or not task.lane or task.ending is not None
                assert ended, f"service {uid} is unwell, and goes on"
            elif draw > 0.98:
                world.handle(events.ServiceReady(world.now, uid, Attempt(attempt - 1), "late"))
                world.handle(events.ServiceUnwell(world.now, uid, Attempt(attempt - 1), "late"))
