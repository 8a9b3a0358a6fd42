"""Tasks that go the same way: those of one template, and templates that the same partitions can run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from pilotage.core.metascheduler.fitting import wish_of
from pilotage.core.scheduling.need import Need
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.workload import Template

if TYPE_CHECKING:
    from pilotage.core.metascheduler.backlogs import Backlog

HORIZON_S = 2.0
"""Work for so long waits in a partition ahead of time. Much longer than a round trip under load."""

_LOOKED_AT_FIRST = 16


class Group:
    """The waiting tasks of one template, in their order. ``seconds``: how long one takes, as far as that is known."""

    __slots__ = (
        "arrival", "home", "is_service", "level", "need", "priority", "refused_by", "route", "seconds", "share", "template",
        "waiting", "wish",
    )  # fmt: skip

    def __init__(self, template_id: TemplateId, template: Template, need: Need) -> None:
        self.template = template_id
        self.wish = wish_of(template)
        self.need = need
        self.priority = template.priority
        self.level = 0
        """The priority by which it is filed: 0 where none of the partitions that it fits goes by priorities."""
        self.is_service = template.service is not None
        self.seconds: float | None = template.duration_s or None
        # Tasks leave at the front, one batch after the other: a plain dict would step over all that left before.
        self.waiting: OrderedDict[TaskUid, None] = OrderedDict()
        self.arrival = 0
        self.refused_by: set[str] = set()
        """Partitions that could not place such a task, whatever was thought of them."""
        self.home: dict[TemplateId, Group] | None = None
        """Where it is filed while tasks of it wait."""
        self.route: Route | None = None
        self.share = 0.0
        """What one of them takes of all partitions that it fits, while it is on a route."""

    @property
    def is_long(self) -> bool:
        """Whether its tasks take much longer than a message to a partition and back."""
        return self.seconds is not None and self.seconds > HORIZON_S


class Route:
    """Groups that fit the same partitions, by priority."""

    __slots__ = ("backlogs", "fits", "levels", "services", "work")

    def __init__(self, fits: tuple[str, ...], backlogs: list[Backlog]) -> None:
        self.fits = fits
        self.backlogs = backlogs
        self.levels: dict[int, dict[TemplateId, Group]] = {}
        self.work = 0.0
        """What waits on it, in shares of all its partitions together."""
        self.services = 0
        """How many of its groups are services."""

    def turn(self) -> tuple[int, int]:
        """Return what its place among the routes depends on."""
        priority = max(self.levels)
        return -priority, next(iter(self.levels[priority].values())).arrival

    def in_turn(self) -> Iterator[Group]:
        """Yield the groups, the first one first. Groups may be taken out meanwhile."""
        for priority in sorted(self.levels, reverse=True):
            groups = self.levels[priority]
            passed, size = 0, _LOOKED_AT_FIRST
            # Mostly the first few are all that is asked for, of thousands.
            while some := list(islice(groups.values(), passed, passed + size)):
                for group in some:
                    yield group
                    passed += group.template in groups
                size *= 4
