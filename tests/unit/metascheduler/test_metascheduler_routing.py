"""Which tasks go to which partitions, how many at a time, and why some go nowhere."""

from __future__ import annotations

import pytest
from metascheduler_builders import (
    EXECUTABLE,
    FUNCTION,
    arrived,
    ended_by,
    leased_by,
    names,
    nodes,
    outcome,
    part,
    ready_head,
    submitted,
    told,
)

from pilotage.core.metascheduler import events, facts
from pilotage.core.metascheduler.fitting import refusal_by_plan
from pilotage.core.metascheduler.plan import check_addition, check_plan, divide
from pilotage.errors import InvalidPilot
from pilotage.model.ids import TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.partitions import Load, PartitionSpec, PolicySpec
from pilotage.model.resources import NodeShare, Request
from pilotage.model.services import Service
from pilotage.model.workload import Template

GENERAL = part("general", 2)


def where(template: Template, *plan: PartitionSpec, count: int = 0) -> str | tuple[Ending, str]:
    """The partition that a task goes to, or how it ends."""
    step = ready_head(*plan, count=count).handle(submitted(1, ["t"], template))
    return next(iter(leased_by(step)), "") or ended_by(step).get("t", "")


def with_(**changes: object) -> Template:
    return Template(executable="/bin/true", **changes)  # type: ignore[arg-type]


def test_what_all_can_start_soon_waits_for_who_can_start_it() -> None:
    """Partitions of two cores: eight tasks are two for each now, and two for each then; nine are more."""
    for count, given in ((8, 2), (9, 3)):
        head = ready_head(part("a"), part("b"))
        step = head.handle(submitted(1, names("t", count), with_(duration_s=100.0)))
        assert {name: len(uids) for name, uids in leased_by(step).items()} == {"a": given, "b": given}


def test_short_tasks_are_given_ahead_of_time_to_the_last() -> None:
    head = ready_head(part("a"), part("b"))
    step = head.handle(submitted(1, names("t", 8), with_(duration_s=1.0)))
    assert {name: len(uids) for name, uids in leased_by(step).items()} == {"a": 4, "b": 4}


def test_who_shares_a_partition_with_others_keeps_its_place_there() -> None:
    head = ready_head(part("a"), part("b", kinds=("function",)))
    assert leased_by(head.handle(submitted(1, names("t", 4), with_(duration_s=100.0)))) == {"a": ["t0", "t1"]}
    function = Template(mode="function", duration_s=100.0)
    leased = leased_by(head.handle(submitted(2, names("f", 4), function)))
    assert leased == {"a": ["t2"], "b": ["f0", "f1", "f2"]}, "it waits there for its turn, before functions come"


@pytest.mark.parametrize(
    ("template", "rules", "goes_there"),
    [
        (FUNCTION, {"kinds": ("function",)}, True),
        (EXECUTABLE, {"kinds": ("function",)}, False),
        (with_(service=Service()), {"kinds": ("service",)}, True),
        (with_(service=Service()), {"kinds": ("executable",)}, False),
        (with_(partition="other"), {}, True),
        (with_(partition="fast"), {"tags": ("fast", "new")}, True),
        (EXECUTABLE, {"tags": ("fast",)}, False),
        (with_(request=Request(ranks=3, cores=2)), {"most_task_nodes": 3}, True),
        (with_(request=Request(ranks=4, cores=2)), {"most_task_nodes": 3}, None),
        (with_(request=Request(ranks=3, ranks_per_node=1)), {"most_task_nodes": 2}, None),
        (with_(duration_s=60.0), {"longest_s": 60.0}, True),
        (with_(duration_s=61.0), {"longest_s": 60.0}, False),
        (EXECUTABLE, {"longest_s": 60.0}, False),
        (with_(request=Request(pinned=("node4",))), {}, True),
        (with_(request=Request(slots=(NodeShare(3, 1, b"\x01"),))), {}, True),
        (with_(request=Request(slots=(NodeShare(0, 1, b"\x01"),))), {}, False),
    ],
)
def test_tasks_go_by_kind_tag_size_duration_and_nodes(
    template: Template, rules: dict[str, object], goes_there: bool | None
) -> None:
    # The general partition has too little to do for anything to go elsewhere for that alone: it comes first.
    found = where(template, GENERAL, part("other", 4, **rules))
    if goes_there is None:
        assert isinstance(found, tuple) and found[0] is Ending.INFEASIBLE
    elif goes_there:
        assert found == "other" or where(template, part("other", 4, **rules), GENERAL) == "other"
    else:
        assert found == "general"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (
            with_(request=Request(cores=3)),
            "no partition can run it. partition 'a': 3 cores per rank exceed the 2 cores of a node; ask for at most 2 or use "
            "more ranks; partition 'b': it takes only tasks that name it, or one of its tags: x",
        ),
        (with_(partition="c"), "no partition is named 'c', or has that tag; name one of a, b, x, or none"),
        (
            with_(partition="x", request=Request(ranks=9)),
            "no partition can run it. partition 'a': the task names the partition 'x'; partition 'b': 9 ranks of 1 core exceed "
            "the 2 that all 1 nodes hold; ask for at most 2 ranks or a larger pilot",
        ),
    ],
)
def test_what_no_partition_can_ever_run_is_refused_with_the_reason(template: Template, why: str) -> None:
    assert where(template, part("a", 1), part("b", 1, tags=("x",))) == (Ending.INFEASIBLE, why)


def test_equal_partitions_share_alike() -> None:
    head = ready_head(*(part(f"p{number}", 2) for number in range(8)))
    leased = leased_by(head.handle(submitted(1, names("t", 1000))))
    assert {name: len(uids) for name, uids in leased.items()} == {f"p{number}": 8 for number in range(8)}, "two for each core"
    assert len([uid for uid, task in head.state.tasks.items() if not task.partition]) == 1000 - 64


def test_the_next_tasks_go_where_the_wait_is_shortest() -> None:
    head = ready_head(part("a", 2), part("b", 2))
    assert leased_by(head.handle(submitted(1, ["long"], with_(duration_s=500.0)))) == {"a": ["long"]}
    assert leased_by(head.handle(submitted(2, ["next"]))) == {"b": ["next"]}
    assert leased_by(head.handle(submitted(3, ["third"]))) == {"b": ["third"]}


def test_large_partitions_get_more() -> None:
    head = ready_head(part("small", 1), part("large", 3))
    leased = leased_by(head.handle(submitted(1, names("t", 200))))
    assert {name: len(uids) for name, uids in leased.items()} == {"small": 4, "large": 12}


def test_of_long_tasks_few_wait_in_partitions() -> None:
    head = ready_head(part("a", 8))
    leased = leased_by(head.handle(submitted(1, names("t", 200), with_(duration_s=3600.0))))
    assert len(leased["a"]) == 18, "16 that run, and an eighth of that"


def test_of_tasks_that_last_no_time_as_many_wait_as_end_in_two_seconds() -> None:
    head = ready_head(part("a", 1))
    head.handle(submitted(1, names("t", 20_000)))
    number, now, most = 0, 10.0, 0
    while head.state.tasks:
        held = [uid for uid, task in head.state.tasks.items() if task.partition]
        most = max(most, len(held))
        number, now = number + 1, now + 0.01
        head.handle(arrived("a", number, *(outcome(uid, seconds=0.0) for uid in held[:100]), at=now))
    # Four at the most ended in each hundredth of a second at the beginning: 800 in two seconds, which end in less, and so on.
    assert most > 2000, "the rate at which they end says how many are sent ahead"


def test_a_partition_is_refilled_when_half_of_what_waits_there_is_used_up() -> None:
    head = ready_head(part("a", 4))
    leased = leased_by(head.handle(submitted(1, names("t", 100))))["a"]
    assert len(leased) == 16
    assert not leased_by(head.handle(arrived("a", 1, outcome(leased[0]), outcome(leased[1]))))
    step = head.handle(arrived("a", 2, outcome(leased[2]), outcome(leased[3])))
    assert len(leased_by(step)["a"]) == 4


def test_higher_priorities_go_first_and_among_equals_who_came_first() -> None:
    head = ready_head(part("a", 1))
    head.handle(submitted(1, names("first", 8)))
    head.handle(submitted(2, names("second", 2)))
    head.handle(submitted(3, names("urgent", 2), with_(priority=1)))
    order = []
    number = 0
    while head.state.tasks:
        held = [uid for uid, task in head.state.tasks.items() if task.partition]
        number += 1
        for uids in leased_by(head.handle(arrived("a", number, *(outcome(uid) for uid in held)))).values():
            order += uids
    assert order == ["urgent0", "urgent1", *(f"first{number}" for number in range(4, 8)), "second0", "second1"]


def test_priorities_count_where_partitions_go_by_them() -> None:
    head = ready_head(part("a", 1, scheduler=PolicySpec(order="first_come")))
    head.handle(submitted(1, names("first", 8)))
    head.handle(submitted(2, ["urgent"], with_(priority=1)))
    held = [uid for uid, task in head.state.tasks.items() if task.partition]
    step = head.handle(arrived("a", 1, *(outcome(uid) for uid in held)))
    assert leased_by(step)["a"] == [*(f"first{number}" for number in range(4, 8)), "urgent"]


def test_a_wide_task_is_not_overtaken() -> None:
    head = ready_head(part("a", 2))
    head.handle(submitted(1, names("t", 8)))
    head.handle(submitted(2, ["wide"], with_(request=Request(ranks=2, cores=2))))
    head.handle(submitted(3, names("later", 8)))
    step = head.handle(arrived("a", 1, *(outcome(f"t{number}") for number in range(4))))
    assert leased_by(step)["a"][0] == "wide"


def test_a_partition_full_of_services_gets_nothing_else() -> None:
    head = ready_head(part("a", 1), part("b", 1))
    services = leased_by(head.handle(submitted(1, names("s", 2), with_(service=Service()))))
    assert sum(len(uids) for uids in services.values()) == 2
    busy = next(iter(services)) if len(services) == 1 else ""
    leased = leased_by(head.handle(submitted(2, names("t", 9))))
    assert busy not in leased
    head = ready_head(part("a", 1))
    head.handle(submitted(1, names("s", 2), with_(service=Service())))
    assert not leased_by(head.handle(submitted(2, ["t"])))
    assert leased_by(head.handle(arrived("a", 1, outcome("s0")))) == {"a": ["t"]}


def test_a_partition_whose_disk_is_full_gets_nothing() -> None:
    head = ready_head(part("a", 1), part("b", 1))
    head.handle(told("a", Load(paused=True)))
    assert list(leased_by(head.handle(submitted(1, names("t", 9))))) == ["b"]
    assert head.why(TaskUid("t8")).endswith("partition 'a' (paused), 'b' (4 tasks)")
    assert list(leased_by(head.handle(told("a", Load())))) == ["a"]


def test_what_a_partition_finds_infeasible_goes_to_another() -> None:
    head = ready_head(part("a", 1), part("b", 1))
    (first,) = leased_by(head.handle(submitted(1, ["t"])))
    step = head.handle(arrived(first, 1, outcome("t", Ending.INFEASIBLE, attempt=0)))
    (second,) = leased_by(step)
    assert second != first
    head.handle(arrived(second, 1, outcome("t", Ending.INFEASIBLE, attempt=0, lease=2)))
    assert [each.ending for each in head.state.unsent] == [Ending.INFEASIBLE]


def test_what_waits_is_judged_anew_when_a_partition_finds_such_a_task_infeasible() -> None:
    head = ready_head(part("a", 1))
    head.handle(submitted(1, names("t", 9)))
    step = head.handle(arrived("a", 1, outcome("t0", Ending.INFEASIBLE, attempt=0)))
    refused = {uid for uid, (ending, _) in ended_by(step).items() if ending is Ending.INFEASIBLE}
    assert refused == {"t4", "t5", "t6", "t7", "t8"}, "they would come to the same"
    assert ended_by(step)["t4"][1] == "no partition can run it. partition 'a': it found no place for it on its nodes"


def test_a_partition_that_refused_a_task_is_asked_again_when_it_has_more_nodes() -> None:
    head = ready_head(part("a", 2, most_nodes=3), part("b", 2, least_nodes=1, most_nodes=2), count=4)
    wide = with_(request=Request(ranks=2, ranks_per_node=1), partition="a")
    head.handle(submitted(1, ["t"], wide))
    step = head.handle(arrived("a", 1, outcome("t", Ending.INFEASIBLE, attempt=0)))
    assert facts.NodesReclaimed(2.0, "b", 1, 1) in step.facts
    step = head.handle(events.NodesReturned(11.0, "b", 1, 1, [3]))
    assert leased_by(step) == {"a": ["t"]}


def test_a_partition_that_the_user_retires_gets_no_more() -> None:
    head = ready_head(part("a", 1), part("b", 1))
    head.handle(events.RetirementAsked(1.0, 0, "a"))
    assert list(leased_by(head.handle(submitted(1, names("t", 9))))) == ["b"]


# ---------------------------------------------------------------------------------------------------------------- plans


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        ([], "a plan without partitions"),
        ([part("a", 1), part("a", 1)], "2 partitions are named 'a'; give each a name of its own"),
        ([part("a", 3), part("b", 2)], r"the partitions ask for 5 nodes \(a 3, b 2\), and the pilot has 4"),
        ([part("a", 4), part("b", 0)], "partition 'b' would begin with 0 nodes of the 0 that others leave, and needs 1"),
        ([part("a", 9)], "nodes=9 exceeds the 4 nodes of the pilot; ask for at most 4"),
        ([part("a/b", 1)], "a name is up to 64 letters, digits"),
        ([part("a" * 65, 1)], "a name is up to 64 letters, digits"),
        ([part("a", -1)], "nodes=-1 is less than 0"),
        ([part("a", 2, least_nodes=3, most_nodes=2)], "least_nodes=3 exceeds most_nodes=2"),
        ([part("a", 3, most_nodes=2)], "nodes=3 is not between least_nodes=0 and most_nodes=2"),
        ([part("a", 1, least_nodes=1)], "least_nodes=1 needs most_nodes"),
        ([part("a", 1, kinds=("function",))], "no partition takes executables that name no partition"),
        ([part("a", 1, tags=("x",))], "no partition takes executables that name no partition"),
        ([part("a", 1), part("b", 1, tags=("a",))], "the tag 'a' is the name of another partition"),
        ([part("a", 1, tags=("",)), part("b", 1)], "a tag is empty"),
        ([part("a", 1, scheduler=PolicySpec(policy="torus", torus=(2, 4)))], "partition 'a': .*2 x 4 are 8 nodes"),
        ([part("a", 1, scheduler=PolicySpec(policy="torus"))], "partition 'a': policy='torus' needs the nodes"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(plan: list[PartitionSpec], why: str) -> None:
    with pytest.raises(InvalidPilot, match=why):
        check_plan(plan, nodes(4))


def test_nodes_that_nobody_asks_for_are_shared_out() -> None:
    plan = [part("a", 1), part("b", 0), part("c", 0, most_nodes=2), part("d", 0)]
    check_plan(plan, nodes(12))
    assert [len(share) for share in divide(plan, nodes(12))] == [1, 4, 2, 3]
    assert [index for share in divide(plan, nodes(12)) for index in share] == list(range(10)), "neighbours, each node once"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (part("a", 1), "there is, or was, a partition 'a'"),
        (part("c", 3), "wants 3 nodes, and 2 are free or can be spared by partitions that may shrink; ask for at most 2"),
        (part("t", 1), "a partition of this pilot has that name for a tag"),
        (part("c", 1, idle_timeout_s=float("nan")), "idle_timeout_s=nan is no number"),
        (part("c", 1, tags=("b",)), "the tag 'b' is the name of another partition"),
    ],
)
def test_an_addition_that_cannot_be_is_refused(spec: PartitionSpec, why: str) -> None:
    with pytest.raises(InvalidPilot, match=why):
        check_addition(spec, ["a", "b"], ["t"], 2, nodes(4))


@pytest.mark.parametrize(
    ("template", "refusal"),
    [
        (EXECUTABLE, ""),
        (Template(executable="/bin/true", request=Request(ranks=6, cores=1)), ""),
        (Template(executable="/bin/true", partition="tagged"), ""),
        (Template(executable="/bin/true", partition="later", request=Request(ranks=4, cores=1)), ""),
        (
            Template(executable="/bin/true", partition="later", request=Request(ranks=5, cores=1)),
            "no partition can run it. partitions 'fixed', 'elastic': the task names the partition 'later'; partition 'late': ",
        ),
        (
            Template(executable="/bin/true", request=Request(ranks=8, cores=1)),
            "no partition can run it. partition 'fixed': the task needs 4 nodes, more than the 1 that it grants to one task; ",
        ),
        (
            Template(executable="/bin/true", partition="elastc"),
            "no partition is named 'elastc', or has that tag; did you mean 'elastic'?; name one of fixed, elastic,",
        ),
    ],
)
def test_what_no_partition_of_a_plan_can_ever_run_is_known_before_it_begins(template: Template, refusal: str) -> None:
    plan = [part("fixed", 3, most_task_nodes=1), part("elastic", 1, least_nodes=1, most_nodes=3)]
    found = refusal_by_plan(template, plan, [part("late", 2, tags=("later", "tagged"))], nodes(4))
    assert found.startswith(refusal) and bool(found) == bool(refusal)
