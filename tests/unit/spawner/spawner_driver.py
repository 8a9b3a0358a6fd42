"""A fake agent with words for what a spawner is told."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from pilotage.model.execution import LaneTasks
from pilotage.model.ids import Attempt, LaneId, TaskUid, TemplateId
from pilotage.model.resources import NodeShare, Placement, core_mask
from pilotage.model.workload import Row, Template
from pilotage.testing.runner_driver import RunnerDriver, default_settings
from pilotage.wire.runner_messages import DefineTemplates, Launch

ONE_CORE: Placement = (NodeShare(0, 1, core_mask(1)),)


class SpawnerDriver(RunnerDriver):
    """A driver with words for launching."""

    def __init__(self, folder: Path, **changes: object) -> None:
        options = {name: bool(changes.pop(name)) for name in ("auto_welcome", "auto_release") if name in changes}
        super().__init__(folder, default_settings(folder, **changes), **options)
        self._numbers = itertools.count(1)
        self._templates: dict[str, TemplateId] = {}

    def start_spawner(self, name: str = "spawner.0") -> None:
        self.start_runner("pilotage.spawner.main", name)

    def template(self, **fields: object) -> TemplateId:
        number = TemplateId(next(self._numbers))
        self.send(DefineTemplates({number: Template(**fields)}))  # type: ignore[arg-type]
        return number

    def launch(
        self,
        *uids: str,
        template: TemplateId,
        arguments: tuple[str, ...] = (),
        attempt: int = 1,
        lane: int | None = None,
        placement: Placement | None = ONE_CORE,
        **own: object,
    ) -> int:
        """Hand tasks over, one after another in one lane (a new one by default), and return its number; ``own``: of rows."""
        number = next(self._numbers) if lane is None else lane
        tasks = [(Attempt(attempt), Row(TaskUid(uid), template, arguments, **own)) for uid in uids]  # type: ignore[arg-type]
        self.send(Launch([LaneTasks(LaneId(number), placement, tasks)]))
        return number

    def shell(self, uid: str, script: str, **fields: object) -> None:
        """Hand over a task that runs this script."""
        self.launch(uid, template=self.template(executable="/bin/sh", **fields), arguments=("-c", script))

    def sandbox(self, uid: str) -> Path:
        return Path(self.settings.pilot_folder) / "tasks" / uid

    def output(self, uid: str) -> str:
        """Return what an ended task has printed: it keeps no file of nothing."""
        path = self.sandbox(uid) / f"{uid}.out"
        return path.read_text() if path.exists() else ""

    def wait_for_text(self, path: Path) -> str:
        """Wait until a file holds a whole line, and return it."""
        return (
            self.wait_for(
                lambda: path.exists() and path.read_text().endswith("\n") and path.read_text(), what=f"text in {path}"
            )
            or ""
        )


StartDriver = Callable[..., SpawnerDriver]
