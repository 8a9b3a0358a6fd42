"""What the spawner holds: lanes, and in each the task that runs and those that wait for it."""

from __future__ import annotations

import signal
from collections import deque
from enum import IntEnum

from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.ids import Attempt, LaneId, RunnerId
from pilotage.model.outcome import Ending
from pilotage.model.ranks import RankSlot
from pilotage.model.resources import Placement
from pilotage.model.workload import Row
from pilotage.spawner.environment import Environment
from pilotage.spawner.forest import Tree
from pilotage.spawner.outputs import Output
from pilotage.spawner.recipes import Recipe
from pilotage.spawner.steps import StepName
from pilotage.spawner.verdicts import Verdict


class Stage(IntEnum):
    """What runs of a task."""

    BEFORE = 0
    """Hooks that run once, before ranks that are processes of their own."""
    RANKS = 1
    AFTER = 2
    """Hooks that run once, after them."""


class Lane:
    """Tasks that run one after another in one placement."""

    __slots__ = ("far", "number", "placement", "prepared", "queue", "running")

    def __init__(self, number: LaneId, placement: Placement, *, far: bool = False) -> None:
        self.number = number
        self.placement = placement
        self.far = far
        """Whether some of its nodes are not this host."""
        self.queue: deque[tuple[Attempt, Row]] = deque()
        self.running: TaskTree | None = None
        self.prepared: dict[Recipe, tuple[list[RankSlot], Environment]] = {}
        """Per recipe the slots of the ranks, and the environment of the first rank."""


class TaskTree(Tree):
    """One execution that was begun, and its processes."""

    __slots__ = (
        "attempt",
        "call",
        "ending",
        "exit_code",
        "failed_rank",
        "folder",
        "hook_failed",
        "lane",
        "launches",
        "left",
        "message",
        "note",
        "output",
        "ranks",
        "recipe",
        "refused",
        "row",
        "stage",
        "started",
        "step",
        "told",
        "tries",
        "unproven",
        "wanted",
    )

    def __init__(self, lane: Lane, attempt: Attempt, row: Row, recipe: Recipe) -> None:
        super().__init__()
        self.lane = lane
        self.attempt = attempt
        self.row = row
        self.recipe = recipe
        self.term_depth = recipe.term_depth
        self.stage = Stage.BEFORE if recipe.before_script is not None else Stage.RANKS
        self.ranks: list[int] = []
        """Process ids of the ranks that were begun here; of the one mpiexec that begins them all."""
        self.note = ""
        """The beginning of the names of what shells of hooks have noted; empty: there are none."""
        self.call: list[str] | None = None
        """Of a function: the command line of the process that calls it, when that is prepared."""
        self.folder = ""
        """Where its launcher finds files, and ranks on other nodes leave notes, if there are any; not made before."""
        self.step: StepName | None = None
        """What its launcher has started, where that keeps a list of it."""
        self.unproven = False
        """Whether the end of its launcher is no proof of the end of its step."""
        self.output: Output | None = None
        """Where its output goes; None before the first process."""
        self.started = 0.0
        self.tries = 0
        self.launches = 0
        """How often its launcher was begun again, as it was refused."""
        self.refused: Verdict | None = None
        """Its launcher was refused for now, and has started nothing."""
        self.exit_code: int | None = None
        """Of the first process that failed; 0 if none did; None before an exit."""
        self.failed_rank: int | None = None
        self.ending: Ending | None = None
        """How it is to be reported if not by its exit code."""
        self.message = ""
        self.hook_failed = False
        self.wanted = True
        """Whether nobody has asked for its end."""
        self.left = False
        """Whether it left processes behind."""
        self.told: signal.Signals | None = None
        """The signal that told it that its pilot's time is nearly over."""

    @property
    def execution(self) -> Execution:
        """Its name."""
        return self.row.uid, self.attempt

    def rank_of(self, pid: int) -> int | None:
        """Return which of several ranks this process is; None if it is no rank, or the only one."""
        # After the ranks a process may have got the number that one of them had.
        return self.ranks.index(pid) if len(self.ranks) > 1 and self.stage is Stage.RANKS else None

    @property
    def wants_after(self) -> bool:
        """Whether hooks are to run once that have not, though its ranks are gone: one of them failed and took all with it."""
        return self.recipe.after_script is not None and self.stage is Stage.RANKS and bool(self.ranks) and self.wanted

    def follower(self) -> TaskTree:
        """Return a tree for the hooks after this one, whose processes were ended: its own are not."""
        tree = TaskTree(self.lane, self.attempt, self.row, self.recipe)
        kept = (
            "call",
            "ending",
            "exit_code",
            "failed_rank",
            "hook_failed",
            "left",
            "message",
            "note",
            "output",
            "ranks",
            "told",
        )
        for name in kept:
            setattr(tree, name, getattr(self, name))
        tree.started, tree.stage, tree.growing = self.started, Stage.AFTER, True
        return tree

    def note_exit(self, verdict: Verdict) -> None:
        """A process that was begun here has ended so."""
        if self.exit_code or self.hook_failed:
            return
        self.exit_code = verdict.exit_code
        self.failed_rank = verdict.rank
        if verdict.ending is not None and self.ending is None:
            self.ending = verdict.ending
            self.message = verdict.message if verdict.rank is None else f"rank {verdict.rank}: {verdict.message}"
            self.hook_failed = verdict.hook

    def end(self, ended: float, *, out_of_memory: bool, detail: str) -> AttemptEnd:
        """Return how it ended, when all its processes are gone."""
        code = self.exit_code
        ending, message = self.ending, self.message
        if ending is None:
            if not code:
                ending = Ending.DONE
            elif code > 0:
                ending, message = Ending.EXITED, f"{self._who()}exited with code {code}"
            elif out_of_memory:
                ending, message = Ending.OUT_OF_MEMORY, f"{self._who()}killed by the kernel for memory; ask for more memory"
            else:
                ending, message = Ending.SIGNALLED, f"{self._who()}ended by signal {signal_name(-code)}"
            if self.told is not None and ending in (Ending.EXITED, Ending.SIGNALLED):
                ending = Ending.OUT_OF_WALLTIME
                message += f" after {self.told.name}, which told it that the pilot's time is nearly over"
            if self.left:
                message = f"{message}; " if message else ""
                message += "processes that it left behind were ended"
        return AttemptEnd(self.row.uid, self.attempt, ending, code, None, message, detail, self.started, ended)

    def _who(self) -> str:
        return "" if self.failed_rank is None else f"rank {self.failed_rank} "


class WorkerTree(Tree):
    """A function worker that was started here, and the processes of its functions."""

    __slots__ = ("pid", "status", "worker")

    def __init__(self, worker: RunnerId, pid: int) -> None:
        super().__init__()
        self.worker = worker
        self.pid = pid
        self.status = 0


def signal_name(number: int) -> str:
    """Return a signal's number and name, such as ``11 (SIGSEGV)``."""
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)
