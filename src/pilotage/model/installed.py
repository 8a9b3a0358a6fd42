"""A launcher as it is on one machine: part of what pilots tell their runners. The methods are in ``launchers.method``."""

from __future__ import annotations

import msgspec

from pilotage.errors import BackendError


class Installed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A launcher as it is on one machine: what a look at it, its platform, or the user says.

    ``kind``: of which MPI a ``mpirun`` or ``mpiexec`` is (a ``MpiKind``, or ``mvapich``). ``arguments``: put right behind the
    launcher's name, before ours. ``options``: the method's own, by the names in ``MethodFacts.options``.
    ``ceiling``: launches at once, where more is known of this machine than of the method; 0: see ``MethodFacts``.
    """

    path: str
    kind: str = ""
    version: str = ""
    arguments: tuple[str, ...] = ()
    options: dict[str, str] = {}
    ceiling: int = 0

    def option(self, name: str) -> str:
        """Return an option's value, empty if it has none."""
        return self.options.get(name, "")

    def number(self, name: str) -> int:
        """Return an option's value that is a whole number; 0 if it has none.

        Raises:
            BackendError: the value is no such number.
        """
        value = self.options.get(name, "")
        if value and not (value.isascii() and value.isdigit()):
            raise BackendError(f"option {name}={value!r} of {self.path}: it takes a whole number, as in {name}=4")
        return int(value or 0)
