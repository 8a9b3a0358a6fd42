"""Descriptions as records: how attributes are set, read, checked, copied and compared."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.client.aliases import ComputePilotDescription, ComputeUnitDescription
from pilotage.client.constants import TASK_EXECUTABLE, TASK_FUNCTION
from pilotage.client.fields import EXACT, Kind
from pilotage.client.pilot_description import PILOT_FIELDS, PilotDescription
from pilotage.client.python_task import PythonTask
from pilotage.client.task_description import TaskDescription
from pilotage.client.task_fields import OLDER_TASK_NAMES, TASK_FIELDS
from pilotage.errors import InvalidPilot, InvalidTask, UnknownAttribute


def double(number: int) -> int:
    return 2 * number


# Three ways to say the same


def test_keywords_a_dict_and_attributes_set_later_say_the_same() -> None:
    by_keywords = TaskDescription(executable="/bin/date", arguments=["-u"], ranks=2)
    by_dict = TaskDescription({"executable": "/bin/date", "arguments": ["-u"], "ranks": 2})
    later = TaskDescription()
    later.executable = "/bin/date"
    later.arguments = ["-u"]
    later["ranks"] = 2
    assert by_keywords == by_dict == later == TaskDescription.from_dict(by_dict.as_dict())
    assert TaskDescription(from_dict={"ranks": 3}, ranks=2) == TaskDescription(ranks=2)


def test_attributes_not_set_have_their_defaults() -> None:
    task = TaskDescription()
    assert (task.mode, task.executable, task.arguments, task.function) == (TASK_EXECUTABLE, "", [], None)
    assert (task.ranks, task.cores_per_rank, task.gpus_per_rank, task.ranks_per_node) == (1, 1, 0.0, None)
    assert (task.mem_per_rank, task.lfs_per_rank, task.timeout, task.restartable) == (0, 0, 0.0, False)
    pilot = PilotDescription()
    assert (pilot.resource, pilot.runtime, pilot.exit_on_error, pilot.cleanup) == (None, 10, True, False)
    assert (pilot.on_client_loss, pilot.client_loss_timeout_s, pilot.executor) == (None, 300.0, "local")


def test_every_attribute_of_the_table_can_be_read_and_is_annotated() -> None:
    for kind, table in ((TaskDescription, TASK_FIELDS), (PilotDescription, PILOT_FIELDS)):
        assert set(kind.__annotations__) - {"FIELDS", "OLDER_NAMES", "_NOUN", "_ERROR"} == set(table)
        for name, field in table.items():
            assert getattr(kind(), name) == field.default
            assert name in dir(kind())


def test_the_mode_reads_as_a_function_once_a_function_is_set() -> None:
    assert TaskDescription(function=double).mode == TASK_FUNCTION
    assert TaskDescription(function=double, mode=TASK_EXECUTABLE).mode == TASK_EXECUTABLE


def test_reading_a_list_or_dict_that_was_not_set_gives_one_to_fill() -> None:
    task, other = TaskDescription(), TaskDescription()
    task.environment["A"] = "1"
    task.arguments.append("-v")
    assert task == TaskDescription(environment={"A": "1"}, arguments=["-v"])
    assert other == TaskDescription()
    assert other.environment == {}


def test_none_restores_the_default() -> None:
    assert PilotDescription({"resource": "local.localhost", "queue": None}).as_dict() == {"resource": "local.localhost"}
    task = TaskDescription(ranks=4, stdout="out")
    task.ranks = None  # type: ignore[assignment]
    del task.stdout
    assert (task.ranks, task.stdout, task.as_dict()) == (1, "", {})


def test_a_path_becomes_text_and_numbers_become_plain() -> None:
    class Count(int):
        pass

    task = TaskDescription(executable=Path("/bin/date"), ranks=Count(2), gpus_per_rank=1)
    assert task.as_dict() == {"executable": "/bin/date", "ranks": 2, "gpus_per_rank": 1}
    assert type(task.ranks) is int


def test_a_python_task_brings_its_arguments() -> None:
    described = PythonTask.pythontask(double)(4)
    assert TaskDescription(function=described) == TaskDescription(function=double, args=(4,), kwargs={})
    with pytest.raises(InvalidTask) as refused:
        TaskDescription(function=described, args=(5,))
    assert str(refused.value) == "task description: the PythonTask brings its arguments; leave args out"


# As a mapping, a copy, a text


def test_items_are_the_attributes_that_were_set() -> None:
    task = TaskDescription(executable="a", ranks=2)
    assert task["ranks"] == 2
    assert task["cores_per_rank"] == 1
    assert ("ranks" in task, "timeout" in task, len(task), list(task)) == (True, False, 2, ["executable", "ranks"])
    assert dict(task) == {"executable": "a", "ranks": 2} == dict(task.items())
    assert (task.get("timeout"), task.get("timeout", 7), task.get("ranks", 7)) == (0.0, 7, 2)
    del task["ranks"]
    assert task.keys() == ["executable"]


def test_the_repr_shows_what_was_set_and_differs_from_the_defaults() -> None:
    task = TaskDescription(executable="/bin/date", ranks=1, timeout=0)
    assert task.environment == {}
    assert repr(task) == "TaskDescription(executable='/bin/date')"
    assert repr(PilotDescription(cores=4)) == "PilotDescription(cores=4)"


def test_equality_is_by_what_is_said() -> None:
    assert TaskDescription(executable="a", ranks=1) == TaskDescription(executable="a")
    assert TaskDescription(args=(1, 2)) == TaskDescription(args=[1, 2])
    assert TaskDescription(timeout=5) == TaskDescription(timeout=5.0)
    assert TaskDescription(ranks=2) != TaskDescription(ranks=3)
    assert TaskDescription() != PilotDescription()
    assert TaskDescription() != {}
    with pytest.raises(TypeError):
        hash(TaskDescription())


@pytest.mark.parametrize("copied", [copy.copy, TaskDescription.clone, lambda task: TaskDescription(task.as_dict())])
def test_a_copy_has_lists_and_dicts_of_its_own(copied: Any) -> None:
    task = TaskDescription(executable="a", arguments=["x"], environment={"A": "1"})
    twin = copied(task)
    assert twin == task
    twin.arguments.append("y")
    twin.environment["B"] = "2"
    assert task == TaskDescription(executable="a", arguments=["x"], environment={"A": "1"})


def test_a_clone_takes_changes() -> None:
    task = TaskDescription(executable="a", uid="t.1")
    assert task.clone(uid="t.2", ranks=2) == TaskDescription(executable="a", uid="t.2", ranks=2)
    assert task.uid == "t.1"


def test_a_deep_copy_and_a_pickled_one_are_equal_and_independent() -> None:
    task = TaskDescription(function=double, args=[{"deep": [1]}])
    deep = copy.deepcopy(task)
    assert deep == task == pickle.loads(pickle.dumps(task))
    deep.args[0]["deep"].append(2)
    assert task.args == [{"deep": [1]}]


# Mistakes


@pytest.mark.parametrize(
    ("name", "hint"),
    [("rank", "; did you mean 'ranks'?"), ("execuable", "; did you mean 'executable'?"), ("zzz", "")],
)
def test_an_unknown_attribute_is_refused_wherever_it_is_named(name: str, hint: str) -> None:
    task = TaskDescription(executable="a")
    ways: list[Any] = [
        lambda: TaskDescription(**{name: 1}),
        lambda: TaskDescription({name: 1}),
        lambda: setattr(task, name, 1),
        lambda: getattr(task, name),
        lambda: delattr(task, name),
        lambda: task[name],
        lambda: task.clone(**{name: 1}),
        lambda: task.get(name),
    ]
    for way in ways:
        with pytest.raises(UnknownAttribute) as refused:
            way()
        assert str(refused.value) == f"TaskDescription has no attribute {name!r}{hint}"
    assert task == TaskDescription(executable="a")
    assert not hasattr(task, name)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ranks", "4", "takes a whole number (int), not '4' (str)"),
        ("ranks", 2.0, "takes a whole number (int), not 2.0 (float)"),
        ("ranks", True, "takes a whole number (int), not True (bool)"),
        ("executable", 7, "takes a path (str or pathlib.Path), not 7 (int)"),
        ("executable", b"/bin/date", "takes a path (str or pathlib.Path), not b'/bin/date' (bytes)"),
        ("name", 7, "takes text (str), not 7 (int)"),
        ("gpus_per_rank", "half", "takes a number (int or float), not 'half' (str)"),
        ("timeout", False, "takes a number (int or float), not False (bool)"),
        ("restartable", 1, "takes True or False (bool), not 1 (int)"),
        ("arguments", "-l", "takes a list, not '-l' (str); put it into a list: ['-l']"),
        ("args", 3, "takes a list, not 3 (int)"),
        ("environment", ["A"], "takes a dict, not ['A'] (list)"),
        ("function", "double", "takes a callable, not 'double' (str); give the function or bound method itself, not its name"),
        ("name", 10**80, f"takes text (str), not 1{'0' * 56}... (int)"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_at_once(name: str, value: Any, told: str) -> None:
    task = TaskDescription(executable="a")
    for way in (lambda: TaskDescription({name: value}), lambda: setattr(task, name, value), lambda: task.update({name: value})):
        with pytest.raises(InvalidTask) as refused:
            way()
        assert str(refused.value) == f"task description: {name} {told}"
    assert task == TaskDescription(executable="a")


def test_a_pilot_description_refuses_in_the_same_way() -> None:
    with pytest.raises(InvalidPilot) as wrong:
        PilotDescription(cores="4")
    assert str(wrong.value) == "pilot description: cores takes a whole number (int), not '4' (str)"
    with pytest.raises(UnknownAttribute) as unknown:
        PilotDescription(core=4)
    assert str(unknown.value) == "PilotDescription has no attribute 'core'; did you mean 'cores'?"


def test_a_description_is_made_from_a_mapping_only() -> None:
    with pytest.raises(InvalidTask) as refused:
        TaskDescription("executable")  # type: ignore[arg-type]
    assert str(refused.value) == "task description: a description is made from a dict or keywords, not 'executable' (str)"


def test_an_update_with_one_bad_attribute_changes_nothing() -> None:
    task = TaskDescription(ranks=2)
    with pytest.raises(UnknownAttribute):
        task.update({"ranks": 3, "rank": 4})
    assert task.ranks == 2


# Older names


@pytest.mark.parametrize(("older", "present"), [(older, present) for older, present in OLDER_TASK_NAMES.items() if present])
def test_an_older_name_means_the_present_one_and_warns_at_the_callers_line(older: str, present: str) -> None:
    value: Any = {Kind.WHOLE: 2, Kind.NUMBER: 2, Kind.FUNCTION: double}.get(TASK_FIELDS[present].kind, "x")
    with pytest.warns(DeprecationWarning, match=rf"^TaskDescription.{older} is an older name: use '{present}'$") as warned:
        task = TaskDescription({older: value})
    assert warned[0].filename == __file__
    assert task.as_dict() == {present: value}
    with pytest.warns(DeprecationWarning) as warned:
        assert getattr(task, older) == value
    assert warned[0].filename == __file__


def test_older_names_without_an_effect_only_warn() -> None:
    told = "^TaskDescription.cpu_process_type is an older name: it has no effect, leave it out$"
    with pytest.warns(DeprecationWarning, match=told):
        assert TaskDescription(cpu_process_type="MPI").as_dict() == {}


def test_zero_under_an_older_name_means_not_set() -> None:
    with pytest.warns(DeprecationWarning):
        assert TaskDescription(ranks=2, cpu_processes=0) == TaskDescription(ranks=2)


def test_an_attribute_under_both_names_is_refused() -> None:
    with pytest.warns(DeprecationWarning), pytest.raises(InvalidTask) as refused:
        TaskDescription(ranks=2, cpu_processes=4)
    assert str(refused.value) == (
        "task description: both ranks=2 (int) and its older name cpu_processes=4 (int) are given; leave cpu_processes out"
    )


def test_the_names_of_2018_are_the_same_classes() -> None:
    assert ComputeUnitDescription is TaskDescription
    assert ComputePilotDescription is PilotDescription


# Round trips


def values_of(kind: Kind) -> st.SearchStrategy[Any]:
    text = st.text(max_size=8)
    return {
        Kind.TEXT: text,
        Kind.PATH: text,
        Kind.WHOLE: st.integers(),
        Kind.NUMBER: st.integers() | st.floats(allow_nan=False),
        Kind.FLAG: st.booleans(),
        Kind.LIST: st.lists(st.integers() | text, max_size=3),
        Kind.COMMANDS: st.lists(text, max_size=3),
        Kind.TEXTS: st.lists(text, max_size=3),
        Kind.MOMENT: st.floats(allow_nan=False),
        Kind.CODES: st.lists(st.integers() | text, max_size=3),
        Kind.TASKS: st.lists(text, max_size=3),
        Kind.TABLE: st.dictionaries(text, text, max_size=3),
        Kind.FUNCTION: st.sampled_from([double, len, "".join]),
        Kind.ANY: st.none() | text | st.dictionaries(text, st.integers(), max_size=3),
    }[kind]


def attributes_of(table: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: values_of(field.kind) for name, field in table.items()})


@given(attributes_of(TASK_FIELDS))
def test_what_is_set_comes_back(attributes: dict[str, Any]) -> None:
    task = TaskDescription(attributes)
    assert task.as_dict() == {name: value for name, value in attributes.items() if value is not None}
    one_by_one = TaskDescription()
    for name, value in attributes.items():
        setattr(one_by_one, name, value)
    twins = [one_by_one, TaskDescription(**attributes), TaskDescription.from_dict(task.as_dict()), task.clone()]
    assert all(twin == task and repr(twin) == repr(task) for twin in twins)
    assert task == copy.deepcopy(task) == pickle.loads(pickle.dumps(task))


@given(attributes_of(PILOT_FIELDS))
def test_what_is_set_for_a_pilot_comes_back(attributes: dict[str, Any]) -> None:
    pilot = PilotDescription(attributes)
    assert pilot.as_dict() == {name: value for name, value in attributes.items() if value is not None}
    assert PilotDescription.from_dict(pilot.as_dict()) == pilot


def test_every_kind_of_attribute_has_its_exact_types() -> None:
    assert set(EXACT) == set(Kind)
