"""All experiments, by their names."""

from __future__ import annotations

from pilotage.errors import InvalidRequest, nearest
from pilotage.experiments import (
    bluewaters,
    campaigns,
    components,
    emulation,
    frontera,
    frontier,
    hybrid,
    launching,
    scaling,
    special,
    summit,
    titan,
    titan_events,
    tracing,
)
from pilotage.experiments.definition import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    experiment.uid: experiment
    for experiment in (
        components.E01,
        components.E02,
        components.E03,
        components.E04,
        components.E05,
        bluewaters.E06,
        launching.E07,
        titan.E08,
        titan.E09,
        special.E10,
        tracing.E11,
        titan.E20,
        titan.E21,
        titan_events.E22,
        summit.E23,
        summit.E24,
        frontera.E25,
        tracing.E26,
        scaling.E27,
        emulation.E28,
        frontier.E40,
        frontier.E41,
        frontier.E42,
        frontier.E43,
        hybrid.E44,
        campaigns.E45,
        campaigns.E46,
        campaigns.E47,
    )
}


def find(uid: str) -> Experiment:
    """Return the experiment of this name, in capitals or not, with its zero or without.

    Raises:
        InvalidRequest: there is none; names the nearest.
    """
    name = uid.upper()
    if len(name) == 2:
        name = f"{name[0]}0{name[1]}"
    experiment = EXPERIMENTS.get(name)
    if experiment is None:
        raise InvalidRequest(f"there is no experiment {uid!r}{nearest(name, EXPERIMENTS)}; known are {', '.join(EXPERIMENTS)}")
    return experiment
