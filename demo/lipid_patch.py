#!/usr/bin/env python3
"""Measure how a lipid packs in the bilayer patch of it that the OpenMM wheel ships, and write that as JSON.

From the whole patch: area per lipid and the distance between the planes of phosphorus. From four small clusters cut out
of it, without water and after a short minimisation with the Lipid17 force field: the energy that holds the lipids
together, which is the energy of a cluster less that of the same molecules pulled far apart.

    python lipid_patch.py --lipid DPPC --output lipid_DPPC.json
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

LIPIDS = ("DLPC", "DMPC", "DPPC", "DOPC", "POPC", "DLPE", "POPE")


def lipids_of(patch: app.PDBFile) -> list[app.topology.Residue]:
    """Return the residues of `patch` that are not water."""
    return [residue for residue in patch.topology.residues() if residue.name != "HOH"]


def phosphorus_nm(residues: list[app.topology.Residue], positions_nm: np.ndarray) -> np.ndarray:
    """Return the position of each lipid's phosphorus, shape (lipids, 3)."""
    indices = [next(atom.index for atom in residue.atoms() if atom.element.symbol == "P") for residue in residues]
    return positions_nm[indices]


def cut_cluster(patch: app.PDBFile, centre_nm: np.ndarray, per_leaflet: int) -> app.Modeller:
    """Return the `per_leaflet` lipids of each leaflet whose phosphorus is nearest to the axis through `centre_nm`."""
    residues = lipids_of(patch)
    heads = phosphorus_nm(residues, patch.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    from_axis = np.hypot(*(heads[:, :2] - centre_nm[:2]).T)
    upper = heads[:, 2] > heads[:, 2].mean()
    kept = set()
    for leaflet in (upper, ~upper):
        nearest = sorted(np.flatnonzero(leaflet), key=lambda number: from_axis[number])[:per_leaflet]
        kept.update(residues[number] for number in nearest)
    cluster = app.Modeller(patch.topology, patch.positions)
    cluster.delete([residue for residue in patch.topology.residues() if residue not in kept])
    return cluster


def cohesion_kj_per_mol(cluster: app.Modeller, iterations: int) -> float:
    """Minimise `cluster` for `iterations` steps; return what holds it together, per lipid (negative: bound)."""
    force_field = app.ForceField("amber14/lipid17.xml")
    system = force_field.createSystem(cluster.topology, nonbondedMethod=app.NoCutoff)
    cpu = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), cpu, {"Threads": "1"})
    context.setPositions(cluster.positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=iterations)
    together_nm = context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)

    residues = list(cluster.topology.residues())
    apart_nm = together_nm.copy()
    cells = product(range(-3, 4), repeat=3)  # more of them than a patch has lipids
    for residue, cell in zip(residues, cells, strict=False):
        apart_nm[[atom.index for atom in residue.atoms()]] += 100.0 * np.array(cell)
    # The difference of two large energies, one of them far from the origin: in double precision.
    reference = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    energies = []
    for positions_nm in (together_nm, apart_nm):
        reference.setPositions(positions_nm)
        energy = reference.getState(getEnergy=True).getPotentialEnergy()
        energies.append(energy.value_in_unit(unit.kilojoule_per_mole))
    return (energies[0] - energies[1]) / len(residues)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lipid", choices=LIPIDS, required=True)
    parser.add_argument("--per-leaflet", type=int, default=8, help="lipids of the cluster, in each leaflet")
    parser.add_argument("--iterations", type=int, default=50, help="of the minimiser")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()

    patch = app.PDBFile(str(Path(app.__file__).parent / "data" / f"{options.lipid}.pdb"))
    residues = lipids_of(patch)
    heads = phosphorus_nm(residues, patch.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    upper = heads[:, 2] > heads[:, 2].mean()
    box_nm = np.array(patch.topology.getUnitCellDimensions().value_in_unit(unit.nanometer))
    print(f"{options.lipid}: {len(residues)} lipids in a box of {box_nm[0]:.2f} x {box_nm[1]:.2f} nm", flush=True)
    # The middles of the patch's quarters: far enough from its edges for whole clusters, and from each other.
    middle_nm = heads.mean(axis=0)
    centres_nm = [middle_nm + np.array([x, y, 0.0]) * box_nm / 4 for x, y in product((-1, 1), repeat=2)]
    cohesion = [
        cohesion_kj_per_mol(cut_cluster(patch, centre_nm, options.per_leaflet), options.iterations) for centre_nm in centres_nm
    ]
    measured = {
        "lipid": options.lipid,
        "area_per_lipid_nm2": box_nm[0] * box_nm[1] / (len(residues) / 2),
        "phosphorus_distance_nm": float(heads[upper, 2].mean() - heads[~upper, 2].mean()),
        "cohesion_kj_per_mol": float(np.mean(cohesion)),
        "cohesion_error_kj_per_mol": float(np.std(cohesion, ddof=1) / np.sqrt(len(cohesion))),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(measured, indent=2) + "\n")
    print(f"wrote {options.output}", flush=True)


if __name__ == "__main__":
    main()
