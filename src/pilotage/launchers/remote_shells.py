"""``ssh`` and ``rsh``, a login on each node, and ``fork``, here: ranks that need no MPI, as processes of their own.

One login reaches a node, and starts all ranks there: a small script on this host (the driver) holds a login for each node, and
on each a script from the shared folder starts its ranks. Ranks end by themselves, each when it will; the exit code is the first
that is not 0. A login brings neither environment nor folder, so the ranks' script holds both; what ``ssh`` itself is told
(which user, which key, whether to trust a new host) is left to its configuration.

A login that ends leaves the ranks behind. So TERM to the driver makes it log in once more, and end them; after KILL they stay.
``rsh`` does not tell how a command ended, so the node's script writes it down.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pilotage.launchers.method import Installed, LaunchLine, LaunchRequest, MethodFacts, file_path, refuse
from pilotage.launchers.rank_script import rank_part
from pilotage.launchers.spread import Spread, spread_of

_RANK = "PILOTAGE_LAUNCH_RANK"
LOGINS_PER_NODE = 8
"""What a node of a CCM cluster takes at once."""

SSH_ARGUMENTS = ("-n", "-T", "-x", "-o", "BatchMode=yes")
"""It reads nothing, has no terminal and no windows, and asks for no password."""

# A signal ends a wait early, so each process is waited for until it is gone.
_AWAIT = """\
_code=0
for _pid in $_pids;do
wait $_pid;_ended=$?
while kill -0 $_pid 2>/dev/null;do wait $_pid;_ended=$?;done
{ended}\
[ $_code -ne 0 ]||_code=$_ended
done
"""

# A signal may come when a rank is started and its number is not noted yet: then it is ended after all.
_RANKS = (
    """\
_pids= _told=
trap '_told=1;kill -TERM $_pids 2>/dev/null' TERM INT HUP
_rank=$_first
while [ -z "$_told" ]&&[ $_rank -lt $_beyond ];do
"""
    + _RANK
    + """=$_rank "$@" &
_pids="$_pids $!"
_rank=$((_rank+1))
done
[ -z "$_told" ]||kill -TERM $_pids 2>/dev/null
"""
    + _AWAIT.format(ended="")
    + "[ $_rank -ge $_beyond ]||[ $_code -ne 0 ]||_code=143\n"
)

# Whoever ends the ranks marks it first, and the ranks' side looks after it has told its number: one of them sees the other.
_NODE = """\
_at={path}.$1
case $1 in
{blocks}
end)_at={path}.$2;: >"$_at.end";[ ! -e "$_at.pid" ]||{{ read -r _pid <"$_at.pid"&&kill -TERM $_pid;}};exit;;
esac
echo $$ >"$_at.pid"
[ ! -e "$_at.end" ]||exit 143
set -- {command}
{ranks}\
rm -f "$_at.pid"
{told}exit $_code
"""

_DRIVER = """\
_login(){{ _host=$1;shift;{login} $_host {command}" $*" </dev/null;}}
_pids=
trap '{ends}' TERM INT HUP
{logins}
_number=0
{ranks}\
exit $_code
"""


class Fork:
    """``fork``: processes of this host, without any launcher."""

    facts = MethodFacts(
        name="fork",
        commands=("/bin/sh",),
        summary="no launcher: processes on the host where the task is started",
        rank_variables={"": _RANK},
        several_nodes=False,
        starts_mpi=False,
        tried="here",
        limits="one node, no MPI",
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        if not request.here and any(slot.node != request.slots[0].node for slot in request.slots):
            refuse("fork", "starts ranks on one node, and these are on several", "use launch_method='ssh', or that of the site")
        ranks = rank_part("fork", request, _RANK)
        if len(request.slots) == 1:
            return LaunchLine(ranks.arguments, ranks.environment, ranks.files)
        driver = f"_first=0 _beyond={len(request.slots)}\n{_RANKS}exit $_code"
        return LaunchLine(["/bin/sh", "-c", driver, "sh", *ranks.arguments], ranks.environment, ranks.files)


class RemoteShell:
    """``ssh`` or ``rsh``."""

    def __init__(self, name: str, summary: str) -> None:
        self.facts = MethodFacts(
            name=name,
            commands=(name,),
            summary=summary,
            rank_variables={"": _RANK},
            ceiling=LOGINS_PER_NODE,
            ceiling_per="node",
            ceiling_why="logins at once on a node of a CCM cluster; elsewhere sshd's MaxStartups",
            starts_mpi=False,
            carries_environment=False,
            tried="with a stand-in for the login" if name == "rsh" else "sshd on one machine",
            limits="no MPI; KILL leaves the ranks",
        )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        name = self.facts.name
        own = SSH_ARGUMENTS if name == "ssh" else ("-n",)
        return remote_line(name, [installed.path, *installed.arguments, *own], request, tells_code=name == "ssh")


def remote_line(method: str, login: Sequence[str], request: LaunchRequest, *, tells_code: bool = True) -> LaunchLine:
    """Return the line that starts ranks by logins.

    ``login``: the command before host and command. ``tells_code``: it ends as the command did.

    Raises:
        BackendError: there is no shared folder.
    """
    spread = spread_of(request)
    ranks = rank_part(method, request, _RANK, carried=False)
    name, path = file_path(method, request, ".node.sh")
    quoted = shlex.quote(path)
    told = "" if tells_code else 'echo $_code >"$_at.code"\n'
    node = _NODE.format(path=quoted, blocks=_blocks(spread), command=shlex.join(ranks.arguments), ranks=_RANKS, told=told)
    hosts = [shlex.quote(block.name) for block in spread.blocks]
    ended = "" if tells_code else f"read -r _ended <{quoted}.$_number.code||_ended=255\n_number=$((_number+1))\n"
    driver = _DRIVER.format(
        login=shlex.join(login),
        command=shlex.quote(f"/bin/sh {quoted}"),
        ends="".join([f"_login {host} end {index}&" for index, host in enumerate(hosts)]),
        logins="\n".join([f'_login {host} {index}&\n_pids="$_pids $!"' for index, host in enumerate(hosts)]),
        ranks=_AWAIT.format(ended=ended),
    )
    return LaunchLine(["/bin/sh", "-c", driver, "sh"], {}, {name: node, **ranks.files})


def _blocks(spread: Spread) -> str:
    lines, begin = [], 0
    for index, block in enumerate(spread.blocks):
        lines.append(f"{index})_first={begin} _beyond={begin + block.ranks};;")
        begin += block.ranks
    return "\n".join(lines)


FORK = Fork()
SSH = RemoteShell("ssh", "a login on each node, OpenSSH")
RSH = RemoteShell("rsh", "a login on each node, on machines of old")
