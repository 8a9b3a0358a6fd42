"""Functions in processes of their own: what is written for them, what they do with it, and what is collected.

The semantics of a call are those of workers, whose tests are the longer ones; here stands what is new: the process, the files,
other Pythons, and ranks.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import msgspec
import pytest

from mpi_installations import MpiInstallation
from pilotage.launchers.launch_line import render
from pilotage.launchers.mpiexec import find_mpiexec
from pilotage.launchers.outer import without_outer_launch
from pilotage.log.blobs import BlobStore
from pilotage.model.ids import Attempt, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.payload import Blob
from pilotage.model.ranks import RankSlot
from pilotage.model.resources import Request
from pilotage.model.workload import MpiLauncher, Row, Template
from pilotage.spawner.calls import CallEnd, collect, prepare
from pilotage.spawner.choosing import choose
from pilotage.spawner.environment import encoded
from pilotage.testing.runner_driver import default_settings
from pilotage.wire.pickles import open_exception_chain, open_value, pickle_by_value, pickle_value

PATIENCE_S = 60.0

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Calls:
    """Makes calls as a spawner does, and waits for them."""

    def __init__(self, folder: Path) -> None:
        self.settings = default_settings(folder, python_path=list(sys.path))
        self.calls_folder = Path(self.settings.pilot_folder) / "calls"
        self.printed = ""
        self.exit_code = 0

    def end(
        self,
        function: Callable[..., Any] | bytes | Blob,
        *args: Any,
        launcher: MpiLauncher | None = None,
        ranks: int = 1,
        attempt: int = 1,
        payload: bytes | Blob | None = None,
        variables: dict[str, str] | None = None,
        **template: Any,
    ) -> CallEnd | None:
        """Make one call and return what is collected."""
        pickled = function if isinstance(function, (bytes, Blob)) else pickle_by_value(function)
        described = Template(mode="function", function=pickled, launcher=launcher, request=Request(ranks=ranks), **template)
        row = Row(TaskUid("call.0"), TemplateId(1), (), payload or pickle_value((args, {})), "its name")
        environment = {
            **encoded({**self.settings.environment, **(variables or {})}),
            b"PILOTAGE_TASK_ID": b"call.0",
            b"PILOTAGE_TASK_NAME": b"its name",
            b"PILOTAGE_ATTEMPT": b"%d" % attempt,
        }
        command = prepare(row, described, Attempt(attempt), self.settings, environment)
        if launcher is not None:
            slots = [RankSlot(0, rank, (), ()) for rank in range(ranks)]
            line = render(launcher, slots, command, [{b"PILOTAGE_RANK": b"%d" % rank} for rank in range(ranks)])
            command, environment = line.arguments, {**environment, **line.environment}
        done = subprocess.run(
            command,
            env=without_outer_launch(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
        )
        self.printed, self.exit_code = done.stdout, done.returncode
        chosen = choose(described, self.settings, (0,))
        return collect(row, described, chosen, Attempt(attempt), self.settings, done.returncode)

    def value(self, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Make one call and return its result."""
        end = self.end(function, *args, **more)
        assert end is not None and end.ending is Ending.DONE, (end, self.printed)
        assert isinstance(end.result, bytes)
        return open_value(end.result)


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path)


def test_a_result_comes_back_and_nothing_is_left(calls: Calls) -> None:
    assert calls.value(lambda left, right: left + right, 40, 2) == 42
    assert list(calls.calls_folder.iterdir()) == []


def test_what_is_written_is_for_its_owner_alone(calls: Calls) -> None:
    row = Row(TaskUid("call.0"), TemplateId(1), (), pickle_value((("secret",), {})))
    prepare(row, Template(mode="function", function=pickle_value(print)), Attempt(1), calls.settings, {})
    (written,) = calls.calls_folder.iterdir()

    assert (written.stat().st_mode & 0o777, calls.calls_folder.stat().st_mode & 0o777) == (0o600, 0o700)
    assert b"secret" in written.read_bytes()


def test_a_coroutine_function_is_run(calls: Calls) -> None:
    async def later(value: int) -> int:
        import asyncio

        await asyncio.sleep(0)
        return value

    assert calls.value(later, 7) == 7


def test_an_exception_with_its_traceback(calls: Calls) -> None:
    def fail() -> None:
        raise ValueError("no such atom")

    end = calls.end(fail)

    assert end is not None
    assert (end.ending, end.message, calls.exit_code) == (Ending.RAISED, "ValueError: no such atom", 1)
    assert isinstance(end.result, bytes)
    assert repr(open_exception_chain(end.result)) == "ValueError('no such atom')"
    assert end.detail.splitlines()[0] == "Traceback (most recent call last):"
    assert end.detail.splitlines()[-1] == "ValueError: no such atom"
    assert "process_call.py" not in end.detail


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: sys.exit(3), "SystemExit: 3"),
        (lambda: (number for number in range(3)), "SerializationError: task 'call.0' returned a builtins.generator"),
        (threading.Lock, "SerializationError: task 'call.0' returned a _thread.lock, which cannot be pickled"),
    ],
)
def test_what_fails_a_call(calls: Calls, function: Callable[..., Any], message: str) -> None:
    end = calls.end(function)

    assert end is not None
    assert end.ending is Ending.RAISED
    assert end.message.startswith(message)


def test_a_function_that_cannot_be_opened(calls: Calls) -> None:
    # A reference to a module that is nowhere.
    end = calls.end(b"\x80\x05\x8c\x0bno_such_lib\x94\x8c\x03run\x94\x93\x94.")

    assert end is not None
    assert end.message.startswith(f"SerializationError: cannot import module 'no_such_lib' in {sys.executable}: the function")


def test_the_task_is_known_to_the_function(calls: Calls) -> None:
    def who() -> Any:
        import pilotage

        return msgspec.structs.astuple(pilotage.current_task())

    assert calls.value(who, attempt=2) == ("call.0", "its name", 2)


def test_a_call_is_made_in_the_folder_of_the_users_program(calls: Calls, tmp_path: Path) -> None:
    assert calls.value(os.getcwd) == str(tmp_path)

    calls.settings = msgspec.structs.replace(calls.settings, working_folder="/no/such/folder")
    assert calls.value(os.getcwd) == calls.settings.pilot_folder


def test_modules_of_the_users_program_are_imported_as_in_workers(calls: Calls, tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "link.py").write_text("def answer():\n    return 42\n")
    calls.settings = msgspec.structs.replace(calls.settings, python_path=[str(tmp_path / "modules"), *sys.path])

    # A module of ours is called the same: it must not stand in for the user's.
    def ask() -> int:
        import link  # type: ignore[import-not-found]

        return int(link.answer())

    assert calls.value(ask) == 42


def test_large_values_go_through_the_blob_store(calls: Calls) -> None:
    store = BlobStore(Path(calls.settings.blob_folder))
    large = os.urandom(300_000)
    (argument,) = store.put_many([pickle_value(((large,), {}))])
    function = store.put(pickle_by_value(lambda given, more=large[:9000]: given + more))
    assert isinstance(argument, Blob)

    end = calls.end(function, payload=argument)

    assert end is not None and isinstance(end.result, Blob), calls.printed
    assert pickle.loads(store.get(end.result)) == large + large[:9000]
    store.close()


def test_a_stored_value_that_has_changed_is_refused(calls: Calls) -> None:
    store = BlobStore(Path(calls.settings.blob_folder))
    blob = store.put(pickle_value(("x" * 10_000, {})))
    store.close()
    path = Path(calls.settings.blob_folder) / blob.digest[:2] / blob.digest
    path.write_bytes(path.read_bytes()[:-1] + b"?")

    end = calls.end(len, payload=blob)

    assert end is not None
    assert end.message.startswith(f"SerializationError: cannot open the arguments of the task in {sys.executable}: ")
    assert f"of {path} have changed" in end.message


def test_a_result_that_cannot_be_stored(calls: Calls) -> None:
    Path(calls.settings.blob_folder).write_text("in the way")

    end = calls.end(lambda: "x" * 10_000)

    assert end is not None
    assert end.message.startswith("SerializationError: the result of task 'call.0' cannot be kept: ")


def test_a_process_that_dies_tells_nothing(calls: Calls) -> None:
    assert calls.end(lambda: os.kill(os.getpid(), 11)) is None
    assert calls.exit_code == -11
    assert list(calls.calls_folder.iterdir()) == []


def test_what_happens_after_the_end_is_no_part_of_the_call(calls: Calls) -> None:
    def fail_at_exit() -> str:
        import atexit

        atexit.register(os._exit, 9)
        return "done"

    assert calls.value(fail_at_exit) == "done"
    assert calls.exit_code == 9


def test_a_forked_child_that_returns_tells_no_end(calls: Calls) -> None:
    def fork() -> str:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        return "child" if not pid else "parent"

    assert calls.value(fork) == "parent"


def test_what_is_printed_goes_where_the_process_prints(calls: Calls) -> None:
    calls.value(lambda: print("by the function"))

    assert calls.printed == "by the function\n"


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with a Python of its own, and nothing installed."""
    folder = tmp_path_factory.mktemp("other")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


def described_python() -> tuple[str, str, str]:
    import sys

    import cloudpickle  # noqa: F401

    return sys.prefix, sys.path[0], sys.path[-1]


def test_a_named_environment_with_a_python_of_its_own(calls: Calls, other_python: Path, tmp_path: Path) -> None:
    own = [str(tmp_path / "program"), *sys.path]
    calls.settings = msgspec.structs.replace(calls.settings, python_path=own)
    path = f"{other_python}/bin:{os.environ['PATH']}"

    prefix, first, last = calls.value(described_python, named_env="science", variables={"PATH": path})

    assert (prefix, first) == (str(other_python), str(tmp_path / "program"))
    assert not last.startswith(str(other_python))


def test_a_named_environment_without_one(calls: Calls) -> None:
    assert calls.value(described_python, named_env="compilers")[0] == sys.prefix


@pytest.mark.parametrize("name", ["rp", "pilotage"])
def test_our_own_environment_by_its_names(calls: Calls, other_python: Path, name: str) -> None:
    path = f"{other_python}/bin:{os.environ['PATH']}"

    assert calls.value(described_python, named_env=name, variables={"PATH": path})[0] == sys.prefix


def test_an_environment_with_another_pilotage(calls: Calls, other_python: Path, tmp_path: Path) -> None:
    version = tmp_path / "old" / "pilotage" / "version.py"
    version.parent.mkdir(parents=True)
    version.write_text('__version__ = "0.0.1"\n')
    (version.parent / "__init__.py").touch()
    variables = {"PATH": f"{other_python}/bin:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path / "old")}

    assert calls.end(described_python, named_env="science", variables=variables) is None
    assert "has Pilotage 0.0.1, and the pilot is of" in calls.printed


# -- MPI


def mpiexec_of(installation: MpiInstallation) -> MpiLauncher:
    return find_mpiexec("", installation.mpiexec)


def test_an_mpi_function_gets_its_communicator(calls: Calls, mpich: MpiInstallation) -> None:
    def total(comm: Any, factor: int) -> tuple[int, int, int]:
        return comm.rank, comm.size, comm.allreduce(comm.rank * factor)

    assert calls.value(total, 10, ranks=3, launcher=mpiexec_of(mpich)) == (0, 3, 30)


def test_rank_0_may_end_long_before_the_others(calls: Calls, mpich: MpiInstallation, tmp_path: Path) -> None:
    def late(comm: Any, path: str) -> int:
        import os

        if comm.rank:
            # After what rank 0 does: it tells its end before it waits for the others.
            while not os.path.exists(path):
                os.sched_yield()
            open(f"{path}.seen", "w").close()
        return int(comm.rank)

    told = calls.calls_folder / "call.0.1.0"
    assert calls.value(late, str(told), ranks=2, launcher=mpiexec_of(mpich)) == 0


def test_a_rank_that_raises_fails_the_task_and_ends_the_others(calls: Calls, mpich: MpiInstallation) -> None:
    def fail(comm: Any) -> None:
        if comm.rank == 2:
            raise ValueError("no such atom")
        comm.Barrier()

    end = calls.end(fail, ranks=3, launcher=mpiexec_of(mpich))

    assert end is not None
    assert (end.ending, end.message) == (Ending.RAISED, "rank 2: ValueError: no such atom")
    assert end.detail.splitlines()[-1] == "ValueError: no such atom"
    assert list(calls.calls_folder.iterdir()) == []


def test_a_rank_that_dies_leaves_it_to_the_exit_code(calls: Calls, mpich: MpiInstallation) -> None:
    def die(comm: Any) -> None:
        if comm.rank == 1:
            os.kill(os.getpid(), 9)

    assert calls.end(die, ranks=2, launcher=mpiexec_of(mpich)) is None
    assert calls.exit_code


def test_ranks_without_mpi_make_plain_calls(calls: Calls) -> None:
    # As use_mpi=False has it; the spawner starts one such process for each rank.
    assert calls.value(lambda: os.environ.get("PILOTAGE_RANK"), ranks=2, variables={"PILOTAGE_RANK": "0"}) == "0"


def test_mpi4py_is_missing(calls: Calls, mpich: MpiInstallation, other_python: Path) -> None:
    variables = {"PATH": f"{other_python}/bin:{os.environ['PATH']}"}
    calls.settings = msgspec.structs.replace(calls.settings, python_path=[])

    # Without the folder of our own packages, which has it.
    end = calls.end(
        lambda comm: None,
        ranks=2,
        launcher=mpiexec_of(mpich),
        named_env="science",
        variables={**variables, "PYTHONPATH": blocked(calls, "mpi4py")},
    )

    python = other_python / "bin" / "python3"
    assert end is not None, calls.printed
    assert (end.ending, end.message) == (
        Ending.LAUNCH_FAILED,
        f"an MPI function needs mpi4py, and {python} does not have it; install it there: {python} -m pip install mpi4py",
    )


def test_mpi4py_finds_no_mpi(calls: Calls, mpich: MpiInstallation) -> None:
    variables = {"MPI4PY_LIBMPI": "/no/such/libmpi.so"}

    end = calls.end(lambda comm: None, ranks=2, launcher=mpiexec_of(mpich), variables=variables)

    assert end is not None, calls.printed
    assert end.ending is Ending.LAUNCH_FAILED
    assert end.message.startswith(
        f"an MPI function needs mpi4py, and {sys.executable} cannot load it: RuntimeError: cannot load"
    )


def blocked(calls: Calls, module: str) -> str:
    """Make a folder that, on the path, has this module look as if it were not installed."""
    folder = Path(calls.settings.pilot_folder) / "blocked"
    folder.mkdir(parents=True)
    (folder / f"{module}.py").write_text(f"raise ModuleNotFoundError('not here', name={module!r})\n")
    return str(folder)


def test_mpi4py_of_another_mpi(calls: Calls, mpich: MpiInstallation, openmpi: MpiInstallation) -> None:
    variables = {"PATH": f"{os.path.dirname(openmpi.python)}:{os.environ['PATH']}"}

    end = calls.end(lambda comm: None, ranks=2, launcher=mpiexec_of(mpich), named_env="openmpi", variables=variables)

    assert end is not None, calls.printed
    assert end.ending is Ending.LAUNCH_FAILED
    assert end.message.startswith("PMI mismatch: mpi4py uses OpenMPI (")
    assert "started by MPICH's mpiexec" in end.message
