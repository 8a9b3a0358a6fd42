"""Where sources and targets are: the text of their URLs, and the paths that these amount to.

``task://``, ``pilot://``, ``session://`` and ``resource://`` are folders, and their paths are relative to them, with any
number of slashes in front; ``endpoint://`` and ``file://`` are the root of the file system. ``client://`` and ``pwd://`` mean
something to the client alone, which puts ``file://`` in their place. Paths are taken literally: nothing is percent-encoded.

In a source ``*``, ``?``, ``[...]`` and ``**`` are wildcards unless a file of that very name exists.
"""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Iterable, Iterator

import msgspec

from pilotage.errors import nearest

HTTP = ("http", "https")
FOLDERS = ("task", "pilot", "session", "resource")
"""Schemas that name a folder which their paths may not leave."""
ROOTS = ("file", "endpoint")
OF_CLIENT = ("client", "pwd")
SCHEMAS = (*OF_CLIENT, *FOLDERS, *ROOTS, *HTTP)

REMOTE = ("scp", "sftp", "ssh", "gsiscp", "gsisftp", "gsissh", "gsiftp", "ftp", "globus", "go", "srm")
"""Schemas of file transfers that users know and this version does not make."""

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""How the names of tar files end."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(.*)\Z", re.DOTALL)
_NEARLY_URL = re.compile(rf"({'|'.join((*SCHEMAS, *REMOTE))}):(/?)(?!/)")
_ESCAPED = re.compile(r"\[([*?[])\]")
_WILD = re.compile(r"[*?[]")


class BadUrl(ValueError):
    """This is no place that can be staged from or to; the message says why and what to write instead."""


class Url(msgspec.Struct, frozen=True, gc=False):
    """A place. ``path``: relative for ``FOLDERS``, absolute for ``ROOTS``; of http it is the whole URL."""

    schema: str
    path: str

    def __str__(self) -> str:
        if self.schema in HTTP:
            return self.path
        return f"{self.schema}://{'' if self.path.startswith('/') else '/'}{self.path}"

    @property
    def name(self) -> str:
        """The last part of the path: what a copy is called when nothing else is said."""
        path = self.path
        if self.schema in HTTP:
            path = re.split(r"[?#]", path.split("://", 1)[1])[0].partition("/")[2]
        return posixpath.basename(path.rstrip("/"))


class Places(msgspec.Struct, frozen=True):
    """The folders that the schemas stand for, where a pilot runs. ``task`` is empty where there is no task."""

    pilot: str
    session: str
    resource: str
    task: str = ""

    @classmethod
    def of_pilot(cls, folder: str) -> Places:
        """Return the places of the pilot in ``folder``: it lies in that of its session, and this in that of all sessions."""
        session = os.path.dirname(folder)
        return cls(folder, session, os.path.dirname(session))


def parse_url(text: str) -> Url | None:
    """Return the place that ``text`` names; None if it is a plain path.

    Raises:
        BadUrl: it has the form of a URL, and no such place can be staged from or to.
    """
    match = _URL.match(text)
    if match is None:
        nearly = _NEARLY_URL.match(text)
        if nearly is not None:
            raise BadUrl(f"{text!r} is neither a URL nor a path that is likely to be meant; write {nearly[1]}:///...")
        return None
    schema, host, path = match[1].lower(), match[2], match[3]
    if schema in HTTP:
        return _web(text, schema, host)
    if schema in REMOTE:
        raise BadUrl(
            f"{text!r}: this version does not transfer files by {schema}://; bring them to this machine first (scp, rsync, "
            "globus) and name them by a path, or fetch them by https:// with the action DOWNLOAD"
        )
    if schema not in SCHEMAS:
        raise BadUrl(f"{text!r}: unknown schema {schema!r}; known are {', '.join(SCHEMAS)}{nearest(schema, SCHEMAS)}")
    if host and not (schema in ROOTS and host == "localhost"):
        raise BadUrl(
            f"{text!r} names a host, {host!r}, and {schema}:// has none; if it belongs to the path, write "
            f"{schema}:///{host}{path}. Files of other machines are not staged by this version"
        )
    if schema in ROOTS:
        return Url(schema, _normal("/" + path.lstrip("/")))
    path = _normal(path.lstrip("/"))
    if schema in FOLDERS and (path == ".." or path.startswith("../")):
        raise BadUrl(
            f"{text!r} leads out of the folder that {schema}:// stands for; name what lies elsewhere by its full path "
            "(file:///...), or relative to pilot:///"
        )
    return Url(schema, path)


def _web(text: str, schema: str, host: str) -> Url:
    if not host:
        raise BadUrl(f"{text!r} names no host; write {schema}://host/path")
    if "@" in host:
        # Directives are logged and shown in messages.
        raise BadUrl(
            f"a {schema}:// URL of host {host.rpartition('@')[2]!r} holds a user or password, which would be logged; "
            "leave it out, and fetch what needs a login by a command in pre_exec"
        )
    if re.search(r"[\x00-\x20\x7f]", text):
        raise BadUrl(f"{text!r} holds a blank or a control character; write it percent-encoded (%20)")
    return Url(schema, text)


def _normal(path: str) -> str:
    """Return the path without detours; a slash at its end is kept, as it says that a folder is meant."""
    if path and "//" not in path and "/." not in path and path[0] != ".":
        return path  # nearly all are
    normal = posixpath.normpath(path) if path else "."
    if normal == ".":
        return ""
    return f"{normal}/" if path.endswith("/") and normal != "/" else normal


def locate(url: Url, places: Places) -> tuple[str, str]:
    """Return the folder that ``url`` is relative to, and its path in there; neither of the two is read."""
    if url.schema in ROOTS:
        return "/", url.path.lstrip("/")
    folder = {"task": places.task, "pilot": places.pilot, "session": places.session, "resource": places.resource}[url.schema]
    return folder, url.path


def literal(pattern: str) -> str | None:
    """Return the one path that a source's path stands for; None if it has wildcards.

    >>> literal("run[[]1]/input.dat"), literal("run1/*.dat")
    ('run[1]/input.dat', None)
    """
    return None if _WILD.search(_ESCAPED.sub("", pattern)) else plain(pattern)


def plain(pattern: str) -> str:
    """Return a source's path without the marks that take wildcards literally."""
    return _ESCAPED.sub(r"\1", pattern)


def matches(folder: str, pattern: str) -> list[tuple[str, str]]:
    """Return what matches ``pattern`` in ``folder``, in order: paths, and names of the copies.

    A copy keeps the path that a match has below the last folder without a wildcard, so no two copies have the same name. Of
    a folder that matches, what matches inside is not named again.
    """
    found = [path.rstrip("/") for path in glob.iglob(pattern, root_dir=folder, recursive=True)]
    prefix = "".join(f"{part}/" for part in _fixed_parts(pattern))
    return [(os.path.join(folder, path), path[len(prefix) :]) for path in _outermost(folder, found)]


def _fixed_parts(pattern: str) -> Iterator[str]:
    for part in pattern.split("/"):
        fixed = literal(part)
        if fixed is None:
            return
        yield fixed


def _outermost(folder: str, paths: Iterable[str]) -> Iterator[str]:
    above = None
    for path in sorted(paths, key=lambda path: path.split("/")):
        if above is None or not path.startswith(above):
            yield path
            above = f"{path}/" if os.path.isdir(os.path.join(folder, path)) else None
