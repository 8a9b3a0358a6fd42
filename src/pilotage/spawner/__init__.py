"""The spawner: starts and reaps executables on its node. Small, single-threaded, few imports.

``main`` is the process; ``spawner`` its loop and what it does on each message; ``outbox`` and ``link`` are its side of the
protocol; ``launching`` starts processes and ``failures`` explains why one could not be; ``environment`` and ``ranks`` are
the pure parts; ``forest`` knows which processes belong to which task, ends them and tells when all are gone; ``memory``
knows whether the kernel killed one for memory.
"""
