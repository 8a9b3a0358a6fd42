#!/usr/bin/env python3
"""Runs a command as a plain user, on what a login node may grant: ``plain_user.py [--processes N] [--memory-mib M] COMMAND...``

As root it becomes ``nobody``, whom every machine knows (Slurm takes no user without an entry in ``/etc/passwd``) and who gets
no privilege but to read: Python and the source may lie in root's home. As anybody else it stays who it is.

The limits are ``ulimit -u`` and ``ulimit -v``, soft and hard. The first counts all processes and threads of a user, on this
machine those on the nodes of a test's cluster, too, which on a real one are elsewhere. So the command gets a user namespace of
its own, where the kernel (5.14 and newer) counts those of the command alone.

It is of the standard library alone.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import pwd
import resource
import shutil
import sys
from pathlib import Path

PLAIN = "nobody"
"""Whom root becomes."""

_CLONE_NEWUSER = 0x10000000
_CAP_DAC_READ_SEARCH = 2
_ALL_IDS = 2**32 - 1


def plain_user() -> pwd.struct_passwd:
    """Return who the commands run as."""
    return pwd.getpwnam(PLAIN) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def as_plain_user(*command: str, processes: int = 0, memory_mib: int = 0) -> list[str]:
    """Return the command line that runs this one as a plain user. 0: no limit of its own."""
    limits = [f"--processes={processes}", f"--memory-mib={memory_mib}"]
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), *limits, *command]


def why_no_count_of_its_own() -> str:
    """Return why processes of a command cannot be counted apart from others; empty if they can."""
    child = os.fork()
    if child == 0:
        try:
            _count_apart()
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return f"no user namespace can be made here: {os.strerror(number)}" if number else ""


def _count_apart() -> None:
    """Move this process to a user namespace of its own, in which everybody is who they were.

    Raises:
        OSError: the kernel does not let it.
    """
    user, group, root = os.geteuid(), os.getegid(), os.geteuid() == 0
    here = os.getpid()
    ready, moved = os.pipe()
    # Only from outside may somebody else than oneself be given a place.
    mapper = os.fork()
    if mapper == 0:
        try:
            if os.read(ready, 1) and root:
                for kind in ("uid", "gid"):
                    Path(f"/proc/{here}/{kind}_map").write_text(f"0 0 {_ALL_IDS}\n")
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    os.close(ready)
    failed = ctypes.get_errno() if _libc.unshare(_CLONE_NEWUSER) else 0
    if not failed:
        os.write(moved, b"!")
    os.close(moved)
    failed = failed or os.waitstatus_to_exitcode(os.waitpid(mapper, 0)[1])
    if failed:
        raise OSError(failed, os.strerror(failed))
    if not root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1\n")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1\n")


def _becoming_plain() -> list[str]:
    """Return the start of a command line that makes root a plain user."""
    user = plain_user()
    setpriv = shutil.which("setpriv", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
    if setpriv is None:
        sys.exit("there is no setpriv (Debian: apt-get install util-linux)")
    start = [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    if effective >> _CAP_DAC_READ_SEARCH & 1:
        # The third has it count for ``access``, too.
        start += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--securebits=+no_setuid_fixup"]
    return start


def main() -> None:
    """Become the command."""
    parser = argparse.ArgumentParser(usage="plain_user.py [--processes N] [--memory-mib M] COMMAND...")
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--memory-mib", type=int, default=0)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    command = given.command
    if not command:
        parser.error("name a command")
    if given.processes:
        _count_apart()
    if os.geteuid() == 0:
        user = plain_user()
        for name in ("USER", "LOGNAME"):
            os.environ[name] = user.pw_name
        command = [*_becoming_plain(), *command]
    if given.processes:
        resource.setrlimit(resource.RLIMIT_NPROC, (given.processes, given.processes))
    if given.memory_mib:
        resource.setrlimit(resource.RLIMIT_AS, (given.memory_mib << 20, given.memory_mib << 20))
    os.execvp(command[0], command)


_libc = ctypes.CDLL(None, use_errno=True)

if __name__ == "__main__":
    main()
