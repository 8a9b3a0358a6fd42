"""Workloads for simulations: described in TOML, or recorded in a session."""
