"""The GPUs of this machine, by the files of their drivers: NVIDIA, AMD, Intel.

A GPU may have parts that a task can have by themselves. NVIDIA: the instances that MIG made, one by one. Intel: the tiles.
AMD: each die is a GPU of its own here, as its driver has it; that two make a card is for the platform to say.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec

from pilotage.platforms.allocations.host_lists import expand_numbers

GpuVendor = Literal["nvidia", "amd", "intel"]

_INTEL = "0x8086"
_DISPLAY_WITHOUT_SCREEN = ("0x0380", "0x0302")
"""Classes of PCI devices that compute; what drives a screen (0x0300) is the processor's own graphics."""


class GpuFound(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU. ``index`` counts those of its vendor from 0, as the variable that shows them to a program does.

    ``parts``: how many parts of it can be had by themselves, 1 if only the whole. ``near``: the hardware threads that are
    nearest to it; empty where the kernel does not tell.
    """

    vendor: GpuVendor
    index: int
    parts: int = 1
    near: tuple[int, ...] = ()


def gpus_here(*, sys: Path = Path("/sys"), dev: Path = Path("/dev"), proc: Path = Path("/proc")) -> tuple[GpuFound, ...]:
    """Return the GPUs of this machine, those of a vendor together, by index."""
    return (*_nvidia(sys, dev, proc), *_amd(sys), *_intel(sys))


def _nvidia(sys: Path, dev: Path, proc: Path) -> list[GpuFound]:
    buses = {}
    for folder in (proc / "driver/nvidia/gpus").glob("*"):
        told = re.search(r"^Device Minor:\s*(\d+)", _text(folder / "information"), re.MULTILINE)
        if told:
            buses[int(told[1])] = folder.name
    minors = sorted(int(entry.name[6:]) for entry in dev.glob("nvidia[0-9]*") if entry.name[6:].isdigit())
    found = []
    for index, minor in enumerate(minors):
        instances = list((proc / f"driver/nvidia/capabilities/gpu{minor}/mig").glob("gi*/ci*"))
        near = _near(sys, buses[minor]) if minor in buses else ()
        found.append(GpuFound(vendor="nvidia", index=index, parts=len(instances) or 1, near=near))
    return found


def _amd(sys: Path) -> list[GpuFound]:
    found: list[GpuFound] = []
    nodes = (sys / "class/kfd/kfd/topology/nodes").glob("[0-9]*")
    for folder in sorted(nodes, key=lambda each: int(each.name)):
        # Not readable, or empty, is one that the job may not use.
        words = [line.split() for line in _text(folder / "properties").splitlines()]
        told = {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdigit()}
        if not told.get("simd_count"):
            continue
        place = told.get("location_id", 0)
        bus = f"{told.get('domain', 0):04x}:{place >> 8 & 0xFF:02x}:{place >> 3 & 0x1F:02x}.{place & 7}"
        found.append(GpuFound(vendor="amd", index=len(found), near=_near(sys, bus)))
    return found


def _intel(sys: Path) -> list[GpuFound]:
    found: list[GpuFound] = []
    cards = [card for card in (sys / "class/drm").glob("card[0-9]*") if card.name[4:].isdigit()]
    for card in sorted(cards, key=lambda each: int(each.name[4:])):
        device = card / "device"
        if _text(device / "vendor") != _INTEL or not _text(device / "class").startswith(_DISPLAY_WITHOUT_SCREEN):
            continue
        # Two drivers, two places.
        tiles = list((card / "gt").glob("gt[0-9]*")) or list(device.glob("tile[0-9]*"))
        found.append(
            GpuFound(vendor="intel", index=len(found), parts=len(tiles) or 1, near=_numbers(_text(device / "local_cpulist")))
        )
    return found


def _near(sys: Path, bus: str) -> tuple[int, ...]:
    # The NVIDIA driver writes eight digits for the domain, in letters of either case.
    domain, _, rest = bus.lower().partition(":")
    return _numbers(_text(sys / "bus/pci/devices" / f"{domain[-4:]}:{rest}" / "local_cpulist"))


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(expand_numbers(text))
    except ValueError:
        return ()


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
