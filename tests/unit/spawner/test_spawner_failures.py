"""What cannot be started fails with one message that names the value and the remedy, and nothing else suffers."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from spawner_driver import SpawnerDriver

from pilotage.model.outcome import Ending
from pilotage.model.resources import NodeShare, Request, core_mask
from pilotage.spawner.failures import failed_spawn, unusable_sandbox


def script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def failure(driver: SpawnerDriver, arguments: tuple[str, ...] = (), **fields: object) -> str:
    """Launch one task and one that is sound behind it, and return why the first could not be started."""
    lane = driver.launch("task.bad", template=driver.template(**fields), arguments=arguments)
    driver.launch("task.sound", template=driver.template(executable="/bin/true"), lane=lane)
    ends = driver.wait_for_ends(["task.bad", "task.sound"])
    assert ends["task.sound"].ending is Ending.DONE
    bad = ends["task.bad"]
    assert (bad.ending, bad.exit_code, bad.started) == (Ending.LAUNCH_FAILED, None, 0.0)
    return bad.message


def test_missing_executables(driver: SpawnerDriver) -> None:
    assert failure(driver, executable="no-such-tool", environment={"PATH": "/usr/bin:/bin"}) == (
        "executable 'no-such-tool' is in no folder of the task's PATH (/usr/bin:/bin); "
        "give its full path or set PATH in the task's environment"
    )


def test_an_executable_that_is_not_there(driver: SpawnerDriver) -> None:
    message = failure(driver, executable="/no/such/tool")
    assert message == "executable '/no/such/tool' cannot be found: No such file or directory; give its full path"


def test_an_executable_that_is_not_executable(driver: SpawnerDriver, tmp_path: Path) -> None:
    path = script(tmp_path / "tool", "#!/bin/sh\n", 0o644)
    assert failure(driver, executable=path) == (
        f"executable {path!r} is not executable; run 'chmod +x {path}', or give its interpreter"
    )


def test_a_directory(driver: SpawnerDriver, tmp_path: Path) -> None:
    assert failure(driver, executable=str(tmp_path)) == f"executable {str(tmp_path)!r} is a directory; name a program in it"


def test_a_bad_interpreter(driver: SpawnerDriver, tmp_path: Path) -> None:
    path = script(tmp_path / "tool", "#!/no/such/python3\n")
    assert failure(driver, executable=path) == (
        f"executable {path!r} needs the interpreter '/no/such/python3': No such file or directory; mend its first line"
    )


def test_no_interpreter(driver: SpawnerDriver, tmp_path: Path) -> None:
    path = script(tmp_path / "tool", "echo hello\n")
    assert "neither a program for this machine nor a script with a '#!' line" in failure(driver, executable=path)


def test_a_sandbox_that_cannot_be_made(driver: SpawnerDriver, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sandbox = f"{tmp_path}/file/sandbox"
    assert failure(driver, executable="/bin/true", sandbox=sandbox) == (
        f"sandbox {sandbox!r} cannot be used: Not a directory; choose another sandbox"
    )


def test_an_output_that_cannot_be_opened(driver: SpawnerDriver) -> None:
    message = failure(driver, executable="/bin/true", stderr="missing/task.err")
    assert message == "stderr 'missing/task.err' cannot be opened: No such file or directory; choose another stderr"


def test_arguments_that_are_too_long(driver: SpawnerDriver) -> None:
    message = failure(driver, executable="/bin/true", arguments=("x" * 200_000,))
    assert message.startswith("arguments and environment of '/bin/true' take 20")
    assert message.endswith("pass them in a file")


def test_an_argument_with_a_nul(driver: SpawnerDriver) -> None:
    assert "arguments and environment hold no NUL" in failure(driver, executable="/bin/true", arguments=("a\0b",))


def test_a_template_that_was_never_defined(driver: SpawnerDriver) -> None:
    driver.launch("task.1", template=99)  # type: ignore[arg-type]
    assert driver.wait_for_end("task.1").message == "template 99 was not defined for this spawner"


def test_an_executable_that_is_open_for_writing_is_tried_again(driver: SpawnerDriver, tmp_path: Path) -> None:
    path = tmp_path / "true"
    path.write_bytes(Path("/bin/true").read_bytes())
    path.chmod(0o755)
    with path.open("ab"):
        assert failure(driver, executable=str(path)) == (
            f"executable {str(path)!r} cannot be started now: it is still open for writing; "
            "close it before the task is submitted"
        )


def test_an_executable_that_is_found_again_elsewhere(driver: SpawnerDriver, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        script(tmp_path / name / "tool", f"#!/bin/sh\necho {name}\nrm $0\n")
    template = driver.template(executable="tool", environment={"PATH": f"{tmp_path}/one:{tmp_path}/two:/bin"})

    driver.launch("task.1", "task.2", template=template)

    assert {end.ending for end in driver.wait_for_ends(["task.1", "task.2"]).values()} == {Ending.DONE}
    assert driver.output("task.2") == "two\n"


def test_ranks_that_cannot_be_started_fail_the_task_once(driver: SpawnerDriver) -> None:
    template = driver.template(executable="/bin/cat", request=Request(ranks=2), stderr="missing/err")
    driver.launch("task.1", template=template, placement=(NodeShare(0, 2, core_mask(0b11)),))

    assert driver.wait_for_end("task.1").ending is Ending.LAUNCH_FAILED


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device; free space (or inodes) on its file system, or choose another sandbox"),
        (errno.EDQUOT, "Disk quota exceeded; delete files of yours or ask for a larger quota, or choose another sandbox"),
        (errno.EACCES, "Permission denied; choose another sandbox"),
        (errno.EROFS, "Read-only file system; choose another sandbox"),
    ],
)
def test_words_for_a_sandbox(number: int, words: str) -> None:
    assert str(unusable_sandbox("/scratch/x", OSError(number, ""))) == f"sandbox '/scratch/x' cannot be used: {words}"


@pytest.mark.parametrize(
    ("number", "limit"), [(errno.EAGAIN, "RLIMIT_NPROC"), (errno.ENOMEM, "out of memory"), (errno.ENFILE, "RLIMIT_NOFILE")]
)
def test_limits_that_may_pass_are_transient_and_named(number: int, limit: str) -> None:
    failure = failed_spawn(OSError(number, ""), "/bin/true", ("out", "err"), 0, "/sandbox")
    assert failure.transient
    assert limit in str(failure)
