#!/usr/bin/env python3
"""Sample liquid water at one temperature and 1 bar, and write what was seen to an .npz file.

The molecules come from the equilibrated box of TIP3P water that the OpenMM wheel ships, the force field too. The replica
is minimised, equilibrated, and then sampled at constant temperature (Langevin) and pressure (Monte Carlo barostat).

    python water_replica.py --temperature-kelvin 300 --seed 7 --steps 5000 --output water_300K_7.npz
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

# Water is rigid here and has no solute with faster motions, so the middle-scheme integrator is stable at 4 fs.
TIMESTEP_PS = 0.004
PRESSURE_BAR = 1.0
FRICTION_PER_PS = 2.0
CUTOFF_NM = 0.8
# Volume is the slowest variable, so it is moved often; each move costs about one step.
BAROSTAT_EVERY_STEPS = 10
SAMPLE_EVERY_STEPS = 10


def build_simulation(molecules: int, temperature_kelvin: float, seed: int) -> app.Simulation:
    """Return a simulation of `molecules` TIP3P waters in a periodic cube, with positions and velocities set."""
    force_field = app.ForceField("amber14/tip3p.xml")
    box = app.Modeller(app.Topology(), [] * unit.nanometer)
    box.addSolvent(force_field, model="tip3p", numAdded=molecules)
    system = force_field.createSystem(
        box.topology, nonbondedMethod=app.PME, nonbondedCutoff=CUTOFF_NM * unit.nanometer, rigidWater=True
    )
    barostat = openmm.MonteCarloBarostat(PRESSURE_BAR * unit.bar, temperature_kelvin * unit.kelvin, BAROSTAT_EVERY_STEPS)
    barostat.setRandomNumberSeed(seed)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(
        temperature_kelvin * unit.kelvin, FRICTION_PER_PS / unit.picosecond, TIMESTEP_PS * unit.picoseconds
    )
    integrator.setRandomNumberSeed(seed)
    # One thread: a replica is a single-core task, and the pilot fills the other cores with other replicas.
    platform = openmm.Platform.getPlatformByName("CPU")
    simulation = app.Simulation(box.topology, system, integrator, platform, {"Threads": "1"})
    simulation.context.setPositions(box.positions)
    simulation.minimizeEnergy(maxIterations=40)
    simulation.context.setVelocitiesToTemperature(temperature_kelvin * unit.kelvin, seed)
    return simulation


def mass_in_grams(system: openmm.System) -> float:
    """Return the mass of all particles of `system` in grams."""
    daltons = sum(system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(system.getNumParticles()))
    return float(daltons) * 1.66053906660e-24


def sample(simulation: app.Simulation, steps: int, molecules: int) -> dict[str, np.ndarray]:
    """Run `steps` steps and return the time series of potential energy, volume and density."""
    mass_g = mass_in_grams(simulation.system)
    energies, volumes = [], []
    samples = steps // SAMPLE_EVERY_STEPS
    for number in range(1, samples + 1):
        simulation.step(SAMPLE_EVERY_STEPS)
        state = simulation.context.getState(getEnergy=True)
        energies.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / molecules)
        volumes.append(state.getPeriodicBoxVolume().value_in_unit(unit.nanometer**3))
        if number * 4 // samples > (number - 1) * 4 // samples:
            print(f"{100 * number // samples:3d} % of {steps * TIMESTEP_PS:.1f} ps", flush=True)
    volume_nm3 = np.array(volumes)
    return {
        "time_ps": np.arange(1, samples + 1) * SAMPLE_EVERY_STEPS * TIMESTEP_PS,
        "potential_kj_per_mol": np.array(energies),
        "volume_nm3": volume_nm3,
        "density_g_per_cm3": mass_g / (volume_nm3 * 1e-21),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--temperature-kelvin", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True, help="of velocities, thermostat and barostat")
    parser.add_argument("--steps", type=int, default=5000, help=f"sampled, of {1000 * TIMESTEP_PS:.0f} fs each")
    parser.add_argument("--equilibration-steps", type=int, default=1250, help="before the first sample")
    parser.add_argument("--molecules", type=int, default=216)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()

    began = time.perf_counter()
    print(f"{options.molecules} TIP3P waters at {options.temperature_kelvin:g} K, seed {options.seed}", flush=True)
    simulation = build_simulation(options.molecules, options.temperature_kelvin, options.seed)
    print(f"built and minimised in {time.perf_counter() - began:.1f} s", flush=True)
    simulation.step(options.equilibration_steps)
    print(f"equilibrated for {options.equilibration_steps * TIMESTEP_PS:.1f} ps", flush=True)
    series = sample(simulation, options.steps, options.molecules)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez(options.output, temperature_kelvin=options.temperature_kelvin, seed=options.seed, **series)
    print(f"wrote {options.output} after {time.perf_counter() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
