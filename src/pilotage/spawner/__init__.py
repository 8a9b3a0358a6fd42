"""The spawner: starts and reaps executables on its node. Small, single-threaded, few imports.

``main`` is the process and ``spawner`` its loop. ``conversation``, ``outbox`` and ``link`` are its side of the talk with the
agent. ``tasks`` runs what it was given, ``function_workers`` the workers beside it. What a template's tasks share is prepared
in ``recipes``, with ``environment`` and ``hooks`` as its pure parts; ``launching`` starts processes from ``places``, and
``failures`` explains why one could not be. ``forest`` knows which processes belong to which task and tells when all are gone,
``termination`` ends them; ``verdicts`` says what became of them, with what hooks have left in ``notes``, and ``memory`` knows
whether the kernel killed one for memory.
"""
