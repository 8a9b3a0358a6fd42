"""The long form: ``python -m tests.faults.rounds --rounds N [--seed S]``.

Each round is a campaign of 100 to 300 tasks of all kinds, during which one to three strokes fall at random moments. The seed
fixes the tasks, the victims and the moments; what runs at a moment is up to the machine.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections import Counter

import msgspec

from .jobs import Plan, mix
from .stage import LOOK_S, Failed, Stage
from .witness import Harm

VICTIMS = (
    ("client",),
    ("bootstrap",),
    ("agent",),
    ("spawner",),
    ("worker",),
    ("agent", "client"),
    ("spawner", "agent"),
    ("client", "worker"),
    ("bootstrap", "client"),
)
COMES_UP_S = 5.0
ROUND_S = 120.0


class Stroke(msgspec.Struct, frozen=True):
    """``after_s`` the stroke before it, ``roles`` are killed or, for ``stop_s``, stopped."""

    after_s: float
    roles: tuple[str, ...]
    stop_s: float = 0.0


class RoundResult(msgspec.Struct, frozen=True):
    """What a round survived."""

    killed: Counter[str]
    endings: Counter[str]
    seconds: float


def strokes(random_: random.Random) -> list[Stroke]:
    """Return one to three strokes."""
    fallen = []
    for _ in range(random_.choice((1, 1, 2, 3))):
        stop_s = round(random_.uniform(0.05, 1.0), 3) if random_.random() < 0.15 else 0.0
        roles = (random_.choice(("client", "agent", "spawner", "worker")),) if stop_s else random_.choice(VICTIMS)
        fallen.append(Stroke(round(random_.uniform(0.0, 1.5) ** 2, 3), roles, stop_s))
    return fallen


def strike(stage: Stage, stroke: Stroke, random_: random.Random, killed: Counter[str]) -> None:
    """Let a stroke fall; what has not come up yet is waited for a little."""
    until = time.monotonic() + COMES_UP_S
    for role in stroke.roles:
        while not stage.pids(role) and time.monotonic() < until and stage.pids("client"):
            time.sleep(LOOK_S)
    if stroke.stop_s:
        for role in stroke.roles:
            pids = stage.pids(role)
            if pids:
                with stage.stopped(random_.choice(pids)):
                    time.sleep(stroke.stop_s)
                killed[f"{role} stopped"] += 1
        return
    for role in stroke.roles:
        active = stage.agent_is_known()
        if stage.kill(role, random_.choice):
            killed[role if role != "bootstrap" or active else "bootstrap before its agent"] += 1


def harm_of(killed: Counter[str]) -> Harm:
    """Return what these kills may cost: nothing, unless what ran a task was itself killed."""
    return Harm(
        runner=bool(killed["spawner"] or killed["worker"]),
        # A pilot whose bootstrap is gone gets no other agent.
        pilot=bool((killed["bootstrap"] and killed["agent"]) or killed["bootstrap before its agent"]),
    )


def play(seed: int, count: int | None = None) -> RoundResult:
    """Play one round. Raises ``Failed`` with the story if anything is not as promised."""
    random_ = random.Random(seed)
    plan = Plan(
        f"round.{seed}",
        mix(random_, count or random_.randint(100, 300)),
        {"resource": "local.localhost", "cores": 2, "runtime": 10},
        batch=random_.choice((20, 50, 400)),
    )
    began = time.monotonic()
    killed: Counter[str] = Counter()
    with Stage(plan) as stage:
        stage.start_client()
        for stroke in strokes(random_):
            due = time.monotonic() + stroke.after_s
            while time.monotonic() < due and stage.pids("client"):
                time.sleep(LOOK_S)
            if not stage.pids("client"):
                break
            strike(stage, stroke, random_, killed)
            if not stage.pids("client") and stage.client is not None and stage.client.returncode == -signal.SIGKILL:
                stage.start_client()
        stage.finish(ROUND_S)
        reports = stage.check(harm_of(killed))
    return RoundResult(killed, Counter(report.ending for report in reports), time.monotonic() - began)


def main() -> None:
    """Play rounds, one line each; the status is that of the worst one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="of the first round; the others follow")
    options = parser.parse_args()
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"{options.rounds} rounds from seed {first}", flush=True)
    total: Counter[str] = Counter()
    failed = []
    for seed in range(first, first + options.rounds):
        try:
            result = play(seed)
        except Failed as error:
            failed.append(seed)
            print(f"seed {seed}: FAILED\n{error}\n", flush=True)
            continue
        total += result.killed
        strokes_told = ", ".join(f"{role} {times}" for role, times in sorted(result.killed.items())) or "nobody in time"
        endings = ", ".join(f"{ending} {times}" for ending, times in result.endings.most_common())
        print(f"seed {seed}: {result.seconds:5.1f} s; killed: {strokes_told}; {endings}", flush=True)
    kills = sum(times for role, times in total.items() if not role.endswith("stopped"))
    by_victim = ", ".join(f"{role} {times}" for role, times in total.most_common())
    print(f"{options.rounds - len(failed)} of {options.rounds} rounds right; {kills} kills survived: {by_victim}")
    if failed:
        sys.exit(f"failed seeds: {failed}")


if __name__ == "__main__":
    main()
