"""How the nodes of a platform are shared out between tasks, the agent and nobody. See ``pilotage.platforms.node_shape``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

_Amount = Annotated[int, msgspec.Meta(ge=0)]


class NodeRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the nodes of a platform are shared out.

    ``threads_per_core``: how many hardware threads of each core tasks get; 0: all there are. ``reserved_cores``: hardware
    threads for nobody, by the operating system's number; the other threads of their cores are left out, too.
    ``reserved_cores_per_l3``: the first so many cores of each L3 domain are for nobody (low-noise modes).
    ``agent_cores``: how many cores are kept for the agent, from the end. ``gpu_unit``: whether a GPU is a device or a part of
    one. ``gpu_parts``: how many parts a device has where its driver does not tell; 0: as it tells. ``devices_per_gpu``: how
    many devices together are one GPU. ``gpu_cores``: the hardware threads nearest to each device, where the kernel does not
    tell or tells too little.
    """

    threads_per_core: _Amount = 0
    reserved_cores: tuple[int, ...] = ()
    reserved_cores_per_l3: _Amount = 0
    agent_cores: _Amount = 0
    gpu_unit: Literal["device", "part"] = "device"
    gpu_parts: _Amount = 0
    devices_per_gpu: Annotated[int, msgspec.Meta(ge=1)] = 1
    gpu_cores: tuple[tuple[int, ...], ...] = ()
