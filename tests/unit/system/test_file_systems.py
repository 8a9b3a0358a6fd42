"""On which file system a folder lies, by what the kernel says of its mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotage.system.file_systems import file_system_of

MOUNTS = """\
22 1 0:21 / / rw,relatime shared:1 - overlay overlay rw
30 22 0:30 / {place} rw shared:2 - ext4 /dev/sda1 rw
31 30 0:31 / {place}/scratch rw - lustre server:/scratch rw
32 30 0:32 / {place}/a\\040b rw shared:9 master:1 - nfs4 server:/home rw
33 30 0:33 / {place}/scratch/again rw - tmpfs tmpfs rw
34 33 0:34 / {place}/scratch/again rw - xfs /dev/sdb rw
not a line of this file
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("", "ext4"),
        ("scratch", "lustre"),
        ("scratch/me/pilots", "lustre"),
        ("scratchy", "ext4"),
        ("a b/home", "nfs4"),
        ("scratch/again", "xfs"),
    ],
)
def test_the_nearest_mount_above_decides_and_the_later_of_two(tmp_path: Path, folder: str, kind: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(place=tmp_path.resolve()))
    assert file_system_of(tmp_path / folder, mounts) == kind


def test_elsewhere_it_is_the_root_and_where_nothing_is_told_nothing(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(place="/nowhere"))
    assert file_system_of(tmp_path, mounts) == "overlay"
    assert file_system_of(tmp_path, tmp_path / "missing") == ""


def test_of_this_machine_something_is_told(tmp_path: Path) -> None:
    assert file_system_of(tmp_path)
    assert file_system_of(Path("/proc")) == "proc"
