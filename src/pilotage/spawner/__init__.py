"""The spawner: starts and reaps executables on its node. Small, single-threaded, few imports.

``main`` is the process and ``spawner`` its loop. ``conversation``, ``outbox`` and ``link`` are its side of the talk with the
agent. ``tasks`` runs what it was given, ``function_workers`` the workers beside it; ``launching`` starts processes and
``failures`` explains why one could not be; ``environment`` is the pure part of that. ``forest`` knows which processes belong to
which task and tells when all are gone, ``termination`` ends them; ``memory`` knows whether the kernel killed one for memory.
"""
