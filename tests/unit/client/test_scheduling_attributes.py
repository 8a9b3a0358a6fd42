"""What a user says to the scheduler: tags that name places, declared durations, and the pilot's policy."""

from __future__ import annotations

from typing import Any

import pytest
from description_support import Submission

from pilotage.client.pilot_description import PilotDescription, decoded, encoded, scheduler_of
from pilotage.client.task_description import TaskDescription
from pilotage.errors import InvalidPilot, InvalidTask
from pilotage.model.partitions import PolicySpec
from pilotage.model.workload import Template


def template(**attributes: Any) -> Template:
    templates, _ = Submission().split(TaskDescription(executable="/bin/true", **attributes))
    (found,) = templates.values()
    return found


def test_tags_name_nodes_groups_and_an_earlier_task() -> None:
    assert template(tags={"node": "n1"}).request.pinned == ("n1",)
    assert template(tags={"node": ["n1", "n2"], "group": "fat"}).request.pinned == ("n1", "n2", "fat")
    assert template(tags={"task": "task.000001"}).request.beside == "task.000001"


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"node": 3}, "tag 'node' takes a name (str) or a list of names, not"),
        ({"group": [""]}, "tag 'group' takes a name (str) or a list of names"),
        ({"task": 7}, "tag 'task' takes the uid (str) of an earlier task"),
        ({"task": "a", "colocate": "b"}, "leave one of them out"),
        ({"nodes": "n1"}, "did you mean 'node'?"),
    ],
)
def test_tags_that_say_nothing_are_refused(tags: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        template(tags=tags)
    assert words in str(caught.value)


def test_a_task_does_not_run_beside_itself() -> None:
    words = "task 'a': tag 'task'='a' is to say on which node it runs, and names the task itself; name an earlier one"
    with pytest.raises(InvalidTask, match=words):
        template(uid="a", tags={"task": "a"})
    with pytest.raises(InvalidTask, match=words):
        TaskDescription(executable="/bin/true", uid="a", tags={"task": "a"}).verify()
    assert template(uid="b", tags={"task": "a"}).request.beside == "a"


def test_a_declared_duration_is_in_seconds() -> None:
    assert template(duration_s=90).duration_s == 90.0
    with pytest.raises(InvalidTask, match="duration_s=-1"):
        template(duration_s=-1)


@pytest.mark.parametrize(
    ("given", "spec"),
    [
        (None, PolicySpec()),
        ("packed", PolicySpec(policy="packed")),
        ({"policy": "torus", "torus": [4, 4]}, PolicySpec(policy="torus", torus=(4, 4))),
        (PolicySpec(order="first_come", margin_s=5.0), PolicySpec(order="first_come", margin_s=5.0)),
    ],
)
def test_a_scheduler_is_a_name_a_table_or_a_spec_and_is_read_back_from_the_log(given: Any, spec: PolicySpec) -> None:
    description = PilotDescription(resource="local.localhost", cores=1, scheduler=given)
    description.verify()
    assert scheduler_of("pilot", description) == spec
    assert scheduler_of("pilot", decoded(encoded(description))) == spec


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("pakced", "pilot: scheduler='pakced' is not one of continuous, torus, tagged, homogeneous, packed, spread"),
        ("pakced", "did you mean 'packed'?"),
        ({"order": "backfil"}, "did you mean 'backfill'?"),
        ({"polcy": "packed"}, "scheduler has no attribute 'polcy'; did you mean 'policy'?"),
        ({"margin_s": "soon"}, "scheduler: margin_s='soon'"),
        (7, "scheduler is the name of a policy, a PolicySpec or a dict, not"),
        ({"policy": "torus"}, "policy='torus' needs the nodes along each dimension"),
    ],
)
def test_a_scheduler_that_cannot_be_is_refused(given: Any, words: str) -> None:
    with pytest.raises(InvalidPilot) as caught:
        PilotDescription(resource="local.localhost", cores=1, scheduler=given).verify()
    assert words in str(caught.value)
