"""What starts the ranks of a task: an mpiexec of this machine, or a launch method that pilots on clusters have."""

from __future__ import annotations

from typing import Any

import pytest
from description_support import MPICH, Here, Submission

from pilotage.client.reconstruction import description_of
from pilotage.client.task_description import TaskDescription
from pilotage.core.client.state import TaskRecord
from pilotage.errors import InvalidTask
from pilotage.model.workload import ANY_MPI, MpiLauncher, Template

SEVERAL: dict[str, Any] = {"executable": "md", "ranks": 4}


def template_of(clusters: bool | None, *launchers: MpiLauncher, **attributes: Any) -> Template:
    """Return the template of a task, in a session whose pilots are on clusters, or on this machine, or not there yet."""
    here = Here(*launchers)
    here.clusters = clusters
    templates, _ = Submission(here=here).split(TaskDescription({**SEVERAL, **attributes}))
    return next(iter(templates.values()))


@pytest.mark.parametrize(
    ("attributes", "launcher", "method"),
    [
        ({}, MPICH, ANY_MPI),
        ({"launch_method": "srun"}, None, "srun"),
        ({"launch_method": " SRUN "}, None, "srun"),
        ({"launch_method": "ssh", "ranks": 1}, None, "ssh"),
        ({"launch_method": "mpich"}, MPICH, "mpich"),
        ({"launch_method": MPICH.path}, MPICH, MPICH.path),
        ({"ranks": 1, "use_mpi": True}, MPICH, ANY_MPI),
        ({"ranks": 1}, None, ""),
        ({"use_mpi": False}, None, ""),
        ({"launch_method": "fork"}, None, ""),
    ],
)
def test_pilots_on_clusters_are_told_what_is_named(
    attributes: dict[str, Any], launcher: MpiLauncher | None, method: str
) -> None:
    template = template_of(True, MPICH, **attributes)

    assert (template.launcher, template.launch_method) == (launcher, method)
    assert template.uses_mpi == bool(method)


@pytest.mark.parametrize("attributes", [{}, {"launch_method": "openmpi"}, {"launch_method": "/opt/site/mpiexec"}])
def test_what_a_cluster_has_need_not_be_on_this_machine(attributes: dict[str, Any]) -> None:
    template = template_of(True, **attributes)

    assert (template.launcher, template.launch_method) == (None, attributes.get("launch_method", ANY_MPI))


def test_pilots_on_this_machine_are_told_the_mpiexec_alone() -> None:
    template = template_of(False, MPICH)

    assert (template.launcher, template.launch_method) == (MPICH, "")


def test_before_there_is_a_pilot_one_on_a_cluster_may_come() -> None:
    assert template_of(None, launch_method="jsrun").launch_method == "jsrun"
    assert template_of(None, MPICH).launcher == MPICH


@pytest.mark.parametrize(
    ("clusters", "named", "words"),
    [
        (
            False,
            "srun",
            r"launch_method='srun' is for pilots on clusters, and those of this session are on",
        ),
        (True, "srunn", r"launch_method='srunn' is not known; did you mean 'srun'\?; known are mpiexec, mpich, .*jsrun"),
    ],
)
def test_what_nobody_can_start_is_refused_at_once(clusters: bool, named: str, words: str) -> None:
    with pytest.raises(InvalidTask, match=words):
        template_of(clusters, MPICH, launch_method=named)


@pytest.mark.parametrize(
    "attributes", [{}, {"launch_method": "srun"}, {"use_mpi": False}, {"ranks": 1, "use_mpi": True}, {"ranks": 1}]
)
def test_a_description_read_back_says_the_same(attributes: dict[str, Any]) -> None:
    here = Here()
    here.clusters = True
    said = TaskDescription({**SEVERAL, **attributes})
    templates, (row,) = Submission(here=here).split(said)

    template = templates[row.template]
    again = description_of(template, TaskRecord(row, "tmgr.0000"), lambda _: b"", {})

    assert {name: again[name] for name in ("launch_method", "use_mpi")} == {
        "launch_method": attributes.get("launch_method", ""),
        "use_mpi": attributes.get("use_mpi"),
    }
