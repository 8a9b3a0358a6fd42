"""What users may write of a named environment, and what they are told if it is something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pilotage.environments.spec import parse_spec
from pilotage.errors import InvalidRequest
from pilotage.model.environments import EnvironmentSpec


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, EnvironmentSpec("venv")),
        ({"type": "shell", "pre_exec": "export A=1"}, EnvironmentSpec("shell", pre_exec=("export A=1",))),
        ({"type": "virtualenv", "setup": ["numpy"]}, EnvironmentSpec("venv", setup=("numpy",))),
        ({"type": "venv", "version": "3.8.12", "path": "ve/"}, EnvironmentSpec("venv", "ve", "3.8")),
        ({"type": "venv", "version": 3, "path": Path("/x/ve")}, EnvironmentSpec("venv", "/x/ve", "3")),
        ({"type": "anaconda", "version": "3.10", "setup": ("b",)}, EnvironmentSpec("conda", version="3.10", setup=("b",))),
        ({"type": "module", "modules": "gcc/12"}, EnvironmentSpec("modules", modules=("gcc/12",))),
        ({"type": "Modules", "modules": ["gcc", "x"], "pre_exec": None}, EnvironmentSpec("modules", modules=("gcc", "x"))),
        ({"type": "spack", "path": "/x/activate.sh"}, EnvironmentSpec("spack", "/x/activate.sh")),
    ],
)
def test_what_users_of_radical_pilot_write(spec: dict[str, Any], expected: EnvironmentSpec) -> None:
    assert parse_spec("some_env", spec) == expected


def test_the_home_of_the_user_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parse_spec("e", {"path": "~/ve"}).path == "/home/somebody/ve"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"typ": "venv"}, ["'typ'", "did you mean 'type'", "pre_exec"]),
        ({"type": "conde"}, ["'conde'", "did you mean 'conda'", "shell"]),
        ({"type": 3}, ["type is 3", "venv"]),
        ({"type": "shell", "setup": ["numpy"]}, ["'shell'", "'setup'", "'conda' or 'venv'"]),
        ({"type": "spack"}, ["'path'", "spack env activate"]),
        ({"type": "modules", "pre_exec": ["true"]}, ["needs 'modules'"]),
        ({"version": 3.10}, ["3.1", "as text"]),
        ({"version": "latest"}, ["'latest'", "'3.11'"]),
        ({"version": True}, ["True"]),
        ({"setup": 7}, ["setup is 7", "list of text"]),
        ({"setup": ["numpy", " "]}, ["setup holds ' '"]),
        ({"pre_exec": ["export A=1", 2]}, ["pre_exec holds 2"]),
        ({"path": 5}, ["path is 5"]),
        ({"path": "a\nb"}, ["one line"]),
        (["venv"], ["['venv']", "a table"]),
    ],
)
def test_what_is_wrong_is_named_with_what_is_right(spec: Any, words: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_spec("some_env", spec)
    assert "'some_env'" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "-x", "x" * 101, 7])
def test_a_name_has_to_be_fit_for_a_folder(name: Any) -> None:
    with pytest.raises(InvalidRequest, match="cannot be called"):
        parse_spec(name, {})


@pytest.mark.parametrize("name", ["rp", "pilotage"])
def test_our_own_names_are_taken(name: str) -> None:
    with pytest.raises(InvalidRequest, match="always there"):
        parse_spec(name, {})
