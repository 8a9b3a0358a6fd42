"""A template as the spawner follows it: what its tasks have in common is prepared once, as a ``Recipe``."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

from pilotage.launchers.method import Words
from pilotage.model.environments import EnvironmentDifference
from pilotage.model.own_variables import OwnVariables
from pilotage.model.workload import Hooks, Template
from pilotage.spawner.choosing import Chosen
from pilotage.spawner.environment import ENCODING, Environment, encoded, template_environment
from pilotage.spawner.hook_scripts import Script, render, with_words
from pilotage.spawner.hooks import Step, steps
from pilotage.spawner.outputs import OutputPlan
from pilotage.wire.runner_settings import RunnerSettings

_SH = "/bin/sh"
_HOOKS = "hooks"
"""What a script is called in the messages of its shell."""

_SHELL_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*\Z")


class Shells(NamedTuple):
    """The shells of this node. ``bash`` is empty where there is none; ``quick``: ``/bin/sh`` is another, quicker shell."""

    bash: str
    quick: bool


def find_shells(search_path: str) -> Shells:
    """Return the shells that are here, bash also from the folders of a PATH."""
    bash = next((path for path in ("/bin/bash", "/usr/bin/bash") if os.access(path, os.X_OK)), None)
    quick = os.path.basename(os.path.realpath(_SH)) != "bash"
    return Shells(bash or shutil.which("bash", path=search_path) or "", quick)


class Recipe:
    """A template, and what its tasks share, prepared.

    Hooks are scripts around what they belong to. A single rank has all of its hooks in one shell. The ranks of an mpiexec have
    one each (``rank_script``) and the mpiexec another (``launch_script``). Ranks without MPI have one each as well; what is to
    run once runs in a process of its own, before them (``before_script``) and after them (``after_script``).
    """

    __slots__ = (
        "after_script",
        "before_script",
        "checked",
        "chosen",
        "environment",
        "executable",
        "far",
        "has_hooks",
        "launch_script",
        "output",
        "own_environment",
        "path",
        "quiet",
        "rank_script",
        "shells",
        "simple",
        "template",
        "term_depth",
        "variables",
    )

    def __init__(
        self,
        template: Template,
        settings: RunnerSettings,
        shells: Shells,
        named: EnvironmentDifference | None = None,
        chosen: Chosen | None = None,
        *,
        far: bool = False,
    ) -> None:
        self.template = template
        self.chosen = chosen
        """What starts the ranks; None: each is a process of its own."""
        self.far = far
        """Whether there are ranks on other nodes, which see nothing but the shared folders."""
        self.environment = template_environment(settings, template, named)
        self.own_environment = encoded(template.environment)
        """What the user sets for the task, which goes before what a launcher wants."""
        self.executable = os.path.expanduser(template.executable)
        self.path = self.executable if "/" in self.executable else ""
        """Where the executable is; empty until it is looked up."""
        self.variables = OwnVariables(template, named.variables if named is not None else ()) if template.expands else None
        """Those that may stand in arguments; None where none does, so that nobody looks."""
        self.checked = False
        """Whether it is known that its ranks can be started by its launcher."""
        self.output = OutputPlan(template, several=template.request.ranks > 1)
        self.shells = shells
        self.rank_script: Script | None = None
        self.launch_script: Script | None = None
        self.before_script: Script | None = None
        self.after_script: Script | None = None
        if template.hooks is not None:
            self._render(template.hooks)
        scripts = [self.rank_script, self.launch_script, self.before_script, self.after_script]
        self.has_hooks = any(scripts)
        self.quiet = all(script is None or script.plain for script in scripts) and not self.barrier
        """Whether its shells leave notes only when something has failed."""
        self.simple = chosen is None and not self.has_hooks
        """Whether the exit code of each process says how it ended."""
        self.term_depth: int | None = None
        """See ``forest.Tree``: an mpiexec tells its ranks. Where hooks follow it, it is the child of their shell."""
        if chosen is not None:
            self.term_depth = 1 if template.hooks is not None and template.hooks.post_launch else 0

    @property
    def barrier(self) -> bool:
        """Whether ranks wait for each other when their hooks are done."""
        hooks = self.template.hooks
        return hooks is not None and hooks.sync and self.template.request.ranks > 1

    def expanded(self, command: list[str], environment: Environment) -> list[str]:
        """Return the command with the task's own variables put into its arguments."""
        if self.variables is None:
            return command
        return [command[0], *self.variables.expanded(command[1:], partial(_value, environment))]

    def words(self, command: list[str]) -> Words:
        """Return the words by which a shell puts the task's own variables into the arguments of a command."""
        if self.variables is None:
            return ()
        words = self.variables.words(command[1:])
        return [None, *words] if any(words) else ()

    def scripted(self, script: Script | None, note: str, command: list[str], words: Words = ()) -> list[str]:
        """Return the command that runs this command inside a script, or itself if there is none.

        ``words``: those of the command that the script is to read when its hooks have run, see ``hook_scripts.Words``.
        """
        if script is None:
            return command
        shell = [self.shells.bash, "--norc", "--noprofile"] if script.bash else [_SH]
        return [*shell, "-c", with_words(script, words), _HOOKS, note, *command]

    def _render(self, hooks: Hooks) -> None:
        ranks = self.template.request.ranks
        launched = self.chosen is not None
        before, after = steps(hooks, "pre_exec"), steps(hooks, "post_exec")
        barrier = ranks if self.barrier else 0
        if launched:
            pre, post = steps(hooks, "pre_launch"), steps(hooks, "post_launch")
            if pre or post:
                self.launch_script = self._script(pre, post, once=True)
        elif ranks == 1:
            before, after = steps(hooks, "pre_launch", "pre_exec"), steps(hooks, "post_exec", "post_launch")
        else:
            if pre := steps(hooks, "pre_launch"):
                self.before_script = self._script(pre, (), once=True, program=False)
            if post := steps(hooks, "post_launch"):
                self.after_script = self._script(post, (), once=True, program=False)
        if before or after or barrier:
            self.rank_script = self._script(before, after, barrier=barrier, alarm=os.getpid() if launched else 0, far=self.far)

    def _script(
        self,
        before: Sequence[Step],
        after: Sequence[Step],
        *,
        once: bool = False,
        program: bool = True,
        barrier: int = 0,
        alarm: int = 0,
        far: bool = False,
    ) -> Script:
        return render(
            before,
            after,
            bash=bool(self.shells.bash),
            quick=self.shells.quick and _keeps_all(self.environment),
            once=once,
            program=program,
            barrier=barrier,
            alarm=alarm,
            far=far,
        )


def _value(environment: Environment, name: str) -> str:
    return environment.get(name.encode(), b"").decode(*ENCODING)


def _keeps_all(names: Iterable[bytes]) -> bool:
    """Tell whether every shell would hand these on; some drop what they cannot use, such as functions exported by bash."""
    return all(_SHELL_NAME.match(name) for name in names)
