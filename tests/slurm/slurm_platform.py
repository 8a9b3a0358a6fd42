"""The cluster of a test as a platform that programs and commands on this machine use: ``test.cluster``."""

from __future__ import annotations

from pathlib import Path

from slurm_cluster import SlurmCluster


def platform_variables(cluster: SlurmCluster, folder: Path, *, cores: int = 8, gpus: int = 4) -> dict[str, str]:
    """Describe a cluster in a file in ``folder``, with ``cores`` and ``gpus`` per node; return the variables to find it by."""
    path = folder / "test.toml"
    path.write_text(
        f"""
[cluster]
description = "the cluster of the tests"
batch = "slurm"
launch_methods = ["srun"]
emulated = true
cores_per_node = {cores}
gpus_per_node = {gpus}
memory_per_node_mib = 16000
disk_per_node_mib = 16000
queues.spare.max_walltime_minutes = 60
"""
    )
    return {"PILOTAGE_PLATFORMS": str(path), **cluster.variables}
