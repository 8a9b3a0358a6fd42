"""What a service is beyond an executable, from attributes to ``Service`` and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from pilotage.client.checks import one_of, seconds_of, text_of
from pilotage.errors import InvalidTask
from pilotage.model.services import Probe, Restart, Service

SERVICE_ATTRIBUTES = ("ready", "info_pattern", "startup_timeout", "health", "health_interval", "restart")
"""Attributes that only services have; but for some values of ``restart``."""

RESTARTS_OF_TASKS = ("continue", "fresh")
"""What ``restart`` may say of others than services."""

_FORMS = "'port:8080', 'port:host:8080', 'http://host:8080/path', 'pattern:stdout:regex' or 'notify'"
_LAST_PORT = 65535


def service_of(task: str, said: Mapping[str, Any]) -> Service:
    """Return how a service is looked after.

    Raises:
        InvalidTask: names the value, the limit and the remedy.
    """
    restart = one_of(task, "restart", said["restart"], get_args(Restart))
    if said["retries"] and restart == "never":
        restart = "on_failure"
    _require_readable(task, said)
    return Service(
        ready=_probe(task, "ready", said["ready"]),
        info_pattern=_pattern(task, "info_pattern", said["info_pattern"], group=True) if said["info_pattern"] else "",
        startup_timeout_s=seconds_of(task, "startup_timeout", said["startup_timeout"], zero="; 0 means no limit"),
        health=_probe(task, "health", said["health"]),
        health_interval_s=seconds_of(task, "health_interval", said["health_interval"], least=0.1),
        restart=restart,  # type: ignore[arg-type]
    )


def _require_readable(task: str, said: Mapping[str, Any]) -> None:
    """Refuse what could never be found, as nothing is kept of the output in which it would stand."""
    if said["output"] != "discard":
        return
    for name in ("ready", "health", "info_pattern"):
        text = str(said[name] or "").removeprefix("pattern:")
        if text.partition(":")[0] in ("stdout", "stderr"):
            raise InvalidTask(
                f"{task}: {name}={said[name]!r} reads what the service prints, and output='discard' keeps nothing of it; "
                "set output='files', 'aggregate' or 'tail'"
            )


def require_no_service(task: str, given: Mapping[str, Any]) -> None:
    """Raise ``InvalidTask`` if an attribute of services is among what is said of another task."""
    if not given.keys().isdisjoint(SERVICE_ATTRIBUTES):
        for name in SERVICE_ATTRIBUTES:
            if name not in given or (name == "restart" and given[name] in RESTARTS_OF_TASKS):
                continue
            other = " (of other tasks restart says 'continue' or 'fresh')" if name == "restart" else ""
            raise InvalidTask(f"{task}: {name}={given[name]!r} is for services; set mode=TASK_SERVICE, or leave it out{other}")


def attributes_of(service: Service | None) -> dict[str, Any]:
    """Return the attributes that say this."""
    if service is None:
        return {}
    return {
        "ready": _said(service.ready),
        "info_pattern": service.info_pattern,
        "startup_timeout": service.startup_timeout_s,
        "health": _said(service.health),
        "health_interval": service.health_interval_s,
        "restart": service.restart,
    }


def _probe(task: str, name: str, said: str) -> Probe | None:
    if not said:
        return None
    text = text_of(task, name, said).strip()
    kind, _, target = text.partition(":")
    kind = kind.lower()
    if kind == "notify" and not target:
        if name == "health":
            raise InvalidTask(f"{task}: health='notify' cannot be asked again and again; use a port, http or pattern probe")
        return Probe("notify")
    if kind in ("http", "https"):
        url = target if target.startswith(("http:", "https:")) else text
        _require_url(task, name, said, url)
        return Probe("http", url)
    if kind == "port":
        _require_port(task, name, said, target)
        return Probe("port", target)
    if kind == "pattern":
        return Probe("pattern", _pattern(task, name, target))
    raise InvalidTask(f"{task}: {name}={said!r} is no probe; give {_FORMS}")


def _require_port(task: str, name: str, said: str, target: str) -> None:
    port = target.rpartition(":")[2]
    if not (port.isdecimal() and 1 <= int(port) <= _LAST_PORT):
        raise InvalidTask(f"{task}: {name}={said!r}: a port is a number from 1 to {_LAST_PORT}; give {_FORMS}")


def _require_url(task: str, name: str, said: str, url: str) -> None:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        complete = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        complete = False
    if not complete:
        raise InvalidTask(f"{task}: {name}={said!r} holds no URL with a host and a valid port; give {_FORMS}")


def _pattern(task: str, name: str, said: str, *, group: bool = False) -> str:
    """Return a checked ``src:regex``."""
    source, _, expression = text_of(task, name, said).partition(":")
    if not source or not expression:
        raise InvalidTask(
            f"{task}: {name}={said!r}: a pattern is 'src:regex', where src is stdout, stderr or a file in the sandbox"
        )
    try:
        groups = re.compile(expression).groups
    except re.error as error:
        raise InvalidTask(f"{task}: {name}={said!r} holds no regular expression: {error}") from None
    if group and not groups:
        raise InvalidTask(f"{task}: {name}={said!r} has no group; put what is the information into parentheses")
    return said


def _said(probe: Probe | None) -> str:
    if probe is None:
        return ""
    if probe.kind == "notify":
        return "notify"
    return probe.target if probe.kind == "http" else f"{probe.kind}:{probe.target}"
