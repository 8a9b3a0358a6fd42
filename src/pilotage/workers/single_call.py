"""The program of a function's own process: ``python .../single_call.py FILE`` makes the call that the file describes.

It is run by its path, as the Python of a named environment knows nothing of Pilotage. So first of all the import path is set:
under our own Python it is that of function workers; under another one the folders of the user's program come first, and our
own package last, where that environment has none, so that nothing of ours stands before anything of its own.
"""

from __future__ import annotations

import sys

# The folder of this file; its modules must not stand in for others of the same name.
del sys.path[0]


def main() -> None:
    """Make the call, and end this process."""
    # Whatever Python an environment has, that this is not new enough is said in words.
    if sys.version_info < (3, 10):  # noqa: UP036
        version = "{}.{}".format(*sys.version_info)
        sys.exit(f"pilotage: functions need Python 3.10 or newer, and {sys.executable} is {version}; use another one there")
    import marshal

    path = sys.argv[1]
    del sys.argv[1:]
    with open(path, "rb") as file:
        call = marshal.load(file)
    if call["path"] is not None:
        sys.path[:] = call["path"]
    else:
        sys.path[:0] = call["user_path"]
        _add_package(call["package_path"], call["version"])
    from pilotage.workers.process_call import make_call

    make_call(path, call)


def _add_package(folders: list[str], version: str) -> None:
    """Make Pilotage importable if it is not."""
    try:
        from pilotage.version import __version__
    except ImportError:
        sys.path.extend(folder for folder in folders if folder not in sys.path)
        return
    if __version__ != version:
        sys.exit(
            f"pilotage: {sys.executable} has Pilotage {__version__}, and the pilot is of {version}; "
            f"install the same there: {sys.executable} -m pip install pilotage=={version}"
        )


if __name__ == "__main__":
    main()
