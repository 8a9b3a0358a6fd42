"""The spawner: starts and reaps executables on its node. Small, single-threaded, few imports.

``main`` is the process and ``spawner`` its loop. ``conversation``, ``outbox`` and ``link`` are its side of the talk with the
agent. ``tasks`` runs what it was given, in ``lanes``; ``function_workers`` the workers beside it.

What a template's tasks share is prepared in ``recipes``, whose pure parts are ``environment``, ``hooks`` and ``hook_scripts``;
``launching`` starts processes from ``places``, those of functions by ``calls``, and ``failures`` explains why one could not be;
``outputs`` is where they write, ``choosing`` says which launch method starts ranks that need one. ``forest`` knows which
processes belong to which task and tells when all are gone, ``termination`` ends them, ``steps`` looks after what launchers have
started on other nodes, ``relaunches`` tries again what they were refused for now, ``rank_watch`` looks whether ranks see each
other. ``examination`` finds out what became of processes,
from the ``notes`` of hooks and from what launchers say; ``verdicts`` and ``rank_endings`` are its pure parts, and ``memory``
knows whether the kernel killed one for memory. ``doubts`` keeps failures for a moment that may be the work of others.
"""
