"""Environments that are built: a real venv once, and what becomes of interrupted, failed and simultaneous builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
from environment_support import PATIENCE_S, Place

from pilotage.environments import building
from pilotage.errors import BackendError

VENV = {"type": "venv", "version": "9.9"}


def wheel(folder: Path) -> Path:
    """Make a wheel of a package with one module, as a build of it would."""
    path = folder / "told_answer-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("told_answer.py", "ANSWER = 42\n")
        archive.writestr("told_answer-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: told-answer\nVersion: 1.0\n")
        archive.writestr("told_answer-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("told_answer-1.0.dist-info/RECORD", "")
    return path


def test_a_real_venv_is_built_once_with_what_is_to_be_in_it(place):
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    spec = {"type": "venv", "version": version, "setup": ["--no-index", str(wheel(place.folder))]}
    found = place.prepare(spec)
    venv = place.pilot / "env" / "some_env"
    assert found.variables["VIRTUAL_ENV"] == str(venv)
    assert found.variables["PATH"].startswith(f"{venv}/bin:")
    environment = {**place.environment, **found.variables}
    command = ["/usr/bin/env", "python", "-c", "import told_answer, sys; print(told_answer.ANSWER, sys.prefix)"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["42", str(venv)]
    made = (venv / "pyvenv.cfg").stat().st_mtime_ns
    assert place.prepare(spec) == found
    assert (venv / "pyvenv.cfg").stat().st_mtime_ns == made
    assert os.listdir(venv.parent) == ["some_env"], "no mark stays"


def test_the_python_of_that_version_makes_it_and_installs_what_is_to_be_in_it(place):
    place.python("9.9")
    found = place.prepare({**VENV, "path": str(place.folder / "mine"), "setup": ["numpy", "a b", "--index-url https://x"]})
    assert found.variables["VIRTUAL_ENV"] == str(place.folder / "mine")
    assert place.lines("made") == [str(place.folder / "mine")]
    (installed,) = place.lines("installed")
    assert installed.endswith(" numpy a b --index-url https://x")


def test_a_version_that_is_not_there_is_said_to_be_missing(place):
    with pytest.raises(BackendError, match=r"is a Python 9\.8; load one by 'modules' or 'pre_exec', or name another 'version'"):
        place.prepare({"type": "venv", "version": "9.8"})


def test_what_is_there_is_used_as_it_is(place):
    place.python("9.9")
    (place.folder / "mine" / "bin").mkdir(parents=True)
    (place.folder / "mine" / "bin" / "activate").write_text("export MINE=1\n")
    os.chmod(place.folder / "mine", 0o555)
    assert place.prepare({**VENV, "path": str(place.folder / "mine")}).variables == {"MINE": "1"}
    assert place.lines("made") == []


def test_what_is_there_and_no_venv_is_left_alone(place):
    (place.folder / "mine").mkdir()
    (place.folder / "mine" / "thesis.tex").write_text("...")
    with pytest.raises(BackendError, match="no venv environment: it holds no bin/activate; remove it, or choose another path"):
        place.prepare({**VENV, "path": str(place.folder / "mine")})
    assert os.listdir(place.folder / "mine") == ["thesis.tex"]
    assert not (place.folder / ".mine.building").exists()


def test_an_empty_folder_may_be_filled(place):
    place.python("9.9")
    (place.folder / "mine").mkdir()
    assert "VIRTUAL_ENV" in place.prepare({**VENV, "path": str(place.folder / "mine")}).variables


def test_a_build_that_fails_leaves_nothing_and_can_be_tried_again(place):
    place.python("9.9")
    spec = {**VENV, "setup": ["numpy"], "pre_exec": ["export PATH=$PWD/programs:$PATH"]}
    good = (place.programs / "python9.9").read_text()
    (place.programs / "python9.9").write_text(good.replace('echo "$*" >>', "echo no such package; exit 1; echo"))
    with pytest.raises(BackendError, match=r"(?s)setup, 'pip install numpy', failed with exit code 1:\nno such package"):
        place.prepare(spec)
    assert os.listdir(place.pilot / "env") == []
    (place.programs / "python9.9").write_text(good)
    assert "VIRTUAL_ENV" in place.prepare(spec).variables


def test_an_interrupted_build_is_done_again_when_all_of_it_is_gone(place):
    """A build is killed with its agent; one of its processes lives on and holds the lock, so the next has to wait."""
    place.python("9.9")
    os.mkfifo(place.folder / "hold")
    program = (
        "import sys; sys.path[:0] = sys.argv[2:]; from environment_support import Place; from pathlib import Path\n"
        "place = Place.__new__(Place); folder = Path(sys.argv[1]); place.folder, place.pilot = folder, folder / 'pilot'\n"
        "place.environment = {'PATH': f'{folder}/programs:/usr/bin:/bin'}\n"
        "place.prepare({'type': 'venv', 'version': '9.9'})"
    )
    killed = subprocess.Popen([sys.executable, "-c", program, str(place.folder), *sys.path])
    hold = os.open(place.folder / "hold", os.O_WRONLY)
    # The stand-in is in the middle of it: it waits for the other end of the pipe.
    killed.kill()
    killed.wait()
    venv = place.pilot / "env" / "some_env"
    assert venv.exists() and (venv.parent / ".some_env.building").stat().st_size
    (place.folder / "hold").unlink()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(place.prepare(VENV)))
    thread.start()
    assert place.lines("made") == [str(venv)], "it waits for what is left of the other"
    os.close(hold)
    thread.join(PATIENCE_S)
    assert found and found[0].variables["VIRTUAL_ENV"] == str(venv)
    assert place.lines("made") == [str(venv)] * 2
    assert os.listdir(venv.parent) == ["some_env"]


def test_of_several_that_want_it_at_once_one_builds(place):
    place.python("9.9")
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(place.prepare(VENV))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(found) == 6 and all(other == found[0] for other in found)
    assert place.lines("made") == [str(place.pilot / "env" / "some_env")]


def test_a_file_system_without_locks_is_not_built_upon(place, monkeypatch):
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    place.python("9.9")
    monkeypatch.setattr(building.fcntl, "flock", flock)
    with pytest.raises(BackendError, match="cannot be locked"):
        place.prepare(VENV)


# ------------------------------------------------------------------------------------------------------------------ conda


def conda(place: Place) -> None:
    """A conda that keeps environments as folders, and knows one package."""
    place.program(
        "conda",
        f"""\
        state={place.folder}/conda.state
        case "$1" in
          shell.bash)
            cat <<'END'
        conda() {{
          if [ "$1" = activate ]; then
            [ -d "$2/conda-meta" ] || {{ echo "EnvironmentLocationNotFound: $2" >&2; return 1; }}
            export CONDA_PREFIX="$2" PATH="$2/bin:$PATH"
          else command conda "$@"; fi
        }}
        END
            ;;
          create)
            [ "$2 $3 $4" = "--yes --quiet --prefix" ] || exit 2
            mkdir -p "$5/conda-meta" "$5/bin"; echo "create ${{*:6}}" >> "$state"
            printf '#!/bin/sh\\necho "pip ${{*}}" >> %s\\n' "$state" > "$5/bin/python"; chmod +x "$5/bin/python"
            ;;
          install)
            [ "$6" = numpy ] || {{ echo "PackagesNotFoundError: ${{*:6}}" >&2; exit 1; }}
            echo "install ${{*:6}}" >> "$state"
            ;;
          *) exit 2;;
        esac
        """,
    )


def test_a_conda_environment_is_made_filled_and_activated(place):
    conda(place)
    found = place.prepare({"type": "conda", "version": "3.11", "setup": ["numpy"]})
    path = str(place.pilot / "env" / "some_env")
    assert found.variables["CONDA_PREFIX"] == path
    assert found.variables["PATH"] == f"{path}/bin:{place.environment['PATH']}"
    assert place.lines("conda.state") == ["create python=3.11 pip", "install numpy"]
    assert place.prepare({"type": "conda"}) == found
    assert len(place.lines("conda.state")) == 2, "it is there"


def test_what_conda_does_not_have_is_left_to_pip(place):
    conda(place)
    place.prepare({"type": "conda", "setup": ["radical.pilot==1.0", "./mine.whl"]})
    state = place.lines("conda.state")
    assert [line.split()[0] for line in state] == ["create", "pip", "pip"]
    assert state[1].endswith(" radical.pilot==1.0") and state[2].endswith(" ./mine.whl")


def test_a_conda_that_is_named_by_its_variable_is_found(place):
    conda(place)
    (place.programs / "conda").rename(place.folder / "conda")
    place.environment["CONDA_EXE"] = str(place.folder / "conda")
    assert "CONDA_PREFIX" in place.prepare({"type": "conda"}).variables


def test_without_conda_it_says_so(place):
    with pytest.raises(
        BackendError, match="neither mamba, conda nor micromamba is on PATH; load it by 'modules' or 'pre_exec'"
    ):
        place.prepare({"type": "conda"})


@pytest.mark.skipif(shutil.which("conda") is None, reason="conda is not installed on this machine")
def test_a_conda_environment_of_this_machine(place):
    place.environment["PATH"] = os.environ["PATH"]
    found = place.prepare({"type": "conda", "path": subprocess.check_output(["conda", "info", "--base"], text=True).strip()})
    assert found.variables["CONDA_PREFIX"]
