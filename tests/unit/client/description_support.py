"""What the tests of descriptions share: a template table whose packing counts, in surroundings of the test's choice."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from typing import Any

from pilotage.client.task_description import TaskDescription
from pilotage.client.templates import TemplateTable
from pilotage.core.client.facts import Held
from pilotage.errors import BackendError, InvalidTask, SerializationError
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.payload import Blob, Payload
from pilotage.model.workload import MpiLauncher, Row, Template

MPICH = MpiLauncher("mpich", "/opt/mpich/bin/mpiexec", "4.2")


class Here:
    """Surroundings with these mpiexecs, the first of them the default, and nodes ``n0``, ``n1``, ``n2``."""

    clusters: bool | None = False
    """Whether a pilot is on a cluster; None: there is no pilot."""

    def __init__(self, *launchers: MpiLauncher) -> None:
        self.launchers = launchers
        self.asked: list[tuple[str, str]] = []
        self.told: list[str] = []

    def find_launcher(self, wanted: str, search_path: str) -> MpiLauncher:
        self.asked.append((wanted, search_path))
        for launcher in self.launchers:
            if wanted in ("", "mpiexec", launcher.kind, launcher.path):
                return launcher
        raise BackendError("there is no mpiexec in PATH; to get one: pip install mpich")

    def on_clusters(self) -> bool | None:
        return self.clusters

    def ranks_without_launcher(self, reason: str) -> None:
        self.told.append(reason)

    def node_index(self, name: str) -> int:
        if name not in ("n0", "n1", "n2"):
            raise InvalidTask(f"no pilot has a node {name!r}")
        return int(name[1:])


class Submission:
    """A template table with packing that counts."""

    def __init__(self, known: dict[TemplateId, Template] | None = None, here: Here | None = None) -> None:
        self.here = here or Here()
        self.table = TemplateTable(known, self.here)
        self.packed_functions: list[Callable[..., Any]] = []
        self.blobs: list[bytes] = []
        self.held: dict[int, Held] = {}
        self.uids = itertools.count(1)

    def split(self, *descriptions: TaskDescription, first: int = 0) -> tuple[dict[TemplateId, Template], list[Row]]:
        split = self.table.split(
            descriptions,
            pack_function=self.pack_function,
            pack_arguments=lambda args, kwargs: pickle.dumps((tuple(args), dict(kwargs))),
            pack_payload=self.pack_payload,
            uid_of=lambda description: TaskUid(description.uid or f"task.{next(self.uids)}"),
            first=first,
        )
        self.held = split.held
        return split.templates, split.rows

    def pack_function(self, function: Callable[..., Any]) -> bytes:
        self.packed_functions.append(function)
        if function is print:
            raise SerializationError("function 'print' cannot be pickled")
        return pickle.dumps(getattr(function, "__qualname__", "callable"))

    def pack_payload(self, packed: bytes) -> Payload:
        self.blobs.append(packed)
        return Blob(f"digest.{len(self.blobs)}", len(packed))


def made(here: Here | None = None, **attributes: Any) -> tuple[Template, Row]:
    """Return the template and the row of one description."""
    templates, rows = Submission(here=here).split(TaskDescription(**attributes))
    return templates[rows[0].template], rows[0]
