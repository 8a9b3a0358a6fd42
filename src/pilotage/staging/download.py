"""Files fetched by http and https.

A server that goes away early must not leave a short file: what comes is counted against the length that was announced.
Imported when something is to be fetched, as what it stands on is slow to import.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable

from pilotage.staging.failures import SourceMissing, Stopped, Unstageable
from pilotage.staging.shared import Validators
from pilotage.version import __version__

SILENCE_S = 60.0
"""A server that says nothing for this long is given up."""
_BLOCK_BYTES = 1 << 18
_GONE = frozenset({404, 410})
_NOT_MODIFIED = 304


def download(url: str, path: str, stopped: Callable[[], bool] = lambda: False) -> Validators:
    """Write what ``url`` gives to a new file at ``path``.

    Raises:
        SourceMissing, Unstageable: what the server, or the way to it, said.
        OSError: the file cannot be written.
        Stopped
    """
    with _open(urllib.request.Request(url)) as answer, open(path, "xb") as file:
        announced = answer.headers.get("Content-Length")
        while content := _read(answer, url):
            if stopped():
                raise Stopped
            file.write(content)
        size = file.tell()
        if announced is not None and size != int(announced):
            raise Unstageable(f"{url!r} gave {size} of the {announced} bytes that it announced; try again")
        return Validators(answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", ""))


def is_unchanged(url: str, validators: Validators) -> bool:
    """Ask the server whether ``url`` is what it was."""
    headers = {}
    if validators.etag:
        headers["If-None-Match"] = validators.etag
    if validators.modified:
        headers["If-Modified-Since"] = validators.modified
    if not headers:
        return False
    try:
        with _open(urllib.request.Request(url, headers=headers)):
            return False
    except _NotModified:
        return True


class _NotModified(Exception):
    pass


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    url = request.full_url
    request.add_header("User-Agent", f"pilotage/{__version__}")
    try:
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=SILENCE_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == _NOT_MODIFIED:
                raise _NotModified from None
            said = f"{url!r} answers {error.code} {error.reason}"
            if error.code in _GONE:
                raise SourceMissing(f"{said}; check the URL, or set the flag NON_FATAL if it may be missing") from error
            raise Unstageable(f"{said}; check the URL, and whether it needs a login") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise _no_answer(url, error) from error
    return answer


def _read(answer: http.client.HTTPResponse, url: str) -> bytes:
    try:
        return answer.read(_BLOCK_BYTES)
    except (http.client.HTTPException, OSError) as error:
        raise _no_answer(url, error) from error


def _no_answer(url: str, error: Exception) -> Unstageable:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        reason = f"no answer for {SILENCE_S:g} s"
    return Unstageable(
        f"{url!r} cannot be fetched: {reason}; check the URL, and whether the pilot's node reaches it "
        "(http_proxy and https_proxy are honoured)"
    )
