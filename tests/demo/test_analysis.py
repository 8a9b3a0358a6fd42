"""The analysis of the demo, against series and curves whose answers are known beforehand."""

from __future__ import annotations

import json

import pytest

np = pytest.importorskip("numpy", reason="the demo needs numpy")

import analysis  # noqa: E402

SEED = 20240607


def autoregressive(count: int, memory: float, generator: np.random.Generator) -> np.ndarray:
    """A stationary series of variance 1 in which each value keeps `memory` of the one before it."""
    kicks = generator.normal(size=count) * np.sqrt(1.0 - memory**2)
    series = np.empty(count)
    series[0] = generator.normal()
    for index in range(1, count):
        series[index] = memory * series[index - 1] + kicks[index]
    return series


def replica(kelvin: float, density: float, error: float = 0.004, seed: int = 1) -> analysis.ReplicaSummary:
    return analysis.ReplicaSummary(kelvin, seed, density, error, -40.0, 0.1)


def straight_line(kelvin: float) -> float:
    return 0.98 - 8e-4 * (kelvin - 300.0)


def test_independent_samples_count_one_each() -> None:
    series = np.random.default_rng(SEED).normal(size=20_000)
    assert analysis.statistical_inefficiency(series) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("memory", [0.5, 0.8, 0.9])
def test_correlated_samples_count_as_theory_says(memory: float) -> None:
    series = autoregressive(100_000, memory, np.random.default_rng(SEED))
    assert analysis.statistical_inefficiency(series) == pytest.approx((1 + memory) / (1 - memory), rel=0.1)


def test_a_constant_series_has_no_error() -> None:
    assert analysis.standard_error(np.full(100, 3.0)) == 0.0


def test_the_standard_error_is_the_scatter_of_the_means_of_many_series() -> None:
    generator = np.random.default_rng(SEED)
    many = [autoregressive(1000, 0.9, generator) for _ in range(100)]
    scatter = np.std([series.mean() for series in many], ddof=1)
    typical = np.median([analysis.standard_error(series) for series in many])
    assert typical == pytest.approx(scatter, rel=0.3)


def test_block_error_is_that_of_the_means_of_the_blocks() -> None:
    series = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], 7)
    assert analysis.block_error(series) == pytest.approx(np.std([1, 2, 3, 4, 5], ddof=1) / np.sqrt(5))


def test_a_replica_is_summarised_from_its_file(tmp_path) -> None:
    density = np.random.default_rng(SEED).normal(0.98, 0.01, size=400)
    path = tmp_path / "water.npz"
    np.savez(path, temperature_kelvin=300.0, seed=7, density_g_per_cm3=density, potential_kj_per_mol=-40.0 * density)
    summary = analysis.summarise_replica(str(path))
    assert (summary.temperature_kelvin, summary.seed) == (300.0, 7)
    assert summary.density_g_per_cm3 == pytest.approx(density.mean())
    assert summary.potential_kj_per_mol == pytest.approx(-40.0 * density.mean())
    assert summary.potential_error == pytest.approx(40.0 * summary.density_error)


def test_replicas_that_agree_are_combined_with_their_own_errors() -> None:
    (point,) = analysis.combine([replica(300, 0.98, 0.003, seed=1), replica(300, 0.98, 0.004, seed=2)])
    assert point.replicas == 2
    assert point.density_g_per_cm3 == pytest.approx(0.98)
    assert point.density_error == pytest.approx(0.005 / 2)


def test_replicas_that_disagree_raise_the_error_to_their_scatter() -> None:
    (point,) = analysis.combine([replica(300, 0.90, 0.001, seed=1), replica(300, 1.00, 0.001, seed=2)])
    assert point.density_error == pytest.approx(0.05)


def test_the_curve_follows_a_straight_line_and_doubts_itself_more_where_nothing_was_measured() -> None:
    points = analysis.combine([replica(kelvin, straight_line(kelvin)) for kelvin in (280.0, 310.0, 370.0)])
    mean, error = analysis.density_curve(points, np.array([280.0, 310.0, 340.0]))
    assert mean == pytest.approx([straight_line(kelvin) for kelvin in (280.0, 310.0, 340.0)], abs=5e-4)
    assert error[2] > max(error[0], error[1])


def test_the_next_temperature_is_in_the_widest_gap() -> None:
    replicas = [replica(kelvin, straight_line(kelvin)) for kelvin in (280.0, 290.0, 300.0, 360.0, 370.0)]
    (chosen,) = analysis.choose_temperatures(replicas, range(280, 371, 5), 1)
    assert 320 <= chosen <= 345


def test_the_next_temperature_is_where_the_measurement_was_bad() -> None:
    kelvins = (280.0, 300.0, 320.0, 340.0, 360.0)
    replicas = [replica(kelvin, straight_line(kelvin), 0.05 if kelvin == 320.0 else 0.001) for kelvin in kelvins]
    assert analysis.choose_temperatures(replicas, kelvins, 1) == [320.0]


def test_several_choices_spread_over_the_gaps() -> None:
    replicas = [replica(kelvin, straight_line(kelvin)) for kelvin in (280.0, 325.0, 370.0)]
    chosen = analysis.choose_temperatures(replicas, range(280, 371, 5), 4)
    assert len(chosen) == 4
    assert any(280 < kelvin < 325 for kelvin in chosen)
    assert any(325 < kelvin < 370 for kelvin in chosen)


def test_thermal_expansion_is_the_slope_of_the_curve() -> None:
    points = analysis.combine([replica(kelvin, straight_line(kelvin), 1e-4) for kelvin in range(280, 371, 10)])
    expansion = analysis.thermal_expansion(points, 300.0)
    assert expansion.per_kelvin == pytest.approx(8e-4 / 0.98, rel=0.05)
    assert 0.0 < expansion.error < 5e-5


@pytest.mark.parametrize(("celsius", "density"), [(3.98, 0.99997), (25.0, 0.99705), (50.0, 0.98804), (100.0, 0.95837)])
def test_real_water_has_its_tabulated_density(celsius: float, density: float) -> None:
    assert analysis.experimental_density(np.array(celsius + 273.15)) == pytest.approx(density, abs=2e-5)


def test_lipids_are_listed_the_most_tightly_bound_first(tmp_path) -> None:
    for lipid, cohesion in (("DLPC", -150.0), ("POPE", -250.0)):
        measured = {
            "lipid": lipid,
            "area_per_lipid_nm2": 0.6,
            "phosphorus_distance_nm": 3.5,
            "cohesion_kj_per_mol": cohesion,
            "cohesion_error_kj_per_mol": 5.0,
        }
        (tmp_path / f"{lipid}.json").write_text(json.dumps(measured))
    packings = analysis.compare_lipids([str(tmp_path / "DLPC.json"), str(tmp_path / "POPE.json")])
    assert [packing.lipid for packing in packings] == ["POPE", "DLPC"]
