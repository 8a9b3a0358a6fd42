"""The process of a function worker: ``main`` with the agent's private folder and the worker's name as arguments."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from pathlib import Path

from pilotage.model.ids import RunnerId
from pilotage.wire.runner_settings import read_settings
from pilotage.workers.worker import Worker

EXIT_GRACE_S = 5.0
"""For the exit handlers and threads of the user's modules, after the worker itself is done."""


def main() -> None:
    """Run a function worker until it is told to stop or has no agent any more."""
    folder, name = Path(sys.argv[1]), RunnerId(sys.argv[2])
    del sys.argv[1:]
    worker = Worker(folder, name, read_settings(folder))
    # What was imported so far stays for life: the collector need not look at it again and again.
    gc.freeze()
    status = worker.run()

    def leave() -> None:
        time.sleep(EXIT_GRACE_S)
        os._exit(status)

    threading.Thread(target=leave, name="pilotage-exit", daemon=True).start()
    sys.exit(status)


if __name__ == "__main__":
    main()
