"""``pilotage service-ready``: a service that is a script says that it can be used."""

from __future__ import annotations

from typing import Annotated

import typer


def service_ready(
    info: Annotated[str, typer.Argument(metavar="[INFO]", help="What tasks that use the service are told: its address.")] = "",
) -> int:
    """Say, from within a service, that it is ready: tasks that wait for it begin."""
    from pilotage.errors import InvalidRequest
    from pilotage.workers.service import service_ready as say_ready

    if not say_ready(info):
        raise InvalidRequest("this is not part of a service: $NOTIFY_SOCKET is not set; submit it with mode=TASK_SERVICE")
    return 0
