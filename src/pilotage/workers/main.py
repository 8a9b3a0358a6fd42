"""The process of a function worker: ``main`` with the agent's private folder and the worker's name as arguments."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from pilotage.model.ids import RunnerId
from pilotage.wire.runner_settings import read_settings
from pilotage.workers.calling import leave
from pilotage.workers.worker import Worker


def main() -> None:
    """Run a function worker until it is told to stop or has no agent any more."""
    folder, name = Path(sys.argv[1]), RunnerId(sys.argv[2])
    del sys.argv[1:]
    worker = Worker(folder, name, read_settings(folder))
    # What was imported so far stays for life: the collector need not look at it again and again.
    gc.freeze()
    leave(worker.run())


if __name__ == "__main__":
    main()
