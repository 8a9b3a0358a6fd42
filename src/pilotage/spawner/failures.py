"""Why a process could not be started, in one line that names the value and the remedy.

``posix_spawn`` returns one error number for everything it does in the child: opening the output files, and executing. So the
cause is looked for afterwards, from the executable to the files.
"""

from __future__ import annotations

import errno
import os
import resource
import stat

TRANSIENT = frozenset({errno.EAGAIN, errno.ENOMEM, errno.ETXTBSY, errno.EMFILE, errno.ENFILE})
"""Errors that may pass when other processes end, or when a file that is being written is closed."""


FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors that concern no task more than another: there is no room."""


_NOT_FOUND = 127
"""How a shell ends that does not find what it is to execute."""


class LaunchFailed(Exception):
    """A process could not be started. ``transient``: trying again may help."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class StorageExhausted(LaunchFailed):
    """There is no room for a sandbox or for output at ``path``."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


def unusable_sandbox(sandbox: str, error: OSError) -> LaunchFailed:
    """Return the failure to make or enter ``sandbox``."""
    message = f"sandbox {sandbox!r} cannot be used: {_reason(error)}; {_remedy(error, 'choose another sandbox')}"
    return _of_storage(message, sandbox, error)


def unusable_notes(folder: str, error: OSError) -> LaunchFailed:
    """Return the failure to make what the hooks of a task need in our own ``folder``."""
    return LaunchFailed(f"hooks need files in {folder!r}: {_reason(error)}; {_remedy(error, 'set TMPDIR to another folder')}")


def unusable_output(name: str, path: str, error: OSError) -> LaunchFailed:
    """Return the failure to open the file at ``path``, as seen from the current folder, as stdout or stderr (``name``)."""
    message = f"{name} {path!r} cannot be opened: {_reason(error)}; {_remedy(error, f'choose another {name}')}"
    return _of_storage(message, os.path.abspath(path), error)


def unwritten_call(error: OSError) -> LaunchFailed:
    """Return the failure to write the call of a function for the process that is to make it."""
    path = error.filename or ""
    message = f"the call cannot be written to {path!r}: {_reason(error)}; {_remedy(error, 'see who may write there')}"
    return _of_storage(message, path, error)


def unwritten_files(folder: str, error: OSError) -> LaunchFailed:
    """Return the failure to write the files of a task's launcher."""
    message = f"files of the launcher cannot be written to {folder!r}: {_reason(error)}; "
    return _of_storage(message + _remedy(error, "see who may write there"), folder, error)


def undefined_environment(name: str) -> LaunchFailed:
    """Return the failure to run a task in a named environment that was not defined for this spawner."""
    return LaunchFailed(f"the named environment {name!r} was not prepared on this node; prepare it with pilot.prepare_env()")


def failed_exec(executable: str, code: int, path: str) -> str:
    """Return why the shell of a task's hooks, with this PATH, could not become ``executable``; ``code`` is its exit code."""
    if os.path.isabs(executable):
        fault = executable_fault(executable, "")
    elif "/" in executable:
        fault = (
            f"executable {executable!r} (relative to the folder in which the hooks leave the shell) cannot be started; "
            "give its full path"
        )
    elif code == _NOT_FOUND:
        fault = str(missing_executable(executable, path))
    else:
        fault = ""
    return fault or f"executable {executable!r} cannot be started (the shell ended with exit code {code}); see its stderr"


def missing_executable(executable: str, path: str) -> LaunchFailed:
    """Return the failure to find ``executable`` in the folders of the task's PATH."""
    return LaunchFailed(
        f"executable {executable!r} is in no folder of the task's PATH ({path or 'empty'}); "
        "give its full path or set PATH in the task's environment"
    )


def unusable_cores(cores: tuple[int, ...], error: OSError, usable: set[int]) -> LaunchFailed:
    """Return the failure to pin a process to these cores."""
    return LaunchFailed(
        f"the task cannot be pinned to cores {list(cores)}: {_reason(error)}; this pilot may use cores {sorted(usable)}"
    )


def failed_spawn(
    error: OSError | ValueError, executable: str, outputs: tuple[str, str], argument_bytes: int, sandbox: str
) -> LaunchFailed:
    """Return why ``executable`` (a path as seen from the current folder, the sandbox) could not be spawned.

    ``outputs`` are the paths of stdout and stderr, ``argument_bytes`` the size of arguments and environment together.
    """
    if isinstance(error, ValueError):
        return LaunchFailed(f"executable {executable!r} cannot be started: {error}; arguments and environment hold no NUL")
    if error.errno in TRANSIENT:
        return LaunchFailed(f"executable {executable!r} cannot be started now: {_limit(error)}", transient=True)
    if error.errno == errno.E2BIG:
        return LaunchFailed(
            f"arguments and environment of {executable!r} take {argument_bytes} bytes, more than this system passes to a "
            "process; pass them in a file"
        )
    if fault := executable_fault(executable, sandbox):
        return LaunchFailed(fault)
    return _output_fault(outputs) or LaunchFailed(_format_fault(executable, error))


def executable_fault(executable: str, sandbox: str) -> str:
    """Return why nothing can be executed at this path, as seen from the sandbox, where we are; empty if it can."""
    try:
        mode = os.stat(executable).st_mode
    except OSError as error:
        where = "" if os.path.isabs(executable) else f" (relative to the sandbox {sandbox!r})"
        return f"executable {executable!r}{where} cannot be found: {_reason(error)}; give its full path"
    if stat.S_ISDIR(mode):
        return f"executable {executable!r} is a directory; name a program in it"
    if not os.access(executable, os.X_OK):
        return f"executable {executable!r} is not executable; run 'chmod +x {executable}', or give its interpreter"
    return ""


def _output_fault(outputs: tuple[str, str]) -> LaunchFailed | None:
    for name, path in zip(("stdout", "stderr"), outputs, strict=True):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o666))
        except OSError as error:
            return unusable_output(name, path, error)
    return None


def _format_fault(executable: str, error: OSError) -> str:
    try:
        with open(executable, "rb") as program:
            first_line = program.readline(256)
    except OSError:
        first_line = b""
    if first_line.startswith(b"#!"):
        interpreter = first_line[2:].decode(errors="replace").strip()
        return f"executable {executable!r} needs the interpreter {interpreter!r}: {_reason(error)}; mend its first line"
    if error.errno == errno.ENOEXEC:
        return (
            f"executable {executable!r} is neither a program for this machine nor a script with a '#!' line; "
            "add one, or give its interpreter"
        )
    return f"executable {executable!r} cannot be started: {_reason(error)}; is it built for this machine?"


def _limit(error: OSError) -> str:
    if error.errno == errno.EAGAIN:
        soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        limit = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
        return (
            f"no further process may be created (RLIMIT_NPROC is {limit}; the cgroup's pids.max and the kernel's pid_max "
            "count too); run fewer tasks at a time or raise 'ulimit -u'"
        )
    if error.errno == errno.ENOMEM:
        return "the node is out of memory; run fewer tasks at a time"
    if error.errno == errno.ETXTBSY:
        return "it is still open for writing; close it before the task is submitted"
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"too many open files (RLIMIT_NOFILE is {soft}); raise 'ulimit -n'"


def _of_storage(message: str, path: str, error: OSError) -> LaunchFailed:
    return StorageExhausted(message, path) if error.errno in FULL else LaunchFailed(message)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def _remedy(error: OSError, otherwise: str) -> str:
    if error.errno == errno.ENOSPC:
        return f"free space (or inodes) on its file system, or {otherwise}"
    if error.errno == errno.EDQUOT:
        return f"delete files of yours or ask for a larger quota, or {otherwise}"
    return otherwise
