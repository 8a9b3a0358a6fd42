"""``TaskDescription``: what a task runs, what it needs and how it is treated.

The attributes are those that users of RADICAL-Pilot know, with its defaults, and some of ours (``retries``, ``after``).
A description may be changed at any time; ``submit_tasks`` reads it once, so later changes concern later submissions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pilotage.client.descriptions import Description, Older
from pilotage.client.fields import Field
from pilotage.client.modes import mode_of
from pilotage.client.python_task import PythonTask
from pilotage.client.task_fields import OLDER_TASK_NAMES, TASK_FIELDS
from pilotage.client.task_validation import validate
from pilotage.errors import InvalidTask


class TaskDescription(Description):
    """What a task runs, what it needs and how it is treated: from keywords, from a dict, or by attributes set later.

    What it runs goes by its ``mode``, which follows where it is plain: an ``executable`` with ``arguments`` (text, numbers,
    paths), a ``function`` (or bound method) with ``args`` and ``kwargs``, a shell ``command``, or Python ``code``: an
    expression (TASK_EVAL) or statements that may return (TASK_EXEC), with ``pre_exec`` for the imports. A TASK_SERVICE is an
    executable that runs until its pilot ends and tells others where it is found: see ``ready``, ``info_pattern``, ``health``,
    ``restart``. In ``arguments`` ``$NAME`` becomes the value of a variable that is the task's own (``RP_...``,
    ``PILOTAGE_...``, of its ``environment`` or ``named_env``, exported by ``pre_exec``); ``\\$NAME`` protects it, and all other
    text stays as it is.

    Memory and node-local disk are in MB per rank; ``timeout``, ``grace`` (between TERM and KILL), ``startup_timeout`` and
    ``health_interval`` in seconds. Several ranks are started by an mpiexec if there is one (``use_mpi``, ``launch_method``);
    a function of several ranks gets its communicator first. ``sandbox``: a folder, or ``'own'``, ``'shared'``, ``'none'``;
    ``output``: ``'files'``, ``'aggregate'``, ``'tail'``, ``'discard'``. ``retries`` more attempts follow a failed or lost one
    (which ones: ``retry_on``); ``restartable`` lets a lost attempt that may have run be followed by another. So does
    ``restart``, which says where it begins if it is another pilot's, as the time of the first was over: ``'continue'`` in the
    sandbox that there was, ``'fresh'`` in a new one. ``after`` names tasks to be over
    before, with ``after_policy`` ``'ok'``, ``'any'`` or ``'notok'``.
    ``tags``: ``colocate`` (tasks of one name run on one node), ``exclusive`` (whole nodes), ``node`` and ``group`` (names of
    nodes, and of groups of them), ``task`` (runs on the node of that earlier one). ``duration_s`` tells the scheduler how long
    it takes. ``partition`` names a partition of the pilot, or a tag of one. ``gang_size`` tasks of one ``gang`` start together
    or not at all.

    Raises:
        UnknownAttribute: no attribute has this name; names the nearest one.
        InvalidTask: a value has the wrong type; names the value and the type wanted.

    >>> task = TaskDescription(executable="/bin/date", arguments=["-u"])
    >>> task.ranks = 4
    >>> task
    TaskDescription(executable='/bin/date', arguments=['-u'], ranks=4)
    """

    __slots__ = ()

    FIELDS: ClassVar[Mapping[str, Field]] = TASK_FIELDS
    OLDER_NAMES: ClassVar[Older] = OLDER_TASK_NAMES
    _NOUN: ClassVar[str] = "task description"
    _ERROR: ClassVar[type[InvalidTask]] = InvalidTask

    uid: str
    name: str
    metadata: Any
    mode: str
    executable: str
    arguments: Any
    function: Callable[..., Any] | None
    args: Any
    kwargs: dict[str, Any]
    code: str
    command: str
    ranks: int
    ranks_per_node: int | None
    cores_per_rank: int
    gpus_per_rank: float
    gpu_type: str
    threading_type: str
    mem_per_rank: float
    lfs_per_rank: float
    use_mpi: bool | None
    launch_method: str
    partition: str | int | None
    gang: str
    gang_size: int
    slots: Any
    environment: dict[str, Any]
    named_env: str
    sandbox: str
    stdout: str
    stderr: str
    output: str
    output_limit_mb: float
    pre_launch: Any
    post_launch: Any
    pre_exec: Any
    post_exec: Any
    pre_exec_sync: bool
    input_staging: Any
    output_staging: Any
    stage_on_error: bool
    priority: int
    timeout: float
    duration_s: float
    grace: float
    retries: int
    retry_on: Any
    restartable: bool
    pilot: str
    tags: dict[str, Any]
    cleanup: bool
    after: Any
    after_policy: str
    services: Any
    ready: str
    info_pattern: str
    startup_timeout: float
    health: str
    health_interval: float
    restart: str
    raptor_id: str
    raptor_class: str
    raptor_file: str

    def __getitem__(self, name: str) -> Any:
        return mode_of(self._values) if name == "mode" else super().__getitem__(name)

    def verify(self) -> None:
        """Check all values and how they go together; submission does the same.

        Raises:
            InvalidTask: names the value, the limit and the remedy.
        """
        validate(self)

    def _adjusted(self, checked: dict[str, Any]) -> dict[str, Any]:
        task = checked.get("function")
        if isinstance(task, PythonTask):
            clash = [name for name in ("args", "kwargs") if checked.get(name)]
            if clash:
                raise InvalidTask(f"task description: the PythonTask brings its arguments; leave {' and '.join(clash)} out")
            checked |= {"function": task.function, "args": task.args, "kwargs": task.kwargs}
        return checked
