"""Names that users of RADICAL-Pilot write as ``rp.<NAME>``: task modes, staging, metrics, kinds of process.

The names of states are in ``pilotage.model.states``.
"""

from __future__ import annotations

from typing import Final

from pilotage.model import states

# Modes of a task: what its payload is.
TASK_EXECUTABLE: Final = "task.executable"
TASK_SERVICE: Final = "task.service"
TASK_FUNCTION: Final = "task.function"
TASK_METHOD: Final = "task.method"
TASK_EVAL: Final = "task.eval"
TASK_EXEC: Final = "task.exec"
TASK_PROC: Final = "task.proc"
TASK_SHELL: Final = "task.shell"
RAPTOR_MASTER: Final = "raptor.master"
RAPTOR_WORKER: Final = "raptor.worker"
AGENT_SERVICE: Final = "agent.service"
TASK_FUNC: Final = TASK_FUNCTION
TASK_METH: Final = TASK_METHOD

TASK_MODES: Final = (
    TASK_EXECUTABLE,
    TASK_SERVICE,
    TASK_FUNCTION,
    TASK_METHOD,
    TASK_EVAL,
    TASK_EXEC,
    TASK_PROC,
    TASK_SHELL,
    RAPTOR_MASTER,
    RAPTOR_WORKER,
    AGENT_SERVICE,
)

# Staging: what is done with a file, and how.
COPY: Final = "Copy"
LINK: Final = "Link"
MOVE: Final = "Move"
DOWNLOAD: Final = "Download"
TRANSFER: Final = "Transfer"
TARBALL: Final = "Tarball"

RECURSIVE: Final = 1
CREATE_PARENTS: Final = 2
NON_FATAL: Final = 4

DEFAULT_ACTION: Final = TRANSFER
DEFAULT_PRIORITY: Final = 0
DEFAULT_FLAGS: Final = CREATE_PARENTS

# What callbacks can be registered for.
TASK_STATE: Final = "TASK_STATE"
WAIT_QUEUE_SIZE: Final = "WAIT_QUEUE_SIZE"
PILOT_STATE: Final = "PILOT_STATE"
TMGR_METRICS: Final = [TASK_STATE, WAIT_QUEUE_SIZE]
PMGR_METRICS: Final = [PILOT_STATE]

# Types of processes, threads and GPUs.
SERIAL: Final = "Serial"
MPI: Final = "MPI"
OpenMP: Final = "OpenMP"
POSIX: Final = "POSIX"
GPU: Final = "GPU"
GPU_MPI: Final = "GPU_MPI"
GPU_OpenMP: Final = "GPU_OpenMP"
CUDA: Final = "CUDA"
FUNC: Final = "FUNC"

# States: where tasks and pilots begin, and the names of 2018.
INITIAL: Final = (states.NEW,)
UMGR_SCHEDULING_PENDING: Final = states.TMGR_SCHEDULING_PENDING
UMGR_SCHEDULING: Final = states.TMGR_SCHEDULING
UMGR_STAGING_INPUT_PENDING: Final = states.TMGR_STAGING_INPUT_PENDING
UMGR_STAGING_INPUT: Final = states.TMGR_STAGING_INPUT
UMGR_STAGING_OUTPUT_PENDING: Final = states.TMGR_STAGING_OUTPUT_PENDING
UMGR_STAGING_OUTPUT: Final = states.TMGR_STAGING_OUTPUT

# How a task manager spreads tasks over pilots.
SCHEDULER_ROUND_ROBIN: Final = "round_robin"
SCHEDULER_BACKFILLING: Final = "backfilling"
SCHEDULER_DEFAULT: Final = SCHEDULER_ROUND_ROBIN

# How much of a core or GPU is taken.
FREE: Final = 0.0
BUSY: Final = 1.0
DOWN: Final = None
