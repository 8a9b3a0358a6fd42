"""The figures of the science: water against temperature, and the lipids. What the cores did, Pilotage's trace draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display on a compute node

import numpy as np
from analysis import LipidPacking, Point, ReplicaSummary, density_curve, experimental_density
from matplotlib import pyplot

# The palette of Okabe and Ito, which the colour-blind can read too.
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
ROUNDS = ((BLUE, "o"), (VERMILION, "s"))

pyplot.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "savefig.dpi": 200,
        "savefig.bbox": "tight",
    }
)


def plot_water(path: Path, rounds: Sequence[Sequence[ReplicaSummary]], points: Sequence[Point]) -> None:
    """Draw density and potential energy against temperature: each replica, and the curve through all of them."""
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(4.8, 6.2), sharex=True, layout="constrained")
    temperatures = np.array([point.temperature_kelvin for point in points])
    at_kelvin = np.linspace(temperatures.min(), temperatures.max(), 200)

    mean, error = density_curve(points, at_kelvin)
    above.plot(at_kelvin, mean, color="0.35", lw=1.2, label="TIP3P, fit to all replicas")
    above.fill_between(at_kelvin, mean - error, mean + error, color="0.85", lw=0, label="its standard error")
    liquid = at_kelvin[at_kelvin >= 273.15]  # what the formula was fitted to
    above.plot(liquid, experimental_density(liquid), "--", color=GREEN, lw=1.2, label="real water (Kell 1975)")
    above.set_ylabel("density (g cm$^{-3}$)")

    potential = np.array([point.potential_kj_per_mol for point in points])
    weights = 1.0 / np.array([point.potential_error for point in points])
    line = np.polynomial.Polynomial.fit(temperatures, potential, 1, w=weights)
    slope = line.convert().coef[1]
    below.plot(at_kelvin, line(at_kelvin), color="0.35", lw=1.2, label=f"slope {1000 * slope:.0f} J mol$^{{-1}}$ K$^{{-1}}$")
    below.set_ylabel("potential energy (kJ mol$^{-1}$)")
    below.set_xlabel("temperature (K)")

    for number, (replicas, (colour, marker)) in enumerate(zip(rounds, ROUNDS, strict=True), start=1):
        at = _side_by_side(replicas, offset_kelvin=0.4 if number == 1 else -0.4)
        style = {"fmt": marker, "color": colour, "ms": 4, "lw": 1, "capsize": 2, "label": f"round {number}"}
        above.errorbar(at, [one.density_g_per_cm3 for one in replicas], [one.density_error for one in replicas], **style)
        below.errorbar(at, [one.potential_kj_per_mol for one in replicas], [one.potential_error for one in replicas], **style)
    above.legend(loc="lower left", fontsize=8)
    below.legend(loc="upper left", fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)


def plot_lipids(path: Path, packings: Sequence[LipidPacking]) -> None:
    """Draw for each lipid how tightly it is bound, the area that it takes and the thickness of its bilayer."""
    figure, panels = pyplot.subplots(1, 3, figsize=(6.8, 2.6), sharey=True, layout="constrained")
    rows = np.arange(len(packings))[::-1]
    # Both kinds of head group in each panel: choline (PC) and the smaller ethanolamine (PE).
    for heads, colour, marker in (("PC", BLUE, "o"), ("PE", VERMILION, "s")):
        drawn = [(row, one) for row, one in zip(rows, packings, strict=True) if one.lipid.endswith(heads)]
        at = [row for row, _ in drawn]
        panels[0].errorbar(
            [one.cohesion_kj_per_mol for _, one in drawn],
            at,
            xerr=[one.cohesion_error_kj_per_mol for _, one in drawn],
            fmt=marker,
            color=colour,
            ms=5,
            lw=1,
            capsize=2,
        )
        panels[1].plot([one.area_per_lipid_nm2 for _, one in drawn], at, marker, color=colour, ms=5)
        panels[2].plot([one.phosphorus_distance_nm for _, one in drawn], at, marker, color=colour, ms=5)
    panels[0].set_yticks(rows, [one.lipid for one in packings])
    panels[0].set_xlabel("cohesion of dry clusters\n(kJ mol$^{-1}$ per lipid)")
    panels[1].set_xlabel("area per lipid\n(nm$^2$)")
    panels[2].set_xlabel("phosphorus to phosphorus\n(nm)")
    for axes in panels:
        axes.grid(axis="y", color="0.9", lw=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.1, y=0.1)
    figure.savefig(path)
    pyplot.close(figure)


def _side_by_side(replicas: Sequence[ReplicaSummary], offset_kelvin: float) -> list[float]:
    """Return where to draw each replica: beside those of the same temperature, so that no error bar hides another."""
    seen: dict[float, int] = {}
    places = []
    for replica in replicas:
        before = seen.get(replica.temperature_kelvin, 0)
        seen[replica.temperature_kelvin] = before + 1
        places.append(replica.temperature_kelvin + offset_kelvin * (2 * before + 1))
    return places
