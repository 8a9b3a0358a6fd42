"""Pilotage: a pilot system for high-performance computing.

Importing this costs next to nothing: each name is loaded from its module when it is used first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pilotage.version import __version__

version = __version__
"""The same: the name that users of RADICAL-Pilot print."""

if TYPE_CHECKING:
    from pilotage import errors as errors
    from pilotage.client.aliases import ComputePilotDescription as ComputePilotDescription
    from pilotage.client.aliases import ComputeUnitDescription as ComputeUnitDescription
    from pilotage.client.aliases import pythontask as pythontask
    from pilotage.client.constants import *  # noqa: F403
    from pilotage.client.executor import Executor as Executor
    from pilotage.client.node_list import RO as RO
    from pilotage.client.node_list import Node as Node
    from pilotage.client.node_list import NodeList as NodeList
    from pilotage.client.node_list import NumaDomain as NumaDomain
    from pilotage.client.node_list import NumaNode as NumaNode
    from pilotage.client.node_list import NumaNodeList as NumaNodeList
    from pilotage.client.node_list import RankRequirements as RankRequirements
    from pilotage.client.node_list import ResourceOccupation as ResourceOccupation
    from pilotage.client.node_list import Slot as Slot
    from pilotage.client.notebook import show as show
    from pilotage.client.pilot import Pilot as Pilot
    from pilotage.client.pilot_description import PilotDescription as PilotDescription
    from pilotage.client.pilot_manager import PilotManager as PilotManager
    from pilotage.client.python_task import PythonTask as PythonTask
    from pilotage.client.resources import Resources as Resources
    from pilotage.client.session import Session as Session
    from pilotage.client.task import Task as Task
    from pilotage.client.task_description import TaskDescription as TaskDescription
    from pilotage.client.task_manager import TaskManager as TaskManager
    from pilotage.client.task_manager import TaskManager as UnitManager  # noqa: F401
    from pilotage.errors import *  # noqa: F403
    from pilotage.model.outcome import Ending as Ending
    from pilotage.model.outcome import Outcome as Outcome
    from pilotage.model.partitions import PartitionSpec as PartitionSpec
    from pilotage.model.partitions import PartitionStatus as PartitionStatus
    from pilotage.model.partitions import PolicySpec as PolicySpec
    from pilotage.model.states import *  # noqa: F403
    from pilotage.workers.current import CurrentTask as CurrentTask
    from pilotage.workers.current import current_task as current_task
    from pilotage.workers.service import service_ready as service_ready

_HOMES = {
    "ComputePilotDescription": "pilotage.client.aliases",
    "ComputeUnitDescription": "pilotage.client.aliases",
    "CurrentTask": "pilotage.workers.current",
    "Ending": "pilotage.model.outcome",
    "Executor": "pilotage.client.executor",
    "Node": "pilotage.client.node_list",
    "NodeList": "pilotage.client.node_list",
    "NumaDomain": "pilotage.client.node_list",
    "NumaNode": "pilotage.client.node_list",
    "NumaNodeList": "pilotage.client.node_list",
    "Outcome": "pilotage.model.outcome",
    "PartitionSpec": "pilotage.model.partitions",
    "PartitionStatus": "pilotage.model.partitions",
    "Pilot": "pilotage.client.pilot",
    "PilotDescription": "pilotage.client.pilot_description",
    "PilotManager": "pilotage.client.pilot_manager",
    "PolicySpec": "pilotage.model.partitions",
    "PythonTask": "pilotage.client.python_task",
    "RO": "pilotage.client.node_list",
    "RankRequirements": "pilotage.client.node_list",
    "ResourceOccupation": "pilotage.client.node_list",
    "Resources": "pilotage.client.resources",
    "Session": "pilotage.client.session",
    "Slot": "pilotage.client.node_list",
    "Task": "pilotage.client.task",
    "TaskDescription": "pilotage.client.task_description",
    "TaskManager": "pilotage.client.task_manager",
    "current_task": "pilotage.workers.current",
    "pythontask": "pilotage.client.aliases",
    "service_ready": "pilotage.workers.service",
    "show": "pilotage.client.notebook",
}
_ALIASES = {"UnitManager": "TaskManager"}
# Modules whose public names are all ours: states, constants and errors.
_OPEN_MODULES = ("pilotage.model.states", "pilotage.client.constants", "pilotage.errors")


def __getattr__(name: str) -> Any:
    from importlib import import_module

    home = _HOMES.get(_ALIASES.get(name, name))
    if home is not None:
        value = getattr(import_module(home), _ALIASES.get(name, name))
    elif name == "errors":
        value = import_module("pilotage.errors")
    else:
        value = _constant(name)
    globals()[name] = value
    return value


def _constant(name: str) -> Any:
    from importlib import import_module

    if not name.startswith("_"):
        for module in map(import_module, _OPEN_MODULES):
            public = getattr(module, "__all__", None)
            if name in vars(module) and (name in public if public is not None else name.isupper() or name in _MIXED_CASE):
                return getattr(module, name)
    if name in _AWAITED:
        raise AttributeError(f"pilotage.{name} {_AWAITED[name]}")
    from pilotage.errors import nearest

    raise AttributeError(f"module 'pilotage' has no attribute {name!r}{nearest(name, __dir__())}")


_RAPTOR = "is not supported yet by this version: functions run without masters; submit them as tasks of mode TASK_FUNCTION"
_AWAITED = {
    **dict.fromkeys(("raptor", "Raptor", "Master", "Worker", "RaptorMaster", "RaptorWorker"), _RAPTOR),
    "utils": "does not exist: what scripts use of RADICAL's utilities is in the package radical.utils, which can be installed; "
    "paths of logs and profiles come from Session.fetch_logfiles() and Session.fetch_profiles()",
}
_MIXED_CASE = ("OpenMP", "GPU_OpenMP")


def __dir__() -> list[str]:
    from importlib import import_module

    constants = {
        name
        for module in map(import_module, _OPEN_MODULES)
        for name in getattr(module, "__all__", [name for name in vars(module) if name.isupper()])
        if not name.startswith("_")
    }
    return sorted({*_HOMES, *_ALIASES, *_MIXED_CASE, *constants, "__version__", "errors", "version"})


__all__ = ["__version__"]
