"""What a named environment is beside the user's own: it is entered once, in a shell, and the difference is taken.

The shell begins with the user's environment, knows ``module`` if this machine does, loads modules, goes through ``pre_exec``,
builds what is to be built, and activates it. What it exports then, and did not export or have so before, is the difference;
it is applied to tasks as plain values, without any shell.
"""

from __future__ import annotations

import os
import shlex

from pilotage.environments.building import building_steps
from pilotage.environments.shell import OUTPUT, Dumps, Shell, Step
from pilotage.errors import BackendError
from pilotage.model.environments import EnvironmentDifference, EnvironmentSpec

EVALUATION_S = 300.0
"""How long modules, ``pre_exec`` and activation may take together."""

BUILDING_S = 3600.0
"""How long they may take when an environment is built as well."""

_OF_THE_SHELL = frozenset({b"_", b"SHLVL", b"PWD", b"OLDPWD", b"PS1"})
"""Variables that say something of the shell and nothing of the environment."""

_LOADED = b"LOADEDMODULES"
"""What is loaded, for environment-modules and Lmod alike."""

_MODULE_SCRIPTS = (
    '"$BASH_ENV"',
    '"$LMOD_PKG/init/bash"',
    '"$MODULESHOME/init/bash"',
    "/etc/profile.d/modules.sh",
    "/etc/profile.d/lmod.sh",
    "/etc/profile.d/z00_lmod.sh",
    "/usr/share/modules/init/bash",
    "/usr/share/lmod/lmod/init/bash",
)
"""What makes ``module`` known to a shell, where environment-modules or Lmod are installed; the first that does is used."""

# Many a start script ends with a test that fails; what counts is whether ``module`` is known in the end.
_SET_UP_MODULES = f"""\
for __pilotage_script in {" ".join(_MODULE_SCRIPTS)}; do
  declare -F module >/dev/null && break
  [ -f "$__pilotage_script" ] && . "$__pilotage_script"
done
true"""

_REQUIRE_MODULES = """\
type module >/dev/null 2>&1 || {
  echo "there is no module command: neither environment-modules nor Lmod was found on this machine;" \
    "name the script that sets it up in BASH_ENV, or do without modules" >&2
  false
}"""

_ACTIVATE_CONDA = """\
if command -v conda >/dev/null || [ -x "$CONDA_EXE" ]; then
  __pilotage_hook=$("${{CONDA_EXE:-conda}}" shell.bash hook) && eval "$__pilotage_hook" && conda activate {path}
elif command -v micromamba >/dev/null; then
  __pilotage_hook=$(micromamba shell hook --shell bash) && eval "$__pilotage_hook" && micromamba activate {path}
elif command -v mamba >/dev/null; then
  __pilotage_hook=$(mamba shell hook --shell bash) && eval "$__pilotage_hook" && mamba activate {path}
else
  echo "neither conda, mamba nor micromamba is on PATH; load it by 'modules' or 'pre_exec', or set CONDA_EXE" >&2
  false
fi"""


def evaluate(
    spec: EnvironmentSpec, path: str, shell: Shell, *, build: bool = False, keep_open: int = -1
) -> EnvironmentDifference:
    """Return what the environment is beside the user's own; ``path`` is where it lies. ``build``: it is to be made there.

    ``shell`` starts from the user's own. ``keep_open`` is as in ``Shell.run``.

    Raises:
        BackendError: it cannot be evaluated: which step failed, how, and what it printed.
    """
    steps = []
    if spec.modules:
        steps.append(Step("modules", "module", _REQUIRE_MODULES))
        steps += [_load(number, module) for number, module in enumerate(spec.modules)]
    steps += [Step(f"pre_exec[{number}]", command) for number, command in enumerate(spec.pre_exec)]
    if build:
        steps += building_steps(spec, path)
    steps += _activation(spec, path)
    set_up = Step("the set-up of modules", "module", _SET_UP_MODULES)
    return difference(shell.run(set_up, steps, BUILDING_S if build else EVALUATION_S, keep_open=keep_open))


def difference(dumps: Dumps) -> EnvironmentDifference:
    """Return what was set, changed and unset. What sets up ``module`` does not count where nothing was loaded.

    Raises:
        BackendError: a value is no text.
    """
    after = dumps.last
    before = dumps.ready if dumps.ready.get(_LOADED) == after.get(_LOADED) else dumps.first
    variables = {}
    for name, value in after.items():
        if name in _OF_THE_SHELL or before.get(name) == value:
            continue
        try:
            variables[name.decode()] = value.decode()
        except UnicodeDecodeError:
            raise BackendError(f"it sets {os.fsdecode(name)!r} to bytes that are not UTF-8: {value[:60]!r}") from None
    unset = [os.fsdecode(name) for name in before.keys() - after.keys() - _OF_THE_SHELL]
    return EnvironmentDifference(dict(sorted(variables.items())), tuple(sorted(unset)))


def _load(number: int, module: str) -> Step:
    command = f"module load {module}"
    # Old ones end with exit code 0 whatever happens; the numbers of their errors give them away.
    return Step(f"modules[{number}]", command, f'{command} && ! grep ":ERROR:[0-9]*:" "${OUTPUT}" >/dev/null')


def _activation(spec: EnvironmentSpec, path: str) -> list[Step]:
    if spec.kind == "venv":
        return [Step("the activation", f". {shlex.quote(path)}/bin/activate")]
    if spec.kind == "conda":
        quoted = shlex.quote(path)
        return [Step("the activation", f"conda activate {quoted}", _ACTIVATE_CONDA.format(path=quoted))]
    if spec.kind == "spack":
        return [Step("the activation script", f". {shlex.quote(path)}")]
    return []
