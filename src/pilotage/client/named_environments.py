"""A word, once for each name, about tasks that name an environment which no pilot of theirs has or was asked for.

Such tasks are accepted: they wait, and who prepares the environment afterwards is in time. Were nothing said, a slip in a name
would look like a pilot that is busy.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pilotage.core.client.binding import usable_pilots
from pilotage.environments.own import OWN_NAMES
from pilotage.errors import nearest
from pilotage.model.ids import PilotUid, TemplateId
from pilotage.model.workload import Template

if TYPE_CHECKING:
    from pilotage.client.session import Session

log = logging.getLogger("pilotage")


class NamedEnvironments:
    """The environments that the tasks of a session name."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._names: dict[TemplateId, str] = {}
        self._told: set[str] = set()
        self.learn(session.state.templates)

    def learn(self, templates: Mapping[TemplateId, Template]) -> None:
        """Take note of new templates."""
        for number, template in templates.items():
            if template.named_env and template.named_env not in OWN_NAMES:
                self._names[number] = template.named_env

    @property
    def any(self) -> bool:
        """Whether any task of the session may name one."""
        return bool(self._names)

    def warn(self, manager: str, submitted: Iterable[tuple[TemplateId, str]]) -> None:
        """Tell which names are nowhere; ``submitted``: template, and the pilot asked for by name ('': any), of new tasks.

        Without a pilot nothing is said: that the tasks wait for one is told already, and it may bring the environment along.
        """
        state = self._session.state
        for number, pin in dict.fromkeys(submitted):
            name = self._names.get(number)
            if name is None or name in self._told:
                continue
            pilots = [state.pilots[PilotUid(pin)]] if pin else usable_pilots(state, state.managers[manager])
            known = {other for pilot in pilots for other in list(pilot.environments)}
            if not pilots or name in known:
                continue
            self._told.add(name)
            log.warning(
                "tasks with named_env=%r wait until their pilot has this environment, and nobody has asked for it yet%s; "
                "pilot.prepare_env(%r, ...) prepares it, or prepare_env in the pilot's description",
                name,
                nearest(name, (*known, *OWN_NAMES)),
                name,
            )
