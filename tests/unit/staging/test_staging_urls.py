"""Places as text."""

from __future__ import annotations

import pytest

from pilotage.staging.urls import BadUrl, Places, Url, literal, locate, parse_url, plain

PLACES = Places("/base/session/pilot", "/base/session", "/base", "/base/session/pilot/tasks/t")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("task:///a/b", "/base/session/pilot/tasks/t/a/b"),
        ("task://", "/base/session/pilot/tasks/t/"),
        ("TASK:///a", "/base/session/pilot/tasks/t/a"),
        ("pilot:////a//b/./c/../d", "/base/session/pilot/a/b/d"),
        ("pilot:///a/", "/base/session/pilot/a/"),
        ("session:///pilot/a", "/base/session/pilot/a"),
        ("resource:///a", "/base/a"),
        ("endpoint:///etc/hosts", "/etc/hosts"),
        ("endpoint://localhost/etc/hosts", "/etc/hosts"),
        ("file:///a%20b?c#d", "/a%20b?c#d"),
        ("file:///a/../b", "/b"),
    ],
)
def test_each_schema_has_its_folder(text: str, path: str) -> None:
    url = parse_url(text)
    assert url is not None
    folder, rest = locate(url, PLACES)
    assert f"{folder.rstrip('/')}/{rest}" == path
    assert parse_url(str(url)) == url


@pytest.mark.parametrize("text", ["a", "/a", "a/b:c", "a:b", "a?b*", "://x", "C:/x"])
def test_what_is_no_url_is_a_path(text: str) -> None:
    assert parse_url(text) is None


@pytest.mark.parametrize("schema", ["task", "pilot", "session", "resource"])
@pytest.mark.parametrize("path", ["..", "../a", "a/../../b", "/../a", "./../a/"])
def test_a_folder_cannot_be_left(schema: str, path: str) -> None:
    with pytest.raises(BadUrl, match=f"leads out of the folder that {schema}:// stands for"):
        parse_url(f"{schema}:///{path}")


@pytest.mark.parametrize("schema", ["scp", "sftp", "gsiscp", "gsisftp", "globus", "go", "ftp", "gsiftp"])
def test_other_transfers_are_refused_with_what_can_be_done(schema: str) -> None:
    with pytest.raises(BadUrl, match=f"does not transfer files by {schema}://; bring them to this machine first"):
        parse_url(f"{schema}://host/a")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("plot:///a", "unknown schema 'plot'; known are .*; did you mean 'pilot'"),
        ("pilot://a/b", r"names a host, 'a'.* write pilot:///a/b"),
        ("file://host/a", "names a host, 'host'.*Files of other machines"),
        ("pilot:/a", "write pilot:///"),
        ("http:///a", "names no host"),
        ("http://user:secret@host/a", "host 'host' holds a user or password"),
        ("http://host/a b", "percent-encoded"),
    ],
)
def test_what_is_wrong_is_told(text: str, why: str) -> None:
    with pytest.raises(BadUrl, match=why) as refused:
        parse_url(text)
    assert "secret" not in str(refused.value)


def test_names_of_copies() -> None:
    names = [Url("https", f"https://host{path}").name for path in ("/a/b.dat?x=/c#d", "/", "", "/a/b/")]
    assert names == ["b.dat", "", "", "b"]
    assert [Url("pilot", path).name for path in ("a/b", "a/b/", "")] == ["b", "b", ""]


def test_wildcards_and_what_takes_them_literally() -> None:
    assert [literal(text) for text in ("a", "a*", "a?", "[ab]", "a[*]b", "[[]1]", "[*]*")] == [
        "a",
        None,
        None,
        None,
        "a*b",
        "[1]",
        None,
    ]
    assert plain("[*]*") == "**"
