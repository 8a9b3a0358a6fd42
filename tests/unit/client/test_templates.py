"""From descriptions to templates and rows: what is shared, what is refused, what counts as the same task."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import pytest
from description_support import Submission, made
from hypothesis import given
from hypothesis import strategies as st

from pilotage.client import constants
from pilotage.client.task_description import TaskDescription
from pilotage.client.templates import fingerprint, fingerprint_of
from pilotage.errors import InvalidTask, SerializationError
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.payload import Blob
from pilotage.model.resources import Request
from pilotage.model.workload import Row, Template


def double(number: int) -> int:
    return 2 * number


def triple(number: int) -> int:
    return 3 * number


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def times(self, number: int) -> int:
        return self.factor * number


def template(**attributes: Any) -> Template:
    return made(**attributes)[0]


# Sharing


def test_tasks_that_differ_in_what_is_their_own_share_a_template() -> None:
    templates, rows = Submission().split(
        TaskDescription(executable="/bin/echo", arguments=["1"], ranks=2, uid="a", metadata={"any": object()}),
        TaskDescription(executable="/bin/echo", arguments=["2"], ranks=2, name="second", pilot="pilot.0001"),
    )
    assert templates == {1: Template(executable="/bin/echo", request=Request(ranks=2))}
    assert rows == [Row(TaskUid("a"), TemplateId(1), ("1",)), Row(TaskUid("task.1"), TemplateId(1), ("2",), None, "second")]


@pytest.mark.parametrize(
    "same",
    [
        TaskDescription(ranks=2, executable="a"),
        TaskDescription(executable="a", ranks=2, timeout=0, environment={}, mode=constants.TASK_EXECUTABLE),
        TaskDescription(executable=Path("a"), ranks=2, pre_exec=[], tags={"exclusive": False}),
        TaskDescription(executable="a", ranks=2, mode="", sandbox="own", slots=[], after=[]),
    ],
)
def test_what_says_the_same_in_another_way_shares_the_template(same: TaskDescription) -> None:
    templates, rows = Submission().split(TaskDescription(executable="a", ranks=2), same)
    assert (len(templates), [row.template for row in rows]) == (1, [1, 1])


def test_environments_count_by_content_in_any_order() -> None:
    templates, rows = Submission().split(
        TaskDescription(executable="a", environment={"A": "1", "B": "2"}),
        TaskDescription(executable="a", environment={"B": "2", "A": "1"}),
        TaskDescription(executable="a", environment={"A": 1, "B": "2"}),
        TaskDescription(executable="a", environment={"A": "1"}),
    )
    assert [row.template for row in rows] == [1, 1, 1, 2]
    assert templates[TemplateId(1)].environment == {"A": "1", "B": "2"}


def test_a_template_travels_once_and_is_recognised_in_later_calls() -> None:
    submission = Submission()
    first, _ = submission.split(TaskDescription(executable="a"))
    second, rows = submission.split(TaskDescription(executable="a", arguments=["x"]), TaskDescription(executable="b"))
    assert list(first) == [1]
    assert second == {2: Template(executable="b")}
    assert [row.template for row in rows] == [1, 2]
    assert len(submission.table) == 2


def test_a_table_goes_on_from_the_templates_in_the_log() -> None:
    logged = {TemplateId(7): Template(executable="a")}
    templates, rows = Submission(logged).split(TaskDescription(executable="a"), TaskDescription(executable="b"))
    assert templates == {8: Template(executable="b")}
    assert [row.template for row in rows] == [7, 8]


def test_many_distinct_templates_are_told_apart() -> None:
    submission = Submission()
    many = [TaskDescription(executable="a", mem_per_rank=64 * size) for size in range(5000)]
    templates, rows = submission.split(*many)
    assert [templates[row.template].request.memory for row in rows] == list(range(5000))
    again, rows_again = submission.split(*many)
    assert again == {}
    assert [row.template for row in rows_again] == [row.template for row in rows]


# Functions


def test_a_function_is_pickled_once_per_call_and_known_by_its_bytes() -> None:
    submission = Submission()
    templates, rows = submission.split(*[TaskDescription(function=double, args=(i,)) for i in range(10)])
    assert submission.packed_functions == [double]
    assert templates == {1: Template(mode="function", function=pickle.dumps("double"))}
    assert [pickle.loads(row.payload) for row in rows if isinstance(row.payload, bytes)] == [((i,), {}) for i in range(10)]
    assert submission.split(TaskDescription(function=double))[0] == {}
    assert submission.packed_functions == [double, double]


def test_a_closure_that_changed_between_calls_is_another_function() -> None:
    submission = Submission()

    def changing() -> None: ...

    submission.split(TaskDescription(function=changing))
    changing.__qualname__ = "changed"  # what these tests pickle of a function
    templates, _ = submission.split(TaskDescription(function=changing))
    assert list(templates) == [2]


def test_functions_bound_methods_and_callables_are_told_apart() -> None:
    submission = Submission()
    one, two = Scale(1), Scale(2)
    partial = functools.partial(double, 1)
    described = [TaskDescription(function=f) for f in (double, triple, one.times, one.times, two.times, partial, partial)]
    submission.split(*described)
    assert submission.packed_functions == [double, triple, one.times, two.times, partial]


def test_an_unhashable_callable_is_accepted() -> None:
    class Callable_(list[int]):
        def __call__(self) -> None: ...

    unhashable = Callable_()
    submission = Submission()
    described = TaskDescription(function=unhashable, environment={"A": "1"})
    _, rows = submission.split(described, described.clone(args=[1]))
    assert [row.template for row in rows] == [1, 1]
    assert len(submission.packed_functions) == 1


def test_keyword_arguments_travel_and_a_call_without_any_is_packed() -> None:
    _, rows = Submission().split(TaskDescription(function=double, kwargs={"number": 1}), TaskDescription(function=double))
    assert [pickle.loads(row.payload) for row in rows if isinstance(row.payload, bytes)] == [((), {"number": 1}), ((), {})]


def test_a_function_of_more_than_4_KiB_becomes_a_blob() -> None:
    submission = Submission()

    def long_named() -> None: ...

    long_named.__qualname__ = "f" * 5000
    templates, rows = submission.split(TaskDescription(function=long_named), TaskDescription(function=double))
    assert isinstance(templates[TemplateId(1)].function, Blob)
    assert isinstance(rows[1].payload, bytes)
    assert len(submission.blobs) == 1


# The template's content


def test_sizes_are_counted_in_the_units_of_matching() -> None:
    assert template(
        executable="a", ranks=4, ranks_per_node=2, cores_per_rank=3, gpus_per_rank=0.5, mem_per_rank=65, lfs_per_rank=64
    ).request == Request(ranks=4, cores=3, gpu_shares=32, memory=2, disk=1, ranks_per_node=2)
    assert template(executable="a", gpus_per_rank=2).request.gpu_shares == 128
    assert template(executable="a", tags={"colocate": "group", "exclusive": True}).request == Request(
        colocate="group", exclusive=True
    )


def test_all_else_is_carried_over() -> None:
    assert template(
        executable="a",
        priority=-3,
        environment={"N": 4, "P": Path("/x")},
        sandbox="/s",
        stdout="o",
        stderr="e",
        timeout=1.5,
        grace=0,
        retries=2,
        restartable=True,
        gpu_type="CUDA",
        threading_type="OpenMP",
    ) == Template(
        executable="a",
        priority=-3,
        environment={"N": "4", "P": "/x"},
        sandbox="/s",
        stdout="o",
        stderr="e",
        timeout_s=1.5,
        grace_s=0.0,
        retries=2,
        restartable=True,
        gpu_type="CUDA",
        threading_type="OpenMP",
    )


def test_arguments_are_text_numbers_and_paths() -> None:
    _, rows = Submission().split(TaskDescription(executable="a", arguments=["-n", 4, 0.5, Path("/x"), "é"]))
    assert rows[0].arguments == ("-n", "4", "0.5", "/x", "é")


# Refusals

LATER = "is not supported yet by this version; "


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        (
            {},
            "nothing to run is given; set executable (and arguments), function (args, kwargs), command, or code with its mode",
        ),
        (
            {"executable": "a", "function": double},
            "both executable='a' and a function are given; a task runs one of them: leave the other out",
        ),
        (
            {"mode": constants.TASK_EXECUTABLE, "function": double},
            "mode='task.executable' needs an executable, not a function",
        ),
        ({"mode": constants.TASK_FUNCTION}, "mode='task.function' needs a function; set function (and args, kwargs)"),
        (
            {"mode": constants.TASK_FUNCTION, "executable": "a"},
            "mode='task.function' needs a function, not executable='a'",
        ),
        (
            {"mode": "task.functon", "function": double},
            f"mode='task.functon' is none of {', '.join(constants.TASK_MODES)}; did you mean 'task.function'?",
        ),
        ({"executable": "a", "args": [1]}, "args are for functions; give an executable its arguments (list)"),
        (
            {"function": double, "arguments": ["1"]},
            "arguments are for executables; give a function its args (list) and kwargs (dict)",
        ),
        ({"function": double, "kwargs": {1: 2}}, "kwargs has the key 1 (int); names of arguments are text (str)"),
        ({"executable": "a", "ranks": 0}, "ranks=0: it must be 1 or more, and 1000000000 at most"),
        ({"executable": "a", "ranks": -1}, "ranks=-1: it must be 1 or more, and 1000000000 at most"),
        ({"executable": "a", "ranks": 10**20}, f"ranks={10**20}: it must be 1 or more, and 1000000000 at most"),
        (
            {"executable": "a", "ranks": 2, "ranks_per_node": 3},
            "ranks_per_node=3 exceeds ranks=2; ask for 2 or fewer",
        ),
        ({"executable": "a", "cores_per_rank": 0}, "cores_per_rank=0: it must be 1 or more, and 1000000000 at most"),
        ({"executable": "a", "gpus_per_rank": -0.5}, "gpus_per_rank=-0.5: it must be 0 or more, and 1000000000 at most"),
        ({"executable": "a", "gpus_per_rank": float("nan")}, "gpus_per_rank=nan: it must be 0 or more, and 1000000000 at most"),
        (
            {"executable": "a", "gpus_per_rank": 1.5},
            "gpus_per_rank=1.5: a rank takes a part of one GPU (up to 1) or whole GPUs; ask for 1 or 2",
        ),
        ({"executable": "a", "mem_per_rank": -1}, "mem_per_rank=-1: it is in MB and must be 0 or more, and 1000000000 at most"),
        (
            {"executable": "a", "lfs_per_rank": float("inf")},
            "lfs_per_rank=inf: it is in MB and must be 0 or more, and 1000000000 at most",
        ),
        ({"executable": "a", "timeout": -1}, "timeout=-1: it is in seconds and must be 0 or more; 0 means no limit"),
        ({"executable": "a", "grace": float("nan")}, "grace=nan: it is in seconds and must be 0 or more"),
        ({"executable": "a", "retries": -1}, "retries=-1: it must be 0 or more, and 1000000000 at most"),
        (
            {"executable": "a", "tags": {"colocated": "x"}},
            "unknown tag 'colocated'; known are colocate, exclusive, node, group, task; did you mean 'colocate'?",
        ),
        ({"executable": "a", "tags": {"exclusive": 1}}, "tag 'exclusive' takes True or False (bool), not 1 (int)"),
        ({"executable": "a", "tags": {"colocate": [1]}}, "tag 'colocate' takes a name (str or int), not [1] (list)"),
        (
            {"executable": "a", "environment": {"A": None}},
            "environment['A'] is None (NoneType); only text, numbers and paths can be handed over",
        ),
        (
            {"executable": "a", "environment": {"A=B": "1"}},
            "environment has the name 'A=B' (str); it must be text, not empty and without '='",
        ),
        (
            {"executable": "a", "arguments": ["x", None]},
            "arguments[1] is None (NoneType); only text, numbers and paths can be handed over",
        ),
        (
            {"executable": "a", "arguments": [True]},
            "arguments[0] is True (bool); only text, numbers and paths can be handed over",
        ),
        (
            {"executable": "a\0b"},
            "executable is 'a\\x00b' (str); it holds a NUL character, which ends a text there: leave it out",
        ),
        (
            {"executable": "a", "arguments": ["\udcff"]},
            "arguments[0] is '\\udcff' (str); it is not valid Unicode and cannot be sent: rename it",
        ),
        (
            {"executable": "a", "partition": ["b"]},
            "partition=['b'] (list): name a partition of the pilot, or a tag of one (str or int)",
        ),
    ],
)
def test_a_bad_task_is_refused_by_verify_and_at_submission(attributes: dict[str, Any], told: str) -> None:
    task = TaskDescription(attributes)
    with pytest.raises(InvalidTask) as verified:
        task.verify()
    assert str(verified.value) == f"task: {told}"
    submission = Submission()
    with pytest.raises(InvalidTask) as submitted:
        submission.split(TaskDescription(executable="good"), task)
    assert str(submitted.value) == f"task 2 of 2: {told}"
    with pytest.raises(InvalidTask) as named:
        submission.split(task.clone(name="md"))
    assert str(named.value) == f"task 'md': {told}"


def test_a_good_task_passes_verify() -> None:
    TaskDescription(executable="/bin/date", arguments=["-u"], ranks=2, gpus_per_rank=0.5, tags={"colocate": "a"}).verify()
    TaskDescription(function=double, args=(1,), mode=constants.TASK_FUNCTION, uid="f.1").verify()


@pytest.mark.parametrize("uid", ["a/b", ".hidden", "..", "a\nb", " a", "a ", "x" * 201, "\N{OX}" * 51, "\udcff"])
def test_a_uid_that_cannot_name_a_folder_is_refused(uid: str) -> None:
    task = TaskDescription(executable="a", uid=uid)
    for way in (task.verify, lambda: Submission().split(task)):
        with pytest.raises(InvalidTask, match=r"cannot name a task: .*use 1 to 200 bytes"):
            way()


def test_the_longest_uid_in_any_script_names_files_and_folders(tmp_path: Path) -> None:
    for uid in ("x" * 200, "\N{GREEK SMALL LETTER ALPHA}" * 100, "\N{OX}" * 50):
        (tmp_path / f"{uid}.{'x' * 54}").touch()
        TaskDescription(executable="a", uid=uid).verify()


def test_a_refused_call_leaves_no_template_behind() -> None:
    submission = Submission()
    with pytest.raises(InvalidTask):
        submission.split(TaskDescription(executable="a"), TaskDescription(executable="a", arguments=[None]))
    assert len(submission.table) == 0
    templates, rows = submission.split(TaskDescription(executable="a"))
    assert (list(templates), rows[0].template) == ([1], 1)


def test_what_cannot_be_pickled_is_refused_by_task() -> None:
    with pytest.raises(SerializationError) as refused:
        Submission().split(TaskDescription(function=double), TaskDescription(function=print))
    assert str(refused.value) == "task 2 of 2: function 'print' cannot be pickled"


def test_a_bad_value_after_an_equal_good_one_is_still_refused() -> None:
    with pytest.raises(InvalidTask, match="tag 'exclusive' takes True or False"):
        Submission().split(
            TaskDescription(executable="a", tags={"exclusive": True}), TaskDescription(executable="a", tags={"exclusive": 1})
        )


# The same task


def mark(**attributes: Any) -> bytes:
    submission = Submission()
    return fingerprint_of(
        TaskDescription(attributes),
        pack_function=submission.pack_function,
        pack_arguments=lambda args, kwargs: pickle.dumps((tuple(args), dict(kwargs))),
    )


def test_the_uid_does_not_count_and_all_else_does() -> None:
    base = {"executable": "a", "arguments": ["1"], "environment": {"A": "1", "B": "2"}, "metadata": {"x": 1, "y": (2,)}}
    same = {**base, "uid": "t.1", "environment": {"B": "2", "A": "1"}, "metadata": {"y": [2], "x": 1}, "ranks": 1}
    assert mark(**base) == mark(**same)
    assert len(mark(**base)) == 20
    others: list[dict[str, Any]] = [
        {"executable": "b"},
        {"arguments": ["2"]},
        {"name": "n"},
        {"metadata": {"x": 2}},
        {"metadata": None},
        {"ranks": 2},
        {"environment": {}},
        {"after": ["u"]},
        {"after": ["u"], "after_policy": "any"},
        {"after": ["u", "v"]},
        {"services": ["u"]},
    ]
    assert mark(**base, after=["u", "v"]) == mark(**base, after=["v", "u"], after_policy="ok", services=[])
    assert mark(**base) == mark(**base, after=[], after_policy="ok")
    assert len({mark(**base), *(mark(**{**base, **other}) for other in others)}) == len(others) + 1


def test_functions_count_by_their_pickled_bytes_and_arguments() -> None:
    marks = [mark(function=double, args=[1]), mark(function=triple, args=[1]), mark(function=double, args=[2])]
    assert len(set(marks)) == 3
    assert mark(function=double, args=(1,)) == marks[0]


def test_a_payload_counts_the_same_inline_and_as_a_blob() -> None:
    import hashlib

    packed = b"x" * 100
    blob = Blob(hashlib.sha256(packed).hexdigest(), len(packed))
    inline = fingerprint(Template(mode="function", function=packed), Row(TaskUid("a"), TemplateId(1), (), packed))
    stored = fingerprint(Template(mode="function", function=blob), Row(TaskUid("b"), TemplateId(9), (), blob))
    assert inline == stored


names = st.sampled_from(["A", "B", "C"])
tasks = st.builds(
    TaskDescription,
    executable=st.sampled_from(["a", "b"]),
    ranks=st.integers(1, 3),
    environment=st.dictionaries(names, names, max_size=2),
    arguments=st.lists(names, max_size=2),
    timeout=st.sampled_from([0, 0.0, 1, 1.0]),
)


@given(st.lists(tasks, max_size=12), st.integers(0, 12))
def test_rows_say_what_was_described_however_the_tasks_are_submitted(described: list[TaskDescription], cut: int) -> None:
    submission = Submission()
    templates: dict[TemplateId, Template] = {}
    rows: list[Row] = []
    for part in (described[:cut], described[cut:]):
        new, more = submission.split(*part)
        assert not set(new) & set(templates)
        templates |= new
        rows += more
    assert len(set(map(repr, templates.values()))) == len(templates)
    for task, row in zip(described, rows, strict=True):
        its = templates[row.template]
        assert (its.executable, its.request.ranks, its.timeout_s) == (task.executable, task.ranks, float(task.timeout))
        assert its.environment == task.get("environment", {})
        assert row.arguments == tuple(task.get("arguments", []))
