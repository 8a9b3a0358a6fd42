"""What the configuration files of a test's cluster say; see ``slurm_cluster``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Shape(NamedTuple):
    """What a cluster is to have; cores, GPUs and memory are each node's."""

    nodes: int
    cores: int
    gpus: int
    memory_mib: int
    grace_s: int
    keeps_to_memory: bool
    extra: str


def gres_configuration(shape: Shape, folder: Path) -> str:
    """Return gres.conf."""
    if not shape.gpus:
        return ""
    return f"NodeName=node[1-{shape.nodes}] Name=gpu Type=fake File={folder}/devices/gpu[0-{shape.gpus - 1}]\n"


def cgroup_configuration(shape: Shape, folder: Path) -> str:
    """Return cgroup.conf."""
    if not shape.keeps_to_memory:
        return "CgroupAutomount=no\n"
    return f"""\
CgroupPlugin=cgroup/v1
CgroupAutomount=no
CgroupMountpoint={folder}/cgroup
ConstrainRAMSpace=yes
ConstrainSwapSpace=yes
AllowedSwapSpace=0
"""


def slurm_configuration(shape: Shape, folder: Path, ports: list[int], user: str, host: str) -> str:
    """Return slurm.conf. ``ports``: the controller's, then one for each node."""
    controller, *node_ports = ports
    gres = f" Gres=gpu:fake:{shape.gpus}" if shape.gpus else ""
    node = (
        f"NodeHostname={host} NodeAddr=127.0.0.1 Sockets=1 CoresPerSocket={shape.cores} ThreadsPerCore=1 "
        f"RealMemory={shape.memory_mib}{gres} State=UNKNOWN"
    )
    nodes = "\n".join(f"NodeName=node{number} Port={port} {node}" for number, port in enumerate(node_ports, 1))
    return f"""\
ClusterName=pilotage
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# Jobs that are queued again wait for as long as credentials last.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
PlugStackConfig={folder}/etc/plugstack.conf
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
SlurmctldDebug=info
SlurmdDebug=info
MpiDefault=none
SwitchType=switch/none

GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={max(1, shape.memory_mib // shape.cores)}
# The cores of the nodes are those of this file, not the machine's.
SlurmdParameters=config_overrides
TaskPlugin=task/affinity{",task/cgroup" if shape.keeps_to_memory else ""}
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/completed_jobs

SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Nodes that were set down stay so until somebody resumes them.
ReturnToService=1
# A busy machine must not lose nodes; tests that want one down say so.
SlurmdTimeout=60
SlurmctldTimeout=10
InactiveLimit=0
MinJobAge=300
KillWait=2
WaitTime=0
{shape.extra}
{nodes}
PartitionName=DEFAULT Nodes=ALL State=UP MaxTime=INFINITE DefaultTime=10
PartitionName=whole Default=YES OverSubscribe=EXCLUSIVE PriorityTier=10 PreemptMode=OFF
PartitionName=shared OverSubscribe=YES PriorityTier=10 PreemptMode=OFF
PartitionName=spare OverSubscribe=NO PriorityTier=1 PreemptMode=REQUEUE GraceTime={shape.grace_s}
"""
