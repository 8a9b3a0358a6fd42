"""Starting the processes of tasks, and of what runs beside them.

``posix_spawn`` shares memory with its parent until the child executes, and so costs the same whatever the spawner's size; what
it cannot do, the spawner does to itself before (see ``places``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence

from pilotage.errors import BackendError
from pilotage.launchers.method import LaunchRequest, step_name
from pilotage.launchers.outer import without_outer_launch
from pilotage.model.ranks import RankSlot
from pilotage.model.resources import BLOCK_MIB
from pilotage.spawner.calls import prepare
from pilotage.spawner.environment import ENCODING, Environment, encoded, rank_variables, task_variables
from pilotage.spawner.failures import (
    LaunchFailed,
    executable_fault,
    failed_spawn,
    missing_executable,
    unusable_output,
    unwritten_call,
    unwritten_files,
)
from pilotage.spawner.forest import DEFAULT_SIGNALS
from pilotage.spawner.hook_scripts import Script
from pilotage.spawner.lanes import TaskTree
from pilotage.spawner.outputs import Action, Outputs
from pilotage.spawner.places import Place
from pilotage.spawner.recipes import Recipe
from pilotage.spawner.steps import Steps, step_of
from pilotage.wire.runner_settings import RunnerSettings

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_OUTPUT_MODE = 0o600
_PRIVATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Launcher:
    """Starts processes of tasks and of function workers. ``open`` before use. ``folder``: for files that all nodes see.

    Each method returns a process id, or raises ``LaunchFailed`` with why it could not be started.
    """

    def __init__(self, settings: RunnerSettings, place: Place, outputs: Outputs, steps: Steps, folder: str) -> None:
        self._settings = settings
        self._steps = steps
        self._folder = folder
        self._job_variables = without_outer_launch(encoded(settings.allocation_environment))
        self._place = place
        self._outputs = outputs
        self._node_names = {node.index: node.name for node in settings.nodes}
        self._null = -1

    def open(self) -> None:
        """Open ``/dev/null``."""
        self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def rank_environment(self, recipe: Recipe, slot: RankSlot, rank: int) -> Environment:
        """Return the environment of a rank without what is a task's own."""
        return {**recipe.environment, **self._rank_variables(recipe, slot, rank)}

    def spawn_rank(self, tree: TaskTree, slot: RankSlot, rank_environment: Environment) -> int:
        """Start one rank of a task in its sandbox, on its cores."""
        recipe = tree.recipe
        sandbox = self._place.enter_sandbox(recipe.template, tree.row)
        self._place.take_cores(slot.cores)
        environment = rank_environment.copy()
        _add_own(environment, tree, sandbox)
        command = self._command(tree, environment)
        if recipe.rank_script is not None or tree.call is not None:
            command = recipe.scripted(recipe.rank_script, tree.note, command, recipe.words(command))
            return self._spawn_task(tree, command[0], command, environment, sandbox)
        command = recipe.expanded(command, environment)
        path = recipe.path or _find(recipe, environment)
        try:
            return self._spawn_task(tree, path, command, environment, sandbox)
        except _Vanished:
            # It was where it was found before, and is no longer; so it certainly did not start.
            recipe.path = ""
            return self._spawn_task(tree, _find(recipe, environment), command, environment, sandbox)

    def spawn_launcher(self, tree: TaskTree, slots: Sequence[RankSlot]) -> int:
        """Start the launcher that starts all ranks of a task."""
        recipe, settings = tree.recipe, self._settings
        chosen = recipe.chosen
        assert chosen is not None
        sandbox = self._place.enter_sandbox(recipe.template, tree.row)
        self._place.take_cores(_all_cores([slot for slot in slots if settings.is_here(slot.node)]))
        bind = None
        if settings.bind and all(slot.cores for slot in slots):
            bind = self._cores_of_ranks(slots)
        gpus_told = bind is not None or not chosen.method.facts.places_unbound
        variables = [self._rank_variables(recipe, slot, rank, gpus=gpus_told) for rank, slot in enumerate(slots)]
        environment = {**recipe.environment, **recipe.own_environment}
        _add_own(environment, tree, sandbox)
        command = self._command(tree, environment)
        if recipe.launch_script is None and recipe.rank_script is None and tree.call is None:
            # A launcher says less clearly what is missing; only hooks could change where it is.
            path = recipe.path or _find(recipe, environment)
            if fault := executable_fault(path, os.fsdecode(sandbox)):
                raise LaunchFailed(fault)
            _check_fits(recipe, path, environment, len(slots))
        words = recipe.words(command)
        if recipe.rank_script is not None:
            command, words = recipe.scripted(recipe.rank_script, tree.note, command, words), ()
        if chosen.of_pilot:
            environment = {**self._job_variables, **environment}
        name = step_name(tree.row.uid, tree.attempt)
        carried = chosen.method.facts.carries_environment or not recipe.far
        request = LaunchRequest(
            slots,
            command,
            variables,
            self._node_names,
            bind,
            words,
            name,
            self.folder_of(tree),
            here=not recipe.far,
            memory_mib=recipe.template.request.memory * BLOCK_MIB,
            exclusive=recipe.template.request.exclusive,
            environment={} if carried else environment,
            working_folder="" if carried else sandbox.decode(*ENCODING),
        )
        try:
            line = chosen.method.render(chosen.installed, request)
        except BackendError as error:
            raise LaunchFailed(str(error)) from error
        own = recipe.own_environment
        for variable in line.unset:
            if variable not in own:
                environment.pop(variable, None)
        environment.update({variable: value for variable, value in line.environment.items() if variable not in own})
        _write_files(tree.folder, line.files)
        tree.step = step_of(chosen, name, settings.allocation_environment)
        if tree.step is not None:
            self._steps.note(tree.step)
        arguments = recipe.scripted(recipe.launch_script, tree.note, line.arguments)
        return self._spawn_task(tree, arguments[0], arguments, environment, sandbox)

    def folder_of(self, tree: TaskTree) -> str:
        """Return the folder of an attempt for files that all nodes see; it is made by who puts something there."""
        tree.folder = f"{self._folder}/{tree.row.uid}.{tree.attempt}"
        return tree.folder

    def clear(self, tree: TaskTree) -> None:
        """Remove the files of an attempt that is over."""
        if tree.folder:
            shutil.rmtree(tree.folder, ignore_errors=True)
            tree.folder = ""

    def close(self) -> None:
        """Remove what is left of our folder for files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def spawn_script(self, tree: TaskTree, script: Script, slots: Sequence[RankSlot]) -> int:
        """Start a shell with hooks that run once, before or after the ranks, on the cores of all of them."""
        recipe = tree.recipe
        sandbox = self._place.enter_sandbox(recipe.template, tree.row)
        self._place.take_cores(_all_cores(slots))
        environment = recipe.environment.copy()
        _add_own(environment, tree, sandbox)
        arguments = recipe.scripted(script, tree.note, [])
        return self._spawn_task(tree, arguments[0], arguments, environment, sandbox)

    def spawn_program(self, command: list[str], environment: dict[str, str], output_path: str) -> int:
        """Start a program of our own in the folder of the user's program.

        Its stdout and stderr go to ``<output_path>.out`` and ``.err``.
        """
        folder = self._place.enter_working_folder()
        self._place.release_cores()
        outputs = (f"{output_path}.out", f"{output_path}.err")
        actions: list[Action] = [
            (os.POSIX_SPAWN_DUP2, self._null, 0),
            *((os.POSIX_SPAWN_OPEN, number, path, _APPEND, _OUTPUT_MODE) for number, path in enumerate(outputs, 1)),
        ]
        variables = encoded({**self._settings.environment, **environment})
        try:
            return _spawn(command[0], command, variables, actions)
        except (OSError, ValueError) as error:
            raise failed_spawn(error, command[0], outputs, 0, folder) from error

    def _command(self, tree: TaskTree, environment: Environment) -> list[str]:
        """Return what each rank executes: the program, or the Python that calls the function."""
        template = tree.recipe.template
        if template.mode != "function":
            return [tree.recipe.executable, *tree.row.arguments]
        if tree.call is None:
            try:
                tree.call = prepare(tree.row, template, tree.attempt, self._settings, environment)
            except OSError as error:
                raise unwritten_call(error) from error
        return tree.call

    def _rank_variables(self, recipe: Recipe, slot: RankSlot, rank: int, *, gpus: bool = True) -> Environment:
        names = self._settings.gpu_names(slot.gpus, slot.node) if gpus else []
        return rank_variables(slot, rank, self._node_names.get(slot.node, ""), recipe.template.gpu_type, names)

    def _cores_of_ranks(self, slots: Sequence[RankSlot]) -> list[frozenset[int]]:
        settings = self._settings
        try:
            return [settings.machine_cores(slot.cores, None if settings.is_here(slot.node) else slot.node) for slot in slots]
        except OSError as error:
            raise LaunchFailed(f"the ranks cannot be bound to their cores: {error.strerror}; this is a fault") from error

    def _spawn_task(self, tree: TaskTree, path: str, arguments: list[str], environment: Environment, sandbox: bytes) -> int:
        """Spawn in the sandbox, where we are."""
        output = tree.output
        if output is None:
            try:
                output = tree.output = self._outputs.begin(
                    tree.recipe.output, tree.row, tree.attempt, sandbox.decode(*ENCODING)
                )
            except OSError as error:
                raise unusable_output("stdout", error.filename or "", error) from error
        actions = [(os.POSIX_SPAWN_DUP2, self._null, 0), *output.actions(first=not tree.started)]
        try:
            return _spawn(path, arguments, environment, actions)
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and "/" not in tree.recipe.executable and not os.path.exists(path):
                raise _Vanished from error
            size = sum(len(name) + len(value) + 2 for name, value in environment.items())
            size += sum(len(argument.encode(*ENCODING)) + 1 for argument in arguments)
            raise failed_spawn(error, path, output.names, size, os.fsdecode(sandbox)) from error


class _Vanished(Exception):
    """An executable is no longer where it was found."""


def _spawn(path: str, arguments: list[str], environment: Environment, actions: list[Action]) -> int:
    return os.posix_spawn(
        path, arguments, environment, file_actions=actions, setsid=True, setsigmask=(), setsigdef=DEFAULT_SIGNALS
    )


def _add_own(environment: Environment, tree: TaskTree, sandbox: bytes) -> None:
    row = tree.row
    environment.update(task_variables(row.uid.encode(*ENCODING), tree.attempt, row.name.encode(*ENCODING), sandbox))
    if row.extra is not None:
        environment.update(encoded(row.extra.variables))


def _all_cores(slots: Sequence[RankSlot]) -> tuple[int, ...]:
    return tuple(core for slot in slots for core in slot.cores)


def _write_files(folder: str, files: Mapping[str, str]) -> None:
    """Write what a launcher is to read, for our eyes alone."""
    if not files:
        return
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name, text in files.items():
            with open(os.open(f"{folder}/{name}", _PRIVATE, 0o600), "w", encoding=ENCODING[0], errors=ENCODING[1]) as file:
                file.write(text)
    except OSError as error:
        raise unwritten_files(folder, error) from error


def _check_fits(recipe: Recipe, path: str, environment: Environment, ranks: int) -> None:
    """See once whether the program at ``path`` uses the MPI whose mpiexec is to start it."""
    launcher = recipe.chosen.mpi if recipe.chosen is not None else None
    if launcher is None or recipe.checked or ranks == 1 or not os.path.isabs(path):
        return
    from pilotage.launchers.mismatch import check_executable  # only here: most spawners start no mpiexec

    if mismatch := check_executable(path, launcher, environment.get(b"LD_LIBRARY_PATH", b"").decode(*ENCODING)):
        raise LaunchFailed(mismatch)
    recipe.checked = True


def _find(recipe: Recipe, environment: Environment) -> str:
    """Look the executable up in the task's PATH, and remember a hit that holds in every sandbox."""
    search = environment.get(b"PATH", os.defpath.encode()).decode(*ENCODING)
    for folder in search.split(os.pathsep):
        path = os.path.join(folder or ".", recipe.executable)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            if os.path.isabs(path):
                recipe.path = path
            return path
    raise missing_executable(recipe.executable, search)
