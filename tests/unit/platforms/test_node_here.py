"""What the node itself says, from files of the kernel laid out as on machines of several makes."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pilotage.platforms.allocations.host_lists import compress_numbers
from pilotage.platforms.gpus_here import GpuFound, gpus_here
from pilotage.platforms.machine import usable_cores
from pilotage.platforms.node_here import NodeFound, usable_here


def lay(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def topology(cores: int, *, threads: int, numa: int, l3: int) -> dict[str, str]:
    """Return the files of a node as Linux numbers it: first one thread of each core, then the others."""
    files = {}
    for cpu in range(cores * threads):
        core = cpu % cores
        siblings = [core + cores * thread for thread in range(threads)]
        first = core - core % (cores // l3)
        sharing = [each + cores * thread for each in range(first, first + cores // l3) for thread in range(threads)]
        folder = f"sys/devices/system/cpu/cpu{cpu}"
        files[f"{folder}/topology/thread_siblings_list"] = compress_numbers(siblings) + "\n"
        files[f"{folder}/cache/index0/level"] = "1\n"
        files[f"{folder}/cache/index0/shared_cpu_list"] = compress_numbers(siblings) + "\n"
        files[f"{folder}/cache/index3/level"] = "3\n"
        files[f"{folder}/cache/index3/shared_cpu_list"] = compress_numbers(sharing) + "\n"
    for domain in range(numa):
        width = cores // numa
        inside = [domain * width + each + cores * thread for each in range(width) for thread in range(threads)]
        files[f"sys/devices/system/node/node{domain}/cpulist"] = compress_numbers(inside) + "\n"
    return files


def here(root: Path, affinity: Sequence[int], limits: Mapping[int, int] | None = None) -> NodeFound:
    return usable_here(
        root,
        sys=root / "sys",
        dev=root / "dev",
        proc=root / "proc",
        affinity=lambda: affinity,
        limit_of=lambda kind: ((limits or {}).get(kind, resource.RLIM_INFINITY), resource.RLIM_INFINITY),
        name="node1",
    )


def test_cores_with_their_threads_and_domains(tmp_path: Path) -> None:
    lay(tmp_path, topology(8, threads=2, numa=2, l3=4))
    found = here(tmp_path, range(16))
    assert found.cores == tuple((core, core + 8) for core in range(8))
    assert found.threads_per_core == 2
    assert found.numa_domains == ((0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15))
    assert found.l3_domains == ((0, 1, 8, 9), (2, 3, 10, 11), (4, 5, 12, 13), (6, 7, 14, 15))


def test_only_what_the_affinity_mask_has(tmp_path: Path) -> None:
    lay(tmp_path, topology(8, threads=2, numa=2, l3=4))
    found = here(tmp_path, [1, 2, 9, 10, 7])
    assert found.cores == ((1, 9), (2, 10), (7,))
    assert found.numa_domains == ((1, 2, 9, 10), (7,))
    assert found.l3_domains == ((1, 9), (2, 10), (7,))


def test_eleven_domains_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    lay(tmp_path, topology(11, threads=1, numa=11, l3=1))
    assert here(tmp_path, range(11)).numa_domains == tuple((core,) for core in range(11))


def test_a_kernel_that_tells_nothing_has_cores_of_one_thread_and_no_domains(tmp_path: Path) -> None:
    found = here(tmp_path, [3, 4])
    assert (found.cores, found.numa_domains, found.l3_domains, found.gpus) == (((3,), (4,)), (), (), ())
    assert (found.memory_mib, found.processes, found.open_files) == (0, None, None)


def test_a_domain_of_memory_alone_is_no_domain_of_cores(tmp_path: Path) -> None:
    lay(tmp_path, {**topology(4, threads=1, numa=2, l3=1), "sys/devices/system/node/node2/cpulist": "\n"})
    assert here(tmp_path, range(4)).numa_domains == ((0, 1), (2, 3))


def test_domains_that_leave_cores_out_are_not_believed(tmp_path: Path) -> None:
    lay(tmp_path, {**topology(4, threads=1, numa=2, l3=1), "sys/devices/system/node/node1/cpulist": "2\n"})
    assert here(tmp_path, range(4)).numa_domains == ()


MEMINFO = {"proc/meminfo": f"MemTotal:       {64 * 1024 * 1024} kB\nMemFree: 1 kB\n"}
GIB = 1 << 30


def test_the_tightest_of_the_cgroups_around_the_process_bounds_memory_and_processes(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "0::/system.slice/slurmstepd.scope/job_8/step_batch\n",
            "sys/fs/cgroup/system.slice/slurmstepd.scope/job_8/step_batch/memory.max": "max\n",
            "sys/fs/cgroup/system.slice/slurmstepd.scope/job_8/memory.max": f"{16 * GIB}\n",
            "sys/fs/cgroup/system.slice/memory.max": f"{32 * GIB}\n",
            "sys/fs/cgroup/system.slice/pids.max": "4096\n",
        },
    )
    found = here(tmp_path, [0], {resource.RLIMIT_NPROC: 10_000, resource.RLIMIT_NOFILE: 1024})
    assert (found.memory_mib, found.processes, found.open_files) == (16_384, 4096, 1024)


def test_cgroups_of_the_first_version(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "9:name=systemd:/\n8:pids:/user\n4:cpu,memory:/slurm/job_8\n",
            "sys/fs/cgroup/memory/slurm/job_8/memory.limit_in_bytes": f"{8 * GIB}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/pids/user/pids.max": "77\n",
        },
    )
    found = here(tmp_path, [0], {resource.RLIMIT_NPROC: 50})
    assert (found.memory_mib, found.processes) == (8192, 50)


def test_all_memory_where_no_cgroup_bounds_it(tmp_path: Path) -> None:
    lay(tmp_path, {**MEMINFO, "proc/self/cgroup": "0::/\n"})
    assert here(tmp_path, [0]).memory_mib == 65_536


def test_gpus_of_nvidia_with_their_instances_and_nearest_cores(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            **{f"dev/{name}": "" for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-caps/nvidia-cap1")},
            "proc/driver/nvidia/gpus/0000:C1:00.0/information": "Model: \t\t NVIDIA A100\nDevice Minor: \t 1\n",
            "sys/bus/pci/devices/0000:c1:00.0/local_cpulist": "32-47\n",
            "proc/driver/nvidia/capabilities/gpu1/mig/gi1/ci0/access": "DeviceFileMinor: 1\n",
            "proc/driver/nvidia/capabilities/gpu1/mig/gi2/ci0/access": "DeviceFileMinor: 2\n",
        },
    )
    assert gpus_here(sys=tmp_path / "sys", dev=tmp_path / "dev", proc=tmp_path / "proc") == (
        GpuFound(vendor="nvidia", index=0),
        GpuFound(vendor="nvidia", index=1, parts=2, near=tuple(range(32, 48))),
    )


def test_dies_of_amd_are_gpus_and_processors_are_not(tmp_path: Path) -> None:
    nodes = "sys/class/kfd/kfd/topology/nodes"
    lay(
        tmp_path,
        {
            f"{nodes}/0/properties": "cpu_cores_count 64\nsimd_count 0\n",
            f"{nodes}/4/properties": f"simd_count 440\nlocation_id {0xC1 << 8}\ndomain 0\n",
            f"{nodes}/10/properties": f"simd_count 440\nlocation_id {0xC6 << 8}\ndomain 0\n",
            f"{nodes}/11/properties": "",
            "sys/bus/pci/devices/0000:c1:00.0/local_cpulist": "48-63\n",
        },
    )
    assert gpus_here(sys=tmp_path / "sys", dev=tmp_path / "dev", proc=tmp_path / "proc") == (
        GpuFound(vendor="amd", index=0, near=tuple(range(48, 64))),
        GpuFound(vendor="amd", index=1),
    )


@pytest.mark.parametrize("tile", ["gt/gt{}/id", "device/tile{}/id"])
def test_gpus_of_intel_with_their_tiles_and_without_the_processors_own_graphics(tmp_path: Path, tile: str) -> None:
    drm = "sys/class/drm"
    lay(
        tmp_path,
        {
            f"{drm}/card0/device/vendor": "0x8086\n",
            f"{drm}/card0/device/class": "0x030000\n",
            f"{drm}/card1/device/vendor": "0x8086\n",
            f"{drm}/card1/device/class": "0x038000\n",
            f"{drm}/card1/device/local_cpulist": "0-51\n",
            f"{drm}/card1/{tile.format(0)}": "",
            f"{drm}/card1/{tile.format(1)}": "",
            f"{drm}/card1-DP-1/status": "",
            f"{drm}/card2/device/vendor": "0x1a03\n",
            f"{drm}/card2/device/class": "0x030000\n",
        },
    )
    assert gpus_here(sys=tmp_path / "sys", dev=tmp_path / "dev", proc=tmp_path / "proc") == (
        GpuFound(vendor="intel", index=0, parts=2, near=tuple(range(52))),
    )


def test_this_machine_itself() -> None:
    found = usable_here()
    assert sorted(thread for core in found.cores for thread in core) == usable_cores()
    for domains in (found.numa_domains, found.l3_domains):
        assert sorted(thread for domain in domains for thread in domain) in ([], usable_cores())
    assert found.memory_mib > 0
    assert found.disk_mib > 0
    assert found.name
