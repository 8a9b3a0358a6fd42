"""Each attribute of a task description by itself: what it becomes on its way to the pilot, and what is refused in which words.

The tables name every attribute; the tests at the end see to that.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from description_support import MPICH, Here, Submission, made

from pilotage.client import constants as rp
from pilotage.client.node_list import RO, Slot
from pilotage.client.reconstruction import description_of
from pilotage.client.task_description import TaskDescription
from pilotage.client.task_fields import OLDER_TASK_NAMES, TASK_FIELDS
from pilotage.client.templates import fingerprint
from pilotage.core.client.facts import Held
from pilotage.core.client.state import TaskRecord
from pilotage.errors import InvalidTask
from pilotage.model.ids import TaskUid
from pilotage.model.resources import NodeShare, Request
from pilotage.model.services import Probe, Service
from pilotage.model.staging import Directive, StagingAction, StagingFlag
from pilotage.model.workload import ALL_RANKS, Extra, Hooks, MpiLauncher, Row, Template

See = Callable[[Template, Row], object]


def double(number: int) -> int:
    return 2 * number


class Model:
    def run(self) -> None: ...


OPENMPI = MpiLauncher("openmpi", "/opt/openmpi/bin/mpiexec", "5.0")
SERVICE = {"mode": rp.TASK_SERVICE, "executable": "server"}
EVAL = {"mode": rp.TASK_EVAL}
EXEC = {"mode": rp.TASK_EXEC}


def payload(template: Template, row: Row) -> object:
    return pickle.loads(row.payload) if isinstance(row.payload, bytes) else None


def called(template: Template, row: Row) -> object:
    return pickle.loads(template.function) if isinstance(template.function, bytes) else None


def of_template(name: str) -> See:
    return lambda template, row: getattr(template, name)


def of_request(name: str) -> See:
    return lambda template, row: getattr(template.request, name)


def of_row(name: str) -> See:
    return lambda template, row: getattr(row, name)


def service(template: Template, row: Row) -> object:
    return template.service


def hooks(template: Template, row: Row) -> object:
    return template.hooks


GOOD: dict[str, list[tuple[dict[str, Any], See, object]]] = {
    "uid": [({"uid": "md-1"}, of_row("uid"), "md-1"), ({"uid": "water é"}, of_row("uid"), "water é")],
    "name": [({"name": "first"}, of_row("name"), "first")],
    "mode": [
        ({"mode": ""}, of_template("form"), ""),
        ({"mode": rp.TASK_EXECUTABLE}, of_template("form"), ""),
        ({"mode": rp.TASK_PROC}, of_template("form"), "task.proc"),
        ({"mode": rp.TASK_SERVICE}, lambda t, r: (t.form, t.mode, t.service), ("task.service", "executable", Service())),
        ({"mode": rp.AGENT_SERVICE}, lambda t, r: (t.form, t.service), ("agent.service", Service())),
        ({"function": double}, lambda t, r: (t.form, t.mode), ("", "function")),
        ({"mode": rp.TASK_METHOD, "function": Model().run}, lambda t, r: (t.form, t.mode), ("task.method", "function")),
        ({"mode": rp.TASK_SHELL, "command": "a"}, lambda t, r: (t.form, t.mode), ("task.shell", "executable")),
        ({**EVAL, "code": "1"}, lambda t, r: (t.form, t.mode), ("task.eval", "function")),
        ({**EXEC, "code": "1"}, lambda t, r: (t.form, t.mode), ("task.exec", "function")),
    ],
    "executable": [({"executable": Path("/bin/date")}, of_template("executable"), "/bin/date")],
    "arguments": [({"arguments": ["-n", 4, Path("/x")]}, of_row("arguments"), ("-n", "4", "/x"))],
    "function": [({"function": double}, called, "double"), ({"function": Model().run}, called, "Model.run")],
    "args": [({"function": double, "args": (1,)}, payload, ((1,), {}))],
    "kwargs": [({"function": double, "kwargs": {"number": 1}}, payload, ((), {"number": 1}))],
    "code": [
        ({**EVAL, "code": "1 + 1"}, lambda t, r: (called(t, r), payload(t, r)), ("evaluate", (("1 + 1",), {}))),
        ({**EXEC, "code": "return 1"}, lambda t, r: (called(t, r), payload(t, r)), ("execute", (("return 1",), {}))),
        (
            {**EXEC, "code": "return pi", "pre_exec": "from math import pi"},
            lambda t, r: (payload(t, r), t.hooks),
            ((("return pi", ("from math import pi",)), {}), None),
        ),
    ],
    "command": [
        ({"command": "a | b"}, lambda t, r: (t.executable, r.arguments, t.form), ("/bin/sh", ("-c", "a | b"), "task.shell"))
    ],
    "ranks": [({"ranks": 3}, of_request("ranks"), 3)],
    "ranks_per_node": [({"ranks": 4, "ranks_per_node": 2}, of_request("ranks_per_node"), 2)],
    "cores_per_rank": [({"cores_per_rank": 2}, of_request("cores"), 2)],
    "gpus_per_rank": [
        ({"gpus_per_rank": 0.5}, of_request("gpu_shares"), 32),
        ({"gpus_per_rank": 2}, of_request("gpu_shares"), 128),
    ],
    "gpu_type": [({"gpu_type": "rocm"}, of_template("gpu_type"), "ROCm")],
    "threading_type": [({"threading_type": rp.OpenMP}, of_template("threading_type"), "OpenMP")],
    "mem_per_rank": [({"mem_per_rank": 65}, of_request("memory"), 2)],
    "lfs_per_rank": [({"lfs_per_rank": 64}, of_request("disk"), 1)],
    "use_mpi": [
        ({"ranks": 2}, of_template("launcher"), MPICH),
        ({"ranks": 1}, of_template("launcher"), None),
        ({"use_mpi": True}, of_template("launcher"), MPICH),
        ({"ranks": 2, "use_mpi": False}, of_template("launcher"), None),
        ({"function": double, "ranks": 2}, of_template("launcher"), MPICH),
        ({**EVAL, "code": "comm.rank", "ranks": 2}, called, "evaluate_with"),
        ({**EXEC, "code": "return comm.rank", "ranks": 2}, called, "execute_with"),
    ],
    "partition": [
        ({"partition": "functions"}, of_template("partition"), "functions"),
        ({"partition": 0}, of_template("partition"), "0"),
    ],
    "launch_method": [
        ({"ranks": 2, "launch_method": "openmpi"}, of_template("launcher"), OPENMPI),
        ({"launch_method": "mpiexec"}, of_template("launcher"), MPICH),
        ({"ranks": 2, "launch_method": OPENMPI.path}, of_template("launcher"), OPENMPI),
        ({"ranks": 2, "launch_method": "fork"}, of_template("launcher"), None),
    ],
    "slots": [
        (
            {"slots": [{"node_index": 1, "cores": [0, 2]}, {"node_name": "n2", "cores": [{"index": 5}, {"index": 4}]}]},
            of_template("request"),
            Request(ranks=2, cores=2, slots=(NodeShare(1, 1, b"\5"), NodeShare(2, 1, b"\x30"))),
        ),
        (
            {"slots": [Slot(cores=[3], gpus=[RO(index=1, occupation=0.5)], mem=64, lfs=1)], "ranks": 1},
            of_template("request"),
            Request(ranks=1, cores=1, gpu_shares=32, slots=(NodeShare(0, 1, b"\x08", ((1, 32),), 1, 1),)),
        ),
    ],
    "environment": [({"environment": {"B": 1, "A": Path("/x")}}, of_template("environment"), {"A": "/x", "B": "1"})],
    "named_env": [
        ({"named_env": "analysis"}, of_template("named_env"), "analysis"),
        ({"named_env": "rp"}, of_template("named_env"), "rp"),
    ],
    "sandbox": [
        ({"sandbox": "own"}, of_template("sandbox"), ""),
        ({"sandbox": "./own"}, of_template("sandbox"), "./own"),
        ({"sandbox": "shared"}, of_template("sandbox"), "shared"),
        ({"sandbox": Path("/scratch/x")}, of_template("sandbox"), "/scratch/x"),
        ({"sandbox": "none"}, lambda t, r: (t.sandbox, t.output), ("none", "aggregate")),
        ({"sandbox": "none", "stdout": "o"}, lambda t, r: (t.sandbox, t.output), ("none", "files")),
    ],
    "stdout": [({"stdout": "o"}, of_template("stdout"), "o")],
    "stderr": [({"stderr": Path("e")}, of_template("stderr"), "e")],
    "output": [
        ({"output": ""}, of_template("output"), "files"),
        *[({"output": word}, of_template("output"), word) for word in ("files", "aggregate", "tail", "discard")],
    ],
    "output_limit_mb": [({"output_limit_mb": 1.5}, of_template("output_limit_bytes"), 3 << 19)],
    "pre_launch": [
        ({"pre_launch": "a"}, hooks, Hooks(pre_launch=("a",))),
        ({"pre_launch": ["a", "", " b "]}, hooks, Hooks(("a", "b"))),
    ],
    "post_launch": [({"post_launch": ["a"]}, hooks, Hooks(post_launch=("a",)))],
    "pre_exec": [
        ({"pre_exec": "module load gcc"}, hooks, Hooks(pre_exec=((ALL_RANKS, "module load gcc"),))),
        (
            {"ranks": 2, "pre_exec": ["a", {"0": ["b", "c"], 1: "d"}]},
            hooks,
            Hooks(pre_exec=((ALL_RANKS, "a"), (0, "b"), (0, "c"), (1, "d"))),
        ),
        ({"pre_exec": {0: "a"}}, hooks, Hooks(pre_exec=((0, "a"),))),
        ({"pre_exec": [""]}, hooks, None),
    ],
    "post_exec": [({"post_exec": ["a", {0: ["b"]}]}, hooks, Hooks(post_exec=((ALL_RANKS, "a"), (0, "b"))))],
    "pre_exec_sync": [
        ({"pre_exec": "a", "pre_exec_sync": True}, hooks, Hooks(pre_exec=((ALL_RANKS, "a"),), sync=True)),
        ({"pre_exec_sync": True}, hooks, None),
    ],
    "input_staging": [
        (
            {"input_staging": "/data/in.dat > task:///x"},
            of_row("extra"),
            Extra(input_staging=(Directive("file:///data/in.dat", "task:///x"),)),
        ),
        (
            {
                "input_staging": [
                    {"source": "pilot:///a", "target": "a", "action": rp.LINK, "flags": rp.RECURSIVE, "priority": 2}
                ]
            },
            of_row("extra"),
            Extra((Directive("pilot:///a", "task:///a", StagingAction.LINK, StagingFlag.RECURSIVE, 2),)),
        ),
        ({"function": double, "input_staging": []}, of_row("extra"), None),
    ],
    "output_staging": [
        (
            {"function": double, "output_staging": ["out.dat >> /data/out.dat"]},
            of_row("extra"),
            Extra(output_staging=(Directive("task:///out.dat", "file:///data/out.dat"),)),
        )
    ],
    "stage_on_error": [({"stage_on_error": True}, of_template("stage_on_error"), True)],
    "priority": [({"priority": -3}, of_template("priority"), -3)],
    "timeout": [({"timeout": 1.5}, of_template("timeout_s"), 1.5)],
    "duration_s": [({"duration_s": 1.5}, of_template("duration_s"), 1.5)],
    "gang": [({"gang": "a", "gang_size": 2}, of_request("gang"), "a")],
    "gang_size": [({"gang": "a", "gang_size": 2}, of_request("gang_size"), 2)],
    "grace": [({"grace": 0}, of_template("grace_s"), 0.0)],
    "retries": [({"retries": 2}, of_template("retries"), 2)],
    "retry_on": [
        ({"retries": 1, "retry_on": ["node", 75, "Signal", -9, 75]}, of_template("retry_on"), ("node", 75, "signal", -9)),
        ({"retries": 1, "retry_on": 75}, of_template("retry_on"), (75,)),
        ({**SERVICE, "restart": "on_failure", "retry_on": "exit"}, of_template("retry_on"), ("exit",)),
    ],
    "restartable": [({"restartable": True}, of_template("restartable"), True)],
    "tags": [
        ({"tags": {"colocate": 7}}, of_request("colocate"), "7"),
        ({"tags": {"colocate": {"bag": 1, "size": 3}}}, of_request("colocate"), "1"),
        ({"tags": {"node": "n1", "group": ["fat"]}}, of_request("pinned"), ("n1", "fat")),
        ({"tags": {"task": "task.000001"}}, of_request("beside"), "task.000001"),
        ({"tags": {"colocate": "a", "exclusive": True}}, lambda t, r: (t.request.colocate, t.request.exclusive), ("a", True)),
    ],
    "cleanup": [({"cleanup": True}, of_template("cleanup"), True)],
    "after": [({"after": "a"}, of_row("extra"), None), ({"after": ["a", "b", "a"]}, of_row("extra"), None)],
    "after_policy": [({"after": "a", "after_policy": "any"}, of_row("extra"), None)],
    "services": [({"services": "a"}, of_row("extra"), None)],
    "ready": [
        ({**SERVICE, "ready": "port:8080"}, service, Service(Probe("port", "8080"))),
        ({**SERVICE, "ready": "port:node1:8080"}, service, Service(Probe("port", "node1:8080"))),
        ({**SERVICE, "ready": "http://localhost:80/up"}, service, Service(Probe("http", "http://localhost:80/up"))),
        ({**SERVICE, "ready": "http:https://a.org/"}, service, Service(Probe("http", "https://a.org/"))),
        ({**SERVICE, "ready": "pattern:stdout:up at .*"}, service, Service(Probe("pattern", "stdout:up at .*"))),
        ({**SERVICE, "ready": "notify"}, service, Service(Probe("notify"))),
    ],
    "info_pattern": [({**SERVICE, "info_pattern": "stdout:port: (.*)"}, service, Service(info_pattern="stdout:port: (.*)"))],
    "startup_timeout": [({**SERVICE, "startup_timeout": 5}, service, Service(startup_timeout_s=5.0))],
    "health": [({**SERVICE, "health": "port:8080"}, service, Service(health=Probe("port", "8080")))],
    "health_interval": [({**SERVICE, "health_interval": 1}, service, Service(health_interval_s=1.0))],
    "restart": [
        ({**SERVICE, "restart": "always"}, lambda t, r: (t.service, t.retries), (Service(restart="always"), 0)),
        ({**SERVICE, "retries": 2}, lambda t, r: (t.service, t.retries), (Service(restart="on_failure"), 2)),
    ],
}
"""By attribute: descriptions that are accepted (of an executable, unless they say otherwise), and what is seen of each."""

AT_MOST = "and 1000000000 at most"

BAD: dict[str, list[tuple[dict[str, Any], str]]] = {
    "uid": [
        ({"uid": "a/b"}, "uid='a/b' (str) cannot name a task: use 1 to 200 bytes"),
        ({"uid": "\N{GREEK SMALL LETTER ALPHA}" * 101}, "cannot name a task: it has 202 bytes in UTF-8: use 1 to 200 bytes"),
        ({"uid": "shared"}, "uid='shared' (str) cannot name a task: beside the sandboxes of tasks, a folder of this name"),
        ({"uid": "shard.0001"}, "choose another that is not 'shared' and does not begin with 'shard.'"),
        ({"uid": 3}, "uid takes text (str), not 3 (int)"),
    ],
    "name": [
        ({"name": 3}, "name takes text (str), not 3 (int)"),
        ({"name": "a\0"}, "name is 'a\\x00' (str); it holds a NUL character"),
        ({"function": double, "name": "a\0"}, "name is 'a\\x00' (str); it holds a NUL character"),
    ],
    "mode": [
        ({"mode": 3}, "mode takes text (str), not 3 (int)"),
        ({"mode": "task.shel"}, "did you mean 'task.shell'?"),
        ({"mode": rp.RAPTOR_MASTER}, "mode='raptor.master' is not supported yet by this version; it comes with RAPTOR"),
        ({"mode": rp.RAPTOR_WORKER}, "mode='raptor.worker' is not supported yet by this version; it comes with RAPTOR"),
    ],
    "executable": [
        ({"executable": 3}, "executable takes a path (str or pathlib.Path), not 3 (int)"),
        ({"executable": ""}, "nothing to run is given; set executable (and arguments), function (args, kwargs), command, or"),
        ({"mode": rp.TASK_PROC, "executable": ""}, "mode='task.proc' needs an executable; set executable (and arguments)"),
        ({"mode": rp.TASK_SERVICE, "executable": ""}, "mode='task.service' needs an executable; set executable"),
        (
            {**SERVICE, "info_pattern": "stdout:at (.*)", "output": "discard"},
            "info_pattern='stdout:at (.*)' reads what the service prints, and output='discard' keeps nothing of it; "
            "set output='files', 'aggregate' or 'tail'",
        ),
        ({**SERVICE, "ready": "pattern:stderr:up", "output": "discard"}, "ready='pattern:stderr:up' reads what the service"),
        ({**SERVICE, "health": "pattern:stderr:up", "output": "discard"}, "health='pattern:stderr:up' reads what the service"),
        ({"executable": "a", "command": "b"}, "both command='b' and executable='a' are given; a task runs one of them"),
        ({"mode": rp.TASK_SHELL, "executable": "a", "command": "b"}, "both command='b' and executable='a' are given"),
    ],
    "arguments": [
        ({"arguments": "-l"}, "put it into a list: ['-l']"),
        ({"arguments": [None]}, "arguments[0] is None (NoneType); only text, numbers and paths can be handed over"),
        ({"function": double, "arguments": [1]}, "arguments are for executables; give a function its args (list)"),
        ({"command": "a", "arguments": [1]}, "arguments are for executables; put them into the command"),
        ({**EVAL, "code": "1", "arguments": [1]}, "arguments are for executables; put the values into the code"),
    ],
    "function": [
        ({"function": "double"}, "function takes a callable, not 'double' (str); give the function or bound method itself"),
        ({"mode": rp.TASK_FUNCTION, "executable": "a"}, "mode='task.function' needs a function, not executable='a'"),
        ({"mode": rp.TASK_METHOD, "executable": ""}, "mode='task.method' needs a function; set function (and args, kwargs)"),
        ({"mode": rp.TASK_SHELL, "command": "a", "function": double}, "both command='a' and a function are given"),
    ],
    "args": [
        ({"function": double, "args": 3}, "args takes a list, not 3 (int)"),
        ({"args": [1]}, "args are for functions; give an executable its arguments (list)"),
        ({"command": "a", "args": [1]}, "args are for functions; put them into the command"),
    ],
    "kwargs": [
        ({"function": double, "kwargs": [1]}, "kwargs takes a dict, not [1] (list)"),
        ({"function": double, "kwargs": {1: 2}}, "kwargs has the key 1 (int); names of arguments are text (str)"),
        ({"kwargs": {"a": 1}}, "kwargs are for functions; give an executable its arguments (list)"),
    ],
    "code": [
        ({**EVAL, "code": 3}, "code takes text (str), not 3 (int)"),
        ({**EVAL, "executable": ""}, "mode='task.eval' needs code; set code"),
        (
            {"executable": "", "code": "1"},
            "code needs a mode: TASK_EVAL for an expression, whose value is the result, or TASK_EXEC",
        ),
        ({**EVAL, "code": "x = 1"}, "code is no Python expression, line 1: invalid syntax"),
        ({**EVAL, "code": "x = 1"}, "; statements are for mode=TASK_EXEC"),
        ({**EVAL, "code": "a\0"}, "code is no Python expression"),
        ({**EXEC, "code": "x = 1\nreturn (x"}, "code is not Python, line 2: '(' was never closed: 'return (x'"),
        ({**EXEC, "code": "from os import *"}, "code is not Python, line 1: import * only allowed at module level"),
        ({"executable": "a", "code": "1"}, "both code='1' and executable='a' are given"),
        ({"mode": rp.TASK_FUNCTION, "executable": "", "code": "1"}, "mode='task.function' needs a function, not code='1'"),
    ],
    "command": [
        ({"command": ["a"]}, "command takes text (str), not ['a'] (list)"),
        ({"mode": rp.TASK_SHELL, "executable": ""}, "mode='task.shell' needs a command; set command"),
        ({"command": "a\0"}, "command is 'a\\x00' (str); it holds a NUL character"),
    ],
    "ranks": [
        ({"ranks": 0}, f"ranks=0: it must be 1 or more, {AT_MOST}"),
        ({"ranks": 10**10}, f"ranks=10000000000: it must be 1 or more, {AT_MOST}"),
        ({"ranks": 1.0}, "ranks takes a whole number (int), not 1.0 (float)"),
    ],
    "ranks_per_node": [
        ({"ranks": 2, "ranks_per_node": 3}, "ranks_per_node=3 exceeds ranks=2; ask for 2 or fewer"),
        ({"ranks_per_node": -1}, f"ranks_per_node=-1: it must be 0 or more, {AT_MOST}"),
    ],
    "cores_per_rank": [({"cores_per_rank": 0}, f"cores_per_rank=0: it must be 1 or more, {AT_MOST}")],
    "gpus_per_rank": [
        ({"gpus_per_rank": 1.5}, "gpus_per_rank=1.5: a rank takes a part of one GPU (up to 1) or whole GPUs; ask for 1 or 2"),
        ({"gpus_per_rank": -1}, f"gpus_per_rank=-1: it must be 0 or more, {AT_MOST}"),
    ],
    "gpu_type": [({"gpu_type": "ROCM6"}, "gpu_type='ROCM6' is none of 'CUDA', 'NVIDIA', 'ROCm', 'AMD', 'Intel', 'ZE'")],
    "threading_type": [
        ({"threading_type": "OpenMPI"}, "threading_type='OpenMPI' is none of 'OpenMP', 'POSIX'; did you mean 'OpenMP'?")
    ],
    "mem_per_rank": [({"mem_per_rank": -1}, f"mem_per_rank=-1: it is in MB and must be 0 or more, {AT_MOST}")],
    "lfs_per_rank": [({"lfs_per_rank": float("nan")}, f"lfs_per_rank=nan: it is in MB and must be 0 or more, {AT_MOST}")],
    "use_mpi": [
        ({"use_mpi": 1}, "use_mpi takes True or False (bool), not 1 (int)"),
        (
            {"function": double, "ranks": 2, "use_mpi": False},
            "a function with ranks=2 is an MPI function, but use_mpi=False; leave",
        ),
        ({"use_mpi": True, "launch_method": "fork"}, "use_mpi=True and launch_method='fork' contradict each other; leave one"),
        ({"use_mpi": False, "launch_method": "mpich"}, "use_mpi=False and launch_method='mpich' contradict each other; leave"),
    ],
    "launch_method": [
        ({"launch_method": 3}, "launch_method takes a path (str or pathlib.Path), not 3 (int)"),
        ({"launch_method": "pals"}, "there is no mpiexec in PATH; to get one: pip install mpich"),
        (
            {"function": double, "ranks": 2, "launch_method": "fork"},
            "a function with ranks=2 is an MPI function, but launch_method='fork'",
        ),
    ],
    "partition": [
        ({"partition": 1.5}, "partition=1.5 (float): name a partition of the pilot, or a tag of one (str or int)"),
        ({"partition": -1}, "partition=-1 (int): name a partition"),
    ],
    "slots": [
        ({"slots": "all"}, "slots takes a list, not 'all' (str)"),
        ({"slots": [3]}, "slots[0] is 3 (int); give a slot of pilot.nodelist, or a dict of node_index, node_name, cores"),
        ({"slots": [{"node": 0}]}, "slots[0] has the unknown field 'node'; did you mean 'node_name'?"),
        ({"slots": [{"node_index": 0}]}, "slots[0] has no cores; name them"),
        ({"slots": [{"cores": [0]}]}, "slots[0]: node_index=None: name the node by its index (0 or more) or its node_name"),
        ({"slots": [{"node_name": "n9", "cores": [0]}]}, "slots[0]: node_name='n9': no pilot has a node 'n9'"),
        ({"slots": [{"node_index": 0, "cores": 2}]}, "slots[0]: cores is 2 (int); give a list of indices"),
        (
            {"slots": [{"node_index": 0, "cores": [-1]}]},
            "slots[0]: cores has the index -1 (int); indices are whole numbers from 0",
        ),
        ({"slots": [{"node_index": 0, "cores": ["0"]}]}, "slots[0]: cores has the index '0' (str); indices are whole numbers"),
        ({"slots": [{"node_index": 0, "cores": [1, 1]}]}, "slots[0]: cores names an index twice"),
        (
            {"slots": [{"node_index": 0, "cores": [{"index": 0, "occupation": 0.5}]}]},
            "slots[0]: core 0 is asked for by 0.5; a core is taken whole (1.0)",
        ),
        (
            {"slots": [{"node_index": 0, "cores": [0], "gpus": [{"index": 0, "occupation": 2}]}]},
            "slots[0]: gpus has the occupation 2 (int); it is more than 0 and at most 1.0",
        ),
        (
            {"slots": [{"node_index": 0, "cores": [0], "gpus": [{"index": i, "occupation": 0.5} for i in (0, 1)]}]},
            "slots[0]: parts of several GPUs are asked for; a rank has whole GPUs, or a part of one",
        ),
        (
            {"slots": [{"node_index": 0, "cores": [0]}, {"node_index": 1, "cores": [0, 1]}]},
            "slots[1] has other numbers of cores or GPUs than slots[0]; the ranks of a task are alike",
        ),
        (
            {"slots": [{"node_index": 0, "cores": [0, 1]}, {"node_index": 0, "cores": [1, 2]}]},
            "slots[1] and slots[0] both have core 1 of node 0; a core is one rank's",
        ),
        ({"slots": [{"node_index": 0, "cores": [0]}], "ranks": 2}, "ranks=2, but 1 slots are given; leave ranks out"),
        ({"slots": [{"node_index": 0, "cores": [0]}], "cores_per_rank": 2}, "cores_per_rank=2, but slots of 1 cores are given"),
        ({"slots": [{"node_index": 0, "cores": [0]}], "tags": {"exclusive": True}}, "both slots and tags are given"),
        ({"slots": [{"node_index": 0, "cores": [0], "mem": -1}]}, "slots[0]: mem=-1: it is in MB and must be 0 or more"),
    ],
    "environment": [
        ({"environment": {"A=B": 1}}, "environment has the name 'A=B' (str); it must be text, not empty and without '='"),
        ({"environment": {"A": None}}, "environment['A'] is None (NoneType); only text, numbers and paths"),
    ],
    "named_env": [({"named_env": "a b"}, "named_env='a b': an environment cannot be called 'a b'")],
    "sandbox": [({"sandbox": 3}, "sandbox takes a path"), ({"sandbox": "a\0"}, "sandbox is 'a\\x00' (str); it holds a NUL")],
    "stdout": [
        ({"stdout": "a\0"}, "stdout is 'a\\x00' (str)"),
        ({"stdout": "o", "output": "tail"}, "stdout='o' names a file, but output='tail'"),
    ],
    "stderr": [
        ({"stderr": 3}, "stderr takes a path"),
        ({"stderr": "e", "output": "discard"}, "stderr='e' names a file, but output='discard'"),
    ],
    "output": [
        ({"output": "tails"}, "output='tails' is none of 'files', 'aggregate', 'tail', 'discard'; did you mean 'tail'?")
    ],
    "output_limit_mb": [({"output_limit_mb": -1}, f"output_limit_mb=-1: it is in MB and must be 0 or more, {AT_MOST}")],
    "pre_launch": [
        (
            {"pre_launch": [{0: "a"}]},
            "pre_launch[0] is {0: 'a'} (dict); it runs once, where the task is launched: give text (str)",
        ),
        ({"pre_launch": [3]}, "pre_launch[0] is 3 (int); a command is text (str)"),
    ],
    "post_launch": [({"post_launch": 3}, "post_launch takes a list, or one entry of it as text or dict, not 3 (int)")],
    "pre_exec": [
        ({"pre_exec": [{1: "a"}]}, "pre_exec[0] is for rank 1 (int); the ranks of this task are 0 (ranks=1)"),
        (
            {"ranks": 2, "pre_exec": [{"all": "a"}]},
            "pre_exec[0] is for rank 'all' (str); the ranks of this task are 0 to 1 (ranks=2)",
        ),
        ({"pre_exec": ["a", {0: ["b", 3]}]}, "pre_exec[1][0] is 3 (int); a command is text (str)"),
        ({"pre_exec": ["a\0"]}, "pre_exec[0] is 'a\\x00' (str); it holds a NUL character"),
        ({**EXEC, "code": "1", "pre_exec": "import"}, "pre_exec is not Python, line 1: invalid syntax: 'import'"),
        (
            {**EXEC, "code": "1", "pre_exec": {0: "a"}},
            "pre_exec[0] is {0: 'a'} (dict); with Python code it holds statements that run before",
        ),
    ],
    "post_exec": [({"post_exec": [["a"]]}, "post_exec[0] is ['a'] (list); a command is text (str)")],
    "pre_exec_sync": [({"pre_exec_sync": "yes"}, "pre_exec_sync takes True or False (bool), not 'yes' (str)")],
    "input_staging": [
        ({"input_staging": 3}, "input_staging takes a list, or one entry of it as text or dict, not 3 (int)"),
        ({"input_staging": [3]}, "input_staging[0]: a directive is a text ('source > target') or a dict, not 3 (int)"),
        ({"function": double, "input_staging": ["a > b > c"]}, "input_staging[0]: 'a > b > c' has more than one arrow"),
        ({"input_staging": {"sorce": "a"}}, "input_staging[0]: unknown key 'sorce'; known are source, target"),
    ],
    "output_staging": [
        ({"output_staging": [{"source": "a", "action": "Cop"}]}, "output_staging[0]: unknown action 'Cop' (str)")
    ],
    "stage_on_error": [({"stage_on_error": 1}, "stage_on_error takes True or False (bool), not 1 (int)")],
    "priority": [({"priority": 10**10}, f"priority=10000000000: it must be -1000000000 or more, {AT_MOST}")],
    "gang": [
        ({"gang": "a"}, "gang='a' does not say how many tasks start together; set gang_size"),
        ({"gang": "a", "gang_size": 2, "retries": 1}, "retries=1: an attempt that follows would be without the other tasks"),
        ({"gang": "a", "gang_size": 2, "restartable": True}, "restartable=True: an attempt that follows would be without"),
        ({"gang": "a", "gang_size": 2, "tags": {"colocate": "x"}}, "tag 'colocate' makes it wait for a node of its own"),
        ({"gang": "a", "gang_size": 2, "tags": {"task": "x"}}, "tag 'task' makes it wait for a node of its own"),
        ({"gang": "a", "gang_size": 2, "mode": rp.TASK_SERVICE}, "a service starts by itself; leave gang out"),
        ({"gang": 3}, "gang takes text (str), not 3 (int)"),
    ],
    "gang_size": [
        ({"gang_size": 2}, "gang_size=2 says how many tasks start together, and no gang is named; set gang"),
        ({"gang": "a", "gang_size": -1}, "gang_size=-1: it must be 1 or more"),
    ],
    "duration_s": [({"duration_s": -1}, "duration_s=-1: it is in seconds and must be 0 or more; 0 means that it is not known")],
    "timeout": [({"timeout": -1}, "timeout=-1: it is in seconds and must be 0 or more; 0 means no limit")],
    "grace": [({"grace": float("inf")}, "grace=inf: it is in seconds and must be 0 or more")],
    "retries": [({"retries": -1}, f"retries=-1: it must be 0 or more, {AT_MOST}")],
    "retry_on": [
        ({"retries": 1, "retry_on": ["nod"]}, "retry_on[0]='nod' is none of 'exit', 'signal', 'timeout'"),
        ({"retries": 1, "retry_on": ["nod"]}, "; did you mean 'node'?"),
        (
            {"retries": 1, "retry_on": [0]},
            "retry_on[0] is 0 (int); give an exit code from 1 to 255, a signal's number as -1 to -64",
        ),
        ({"retries": 1, "retry_on": [256]}, "retry_on[0] is 256 (int); give an exit code from 1 to 255"),
        ({"retries": 1, "retry_on": [True]}, "retry_on[0] is True (bool)"),
        ({"retries": 1, "retry_on": 1.5}, "retry_on takes a list of exit codes (int) and words (str), or one of them, not 1.5"),
        ({"retry_on": ["node"]}, "retry_on=['node'] says what retries are for, and there are none; set retries"),
    ],
    "restartable": [({"restartable": 1}, "restartable takes True or False (bool), not 1 (int)")],
    "pilot": [({"pilot": 3}, "pilot takes text (str), not 3 (int)")],
    "tags": [
        (
            {"tags": {"colocated": "x"}},
            "unknown tag 'colocated'; known are colocate, exclusive, node, group, task; did you mean 'colocate'?",
        )
    ],
    "cleanup": [
        ({"cleanup": "yes"}, "cleanup takes True or False (bool), not 'yes' (str)"),
        (
            {"cleanup": True, "sandbox": "shared"},
            "cleanup=True removes a task's own sandbox, but sandbox='shared' is not its own",
        ),
    ],
    "after": [
        ({"after": 3}, "after takes a list of tasks or their uids, or one of them, not 3 (int)"),
        ({"after": [3]}, "after[0] is 3 (int); give a task, or its uid"),
        ({"after": [""]}, "after[0] is '' (str); give a task, or its uid"),
    ],
    "after_policy": [
        ({"after": "a", "after_policy": "all"}, "after_policy='all' is none of 'ok', 'any', 'notok'"),
        ({"after_policy": "any"}, "after_policy='any' without after; name the tasks that it is to run after"),
    ],
    "services": [
        ({"services": {"a": 1}}, "services takes a list of tasks or their uids, or one of them, not {'a': 1} (dict)"),
        ({"services": "a", "after": "a"}, "'a' is in both after and services; the task would need a service that has ended"),
    ],
    "ready": [
        (
            {**SERVICE, "ready": "tcp:80"},
            "ready='tcp:80' is no probe; give 'port:8080', 'port:host:8080', 'http://host:8080/path'",
        ),
        ({**SERVICE, "ready": "port:http"}, "ready='port:http': a port is a number from 1 to 65535"),
        ({**SERVICE, "ready": "port:70000"}, "ready='port:70000': a port is a number from 1 to 65535"),
        ({**SERVICE, "ready": "http:8080"}, "ready='http:8080' holds no URL with a host and a valid port"),
        ({**SERVICE, "ready": "pattern:up"}, "ready='up': a pattern is 'src:regex', where src is stdout, stderr or a file"),
        ({"ready": "notify"}, "ready='notify' is for services; set mode=TASK_SERVICE, or leave it out"),
    ],
    "info_pattern": [
        ({**SERVICE, "info_pattern": "(a"}, "info_pattern='(a': a pattern is 'src:regex'"),
        ({**SERVICE, "info_pattern": "stdout:(a"}, "info_pattern='stdout:(a' holds no regular expression: missing )"),
        (
            {**SERVICE, "info_pattern": "stdout:a"},
            "info_pattern='stdout:a' has no group; put what is the information into parentheses",
        ),
        ({"info_pattern": "stdout:(a)"}, "info_pattern='stdout:(a)' is for services"),
    ],
    "startup_timeout": [
        ({**SERVICE, "startup_timeout": -1}, "startup_timeout=-1: it is in seconds and must be 0 or more; 0 means no limit"),
        ({"startup_timeout": 5}, "startup_timeout=5 is for services"),
    ],
    "health": [
        ({**SERVICE, "health": "notify"}, "health='notify' cannot be asked again and again; use a port, http or pattern probe"),
        ({"health": "port:80"}, "health='port:80' is for services"),
    ],
    "health_interval": [
        ({**SERVICE, "health_interval": 0}, "health_interval=0: it is in seconds and must be 0.1 or more"),
        ({"health_interval": 5}, "health_interval=5 is for services"),
    ],
    "restart": [
        ({**SERVICE, "restart": "sometimes"}, "restart='sometimes' is none of 'never', 'on_failure', 'always'"),
        ({"restart": "always"}, "restart='always' is for services"),
    ],
    "raptor_id": [
        ({"raptor_id": "a"}, "attribute 'raptor_id' is not supported yet by this version; it comes with RAPTOR masters")
    ],
    "raptor_class": [({"raptor_class": "a"}, "attribute 'raptor_class' is not supported yet by this version")],
    "raptor_file": [({"raptor_file": "a"}, "attribute 'raptor_file' is not supported yet by this version")],
}
"""By attribute: descriptions that are refused, and what is told."""


def whole(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes with an executable to run, if there is nothing to run among them."""
    alone = {"executable", "function", "code", "command"} & attributes.keys()
    return attributes if alone else {"executable": "a", **attributes}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(*case, id=f"{name}-{number}") for name, several in table.items() for number, case in enumerate(several)
    ]


@pytest.mark.parametrize(("attributes", "see", "expected"), cases(GOOD))
def test_an_attribute_reaches_the_pilot(attributes: dict[str, Any], see: See, expected: object) -> None:
    assert see(*made(Here(MPICH, OPENMPI), **whole(attributes))) == expected


@pytest.mark.parametrize(("attributes", "told"), cases(BAD))
def test_a_wrong_value_is_refused_at_the_callers_line(attributes: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidTask) as refused:
        Submission(here=Here(MPICH)).split(TaskDescription(whole(attributes)))
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert traceback.extract_tb(refused.value.__traceback__)[0].filename == __file__


@pytest.mark.parametrize(("attributes", "told"), cases(BAD))
def test_a_wrong_value_is_refused_after_a_good_one(attributes: dict[str, Any], told: str) -> None:
    """What is a task's own is checked of each, also when others of its template were accepted."""
    good = [TaskDescription(whole(case)) for several in GOOD.values() for case, _, _ in several]
    with pytest.raises(InvalidTask) as refused:
        Submission(here=Here(MPICH, OPENMPI)).split(*good, TaskDescription(whole(attributes)))
    assert told in str(refused.value) or "launch_method" in attributes


@pytest.mark.parametrize(("attributes", "see", "expected"), cases(GOOD))
def test_a_description_comes_back_from_the_log(attributes: dict[str, Any], see: See, expected: object) -> None:
    """What a resumed session shows of a task makes the same task again."""
    here = Here(MPICH, OPENMPI)
    given = whole({name: value for name, value in attributes.items() if name != "function"})
    if attributes.get("function"):
        given = {**{name: value for name, value in given.items() if name != "executable"}, "function": double}
    template, row = real(here, given)
    record = TaskRecord(row, "tmgr.0000")
    held = Held(tuple(dict.fromkeys(given["after"]))) if isinstance(given.get("after"), list) else None
    again = description_of(template, record, lambda payload: payload if isinstance(payload, bytes) else b"", {}, held)
    template_again, row_again = real(here, dict(again.items()))
    assert fingerprint(template_again, row_again) == fingerprint(template, row)
    assert held is None or again.after == list(dict.fromkeys(given["after"]))


def real(here: Here, attributes: dict[str, Any]) -> tuple[Template, Row]:
    """Return template and row with functions and arguments really pickled."""
    submission = Submission(here=here)
    submission.pack_function = pickle.dumps  # type: ignore[method-assign, assignment]
    templates, rows = submission.split(TaskDescription(attributes))
    return templates[rows[0].template], rows[0]


def test_every_attribute_has_good_and_bad_cases() -> None:
    known = set(TASK_FIELDS)
    awaited = {name for name in known if TASK_FIELDS[name].awaits}
    clients_own = {"metadata", "pilot"}
    assert awaited == {"raptor_id", "raptor_class", "raptor_file"}
    assert set(GOOD) == known - awaited - clients_own
    assert set(BAD) == known - {"metadata"}


def test_ranks_without_mpi_are_plain_processes_and_that_is_told() -> None:
    here = Here()
    template, _ = made(here, executable="a", ranks=2)
    assert template.launcher is None
    assert here.told == ["there is no mpiexec in PATH; to get one: pip install mpich"]


@pytest.mark.parametrize("attributes", [{"executable": "a", "use_mpi": True}, {"function": double, "ranks": 2}])
def test_mpi_that_is_needed_and_not_here_is_refused_with_the_remedy(attributes: dict[str, Any]) -> None:
    with pytest.raises(
        InvalidTask, match=r"^task 1 of 1: .* needs MPI, but there is no mpiexec in PATH; to get one: pip install mpich$"
    ):
        made(Here(), **attributes)


def test_the_mpiexec_is_sought_in_the_path_of_the_task() -> None:
    here = Here(MPICH)
    made(here, executable="a", ranks=2, environment={"PATH": "/opt/mpi/bin"})
    assert here.asked == [("", "/opt/mpi/bin")]


def test_the_path_of_an_mpiexec_does_not_make_another_task() -> None:
    moved = MpiLauncher("mpich", "/usr/bin/mpiexec", "4.3")
    marks = {fingerprint(*made(Here(launcher), executable="a", ranks=2)) for launcher in (MPICH, moved, OPENMPI)}
    assert len(marks) == 2


def test_commands_and_code_share_a_template() -> None:
    commands = [TaskDescription(command=f"echo {number}") for number in range(5)]
    expressions = [TaskDescription(mode=rp.TASK_EVAL, code=f"{number} + 1") for number in range(5)]
    submission = Submission()
    templates, rows = submission.split(*commands, *expressions)
    assert len(templates) == 2
    assert [row.arguments for row in rows[:5]] == [("-c", f"echo {number}") for number in range(5)]
    assert len(submission.packed_functions) == 1


def test_sandboxes_are_numbered_in_folders_of_a_thousand() -> None:
    submission = Submission()
    _, rows = submission.split(*[TaskDescription(executable="a") for _ in range(2500)], first=400)
    assert [row.shard for row in rows] == [number // 1000 for number in range(400, 2900)]


def test_what_tasks_wait_for_is_told_by_position() -> None:
    submission = Submission()
    submission.split(
        TaskDescription(executable="a"),
        TaskDescription(executable="a", after="x"),
        TaskDescription(function=double, services=["y"]),
    )
    assert submission.held == {1: Held((TaskUid("x"),)), 2: Held(services=(TaskUid("y"),))}


def test_a_method_is_taken_under_its_older_name_with_one_warning() -> None:
    model = Model()
    with pytest.warns(DeprecationWarning, match="TaskDescription.method is an older name: use 'function'") as warned:
        task = TaskDescription(mode=rp.TASK_METHOD, method=model.run)
    assert len(warned) == 1
    assert task.function == model.run
    with (
        pytest.warns(DeprecationWarning),
        pytest.raises(InvalidTask, match="give the function or bound method itself, not its name"),
    ):
        TaskDescription(mode=rp.TASK_METHOD, method="run")


@pytest.mark.parametrize("older", OLDER_TASK_NAMES)
def test_each_older_name_warns_once(older: str) -> None:
    value: Any = {"method": double}.get(
        older, 1 if "processes" in older or "threads" in older or "per_process" in older else "x"
    )
    with pytest.warns(DeprecationWarning) as warned:
        TaskDescription({older: value})
    assert len(warned) == 1
