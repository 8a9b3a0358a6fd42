"""What the campaign makes of its samples: error bars, the density curve, and where to sample next.

Plain Python functions of plain values. The campaign calls them on the pilot, as function tasks; nothing in here knows.

The samples of one replica are correlated in time, so their error is that of a smaller number of independent ones
(`standard_error`). The density between the sampled temperatures is a Gaussian process on top of a straight line
(`posterior`): it knows how far each temperature is from what was measured, and how well that was measured. The next
temperatures are those that it knows least about (`choose_temperatures`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# What is believed of the density before any sample: a straight line (of any height and slope), from which it departs
# by some hundredths of a g/cm3 over some tens of kelvin. Liquids at fixed pressure, away from boiling, are like that.
DEPARTURE_G_PER_CM3 = 0.02
CORRELATION_KELVIN = 40.0


@dataclass(frozen=True)
class ReplicaSummary:
    """Means and standard errors of one replica."""

    temperature_kelvin: float
    seed: int
    density_g_per_cm3: float
    density_error: float
    potential_kj_per_mol: float
    potential_error: float


@dataclass(frozen=True)
class Point:
    """Means and standard errors at one temperature, over all its replicas."""

    temperature_kelvin: float
    replicas: int
    density_g_per_cm3: float
    density_error: float
    potential_kj_per_mol: float
    potential_error: float


@dataclass(frozen=True)
class Expansion:
    """The thermal expansion coefficient -(d rho / d T) / rho at one temperature, with its standard error."""

    temperature_kelvin: float
    per_kelvin: float
    error: float


@dataclass(frozen=True)
class LipidPacking:
    """How the lipids of one kind are packed in a bilayer patch."""

    lipid: str
    area_per_lipid_nm2: float
    phosphorus_distance_nm: float
    cohesion_kj_per_mol: float
    cohesion_error_kj_per_mol: float


def statistical_inefficiency(series: Array) -> float:
    """Return how many samples of `series` are worth one independent sample (at least 1).

    It is 1 + 2 x (sum of the autocorrelation), where the sum ends at five times its own value: beyond that there is
    nothing but noise to add.
    """
    deviation = series - series.mean()
    count = len(series)
    variance = float(deviation @ deviation) / count
    if variance == 0.0:
        return 1.0
    inefficiency = 1.0
    for lag in range(1, count):
        inefficiency += 2.0 * float(deviation[:-lag] @ deviation[lag:]) / (count * variance)
        if lag >= 5.0 * inefficiency / 2.0:
            break
    return max(1.0, inefficiency)


def block_error(series: Array, blocks: int = 5) -> float:
    """Return the standard error of the mean of `series` from the scatter of the means of `blocks` blocks."""
    length = len(series) // blocks
    means = series[: length * blocks].reshape(blocks, length).mean(axis=1)
    return float(means.std(ddof=1) / np.sqrt(blocks))


def standard_error(series: Array) -> float:
    """Return the standard error of the mean of a correlated `series`.

    The larger of two estimates, from the autocorrelation and from block averages: on a short series each of them can
    be fooled, and always downwards.
    """
    correlated = float(series.std(ddof=1) * np.sqrt(statistical_inefficiency(series) / len(series)))
    return max(correlated, block_error(series))


def summarise_replica(path: str) -> ReplicaSummary:
    """Return means and errors of the samples that `water_replica.py` wrote to `path`."""
    with np.load(path) as samples:
        density, potential = samples["density_g_per_cm3"], samples["potential_kj_per_mol"]
        return ReplicaSummary(
            temperature_kelvin=float(samples["temperature_kelvin"]),
            seed=int(samples["seed"]),
            density_g_per_cm3=float(density.mean()),
            density_error=standard_error(density),
            potential_kj_per_mol=float(potential.mean()),
            potential_error=standard_error(potential),
        )


def combine(replicas: Sequence[ReplicaSummary]) -> list[Point]:
    """Return one point for each temperature, coldest first.

    Replicas are as long as each other, so they weigh the same: an error from a short series is too uncertain itself to
    be a weight. The error of their mean is what their own errors give, or what their scatter gives if that is larger.
    """
    points = []
    for temperature in sorted({replica.temperature_kelvin for replica in replicas}):
        same = [replica for replica in replicas if replica.temperature_kelvin == temperature]
        points.append(
            Point(
                temperature_kelvin=temperature,
                replicas=len(same),
                density_g_per_cm3=float(np.mean([replica.density_g_per_cm3 for replica in same])),
                density_error=_error_of_mean([(one.density_g_per_cm3, one.density_error) for one in same]),
                potential_kj_per_mol=float(np.mean([replica.potential_kj_per_mol for replica in same])),
                potential_error=_error_of_mean([(one.potential_kj_per_mol, one.potential_error) for one in same]),
            )
        )
    return points


def posterior(at_kelvin: Array, measured_kelvin: Array, density: Array, error: Array) -> tuple[Array, Array]:
    """Return the density curve at `at_kelvin` in g/cm3 and its covariance, given measurements with errors."""
    middle = float(np.mean(measured_kelvin))
    level = float(np.mean(density))
    noisy = _prior(measured_kelvin, measured_kelvin, middle) + np.diag(error**2)
    between = _prior(at_kelvin, measured_kelvin, middle)
    gain = np.linalg.solve(noisy, between.T).T
    mean = level + gain @ (density - level)
    covariance = _prior(at_kelvin, at_kelvin, middle) - gain @ between.T
    return mean, covariance


def density_curve(points: Sequence[Point], at_kelvin: Array) -> tuple[Array, Array]:
    """Return the density at each of `at_kelvin` in g/cm3, and its standard error."""
    mean, covariance = posterior(at_kelvin, *_measured(points))
    return mean, np.sqrt(np.diag(covariance))


def choose_temperatures(replicas: Sequence[ReplicaSummary], candidates_kelvin: Sequence[float], count: int) -> list[float]:
    """Return `count` of the candidates, each for one more replica, where the density curve is least certain.

    They are chosen one after another. A choice counts as measured, with the error of a typical replica, before the next
    one is made: else all of them would crowd at one place. A temperature may be chosen twice.
    """
    measured, density, error = _measured(combine(replicas))
    candidates = np.array(candidates_kelvin, dtype=float)
    typical_error = float(np.median([replica.density_error for replica in replicas]))
    chosen: list[float] = []
    for _ in range(count):
        mean, covariance = posterior(candidates, measured, density, error)
        worst = int(np.argmax(np.diag(covariance)))
        chosen.append(float(candidates[worst]))
        measured = np.append(measured, candidates[worst])
        density = np.append(density, mean[worst])
        error = np.append(error, typical_error)
    return sorted(chosen)


def thermal_expansion(points: Sequence[Point], temperature_kelvin: float) -> Expansion:
    """Return the thermal expansion coefficient at `temperature_kelvin`, from the slope of the density curve."""
    half_width_kelvin = 5.0
    at = temperature_kelvin + half_width_kelvin * np.array([-1.0, 0.0, 1.0])
    mean, covariance = posterior(at, *_measured(points))
    # The two ends of the interval vary together, which their covariance takes off the error of the difference.
    difference = np.array([-1.0, 0.0, 1.0]) / (2.0 * half_width_kelvin)
    slope = float(difference @ mean)
    slope_error = float(np.sqrt(difference @ covariance @ difference))
    return Expansion(temperature_kelvin, per_kelvin=-slope / float(mean[1]), error=slope_error / float(mean[1]))


def experimental_density(temperature_kelvin: Array) -> Array:
    """Return the density of real water at 1 atm in g/cm3.

    The formula of G. S. Kell, J. Chem. Eng. Data 20, 97 (1975), fitted to measurements between 0 and 150 degrees
    Celsius (temperature scale IPTS-68, which differs by less than 0.03 K).
    """
    t = np.asarray(temperature_kelvin, dtype=float) - 273.15
    numerator = np.polyval([-280.54253e-12, 105.56302e-9, -46.170461e-6, -7.9870401e-3, 16.945176, 999.83952], t)
    return np.asarray(numerator / (1.0 + 16.879850e-3 * t) / 1000.0)


def compare_lipids(paths: Sequence[str]) -> list[LipidPacking]:
    """Return what `lipid_patch.py` wrote to `paths`, the most tightly bound lipid first."""
    packings = [LipidPacking(**json.loads(Path(path).read_text())) for path in paths]
    return sorted(packings, key=lambda packing: packing.cohesion_kj_per_mol)


def _prior(left_kelvin: Array, right_kelvin: Array, middle_kelvin: float) -> Array:
    """Return the covariance of the density before any measurement, for each pair of temperatures."""
    left, right = left_kelvin[:, None] - middle_kelvin, right_kelvin[None, :] - middle_kelvin
    # Broad enough to leave the line to the data: 0.3 g/cm3 in height, 0.003 g/cm3 per kelvin in slope.
    line = 0.3**2 + 0.003**2 * left * right
    departure = DEPARTURE_G_PER_CM3**2 * np.exp(-0.5 * ((left - right) / CORRELATION_KELVIN) ** 2)
    return np.asarray(line + departure)


def _measured(points: Sequence[Point]) -> tuple[Array, Array, Array]:
    return (
        np.array([point.temperature_kelvin for point in points]),
        np.array([point.density_g_per_cm3 for point in points]),
        np.array([point.density_error for point in points]),
    )


def _error_of_mean(replicas: Sequence[tuple[float, float]]) -> float:
    """Return the standard error of the mean of replicas, each given as (mean, standard error)."""
    means, errors = np.array(replicas).T
    propagated = float(np.sqrt(np.sum(errors**2)) / len(errors))
    if len(means) == 1:
        return propagated
    return max(propagated, float(means.std(ddof=1) / np.sqrt(len(means))))
