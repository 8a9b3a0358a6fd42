"""What a service is beyond an executable: when it is ready, how its health is seen, and when it is started again."""

from __future__ import annotations

from typing import Literal

import msgspec

Restart = Literal["never", "on_failure", "always"]


class Probe(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A question to a service. By ``kind`` the ``target`` is

    - ``port``: ``[host:]port`` that accepts a TCP connection;
    - ``http``: a URL that answers with a status below 400;
    - ``pattern``: ``stdout:regex``, ``stderr:regex`` or ``<path in the sandbox>:regex`` that is found;
    - ``notify``: nothing; the service says so itself (``READY=1`` on ``$NOTIFY_SOCKET``, or ``pilotage service-ready``).

    ``{port}`` and the like are not replaced: a service that chooses its port says so in its output, and ``info_pattern``
    finds it.
    """

    kind: Literal["port", "http", "pattern", "notify"]
    target: str = ""


class Service(msgspec.Struct, frozen=True, gc=False):
    """How a service is looked after.

    ``ready`` of None: ready as soon as it runs, or, with an ``info_pattern``, as soon as that is found. The information that
    tasks get is what the first group of ``info_pattern`` (``src:regex``) matches, or what the service said itself (after
    ``READY=1``, ``INFO=...``), or ``host:port`` of a port probe, or the URL of an http probe.
    """

    ready: Probe | None = None
    info_pattern: str = ""
    startup_timeout_s: float = 0.0
    """Time to become ready; 0.0: no limit."""
    health: Probe | None = None
    health_interval_s: float = 10.0
    restart: Restart = "never"
