"""The client of a campaign that needs one: it runs inside the job, on the first node, as a submitted program does.

What the campaign's file said when it was submitted lies in ``campaign.msgpack`` of the session's folder, so that the file, and
the tables that it names, may change meanwhile. Argument: that folder.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pilotage.cli.campaign_file import CampaignFile
from pilotage.cli.campaign_order import Ordered, TaskGroup, described, ordered, services_of
from pilotage.cli.items import Items
from pilotage.cli.progress import Interrupts
from pilotage.cli.renderers import note
from pilotage.cli.submitted import CANCEL_FILE
from pilotage.core.client.binding import CHUNK_TASKS
from pilotage.errors import InvalidTask, PilotageError
from pilotage.log.files import replace_file
from pilotage.model.ids import TaskUid
from pilotage.model.states import FINAL

if TYPE_CHECKING:
    from pilotage.client.pilot_description import PilotDescription
    from pilotage.client.task import Task
    from pilotage.client.task_description import TaskDescription
    from pilotage.client.task_manager import TaskManager

CAMPAIGN_FILE = "campaign.msgpack"
LOOK_S = 1.0
"""How often the client looks whether it is to cancel its campaign."""

DRAIN_S = 30.0
"""How long a pilot without tasks may take to end in good order."""


class KeptGroup(msgspec.Struct):
    """A ``TaskGroup`` as it is kept."""

    fields: dict[str, Any]
    values: list[dict[str, Any]]
    names: list[str]
    limit: int
    is_single: bool


class KeptCampaign(msgspec.Struct):
    """A campaign as it is kept: its only pilot, and the tables of its tasks."""

    pilot: msgspec.Raw
    groups: list[KeptGroup]


def keep_campaign(folder: Path, campaign: CampaignFile) -> None:
    """Write down in a session's folder what is to be run there.

    Raises:
        BackendError: it cannot be written.
    """
    from pilotage.client.pilot_description import encoded

    groups = [
        KeptGroup(
            group.fields,
            [dict(values) for values in group.items.values],
            list(group.items.names),
            group.items.limit,
            group.is_single,
        )
        for group in campaign.groups
    ]
    replace_file(folder / CAMPAIGN_FILE, [msgspec.msgpack.encode(KeptCampaign(encoded(campaign.pilots[0]), groups))])


def read_campaign(folder: Path) -> tuple[PilotDescription, list[TaskGroup]]:
    """Return the pilot and the tables of tasks that were written down in a session's folder."""
    from pilotage.client.pilot_description import decoded

    kept = msgspec.msgpack.decode((folder / CAMPAIGN_FILE).read_bytes(), type=KeptCampaign)
    groups = [
        TaskGroup(group.fields, Items(group.values, tuple(group.names), group.limit), group.is_single) for group in kept.groups
    ]
    return decoded(kept.pilot), groups


def main() -> None:
    """Run the campaign, and exit with 0 if all its tasks are done."""
    from pilotage.cli.main import prepare_messages

    prepare_messages()
    try:
        status = run_campaign(Path(sys.argv[1]))
    except PilotageError as error:
        note(str(error))
        status = 1
    sys.exit(status)


def run_campaign(folder: Path) -> int:
    """Run what was written down in a session's folder to its end, in that session, and return the exit code."""
    from pilotage.cli.execution import Campaign
    from pilotage.client.session import Session

    pilot, groups = read_campaign(folder)
    services = services_of(pilot)
    tasks = ordered(groups, services)
    total = sum(not groups[task.group].is_service for task in tasks)
    with Interrupts() as interrupts, Session(folder.name, folder.parent) as session, _heeded(folder / CANCEL_FILE):
        campaign = Campaign(session.uid, pilot.as_dict())
        status = campaign.run_in(session, interrupts, lambda manager: Dealer(manager, groups, tasks, services.values()), total)
        if not interrupts.count:
            # It has done its work, and is not cancelled.
            for manager in session.get_pilot_managers():
                manager.drain_pilots()
                manager.wait_pilots(timeout=DRAIN_S)
        return status


@contextmanager
def _heeded(cancel_file: Path) -> Iterator[None]:
    """Have this process interrupted by TERM, as by its job's end, when somebody has written this file."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            if cancel_file.exists():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    looking = threading.Thread(target=look, name="pilotage-cancel", daemon=True)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


class Dealer:
    """Submits the tasks of tables, of each no more than its limit at one time, and none before those that it waits for.

    Each table's tasks go out in order. As this is an order in which none comes before one that it waits for, over all tables,
    the tables cannot block each other: what has gone out waits only for what has gone out.

    What the pilot turns out to be too small for is refused one by one, and counted in ``refused``: the others go on.
    """

    def __init__(
        self, manager: TaskManager, groups: Sequence[TaskGroup], tasks: Sequence[Ordered], services: Iterable[TaskUid] = ()
    ) -> None:
        self._manager = manager
        self._groups = groups
        by_group: list[list[Ordered]] = [[] for _ in groups]
        for task in tasks:
            by_group[task.group].append(task)
        self._left = [_described_in_order(group, mine) for group, mine in zip(groups, by_group, strict=True)]
        self._heads = [next(left, None) for left in self._left]
        self._services = frozenset(services)
        self._group_of: dict[str, int] = {}
        self._unfinished = [0] * len(groups)
        self._submitted: deque[Task] = deque()
        self._lock = threading.Lock()
        self.refused = 0
        self._failure: BaseException | None = None

    def open(self) -> None:
        """Submit what may be submitted."""
        if any(group.items.limit for group in self._groups):
            self._manager.register_callback(self._note)
        with self._lock:
            self._submit()

    def close(self) -> None:
        """Submit no more."""
        with self._lock:
            self._heads = [None for _ in self._heads]

    def take(self) -> list[Task]:
        """Return what was submitted since the last call, but for services: they do not end before all is over.

        What went wrong on the thread of callbacks is raised here.
        """
        if self._failure is not None:
            raise self._failure
        taken = [self._submitted.popleft() for _ in range(len(self._submitted))]
        return [task for task in taken if not self._groups[self._group_of[task.uid]].is_service]

    def _note(self, task: Task, state: str) -> None:
        if state not in FINAL or task.uid not in self._group_of:
            return
        # The first tasks may end before the call that submits them has returned.
        with self._lock:
            group = self._group_of[task.uid]
            self._unfinished[group] -= 1
            try:
                self._submit()
            except BaseException as error:  # it would only be logged here, and what is left would be waited for for ever
                self._failure = error

    def _submit(self) -> None:
        while descriptions := list(islice(self._next(), CHUNK_TASKS)):
            self._submit_these(descriptions)

    def _submit_these(self, descriptions: list[TaskDescription]) -> None:
        try:
            self._submitted.extend(self._manager.submit_tasks(descriptions))
        except InvalidTask as error:
            if len(descriptions) > 1:
                half = len(descriptions) // 2
                self._submit_these(descriptions[:half])
                self._submit_these(descriptions[half:])
                return
            [description] = descriptions
            note(f"{description.uid} ({description.name or 'no name'}) was refused: {error}")
            group = self._group_of[description.uid]
            self._unfinished[group] -= 1
            self.refused += not self._groups[group].is_service

    def _next(self) -> Iterator[TaskDescription]:
        """Return the tasks that may go out now."""
        is_new = True
        while is_new:
            is_new = False
            for number, group in enumerate(self._groups):
                while (head := self._heads[number]) is not None and self._may_go(group.items.limit, number, head[0]):
                    task, description = head
                    self._group_of[task.uid] = number
                    self._unfinished[number] += 1
                    self._heads[number] = next(self._left[number], None)
                    is_new = True
                    yield description

    def _may_go(self, limit: int, number: int, task: Ordered) -> bool:
        if limit and self._unfinished[number] >= limit:
            return False
        return all(uid in self._group_of or uid in self._services for uid in (*task.after, *task.services))


def _described_in_order(group: TaskGroup, tasks: Sequence[Ordered]) -> Iterator[tuple[Ordered, TaskDescription]]:
    """Describe the tasks of a table in the order of ``tasks``."""
    descriptions = described(group)
    if any(task.place != place for place, task in enumerate(tasks)):
        all_of_it = list(descriptions)
        descriptions = (all_of_it[task.place] for task in tasks)
    for task, description in zip(tasks, descriptions, strict=True):
        description.update({"uid": task.uid, "after": list(task.after), "services": list(task.services)})
        yield task, description
