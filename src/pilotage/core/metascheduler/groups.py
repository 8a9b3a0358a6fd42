"""Tasks that go the same way: those of one template, and templates that the same partitions can run."""

from __future__ import annotations

from collections.abc import Iterator

from pilotage.core.metascheduler.fitting import wish_of
from pilotage.core.scheduling.need import Need
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.workload import Template

HORIZON_S = 2.0
"""Work for so long waits in a partition ahead of time. Much longer than a round trip under load."""


class Group:
    """The waiting tasks of one template, in their order. ``seconds``: how long one takes, as far as that is known."""

    __slots__ = (
        "arrival", "home", "is_service", "level", "need", "priority", "refused_by", "route", "seconds", "slots", "template",
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
        self.waiting: dict[TaskUid, None] = {}
        self.arrival = 0
        self.refused_by: set[str] = set()
        """Partitions that could not place such a task, whatever was thought of them."""
        self.home: dict[TemplateId, Group] | None = None
        """Where it is filed while tasks of it wait."""
        self.route: Route | None = None
        self.slots = 0
        """How many can run at once in all partitions that it fits; 0: nobody has asked yet."""

    @property
    def is_long(self) -> bool:
        """Whether its tasks take much longer than a message to a partition and back."""
        return self.seconds is not None and self.seconds > HORIZON_S


class Route:
    """Groups that fit the same partitions, by priority."""

    def __init__(self, fits: tuple[str, ...]) -> None:
        self.fits = fits
        self.levels: dict[int, dict[TemplateId, Group]] = {}

    def turn(self) -> tuple[int, int]:
        """Return what its place among the routes depends on."""
        priority = max(self.levels)
        return -priority, next(iter(self.levels[priority].values())).arrival

    def in_turn(self) -> Iterator[Group]:
        """Yield the groups, the first one first. Groups may be taken out meanwhile."""
        for priority in sorted(self.levels, reverse=True):
            yield from list(self.levels[priority].values())
