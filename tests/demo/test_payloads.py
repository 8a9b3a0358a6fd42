"""The payloads of the demo, run as the campaign runs them but for a few steps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

np = pytest.importorskip("numpy", reason="the demo needs numpy")
pytest.importorskip("openmm", reason="the demo's molecular dynamics needs openmm")


def run(*command: object) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def water(demo_folder: Path, output: Path, kelvin: float, seed: int, steps: int = 100) -> dict[str, np.ndarray]:
    run(
        demo_folder / "water_replica.py",
        *("--temperature-kelvin", kelvin, "--seed", seed, "--molecules", 150),
        *("--steps", steps, "--equilibration-steps", 50, "--output", output),
    )
    with np.load(output) as samples:
        return dict(samples)


def test_a_replica_of_water_writes_what_it_sampled(demo_folder: Path, tmp_path: Path) -> None:
    samples = water(demo_folder, tmp_path / "deep" / "water.npz", kelvin=300.0, seed=3)
    assert (samples["temperature_kelvin"], samples["seed"]) == (300.0, 3)
    assert samples["time_ps"] == pytest.approx(0.04 * np.arange(1, 11))
    mass_g = 150 * 18.0153 / 6.02214076e23
    assert samples["density_g_per_cm3"] == pytest.approx(mass_g / (samples["volume_nm3"] * 1e-21), rel=1e-4)
    assert len(set(samples["volume_nm3"])) > 1, "the barostat must move the volume"
    # Liquid water: no gas, no ice, no blown-up simulation.
    assert np.all((samples["density_g_per_cm3"] > 0.8) & (samples["density_g_per_cm3"] < 1.15))
    assert np.all((samples["potential_kj_per_mol"] > -48) & (samples["potential_kj_per_mol"] < -34))


def test_the_seed_tells_replicas_apart(demo_folder: Path, tmp_path: Path) -> None:
    one = water(demo_folder, tmp_path / "one.npz", kelvin=300.0, seed=1, steps=20)
    other = water(demo_folder, tmp_path / "other.npz", kelvin=300.0, seed=2, steps=20)
    assert not np.array_equal(one["potential_kj_per_mol"], other["potential_kj_per_mol"])


def test_a_lipid_patch_is_measured(demo_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "lipid.json"
    run(demo_folder / "lipid_patch.py", *("--lipid", "DLPC", "--per-leaflet", 2, "--iterations", 5, "--output", output))
    measured = json.loads(output.read_text())
    assert measured["lipid"] == "DLPC"
    assert measured["area_per_lipid_nm2"] == pytest.approx(6.2502 * 6.5506 / 64)
    assert 2.5 < measured["phosphorus_distance_nm"] < 4.0
    assert measured["cohesion_kj_per_mol"] < 0.0
    assert measured["cohesion_error_kj_per_mol"] > 0.0
