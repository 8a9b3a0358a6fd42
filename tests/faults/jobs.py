"""What a campaign of the crash suite consists of, and what is to become of each job if nobody kills anything."""

from __future__ import annotations

import random
from typing import Any

import msgspec

EXECUTABLES = ("null", "sleep", "stubborn", "daemon", "children", "flaky", "chatty", "gate")
FUNCTIONS = ("call", "sleep_call", "raising", "flaky_call", "child_call", "large_call", "gate_call")


class Job(msgspec.Struct, frozen=True):
    """One task. ``cancel``: it is cancelled right after it was submitted, so either may come first. Gates wait for a file."""

    uid: str
    kind: str
    seconds: float = 0.0
    ranks: int = 1
    cores: int = 1
    retries: int = 0
    restartable: bool = False
    cancel: bool = False
    sandbox: str = ""

    @property
    def is_call(self) -> bool:
        """Whether it is a function."""
        return self.kind in FUNCTIONS

    @property
    def value(self) -> str:
        """What a function returns."""
        return self.uid * (2000 if self.kind == "large_call" else 1)

    @property
    def runs_again(self) -> bool:
        """Whether more than one attempt is allowed."""
        return bool(self.retries) or self.restartable

    @property
    def expected(self) -> str:
        """The ending if nothing is killed or cancelled."""
        if self.kind == "infeasible":
            return "INFEASIBLE"
        if self.kind == "raising":
            return "RAISED"
        if self.kind == "flaky" and not self.retries:
            return "EXITED"
        if self.kind == "flaky_call" and not self.retries:
            return "RAISED"
        return "DONE"


class Plan(msgspec.Struct, frozen=True):
    """What a client process is to do. It may be told the same again after its death, and then goes on.

    ``pilots``: how many there are to begin with, dealt to by ``scheduler``. ``new_pilot``: a client that comes back waits until
    the pilots that it had are over. ``change``: after its first tasks partition ``a`` of each pilot is retired, and ``c`` is
    added.
    """

    session: str
    jobs: list[Job]
    pilot: dict[str, Any]
    batch: int = 40
    patience_s: float = 60.0
    close: bool = True
    new_pilot: bool = False
    pilots: int = 1
    scheduler: str | None = None
    change: bool = False


def mix(random_: random.Random, count: int) -> list[Job]:
    """Return ``count`` jobs of all kinds, mostly short ones."""
    kinds = [kind for kind in (*EXECUTABLES, *FUNCTIONS, "infeasible") if not kind.startswith("gate")]
    weights = [30, 10, 1, 2, 2, 3, 1, 40, 5, 2, 3, 1, 1, 1]
    jobs = []
    for number, kind in enumerate(random_.choices(kinds, weights, k=count)):
        lasts = kind in ("sleep", "stubborn", "sleep_call")
        jobs.append(
            Job(
                f"job.{number:04d}",
                kind,
                seconds=round(random_.uniform(0.01, 0.4), 3) if lasts else 0.0,
                ranks=2 if kind in ("null", "sleep") and random_.random() < 0.15 else 1,
                cores=1000 if kind == "infeasible" else 1,
                retries=random_.choice((0, 0, 0, 2)),
                restartable=random_.random() < 0.2,
                cancel=random_.random() < 0.08,
            )
        )
    return jobs
