"""Pilotage: a pilot system for high-performance computing."""
